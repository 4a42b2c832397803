"""The simulator is real enough for the published drivers: rig's BMPController and spinnman's Transceiver."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.links import Links
from spalloc_server.simulator.simulator import Simulator
from tests.conformance.environments import environment, published_server
from tests.hardware.addresses import loopback_hosts

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
DRIVE_SECONDS = 60


async def drive(python: Path, script: str, host: str) -> dict[str, Any]:
    """What the driver saw when it drove the BMP at `host`."""
    process = await asyncio.create_subprocess_exec(
        python, HERE / script, host, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DRIVE_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    seen: dict[str, Any] = json.loads(output)
    return seen


def check_what_both_do(simulator: Simulator, host: str, seen: dict[str, Any]) -> None:
    assert seen["version"] == [2, 1, 2]
    assert seen["identities"] == [0, 1, 2]
    assert seen["stopped"] == 1
    assert simulator.boards_on() == {(host, 0), (host, 3), (host, 5)}
    assert simulator.power_cycles()[host, 1] == (1, 1)
    assert simulator.stopped_links() == {(host, 3, Links.north)}
    assert simulator.frames[host].boards[3].leds == 0b10000001
    assert simulator.counters.errors == simulator.counters.overlaps == simulator.counters.repeats == 0


async def test_rig_drives_the_simulator() -> None:
    python = environment("rig-2.4.1", "rig==2.4.1", "setuptools<81")
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(24)}) as simulator:
        seen = await drive(python, "drive_rig.py", host)
    check_what_both_do(simulator, host, seen)
    assert (seen["name"], seen["board"], seen["buffer"]) == ("BC&MP/Spin5-BMP", 3, 256)
    assert seen["volts"] == [1.2, 1.8, 12.0]
    assert (seen["top"], seen["fans"]) == (30.0, [None, None])


async def test_spinnman_drives_the_simulator_but_cannot_pack_its_own_request_for_temperatures() -> None:
    python = published_server()
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(24)}) as simulator:
        seen = await drive(python, "drive_spinnman.py", host)
    check_what_both_do(simulator, host, seen)
    assert (seen["name"], seen["hardware"]) == ("BC&MP", "Spin5-BMP")
    assert seen["adc"] == "required argument is not an integer"
    assert simulator.counters.commands["INFO"] == 0
