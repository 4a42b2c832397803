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

import os
import traceback
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from spalloc_server import configuration as configuration_names
from spalloc_server import coordinates
from spalloc_server.config_sources import recorded
from spalloc_server.config_toml import read_toml
from spalloc_server.configuration import Configuration, Machine
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links

__all__ = ["Comparison", "compare", "load", "vanishing"]

WRITABLE_BY_OTHERS = 0o022
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
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not a text in UTF-8: {error.reason} at byte {error.start}") from error


def _read_python(path: Path, *, allow_unsafe: bool) -> Configuration:
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & WRITABLE_BY_OTHERS and not allow_unsafe:
            raise ConfigurationError(
                f"{path}: not executed, because others than its owner may write it; take that from them"
                f" (chmod go-w {path}), use the declarative form, a .toml file, or allow it (--allow-unsafe-config)"
            )
        text = file.read()
    namespace: dict[str, Any] = {"__name__": "spalloc_server_configuration", "__file__": str(path), "Links": Links}
    for module in (configuration_names, coordinates):
        namespace.update((name, getattr(module, name)) for name in module.__all__)
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), namespace)  # noqa: S102 - this is what the form is
    except (Exception, SystemExit) as error:
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
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between the configuration in force and a new one. False where nothing does."""

    added: tuple[str, ...] = ()
    """Names of machines that only the new one has."""
    removed: tuple[str, ...] = ()
    """Names of machines that only the old one has. Their jobs end."""
    replaced: Mapping[str, str]
    """{machine: what differs in its hardware}: removed and added again. Their jobs end."""
    changed: Mapping[str, str]
    """{machine: what differs}: changed in place, and their jobs stay."""
    order: tuple[str, ...] | None = None
    """The new order of the machines that both have, where it is not the old one."""
    settings: Mapping[str, tuple[object, object]]
    """{setting: (old value, new value)}."""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def lines(self) -> list[str]:
        """For people: one line for each machine and each setting that differs."""
        return [
            *(f"machine {name}: removed" for name in self.removed),
            *(f"machine {name}: replaced ({what})" for name, what in self.replaced.items()),
            *(f"machine {name}: {what}" for name, what in self.changed.items()),
            *(f"machine {name}: added" for name in self.added),
            *([f"machines reordered: {', '.join(self.order)}"] if self.order else ()),
            *(f"{name}: {old!r} -> {new!r}" for name, (old, new) in self.settings.items()),
        ]


def compare(old: Configuration, new: Configuration) -> Comparison:
    """What a reload that replaces `old` by `new` changes."""
    before = {machine.name: machine for machine in old.machines}
    after = {machine.name: machine for machine in new.machines}
    both = [name for name in after if name in before]
    same = [name for name in both if before[name].same_hardware(after[name])]
    earlier, now = dict(_settings(old)), dict(_settings(new))
    return Comparison(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        replaced={name: _hardware_changes(before[name], after[name]) for name in both if name not in same},
        changed={name: _changes(before[name], after[name]) for name in same if before[name] != after[name]},
        order=tuple(both) if both != [name for name in before if name in after] else None,
        settings={name: (earlier[name], value) for name, value in now.items() if value != earlier[name]},
    )


def vanishing(old: Mapping[str, Machine], new: Mapping[str, Machine]) -> list[str]:
    """Names of the machines whose jobs end where `new` takes the place of `old`: those removed, and those replaced."""
    return [name for name, machine in old.items() if name not in new or not machine.same_hardware(new[name])]


def _settings(configuration: Configuration) -> Iterator[tuple[str, object]]:
    """Every setting by name; those of a group as `limits.connections`."""
    for field in fields(configuration):
        value = getattr(configuration, field.name)
        if isinstance(value, msgspec.Struct):
            yield from ((f"{field.name}.{name}", part) for name, part in msgspec.structs.asdict(value).items())
        elif field.name != "machines":
            yield field.name, value


def _hardware_changes(old: Machine, new: Machine) -> str:
    size = f"{old.width} x {old.height} -> {new.width} x {new.height} triads"
    changes = [size] if (old.width, old.height) != (new.width, new.height) else []
    for what, before, after in (
        ("board locations", old.board_locations, new.board_locations),
        ("BMP addresses", old.bmp_ips, new.bmp_ips),
        ("board addresses", old.spinnaker_ips, new.spinnaker_ips),
    ):
        differing = sum(before.get(key) != after.get(key) for key in {*before, *after})
        if differing:
            changes.append(f"{differing} {what} differ")
    return ", ".join(changes)


def _changes(old: Machine, new: Machine) -> str:
    changes = [
        f"{what} +{len(after - before)} -{len(before - after)}"
        for what, before, after in (
            ("dead boards", old.dead_boards, new.dead_boards),
            ("dead links", old.dead_links, new.dead_links),
        )
        if before != after
    ]
    if old.tags != new.tags:
        changes.append(f"tags {_listed(old.tags)} -> {_listed(new.tags)}")
    return ", ".join(changes)


def _listed(tags: AbstractSet[str]) -> str:
    return "{" + ", ".join(sorted(tags)) + "}"
