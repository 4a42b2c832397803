"""Upgrades in place, again and again, under users who must not notice."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from spalloc_server.simulator.frame import SimulatedTimings
from tests.house import PATIENCE
from tests.processes import ServerProcess, events, running
from tests.torture.halls import Hall
from tests.torture.users import User

SLOW_ENOUGH = SimulatedTimings(power_on=0.05, power_on_others=0.05)
"""Power-ons that upgrades interrupt."""

FAULTS = ("exits at once", "hangs", "exits once warm", "exits instead of being ready")


async def torture(
    folder: Path, users: int, upgrades: int, faults: tuple[str, ...] = (), seed: int = 1
) -> tuple[int, float]:
    """Upgrade a server under load; (power changes, longest wait of a client in seconds)."""
    hall = Hall(folder, frames=-(-users // 24))
    rng = random.Random(seed)
    haste = {"WARM_SECONDS": "3"} if "hangs" in faults else {}
    async with hall.simulator(SLOW_ENOUGH) as simulator, running(hall, **haste) as server:
        everybody = [await User.arrive(server.address) for _ in range(users)]
        for user in everybody:
            user.longest = 0.0
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            switchers = [group.create_task(_switch(everybody, rng, ended)) for _ in range(4)]
            for number in range(upgrades):
                await _upgrade(hall, server, faults[number % len(faults)] if faults else None)
            ended.set()
        changes = sum(switcher.result() for switcher in switchers)
        for user in everybody:
            assert (await user.status())["state"] == 3
            await user.leave()
        assert simulator.counters.overlaps == 0
    return changes, max(user.longest for user in everybody)


async def _switch(users: list[User], rng: random.Random, ended: asyncio.Event) -> int:
    changes = 0
    while not ended.is_set():
        user = users.pop(rng.randrange(len(users)))
        for on in (False, True):
            await user.switch(on=on)
            changes += 1
        users.append(user)
    return changes


async def _upgrade(hall: Hall, server: ServerProcess, fault: str | None) -> None:
    before, failures = server.pid, len(_failures(hall))
    (hall.folder / "fault").write_text(fault or "")
    server.signal(signal.SIGUSR2)
    if fault is None:
        assert await server.serves() != before
        return
    async with asyncio.timeout(PATIENCE):
        while len(_failures(hall)) == failures:  # noqa: ASYNC110 - the log tells nobody when it grows
            await asyncio.sleep(0.05)


def _failures(hall: Hall) -> list[dict[str, str]]:
    return [event for event in events(hall) if event["event"].startswith("upgrade failed")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("faults", [(), FAULTS[:1] + FAULTS[2:]], ids=["", "failing"])
async def test_upgrades_go_unnoticed(tmp_path: Path, faults: tuple[str, ...]) -> None:
    changes, _ = await torture(tmp_path, users=20, upgrades=3, faults=faults)
    assert changes > 3


@pytest.mark.torture
@pytest.mark.parametrize("faults", [(), FAULTS], ids=["", "failing"])
async def test_fifty_upgrades_under_two_hundred_users(
    tmp_path: Path, faults: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    changes, longest = await torture(tmp_path, users=200, upgrades=50, faults=faults)
    with capsys.disabled():
        print(f"\n50 upgrades, 200 users, {changes} power changes, longest wait {1000 * longest:.0f} ms", end=" ")
    assert longest < 0.5
