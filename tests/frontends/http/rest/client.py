"""REST without a network: a server that answers what a test says, and a client that checks that OpenAPI is true."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote, urlencode

import msgspec

from spalloc_server.application.account_commands import AccountView
from spalloc_server.application.command_kinds import Command
from spalloc_server.application.own_job_commands import (
    BoardPlace,
    FoundBoard,
    JobDetails,
    MachineDetails,
    SubMachine,
)
from spalloc_server.config.options import Web
from spalloc_server.frontends.http.answers import Message, Scope
from spalloc_server.frontends.http.asking import RefusedError, WebCaller, WebSettings
from spalloc_server.frontends.http.boards.pieces import Pieces
from spalloc_server.frontends.http.rest import make_rest, messages
from spalloc_server.frontends.local_api import Behalf

T = TypeVar("T")

BASE = "https://hall.example/spalloc"
ROOT = f"{BASE}/srv/spalloc"

JOB = JobDetails(
    job_id=7,
    owner="alice",
    state=3,
    power=True,
    created_at=1_633_954_394.0,
    ended_at=None,
    reason=None,
    keepalive=60.0,
    keepalive_host="10.0.0.1",
    kept_alive_at=1_633_954_395.5,
    machine="m",
    original={"owner": "alice", "num-boards": 1},
    revision=41,
)
BOARDS = SubMachine(
    machine="m",
    width=1,
    height=1,
    depth=1,
    power=True,
    boards=[(5, 7, 0)],
    connections=[((0, 0), "10.1.1.1")],
)
DEAD = BoardPlace(board=(1, 1, 2), place=None, address=None)
MACHINE = MachineDetails(
    name="m",
    tags=["default"],
    width=2,
    height=2,
    in_service=True,
    down_boards=[DEAD],
    down_links=[(BoardPlace(board=(0, 0, 0), place=(0, 0, 0), address="10.1.1.1"), 2, DEAD, 5)],
    revision=5,
)
FOUND = FoundBoard(
    machine="m",
    board=(5, 7, 1),
    place=(2, 3, 10),
    address="10.1.1.2",
    chip=(69, 89),
    board_chip=(68, 88),
    job_id=7,
    job_chip=(9, 5),
)


BOB = AccountView(number=4, name="bob", role="user", has_password=True, last_log_in=1_633_954_394.0)


class StandIn:
    """Stands in for the server."""

    def __init__(self, *, version: str = "2.1.3", **web: Any) -> None:
        self.settings = WebSettings(web=Web(**{"max_role": "admin", **web}), version=version, state="/x/hall.state")
        self.answers: dict[type[Command], Any] = {}
        """What is answered to a kind of command: a value, an exception, or a function of the command."""
        self.asked: list[Command] = []
        self.behalves: list[Behalf | None] = []
        self.waits: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        """What has been waited for, and since which revision."""
        self.revisions: dict[str, int] = {}
        self.change = asyncio.Event()
        """Set where all that is waited for has changed."""

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        self.asked.append(command)
        self.behalves.append(behalf)
        if type(command) not in self.answers:
            raise AssertionError(f"nobody has said what {command} is answered")
        answer = self.answers[type(command)]
        answer = answer(command) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.decode(msgspec.json.encode(answer), type=kind)

    async def changed(self, key: str, since: int, seconds: float) -> int:
        now = self.revisions.get(key, 0)
        if since == now:
            self.waits.put_nowait((key, since))
            await self.change.wait()
        return now

    def follow(self, key: str) -> Any:
        raise NotImplementedError


class Boards:
    """Stands in for the boards."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.breaks = False
        """Whether reading breaks off in the middle."""
        self.read_from: list[Pieces] = []

    def _take(self, *told: Any) -> None:
        self.told.append(told)
        if self.error:
            raise self.error

    async def stream(self, caller: WebCaller, job: int, x: int, y: int, address: int, size: int) -> Pieces:
        self._take("read", job, x, y, address, size)
        return self._pieces(size)

    def _pieces(self, size: int) -> Pieces:
        async def rest() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0)  # as long as a client needs to leave
            yield b"1" * (size - size // 2)
            if self.breaks:
                raise RefusedError("hardware", "board 10.1.1.1 does not answer any more")

        pieces = Pieces([b"0" * (size // 2)], rest())
        self.read_from.append(pieces)
        return pieces

    async def write(
        self, caller: WebCaller, job: int, x: int, y: int, address: int, data: AsyncIterable[bytes]
    ) -> None:
        self._take("write", job, x, y, address, b"".join([piece async for piece in data]))

    async def fast_stream(
        self, caller: WebCaller, job: int, gatherer: Any, monitor: Any, address: int, size: int
    ) -> Pieces:
        self._take("read fast", job, gatherer, monitor, address, size)
        return self._pieces(size)

    async def fast_write(
        self, caller: WebCaller, job: int, gatherer: Any, x: int, y: int, address: int, data: AsyncIterable[bytes]
    ) -> None:
        self._take("write fast", job, gatherer, x, y, address, b"".join([piece async for piece in data]))

    async def reset_router(self, caller: WebCaller, job: int, filters: Any) -> None:
        self._take("reset router", job, dict(filters))


class Answer(msgspec.Struct):
    """What a client has got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        assert self.headers["content-type"].startswith("text/plain")
        return self.body.decode()

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def summary(self) -> tuple[int, str]:
        return self.status, self.body.decode()


def who(role: str, name: str = "alice", csrf: str | None = "c5f") -> WebCaller:
    """Somebody with this role, in a session."""
    return WebCaller(name=name, role=role, behalf=Behalf(session=f"s-of-{name}"), csrf=csrf)


class Client:
    """Sends requests; each answer must be one that the OpenAPI document has."""

    now: Client
    """Whose requests are served. One application serves all tests, since to make one takes a tenth of a second."""
    app: ClassVar[Any] = None
    _paths: ClassVar[dict[str, Any]] = {}

    def __init__(self, server: StandIn | None = None, caller: WebCaller | None = None) -> None:
        self.server = server or StandIn()
        self.boards = Boards()
        self.caller = caller
        type(self).now = self
        self.left = asyncio.Event()
        """Set where the client has left."""
        self.breaks_off = False
        """Whether bodies of requests end in the middle, as the limits have those end that are too long."""

        self.reads = asyncio.Event()
        """While it is not set, the client reads nothing but the head of an answer."""
        self.reads.set()
        self.complete = False
        """Whether the last answer has come to its end."""

    @classmethod
    def of(cls, role: str, **web: Any) -> Client:
        return cls(StandIn(**web), who(role))

    def answering(self, **answers: Any) -> Client:
        """Have the server answer so, to commands of these names."""
        for kind in _kinds(Command):
            if kind.__name__ in answers:
                self.server.answers[kind] = answers.pop(kind.__name__)
        assert not answers
        return self

    async def send(
        self,
        method: str,
        path: str,
        body: Any = b"",
        kind: str | None = None,
        caller: Any = ...,
        key: str | None = None,
        **query: Any,
    ) -> Answer:
        """Send a request; `path` is below the root of the service where it does not begin with a slash."""
        path, _, encoded = path.partition("?")
        headers = [(b"host", b"hall.example")]
        if isinstance(body, dict | list):
            body, kind = json.dumps(body).encode(), kind or "application/json"
        if kind is not None:
            headers.append((b"content-type", kind.encode()))
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(path if path.startswith("/") else f"/spalloc/srv/spalloc/{path}"),
            "query_string": (urlencode(query) or encoded).encode(),
            "headers": headers,
            "state": {"caller": self.caller if caller is ... else caller},
        }
        answer = await self._exchange(scope, body)
        if not path.startswith("/"):
            await self._check_documented(method, path, answer)
        return answer

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.send("GET", path, **query)

    async def _exchange(self, scope: Scope, body: bytes) -> Answer:
        sent: list[Message] = []
        to_come: list[Message] = [{"type": "http.request", "body": body, "more_body": self.breaks_off}]
        if self.breaks_off:
            to_come.append({"type": "http.disconnect"})

        async def receive() -> Message:
            if to_come:
                return to_come.pop(0)
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if "status" not in message:
                await self.reads.wait()
            sent.append(message)

        if self.app is None:
            boards: Any = _Of("boards")
            type(self).app = make_rest(_Of("server"), boards, lambda *_: BASE)
        await self.app(scope, receive, send)
        start, *rest = sent
        self.complete = bool(rest) and not rest[-1].get("more_body")
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers, b"".join(message["body"] for message in rest))

    async def document(self) -> Any:
        return (await self.send("GET", "/spalloc/srv/openapi.json", caller=None)).json

    async def _check_documented(self, method: str, path: str, answer: Answer) -> None:
        if not self._paths:
            self._paths.update((await self.document())["paths"])
        path = "/" + path.replace("//", "/").rstrip("/")
        for template, methods in self._paths.items():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method.lower() in methods:
                expected = methods[method.lower()]["responses"]
                assert str(answer.status) in expected, f"{method} {path} answers {answer.status}: {answer.body!r}"
                content = expected[str(answer.status)].get("content")
                kind = answer.headers.get("content-type", "").partition(";")[0]
                assert {kind} - {""} == {*(content or ())}, f"{method} {path} answers {answer.status} as {kind}"
                if answer.body and (reference := (content or {})[kind]["schema"].get("$ref")):
                    msgspec.json.decode(answer.body, type=getattr(messages, reference.rpartition("/")[2]))
                return
        assert answer.status in {401, 403, 404, 405} or method in {"HEAD", "OPTIONS"}, (method, path, answer)


class _Of:
    """What a part of the client that is tested has."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(Client.now, self._part), name)


def _kinds(kind: type[Command]) -> list[type[Command]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in _kinds(sub))]


def refusal(kind: str, text: str = "no") -> Callable[[Command], Exception]:
    """Have the server refuse."""
    return lambda _: RefusedError(kind, text)
