"""Which files a configuration is read from, and how each of them looks.

Theory of operation. While a configuration is read (`recorded`), every file that is opened for it is noted with how it
looked just before: the config file, a CSV that it names, whatever else a Python file opens. Python's audit event for
`open` tells of them, so that a script needs no care; those that C code opens, as for TLS, are told by `note`. Modules
that a script imports are left out: they are not loaded again either. When all is read, each file is looked at once
more: where one has changed, what was read may be half of the old and half of the new, and is an error.

How a file looks is its inode, its time, its size and a digest of its content. The content counts, because times are
coarse on some file systems: two saves within their step differ in nothing else.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from spalloc_server.errors import ConfigurationError, ConfigurationValueError

__all__ = ["Look", "Looks", "look", "note", "opened", "recorded", "text_of"]

MAX_FILE_BYTES = 2**26
"""Bytes of a config or wiring file (else an error). A wiring file of 100,000 triads has nine million."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Look(NamedTuple):
    """How a file looks."""

    inode: int
    changed_ns: int
    size: int
    digest: bytes


Looks: TypeAlias = dict[Path, Look | None]
"""Files, by absolute path; None for one that cannot be read, or is no regular file."""

_recorded: ContextVar[Looks | None] = ContextVar("_recorded", default=None)


def look(path: Path) -> Look | None:
    """How the file at `path` looks now; None where it cannot be read, or is no regular file. Never waits for a FIFO."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - of a number
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            digest = hashlib.file_digest(file, "sha256").digest()
            return Look(status.st_ino, status.st_mtime_ns, status.st_size, digest)
    except Exception:  # noqa: BLE001 - whatever it is, the file cannot be read; who wants to will be told why
        return None


@contextmanager
def recorded(files: Looks | None = None) -> Iterator[None]:
    """Note in `files` how each file looks that this block opens. Within another such block, that one has them.

    Raises:
        ConfigurationError: at the end, where one of them has changed meanwhile.
    """
    if _recorded.get() is not None:
        yield
        return
    _listen_to_open()
    files = {} if files is None else files
    token = _recorded.set(files)
    try:
        yield
    finally:
        _recorded.reset(token)
    for path, before in files.items():
        if look(path) != before:
            raise ConfigurationError(f"{path}: was changed while it was read; read it again once it is complete")


def note(path: str | os.PathLike[str]) -> None:
    """The file at `path` is about to be read. Does nothing outside of `recorded`."""
    files = _recorded.get()
    absolute = Path(path).absolute()  # with all links in it, which may be changed
    if files is not None and absolute not in files:
        files[absolute] = None
        files[absolute] = look(absolute)


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open the file at `path` to read it; a FIFO to which nobody writes is empty, and not waited for."""
    return open(path, "rb", opener=_open_at_once)


def text_of(file: BinaryIO) -> str:
    """The content of a file: UTF-8, with or without a byte order mark.

    Raises:
        ConfigurationValueError: it is no such text; the error names file and line.
        OSError: it cannot be read.
    """
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationValueError(
            f"{os.fspath(file.name)}: it has more than {MAX_FILE_BYTES} bytes; is it the file?"
        )
    bad, why = content.find(b"\0"), "it has a NUL character; is it a text?"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        bad, why = 0, "it is in UTF-16; save it in UTF-8"
    elif bad < 0:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad, why = error.start, f"not a text in UTF-8: {error.reason} at byte {error.start}"
    line = len(content[:bad].splitlines()) + content[:bad].endswith((b"\n", b"\r")) or 1
    raise ConfigurationValueError(f"{os.fspath(file.name)}, line {line}: {why}")


def _open_at_once(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _recorded.get() is not None:
        path, _, flags = arguments
        if isinstance(path, int) or flags & _WRITING:
            return
        if not sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):  # noqa: SLF001 - an import is no source
            note(os.fsdecode(path))


_listening = False


def _listen_to_open() -> None:
    global _listening
    if not _listening:
        _listening = True
        sys.addaudithook(_on_audit)
