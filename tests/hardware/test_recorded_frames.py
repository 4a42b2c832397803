"""Frames that misbehave are dealt with as was recorded: which command, when, and what is told of it.

Theory of operation. Boards of two frames are switched at random, in virtual time, while their BMPs fall silent, refuse
commands, lose answers, or load wrong bit files. Every command that reaches a BMP is recorded with its time, and so is
all that is reported. Where a change is meant, the records are written anew, and their differences are looked at:

    python -m tests.hardware.test_recorded_frames
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import zlib
from pathlib import Path

import pytest

from spalloc_server.errors import HardwareError
from spalloc_server.hardware.scp import Command, ResponseCode
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedFrame
from tests.core.recorded import shortened
from tests.hardware.virtual import Bench, on_bench

pytestmark = pytest.mark.slow

RECORDS = Path(__file__).parents[1] / "data" / "recorded-frames.json"
SEEDS, STEPS, BOARDS = 48, 30, 6


def frames() -> dict[str, SimulatedFrame]:
    return {host: SimulatedFrame(range(BOARDS), timings=REAL_TIMINGS) for host in "ab"}


def disturb(frame: SimulatedFrame, choose: random.Random) -> str:
    """Let a frame misbehave from now on, or no longer."""
    command = choose.choice([None, Command.POWER, Command.VERSION, Command.FPGA_READ, Command.FPGA_WRITE])
    times = choose.choice([1, 2, 20, math.inf])
    board = choose.randrange(BOARDS)
    match choose.randrange(6):
        case 0:
            frame.silence()
            return "silence"
        case 1:
            code = choose.choice([ResponseCode.P2P_TIMEOUT, ResponseCode.ARG, ResponseCode.BUF, ResponseCode.OK])
            frame.refuse(code, command=command, times=times)
            return f"refuse {code.name} {command} {times}"
        case 2:
            frame.lose_answers(command=command, times=times)
            return f"lose {command} {times}"
        case 3:
            frame.boards[board].wrong_fpgas = choose.choice([1, 2, 3, 1000])
            return f"wrong fpgas {board}"
        case 4:
            frame.boards[board].version = choose.choice([(1, 36, 0), (2, 0, 0), (2, 1, 2)])
            return f"version {board}"
        case _:
            frame.recover()
            return "recover"


async def live(bench: Bench, choose: random.Random, told: list[str]) -> None:
    bench.hardware.watch("ab")
    for _ in range(STEPS):
        host = choose.choice("ab")
        deed = choose.randrange(12)
        what = ""
        if deed < 6:
            boards = sorted(choose.sample(range(BOARDS), choose.randint(1, 3)))
            on, job = choose.random() < 0.6, choose.randint(1, 4)
            stopped = [(board, choose.choice(list(Links))) for board in boards if choose.random() < 0.5]
            what = (
                f"{bench.switch(boards, on=on, job=job, host=host, stopped=stopped if on else ())} {boards} {on} {job}"
            )
        elif deed < 9:
            what = disturb(bench.frame(host), choose)
        elif deed == 9:
            bench.hardware.watch(choose.choice(["a", "ab", "ab", ""]))
        elif deed == 10:
            try:
                async with asyncio.timeout(20):
                    what = f"temperature {(await bench.hardware.read_temperatures(host, choose.randrange(8))).top}"
            except (HardwareError, TimeoutError) as error:
                what = f"temperature {error}"
        else:
            what = f"drained {await bench.hardware.drain(choose.choice([1.0, 30.0]))}"
        seconds, busy = choose.choice([0.0, 0.01, 1.0, 20.0, 150.0]), ""
        for _ in range(5):
            busy += "-+"[bench.hardware.busy()]
            await asyncio.sleep(seconds / 5)
        told.append(f"{bench.loop.time():.3f} {host} {what} {busy} {bench.hardware.in_flight()}")
        told.append(f"    {status(bench)}")
    for host in "ab":
        bench.frame(host).recover()
    await asyncio.sleep(200.0)
    told.append(status(bench))
    told += [f"{bench.ended_at[number]:.3f} {bench.outcomes[number]}" for number in sorted(bench.outcomes)]
    told += [f"{at:.3f} {bmp} {reason}" for at, bmp, reason in bench.reports]


def status(bench: Bench) -> str:
    """How the frames are doing, and a check sum of the last commands that they were given."""
    given = [
        f"{host} {at:.3f} {each.command} {each.board} {each.arg1} {each.arg2} {each.arg3} {each.data.hex()}"
        for host in "ab"
        for at, each in bench.frame(host).commands
    ]
    shown = [
        f"{one.bmp} {one.out} {one.waiting} {one.commands} {one.resends} {one.strays}"
        for _, one in sorted(bench.hardware.frames().items())
    ]
    return f"{'; '.join(shown)}; {zlib.crc32(chr(10).join(given).encode()):08x}"


def lived(seed: int) -> list[str]:
    """What happened, a line for each deed and each outcome."""
    choose, told = random.Random(seed), list[str]()
    network = Network(loss=0.02, duplicate=0.02) if seed % 4 == 3 else None
    timings = Timings(pace_s=0.01, stagger_ms=20) if seed % 4 == 2 else None

    @on_bench(frames=frames, network=network, timings=timings, seed=seed)
    async def run(bench: Bench) -> None:
        await live(bench, choose, told)

    run()
    return list(map(shortened, told))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_frames_are_dealt_with_as_was_recorded(seed: int) -> None:
    before = json.loads(RECORDS.read_text())[str(seed)]
    for now, then in zip(lived(seed), before, strict=True):
        assert now == then


def write() -> None:
    RECORDS.write_text(json.dumps({seed: lived(seed) for seed in range(SEEDS)}, indent=0) + "\n")


if __name__ == "__main__":
    write()
