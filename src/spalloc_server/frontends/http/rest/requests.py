"""One request, as its handler sees it, and how what goes wrong with it is told.

Theory of operation. `RestRequest` knows who sends it, asks the server for this caller, and makes links. Bodies are read
here and not by the framework, which takes `"3"` for a number, JSON of any content type, and answers text that is no
UTF-8, or lists in lists in lists, with 500.

`permit` looks at the role first, so that whoever may not do something hears just that, whatever else is wrong. The
server has the last word: it looks the role up with each command. Errors are plain text, as the published clients
show it.

A client that does not know what has become of a request, because a connection was lost, may send it again, if both have
the same header `Idempotency-Key`: what it changes is done once, and answered alike (`application.once`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, TypeVar, overload
from urllib.parse import quote

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.enums import ParamType
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    NotAuthorizedException,
    PermissionDeniedException,
)
from litestar.handlers import BaseRouteHandler

from spalloc_server.application.caller import Permission, permissions_of
from spalloc_server.application.command_kinds import Command
from spalloc_server.frontends.http.answers import UNAUTHORIZED, Answer, ASGIApp, Receive, Scope, Send, refusal, text
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller, WebSettings

__all__ = ["BASE", "FORBIDDEN", "IDEMPOTENCY_KEY", "NO_SUCH_JOB", "Plain", "Refusal", "RestRequest"]
__all__ += ["decoded", "empty", "instant", "link", "may", "permit", "told", "told_by_framework"]

T = TypeVar("T")

BASE = "spalloc base"
"""Where a scope's state has what links begin with, such as `https://host/spalloc`."""

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The only header that handlers take as a parameter."""

FORBIDDEN = "computer says no"
NO_SUCH_JOB = "no such job"


BLANK: Final = r"regex '\\S'"
"""How msgspec ends its words for a text that has nothing but white space."""


class Refusal(HTTPException):
    """A request that is refused here, without asking the server."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why, status_code=status)


class RestRequest(Request[Any, Any, Any]):
    """One request."""

    @property
    def asking(self) -> Asking:
        """The server."""
        asking: Asking = self.app.state.asking
        return asking

    @property
    def caller(self) -> WebCaller:
        """Who sends it; `permit` has seen to it that there is somebody."""
        caller: WebCaller = self.scope["state"]["caller"]
        return caller

    async def ask(self, command: Command, kind: type[T]) -> T:
        """Return what the server answers, as `kind`. See `Asking.ask`."""
        return await self.asking.ask(command, kind, behalf=self.caller.behalf, once=self._once(command))

    def _once(self, command: Command) -> str | None:
        """Return the id that a command of a request with `Idempotency-Key` has, and has again if that is sent again."""
        key = self.headers.get(IDEMPOTENCY_KEY)
        if key is None or not command.changes:
            return None
        return blake2b(f"{command.__struct_config__.tag} {key}".encode(), digest_size=24).hexdigest()

    async def find(self, command: Command, kind: type[T]) -> T | None:
        """Return what the server answers, as `kind`, or None."""
        optional: Any = kind | None
        found: T | None = await self.ask(command, optional)
        return found

    def link(self, *names: str | int) -> str:
        """Return the address of what is called so, below the root of the service."""
        return link(self.scope["state"][BASE], *names)

    async def json(self) -> Any:
        """Return the body, as the handler's `data` says that it is.

        Raises:
            Refusal: it is something else.
        """
        field: Any = self.route_handler.parsed_data_field
        self.check_type("application/json")
        return decoded(await self.body(), field.annotation)

    def check_type(self, kind: str) -> None:
        """Raise `Refusal` where the body's content type is another than this.

        For text and bytes it may be left out (RFC 9110, 8.3), as plain HTTP clients do that are given just these.
        """
        given = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != kind and (given or kind == "application/json"):
            raise Refusal(415, f"the content type must be {kind}, not {given[:80] or 'left out'}")


def link(base: str, *names: str | int) -> str:
    """Return the address of what is called so, below the root of the service at `base`."""
    return "/".join([f"{base}/srv/spalloc", *(quote(str(name), safe="") for name in names)])


@overload
def instant(seconds: float) -> datetime: ...
@overload
def instant(seconds: float | None) -> datetime | None: ...
def instant(seconds: float | None) -> datetime | None:
    """Return a time as JSON tells it, from seconds since the Unix epoch."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def decoded(body: bytes, kind: Any) -> Any:
    """Return what a body of JSON says, which must be `kind`.

    Raises:
        Refusal: it says something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        what = "must not be blank" if what.endswith(BLANK) else what
        raise Refusal(400, f"{where.strip('`').removeprefix('$.') or 'the body'}: {what}") from error
    except msgspec.DecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise Refusal(400, "the body is not UTF-8") from error
    except RecursionError as error:
        raise Refusal(400, "the body is nested too deeply") from error


# -------------------------------------------------------------------- who may do what


def may(caller: WebCaller, permission: Permission, settings: WebSettings) -> bool:
    """Return whether the caller's role, as far as `[web] max_role` lets it, gives this permission."""
    return permission in permissions_of([caller.role]) & permissions_of([settings.web.max_role])


async def permit(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let only those pass who are logged in, and permitted what the handler's `permission` says."""
    caller: WebCaller | None = connection.scope["state"].get("caller")
    if caller is None:
        raise NotAuthorizedException
    permission: Permission | None = handler.opt.get("permission")
    if permission is not None and not may(caller, permission, connection.app.state.asking.settings):
        raise PermissionDeniedException


# -------------------------------------------------------------------- what went wrong


def told(error: Exception, absent: str | None = None) -> Answer:
    """Return the answer that tells of an error.

    Args:
        error: any; one that is a defect is raised again.
        absent: what is told instead of the server's own words where there is no such thing.
    """
    if isinstance(error, ServerAwayError):
        return refusal(error)
    if isinstance(error, RefusedError):
        if error.kind == "forbidden":
            return text(403, FORBIDDEN)
        return text(404, absent) if error.kind == "no-such" and absent else refusal(error)
    if isinstance(error, NotAuthorizedException):
        return UNAUTHORIZED
    if isinstance(error, PermissionDeniedException):
        return text(403, FORBIDDEN)
    if isinstance(error, HTTPException):
        return _of_framework(error, absent or "there is nothing of this name or number")
    raise error


def _of_framework(error: HTTPException, absent: str) -> Answer:
    """Return the answer for an error of the framework: its words, or which parameters are wrong."""
    status, said = error.status_code, error.detail
    if isinstance(error, InternalServerException):  # its client has left, or the limits say that it has
        return text(413, "the body is longer than it may be, or ends in the middle")
    if isinstance(error.extra, list):
        if any(each.get("source") == ParamType.PATH for each in error.extra):
            return text(404, absent)
        said = "; ".join(f"{_name_of(each)}: {each['message']}" for each in error.extra)
        if any(each.get("source") == "body" for each in error.extra):
            said = "the body is empty; it must be JSON"
    if status == 404 and said == "Not Found":
        said = "there is nothing at this path"
    if status == 405:
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        allowed = {*headers["allow"].split(", ")}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        return text(405, "this path has other methods", (b"allow", ", ".join(sorted(allowed)).encode()))
    return text(status, said)


def _name_of(part: Any) -> str:
    """Return how a client calls a part of its request."""
    return IDEMPOTENCY_KEY if part.get("source") == ParamType.HEADER else str(part.get("key", "?"))


class Plain(Response[Any]):
    """An answer that the framework passes on as it is.

    Args:
        answer: gives the answer.
    """

    def __init__(self, answer: ASGIApp) -> None:
        super().__init__(None)
        self._answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """Return the answer, as an application that the framework calls by names of parameters."""

        async def give(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        return give


def empty(status: int) -> Plain:
    """Return an answer without a body."""
    return Plain(Answer(status=status))


def told_by_framework(request: Request[Any, Any, Any], error: Exception) -> Plain:
    """Do as `told`, for the framework."""
    handler: Any = request.scope.get("route_handler")  # none where no path matches
    return Plain(told(error, handler and handler.opt.get("absent")))
