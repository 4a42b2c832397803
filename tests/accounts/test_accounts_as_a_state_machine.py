"""Accounts against a model that knows nothing of rows: whoever should get in does, nobody else, across any restarts."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spalloc_server.errors import BusyError, NoSuchError, RequestError
from tests.accounts.house import DAY, HOUR, House

NAMES = st.sampled_from(["ann", "bob", "eva"])
SESSION, GRACE = 7 * DAY, HOUR


class AccountsMachine(RuleBasedStateMachine):
    """The model: accounts by name, and what each session and token leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.known: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.numbers: set[int] = set()

    @property
    def accounts(self) -> Any:
        return self.house.accounts

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        try:
            row = self.accounts.create(name, "user", password="x")
        except RequestError:
            assert name in self.known
            return
        assert name not in self.known
        assert row.number not in self.numbers
        self.numbers.add(row.number)
        self.known[name] = {"number": row.number, "enabled": True}

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        try:
            self.accounts.delete(name)
        except NoSuchError:
            assert name not in self.known
            return
        number = self.known.pop(name)["number"]
        for dead in [key for key, each in self.sessions.items() if each["account"] == number]:
            del self.sessions[dead]
        for dead in [key for key, each in self.tokens.items() if each["account"] == number]:
            del self.tokens[dead]

    @rule(name=NAMES, change=st.sampled_from(["enable", "disable", "password", "rename"]), new=NAMES)
    def change(self, name: str, change: str, new: str) -> None:
        if name not in self.known or (change == "rename" and new in self.known):
            return
        account = self.known[name]
        match change:
            case "rename":
                self.accounts.change(name, new_name=new)
                self.known[new] = self.known.pop(name)
            case "password":
                self.accounts.change(name, password="y")
            case _:
                self.accounts.change(name, enabled=change == "enable")
                account["enabled"] = change == "enable"
        if change == "password" or not account["enabled"]:
            self.sessions = {key: each for key, each in self.sessions.items() if each["account"] != account["number"]}

    @rule(name=NAMES, right=st.booleans(), address=st.sampled_from(["10.0.0.1", "10.0.0.2"]))
    def log_in(self, name: str, right: bool, address: str) -> None:
        try:
            attempt = self.accounts.try_password(name, address)
        except BusyError:
            return
        row = self.accounts.of_name(name)
        assert (row is not None) == (name in self.known and self.known[name]["enabled"])
        if row is None or not right:
            self.accounts.wrong(attempt)
            return
        self.accounts.right(attempt, row)
        session = self.accounts.sessions.begin(row.number)
        assert session not in self.sessions
        self.sessions[session] = {"account": row.number, "used": self.house.now}

    @rule(name=NAMES, days=st.sampled_from([0.5, 3.0, 30.0]))
    def make_token(self, name: str, days: float) -> None:
        if name in self.known:
            number = self.known[name]["number"]
            secret, _ = self.accounts.tokens.create(number, role=None, days=days, note="")
            self.tokens[secret] = {"account": number, "ends": self.house.now + days * DAY}

    @rule(data=st.data())
    def use_a_session(self, data: st.DataObject) -> None:
        if self.sessions:
            session = data.draw(st.sampled_from(sorted(self.sessions)))
            if self.accounts.of_session(session) is not None:
                self.sessions[session]["used"] = self.house.now

    @rule(data=st.data(), working=st.booleans())
    def have_jobs(self, data: st.DataObject, working: bool) -> None:
        if self.sessions:
            session = data.draw(st.sampled_from(sorted(self.sessions)))
            (self.house.jobs.add if working else self.house.jobs.discard)(session)

    @rule(data=st.data())
    def log_out(self, data: st.DataObject) -> None:
        if self.sessions:
            session = data.draw(st.sampled_from(sorted(self.sessions)))
            self.accounts.sessions.end(session)
            del self.sessions[session]

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        if rows := self.accounts.tokens.rows():
            row = data.draw(st.sampled_from(rows))
            self.accounts.tokens.revoke(row.id)
            self.tokens = {
                secret: each for secret, each in self.tokens.items() if self.accounts.tokens.with_secret(secret)
            }

    @rule(seconds=st.sampled_from([60.0, HOUR, DAY, 8 * DAY]))
    def wait(self, seconds: float) -> None:
        self.house.now += seconds

    @rule()
    def forget_what_is_over(self) -> None:
        self.accounts.sessions.sweep()
        self.accounts.tokens.sweep()

    @rule(moved=st.sampled_from([0.0, 0.0, 500 * DAY, -3 * DAY]))
    def restart(self, moved: float) -> None:
        self.house.now += moved
        assert self.house.restart(moved) == []
        for each in self.sessions.values():
            each["used"] += moved
        for each in self.tokens.values():
            each["ends"] += moved

    @invariant()
    def who_should_get_in_does_and_nobody_else(self) -> None:
        now = self.house.now
        enabled = {each["number"] for each in self.known.values() if each["enabled"]}
        rows = {row.id: row for row in self.accounts.sessions.rows()}
        for session, each in self.sessions.items():
            idle = now - each["used"]
            if idle <= SESSION or (session in self.house.jobs and session in rows):
                assert session in rows
                assert rows[session].account == each["account"]
                assert rows[session].used_at <= each["used"] < rows[session].used_at + GRACE
            elif idle > SESSION + GRACE and session not in self.house.jobs:
                assert self.accounts.of_session(session) is None
        for gone in rows.keys() - self.sessions.keys():
            raise AssertionError(f"session {gone} should be over")
        for secret, each in self.tokens.items():
            works = self.accounts.of_secret(secret)
            assert (works is not None) == (each["account"] in enabled and now < each["ends"])
            assert works is None or works[0].number == each["account"]


TestAccounts = AccountsMachine.TestCase
