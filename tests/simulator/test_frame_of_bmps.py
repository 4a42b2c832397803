"""What a driver sees of a simulated frame, told datagram by datagram and without a clock of its own."""

from __future__ import annotations

import math
from itertools import count

import pytest
from hypothesis import given, strategies as st

from spalloc_server.hardware.scp import (
    FLAG_REGISTER,
    Adc,
    Command,
    InfoType,
    Request,
    Response,
    ResponseCode,
    Version,
    power_arguments,
    stop_register,
)
from spalloc_server.links import Links
from spalloc_server.simulator.frame import (
    REAL_TIMINGS,
    UNREADABLE,
    Counters,
    SimulatedFrame,
    SimulatedTimings,
)


class Driver:
    """Talks to a frame, one command a second."""

    def __init__(self, frame: SimulatedFrame) -> None:
        self.frame = frame
        self.now = 0.0
        self.answered_at = math.nan
        self._sequence = count()

    def ask(
        self,
        board: int,
        command: int,
        *args: int,
        data: bytes = b"",
        sequence: int | None = None,
        port: int = 0,
    ) -> Response | None:
        sequence = next(self._sequence) if sequence is None else sequence
        self.now += 1.0
        arg1, arg2, arg3 = (*args, 0, 0, 0)[:3]
        request = Request(board, command, sequence, arg1, arg2, arg3, data, port)
        answer = self.frame.handle(request.encode(), self.now, source="driver")
        if answer is None:
            return None
        self.answered_at = answer.at
        return Response.decode(answer.datagram)

    def code(self, board: int, command: int, *args: int) -> int | None:
        response = self.ask(board, command, *args)
        return None if response is None else response.code

    def power(self, *boards: int, on: bool = True, delay_ms: int = 0) -> int | None:
        return self.code(0, Command.POWER, *power_arguments(boards, on=on, delay_ms=delay_ms))

    def read(self, board: int, fpga: int, address: int) -> int:
        response = self.ask(board, Command.FPGA_READ, address, 4, fpga)
        assert response is not None
        assert response.code == ResponseCode.OK
        return int.from_bytes(response.payload, "little")

    def stop(self, board: int, link: Links, value: int = 1) -> int | None:
        fpga, address = stop_register(link)
        response = self.ask(board, Command.FPGA_WRITE, address, 4, fpga, data=value.to_bytes(4, "little"))
        return None if response is None else response.code

    def identities(self, board: int) -> list[int]:
        return [self.read(board, fpga, FLAG_REGISTER) & 3 for fpga in range(3)]


@pytest.fixture
def frame() -> SimulatedFrame:
    return SimulatedFrame(range(6))


@pytest.fixture
def driver(frame: SimulatedFrame) -> Driver:
    return Driver(frame)


def test_all_boards_start_switched_off(frame: SimulatedFrame, driver: Driver) -> None:
    assert frame.boards_on() == set()
    assert driver.read(1, 0, FLAG_REGISTER) == UNREADABLE


def test_power_switches_the_boards_of_the_mask_that_are_fitted(frame: SimulatedFrame, driver: Driver) -> None:
    assert driver.power(0, 2, 3, 23) == ResponseCode.OK
    assert frame.boards_on() == {0, 2, 3}
    assert driver.power(2, on=False) == ResponseCode.OK
    assert frame.boards_on() == {0, 3}
    switched = [(board.power_ons, board.power_offs) for board in frame.boards.values()]
    assert switched == [(1, 0), (0, 0), (1, 1), (1, 0), (0, 0), (0, 0)]


def test_a_board_that_is_on_knows_its_fpgas_and_the_scrambler_default(driver: Driver) -> None:
    driver.power(4)
    assert driver.identities(4) == [0, 1, 2]
    assert driver.read(4, 1, 0x40010) == 0xF


def test_power_on_of_a_board_that_is_on_clears_its_registers(frame: SimulatedFrame, driver: Driver) -> None:
    driver.power(1, 2)
    driver.stop(1, Links.north)
    driver.stop(2, Links.south)
    assert frame.stopped_links() == {(1, Links.north), (2, Links.south)}
    driver.power(1)
    assert frame.stopped_links() == {(2, Links.south)}


@given(st.sampled_from(Links), st.integers(0, 1))
def test_a_register_reads_as_it_was_written(link: Links, value: int) -> None:
    frame = SimulatedFrame()
    driver = Driver(frame)
    driver.power(7)
    assert driver.stop(7, link, value) == ResponseCode.OK
    assert driver.read(7, *stop_register(link)) == value
    assert frame.stopped_links() == ({(7, link)} if value else set())


def test_several_registers_can_be_read_at_once(driver: Driver) -> None:
    driver.power(1)
    driver.ask(1, Command.FPGA_WRITE, 0x40008, 8, 2, data=b"\1\0\0\0\2\0\0\0")
    response = driver.ask(1, Command.FPGA_READ, 0x40004, 12, 2)
    assert response == Response(ResponseCode.OK, 2, b"\2\0\0\0\1\0\0\0\2\0\0\0")


def test_writes_to_a_board_that_is_off_are_lost(frame: SimulatedFrame, driver: Driver) -> None:
    assert driver.stop(1, Links.east) == ResponseCode.OK
    driver.power(1)
    assert frame.stopped_links() == set()
    assert frame.counters.lost_writes == 1


def test_board_0_answers_a_power_on_when_it_is_up_and_others_come_up_later() -> None:
    frame = SimulatedFrame(timings=REAL_TIMINGS)
    driver = Driver(frame)
    driver.power(0, 1)
    assert driver.answered_at == driver.now + REAL_TIMINGS.power_on
    driver.now = driver.answered_at
    assert driver.read(0, 2, FLAG_REGISTER) == 2
    assert driver.read(1, 2, FLAG_REGISTER) == UNREADABLE
    driver.now += REAL_TIMINGS.power_on_others
    assert driver.identities(1) == [0, 1, 2]


def test_a_power_on_without_board_0_and_every_power_off_is_acknowledged_at_once() -> None:
    driver = Driver(SimulatedFrame(timings=REAL_TIMINGS))
    driver.power(1, 2)
    assert driver.answered_at == driver.now + REAL_TIMINGS.command
    driver.power(0, on=False)
    assert driver.answered_at == driver.now + REAL_TIMINGS.command


def test_boards_wait_the_delay_times_their_number(frame: SimulatedFrame, driver: Driver) -> None:
    driver.power(0, 5, delay_ms=2000)
    assert frame.boards[0].is_up(driver.now)
    assert not frame.boards[5].is_up(driver.now + 9.9)
    assert frame.boards[5].is_up(driver.now + 10)


def test_power_is_passed_on_by_board_0_only(frame: SimulatedFrame, driver: Driver) -> None:
    assert driver.code(3, Command.POWER, *power_arguments((2, 3), on=True)) == ResponseCode.OK
    assert frame.boards_on() == {3}


def test_the_version_tells_board_and_can_number() -> None:
    driver = Driver(SimulatedFrame())
    response = driver.ask(13, Command.VERSION)
    assert response is not None
    assert Version.decode(response.payload) == Version(version=(2, 1, 2), board_id=13, can_id=17)


def test_old_bmps_cannot_reach_fpga_registers(frame: SimulatedFrame, driver: Driver) -> None:
    frame.boards[1].version = (1, 33, 0)
    driver.power(1, 2)
    assert driver.code(1, Command.FPGA_READ, FLAG_REGISTER, 4, 0) == ResponseCode.CMD
    assert driver.stop(1, Links.east) == ResponseCode.CMD
    assert driver.code(2, Command.FPGA_READ, FLAG_REGISTER, 4, 0) == ResponseCode.OK


def test_leds_are_switched_toggled_and_left_alone(frame: SimulatedFrame, driver: Driver) -> None:
    driver.ask(1, Command.LED, 0b11_00_11, 0b110)
    assert (frame.boards[1].leds, frame.boards[2].leds, frame.boards[3].leds) == (0b101, 0b101, 0)
    driver.ask(1, Command.LED, 0b01_01_10, 0b010)
    assert (frame.boards[1].leds, frame.boards[2].leds) == (0b010, 0b101)


def test_temperatures_are_told_and_supplies_of_a_board_that_is_off_are_zero(
    frame: SimulatedFrame, driver: Driver
) -> None:
    frame.boards[2].adc = Adc(top=71.5)
    before = driver.ask(2, Command.INFO, InfoType.ADC)
    driver.power(2)
    after = driver.ask(2, Command.INFO, InfoType.ADC)
    assert before is not None
    assert after is not None
    off, on = Adc.decode(before.payload), Adc.decode(after.payload)
    assert (off.top, on.top) == (71.5, 71.5)
    assert (off.volts_1v8, on.volts_1v8) == pytest.approx((0.0, 1.8), abs=0.01)


def test_the_fitted_boards_are_told() -> None:
    driver = Driver(SimulatedFrame([2, 5]))
    response = driver.ask(0, Command.INFO, InfoType.CAN_STATUS)
    assert response is not None
    assert [number for number, fitted in enumerate(response.payload) if fitted] == [0, 2, 5]


@pytest.mark.parametrize(
    ("board", "command", "args", "port", "code"),
    [
        (9, Command.VERSION, (), 0, ResponseCode.ROUTE),
        (1, Command.VERSION, (), 1, ResponseCode.PORT),
        (1, 99, (), 0, ResponseCode.CMD),
        (1, Command.TUBE, (), 0, ResponseCode.CMD),
        (1, Command.INFO, (77,), 0, ResponseCode.ARG),
        (0, Command.POWER, (2, 1), 0, ResponseCode.ARG),
        (1, Command.FPGA_READ, (FLAG_REGISTER, 4, 3), 0, ResponseCode.ARG),
        (1, Command.FPGA_READ, (FLAG_REGISTER, 257, 0), 0, ResponseCode.ARG),
        (1, Command.FPGA_WRITE, (0x5C, 4, 0), 0, ResponseCode.ARG),
    ],
)
def test_wrong_requests_are_refused_in_fourteen_bytes(
    frame: SimulatedFrame, driver: Driver, board: int, command: int, args: tuple[int, ...], port: int, code: int
) -> None:
    response = driver.ask(board, command, *args, port=port)
    assert response == Response(code, 0, b"")
    assert frame.counters.errors == 1


def test_a_request_without_room_for_arguments_is_refused(frame: SimulatedFrame) -> None:
    answer = frame.handle(Request(1, Command.VERSION, 7).encode()[:20], 0.0)
    assert answer is not None
    assert Response.decode(answer.datagram) == Response(ResponseCode.LEN, 7)


@pytest.mark.parametrize("datagram", [b"", bytes(13), bytes(283)], ids=len)
def test_garbage_is_dropped(frame: SimulatedFrame, datagram: bytes) -> None:
    assert frame.handle(datagram, 0.0) is None


@given(st.binary(max_size=300))
def test_no_datagram_breaks_a_frame(datagram: bytes) -> None:
    frame = SimulatedFrame()
    answer = frame.handle(datagram, 0.0)
    assert answer is None or Response.decode(answer.datagram).code in set(ResponseCode)


def test_a_request_may_want_no_answer(frame: SimulatedFrame) -> None:
    arg1, arg2 = power_arguments((1,), on=True)
    assert frame.handle(Request(0, Command.POWER, 0, arg1, arg2, reply_expected=False).encode(), 0.0) is None
    assert frame.boards_on() == {1}


def test_fpgas_stay_wrong_for_so_many_power_ons(frame: SimulatedFrame, driver: Driver) -> None:
    frame.boards[1].wrong_fpgas = 2
    seen = []
    for _ in range(3):
        driver.power(1)
        seen.append(driver.identities(1))
    assert seen == [[3, 3, 3], [3, 3, 3], [0, 1, 2]]


def test_a_stuck_board_stays_off_for_so_many_power_ons(frame: SimulatedFrame, driver: Driver) -> None:
    frame.boards[1].stuck = 1
    assert driver.power(1, 2) == ResponseCode.OK
    assert frame.boards_on() == {2}
    driver.power(1)
    assert frame.boards_on() == {1, 2}
    assert frame.boards[1].power_ons == 2


def test_a_silent_bmp_neither_does_nor_answers_anything_until_it_is_back(frame: SimulatedFrame, driver: Driver) -> None:
    frame.silence(2.0, 4.0)
    assert driver.power(1) == ResponseCode.OK
    assert driver.power(2) is None
    assert driver.power(3) is None
    assert driver.power(4) == ResponseCode.OK
    assert frame.boards_on() == {1, 4}


def test_commands_are_refused_as_often_as_was_asked_for(frame: SimulatedFrame, driver: Driver) -> None:
    frame.refuse(ResponseCode.P2P_BUSY, command=Command.POWER, times=2)
    assert driver.code(1, Command.VERSION) == ResponseCode.OK
    assert [driver.power(1) for _ in range(3)] == [ResponseCode.P2P_BUSY, ResponseCode.P2P_BUSY, ResponseCode.OK]
    assert frame.boards[1].power_ons == 1
    assert frame.counters.commands == {"VERSION": 1, "POWER": 1}


def test_commands_to_one_board_can_be_refused(frame: SimulatedFrame, driver: Driver) -> None:
    frame.refuse(ResponseCode.P2P_NOREPLY, board=2)
    codes = [driver.code(board, Command.VERSION) for board in (1, 2, 2, 3)]
    assert codes == [ResponseCode.OK, ResponseCode.P2P_NOREPLY, ResponseCode.P2P_NOREPLY, ResponseCode.OK]


def test_a_refusal_may_lie(frame: SimulatedFrame, driver: Driver) -> None:
    frame.refuse(ResponseCode.P2P_TIMEOUT, times=1, acts=True)
    assert driver.power(1) == ResponseCode.P2P_TIMEOUT
    assert frame.boards_on() == {1}


def test_an_answer_can_be_lost_after_the_deed(frame: SimulatedFrame, driver: Driver) -> None:
    frame.lose_answers(command=Command.POWER, times=1)
    assert driver.power(1) is None
    assert frame.boards_on() == {1}
    assert driver.power(1, on=False) == ResponseCode.OK


def test_a_frame_recovers_of_all_that_was_still_to_come(frame: SimulatedFrame, driver: Driver) -> None:
    frame.silence()
    frame.refuse(ResponseCode.DEAD)
    frame.boards[1].wrong_fpgas = frame.boards[1].stuck = math.inf
    assert driver.power(1) is None
    frame.recover()
    assert driver.power(1) == ResponseCode.OK
    assert driver.identities(1) == [0, 1, 2]


def test_a_second_command_during_the_first_is_an_overlap_and_waits() -> None:
    frame = SimulatedFrame(timings=SimulatedTimings(command=0.5))
    first = frame.handle(Request(0, Command.VERSION, 1).encode(), 10.0, source="a")
    second = frame.handle(Request(1, Command.VERSION, 2).encode(), 10.2, source="b")
    third = frame.handle(Request(1, Command.VERSION, 3).encode(), 11.0, source="b")
    assert [answer and answer.at for answer in (first, second, third)] == [10.5, 11.0, 11.5]
    assert frame.counters.overlaps == 1


def test_commands_that_wait_together_overlap_however_quick_the_bmp_is(frame: SimulatedFrame) -> None:
    frame.handle(Request(0, Command.VERSION, 1).encode(), 10.0)
    frame.handle(Request(0, Command.VERSION, 2).encode(), 10.0, waiting=True)
    assert frame.counters.overlaps == 1


def test_an_overlap_crashes_a_bmp_where_that_is_asked_for(frame: SimulatedFrame, driver: Driver) -> None:
    frame.crashes_on_overlap = True
    assert driver.power(1) == ResponseCode.OK
    assert frame.handle(Request(0, Command.VERSION, 9).encode(), driver.now, waiting=True) is None
    assert driver.power(2) is None
    frame.recover()
    assert driver.power(2) == ResponseCode.OK


def test_a_repeat_is_no_overlap_but_a_repeated_power_command_that_acts_is_counted(
    frame: SimulatedFrame, driver: Driver
) -> None:
    args = power_arguments((1,), on=True)
    frame.lose_answers(times=1)
    driver.ask(0, Command.POWER, *args, sequence=5)
    driver.ask(0, Command.POWER, *args, sequence=5)
    assert (frame.counters.repeats, frame.counters.power_repeats, frame.counters.overlaps) == (1, 1, 0)
    assert frame.boards[1].power_ons == 2


def test_a_repeat_of_a_power_command_that_was_refused_acts_once(frame: SimulatedFrame, driver: Driver) -> None:
    args = power_arguments((1,), on=True)
    frame.refuse(ResponseCode.BUF, times=1)
    driver.ask(0, Command.POWER, *args, sequence=5)
    driver.ask(0, Command.POWER, *args, sequence=5)
    assert (frame.counters.repeats, frame.counters.power_repeats) == (1, 0)
    assert frame.boards[1].power_ons == 1


def test_a_copy_that_the_network_made_is_answered_and_switches_nothing(frame: SimulatedFrame) -> None:
    arg1, arg2 = power_arguments((1,), on=True)
    datagram = Request(0, Command.POWER, 5, arg1, arg2).encode()
    original = frame.handle(datagram, 1.0, source="driver")
    copy = frame.handle(datagram, 1.0, source="driver", waiting=True, copy=True)
    assert original == copy
    assert frame.boards[1].power_ons == 1
    assert (frame.counters.repeats, frame.counters.overlaps) == (0, 0)


def test_the_last_commands_are_remembered(frame: SimulatedFrame, driver: Driver) -> None:
    driver.ask(3, Command.VERSION)
    assert list(frame.commands) == [(1.0, Request(3, Command.VERSION, 0))]


def test_counters_add_up() -> None:
    first, second = SimulatedFrame(), SimulatedFrame()
    for frame in (first, first, second):
        Driver(frame).ask(0, Command.VERSION)
    Driver(second).ask(0, 99)
    total = first.counters + second.counters
    assert total == Counters(datagrams=4, commands=total.commands, repeats=1, errors=1)
    assert total.commands == {"VERSION": 3}
