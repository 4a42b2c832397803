"""The local API socket: where it is, and what its lines hold.

Theory of operation. A connection to the Unix socket `<state>.sock` carries one JSON object a line, in both directions.
A line can be read and written with any tool, its end is found without counting, and JSON never has a newline of its
own; so lines, and no lengths before them. The client's first line is a `Hello`, which the server answers with its own.
Then each line is a `Request` with a number that the client has chosen. Any number of them may be under way, and answers
come in the order in which they are ready:

    C: {"hello": {"protocol": 1, "version": "1.4", "program": "spalloc-admin"}}
    S: {"hello": {"protocol": 1, "version": "1.4", "program": "spalloc_server", "capabilities": ["commands"]}}
    C: {"id": 1, "command": {"command": "kill", "job_id": 7, "reason": "night"}}
    C: {"id": 2, "command": {"command": "subscribe", "keys": ["job/8", "machines"]}}
    S: {"id": 2, "return": {"job/8": 17, "machines": 21}}
    S: {"id": 1, "return": null}
    S: {"changed": ["job/8"]}

An error is `{"id": 3, "error": {"code": ..., "text": ..., "again": ...}}`. A line `{"exception": "..."}` ends the
connection: none of its requests that have no answer will get one. `again` says that nothing was done, and that the same
may be sent again. A second hello of the server says that another process goes on with the connection: whatever was
subscribed to still is, and may have changed.

Commands are those of `application.commands`, and the ones below, which are about the connection. With `for`, a request
is one of somebody else, whose roles say what is permitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server import __version__
from spalloc_server.application.commands import AnyCommand, Key, Kind
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.errors import RequestError, SpallocServerError

__all__ = [
    "FRONT_PROGRAM",
    "MAX_LINE",
    "PROTOCOL",
    "AnyRequest",
    "Behalf",
    "Hello",
    "Request",
    "Subscribe",
    "Unsubscribe",
    "Wait",
    "answer",
    "change",
    "error",
    "greeting",
    "is_front",
    "key_in",
    "last_word",
    "socket_path",
    "stranger",
    "subscribing",
    "text_of",
]

PROTOCOL: Final = 1
"""Version of what the lines hold. New commands and fields need no new version, other meanings of old ones do."""

FRONT_PROGRAM: Final = "spalloc_web"
"""What a front process calls itself in its hello."""

CAPABILITIES = ("commands", "subscriptions", "for", "accounts", "once", "web")
"""What a client may rely on besides the protocol's version: nothing is ever taken out of this."""

MAX_LINE = 2**20
"""Bytes of a request, its newline apart. A longer one ends the connection."""

MAX_KEYS = 1000
"""Keys that one request may subscribe to, and one connection."""

MAX_KEYS_OF_FRONT = 100_000
"""Keys that the connection of a front process may subscribe to: one for each job for which somebody waits."""

MAX_WAIT_SECONDS = 60.0
"""The longest that one request may wait for a change."""

_encode = msgspec.json.Encoder().encode
_PLURALS = {"jobs": Key(Kind.JOB), "machines": Key(Kind.MACHINE), "server": Key(Kind.SERVER)}


def socket_path(state: Path) -> Path:
    """Return where the server of this state listens: beside the state itself, whatever links lead to it."""
    state = state.resolve()
    return state.with_name(f"{state.name}.sock")


class Hello(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What each side says of itself first."""

    protocol: int
    version: str
    """Of its program."""
    program: str
    capabilities: tuple[str, ...] = ()
    epoch: str | None = None
    """Of the server: another one for each process, at random."""


class Behalf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody else, for whom a request is.

    It is an account, by one of `session`, `token` and `account`; or whoever the peer says that it is, by `name` and
    `roles`, which front processes may not say. What an account may is looked up with each request, and is never more
    than `[web] max_role`.
    """

    session: str | None = None
    """Id of a session."""
    token: str | None = None
    """Id of a token that `CheckToken` has found good."""
    account: str | None = None
    """Name of an account whose password `CheckPassword` has found good."""
    stamp: str | None = None
    """What `CheckPassword` has answered with: that password is no good once the account has another."""
    name: str | None = None
    address: str | None = None
    """None where it is not the caller's own, as behind a proxy."""
    roles: list[str] = []
    """See `application.caller.ROLES`."""
    verified: bool = False
    """Whether the name has been checked."""


Keys: TypeAlias = Annotated[list[str], Meta(max_length=MAX_KEYS)]


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe", tag_field="command"):
    """Be told when one of these changes; their revisions."""

    keys: Keys


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe", tag_field="command"):
    """Undo `Subscribe`."""

    keys: Keys


class Wait(msgspec.Struct, frozen=True, kw_only=True, tag="wait", tag_field="command"):
    """Wait until a revision is another than this; the revision then, which is the same where the time was over."""

    key: str
    since: int
    seconds: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = MAX_WAIT_SECONDS


AnyRequest: TypeAlias = AnyCommand | Subscribe | Unsubscribe | Wait


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request, as it comes over the wire."""

    id: Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
    """Chosen by the client, among those from 1; no two that are under way have the same."""
    command: msgspec.Raw
    """An `AnyRequest`."""
    behalf: Behalf | None = msgspec.field(name="for", default=None)
    once: Annotated[str, Meta(min_length=16, max_length=64, pattern=r"^[!-~]*\Z")] | None = None
    """Chosen at random by the client: a command that changes something is done once, however often it is sent with
    this, and answered alike each time."""


# -------------------------------------------------------------------- keys as texts


def key_in(text: str) -> Key:
    """Return the key that `text` names: `jobs`, `machines`, `server`, `job/7` or `machine/m`.

    Raises:
        RequestError: it names none.
    """
    if text in _PLURALS:
        return _PLURALS[text]
    kind, _, name = text.partition("/")
    if kind == Kind.JOB and name.isascii() and name.isdigit() and len(name) < len(str(MAX_NUMBER)):
        return Key(Kind.JOB, int(name))
    if kind == Kind.MACHINE and name:
        return Key(Kind.MACHINE, name)
    right = "jobs, machines, server, job/NUMBER or machine/NAME"
    raise RequestError(f"{text[:80]!r} is nothing to subscribe to; that would be {right}")


def text_of(key: Key) -> str:
    """Return the text that names `key`."""
    if key.name is not None and key.kind is not Kind.SERVER:
        return f"{key.kind}/{key.name}"
    return next(text for text, each in _PLURALS.items() if each.kind is key.kind)


def subscribing(keys: list[Key]) -> list[bytes]:
    """Return requests that subscribe to `keys`, for the process that goes on with a connection."""
    texts = [text_of(key) for key in keys]
    pages = [texts[first : first + MAX_KEYS] for first in range(0, len(texts), MAX_KEYS)]
    return [_encode({"id": 0, "command": Subscribe(keys=page)}) for page in pages]


# -------------------------------------------------------------------- lines of the server


def answer(number: int, value: Any) -> bytes:
    """Return the line that answers a request."""
    return _encode({"id": number, "return": value}) + b"\n"


def error(number: int, exc: SpallocServerError | str, *, code: str = "failed", again: bool = False) -> bytes:
    """Return the line that says why a request was not done."""
    code = exc.code if isinstance(exc, SpallocServerError) else code
    return _encode({"id": number, "error": {"code": code, "text": str(exc), "again": again}}) + b"\n"


def change(keys: list[str]) -> bytes:
    """Return the line that says what has changed."""
    return _encode({"changed": keys}) + b"\n"


def last_word(why: str, *, again: bool = False, code: str | None = None) -> bytes:
    """Return the line that ends a connection. Programs older than this protocol understand it, too."""
    return _encode({"exception": why, **({"again": True} if again else {}), **({"code": code} if code else {})}) + b"\n"


def greeting(epoch: str) -> bytes:
    """Return the server's hello."""
    hello = Hello(
        protocol=PROTOCOL, version=__version__, program="spalloc_server", capabilities=CAPABILITIES, epoch=epoch
    )
    return _encode({"hello": hello}) + b"\n"


def is_front(line: bytes) -> bool:
    """Return whether a hello, in a line that is no `stranger`, is that of a front process."""
    return msgspec.json.decode(line, type=dict[str, Hello])["hello"].program == FRONT_PROGRAM


def stranger(line: bytes) -> str | None:
    """Return what is wrong with a connection's first line; None where it is a hello that is understood."""
    try:
        said = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if "hello" not in said:
            raise msgspec.ValidationError
        hello = msgspec.json.decode(said["hello"], type=Hello)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return (
            f"the server is version {__version__}, and this program does not speak its protocol: an older "
            f"spalloc-admin, perhaps. Use the spalloc-admin of spalloc-server {__version__}"
        )
    if hello.protocol != PROTOCOL:
        return (
            f"the server is version {__version__} and speaks version {PROTOCOL} of its local protocol, but "
            f"{hello.program[:40]} {hello.version[:40]} speaks version {hello.protocol}: use the spalloc-admin of "
            f"spalloc-server {__version__}"
        )
    return None
