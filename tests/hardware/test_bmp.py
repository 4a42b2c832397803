"""One BMP: one command at a time, matched to its answer, sent again or not, and silence."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from spalloc_server.hardware.bmp import Bmp, FindAddress, NoAnswer, Refused, Silent
from spalloc_server.hardware.names import NoNameService
from spalloc_server.hardware.scp import Command, Request, Response, ResponseCode
from spalloc_server.hardware.timings import Timings
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import SimulatedFrame, SimulatedTimings
from tests.hardware.virtual import Bench, name_as_address, on_bench

ONE_LED = 3
"""First argument of `Command.LED`: LED 0 on."""


def bmp_of(
    host: str = "a", timings: Timings | None = None, find_address: FindAddress = name_as_address
) -> tuple[Bmp, list[str]]:
    """A BMP's driver, and where it reports silence."""
    silences: list[str] = []
    return Bmp(host, timings or Timings(), silences.append, find_address=find_address), silences


def slow_frame() -> dict[str, SimulatedFrame]:
    return {"a": SimulatedFrame(timings=SimulatedTimings(command=0.3))}


def sequences(bench: Bench) -> list[int]:
    return [request.sequence for request in bench.commands()]


@on_bench()
async def test_nothing_is_opened_before_the_first_command(bench: Bench) -> None:
    bmp, _ = bmp_of()
    await asyncio.sleep(1)
    assert bench.loop.opened == []
    await bmp.command(0, Command.VERSION)
    assert bench.loop.opened == ["a"]


@on_bench(frames=slow_frame)
async def test_commands_given_together_are_done_one_after_the_other_in_order(bench: Bench) -> None:
    bmp, _ = bmp_of()
    async with asyncio.TaskGroup() as group:
        for board in range(6):
            group.create_task(bmp.command(board, Command.LED, ONE_LED, 1 << board))
    assert [request.board for request in bench.commands()] == list(range(6))
    assert bench.frame().counters.overlaps == 0


@on_bench()
async def test_each_command_has_a_fresh_sequence_number_that_wraps_at_16_bits(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bmp._sequence = 0xFFFD
    for _ in range(4):
        await bmp.command(0, Command.VERSION)
    assert sequences(bench) == [0xFFFE, 0xFFFF, 0, 1]


@on_bench()
async def test_a_command_without_an_answer_is_sent_again_under_the_same_number(bench: Bench) -> None:
    bmp, silences = bmp_of()
    bench.frame().lose_answers(times=3)
    await bmp.command(0, Command.VERSION)
    assert len(set(sequences(bench))) == 1
    assert (len(sequences(bench)), bmp.resends, silences) == (4, 3, [])
    assert bench.loop.time() == pytest.approx(3 * Timings().reply_s, abs=0.01)


@on_bench(frames=slow_frame)
async def test_a_late_answer_to_the_first_sending_counts(bench: Bench) -> None:
    bmp, _ = bmp_of(timings=Timings(reply_s=0.2))
    await bmp.command(0, Command.VERSION)
    assert bench.loop.time() == pytest.approx(0.3, abs=0.01)


@on_bench(network=Network(duplicate=1.0, delay=0.2))
async def test_second_copies_of_answers_are_taken_for_no_other_command(bench: Bench) -> None:
    bmp, _ = bmp_of()
    for board in range(20):
        assert (await bmp.command(board, Command.VERSION))[0] == board
    assert bmp.strays >= 20


@on_bench()
async def test_garbage_is_ignored(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bmp.datagram_received(b"", None)
    bmp.datagram_received(b"\0" * 13, None)
    bmp.datagram_received(Response(ResponseCode.OK, 1).encode(Request(0, Command.VERSION, 1).encode()), None)
    assert bmp.strays == 3
    assert len(await bmp.command(0, Command.VERSION)) > 12


@on_bench()
async def test_a_command_that_is_refused_for_the_moment_is_sent_anew_after_a_pause(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().refuse(ResponseCode.P2P_BUSY, times=2)
    await bmp.command(0, Command.VERSION)
    assert bench.loop.time() == pytest.approx(2 * Timings().refusal_pause_s, abs=0.01)


@on_bench()
async def test_a_command_that_is_refused_for_the_moment_for_ever_fails(bench: Bench) -> None:
    bmp, silences = bmp_of()
    bench.frame().refuse(ResponseCode.BUF)
    with pytest.raises(Refused, match="BMP a refuses LED for board 3: BUF"):
        await bmp.command(3, Command.LED)
    assert bench.frame().counters.datagrams == Timings().refusal_tries
    assert silences == []


@on_bench()
async def test_other_commands_pass_one_that_is_refused_for_the_moment(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().refuse(ResponseCode.P2P_NOREPLY, board=3, times=5)
    waiting = asyncio.create_task(bmp.command(3, Command.VERSION))
    await asyncio.sleep(0)
    await bmp.command(4, Command.VERSION)
    assert not waiting.done()
    await waiting


@on_bench()
async def test_a_command_that_is_refused_for_good_is_sent_once(bench: Bench) -> None:
    bmp, _ = bmp_of()
    with pytest.raises(Refused, match="BMP a refuses Command 0xc8 for board 3: CMD"):
        await bmp.command(3, 200)
    with pytest.raises(Refused, match="BMP a refuses LED for board 30: ROUTE"):
        await bmp.command(30, Command.LED)
    assert bench.frame().counters.datagrams == 2


@on_bench()
async def test_a_power_command_is_sent_once_and_does_not_make_the_bmp_silent(bench: Bench) -> None:
    bmp, silences = bmp_of()
    bench.frame().lose_answers(command=Command.POWER, times=1)
    with pytest.raises(NoAnswer, match=r"BMP a does not answer \(1 x POWER in 10 s each\)") as caught:
        await bmp.command(0, Command.POWER, 1, 1)
    assert not isinstance(caught.value, Silent)
    assert bench.loop.time() == pytest.approx(Timings().power_reply_s, abs=0.01)
    assert (len(bench.commands()), silences) == (1, [])


@on_bench()
async def test_a_power_command_that_the_bmp_did_not_accept_is_sent_anew(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().refuse(ResponseCode.SUM, command=Command.POWER, times=1)
    await bmp.command(0, Command.POWER, 1, 1)
    assert bench.frame().boards_on() == {0}


@on_bench()
async def test_a_power_command_that_got_lost_beyond_the_bmp_counts_as_not_answered(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().refuse(ResponseCode.P2P_TIMEOUT, command=Command.POWER, times=1)
    with pytest.raises(NoAnswer, match="P2P_TIMEOUT"):
        await bmp.command(0, Command.POWER, 1, 1)
    assert bench.frame().counters.datagrams == 1


@on_bench()
async def test_a_silent_bmp_fails_commands_at_once_until_a_probe_is_answered(bench: Bench) -> None:
    bmp, silences = bmp_of()
    bench.frame().silence()
    with pytest.raises(Silent):
        await bmp.command(0, Command.VERSION)
    assert silences == [bmp.silent]
    since, sent = bench.loop.time(), bench.frame().counters.datagrams
    with pytest.raises(Silent, match="BMP a does not answer"):
        await bmp.command(0, Command.LED)
    assert (bench.loop.time(), bench.frame().counters.datagrams) == (since, sent)
    assert not await bmp.probe()
    bench.frame().recover()
    assert await bmp.probe()
    assert bmp.silent is None
    await bmp.command(0, Command.VERSION)
    assert len(silences) == 1


@on_bench()
async def test_the_address_of_a_bmp_is_looked_up_again_once_it_has_fallen_silent(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().silence()
    with pytest.raises(Silent):
        await bmp.command(0, Command.VERSION)
    for probes in range(1, 4):
        assert not await bmp.probe()
        assert bench.loop.opened == ["a"] * (1 + probes)


@on_bench()
async def test_commands_are_counted_once_however_often_they_are_sent(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().lose_answers(times=2)
    for number in (1, 2):
        await bmp.command(0, Command.VERSION)
        assert bmp.commands == number


@on_bench()
async def test_a_refusal_is_a_sign_of_life(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bmp.fall_silent("for a test")
    bench.frame().refuse(ResponseCode.BUF)
    assert await bmp.probe()


@on_bench()
async def test_a_host_that_cannot_be_found_is_a_silent_bmp(bench: Bench) -> None:
    bmp, silences = bmp_of("nowhere.invalid")
    with pytest.raises(Silent):
        await bmp.command(0, Command.VERSION)
    assert silences == ["BMP nowhere.invalid cannot be reached: name or service not known"]
    assert not await bmp.probe()


@on_bench()
async def test_a_name_service_that_falls_silent_takes_no_bmp_out_that_it_has_found_before(bench: Bench) -> None:
    answers: list[str | OSError] = ["a", NoNameService("try again"), OSError("no such name")]

    async def find(_host: str, _within_s: float) -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    bmp, silences = bmp_of("bmp.lab", find_address=find)
    await bmp.command(0, Command.VERSION)
    bmp.fall_silent("for a test")
    bmp.close()
    assert await bmp.probe()
    bmp.fall_silent("for a test")
    bmp.close()
    assert not await bmp.probe()
    assert bmp.silent == "BMP bmp.lab cannot be reached: no such name"
    assert bench.loop.opened == ["a", "a"]
    assert silences == ["for a test"] * 2


@on_bench()
async def test_a_bmp_whose_name_is_being_looked_up_has_nothing_in_flight(bench: Bench) -> None:
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bmp, _ = bmp_of(find_address=lambda *_: found)
    asking = asyncio.create_task(bmp.command(0, Command.VERSION))
    await asyncio.sleep(1)
    assert not bmp.in_flight
    bmp.pause()
    found.set_result("a")
    await asyncio.sleep(1)
    assert bench.commands() == []
    bmp.resume()
    await asking


@on_bench()
async def test_commands_keep_their_pace(bench: Bench) -> None:
    bmp, _ = bmp_of(timings=Timings(pace_s=0.05))
    for _ in range(5):
        await bmp.command(0, Command.VERSION)
    times = [at for at, _ in bench.frame().commands]
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(times))


@on_bench()
async def test_a_caller_that_is_cancelled_leaves_the_bmp_usable(bench: Bench) -> None:
    bmp, _ = bmp_of()
    bench.frame().lose_answers(times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bmp.command(0, Command.VERSION)
    assert (await bmp.command(5, Command.VERSION))[0] == 5


def test_a_request_to_the_bmp_says_what_the_command_says() -> None:
    seen: list[Request] = []

    @on_bench()
    async def body(bench: Bench) -> None:
        bmp, _ = bmp_of()
        await bmp.command(3, Command.FPGA_WRITE, 0x5C, 4, 2, b"\1\0\0\0")
        seen.extend(bench.commands())

    body()
    assert seen == [Request(3, Command.FPGA_WRITE, 1, 0x5C, 4, 2, b"\1\0\0\0")]


@on_bench(frames=slow_frame)
async def test_a_paused_bmp_ends_what_is_in_flight_and_begins_nothing(bench: Bench) -> None:
    bmp, _ = bmp_of()
    async with asyncio.TaskGroup() as group:
        first, second = (group.create_task(bmp.command(board, Command.LED, ONE_LED, 1 << board)) for board in (0, 1))
        await asyncio.sleep(0.1)
        assert bmp.in_flight
        bmp.pause()
        await asyncio.sleep(10)
        assert (first.done(), second.done(), bmp.in_flight) == (True, False, False)
        assert len(bench.commands()) == 1
        bmp.resume()
    assert len(bench.commands()) == 2
