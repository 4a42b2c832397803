"""The faults file, and what comes of it."""

from __future__ import annotations

import math
import random
from pathlib import Path

import msgspec
import pytest

from spalloc_server.config.load import load
from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import Command, Request, Response, ResponseCode, power_arguments
from spalloc_server.links import Links
from spalloc_server.simulator.applications import ErrorCode, Signal
from spalloc_server.simulator.faults import Faults, Network, apply_faults, read_faults
from spalloc_server.simulator.flood import CHIPS
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedFrame
from spalloc_server.simulator.simulator import Simulator
from spalloc_server.simulator.site import sites_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "faults.toml"


@pytest.fixture
def frames() -> dict[str, SimulatedFrame]:
    return {"127.0.0.1": SimulatedFrame(), "127.0.0.2": SimulatedFrame(range(3))}


def parse(text: str) -> Faults:
    return msgspec.toml.decode(text, type=Faults)


def code(frame: SimulatedFrame, request: Request, now: float = 0.0) -> int | None:
    answer = frame.handle(request.encode(), now)
    return None if answer is None else Response.decode(answer.datagram).code


def test_the_example_is_read() -> None:
    faults = read_faults(EXAMPLE)
    assert faults.network == Network(loss=0.02, duplicate=0.005, reorder=0.01, delay=0.002)
    assert faults.timings == REAL_TIMINGS
    assert (faults.bmp[0].silent_until, faults.bmp[1].crash_on_overlap) == (60.0, True)
    assert (faults.board[0].wrong_fpgas, faults.board[1].stuck) == (2, "forever")
    assert (faults.answer[0].code, faults.answer[1].lost) == ("P2P_BUSY", True)


def test_the_example_fits_the_example_of_a_machine() -> None:
    machines = load(EXAMPLE.with_name("simulated-1200.toml"))
    simulator = Simulator.of_configuration(machines, faults=read_faults(EXAMPLE))
    assert simulator.frames["127.1.6.0"].boards[3].wrong_fpgas == 2
    assert simulator.frames["127.1.6.0"].boards[4].stuck == math.inf


def test_the_example_breaks_chips_and_cores_of_one_board() -> None:
    machines = load(EXAMPLE.with_name("simulated-1200.toml"))
    sites = sites_of(machines)
    faults = read_faults(EXAMPLE)
    frames = {site.bmp: SimulatedFrame() for site in sites}
    apply_faults(faults, frames, 0.0, sites)
    assert faults.board_network == Network(loss=0.001)
    assert [(site.bmp, site.number) for site in sites if site.chip_faults.never_boots] == [("127.1.6.0", 5)]
    (broken,) = [site for site in sites if site.chip_faults.dead_chips]
    assert (broken.bmp, broken.number) == ("127.1.6.0", 6)
    hurt = CHIPS.index((4, 4))
    assert broken.chip_faults.dead_chips == {CHIPS.index((3, 2))}
    assert broken.chip_faults.dead_cores[hurt] == {5}
    assert broken.chip_faults.dead_links == {(hurt, Links.north), (hurt, Links.east)}
    failure = broken.chip_faults.failures[CHIPS.index((1, 0)), 3]
    assert (failure.code, failure.at) == (ErrorCode.SWERR, Signal.SYNC0)
    assert "asked for" in failure.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[network]\nloss = 2", r"<= 1.0.*\$\.network\.loss"),
        ("[[board]]\nboard = 24", r"<= 23.*\$\.board\[0\]\.board"),
        ("[[board]]\nwrong_fpgas = 1", "missing required field `board`"),
        ("[timings]\npower_on = -1", r">= 0.*\$\.timings\.power_on"),
        ("los = 1", "unknown field `los`"),
        ('[[answer]]\ncode = "BUSY"', r"'BUSY' is none of OK, LEN, .*\$\.answer\[0\]"),
        ('[[answer]]\ncommand = "POWR"\nlost = true', "'POWR' is none of VERSION, "),
        ('[[answer]]\ncommand = "POWER"', "either a `code` or `lost = true`"),
        ('[[answer]]\ncode = "BUF"\nlost = true', "either a `code` or `lost = true`"),
        ('[[bmp]]\nversion = "new"', r"\$\.bmp\[0\]\.version"),
        ("[network\n", "line 1"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"faults.toml: .*{complaint}"):
        read_faults(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the faults in .*none\.toml: No such file"):
        read_faults(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[bmp]]\nhost = "127.0.0.9"', "the BMP 127.0.0.9; there are 127.0.0.1, 127.0.0.2"),
        ('[[board]]\nhost = "127.0.0.2"\nboard = 3', "board 3 of 127.0.0.2; it has 0, 1, 2"),
        ('[[answer]]\nhost = "127.0.0.2"\nboard = 3\nlost = true', "board 3 of 127.0.0.2; it has 0, 1, 2"),
    ],
)
def test_a_fault_of_hardware_that_there_is_not_is_refused(
    frames: dict[str, SimulatedFrame], text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        apply_faults(parse(text), frames, 0.0)


def test_silence_counts_from_the_start(frames: dict[str, SimulatedFrame]) -> None:
    text = '[[bmp]]\nhost = "127.0.0.1"\nsilent_from = 10\nsilent_until = 60\n[[bmp]]\nhost = "127.0.0.2"'
    apply_faults(parse(text + "\nsilent_from = 0"), frames, 1000.0)
    first, second = frames.values()
    assert [first.is_silent(now) for now in (1009.9, 1010.0, 1059.9, 1060.0)] == [False, True, True, False]
    assert [second.is_silent(now) for now in (1000.0, 1e9)] == [True, True]


def test_a_fault_without_a_host_is_everywhere_the_board_is(frames: dict[str, SimulatedFrame]) -> None:
    text = '[[board]]\nboard = 2\nwrong_fpgas = 1\n[[board]]\nboard = 7\nstuck = "forever"'
    apply_faults(parse(text), frames, 0.0)
    first, second = frames.values()
    assert first.boards[2].wrong_fpgas == second.boards[2].wrong_fpgas == 1
    assert first.boards[7].stuck == math.inf


def test_versions_and_timings_are_set(frames: dict[str, SimulatedFrame]) -> None:
    apply_faults(parse('[timings]\ncommand = 0.25\n[[bmp]]\nversion = "1.33"'), frames, 0.0)
    assert {board.version for frame in frames.values() for board in frame.boards.values()} == {(1, 33, 0)}
    assert {frame.timings.command for frame in frames.values()} == {0.25}


def test_bmps_that_crash_on_overlap_are_set(frames: dict[str, SimulatedFrame]) -> None:
    apply_faults(parse('[[bmp]]\nhost = "127.0.0.2"\ncrash_on_overlap = true'), frames, 0.0)
    assert [frame.crashes_on_overlap for frame in frames.values()] == [False, True]


def test_answers_are_refused_and_lost(frames: dict[str, SimulatedFrame]) -> None:
    text = '[[answer]]\nhost = "127.0.0.1"\ncommand = "POWER"\ncode = "BUF"\ntimes = 1\n[[answer]]\nlost = true'
    apply_faults(parse(text), frames, 0.0)
    first, second = frames.values()
    power = Request(0, Command.POWER, 1, *power_arguments((1,), on=True))
    assert code(first, power) == ResponseCode.BUF
    assert code(second, power) is None
    assert (first.boards_on(), second.boards_on()) == (set(), {1})


def test_a_perfect_network_passes_everything_at_once() -> None:
    assert Network().passages(random.Random(1)) == [(0.0, False)]


def test_a_network_loses_copies_and_delays_as_often_as_it_was_told() -> None:
    rng = random.Random(1)
    network = Network(loss=0.2, duplicate=0.05, reorder=0.1, delay=0.01, reorder_delay=0.5)
    ways = [network.passages(rng) for _ in range(10_000)]
    arrived = [way for way in ways if way]
    assert len(ways) - len(arrived) == pytest.approx(2000, rel=0.1)
    assert sum(len(way) == 2 for way in arrived) == pytest.approx(400, rel=0.2)
    assert sum(way[0][0] > 0.01 for way in arrived) == pytest.approx(800, rel=0.15)
    assert all(not way[0][1] and all(copy for _, copy in way[1:]) for way in arrived)


def test_the_same_seed_gives_the_same_losses() -> None:
    network = Network(loss=0.5, duplicate=0.5, delay=1.0)
    first, second = ([network.passages(rng) for _ in range(50)] for rng in (random.Random(7), random.Random(7)))
    assert first == second
