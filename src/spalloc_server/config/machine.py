"""A machine: its hardware as an operator describes it.

Theory of operation. A `Machine` says how large the hardware is, where its boards stand, at which addresses boards and
frames answer, and what of it is broken. It is checked completely when it is constructed and cannot change afterwards,
so that whoever holds one need not check anything again. Equal ones describe the same thing, whichever way they were
made.

The names and parameters are those of the published server: its users' config files run as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set as AbstractSet
from dataclasses import dataclass, fields
from functools import cached_property
from ipaddress import IPv4Address
from typing import Any, TypeAlias

from spalloc_server.config.machine_parts import (
    BOARD,
    FRAME,
    board_of,
    dead_link,
    hosts_of,
    ipv4,
    locations_of,
    set_of,
    size_of,
)
from spalloc_server.config.published import FixedDict, FixedSet, NamedTupleLike
from spalloc_server.coordinates import Board, BoardLink, Location
from spalloc_server.errors import ConfigurationTypeError, ConfigurationValueError

__all__ = ["Frame", "Machine"]

Frame: TypeAlias = tuple[int, int]
"""(cabinet, frame)."""

DEFAULT_TAGS = frozenset({"default"})
"""The tags of a machine that is given none, and of a job that asks for none."""


@dataclass(frozen=True, init=False)
class Machine(NamedTupleLike):
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

    _fields = (
        *("name", "tags", "width", "height", "dead_boards", "dead_links"),
        *("board_locations", "bmp_ips", "spinnaker_ips"),
    )

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
        if not name.isprintable():
            raise ConfigurationValueError(f"a machine's name must have no control characters, unlike {name!r}")
        where = f"machine {name!r}"
        for what, value in (("tags", tags), ("dead_boards", dead_boards), ("dead_links", dead_links)):
            if not isinstance(value, AbstractSet):
                raise ConfigurationTypeError(
                    f"{where}: {what} must be a set, as in {{...}}, not the {type(value).__name__} {value!r:.100}"
                )
        for tag in tags:
            if not isinstance(tag, str):
                raise ConfigurationTypeError(f"{where}: tag {tag!r} must be a text")
            if not tag.isprintable():
                raise ConfigurationValueError(f"{where}: tag {tag!r} must have no control characters")
        dead_boards = FixedSet(board_of(f"{where}: dead board", board) for board in dead_boards)
        locations = locations_of(where, board_locations)
        width, height = size_of(where, width, height, [*locations, *dead_boards])
        vars(self).update(
            name=name,
            tags=FixedSet(tags),
            width=width,
            height=height,
            dead_boards=dead_boards,
            dead_links=FixedSet(dead_link(where, link) for link in dead_links),
            board_locations=FixedDict(locations),
            bmp_ips=FixedDict(hosts_of(where, "bmp_ips", bmp_ips, FRAME)),
            spinnaker_ips=FixedDict(hosts_of(where, "spinnaker_ips", spinnaker_ips, BOARD)),
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
        tags: Iterable[str] = DEFAULT_TAGS,
        width: int | None = None,
        height: int | None = None,
        dead_boards: Iterable[Board] = frozenset(),
        dead_links: Iterable[tuple[int, int, int, int]] = frozenset(),
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
        IPv4 addresses are added as the 32-bit numbers that they are. As in the published server, tags, dead boards and
        dead links may be any iterables here.

        Raises:
            ConfigurationValueError: an address is not an IPv4 address, or a sum goes beyond the last one.
        """
        where = f"machine {name!r}"
        base, *strides = (
            ipv4(f"{where}: {what}", address)
            for what, address in (
                ("base_ip", base_ip),
                ("cabinet_stride", cabinet_stride),
                ("frame_stride", frame_stride),
                ("board_stride", board_stride),
            )
        )
        bmp = ipv4(f"{where}: bmp_offset", bmp_offset)
        spinnaker = ipv4(f"{where}: spinnaker_offset", spinnaker_offset)

        def address(location: Location, offset: int) -> str:
            number = base + sum(count * stride for count, stride in zip(location, strides, strict=True)) + offset
            what = "{}: cabinet {}, frame {}, board {}".format(where, *location)
            return str(IPv4Address(ipv4(f"{what}: the sum of base_ip, strides and offset", number)))

        locations = locations_of(where, board_locations)
        return cls(
            name,
            set_of(where, "tags", tags),
            width,
            height,
            set_of(where, "dead_boards", dead_boards),
            set_of(where, "dead_links", dead_links),
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

    @property
    def hardware(self) -> tuple[Any, ...]:
        """All but its name, its tags and what is dead."""
        return self.width, self.height, self.board_locations, self.bmp_ips, self.spinnaker_ips

    def same_hardware(self, other: Machine) -> bool:
        """Whether both are one piece of hardware, so that no more than tags, dead boards and dead links differ."""
        return self.name == other.name and self.hardware == other.hardware

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


def _some(items: Iterable[Any]) -> str:
    """The first few of them, and how many more there are."""
    listed = sorted(items)
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    return ", ".join(str(item) for item in listed[:3]) + more
