"""What a new configuration means for what is there: jobs and records go with their hardware, whatever it is called.

Theory of operation. A board is its BMP's host and its number in the frame. A machine that is the same hardware under
the same name stays as it is. Of all others each board is looked for among the machines that come. A job whose boards
are all found on one of them, with the same addresses, the same chips as its user counts them, and the same links
between them, goes on there; any other job ends. Records of boards, closed frames and drained machines go with the
hardware likewise. What was said of a board or frame that is nowhere now waits for it (`away`).

A machine that was imported gives way to one of the configuration that has its name, or one of its addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from spalloc_server.config.hosts import canonical
from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.core import transitions
from spalloc_server.core.boards.records import address, away_fact
from spalloc_server.core.model import Allocation
from spalloc_server.core.placement.layout import ethernet_chip
from spalloc_server.core.state import State
from spalloc_server.core.undo import Undo
from spalloc_server.links import Links

__all__ = ["Places", "allocation_there", "move_records", "places_of", "unopposed"]

Places: TypeAlias = Mapping[tuple[str, int], tuple[Machine, Board]]
"""{(BMP, number in the frame): where that board is}."""


def places_of(machines: Iterable[Machine]) -> Places:
    """Where the boards of these machines are."""
    return {address(machine, board): (machine, board) for machine in machines for board in machine.board_locations}


def unopposed(configured: Iterable[Machine], imported: Mapping[str, Machine]) -> dict[str, Machine]:
    """Return the imported machines of which no machine of a configuration has the name or an address."""
    if not imported:
        return {}
    taken = set().union(*map(_identities, configured))
    return {name: machine for name, machine in imported.items() if taken.isdisjoint(_identities(machine))}


def _identities(machine: Machine) -> set[tuple[str, str]]:
    """What no other machine may have."""
    hosts = {("BMP", canonical(host)) for host in machine.bmp_ips.values()}
    return hosts | {("board", canonical(host)) for host in machine.spinnaker_ips.values()} | {("name", machine.name)}


def allocation_there(machine: Machine, allocation: Allocation, places: Places) -> Allocation | None:
    """The same boards in a new configuration, as a machine that is the same to its user; None where it is not."""
    found = {board: places.get(address(machine, board)) for board in allocation.boards}
    there = next(iter(found.values()))
    if there is None:
        return None
    new = there[0]
    boards = {board: place[1] for board, place in found.items() if place is not None and place[0] is new}
    if boards.keys() != found.keys():
        return None
    origin = allocation.boards[0] if allocation.single else (allocation.x, allocation.y, 0)
    x, y, _ = boards[origin]
    stopped = allocation.stopped
    if stopped is not None:
        stopped = tuple(sorted((*boards[bx, by, bz], link) for bx, by, bz, link in stopped))
    moved = msgspec.structs.replace(
        allocation, machine=new.name, x=x, y=y, boards=tuple(sorted(boards.values())), stopped=stopped
    )
    mine = frozenset(moved.boards)
    for board, after in boards.items():
        if machine.spinnaker_ips.get(board) != new.spinnaker_ips.get(after):
            return None
        if ethernet_chip(machine, allocation, board) != ethernet_chip(new, moved, after):
            return None
        for link in Links:
            other = boards.get(board_down_link(*board, link, machine.width, machine.height)[:3])
            beyond = board_down_link(*after, link, new.width, new.height)[:3]
            if other != (beyond if beyond in mine else None):
                return None
    return moved


def move_records(state: State, gone: Collection[Machine], came: Collection[Machine], undo: Undo) -> None:
    """What was said of the boards of machines that go is said of the same boards on those that come."""
    state.boards.note_all_before(undo)
    undo.contents(state.closures.frames, state.closures.drained, state.closures.away)
    before = state.closures.facts()
    state.closures.move(gone, came)
    after = state.closures.facts()
    facts: dict[str, Any] = {name: after.get(name) for name in before | after if before.get(name) != after.get(name)}
    for place, row in state.boards.move(gone, came).items():
        facts[away_fact(place)] = None if row is None else msgspec.to_builtins(row)
    for name, fact in facts.items():
        transitions.set_fact(state, name, fact)
    transitions.close(state)
