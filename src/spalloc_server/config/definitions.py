"""Machine definitions: the JSON that the Java server imports, as a configuration; and a configuration as TOML.

Theory of operation. `Definitions` and `MachineDefinition` say which keys there are and what each may be. Each field is
converted by itself, so that one reading finds everything that is wrong; every problem names machine, field and value,
and says what would be right. Coordinates are spelled as an object, a list or a text, in keys as a text. What is good by
itself goes to the constructors that config files call, and what they refuse is told in the file's own words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.config.machine import Machine
from spalloc_server.config.machine_parts import MAX_SHOWN, shortened
from spalloc_server.config.options import MAX_NUMBER, MAX_PORT, Interval, Positive
from spalloc_server.config.settings import DEFAULT_PORT, Configuration
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links

__all__ = ["Definitions", "MachineDefinition", "names_in", "read_definitions", "to_toml"]

MAX_PROBLEMS = 20
"""Problems of one file of machine definitions that are told; of more, how many."""

MAX_NAMES = 20
"""Machines of one import that the audit names."""

_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_RIGHT_IPV4: Final = "it is four numbers from 0 to 255, without leading zeros, such as 192.168.0.1"
_KEYS: Final = {"xyz": '"[x:0,y:0,z:0]"', "cf": '"[c:0,f:0]"', "cfb": '"[c:0,f:0,b:0]"'}
"""How coordinates are spelled as a text, by the letters of their numbers."""
_SPELLED: Final = {
    letters: re.compile(r"\[" + ",".join(rf"\s*{letter}\s*:\s*([0-9]{{1,9}})\s*" for letter in letters) + r"\]")
    for letters in _KEYS
}
_LINKS: Final = {link.name.replace("_", ""): link for link in Links}

_WORD: Final = "a text without blanks and braces"

_Word: TypeAlias = Annotated[str, Meta(pattern=r"^[^\s{}]+$", description=_WORD)]
_Size: TypeAlias = Annotated[int, Meta(ge=1, le=21, description="1 to 21 triads")]
_ByPlace: TypeAlias = dict[str, Any]


class MachineDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A machine as the file has it. A description says what would be right."""

    name: _Word
    tags: Annotated[list[_Word], Meta(description="a list of texts without blanks and braces")] = []
    width: _Size
    height: _Size
    dead_boards: Annotated[list[Any], Meta(description="a list of boards")] = []
    dead_links: Annotated[_ByPlace, Meta(description='links by board, as in {"[x:0,y:0,z:0]": ["north"]}')] = {}
    board_locations: Annotated[
        _ByPlace, Meta(description='places by board, as in {"[x:0,y:0,z:0]": {"c": 0, "f": 0, "b": 0}}')
    ]
    bmp_ips: Annotated[_ByPlace, Meta(description='addresses by frame, as in {"[c:0,f:0]": "192.168.0.0"}')]
    spinnaker_ips: Annotated[_ByPlace, Meta(description='addresses by board, as in {"[x:0,y:0,z:0]": "192.168.0.1"}')]


class Definitions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A whole file: machines, and settings of the server."""

    machines: Annotated[list[MachineDefinition], Meta(description="a list of machines")]
    port: Annotated[int, Meta(ge=1, le=MAX_PORT, description=f"a TCP port, 1 to {MAX_PORT}")] = DEFAULT_PORT
    ip: Annotated[str | None, Meta(description="an IPv4 address, empty or null")] = ""
    timeout_check_interval: Annotated[Interval, Meta(description="seconds, more than 0")] = 5.0
    max_retired_jobs: Annotated[Positive, Meta(description="a whole number, 1 or more")] = 1200
    seconds_before_free: Annotated[Positive, Meta(description="whole seconds, 1 or more")] = 30


def read_definitions(text: str) -> Configuration:
    """Read machine definitions; settings that they do not give have this server's defaults.

    Raises:
        ConfigurationError: it is not JSON, or something in it is wrong; the text tells all that is.
    """
    problems: list[str] = []
    try:
        file = _fields(Definitions, "the file", _parsed(text), problems)
        machines = [_machine(number, each, problems) for number, each in enumerate(file.pop("machines", ()), 1)]
    except RecursionError as error:
        raise ConfigurationError("it is nested too deeply") from error
    ip = file["ip"] = file.get("ip") or ""
    if ip and not _IPV4.fullmatch(ip):
        problems.append(f"the file: ip: {shortened(ip)} is a bad IPv4 address: {_RIGHT_IPV4}, or is empty")
    if not problems:
        return Configuration([machine for machine in machines if machine is not None], **file)
    more = len(problems) - MAX_PROBLEMS
    raise ConfigurationError("; ".join(problems[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else ""))


def names_in(text: str) -> list[str]:
    """Return the names of the first machines of a file, shortened; none where it is not such a file at all."""
    try:
        machines = msgspec.json.decode(text, type=_Named).machines
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return []
    return [machine.name[:MAX_SHOWN] for machine in machines[:MAX_NAMES]]


class _Name(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    machines: list[_Name]


# -------------------------------------------------------------------- JSON, and the fields of its objects


class _Object(dict[str, Any]):
    """An object of JSON. A key that came twice is in `twice`."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.twice = [key for key, count in counts.items() if count > 1]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigurationError(f"not JSON that can be read: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _fields(kind: type[msgspec.Struct], where: str, value: Any, problems: list[str]) -> dict[str, Any]:
    """The good fields of an object, by name; what is wrong with the others joins the problems."""
    if not isinstance(value, _Object):
        problems.append(f"{where} must be an object, not {_shown(value)}")
        return {}
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in value:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"is {close[0]} meant?" if close else f"there are {', '.join(known)}"
            problems.append(f"{where}: there is no key {shortened(key)}: {hint}")
    problems += [f"{where}: the key {shortened(key)} is there twice" for key in value.twice]
    good = {}
    for key, field in known.items():
        right = field.type.__metadata__[-1].description
        if key in value:
            try:
                good[field.name] = msgspec.convert(value[key], list if key == "machines" else field.type)
            except msgspec.ValidationError as error:
                wrong, place = value[key], ""
                if found := re.search(r"`\$(\[(\d+)\])`$", str(error)):  # one of the tags
                    wrong, place, right = wrong[int(found[2])], found[1], _WORD
                problems.append(f"{where}: {key}{place} is {_shown(wrong)}, and must be {right}")
            else:
                if isinstance(value[key], _Object):
                    good[field.name] = value[key]
        elif field.required:
            problems.append(f"{where}: {key} is missing, and must be {right}")
    return good


def _shown(value: Any) -> str:
    """A value for an error: a text as Python writes it, all else as JSON, and of a long one the beginning."""
    if isinstance(value, str):
        return shortened(value)
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


# -------------------------------------------------------------------- machines


def _machine(number: int, value: Any, problems: list[str]) -> Machine | None:
    """One machine; None where something is wrong with it, which joins the problems."""
    name = value.get("name") if isinstance(value, _Object) else None
    where = f"machine {shortened(name)}" if isinstance(name, str) and name else f"machine {number} of the list"
    mine: list[str] = []
    given = _fields(MachineDefinition, where, value, mine)

    def tell(problem: str) -> None:
        mine.append(f"{where}: {problem}")

    def mapping(field: str, letters: str, read: _Read) -> dict[Any, Any]:
        return _mapping(field, given.get(field.replace("-", "_"), _Object([])), letters, read, tell)

    locations = mapping("board-locations", "xyz", lambda what, each: _coordinates(what, each, "cfb", tell))
    bmps = mapping("bmp-ips", "cf", lambda what, each: _address(what, each, tell))
    boards = mapping("spinnaker-ips", "xyz", lambda what, each: _address(what, each, tell))
    links = mapping("dead-links", "xyz", lambda what, each: _links(what, each, tell))
    dead = [_coordinates(f"dead-boards[{i}]", each, "xyz", tell) for i, each in enumerate(given.get("dead_boards", ()))]
    problems += mine
    if mine:
        return None
    try:
        return Machine(
            given["name"],
            tags=set(given.get("tags", ())),
            width=given["width"],
            height=given["height"],
            dead_boards={(x, y, z) for x, y, z in dead},
            dead_links={(*board, link) for board, dead_ones in links.items() for link in dead_ones},
            board_locations=locations,
            bmp_ips=bmps,
            spinnaker_ips=boards,
        )
    except ConfigurationError as error:
        text = str(error).removeprefix(f"machine {given['name']!r}")
        for field in fields(Machine):
            text = text.replace(field.name, field.name.replace("_", "-"))
        problems.append(f"machine {given['name']!r}{text}")
        return None


_Tell: TypeAlias = Callable[[str], None]
_Read: TypeAlias = Callable[[str, Any], Any]


def _mapping(field: str, value: _Object, letters: str, read: _Read, tell: _Tell) -> dict[Any, Any]:
    """What `read` makes of each value, by the coordinates of its key."""
    for key in value.twice:
        tell(f"{field}: {shortened(key)} is there twice")
    found: dict[Any, Any] = {}
    for key, each in value.items():
        place = _numbers(key, letters)
        if place is None:
            tell(f"{field} has the key {shortened(key)}, which must be as {_KEYS[letters]}, of whole numbers from 0")
        elif place in found:
            tell(f"{field}: {shortened(key)} is there twice, in another spelling")
        else:
            found[place] = read(f"{field} of {key}", each)
    return found


def _coordinates(what: str, value: Any, letters: str, tell: _Tell) -> tuple[int, ...]:
    """Coordinates in any spelling."""
    numbers = _numbers(value, letters)
    if numbers is None:
        one = json.dumps(dict.fromkeys(letters, 0))
        right = f"{one}, {[0] * len(letters)} or {_KEYS[letters]}, of whole numbers from 0"
        tell(f"{what} is {_shown(value)}, and must be as {right}")
        return (0,) * len(letters)
    return numbers


def _numbers(value: Any, letters: str) -> tuple[int, ...] | None:
    """The numbers of coordinates, in the order of their letters; None where these are none."""
    items: list[Any] = []
    if isinstance(value, str):
        if found := _SPELLED[letters].fullmatch(value):
            items = [int(digits) for digits in found.groups()]
    elif isinstance(value, _Object):
        if value.keys() == set(letters) and not value.twice:
            items = [value[letter] for letter in letters]
    elif isinstance(value, list):
        items = value
    good = len(items) == len(letters) and all(type(item) is int and 0 <= item <= MAX_NUMBER for item in items)
    return tuple(items) if good else None


def _address(what: str, value: Any, tell: _Tell) -> str:
    if isinstance(value, str) and _IPV4.fullmatch(value):
        return value
    tell(f"{what}: {_shown(value)} is a bad IPv4 address: {_RIGHT_IPV4}")
    return ""


def _links(what: str, value: Any, tell: _Tell) -> list[Links]:
    """Links by their names, spelled as `northEast` or as `north_east`."""
    if not isinstance(value, list):
        tell(f'{what} is {_shown(value)}, and must be a list of links, as in ["north"]')
        return []
    found = []
    for name in value:
        link = _LINKS.get(re.sub("[_-]", "", name).lower()) if isinstance(name, str) else None
        if link is None:
            right = "east, northEast, north, west, southWest or south"
            tell(f"{what}: {_shown(name)} is no link: it must be {right}")
        else:
            found.append(link)
    return found


# -------------------------------------------------------------------- TOML


def to_toml(configuration: Configuration) -> str:
    """Return a config file in TOML of the same machines and published settings; others have their defaults."""
    default = Configuration()
    names = (name for name in Configuration._fields if name != "machines")
    lines = [
        f"{name} = {_json(getattr(configuration, name))}"
        for name in names
        if getattr(configuration, name) != getattr(default, name)
    ]
    lines += [] if configuration.machines else ["machine = []"]
    for machine in configuration.machines:
        dead_links = sorted((*board, Links(link).name) for *board, link in machine.dead_links)
        lines += [
            "",
            "[[machine]]",
            'form = "explicit"',
            f"name = {_json(machine.name)}",
            f"tags = {_json(sorted(machine.tags))}",
            f"width = {machine.width}",
            f"height = {machine.height}",
            f"dead_boards = {_json(sorted(machine.dead_boards))}",
            f"dead_links = {_json(dead_links)}",
            *_tables("board_locations", "board", "location", machine.board_locations),
            *_tables("bmp_ips", "frame", "host", machine.bmp_ips),
            *_tables("spinnaker_ips", "board", "host", machine.spinnaker_ips),
        ]
    return "\n".join(lines).lstrip("\n") + "\n"


def _tables(name: str, key: str, value: str, mapping: Mapping[Any, Any]) -> list[str]:
    """A mapping as a list of tables, one a line."""
    entries = (f"    {{{key} = {_json(one)}, {value} = {_json(other)}}}," for one, other in sorted(mapping.items()))
    return [f"{name} = [", *entries, "]"]


def _json(value: Any) -> str:
    """A number, a text or a list of them, which TOML writes as JSON does."""
    return msgspec.json.encode(value).decode()
