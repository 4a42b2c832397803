"""What an operator tells a server: its machines, and how it is to serve. Config files construct these.

Theory of operation. A `Configuration` is a list of machines in order of priority, and the server's settings. Like
each `Machine` it is checked completely when it is constructed and cannot change afterwards. Beyond the published
settings, which may be given by position, there are groups of options of this server (`options`), given by name.

The names and parameters are those of the published server: its users' config files run as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from os import PathLike
from typing import Any, Final

from spalloc_server.config.hosts import canonical, why_no_host
from spalloc_server.config.machine import Machine
from spalloc_server.config.machine_parts import shortened
from spalloc_server.config.options import (
    MAX_PORT,
    Access,
    Count,
    Hardware,
    Health,
    Interval,
    Limits,
    Port,
    Scheduling,
    Seconds,
    Web,
    check_fields,
)
from spalloc_server.config.published import FixedList, NamedTupleLike
from spalloc_server.config.sources import opened, text_of
from spalloc_server.coordinates import CHIPS_PER_TRIAD, Board, Location, board_to_chip, chip_to_board
from spalloc_server.errors import ConfigurationTypeError, ConfigurationValueError

__all__ = ["DEFAULT_PORT", "Configuration", "board_locations_from_spinner"]

DEFAULT_PORT: Final = 22244
"""Where published clients look for a server."""


@dataclass(frozen=True)
class Configuration(NamedTupleLike):
    """All that an operator tells a server.

    Raises:
        ConfigurationTypeError: (a `TypeError`) one of `machines` is not a `Machine`.
        ConfigurationValueError: (a `ValueError`) a machine's name, a BMP's or a board's address is used twice, or a
            setting is not what its annotation says.
    """

    _fields = ("machines", "port", "ip", "timeout_check_interval", "max_retired_jobs", "seconds_before_free")

    machines: Sequence[Machine] = FixedList()
    """Machines, the highest priority first. Python: a list. TOML: one `[[machine]]` after another; `machine = []` for
    none."""
    port: Port = DEFAULT_PORT
    """TCP port to listen on. Deprecated: give `--port` on the command line. The published server ignored it."""
    ip: str = ""
    """Address to listen on; `""` (or `"::"`) for every interface, IPv4 and IPv6."""
    timeout_check_interval: Interval = 5.0
    """Seconds between looks for jobs whose keepalive has run out."""
    max_retired_jobs: Count = 1200
    """Ended jobs whose state and reason clients may still ask for."""
    seconds_before_free: Seconds = 30
    """Seconds that a board rests after a job, before it is given again."""
    _: KW_ONLY
    scheduling: Scheduling = field(default_factory=Scheduling)
    """Who goes next."""
    health: Health = field(default_factory=Health)
    """What is done about boards that fail."""
    hardware: Hardware = field(default_factory=Hardware)
    """How boards are switched."""
    limits: Limits = field(default_factory=Limits)
    """What clients may take of the network service."""
    access: Access = field(default_factory=Access)
    """Who may use the network service."""
    web: Web | None = None
    """HTTP, for clients of today; None for none."""
    history_days: Seconds = 400
    """Days for which ended jobs stay in the history. Python: only by name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "machines", FixedList(self.machines or ()))
        retired: Any = self.max_retired_jobs
        if isinstance(retired, float) and retired.is_integer():  # such as 1e3
            object.__setattr__(self, "max_retired_jobs", int(retired))
        for machine in self.machines:
            if not isinstance(machine, Machine):
                raise ConfigurationTypeError(f"machines must all be of type Machine; {machine!r} is not")
        check_fields(self, *(each.name for each in fields(self) if each.name not in {"machines", "port"}))
        if self.ip and (wrong := why_no_host(self.ip)):
            raise ConfigurationValueError(f"Configuration: ip={self.ip!r}: {wrong}")
        names = [machine.name for machine in self.machines]
        self._check_unique(
            "machine name", ((name, f"machine {rank} of the list") for rank, name in enumerate(names, 1))
        )
        self._check_unique(
            "BMP address",
            (
                (host, f"machine {machine.name!r} frame {frame}")
                for machine in self.machines
                for frame, host in machine.bmp_ips.items()
            ),
            canonical,
        )
        self._check_unique(
            "board address",
            (
                (host, f"machine {machine.name!r} board {board}")
                for machine in self.machines
                for board, host in machine.spinnaker_ips.items()
            ),
            canonical,
        )

    def port_and_warning(self) -> tuple[int, str | None]:
        """The TCP port to listen on, and what an operator should know of how the config file says it."""
        if type(self.port) is not int or not 0 <= self.port <= MAX_PORT:
            return DEFAULT_PORT, "`port` in the config file is ignored: it is no TCP port; use --port"
        if self.port != DEFAULT_PORT:
            return self.port, (
                "`port` in the config file is deprecated: the server moves there, away from clients that look at 22244,"
                " where version 7.0.0 ignored it; take it out, or use --port"
            )
        return DEFAULT_PORT, None

    @staticmethod
    def _check_unique(what: str, uses: Iterable[tuple[str, str]], same: Callable[[str], str] = str) -> None:
        users: dict[str, tuple[str, str]] = {}
        for value, user in uses:
            other, first = users.setdefault(same(value), (value, user))
            if first != user:
                spelling = "" if other == value else f", as {other!r},"
                raise ConfigurationValueError(
                    f"{what} {value!r} is used{spelling} by {first} and by {user}; each needs one of its own"
                )


def board_locations_from_spinner(filename: str | PathLike[str]) -> dict[Board, Location]:
    """Read where boards stand from the CSV that the wiring tool `spinner-ethernet-chips` writes.

    Args:
        filename: of a CSV with the columns cabinet, frame, board, x and y in any order, where (x, y) is the board's
            Ethernet chip.

    Returns:
        {(x, y, z): (cabinet, frame, board)}, as `board_locations` of a machine.

    Raises:
        ConfigurationValueError: the file is not of that form; the text names file and line.
        OSError: it cannot be read.
    """
    columns = ("cabinet", "frame", "board", "x", "y")
    locations: dict[Board, Location] = {}
    with opened(filename) as file:
        lines = re.split(r"\r\n|\r|\n", text_of(file))
    names = _values(f"{filename}, line 1", lines[0])
    if missing := [column for column in columns if column not in names]:
        raise ConfigurationValueError(
            f"{filename}, line 1: no column {', '.join(missing)}; the first line must name {', '.join(columns)}"
        )
    for number, line in enumerate(lines[1:], 2):
        where = f"{filename}, line {number}"
        if not (values := _values(where, line)):
            continue
        row = dict(zip(names, values, strict=False))
        try:
            cabinet, frame, place, x, y = (int(row[column]) for column in columns)
        except (KeyError, ValueError) as error:
            raise ConfigurationValueError(
                f"{where}: {', '.join(columns)} must all be whole numbers, not {shortened(line)}"
            ) from error
        board = chip_to_board(x, y, _beyond(x), _beyond(y))
        if min(x, y) < 0 or board_to_chip(*board) != (x, y):
            raise ConfigurationValueError(
                f"{where}: chip ({x}, {y}) is no board's Ethernet chip; those are at (12i, 12j), (12i + 8, 12j + 4)"
                " and (12i + 4, 12j + 8)"
            )
        if board in locations:
            raise ConfigurationValueError(f"{where}: chip ({x}, {y}) is listed a second time")
        locations[board] = (cabinet, frame, place)
    return locations


def _values(where: str, line: str) -> list[str]:
    """The values of one line of a CSV: no quote reaches beyond its line, so that one astray is found where it is."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise ConfigurationValueError(f"{where}: not a CSV: {error}: {shortened(line)}") from error


def _beyond(chips: int) -> int:
    """A size of machine, in chips, that has this chip away from its far edge."""
    return (abs(chips) // CHIPS_PER_TRIAD + 2) * CHIPS_PER_TRIAD
