"""The demo's parts: simulated hardware and server, each a command of this package in a process of its own.

Theory of operation. A part is started, says in a line of its output that it is there, and is told to stop. Its other
output is kept, so that the last lines of one that ends by itself can be shown. The kernel ends the parts where
the demo itself is killed, so that nothing is left behind. They are in a session of their own: ctrl+c is for the demo,
which stops them in order. An upgrade puts another process in a server's place, in the same session and with the same
output. So a part has ended when nobody writes its output any more, and the whole session is told to stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from spalloc_server.cli.process import say
from spalloc_server.errors import SpallocServerError

__all__ = ["Part", "PartError", "start_again"]

KEPT_LINES: Final = 20
STOP_SECONDS: Final = 5.0
"""`demo`: the longest that its server or its hardware may take to stop; then it is killed."""
GRACE_SECONDS: Final = 1.0
"""`demo`: from the first signal to stop to the second, after which a server stops at once."""
RETRY_SECONDS: Final = 1.0
"""`demo`: from a start of the server that failed to the next, as where another program has its port for a while."""
MOST_RETRIES: Final = 30
"""`demo`: so many, one after the other; then it ends."""
_DIE_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG."""


class PartError(SpallocServerError):
    """A part ended by itself."""


class Part:
    """One command with its arguments.

    `says_ready` is given each line of its output, and returns what there is to know once the part is there, else None.
    Lines that begin with `complaint` are printed, once it is there.
    """

    def __init__(
        self, command: str, *arguments: object, says_ready: Callable[[str], str | None], complaint: str | None = None
    ) -> None:
        self._command = [sys.executable, "-m", command, *map(str, arguments)]
        self._says_ready = says_ready
        self._complaint = complaint
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return 0 if self._process is None else self._process.pid

    async def begin(self) -> None:
        """Start the process."""
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
        self._listener = loop.create_task(self._listen(self._process))

    async def ready(self) -> str:
        """Wait until it is there; what `says_ready` returned. `PartError` where it ended before."""
        return await self._ready

    async def ended(self) -> str:
        """Wait for its end, and that of a process that took its place in an upgrade; how it ended."""
        assert self._process is not None
        assert self._listener is not None
        await asyncio.wait([self._listener])
        code = await self._process.wait()
        if code < 0:
            return f"was killed by signal {-code}"
        # Of a process that took its place nobody learns how it ended
        return f"ended with status {code}" if code else "has ended"

    async def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        if self._process is None:
            return
        ended = asyncio.ensure_future(self.ended())
        for how, seconds in (
            (signal.SIGTERM, GRACE_SECONDS),
            (signal.SIGTERM, STOP_SECONDS - GRACE_SECONDS),
            (signal.SIGKILL, None),
        ):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            await asyncio.wait([ended], timeout=seconds)
            if ended.done():
                break
        await ended

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            if self._ready.done():
                self._tell(text)
            elif (found := self._says_ready(text)) is not None:
                self._ready.set_result(found)
                for earlier in self._lines:
                    self._tell(earlier)
        if not self._ready.done():
            last = self._lines[-1] if self._lines else "it ended without a word"
            self._ready.set_exception(PartError(last.partition(": ")[2] or last))
            self._ready.exception()  # it may be that nobody waits any more

    def _tell(self, line: str) -> None:
        if self._complaint is not None and line.startswith(self._complaint):
            say(line)


async def start_again(parts: list[Part], make: Callable[[], Part]) -> None:
    """Put a new server in place of the last part, and start it; more than once, where it does not start.

    Raises:
        PartError: it never does.
    """
    for left in reversed(range(MOST_RETRIES + 1)):
        parts[-1] = make()
        await parts[-1].begin()
        try:
            await parts[-1].ready()
        except PartError as exc:
            if not left:
                raise
            say(f"the server did not start: {exc}; the next try is in {RETRY_SECONDS:g} s")
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def _die_with(parent: int) -> Callable[[], None]:
    """What has the kernel end the new process when `parent` ends; elsewhere than on Linux, nothing."""
    library = ctypes.CDLL(None) if Path("/proc/self").exists() else None

    def prepare() -> None:
        if library is not None:
            library.prctl(_DIE_WITH_PARENT, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
