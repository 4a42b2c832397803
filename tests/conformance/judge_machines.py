# mypy: ignore-errors
"""Run by SpiNNMachine's own Python: build machines from their chips as SpiNNMan does, and say what is wrong with them.

Each line of input is one machine in JSON, and each line of output the list of complaints about it. A machine has

    width, height   its size in chips, as the root chip tells it
    told            [[x, y, address]]: the Ethernet chips that the user was told
    chips           [[x, y, ethernet_x, ethernet_y, address or null, links]]: all chips, as they describe themselves;
                    `links` has a bit for each link that works
    around          [[x, y, link, to_x, to_y]]: the working links that do not lead to the coordinates beside them

SpiNNMan makes an empty machine of the size, and asks it where each link that works leads; then it adds the chips,
validates the machine, has it repaired (which is an error by default) and adds its external links. All of that is done
here. What is asked beyond that: the links must lead where they lead in the world, the machine may think that it wraps
around only where links do, and every board must be there with all its chips and its address.
"""

import gc
import json
import logging
import sys

import spinn_machine
from spinn_machine import Chip, Link, Router

gc.disable()  # there are no cycles, and looking for them in so many chips takes a third of the time
logging.disable(logging.CRITICAL)
MAJOR, MINOR = (int(part) for part in spinn_machine.__version__.split("!")[-1].split(".")[:2])
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1))
CHIPS_PER_BOARD = 48
SDRAM = 117 * 1024 * 1024
MAX_MADE = 100_000
"""Chips that are kept to be used again: a few hundred megabytes."""

REPAIRED_BOARDS = 30
"""Boards up to which a machine is repaired and gets its external links: that takes as long as all else together."""

WRAPS = {"NoWrap": "", "HorWrap": "x", "VerWrap": "y", "Wrapped": "xy"}
"""The axes that wrap, by a machine's `wrap`."""

if MAJOR >= 7:
    from spinn_machine.config_setup import unittest_setup

    unittest_setup()
if (MAJOR, MINOR) >= (7, 2):
    from spinn_machine.data import MachineDataView
    from spinn_machine.version.version_5 import Version5
    from spinn_utilities.config_holder import set_config

    set_config("Machine", "version", "5")
    assert isinstance(MachineDataView.get_machine_version(), Version5)
from spinn_machine.machine_factory import machine_repair  # noqa: E402


def empty_machine(width, height):
    """A machine of this size without chips; raises where there can be none."""
    if (MAJOR, MINOR) >= (7, 2):
        return MachineDataView.get_machine_version().create_machine(width, height)
    return spinn_machine.machine_from_size(width, height)


made = {}


def a_chip(x, y, ethernet_x, ethernet_y, address, links):
    """A chip; the same one where it was made before, for they never change."""
    key = x, y, ethernet_x, ethernet_y, address, links
    if key not in made:
        if len(made) >= MAX_MADE:
            made.clear()
        router = Router([Link(x, y, *link) for link in links], n_available_multicast_entries=1023)
        place = {"nearest_ethernet_x": ethernet_x, "nearest_ethernet_y": ethernet_y, "ip_address": address}
        if (MAJOR, MINOR) >= (7, 2):
            cores = {"scamp_processors": [0], "placable_processors": range(1, 18)}
            made[key] = Chip(x=x, y=y, router=router, sdram=SDRAM, **cores, **place)
        else:
            sdram = SDRAM if MAJOR >= 7 else spinn_machine.SDRAM(SDRAM)
            made[key] = Chip(x=x, y=y, n_processors=18, router=router, sdram=sdram, **place)
    return made[key]


def judge(width, height, told, chips, around):
    """The complaints about a machine."""
    machine = empty_machine(width, height)
    there = {(chip[0], chip[1]) for chip in chips}
    elsewhere = {(x, y, link): (to_x, to_y) for x, y, link, to_x, to_y in around}
    complaints = []
    for x, y, ethernet_x, ethernet_y, address, working in sorted(chips, key=lambda chip: chip[:2]):
        links = []
        for link, (dx, dy) in enumerate(STEPS):
            if working >> link & 1:
                believed = machine.xy_over_link(x, y, link)
                real = elsewhere.get((x, y, link), (x + dx, y + dy))
                if believed in there:
                    links.append((link, *believed))
                if believed != real:
                    complaints.append(f"link {link} of {(x, y)} leads to {real}, and is taken to lead to {believed}")
        machine.add_chip(a_chip(x, y, ethernet_x, ethernet_y, address, tuple(links)))
    machine.validate()
    if len(told) <= REPAIRED_BOARDS:
        if (repaired := machine_repair(machine)) is not machine:
            complaints.append(f"{machine} had to be repaired: {repaired}")
        machine.add_spinnaker_links()
        machine.add_fpga_links()
    if (machine.width, machine.height) != (width, height):
        complaints.append(f"{machine} has another size")
    steps = [(abs(to_x - x), abs(to_y - y)) for x, y, _, to_x, to_y in around]
    for axis, name in enumerate("xy"):
        if name in WRAPS[machine.wrap] and not any(step[axis] > 1 for step in steps):
            complaints.append(f"{machine} is taken to wrap around in {name}, and no link does")
    boards = {(chip.x, chip.y): chip.ip_address for chip in machine.ethernet_connected_chips}
    if boards != {(x, y): address for x, y, address in told}:
        complaints.append(f"the boards are {boards}, and {told} were told")
    counts = {board: sum(1 for _ in machine.get_existing_xys_by_ethernet(*board)) for board in boards}
    complaints += [f"the board at {board} has {n} chips" for board, n in counts.items() if n != CHIPS_PER_BOARD]
    if machine.n_chips != CHIPS_PER_BOARD * len(told):
        complaints.append(f"there are {machine.n_chips} chips, and {len(told)} boards were told")
    return complaints


def answer(line):
    try:
        return judge(**json.loads(line))
    except Exception as exc:  # noqa: BLE001 - whatever it is, a user's program would end with it
        return [f"{type(exc).__name__}: {exc}"]


for line in sys.stdin:
    print(json.dumps(answer(line)), flush=True)
