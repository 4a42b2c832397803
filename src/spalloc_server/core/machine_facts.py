"""A machine as plain JSON, and back: what a restart compares the config file with.

Theory of operation. The config may change while the server is down. So the state remembers the machines that its jobs
are on; a restart first restores those, and then applies the config file just as a reload would. Machines that were
imported are in no config file: the state has their definitions a second time, so that either can be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.links import Links

__all__ = ["IMPORTED", "machine_from_fact", "machine_to_fact"]

IMPORTED = "imported/"
"""How the names of the facts begin that define imported machines."""


def machine_to_fact(machine: Machine) -> dict[str, Any]:
    """Plain JSON that `machine_from_fact` turns into an equal machine."""
    return {
        "name": machine.name,
        "tags": sorted(machine.tags),
        "width": machine.width,
        "height": machine.height,
        "dead_boards": sorted(map(list, machine.dead_boards)),
        "dead_links": sorted([*board, int(link)] for *board, link in machine.dead_links),
        "board_locations": _pairs(machine.board_locations),
        "bmp_ips": _pairs(machine.bmp_ips),
        "spinnaker_ips": _pairs(machine.spinnaker_ips),
    }


def machine_from_fact(fact: Mapping[str, Any]) -> Machine:
    """The machine that a fact describes."""
    return Machine(
        fact["name"],
        tags=set(fact["tags"]),
        width=fact["width"],
        height=fact["height"],
        dead_boards={(x, y, z) for x, y, z in fact["dead_boards"]},
        dead_links={(x, y, z, Links(link)) for x, y, z, link in fact["dead_links"]},
        board_locations={(x, y, z): (c, f, b) for (x, y, z), (c, f, b) in fact["board_locations"]},
        bmp_ips={(c, f): host for (c, f), host in fact["bmp_ips"]},
        spinnaker_ips={(x, y, z): host for (x, y, z), host in fact["spinnaker_ips"]},
    )


def _pairs(mapping: Mapping[Any, Any]) -> list[list[Any]]:
    """[[key, value]] with tuples as lists, sorted by key."""
    return [[list(key), list(value) if isinstance(value, tuple) else value] for key, value in sorted(mapping.items())]
