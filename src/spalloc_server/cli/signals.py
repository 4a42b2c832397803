"""Signals, heeded from the first moment of a program to its last.

Theory of operation. Python takes a few tenths of a second to import everything, and what a signal does by default,
meanwhile or at the very end, is to kill. So `hold` comes before all imports but this module's own: SIGHUP and SIGUSR2
are remembered until the event loop can `heed` them, and SIGINT and SIGTERM end the process at once, since nothing has
begun. SIGUSR1 means nothing to these programs. SIGTTOU would stop one that writes to a terminal from the background.
(SIGPIPE and SIGXFSZ, which a broken pipe and a file that is too large would kill with, Python itself ignores. SIGQUIT
is left as it is: it is what a user has for a process that does nothing else any more.)

From the first SIGINT or SIGTERM on a timer of the C library's threads runs, which ends the process whatever its Python
code waits for: a stop has a deadline even where it meets a defect. Ended that way, it loses nothing that was
acknowledged; it is like kill -9.

In a program of somebody else's, which has not called `hold`, the handlers are as they were before, afterwards, and
there is no timer.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time

TYPE_CHECKING = False  # as `typing` has it, which takes as long to import as all that is above
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import IO

__all__ = ["finish", "heed", "hold", "hold_interrupt", "release_interrupt"]

GRACE_SECONDS = 40.0
"""From a first signal to stop to the end of the process, whatever it waits for: 30 s for BMPs, and what comes before
and after."""

HASTE_SECONDS = 10.0
"""From a second signal, or from the end of the event loop, to the end of the process, whatever it waits for."""

STOPS = (signal.SIGINT, signal.SIGTERM)
REMEMBERED = (signal.SIGHUP, signal.SIGUSR2)
IGNORED = (signal.SIGUSR1, signal.SIGTTOU)


class _Process:
    """What this process makes of signals."""

    def __init__(self) -> None:
        self.held = False
        """Whether the program is one of ours."""
        self.early: dict[int, None] = {}
        """What came before `heed`, each once, in order."""
        self.before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        """The handlers that there were before `heed`."""
        self._stops = 0
        self._deadline = float("inf")
        self._nowhere: IO[str] | None = None

    def hold(self) -> None:
        """Let no signal do harm until `heed`. To be called first, by a program that then serves."""
        self.held = True
        for number in STOPS:
            signal.signal(number, lambda *_: os._exit(0))
        for number in REMEMBERED:
            signal.signal(number, lambda number, _: self.early.setdefault(number))
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def heed(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """Call these for their signals from now on, in the running event loop; at once for those that came before."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self.held and self._nowhere is None:
            self._nowhere = open(os.devnull, "w")  # noqa: SIM115, PTH123 - there may be no descriptors later

        waiting: set[int] = set()

        def deliver(number: int) -> None:
            waiting.discard(number)
            handlers[number]()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number in STOPS:
                self._stops += 1
                self.end_within(GRACE_SECONDS if self._stops == 1 else HASTE_SECONDS)
            elif number in waiting:  # one reload does for many that were asked for
                return
            waiting.add(number)
            if not loop.is_closed():  # else this is about to end anyway
                loop.call_soon_threadsafe(deliver, number)

        for number in handlers:
            self.before.setdefault(number, signal.getsignal(number))
            signal.signal(number, on_signal)
        for number in self.early:
            if number in handlers:
                loop.call_soon(handlers[number])
        self.early.clear()

    def finish(self) -> None:
        """The event loop has ended, and the program is about to; or it goes on, where it is somebody else's."""
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if self.held else handler or signal.SIG_DFL)
        self.before.clear()
        self.end_within(HASTE_SECONDS)

    def end_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        if self._nowhere is not None and deadline < self._deadline:
            self._deadline = deadline
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._nowhere)


_process = _Process()


hold, heed, finish = _process.hold, _process.heed, _process.finish


def hold_interrupt() -> None:
    """Have SIGINT end the process without a traceback, until `release_interrupt`. For programs that do not serve."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _process.held = True


def release_interrupt() -> None:
    """Have SIGINT raise `KeyboardInterrupt` again, if `hold_interrupt` holds it."""
    if _process.held:
        signal.signal(signal.SIGINT, signal.default_int_handler)
