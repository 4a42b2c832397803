"""The declarative form of a config file: TOML of the same model as the Python form, and nothing executed.

Theory of operation. A file's tables are decoded into structs that know every key and its type, and then handed to
the very constructors that Python config files call. The top level's keys are the fields of `Configuration`, taken
from it, so that they are declared once. A `[[machine]]` has a `form`, which is the constructor that makes it; where
the model has a mapping, TOML has a list of tables with the mapping's key and value by name. A file that says nothing of
machines is refused: it is empty, or cut off. `machine = []` is a file without machines.

An error is told with the file, the line where that can be known, the key, and the machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from spalloc_server.config.machine import DEFAULT_TAGS, Frame, Machine
from spalloc_server.config.machine_parts import shortened
from spalloc_server.config.options import Options, in_words
from spalloc_server.config.settings import Configuration, board_locations_from_spinner
from spalloc_server.config.sources import opened, text_of
from spalloc_server.coordinates import Board, Location
from spalloc_server.errors import ConfigurationError, ConfigurationValueError
from spalloc_server.links import Links

__all__ = ["FILE", "read_toml"]

LinkName: TypeAlias = Literal["east", "north_east", "north", "west", "south_west", "south"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: keys only by name, unknown ones are errors."""


class _BoardLocation(_Table, frozen=True, kw_only=True):
    board: Board
    location: Location


class _BoardHost(_Table, frozen=True, kw_only=True):
    board: Board
    host: str


class _FrameHost(_Table, frozen=True, kw_only=True):
    frame: Frame
    host: str


class _Machine(_Table, frozen=True, kw_only=True, tag_field="form"):
    name: str
    """By which users and operators call it; each machine has one of its own."""
    tags: frozenset[str] = DEFAULT_TAGS
    """Labels that jobs may ask for."""


class _SingleBoard(_Machine, frozen=True, kw_only=True, tag="single_board"):
    bmp_ip: str
    """Name or address of the board's BMP."""
    spinnaker_ip: str
    """Name or address of the board itself."""

    def build(self, folder: Path) -> Machine:  # noqa: ARG002 - as the other forms
        return Machine.single_board(self.name, self.tags, self.bmp_ip, self.spinnaker_ip)


class _Boards(_Machine, frozen=True, kw_only=True):
    width: int | None = None
    """Triads across; inferred, with `height`, from the boards where both are left out."""
    height: int | None = None
    """Triads up."""
    board_locations: str | list[_BoardLocation] = []
    """Name of a CSV, relative to the config file's folder, or the locations themselves."""
    dead_boards: frozenset[Board] = frozenset()
    """Boards [x, y, z] that must not be used."""
    dead_links: frozenset[tuple[int, int, int, LinkName]] = frozenset()
    """Links [x, y, z, link] that must not be used; one that is dead in both directions is listed from both ends."""

    def common(self, folder: Path) -> dict[str, Any]:
        """Arguments of both constructors of a machine of many boards."""
        if isinstance(self.board_locations, str):
            try:
                locations = board_locations_from_spinner(folder / self.board_locations)
            except (ConfigurationError, OSError, ValueError) as error:  # ValueError: not UTF-8, or no file's name
                raise ConfigurationValueError(f"machine {self.name!r}: board_locations: {error}") from error
        else:
            given = ((entry.board, entry.location) for entry in self.board_locations)
            locations = _unique(f"machine {self.name!r}: board_locations: board", given)
        return {
            "name": self.name,
            "tags": self.tags,
            "width": self.width,
            "height": self.height,
            "dead_boards": self.dead_boards,
            "dead_links": {(x, y, z, Links[link]) for x, y, z, link in self.dead_links},
            "board_locations": locations,
        }


class _StandardIps(_Boards, frozen=True, kw_only=True, tag="standard_ips"):
    base_ip: str | msgspec.UnsetType = msgspec.UNSET
    """The address from which all others are counted; by default 192.168.0.0."""
    cabinet_stride: str | msgspec.UnsetType = msgspec.UNSET
    """From one cabinet to the next; by default 0.0.5.0."""
    frame_stride: str | msgspec.UnsetType = msgspec.UNSET
    """From one frame to the next; by default 0.0.1.0."""
    board_stride: str | msgspec.UnsetType = msgspec.UNSET
    """From one board to the next; by default 0.0.0.8."""
    bmp_offset: str | msgspec.UnsetType = msgspec.UNSET
    """From a frame's address to its BMP's; by default 0.0.0.0."""
    spinnaker_offset: str | msgspec.UnsetType = msgspec.UNSET
    """From a board's address to that of its chips; by default 0.0.0.1."""

    def build(self, folder: Path) -> Machine:
        own = set(_StandardIps.__struct_fields__) - set(_Boards.__struct_fields__)
        given = {name: value for name in own if (value := getattr(self, name)) is not msgspec.UNSET}
        return Machine.with_standard_ips(**self.common(folder), **given)


class _Explicit(_Boards, frozen=True, kw_only=True, tag="explicit"):
    bmp_ips: list[_FrameHost]
    """Name or address of the BMP of each frame [cabinet, frame]."""
    spinnaker_ips: list[_BoardHost]
    """Name or address of each board [x, y, z]."""

    def build(self, folder: Path) -> Machine:
        where = f"machine {self.name!r}"
        bmps = ((entry.frame, entry.host) for entry in self.bmp_ips)
        boards = ((entry.board, entry.host) for entry in self.spinnaker_ips)
        return Machine(
            **self.common(folder),
            bmp_ips=_unique(f"{where}: bmp_ips: frame", bmps),
            spinnaker_ips=_unique(f"{where}: spinnaker_ips: board", boards),
        )


def _unique(what: str, items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key, value in items:
        if key in mapping:
            raise ConfigurationValueError(f"{what} {key} is listed twice; each may be listed once")
        mapping[key] = value
    return mapping


def _file_type() -> type[msgspec.Struct]:
    """The top level of a file: the fields of `Configuration`, with a list of tables in place of the machines."""
    kinds = get_type_hints(Configuration, include_extras=True)
    machines: Any = list[_SingleBoard | _StandardIps | _Explicit] | msgspec.UnsetType
    settings: list[Any] = [("machine", machines, msgspec.UNSET)]
    for field in fields(Configuration):
        if field.name != "machines":
            default = field.default if field.default_factory is MISSING else field.default_factory()
            settings.append((field.name, kinds[field.name], default))
    return msgspec.defstruct("ConfigurationFile", settings, frozen=True, kw_only=True, forbid_unknown_fields=True)


FILE: Any = _file_type()
"""The type of a whole file."""

_FORMS = {"single_board": _SingleBoard, "standard_ips": _StandardIps, "explicit": _Explicit}

_WORDS = {"object": "table", "str": "string", "int": "integer", "bool": "boolean"}
"""What TOML calls the kinds of values."""

_CHOICES: dict[str, Iterable[str]] = {
    "form": sorted(_FORMS),
    "dead_links": get_args(LinkName),
    **{
        name: get_args(kind)
        for group in Options.__subclasses__()
        for name, kind in get_type_hints(group).items()
        if get_origin(kind) is Literal
    },
}
"""What a key may be, where that is one of a few words."""

_QUOTES = "\"'"

_UNQUOTED = str.maketrans("", "", _QUOTES + " ")

_KEYS = sorted({"machine", "form", *(key for kind in (FILE, *_FORMS.values()) for key in kind.__struct_fields__)})
"""Of the top level and of machines; what else is misspelt is named without a guess."""


def read_toml(path: Path) -> Configuration:
    """Read a config file of the declarative form.

    Raises:
        ConfigurationError: the file is not TOML, or is not of the form, or what it describes cannot be.
        OSError: it cannot be read.
    """
    with opened(path) as content:
        text = text_of(content)
    try:
        file = msgspec.toml.decode(text, type=FILE)
    except msgspec.ValidationError as error:
        raise _misfit(path, text, str(error)) from error
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise _not_toml(path, text, str(error)) from error
    except RecursionError as error:
        deepest = max(enumerate(text.splitlines(), 1), key=lambda line: line[1].count("[") + line[1].count("{"))
        raise ConfigurationError(f"{path}, line {deepest[0]}: it is nested too deeply") from error
    if file.machine is msgspec.UNSET:
        raise ConfigurationError(
            f"{path}: it names no machines, so it may be empty or cut off; list each as a [[machine]], or, where there"
            " are to be none, write machine = [] before the first table"
        )
    machines = []
    for index, machine in enumerate(file.machine):
        with _located(path, text, f"machine[{index}]"):
            machines.append(machine.build(path.parent))
    settings = {field.name: getattr(file, field.name) for field in fields(Configuration) if field.name != "machines"}
    try:
        return Configuration(machines, **settings)
    except ConfigurationError:
        for count in range(len(machines) + 1):  # so that what is used twice is told with the place of its second use
            with _located(path, text, f"machine[{count - 1}]" if count else "ip"):
                Configuration(machines[:count], **settings)
        raise


def _not_toml(path: Path, text: str, error: str) -> ConfigurationError:
    """A parser's error, such as "Invalid value (at line 2, column 8)", told with its place."""
    message, _, place = error.partition(" (at ")
    if found := re.match(r"line (\d+), (column \d+)", place):
        line, message = int(found[1]), f"{message} at {found[2]}"
        if re.match(r"\s*\[\s*machine\s*\]", text.splitlines()[line - 1]):
            return ConfigurationError(f"{path}, line {line}: each machine begins with [[machine]], not with [machine]")
    elif found := re.search(r"\d{1000}", text):
        line, message = text.count("\n", 0, found.start()) + 1, "a number has thousands of digits"
    else:
        line = len(text.splitlines())
        message += ", and the file ends"
    return ConfigurationError(f"{path}, line {line}: not TOML: {message}")


@contextmanager
def _located(path: Path, text: str, key: str = "") -> Iterator[None]:
    """Tell an error with the place of a key."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{_place(path, text, key)}: {error}") from error


def _misfit(path: Path, text: str, error: str) -> ConfigurationError:
    """A decoder's error, such as "Expected `int`, got `str` - at `$.limits.connections`", told with its place."""
    message, _, key = error.partition(" - at ")
    key = key.strip("`").removeprefix("$").removeprefix(".")
    if unknown := re.search(r"(?s)unknown field `(.*)`", message):
        name, close = unknown[1], get_close_matches(unknown[1], _KEYS, n=1)
        key = f"{key}.{shortened(name).strip(_QUOTES)}".removeprefix(".")
        message = "there is no such key" + (" here" if name in close else f"; is `{close[0]}` meant?" if close else "")
    elif missing := re.search(r"missing required field (`.*`)", message):
        message = f"the key {missing[1]} is missing"
    else:
        message = _brackets(text, key, message) or in_words(message.replace(" | null", ""), _WORDS) + _hint(text, key)
    who = ""
    if found := re.match(r"machine\[(\d+)\]", key):
        table = msgspec.toml.decode(text)["machine"][int(found[1])]
        if isinstance(table, dict) and isinstance(name := table.get("name"), str):
            who = f"machine {name!r}: "
    return ConfigurationError(f"{_place(path, text, key)}: {who}{key or 'the file'}: {message}")


def _hint(text: str, key: str) -> str:
    """What would be right, where a few words tell it."""
    name, places = re.findall(r"(\w+)((?:\[\d+\])*)", key)[-1] if key else ("", "")
    if name in _CHOICES and (name != "dead_links" or places.count("[") == 2):
        return f"; it is one of {', '.join(_CHOICES[name])}"
    value = msgspec.toml.decode(text)
    for part in re.findall(r"\w+", key):
        value = value[int(part) if isinstance(value, list) else part]
    if name in {"tags", "clients", "managers", "proxies"} and isinstance(value, str):
        return f'; write ["{value}"]'
    return ""


def _brackets(text: str, key: str, message: str) -> str | None:
    """What is wrong where a table's header has single brackets in place of double ones, or the other way round."""
    name = re.sub(r"\[\d+\]", "", key)
    once, often = f"[{name}]", f"[[{name}]]"
    headers = {line.partition("#")[0].replace(" ", "").strip() for line in text.splitlines()}
    if re.match(r"Expected `.*\barray\b.*`, got `object`", message) and once in headers:
        return f"it is a list of tables, so each one begins with {often}, not with {once}"
    if re.match(r"Expected `.*\bobject\b.*`, got `array`", message) and often in headers:
        return f"it is one table, so it begins with {once}, not with {often}"
    return None


def _place(path: Path, text: str, key: str) -> str:
    """The file and, where it can be found, the line of a key such as `limits.connections` or `machine[1].tags`."""
    lines = _lines(text)
    while key and key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return f"{path}, line {lines[key]}" if key else str(path)


def _lines(text: str) -> dict[str, int]:
    """{key, such as `machine[1].tags`: number of the line on which it begins}."""
    lines: dict[str, int] = {}
    seen: Counter[str] = Counter()
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*[\"']?([A-Za-z_][\w.]*)[\"']?\s*\]", line):
            table = header[2]
            if header[1] == "[[":
                lines.setdefault(table, number)
                table = f"{header[2]}[{seen[header[2]]}]"
                seen[header[2]] += 1
            lines.setdefault(table, number)
        elif entry := re.match(r"\s*([\w.\"' -]+?)\s*=", line):  # dots and quotes, too: limits."connections" = 5
            key = f"{table}.{entry[1]}".translate(_UNQUOTED).removeprefix(".")
            while key and key not in lines:
                lines[key] = number
                key = key.rpartition(".")[0]
    return lines
