"""An asyncio program in a thread of its own, for programs that are not asyncio themselves.

Theory of operation. `start` runs the program's `run` in an event loop in a new thread, and waits until it says that it
is ready or has failed. Everything else reaches it through its event loop. It runs once: what it has used up is not
made anew.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

__all__ = ["InThread"]


class InThread(ABC):
    """What a class inherits that has `run` and `stop`, to be run in a thread as well."""

    _thread: Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def run(self, *, on_ready: Callable[[], None] | None = None) -> None:
        """Run until `stop`; call `on_ready` when ready."""

    @abstractmethod
    def stop(self) -> None:
        """Stop gracefully. For the event loop's own thread."""

    def start(self) -> None:
        """Run in a thread of its own, once, and return when ready.

        Raises:
            RuntimeError: it has been started before, whether it runs or not.
            Exception: whatever keeps it from becoming ready.
        """
        if self._thread is not None:
            name = type(self).__name__
            now = "runs already" if self.is_alive() else "has run"
            raise RuntimeError(f"this {name} {now}: a {name} runs once; make another")
        ready: Future[None] = Future()
        self._thread = Thread(target=self._run_in_thread, args=(ready,), name=type(self).__module__)
        self._thread.start()
        ready.result()

    def stop_and_join(self) -> None:
        """Stop what `start` started, gracefully, and wait for its end. Harmless when repeated."""
        if self._loop is not None and self.is_alive():
            with suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self.stop)
        self.join()

    def is_alive(self) -> bool:
        """Whether the thread of `start` is running."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread of `start`, for at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run_in_thread(self, ready: Future[None]) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await self.run(on_ready=lambda: ready.set_result(None))

        try:
            asyncio.run(run())
        except BaseException as exc:
            if ready.done():
                raise
            ready.set_exception(exc)
