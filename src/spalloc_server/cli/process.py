"""What the commands do alike: run in the best event loop, heed signals, fail in one clear line, and count."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import click

from spalloc_server.cli import signals
from spalloc_server.errors import SpallocServerError
from spalloc_server.log.text import printable

__all__ = [
    "PATH",
    "allow_many_files",
    "count",
    "give_memory_back",
    "on_stop_signals",
    "one_line_errors",
    "run",
    "say",
    "write",
]


PATH = click.Path(path_type=Path)
"""The type of an argument or option that names a file."""

LARGE_BYTES = 128 * 1024
"""A block of memory of this size goes back to the system as soon as it is freed."""

KEPT_BYTES = 4 * 1024 * 1024
"""Of smaller ones, so much is kept at the end of the heap."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Numbers of settings of glibc, by its header malloc.h."""


def run(program: str, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, with uvloop where it is installed; errors as `one_line_errors`."""
    try:
        with one_line_errors(program), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main)
    finally:
        main.close()  # it has not begun, where ctrl+c came before
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
            say(f"{program}: {' '.join(str(problem).split())}", file=sys.stderr, wrap=False)
        sys.exit(1)


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at each SIGINT (ctrl+c) and SIGTERM, and when the terminal goes, from the running event loop."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    signals.heed(dict.fromkeys(numbers, stop))


def say(text: str, *, indent: int = 0, wrap: bool = True, file: IO[str] | None = None) -> None:
    """Print a line, in which nothing is a terminal's control.

    Args:
        text: the line.
        indent: of what does not fit on a terminal's line, and so comes below.
        wrap: whether it goes on below between two words; else wherever the terminal's line ends.
        file: where to; by default standard output.
    """
    file = file or sys.stdout
    text = printable(text)
    if wrap and file is not None and file.isatty():
        width = max(shutil.get_terminal_size().columns, indent + 20)
        begin, rest = text[:indent], text[indent:]
        lines = textwrap.wrap(rest, width - indent, break_long_words=False, break_on_hyphens=False)
        text = begin + f"\n{'':{indent}}".join(lines)
    print(text, file=file)


def write(path: Path, text: str) -> None:
    """Write a file; `SpallocServerError` where that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise SpallocServerError(f"{path} cannot be written: {exc.strerror}") from exc


def count(number: int, what: str) -> str:
    """For example `1 board`, `24 boards`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def allow_many_files() -> None:
    """Have as many file descriptors as the system allows: each client needs one."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # some systems allow fewer than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_memory_back() -> None:
    """Have large blocks of memory go back to the system once they are freed, where the C library is glibc.

    By itself it keeps them for later, of sizes up to the largest block that was ever freed: after one password, whose
    hash takes 19 MiB, or one long transfer of memory. With small blocks between them, tens of MiB are never used again.
    """
    import ctypes

    with suppress(OSError, AttributeError):  # as another C library has it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
