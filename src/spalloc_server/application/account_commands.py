"""What concerns accounts: who somebody is, and what operators do with accounts and tokens.

Theory of operation. A front process asks who its client is (`LogIn`, `CheckPassword`, `CheckSession`, `CheckToken`),
and after that says for whom a request is by the session, account or token (`frontends.local_api.Behalf`). Which role an
account has is looked up with each request, so that a change holds at once. Passwords and tokens are stored as hashes,
and hashes never leave the server.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.application.caller import Permission
from spalloc_server.application.command_kinds import Command

__all__ = ["AccountView", "ChangeAccount", "CheckPassword", "CheckSession", "CheckToken", "CreateAccount"]
__all__ += ["CreateToken", "DeleteAccount", "Grant", "ListAccounts", "ListTokens", "LogIn", "LogInWithToken", "LogOut"]
__all__ += ["NewToken", "RevokeToken"]
__all__ += ["ShowAccount", "SigningKey", "SigningKeys", "TokenView"]

AccountName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Password: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
Secret: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


# -------------------------------------------------------------------- answers


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody is, now that this has been checked."""

    account: str
    role: str
    """Of `application.caller.ROLES`: what the account and, with a token, its scope permit together."""
    session: str | None = None
    """Id of the session; not of `CheckPassword` and `CheckToken`."""
    token: str | None = None
    """Id of the token, or of the one that the session began with."""
    stamp: str | None = None
    """Of `CheckPassword`: stands for the password, which is another one after a change (`Behalf`)."""


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that front processes sign cookies with."""

    id: str
    secret: str
    """Hexadecimal, 32 bytes."""


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """An account, as operators see it."""

    number: int
    """Never used again for another account."""
    name: str
    role: str
    has_password: bool
    enabled: bool = True
    locked: bool = False
    """Because of wrong passwords; it ends by itself."""
    last_log_in: float | None = None
    """Seconds since the Unix epoch, like all times."""
    last_failure: float | None = None


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token, as its owner and operators see it: never the secret."""

    id: str
    account: str
    role: str
    """The most that it permits; less where the account may less."""
    note: str
    created_at: float
    expires_at: float
    last_used_at: float | None = None


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that has just been made; its secret is told this once."""

    secret: str
    view: TokenView


# -------------------------------------------------------------------- who somebody is


class Ask(Command, frozen=True):
    """The base of what front processes ask about their clients."""

    permission = Permission.AUTHENTICATE
    audited = False
    confidential = True


class LogIn(Ask, frozen=True, tag="log in"):
    """Begin a session; `Grant`. `CredentialsError` where that fails, without a word about what is wrong.

    `BusyError` after too many wrong passwords from there, see `accounts.attempts`.
    """

    waits = True

    name: str
    password: str
    address: str | None = None


class LogInWithToken(Ask, frozen=True, tag="log in with token"):
    """Begin a session that permits what the token does, and ends with it at the latest: `Grant`.

    `CredentialsError` where the token is not good.
    """

    secret: str
    address: str | None = None


class LogOut(Ask, frozen=True, tag="log out"):
    """End a session; harmless where there is none."""

    even_if_read_only = True
    repeatable = True

    session: Secret


class CheckPassword(Ask, frozen=True, tag="check password"):
    """`Grant` without a session, or an error as `LogIn` has it."""

    changes = False  # but counts and times, which are stored with whatever is stored next
    repeatable = True
    waits = True

    name: str
    password: str
    address: str | None = None


class CheckSession(Ask, frozen=True, tag="check session"):
    """`Grant` of a session, or `CredentialsError` where it is over."""

    changes = False  # but the time of its use, likewise
    repeatable = True

    session: Secret


class CheckToken(Ask, frozen=True, tag="check token"):
    """`Grant` with the id of the token, or `CredentialsError`."""

    changes = False  # but the time of its use, likewise
    repeatable = True

    secret: str
    address: str | None = None


class SigningKeys(Ask, frozen=True, tag="signing keys"):
    """List of `SigningKey`, the one to sign with first. It is made when it is first asked for."""

    even_if_read_only = True
    repeatable = True


# -------------------------------------------------------------------- what operators do


class ListAccounts(Command, frozen=True, tag="list accounts"):
    """List of `AccountView`, by name."""

    permission = Permission.STOP
    changes = False
    repeatable = True
    audited = False


class OfAccount(Command, frozen=True):
    """The base of what is done with one account; only administrators may."""

    permission = Permission.STOP

    name: AccountName


class ShowAccount(OfAccount, frozen=True, tag="show account"):
    """`AccountView`."""

    changes = False
    repeatable = True
    audited = False


class WithPassword(OfAccount, frozen=True):
    """The base of what may set a password, which the log never tells."""

    waits = True

    password: Password | None = None

    def told(self) -> dict[str, Any]:
        """Return what the audit tells of it: whether there is a password, and not which."""
        return {**super().told(), "password": self.password is not None}


class CreateAccount(WithPassword, frozen=True, tag="create account"):
    """`AccountView` of a new account; without a password it can only be used by tokens."""

    role: str = "user"
    enabled: bool = True


class ChangeAccount(WithPassword, frozen=True, tag="change account"):
    """`AccountView` after what is not None has been changed. `unlock` forgets wrong passwords.

    A new password, and `enabled` false, end the account's sessions. Jobs keep the name of their owner.
    """

    new_name: AccountName | None = None
    role: str | None = None
    enabled: bool | None = None
    unlock: bool = False


class DeleteAccount(OfAccount, frozen=True, tag="delete account"):
    """Delete an account with its sessions and tokens; its jobs go on by their leases."""


class CreateToken(OfAccount, frozen=True, tag="create token"):
    """`NewToken` of an account."""

    confidential = True

    role: str | None = None
    """The most that it permits; None for all that the account may."""
    days: Annotated[float, Meta(gt=0, le=3660)] = 365.0
    note: Annotated[str, Meta(max_length=256)] = ""


class ListTokens(Command, frozen=True, tag="list tokens"):
    """List of `TokenView`, of one account or of all, the newest first."""

    permission = Permission.STOP
    changes = False
    repeatable = True
    audited = False

    name: AccountName | None = None


class RevokeToken(Command, frozen=True, tag="revoke token"):
    """`TokenView` of a token that does not work any more."""

    permission = Permission.STOP
    even_if_read_only = True

    id: Secret
