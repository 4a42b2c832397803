"""A hand between SQLite and the disk: sees every write, sync, truncation and deletion, and can make each of them fail.

Theory of operation. SQLite reaches files through a table of functions (`sqlite3_vfs`), and every open file carries
another (`sqlite3_io_methods`). `Disk` puts functions of its own into the default table, by way of ctypes and without a
compiler, for as long as its context lasts. They note what is done and pass it on.

From the notes `crash_image` makes what a power cut at any moment could have left behind: what was synced is there;
what was not may be there, may not, or may be there in part, sector by sector and in any order.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeAlias

__all__ = ["Disk", "Operation", "crash_image"]

SECTOR = 512

_int64 = ctypes.c_int64
_pointer = ctypes.c_void_p
# Names are pointers, not c_char_p: SQLite keeps them, and reads parameters that stand behind them.
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, _pointer, ctypes.c_int, _pointer)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_int, _int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int)


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("version", ctypes.c_int),
        ("close", _pointer),
        ("read", _pointer),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        ("others", _pointer * 13),
    ]


class _File(ctypes.Structure):
    """`sqlite3_file`."""

    _fields_: ClassVar[Sequence[Any]] = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    """The first fields of `sqlite3_vfs`."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("data", _pointer),
        ("open", _Open),
        ("delete", _Delete),
    ]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something done to a file."""

    kind: Literal["write", "truncate", "sync", "delete"]
    file: str
    offset: int = 0
    data: bytes = b""


Fault: TypeAlias = Callable[[Operation], int]
"""Asked before each operation: 0 lets it be done, else SQLite's error code that it fails with."""


class Disk:
    """While this context lasts, all that SQLite does to files of this process goes through `fault` and `done`.

    Attributes:
        done: what succeeded, in order.
        fault: may be set at any time.
    """

    def __init__(self) -> None:
        self.done: list[Operation] = []
        self.fault: Fault = lambda _: 0
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._vfs = library.sqlite3_vfs_find(None).contents
        self._names: dict[int, str] = {}
        self._kept: list[object] = []  # SQLite holds only their addresses

    def __enter__(self) -> Self:
        self._original = bytes(self._vfs)
        self._vfs.open, self._vfs.delete = self._keep(_Open(self._on_open)), self._keep(_Delete(self._on_delete))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ctypes.memmove(ctypes.addressof(self._vfs), self._original, len(self._original))

    def _keep(self, function: Any) -> Any:
        self._kept.append(function)
        return function

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        code: int = self._original_functions()[0](vfs, name, file, flags, out)
        if code == 0 and name is not None:
            self._names[file] = _file_name(name)
            opened = _File.from_address(file)
            plain = opened.methods.contents
            methods = _Methods.from_buffer_copy(plain)
            methods.write = self._keep(_Write(lambda *call: self._on_write(plain.write, *call)))
            methods.truncate = self._keep(_Truncate(lambda *call: self._on_truncate(plain.truncate, *call)))
            methods.sync = self._keep(_Sync(lambda *call: self._on_sync(plain.sync, *call)))
            opened.methods = ctypes.pointer(self._keep(methods))
        return code

    def _original_functions(self) -> tuple[Any, Any]:
        original = _Vfs.from_buffer_copy(self._original)
        return original.open, original.delete

    def _on_delete(self, vfs: int, name: int, sync: int) -> int:
        operation = Operation("delete", _file_name(name))
        return self._pass_on(operation, lambda: self._original_functions()[1](vfs, name, sync))

    def _on_write(self, write: Any, file: int, data: int, size: int, offset: int) -> int:
        operation = Operation("write", self._names[file], offset, ctypes.string_at(data, size))
        return self._pass_on(operation, lambda: write(file, data, size, offset))

    def _on_truncate(self, truncate: Any, file: int, size: int) -> int:
        return self._pass_on(Operation("truncate", self._names[file], size), lambda: truncate(file, size))

    def _on_sync(self, sync: Any, file: int, flags: int) -> int:
        return self._pass_on(Operation("sync", self._names[file]), lambda: sync(file, flags))

    def _pass_on(self, operation: Operation, act: Callable[[], int]) -> int:
        code = self.fault(operation) or act()
        if code == 0:
            self.done.append(operation)
        return code


def _file_name(name: int) -> str:
    return Path(ctypes.string_at(name).decode()).name


def crash_image(done: Sequence[Operation], rng: random.Random) -> dict[str, bytes]:
    """Files, by name, as a power cut right after `done` may have left them."""
    files: dict[str, bytearray] = {}
    unsynced: dict[str, list[Operation]] = {}
    deleted: list[Operation] = []
    for operation in done:
        waiting = unsynced.setdefault(operation.file, [])
        if operation.kind == "delete":
            deleted.append(operation)
        elif operation.kind == "write" or operation.kind == "truncate":
            waiting.append(operation)
        else:
            # With the first sync of a new log SQLite also syncs the directory: then files deleted before stay deleted.
            if operation.file.endswith(("-wal", "-journal")):
                waiting.extend(deleted)
                deleted.clear()
            for earlier in waiting:
                _apply(files, earlier)
            waiting.clear()
    luck = rng.choice([0.0, 0.5, 1.0])
    for waiting in [*unsynced.values(), deleted]:
        for operation in waiting:
            for part in _sectors(operation):
                if rng.random() < luck:
                    _apply(files, part)
    return {name: bytes(content) for name, content in files.items()}


def _sectors(operation: Operation) -> list[Operation]:
    """A write, split where a disk may split it."""
    if operation.kind != "write":
        return [operation]
    offsets = range(0, len(operation.data), SECTOR)
    return [Operation("write", operation.file, operation.offset + n, operation.data[n : n + SECTOR]) for n in offsets]


def _apply(files: dict[str, bytearray], operation: Operation) -> None:
    if operation.kind == "delete":
        files.pop(operation.file, None)
        return
    content = files.setdefault(operation.file, bytearray())
    end = operation.offset + len(operation.data)
    if operation.kind == "truncate":
        del content[end:]
    content.extend(bytes(max(0, end - len(content))))
    content[operation.offset : end] = operation.data
