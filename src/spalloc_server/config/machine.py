"""A machine: its hardware as an operator describes it.

Theory of operation. A `Machine` says how large the hardware is, where its boards stand, at which addresses boards and
frames answer, and what of it is broken. It is checked completely when it is constructed and cannot change afterwards,
so that whoever holds one need not check anything again. Equal ones describe the same thing, whichever way they were
made.

The names and parameters are those of the published server: its users' config files run as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set as AbstractSet
from dataclasses import dataclass, fields
from functools import cached_property
from ipaddress import AddressValueError, IPv4Address
from types import MappingProxyType
from typing import Any, TypeAlias

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board, BoardLink, Location
from spalloc_server.errors import ConfigurationTypeError, ConfigurationValueError
from spalloc_server.links import Links

__all__ = ["Frame", "Machine", "check_size"]

Frame: TypeAlias = tuple[int, int]
"""(cabinet, frame)."""

MAX_TRIADS = 100_000
"""Triads of one machine (else an error). The largest machine that there is has 400."""

DEFAULT_TAGS = frozenset({"default"})
"""The tags of a machine that is given none, and of a job that asks for none."""


@dataclass(frozen=True, init=False)
class Machine:
    """One machine: a torus of `width` by `height` triads of boards.

    Args:
        name: by which users and operators call it; unique in a configuration.
        tags: a set of labels that jobs may ask for.
        width: triads across. Inferred, with `height`, from the boards where both are left out.
        height: triads up.
        dead_boards: set of (x, y, z) that must not be used.
        dead_links: set of (x, y, z, link) that must not be used. A link dead in both directions is in it twice,
            once from each end.
        board_locations: {(x, y, z): (cabinet, frame, board)}, of every live board at least.
        bmp_ips: {(cabinet, frame): host} of the BMP of each frame in which a board stands.
        spinnaker_ips: {(x, y, z): host} of every live board at least.

    Raises:
        ConfigurationTypeError: (a `TypeError`) something is of the wrong kind.
        ConfigurationValueError: (a `ValueError`) a board or link is outside the machine, two boards stand in one
            place, or a live board or a frame in use lacks its place or address.
    """

    name: str
    tags: frozenset[str]
    width: int
    height: int
    dead_boards: frozenset[Board]
    dead_links: frozenset[BoardLink]
    board_locations: Mapping[Board, Location]
    bmp_ips: Mapping[Frame, str]
    spinnaker_ips: Mapping[Board, str]

    def __init__(
        self,
        name: str,
        tags: AbstractSet[str] = DEFAULT_TAGS,
        width: int | None = None,
        height: int | None = None,
        dead_boards: AbstractSet[Board] = frozenset(),
        dead_links: AbstractSet[tuple[int, int, int, int]] = frozenset(),
        board_locations: Mapping[Board, Location] | None = None,
        bmp_ips: Mapping[Frame, str] | None = None,
        spinnaker_ips: Mapping[Board, str] | None = None,
    ) -> None:
        if not name or not isinstance(name, str):
            raise ConfigurationTypeError(f"a machine's name must be a text that is not empty, not {name!r}")
        where = f"machine {name!r}"
        for what, value in (("tags", tags), ("dead_boards", dead_boards), ("dead_links", dead_links)):
            if not isinstance(value, AbstractSet):
                raise ConfigurationTypeError(
                    f"{where}: {what} must be a set, as in {{...}}, not a {type(value).__name__}"
                )
        for tag in tags:
            if not isinstance(tag, str):
                raise ConfigurationTypeError(f"{where}: tag {tag!r} must be a text")
        dead_boards = frozenset(_triple(f"{where}: dead board", board, _BOARD) for board in dead_boards)
        locations = _locations(where, board_locations)
        width, height = _size(where, width, height, [*locations, *dead_boards])
        vars(self).update(
            name=name,
            tags=frozenset(tags),
            width=width,
            height=height,
            dead_boards=dead_boards,
            dead_links=frozenset(_dead_link(where, link) for link in dead_links),
            board_locations=MappingProxyType(locations),
            bmp_ips=MappingProxyType(_hosts(where, "bmp_ips", bmp_ips)),
            spinnaker_ips=MappingProxyType(_hosts(where, "spinnaker_ips", spinnaker_ips)),
        )
        self._check()

    def __reduce__(self) -> tuple[type[Machine], tuple[Any, ...]]:
        values = (getattr(self, field.name) for field in fields(self))
        return Machine, tuple(dict(value) if isinstance(value, Mapping) else value for value in values)

    @classmethod
    def single_board(
        cls,
        name: str,
        tags: AbstractSet[str] = DEFAULT_TAGS,
        bmp_ip: str | None = None,
        spinnaker_ip: str | None = None,
    ) -> Machine:
        """A machine that is one board: board (0, 0, 0) of one triad whose other boards are dead.

        Args:
            name: as of every machine.
            tags: as of every machine.
            bmp_ip: host of the board's BMP.
            spinnaker_ip: host of the board itself.

        Raises:
            ConfigurationTypeError: a host is missing.
        """
        for what, host in (("bmp_ip", bmp_ip), ("spinnaker_ip", spinnaker_ip)):
            if host is None:
                raise ConfigurationTypeError(f"machine {name!r}: {what} must be given: a host's name or address")
        assert bmp_ip is not None
        assert spinnaker_ip is not None
        return cls(
            name,
            tags,
            width=1,
            height=1,
            dead_boards={(0, 0, 1), (0, 0, 2)},
            board_locations={(0, 0, 0): (0, 0, 0)},
            bmp_ips={(0, 0): bmp_ip},
            spinnaker_ips={(0, 0, 0): spinnaker_ip},
        )

    @classmethod
    def with_standard_ips(
        cls,
        name: str,
        tags: AbstractSet[str] = DEFAULT_TAGS,
        width: int | None = None,
        height: int | None = None,
        dead_boards: AbstractSet[Board] = frozenset(),
        dead_links: AbstractSet[tuple[int, int, int, int]] = frozenset(),
        board_locations: Mapping[Board, Location] | None = None,
        base_ip: str = "192.168.0.0",
        cabinet_stride: str = "0.0.5.0",
        frame_stride: str = "0.0.1.0",
        board_stride: str = "0.0.0.8",
        bmp_offset: str = "0.0.0.0",  # noqa: S104 - an offset, not an address to bind to
        spinnaker_offset: str = "0.0.0.1",
    ) -> Machine:
        """A machine whose addresses follow from where its boards stand.

        A frame's BMP is at base_ip + cabinet * cabinet_stride + frame * frame_stride + bmp_offset, and a board at
        base_ip + cabinet * cabinet_stride + frame * frame_stride + board * board_stride + spinnaker_offset, where
        IPv4 addresses are added as the 32-bit numbers that they are.

        Raises:
            ConfigurationValueError: an address is not an IPv4 address, or a sum goes beyond the last one.
        """
        where = f"machine {name!r}"
        base, *strides = (
            _ipv4(f"{where}: {what}", address)
            for what, address in (
                ("base_ip", base_ip),
                ("cabinet_stride", cabinet_stride),
                ("frame_stride", frame_stride),
                ("board_stride", board_stride),
            )
        )
        bmp = _ipv4(f"{where}: bmp_offset", bmp_offset)
        spinnaker = _ipv4(f"{where}: spinnaker_offset", spinnaker_offset)

        def address(location: Location, offset: int) -> str:
            number = base + sum(count * stride for count, stride in zip(location, strides, strict=True)) + offset
            what = "{}: cabinet {}, frame {}, board {}".format(where, *location)
            return str(IPv4Address(_ipv4(f"{what}: the sum of base_ip, strides and offset", number)))

        locations = _locations(where, board_locations)
        return cls(
            name,
            tags,
            width,
            height,
            dead_boards,
            dead_links,
            locations,
            bmp_ips={(c, f): address((c, f, 0), bmp) for c, f, _ in locations.values()},
            spinnaker_ips={board: address(location, spinnaker) for board, location in locations.items()},
        )

    @cached_property
    def live_boards(self) -> tuple[Board, ...]:
        """Every board that is not dead, sorted."""
        boards = ((x, y, z) for x in range(self.width) for y in range(self.height) for z in range(3))
        return tuple(board for board in boards if board not in self.dead_boards)

    @cached_property
    def board_at(self) -> Mapping[Location, Board]:
        """{(cabinet, frame, board): (x, y, z)}, of every board whose place is known."""
        return {location: board for board, location in self.board_locations.items()}

    @cached_property
    def frames(self) -> Mapping[Frame, tuple[Board, ...]]:
        """{(cabinet, frame): its boards (x, y, z), by number within the frame}, sorted by frame."""
        frames: dict[Frame, list[Board]] = {}
        for (cabinet, frame, _), board in sorted(self.board_at.items()):
            frames.setdefault((cabinet, frame), []).append(board)
        return {frame: tuple(boards) for frame, boards in frames.items()}

    def same_hardware(self, other: Machine) -> bool:
        """Whether both are one piece of hardware, so that no more than tags, dead boards and dead links differ."""
        return (self.name, self.width, self.height, self.board_locations, self.bmp_ips, self.spinnaker_ips) == (
            other.name,
            other.width,
            other.height,
            other.board_locations,
            other.bmp_ips,
            other.spinnaker_ips,
        )

    def _check(self) -> None:
        where = f"machine {self.name!r}"
        for what, items in (
            ("dead board", self.dead_boards),
            ("board location given for board", self.board_locations),
            ("dead link of board", self.dead_links),
        ):
            outside = [item[:3] for item in items if not self._has(*item[:3])]
            if outside:
                raise ConfigurationValueError(
                    f"{where}: {what} {_some(outside)} is outside the machine, which is {self.width} x {self.height}"
                    f" triads: x is 0 to {self.width - 1}, y is 0 to {self.height - 1}, z is 0 to 2"
                )
        for board, location in self.board_locations.items():
            if self.board_at[location] != board:
                cabinet, frame, number = location
                raise ConfigurationValueError(
                    f"{where}: boards {board} and {self.board_at[location]} are both at cabinet {cabinet},"
                    f" frame {frame}, board {number}; each needs a location of its own"
                )
        for what, given, form in (
            ("location", self.board_locations, "(cabinet, frame, board) in board_locations"),
            ("address", self.spinnaker_ips, "host in spinnaker_ips"),
        ):
            lacking = [board for board in self.live_boards if board not in given]
            if lacking:
                raise ConfigurationValueError(
                    f"{where}: live board {_some(lacking)} has no {what}; give its {form}, or list it in dead_boards"
                )
        lacking_frames = [frame for frame in self.frames if frame not in self.bmp_ips]
        if lacking_frames:
            raise ConfigurationValueError(
                f"{where}: frame (cabinet, frame) {_some(lacking_frames)} has boards but no BMP;"
                " give its host in bmp_ips"
            )

    def _has(self, x: int, y: int, z: int) -> bool:
        return 0 <= x < self.width and 0 <= y < self.height and 0 <= z < 3


_BOARD = "(x, y, z)"
_LOCATION = "(cabinet, frame, board)"


def _some(items: Iterable[Any]) -> str:
    """The first few of them, and how many more there are."""
    listed = sorted(items)
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    return ", ".join(str(item) for item in listed[:3]) + more


def _triple(what: str, value: Any, form: str) -> tuple[int, int, int]:
    """`value` as three whole numbers; `form` tells the reader of an error what they are."""
    try:
        first, second, third = value
        numbers = operator.index(first), operator.index(second), operator.index(third)
    except (TypeError, ValueError) as error:
        raise ConfigurationValueError(f"{what} must be three whole numbers {form}, not {value!r}") from error
    if max(map(abs, numbers)) > MAX_NUMBER:
        raise ConfigurationValueError(f"{what} must be three whole numbers {form}, each up to {MAX_NUMBER}")
    return numbers


def _dead_link(where: str, value: Any) -> BoardLink:
    try:
        x, y, z, link = value
        return operator.index(x), operator.index(y), operator.index(z), Links(link)
    except (TypeError, ValueError) as error:
        raise ConfigurationValueError(
            f"{where}: dead link must be (x, y, z, link) with a link such as Links.north, not {value!r}"
        ) from error


def _mapping(where: str, what: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationTypeError(f"{where}: {what} must be a mapping, as in {{...: ...}}, not {value!r}")
    return value


def _locations(where: str, value: Mapping[Board, Location] | None) -> dict[Board, Location]:
    locations = {}
    for key, location in _mapping(where, "board_locations", value).items():
        board = _triple(f"{where}: a board in board_locations", key, _BOARD)
        locations[board] = _triple(f"{where}: location of board {board}", location, _LOCATION)
    return locations


def _hosts(where: str, what: str, value: Mapping[Any, str] | None) -> dict[Any, str]:
    hosts = dict(_mapping(where, what, value))
    for place, host in hosts.items():
        if not host or not isinstance(host, str):
            raise ConfigurationTypeError(f"{where}: {what} of {place} must be a host's name or address, not {host!r}")
    return hosts


def _size(where: str, width: int | None, height: int | None, boards: Iterable[Board]) -> tuple[int, int]:
    """Width and height in triads, inferred from the boards where both are None."""
    if width is None and height is None:
        known = list(boards)
        if not known:
            raise ConfigurationValueError(f"{where}: has no boards; give board_locations (or width and height)")
        return check_size(where, max(x for x, _, _ in known) + 1, max(y for _, y, _ in known) + 1)
    if width is None or height is None:
        raise ConfigurationTypeError(f"{where}: both or neither of width and height must be given, in triads")
    if not all(isinstance(size, int) for size in (width, height)):
        raise ConfigurationTypeError(f"{where}: width and height must be whole numbers of triads")
    if min(width, height) < 1:
        raise ConfigurationValueError(f"{where}: width and height must be 1 or more triads, not {width} x {height}")
    return check_size(where, width, height)


def check_size(where: str, width: int, height: int) -> tuple[int, int]:
    """Return the width and height of a machine, in triads; `ConfigurationValueError` where it is far too large."""
    if width * height > MAX_TRIADS:
        raise ConfigurationValueError(
            f"{where}: {_digits(width)} x {_digits(height)} triads are more than a machine may have: {MAX_TRIADS}"
        )
    return width, height


def _digits(number: int) -> str:
    """A whole number for an error text; Python refuses to write out one of thousands of digits."""
    return str(number) if abs(number) < MAX_NUMBER else "over 9 quadrillion"


def _ipv4(what: str, address: str | int) -> int:
    try:
        return int(IPv4Address(address))
    except AddressValueError as error:
        raise ConfigurationValueError(
            f"{what} must be an IPv4 address, 0.0.0.0 to 255.255.255.255, not {address!r}"
        ) from error
