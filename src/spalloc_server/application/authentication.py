"""Who somebody is, and what is done with accounts: the commands of `account_commands`.

Theory of operation. `caller` makes the `Caller` of a session, token or account, with each request: so it looks into a
few dicts and no further. What the caller may is what the account's role permits now, the token's role permits, and
`max_role` permits. `ACCOUNTS` has a function for each command that is done at once.

A command that hashes a password is *prepared* first, which waits; then what is left is done at once, as any command is.
While a name and a password are being checked, whoever comes with the same ones from the same network waits for that
check, too. So twenty scripts that a user starts at once count as one attempt, and cost one hash.
Whoever fails to log in is told the same, after the same work, whatever was wrong (`passwords`, `accounts.attempts`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from spalloc_server.accounts.accounts import Accounts, stamp_of
from spalloc_server.application import account_commands as commands
from spalloc_server.application.caller import ROLES, Caller, least
from spalloc_server.application.command_kinds import Command
from spalloc_server.application.passwords import Passwords
from spalloc_server.config.hosts import network_of
from spalloc_server.controller import Controller
from spalloc_server.core.model import TokenRow, UserRow
from spalloc_server.core.transitions import set_fact
from spalloc_server.errors import BusyError, CredentialsError, RequestError
from spalloc_server.log.logger import Complaints

__all__ = ["ACCOUNTS", "HASHING", "Authentication", "accounts_of"]

MAX_DELAYED = 256
"""Attempts to log in that may wait at the same time because of wrong passwords before them. One more is refused."""

LONGEST_NAME = 256
"""Characters of a name with which somebody logs in; a longer one is nobody's."""

LONGEST_PASSWORD = 1024
"""Characters of such a password, likewise."""

HASHING = (commands.LogIn, commands.CheckPassword, commands.CreateAccount, commands.ChangeAccount)
"""What may hash a password, so that it is prepared."""

WRONG = "computer says no"
"""What everybody is told who fails to log in, in words that users of the Java server know."""


def accounts_of(core: Controller) -> Accounts:
    """Return new accounts, whose rows are stored with those of `core`."""
    store = partial(set_fact, core.state)
    return Accounts(core.state.outbox, store, clock=core.state.clock, random=secrets.token_bytes)


class _Check:
    """A check of a name and a password, and how many wait for it; it ends with the last of them."""

    def __init__(self, checking: Coroutine[Any, Any, UserRow]) -> None:
        self.task = asyncio.create_task(checking)
        self.askers = 0
        # Where nobody waits any more, nobody asks how it ended, and asyncio would complain
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())


class Authentication:
    """Knows who is who.

    Args:
        accounts: those there are.
        passwords: hash and compare passwords.
    """

    def __init__(self, accounts: Accounts, passwords: Passwords | None = None) -> None:
        self.accounts = accounts
        self.passwords = passwords or Passwords()
        self.max_role = "user"
        """The most that any account may, by whatever door; may be assigned anew."""
        self._delayed = 0
        self._checks: dict[tuple[str, str, str], _Check] = {}
        """By name, network and password, the checks that are under way."""
        self._complaints = Complaints()

    def caller(
        self,
        door: str,
        *,
        session: str | None,
        token: str | None,
        account: str | None,
        address: str | None,
        stamp: str | None = None,
    ) -> Caller:
        """Return who comes with one of session, token and account name; `stamp` is of the password that was checked.

        Raises:
            CredentialsError: it is nobody's, or no more.
        """
        found: tuple[UserRow, TokenRow | None] | None
        if session is not None:
            found = self.accounts.of_session(session)
        elif token is not None:
            found = self.accounts.of_token(token)
        else:
            found = None if (named := self.accounts.of_name(account or "", stamp)) is None else (named, None)
        if found is None:
            what = "session" if session is not None else "token" if token is not None else "account"
            raise CredentialsError(f"there is no such {what}, or not any more: log in again")
        permissions = ROLES.get(self._role(*found), frozenset[Any]())
        return Caller(
            door=door, name=found[0].name, address=address, verified=True, permissions=permissions, session=session
        )

    def _role(self, row: UserRow, token: TokenRow | None) -> str:
        return least(row.role, None if token is None else token.role, self.max_role)

    def grant(self, row: UserRow, token: TokenRow | None = None, session: str | None = None) -> commands.Grant:
        """Return what an account is granted now."""
        role, token_id = self._role(row, token), None if token is None else token.id
        return commands.Grant(account=row.name, role=role, session=session, token=token_id)

    def view(self, row: UserRow) -> commands.AccountView:
        """Return what operators see of an account."""
        return commands.AccountView(
            number=row.number,
            name=row.name,
            role=row.role,
            has_password=row.password is not None,
            enabled=row.enabled,
            locked=self.accounts.attempts.is_locked(row.name),
            last_log_in=row.last_log_in,
            last_failure=row.last_failure,
        )

    def token_view(self, row: TokenRow) -> commands.TokenView:
        """Return what operators see of a token."""
        account = self.accounts.numbered(row.account)
        return commands.TokenView(
            id=row.id,
            account=account.name,
            role=row.role or account.role,
            note=row.note,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.used_at,
        )

    # ---------------------------------------------------------------- what waits

    async def prepare(self, command: Command) -> Callable[[], Any]:
        """Do what takes long of a command that hashes a password; return what does the rest, to be called at once.

        Raises:
            CredentialsError: the password is wrong.
            BusyError: too many passwords are being checked, or too many from there were wrong.
            RequestError: it makes no sense.
        """
        match command:
            case commands.LogIn():
                row = await self._checked(command)
                return lambda: self.grant(row, session=self.accounts.sessions.begin(row.number))
            case commands.CheckPassword():
                row = await self._checked(command)
                return lambda: msgspec.structs.replace(self.grant(row), stamp=stamp_of(row))
            case commands.CreateAccount():
                self.accounts.check_name(command.name)
                _check_role(command.role)
                hashed = await self._hashed(command.password)
                return lambda: self.view(
                    self.accounts.create(command.name, command.role, password=hashed, enabled=command.enabled)
                )
            case commands.ChangeAccount():
                self.accounts.named(command.name)
                _check_role(command.role)
                return partial(self._change, command, await self._hashed(command.password))
            case _:
                raise TypeError(f"{type(command).__name__} does not wait for a password")

    def _change(self, command: commands.ChangeAccount, hashed: str | None) -> commands.AccountView:
        names = ("new_name", "role", "enabled", "unlock")
        changes = {name: getattr(command, name) for name in names}
        return self.view(self.accounts.change(command.name, password=hashed, **changes))

    async def _hashed(self, password: str | None) -> str | None:
        return None if password is None else await self.passwords.hash(password)

    async def _checked(self, command: commands.LogIn | commands.CheckPassword) -> UserRow:
        """Return the account whose name and password these are, by a check that others may have begun."""
        key = command.name, network_of(command.address), command.password
        check = self._checks.get(key)
        if check is None or check.task.done():
            check = self._checks[key] = _Check(self._check(command))
        check.askers += 1
        try:
            return await asyncio.shield(check.task)
        finally:
            check.askers -= 1
            if not check.askers:
                check.task.cancel()
                if self._checks.get(key) is check:
                    del self._checks[key]

    async def _check(self, command: commands.LogIn | commands.CheckPassword) -> UserRow:
        name, password = command.name, command.password
        if len(name) > LONGEST_NAME or len(password) > LONGEST_PASSWORD:
            name, password = "", ""
        attempt = self.accounts.try_password(name, command.address)
        try:
            await self._delay(attempt.wait)
            row = self.accounts.of_name(name)
            stored = None if row is None else row.password
            right, rehashed = await self.passwords.compare(stored, password, known=attempt.known)
        except BaseException:
            self.accounts.attempts.dropped(attempt)
            raise
        now = self.accounts.of_name(name)  # meanwhile it may have been changed
        if now is None or not right or now.password != stored:
            meant = self.accounts.wrong(attempt)
            self._complaints.complain(
                "wrong password",
                address=command.address,
                account=None if meant is None else meant.name,  # no other name: people type passwords there
            )
            raise CredentialsError(WRONG)
        self.accounts.right(attempt, now, rehashed=rehashed)
        return now

    async def _delay(self, seconds: float) -> None:
        if not seconds:
            return
        if self._delayed >= MAX_DELAYED:
            raise BusyError("too many wrong passwords come in at present: try again in a minute")
        self._delayed += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed -= 1


def _check_role(role: str | None) -> None:
    if role is not None and role not in ROLES:
        raise RequestError(f"there is no role {role!r}; there are {', '.join(ROLES)}")


def _check_session(who: Authentication, command: commands.CheckSession) -> commands.Grant:
    if (found := who.accounts.of_session(command.session)) is None:
        raise CredentialsError("there is no such session, or not any more: log in again")
    return who.grant(*found, session=command.session)


def _of_secret(who: Authentication, secret: str) -> tuple[UserRow, TokenRow]:
    if (found := who.accounts.of_secret(secret)) is None:
        raise CredentialsError("this token is nobody's, or not any more")
    return found


def _log_in_with_token(who: Authentication, command: commands.LogInWithToken) -> commands.Grant:
    row, token = _of_secret(who, command.secret)
    return who.grant(row, token, session=who.accounts.sessions.begin(row.number, token.id))


def _signing_keys(who: Authentication, _: commands.SigningKeys) -> list[commands.SigningKey]:
    return [commands.SigningKey(id=name, secret=secret) for name, secret in who.accounts.signing_keys()]


def _create_token(who: Authentication, command: commands.CreateToken) -> commands.NewToken:
    _check_role(command.role)
    account = who.accounts.named(command.name)
    secret, row = who.accounts.tokens.create(account.number, role=command.role, days=command.days, note=command.note)
    return commands.NewToken(secret=secret, view=who.token_view(row))


def _list_tokens(who: Authentication, command: commands.ListTokens) -> list[commands.TokenView]:
    account = None if command.name is None else who.accounts.named(command.name).number
    return [who.token_view(row) for row in who.accounts.tokens.rows(account)]


ACCOUNTS: Mapping[type[Command], Callable[[Authentication, Any], Any]] = {
    commands.LogOut: lambda who, c: who.accounts.sessions.end(c.session),
    commands.LogInWithToken: _log_in_with_token,
    commands.CheckSession: _check_session,
    commands.CheckToken: lambda who, c: who.grant(*_of_secret(who, c.secret)),
    commands.SigningKeys: _signing_keys,
    commands.ListAccounts: lambda who, _: [who.view(row) for row in who.accounts.rows()],
    commands.ShowAccount: lambda who, c: who.view(who.accounts.named(c.name)),
    commands.DeleteAccount: lambda who, c: who.accounts.delete(c.name),
    commands.CreateToken: _create_token,
    commands.ListTokens: _list_tokens,
    commands.RevokeToken: lambda who, c: who.token_view(who.accounts.tokens.revoke(c.id)),
}
"""All but what hashes a password."""
