"""Config files: reading one of either form, and telling two configurations apart.

Theory of operation. A file whose name ends in `.toml` is declarative (`config_toml`). Any other is a Python script
that binds `configuration`. To execute a script is to trust everybody who may write it, so one that others than its
owner may write is refused. Whatever goes wrong ends in one `ConfigurationError` that names the file and, where that
is known, the line; nothing that the caller holds is touched, so a bad file changes nothing. What was read is what was
there before and afterwards (`config_sources`): a file that changes meanwhile is an error, too.

A configuration without machines must say so, since a file that is empty or cut off has none: `machine = []` in TOML, a
`configuration` that is bound in Python.

A reload compares the configuration that it read with the one in force: machines of the same hardware change in
place, others are removed, added, or both.
"""

from __future__ import annotations

import csv
import os
import re
import traceback
from collections import namedtuple
from enum import IntEnum
from itertools import chain
from pathlib import Path
from typing import Any, Final

import spalloc_server
from spalloc_server import configuration as configuration_names, coordinates
from spalloc_server.config.settings import Configuration
from spalloc_server.config.sources import opened, recorded, text_of
from spalloc_server.config.toml import read_toml
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links
from spalloc_server.log.text import printable

__all__ = ["load"]

WRITABLE_BY_OTHERS: Final = 0o022
"""Permission to write for the group, or for everybody."""


def load(path: str | os.PathLike[str], *, allow_unsafe: bool = False) -> Configuration:
    """Read a config file, of the form that its name's ending tells.

    Args:
        path: of the file: TOML where it ends in `.toml`, else a Python script.
        allow_unsafe: execute a Python script even if others than its owner may write it.

    Raises:
        ConfigurationError: the file cannot be read, is not safe to execute, fails, says nothing of machines, describes
            what cannot be, or was changed while it was read.
    """
    path = Path(path)
    try:
        with recorded():
            return read_toml(path) if path.suffix.lower() == ".toml" else _read_python(path, allow_unsafe=allow_unsafe)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(printable(" ".join(str(error).split()))) from error


def _read_python(path: Path, *, allow_unsafe: bool) -> Configuration:
    with opened(path) as file:
        if os.fstat(file.fileno()).st_mode & WRITABLE_BY_OTHERS and not allow_unsafe:
            raise ConfigurationError(
                f"{path}: not executed, because others than its owner may write it; take that from them"
                f" (chmod go-w {path}), use the declarative form, a .toml file, or allow it (--allow-unsafe-config)"
            )
        text = text_of(file)
    namespace: dict[str, Any] = {
        "__name__": "spalloc_server_configuration",
        "__package__": spalloc_server.__name__,  # for `from .links import Links`
        "__file__": str(path),
        "Links": Links,
        # What the published modules had imported for themselves, so that scripts found it
        "csv": csv,
        "re": re,
        "chain": chain,
        "namedtuple": namedtuple,  # noqa: PYI024
        "IntEnum": IntEnum,
    }
    for module in (configuration_names, coordinates):
        namespace.update((name, getattr(module, name)) for name in module.__all__)
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), namespace)  # noqa: S102 - this is what the form is
    except BaseException as error:  # whatever a script raises, it is the script's error
        raise ConfigurationError(f"{_place(path, error)}: {_told(error)}") from error
    match namespace.get("configuration"):
        case Configuration() as configuration:
            return configuration
        case None:
            raise ConfigurationError(
                f"{path}: binds no `configuration`; end it with configuration = Configuration(...)"
                " (without machines: configuration = Configuration())"
            )
        case other:
            raise ConfigurationError(
                f"{path}: binds `configuration` to a {type(other).__name__}; it must be a Configuration(...)"
            )


def _place(path: Path, error: BaseException) -> str:
    """The file, and the last of its own lines that led to the error."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    frames = traceback.walk_tb(error.__traceback__)  # which, unlike others, opens no files
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _told(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    try:
        told = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # noqa: BLE001 - an exception class of the script's own
        told = ""
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
