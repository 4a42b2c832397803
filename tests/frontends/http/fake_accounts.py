"""A server as the front process sees it: accounts, tokens and sessions in memory, and what it was asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec

from spalloc_server.application.account_commands import (
    CheckPassword,
    CheckSession,
    CheckToken,
    Grant,
    LogIn,
    LogInWithToken,
    LogOut,
    SigningKey,
    SigningKeys,
)
from spalloc_server.application.command_kinds import Command
from spalloc_server.config.options import Web
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebSettings
from spalloc_server.frontends.local_api import Behalf

T = TypeVar("T")

KEYS = [SigningKey(id="k1", secret="11" * 32)]


class FakeServer:
    """An `Asking`."""

    def __init__(self, **web: Any) -> None:
        self.settings = WebSettings(web=Web(**web), version="1.2.3", state="/var/lib/hall.state")
        self.keys = list(KEYS)
        self.passwords = {"alice": "wonder land", "bob": "b", "zoë": "pä:ß"}
        self.roles = {"alice": "user", "bob": "reader", "zoë": "user"}
        self.tokens = {"sesame-token": "alice"}
        self.sessions: dict[str, str] = {}
        self.tokens_of_sessions: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.commands: list[Command] = []
        self.failing: Exception | None = None
        """What every command but that for keys ends with."""
        self.going_on = asyncio.Event()
        """Commands wait for it, but that for keys."""
        self.going_on.set()
        self._more = asyncio.Event()

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        self.asked[type(command).__name__] += 1
        self.commands.append(command)
        self._more.set()
        answer = self._answer(command)
        if not isinstance(command, SigningKeys):
            await self.going_on.wait()
            if self.failing is not None:
                raise self.failing
        if isinstance(answer, Exception):
            raise answer
        return msgspec.convert(msgspec.to_builtins(answer), kind)

    async def until_asked(self, command: str) -> None:
        """Wait until this has been asked."""
        while not self.asked[command]:
            self._more.clear()
            await self._more.wait()

    def _answer(self, command: Command) -> Any:
        no = RefusedError("bad-credentials", "wrong name, password, token or session")
        match command:
            case SigningKeys():
                return self.keys
            case LogIn(name=name, password=password):
                return self._begin(name) if self.passwords.get(name) == password else no
            case CheckPassword(name=name, password=password):
                return self._grant(name) if self.passwords.get(name) == password else no
            case CheckToken(secret=secret):
                return self._grant(self.tokens[secret], token=f"t{len(secret)}") if secret in self.tokens else no
            case LogInWithToken(secret=secret):
                return self._begin(self.tokens[secret], f"t{len(secret)}") if secret in self.tokens else no
            case CheckSession(session=session):
                if session not in self.sessions:
                    return no
                return self._grant(self.sessions[session], session=session, token=self.tokens_of_sessions.get(session))
            case LogOut(session=session):
                self.sessions.pop(session, None)
                return None
        raise AssertionError(command)

    def _begin(self, account: str, token: str | None = None) -> Grant:
        session = f"s{len(self.commands):032x}"
        self.sessions[session] = account
        if token is not None:
            self.tokens_of_sessions[session] = token
        return self._grant(account, session=session, token=token)

    def _grant(self, account: str, **more: str | None) -> Grant:
        return Grant(account=account, role=self.roles[account], **more)

    def is_away(self) -> None:
        self.failing = ServerAwayError("the server is away")

    async def changed(self, key: str, since: int, seconds: float) -> int:
        raise NotImplementedError

    def follow(self, key: str) -> AsyncIterator[int]:
        raise NotImplementedError
