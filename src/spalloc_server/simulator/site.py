"""Where simulated boards are: their addresses, the BMPs that switch them, their cables, and what is broken on them.

Theory of operation. A config file says how the boards of a machine are wired: each has six links to its neighbours on
the machine's torus, but for links and boards that the file calls dead. A `Site` is one board, seen so. Whether a link
carries anything at a moment depends on the power and the FPGAs at both ends, which are not looked at here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.errors import HardwareError
from spalloc_server.links import Links
from spalloc_server.simulator.applications import Failure

__all__ = ["ChipFaults", "SimulatorError", "Site", "loopback", "sites_of"]


class SimulatorError(HardwareError):
    """The simulator cannot listen where it should."""


@dataclass(slots=True)
class ChipFaults:
    """What is broken on a board. Chips are given by their number on it, cores of `dead_cores` by their physical one."""

    never_boots: bool = False
    dead_chips: set[int] = field(default_factory=set)
    dead_links: set[tuple[int, Links]] = field(default_factory=set)
    dead_cores: dict[int, set[int]] = field(default_factory=dict)
    failures: dict[tuple[int, int], Failure] = field(default_factory=dict)
    """Run-time errors to come, by (chip, virtual core)."""


@dataclass(slots=True, eq=False)
class Site:
    """One board: at address `host`, switched as board `number` by the BMP at `bmp`."""

    host: str
    bmp: str
    number: int
    neighbours: dict[Links, Site] = field(default_factory=dict)
    """The boards at the other ends of its cables."""
    chip_faults: ChipFaults = field(default_factory=ChipFaults)

    @property
    def address(self) -> bytes:
        """The four bytes of its address."""
        return ipaddress.IPv4Address(self.host).packed

    def __repr__(self) -> str:
        return f"Site({self.host})"


def sites_of(configuration: Configuration) -> list[Site]:
    """Return the boards of all machines, with their cables.

    `SimulatorError` where a board has no loopback address of its own.
    """
    sites: list[Site] = []
    for machine in configuration.machines:
        sites += _sites_of_machine(machine)
    seen = {bmp for machine in configuration.machines for bmp in machine.bmp_ips.values()}
    for site in sites:
        if site.host in seen:
            raise SimulatorError(f"cannot simulate boards: {site.host} is the address of two boards or BMPs")
        seen.add(site.host)
    return sites


def _sites_of_machine(machine: Machine) -> Iterator[Site]:
    by_board: dict[Board, Site] = {}
    for board in machine.live_boards:
        cabinet, frame, number = machine.board_locations[board]
        host = loopback(machine.spinnaker_ips[board], what="the board")
        if host == "127.0.0.1":
            raise SimulatorError(
                f"cannot simulate the board {board} of {machine.name} at 127.0.0.1: clients take this address for "
                "themselves; give it another one of 127.0.0.2 to 127.255.255.254"
            )
        by_board[board] = Site(host, machine.bmp_ips[cabinet, frame], number)
    for board, site in by_board.items():
        for link in Links:
            x, y, z, _ = board_down_link(*board, link, machine.width, machine.height)
            dead = (*board, link) in machine.dead_links or (x, y, z, link.opposite) in machine.dead_links
            if not dead and (x, y, z) in by_board:
                site.neighbours[link] = by_board[x, y, z]
        yield site


def loopback(host: str, *, what: str = "the BMP") -> str:
    """Return `host` as a numeric loopback address; `SimulatorError` where it is none."""
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise SimulatorError(
            f"cannot simulate {what} at {host}: only loopback addresses, 127.0.0.1 to 127.255.255.254, can be "
            "simulated; give the machine's BMPs and boards such addresses in a copy of the configuration"
        )
    return str(address)
