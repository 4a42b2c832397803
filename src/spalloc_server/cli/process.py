"""What the commands do alike: run in the best event loop, heed signals, fail in one clear line, and count."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from spalloc_server.cli import signals
from spalloc_server.errors import SpallocServerError

__all__ = ["PATH", "count", "on_stop_signals", "one_line_errors", "run"]


PATH = click.Path(path_type=Path)
"""The type of an argument or option that names a file."""


def run(program: str, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, with uvloop where it is installed; errors as `one_line_errors`."""
    try:
        with one_line_errors(program), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main)
    finally:
        signals.finish()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        from uvloop import new_event_loop
    except ImportError:  # as on systems for which there is no uvloop
        return asyncio.new_event_loop
    return new_event_loop


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the process with one line and exit status 1 where something keeps it from doing its work."""
    problem: BaseException | None = None
    try:
        yield
    except* (SpallocServerError, BrokenPipeError) as group:
        problem = group
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
    if isinstance(problem, BrokenPipeError):
        raise problem  # nobody reads our output any more, as after `| head`: click ends quietly then
    if problem is not None:
        with suppress(OSError):  # nobody can be told; the exit status says it, too
            print(f"{program}: {' '.join(str(problem).split())}", file=sys.stderr)
        sys.exit(1)


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at each SIGINT (ctrl+c) and SIGTERM, and when the terminal goes, from the running event loop."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    signals.heed(dict.fromkeys(numbers, stop))


def count(number: int, what: str) -> str:
    """For example `1 board`, `24 boards`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
