"""The front process that serves HTTP for this server: started where none runs, started again where it ends.

Theory of operation. Supervision is by a lock, not by parenthood (`frontends.front_lock`). Whoever has the lock of this
state is its front process, by whomever it was started: by this server, by one before it, or by a unit of its own. So a
front process, and all that clients do through it, outlives the server: an upgrade, a crash, kill -9. Only where nobody
has the lock is one started, in a session of its own. One that ends soon is started again ever more slowly.

At a graceful stop of the server the front process that a server has started is told to stop, too, as it is where the
configuration has no `[web]` any more, or says that it has a unit of its own. It is not waited for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spalloc_server.config.options import Web
from spalloc_server.frontends.front_lock import front_folder, holder
from spalloc_server.log.logger import get_logger

__all__ = ["Fronts"]

LOOK_SECONDS = 1.0
"""Between looks whether a front process lives."""

RESTART_SECONDS = 1.0
"""From the end of a front process to the start of the next; it doubles each time."""

RESTART_MOST_SECONDS = 60.0
"""The longest that it becomes. One that has lived for so long is started again at once."""

OF_THE_SERVER = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Environment variables by which a process speaks to systemd as if it was the server."""

log = get_logger(__name__)


class Fronts:
    """Looks after the front process of one state.

    Args:
        state: the server's state file.
    """

    def __init__(self, state: Path) -> None:
        self.options: Sequence[str] = ()
        """Of `spalloc_web`, which say how it logs; may be assigned."""
        self._state = state
        self._folder = front_folder(state)
        self._web: Web | None = None
        self._wanted = asyncio.Event()
        self._child = 0
        """Number of the process that was started last, while it is not known to have ended."""
        self._started = self._due = 0.0
        """When it was started, and when the next may be."""
        self._pause = RESTART_SECONDS

    def configure(self, web: Web | None) -> None:
        """Apply `[web]`; None for no HTTP."""
        before, self._web = self._web, web
        if web is not None and web.start:
            self._due, self._pause = 0.0, RESTART_SECONDS
            self._wanted.set()
        else:
            self._wanted.clear()
            if before is not None and before.start:
                self.stop()

    async def run(self) -> None:
        """Look after it, for ever."""
        while True:
            await self._wanted.wait()
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Tell the front process that a server has started to stop."""
        found = holder(self._folder)
        pid = self._child
        if found is not None and found.pid:  # else it has only just begun
            pid = found.pid if found.of_server else 0
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
                log.info("the front process is told to stop", pid=pid)

    def _look(self) -> None:
        """Start a front process, where none lives and it is time to."""
        now = time.monotonic()
        if self._child:
            try:
                pid, status = os.waitpid(self._child, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it, as a program that embeds the server may
                pid, status = self._child, 0
            if not pid:
                return
            self._child = 0
            if holder(self._folder) is None:  # else it was replaced
                if now - self._started > RESTART_MOST_SECONDS:
                    self._pause = RESTART_SECONDS
                code = os.waitstatus_to_exitcode(status)
                log.warning("the front process has ended: it is started again", status=code, after=self._pause)
                self._due = now + self._pause
                self._pause = min(2 * self._pause, RESTART_MOST_SECONDS)
        if now >= self._due and holder(self._folder) is None:
            self._start(now)

    def _start(self, now: float) -> None:
        command = [
            "-m",
            "spalloc_server.cli.front",
            "--state",
            str(self._state.absolute()),
            "--of-server",
            *self.options,
        ]
        environment = {name: value for name, value in os.environ.items() if name not in OF_THE_SERVER}
        # Its log is this server's; whoever reads this server's output is to see the end of it
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        try:
            self._child = os.posix_spawn(
                sys.executable, [sys.executable, *command], environment, file_actions=nothing, setsid=True
            )
        except OSError as exc:
            log.error("no front process can be started", error=str(exc), after=self._pause)
            self._due = now + self._pause
            self._pause = min(2 * self._pause, RESTART_MOST_SECONDS)
        else:
            self._started = now
            log.info("a front process is started", pid=self._child)
