"""Where the programs begin: signals first, and only then whatever takes time to import.

Theory of operation. What a command prints may find nobody who reads it (`| head`), no room on the disk, or an encoding
that cannot show it. The first two end the command with status 1 and without a traceback, in the last case plain
characters stand for what cannot be shown, or `?`. A program that serves goes on all the same (`output`).
"""

from __future__ import annotations

import codecs
import errno
import os
import sys

from spalloc_server.cli import signals

TYPE_CHECKING = False  # as `typing` has it, which takes as long to import as all that is above
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["admin", "serve", "web"]

NO_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a standard output that takes nothing."""


def serve() -> None:
    """Be `spalloc_server`."""
    signals.hold()
    from spalloc_server.cli.serve import main

    _run("spalloc_server", main)


def web() -> None:
    """Be `spalloc_web`."""
    signals.hold()
    from spalloc_server.cli.web import main

    _run("spalloc_web", main)


def admin() -> None:
    """Be `spalloc-admin`."""
    signals.hold_interrupt()
    from spalloc_server.cli.admin import main

    _run("spalloc-admin", main)


PLAIN = {"█": "#", "▀": '"', "▄": "_", "░": "-", "·": ".", "…": "~", "×": "#", "–": "-", "‘": "'", "’": "'"}  # noqa: RUF001
"""What is shown in an encoding that has not this character."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(each, "?") for each in error.object[error.start : error.end]), error.end


def _run(program: str, main: Callable[[], object]) -> None:
    codecs.register_error("plain", _plain)
    output = sys.stdout
    if output is not None:
        output.reconfigure(errors="plain")  # type: ignore[union-attr]
    status: str | int | None = 0
    try:
        try:
            main()
        except SystemExit as exc:
            status = exc.code
        if output is not None:
            output.flush()
    except OSError as exc:
        if exc.errno not in NO_OUTPUT or exc.filename is not None:
            raise
        status = status or 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left in the buffer
        if exc.errno != errno.EPIPE:
            print(f"{program}: standard output cannot be written: {exc.strerror}", file=sys.stderr)
    sys.exit(status)
