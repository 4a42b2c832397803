"""Commands with extreme and ill-typed arguments, and a server in a thread that is sent them and restarted."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Self

from hypothesis import strategies as st

from spalloc_server.frontends.v1.commands import COMMANDS
from spalloc_server.server import Server
from tests.house import PATIENCE, Place

ATTACKER, VICTIM = "127.0.0.1", "127.0.0.2"
"""Addresses that they connect from: neither may end the other's jobs."""

READY = 3

LITERALS = [
    *("null", "true", "false", "0", "1", "2", "3", "5", "-1", "-0.0", "0.5", "1.0", "2.5", "1e2", "60", "1e10", "1e11"),
    *("1e200", "-1e200", "1e308", "1e-308", "5e-324", "1e400", "NaN", "Infinity", "-Infinity"),
    *(str(sign * (2**bits + more)) for bits in (31, 32, 53, 63, 64, 200) for more in (-1, 0, 1) for sign in (1, -1)),
    *("9" * 310, "9" * 4000, "9" * 5000, "1" + "0" * 5000 + ".5", '""', '"m"', '"1e400"', '"nan"', '"-inf"', '"12"'),
    *('"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff\\ud800"', '"\\uffff"', '"\U0001f600"', '"%s"' % ("x" * 300)),
    *('"%s"' % ("y" * 30000), "[]", "{}", "[[]]", "[null]", '["default"]', '["x", 1]', '{"a": 1}', '[["a"]]'),
    *("[" * depth + "]" * depth for depth in (10, 500, 900, 3000)), '{"a":' * 800 + "1" + "}" * 800,
]  # fmt: skip
"""Values, as JSON or nearly so."""

NAMES = [
    *("owner", "keepalive", "machine", "tags", "min_ratio", "max_dead_boards", "max_dead_links", "require_torus"),
    *("max_runtime", "priority", "job_id", "reason", "x", "y", "z", "cabinet", "frame", "board", "chip_x", "chip_y"),
    *("machine_name", "address", "p", "description", "client", "keepalivehost", "self", "", "\\u0000"),
]

values = st.one_of(
    st.sampled_from(LITERALS),
    st.integers(-(10**40), 10**40).map(str),
    st.floats().map(json.dumps),
    st.text(max_size=8).map(json.dumps),
    st.integers(0, 12).map(str),
)

_creations = st.builds(
    lambda sizes, kwargs: (
        f'{{"command":"create_job","args":[{",".join(sizes)}],"kwargs":{{'
        + ",".join(f'"{name}":{value}' for name, value in {"owner": '"x"', **kwargs}.items())
        + "}}"
    ),
    st.lists(values, max_size=4),
    st.dictionaries(st.sampled_from(NAMES[:10]), values, max_size=4),
)
_others = st.builds(
    lambda command, args, kwargs: (
        f'{{"command":"{command}","args":[{",".join(args)}],"kwargs":{{'
        + ",".join(f'"{name}":{value}' for name, value in kwargs.items())
        + "}}"
    ),
    st.sampled_from([name for name in COMMANDS if name != "create_job"]),
    st.lists(values, max_size=5),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
)

lines = st.one_of(_creations, _others).map(lambda line: line.encode("utf-8", "surrogatepass") + b"\n")
"""Lines of requests."""


class Caller:
    """A client that blocks."""

    def __init__(self, address: tuple[str, int], host: str = ATTACKER) -> None:
        self._socket = socket.create_connection(address, timeout=PATIENCE, source_address=(host, 0))
        self._file = self._socket.makefile("rb")

    def send(self, line: bytes) -> Any:
        """The answer to a line; `EOFError` where the server disconnects instead."""
        try:
            self._socket.sendall(line)
            while (reply := self._file.readline()).startswith((b'{"jobs_changed"', b'{"machines_changed"')):
                pass
        except ConnectionError as exc:
            raise EOFError from exc
        if not reply:
            raise EOFError
        return json.loads(reply)

    def call(self, command: str, *args: Any, **kwargs: Any) -> Any:
        return self.send(json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode() + b"\n")["return"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Rig:
    """Simulated hardware and a server, in an event loop of a thread of their own."""

    def __init__(self, place: Place) -> None:
        place.configure()
        text = place.config.read_text()
        place.config.write_text(text.replace("ip=", "access=Access(managers=('10.0.0.0/8',)), ip=", 1))
        self.place = place
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack, self._serving = AsyncExitStack(), AsyncExitStack()
        self.server: Server
        self.starts = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._stack.enter_async_context(self.place.simulator()))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
            self._do(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def start(self) -> None:
        self.server = self._do(self._serving.enter_async_context(self.place.serving()))
        self.starts += 1

    def stop(self) -> None:
        self._do(self._serving.aclose())

    def ask(self, function: Any) -> Any:
        """What a function gives in the thread of the event loop."""
        found: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: found.set_result(function()))
        return found.result(PATIENCE)

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * PATIENCE)


class Attack:
    """Lines of one client after the other, and the jobs of somebody else."""

    def __init__(self, rig: Rig) -> None:
        self.sent = self.disconnected = 0
        self._rig = rig
        with self.victim() as victim:
            self._jobs = [victim.call("create_job", size, owner="victim", keepalive=None) for size in (1, 2)]
            self._boards = [self._ready(victim, job_id) for job_id in self._jobs]
        self._caller = Caller(rig.server.address)

    @contextmanager
    def victim(self) -> Iterator[Caller]:
        caller = Caller(self._rig.server.address, VICTIM)
        try:
            yield caller
        finally:
            caller.close()

    def send(self, line: bytes) -> None:
        """A line gets one answer, or ends its connection."""
        self.sent += 1
        try:
            reply = self._caller.send(line)
        except EOFError:
            self.disconnected += 1
            self._caller.close()
            self._caller = Caller(self._rig.server.address)
            return
        assert len(reply) == 1, line
        assert "internal error" not in str(reply.get("exception")), line

    def restart(self) -> None:
        """A start is never refused, and finds all jobs of others; the attacker's own are ended."""
        self._caller.close()
        self._rig.stop()
        self._rig.start()
        self.look()
        self._caller = Caller(self._rig.server.address)
        for job in self._caller.call("list_jobs"):
            if job["owner"] != "victim":
                self._caller.call("destroy_job", job["job_id"])

    def look(self) -> None:
        """The victim's jobs are as they were, the core agrees with itself, and nothing was a defect or set aside."""
        with self.victim() as victim:
            assert [self._ready(victim, job_id) for job_id in self._jobs] == self._boards
        self._rig.ask(self._rig.server.controller.check)
        assert self._rig.server.defects.count == 0, self._rig.server.defects.last
        assert self._rig.ask(self._rig.server.controller.set_aside) == []

    def close(self) -> None:
        self._caller.close()

    @staticmethod
    def _ready(victim: Caller, job_id: int) -> Any:
        victim.call("notify_job", job_id)
        while (status := victim.call("get_job_state", job_id))["state"] != READY:
            assert status["state"] in (1, 2), status
        return victim.call("get_job_machine_info", job_id)["boards"]
