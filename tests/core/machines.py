"""Machines for tests of the core: their boards stand in frames of 24 in order of their coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, BoardLink


def a_machine(
    name: str,
    width: int,
    height: int,
    *,
    tags: Iterable[str] = ("default",),
    dead_boards: Iterable[Board] = (),
    dead_links: Iterable[BoardLink] = (),
) -> Machine:
    """A machine of width x height triads whose hosts are named after it."""
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    places = {board: (0, number // 24, number % 24) for number, board in enumerate(boards)}
    return Machine(
        name,
        tags=set(tags),
        width=width,
        height=height,
        dead_boards=set(dead_boards),
        dead_links=set(dead_links),
        board_locations=places,
        bmp_ips={(0, frame): f"bmp-{name}-{frame}" for frame in range((len(boards) + 23) // 24)},
        spinnaker_ips={board: "spinn-{}-{}-{}-{}".format(name, *board) for board in boards},
    )


def renamed(machine: Machine, name: str) -> Machine:
    """The same hardware under another name."""
    return Machine(name, *(getattr(machine, field.name) for field in fields(machine)[1:]))


def triads(x: int, y: int, width: int, height: int, machine: Machine) -> tuple[Board, ...]:
    """Every board of a block, which may lie across the machine's edges."""
    return tuple(
        sorted(
            ((x + column) % machine.width, (y + row) % machine.height, z)
            for column in range(width)
            for row in range(height)
            for z in range(3)
        )
    )
