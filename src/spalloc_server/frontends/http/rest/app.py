"""The application that serves REST: what happens to a request before its handler, and which handlers there are.

Theory of operation. Published clients ask for paths with no slash at the end, one or two, and with two in the middle,
so these are made one here; HEAD is answered as GET without a body. What is asked for most goes another way
(`frontends.http.rest.states`). All else is the framework's: it finds the handler, reads parameters, and encodes
answers. The header `Host` is kept from it, since one that makes no sense makes it answer 500; links begin with what
`base_url` says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig

from spalloc_server.frontends.http.answers import ASGIApp, Message, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import Asking, WebSettings
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.frontends.http.rest.admin import ADMIN
from spalloc_server.frontends.http.rest.boards import BOARDS
from spalloc_server.frontends.http.rest.jobs import JOB, JOBS
from spalloc_server.frontends.http.rest.machines import MACHINES
from spalloc_server.frontends.http.rest.openapi import answers_by_path
from spalloc_server.frontends.http.rest.polls import Polls
from spalloc_server.frontends.http.rest.requests import BASE, RestRequest, permit, told_by_framework
from spalloc_server.frontends.http.rest.service import SERVICE
from spalloc_server.frontends.http.rest.states import JobStates
from spalloc_server.frontends.http.rest.users import USERS

__all__ = ["ROUTERS", "make_rest"]


ROOT = "/spalloc/srv/spalloc"

ROUTERS = [SERVICE, MACHINES, JOBS, JOB, BOARDS, ADMIN, USERS]
"""What there is below it."""


def make_rest(asking: Asking, boards: BoardAccess, base_url: Callable[[Scope, WebSettings], str]) -> ASGIApp:
    """Return the application that serves what is below `/spalloc/srv/`.

    Args:
        asking: the server.
        boards: reads and writes boards' memory.
        base_url: what links in the answers to a request begin with.
    """
    return _Rest(asking, boards, base_url)


class _Rest:
    def __init__(self, asking: Asking, boards: BoardAccess, base_url: Callable[[Scope, WebSettings], str]) -> None:
        polls = Polls(asking)
        self._asking = asking
        self._base_url = base_url
        self._states = JobStates(asking, polls)
        self._framework: Any = Litestar(
            ROUTERS,
            guards=[permit],
            state=State({"asking": asking, "boards": boards, "polls": polls, "states": self._states}),
            request_class=RestRequest,
            request_max_body_size=None,
            exception_handlers={HTTPException: told_by_framework, Exception: told_by_framework},
            openapi_config=OpenAPIConfig(title="spalloc_server", version="0"),
            logging_config=None,
        )
        self._public = cache(partial(answers_by_path, self._framework))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"].replace("//", "/").removesuffix("/")
        head = scope["method"] == "HEAD"
        method = "GET" if head else scope["method"]
        if method == "GET" and (answer := self._public(self._asking.settings.version).get(path)) is not None:
            await answer(scope, receive, send)
            return
        below = path.removeprefix(ROOT)
        if below == path or below[:1] not in {"", "/"}:
            await text(404, "there is nothing here; the service is at /spalloc/srv/spalloc/")(scope, receive, send)
            return
        state = {**scope["state"], BASE: self._base_url(scope, self._asking.settings)}
        inner: Scope = {**scope, "path": below or "/", "raw_path": b"", "method": method, "state": state}
        sending = _without_body(send) if head else send
        if (job_id := self._states.finds(method, below, scope["query_string"])) is not None:
            await self._states(inner, receive, sending, job_id)
            return
        inner["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"]
        if method == "OPTIONS":  # the framework leaves out methods there; so it is asked by one that no path has
            inner["method"], sending = "PATCH", _for_options(send)
        await self._framework(inner, receive, sending)


def _for_options(send: Send) -> Send:
    """Make 204 with the methods that a path has of the answer that a method is not allowed."""
    allowed = False

    async def sending(message: Message) -> None:
        nonlocal allowed
        if message["type"] == "http.response.start" and message["status"] == 405:
            allowed = True
            headers = [header for header in message["headers"] if header[0] == b"allow"]
            message = {**message, "status": 204, "headers": headers}
        elif allowed:
            message = {**message, "body": b""}
        await send(message)

    return sending


def _without_body(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending
