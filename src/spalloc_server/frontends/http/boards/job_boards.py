"""The boards of a job: which there are, where they are, which of them a chip is on, and when the job loses them.

Theory of operation. The server tells, on behalf of whoever uses the job, so that jobs of others are as unknown here as
everywhere. Hosts of boards are addresses nearly always; names are looked up, all at once and in threads.

An Ethernet chip is counted as the job counts chips. Where boards wrap around, chips of a board are at the other side
of the job, too.
"""

from __future__ import annotations

import asyncio
import socket
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final, cast

from spalloc_server.application.own_job_commands import OwnJobMachine, SubMachine
from spalloc_server.coordinates import Chip, board_to_chip, chip_to_board
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError
from spalloc_server.frontends.local_api import Behalf

__all__ = ["FINAL", "JobBoards", "boards_of", "machine_of", "until_lost"]

NAME_SECONDS = 4.0
"""For looking up the names of a job's boards; those that are not found by then cannot be reached."""

RETRY_SECONDS = 2.0
"""Between attempts to ask the server again."""

FINAL: Final = frozenset({"bad-request", "forbidden", "no-such", "bad-credentials"})
"""Kinds of refusal that asking again does not change."""

_CHIPS_PER_TRIAD: Final = 12
_OVERHANG: Final = 4
"""Chips that the boards of a job without wrap-around reach beyond its triads."""


class JobBoards:
    """The boards that a job has now.

    Args:
        job_id: the job's number.
        machine: what the server says that it has.
        addresses: by host, those that were found.
    """

    def __init__(self, job_id: int, machine: SubMachine, addresses: dict[str, str]) -> None:
        self.job_id = job_id
        self.machine = machine
        self.hosts: dict[Chip, str] = {(x, y): host for (x, y), host in machine.connections}
        """By Ethernet chip."""
        self.addresses: dict[Chip, str] = {
            chip: addresses[host] for chip, host in self.hosts.items() if host in addresses
        }
        """The same as IPv4 addresses, of those boards that have one."""
        self._width, self._height = _CHIPS_PER_TRIAD * machine.width, _CHIPS_PER_TRIAD * machine.height

    def ethernet_chip(self, x: int, y: int) -> Chip | None:
        """Return the Ethernet chip of the board that chip (x, y) is on; None where the job has no such board."""
        if not (0 <= x < self._width + _OVERHANG and 0 <= y < self._height + _OVERHANG):
            return None
        across, up = 3 * self._width, 3 * self._height  # a torus on which all chips of the job are different ones
        here = board_to_chip(*chip_to_board(x, y, across, up))
        if here in self.hosts:
            return here
        there = (here[0] % self._width, here[1] % self._height)
        return there if there in self.hosts else None

    def within_board(self, x: int, y: int, ethernet: Chip) -> Chip | None:
        """Return chip (x, y) as counted from an Ethernet chip; None where it is not on that board."""
        if self.ethernet_chip(x, y) != ethernet:
            return None
        return (x - ethernet[0]) % self._width, (y - ethernet[1]) % self._height

    def address(self, chip: Chip) -> str:
        """Return the IPv4 address of the board with this Ethernet chip; `RefusedError` where its name is not known."""
        if chip not in self.addresses:
            raise RefusedError("hardware", f"the host {self.hosts[chip]!r} of a board is not found by the name service")
        return self.addresses[chip]


async def machine_of(asking: Asking, job_id: int, behalf: Behalf) -> SubMachine | None:
    """Return what boards a job has, None while it has none; this renews its lease. Errors are those of `Asking.ask`."""
    kind = cast("type[SubMachine | None]", SubMachine | None)
    return await asking.ask(OwnJobMachine(job_id=job_id), kind, behalf=behalf)


async def boards_of(asking: Asking, job_id: int, behalf: Behalf) -> JobBoards | None:
    """Return the boards of a job; None while it has none. Errors are those of `Asking.ask`."""
    machine = await machine_of(asking, job_id, behalf)
    if machine is None or not machine.connections:
        return None
    return JobBoards(job_id, machine, await _addresses({host for _, host in machine.connections}))


async def until_lost(asking: Asking, boards: JobBoards, behalf: Behalf) -> str:
    """Wait until the job does not have these boards any more, or may not be seen any more; return what has happened.

    While the server is away, nothing has.
    """
    job_id = boards.job_id
    async for _ in asking.follow(f"job/{job_id}"):
        while True:
            try:
                machine = await machine_of(asking, job_id, behalf)
                break
            except RefusedError as error:
                if error.kind in FINAL:
                    return str(error)
            except ServerAwayError:
                pass
            await asyncio.sleep(RETRY_SECONDS)
        if machine is None or not machine.connections:
            return f"job {job_id} has no boards any more"
        if machine.connections != boards.machine.connections:
            return f"job {job_id} has other boards now"
    return f"nothing more is known of job {job_id}"


async def _addresses(hosts: set[str]) -> dict[str, str]:
    found = {host: host for host in hosts if _is_address(host)}
    if names := hosts - found.keys():
        lookups = {asyncio.ensure_future(_look_up(name)): name for name in names}
        done, late = await asyncio.wait(lookups, timeout=NAME_SECONDS)
        for lookup in late:
            lookup.cancel()
        found |= {lookups[lookup]: address for lookup in done if (address := lookup.result()) is not None}
    return found


async def _look_up(name: str) -> str | None:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0]) if found else None


@lru_cache(4096)
def _is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
