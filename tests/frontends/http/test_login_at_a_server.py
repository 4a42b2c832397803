"""The pages of logging in before the application of a real server: what each says, the other understands."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import pytest

from spalloc_server.accounts.attempts import FREE_OF_PAIR
from spalloc_server.application.command_kinds import Command
from spalloc_server.application.commands import ListJobs
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.http.answers import ASGIApp, Receive, Scope, Send, refusal, text
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.authentication import Authentication
from spalloc_server.frontends.http.grants import Grants
from spalloc_server.frontends.local_api import Behalf
from tests.application.house import SECRET, WEB, House
from tests.frontends.http.asgi import Reply, call, send_form
from tests.frontends.http.fake_accounts import FakeServer
from tests.frontends.http.signing_in import LOGIN, LOGOUT, PERFORM, ROOT, basic_of, cookie_of, csrf_in, front, log_in

T = TypeVar("T")

BEARER = ("authorization", f"Bearer {SECRET}")


class Server(FakeServer):
    """An `Asking` that asks an application as the local API socket does."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        application = self.house.application
        try:
            caller = WEB
            if behalf is not None:
                who = {name: getattr(behalf, name) for name in ("session", "token", "account", "address", "stamp")}
                caller = application.caller("web", **who)
            if command.waits:
                answer = (await application.ask(caller, command)).value
            else:
                answer = application.perform(caller, command).value
        except SpallocServerError as error:
            raise RefusedError(error.code, str(error)) from error
        return msgspec.json.decode(msgspec.json.encode(answer), type=kind)


@pytest.fixture
async def server() -> Server:
    return Server(await House.built())


@pytest.fixture
async def app(server: Server) -> ASGIApp:
    return front(server)


async def jobs(server: Server, reply: Reply) -> object:
    """Ask for jobs on behalf of whom the front process has found."""
    behalf = msgspec.convert(reply.json["behalf"], Behalf)
    return await server.ask(ListJobs(), object, behalf=behalf)


async def test_bob_is_bob_by_session_password_and_token(app: ASGIApp, server: Server) -> None:
    value, _ = await log_in(app, "bob", "secret")
    page = await call(app, "GET", LOGIN, [BEARER])
    for header in (cookie_of(value), basic_of("bob", "secret"), BEARER, cookie_of(page.session)):
        reply = await call(app, "GET", ROOT, [header])
        assert (reply.json["name"], reply.json["role"]) == ("bob", "user")
        assert await jobs(server, reply)


async def test_a_session_is_over_when_it_is_logged_out_or_its_token_revoked(app: ASGIApp, server: Server) -> None:
    value, csrf = await log_in(app, "bob", "secret")
    look = await call(app, "GET", ROOT, [cookie_of(value)])
    assert (await send_form(app, LOGOUT, {"_csrf": csrf}, [cookie_of(value)])).status == 302
    assert (await call(front(server), "GET", ROOT, [cookie_of(value)])).status == 401
    page = await call(app, "GET", LOGIN, [BEARER])
    by_token = await call(app, "GET", ROOT, [cookie_of(page.session)])
    (token,) = server.house.accounts.tokens.rows()
    server.house.accounts.tokens.revoke(token.id)
    assert (await call(front(server), "GET", ROOT, [cookie_of(page.session)])).status == 401
    for over in (look, by_token):  # also where a front process still remembers it
        with pytest.raises(RefusedError, match="log in again"):
            await jobs(server, over)


@pytest.mark.parametrize("change", ["password", "same password again", "new name", "disabled", "deleted", "made anew"])
async def test_a_pair_that_is_remembered_is_no_good_once_the_account_is_another(server: Server, change: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await server.ask(ListJobs(), object, behalf=scope["state"]["caller"].behalf)
        except RefusedError as error:
            await refusal(error)(scope, receive, send)
        else:
            await text(200, "jobs")(scope, receive, send)

    door, accounts, hashed = (
        Authentication(app, server, Grants(server)),
        server.house.accounts,
        server.house.hasher.hash,
    )
    bob = basic_of("bob", "secret")
    assert [(await call(door, "GET", ROOT, [bob])).status for _ in range(2)] == [200, 200]
    changes = {"password": {"password": hashed("new")}, "new name": {"new_name": "rob"}, "disabled": {"enabled": False}}
    if change in changes:
        accounts.change("bob", **changes[change])  # type: ignore[arg-type]
    elif change == "same password again":
        accounts.change("bob", password="a hash with another salt")
        server.house.hasher.verify = lambda *_: True  # type: ignore[method-assign]
    else:
        accounts.delete("bob")
    if change == "made anew":
        accounts.create("bob", "user", password=hashed("secret"))
    right = {"same password again", "made anew"}
    assert (await call(door, "GET", ROOT, [bob])).status == 401
    assert (await call(door, "GET", ROOT, [bob])).status == (200 if change in right else 401)


async def test_a_cookie_is_believed_by_any_front_process_of_the_server(app: ASGIApp, server: Server) -> None:
    value, csrf = await log_in(app, "bob", "secret")
    for other in (front(server), front(server)):
        reply = await call(other, "POST", ROOT, [cookie_of(value), ("x-csrf-token", csrf)])
        assert (reply.status, reply.json["name"]) == (200, "bob")


async def test_many_wrong_passwords_are_told_to_wait_without_a_cookie(app: ASGIApp) -> None:
    replies = []
    for _ in range(FREE_OF_PAIR + 1):
        page = await call(app, "GET", LOGIN)
        fields = {"_csrf": csrf_in(page), "username": "bob", "password": "wrong"}
        replies.append(await send_form(app, PERFORM, fields, [cookie_of(page.session)]))
    assert [reply.status for reply in replies] == [401] * FREE_OF_PAIR + [429]
    assert "try again in" in replies[-1].json["message"]
    assert {reply.json["message"] for reply in replies[:-1]} == {"computer says no"}
    assert [reply.session for reply in replies] == [None] * len(replies)
    assert (await call(app, "GET", ROOT, [basic_of("bob", "secret")])).status == 429
    assert (await call(app, "GET", ROOT, [basic_of("bob", "secret")], client=("198.51.100.7", 1))).status == 200
