"""What a client loads, starts and waits for: states of cores, signals, counts, routes and fast transfers."""

from __future__ import annotations

import struct

import pytest

from spalloc_server.simulator.applications import ErrorCode, Failure, Signal, State
from spalloc_server.simulator.chip import Chip
from tests.simulator.machines import CLIENT, Client, Clock, machine, sites

TRIAD = [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
READ, WRITE, COUNT, AR, NNP, COPY, SIG, FFD, IPTAG, ALLOC, RTR = 2, 3, 15, 19, 20, 21, 22, 23, 26, 28, 29
WAIT = 1 << 18
STAGING = 0x67800000
NEW_RUNTIME, EXIT, CLEAR_LOG, PAUSE, TIME = 7, 8, 9, 10, 11


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Client:
    return Client(machine(TRIAD, clock=clock))


def count(client: Client, state: State, app: int = 17, chip: tuple[int, int] = (0, 0)) -> int:
    return int.from_bytes(client.done(COUNT, app, state, chip=chip), "little")


def signal(client: Client, which: int, app: int = 17) -> None:
    client.done(SIG, 0, which << 16 | 0xFF00 | app, 0xFFFF)


def stop(client: Client, app: int) -> None:
    client.done(NNP, 0x003F0000, 5 << 28 | 2 << 16 | 0xFF00 | app, 0x80003F00)


def give_data(client: Client, core: int, first_region: tuple[int, ...], *, app: int, chip: tuple[int, int]) -> int:
    """Allocate and write a core's data as the host does; where its first region is."""
    address = int.from_bytes(client.done(ALLOC, 4 << 16 | app << 8, 1024, 200 + core, chip=chip), "little")
    table = struct.pack("<2I", 0xAD130AD6, 0x00010000) + struct.pack("<3I", address + 400, 0, 0)
    client.done(WRITE, address, len(table), 2, table, chip=chip)
    region = struct.pack(f"<{len(first_region)}I", *first_region)
    client.done(WRITE, address + 400, len(region), 2, region, chip=chip)
    client.done(WRITE, 0xE5007000 + 128 * core + 112, 4, 2, struct.pack("<I", address), chip=chip)
    return address


def load(client: Client, core: int, *, app: int = 17, chip: tuple[int, int] = (0, 0)) -> None:
    client.done(AR, app << 24 | WAIT | 1 << core, chip=chip)


def simulation(client: Client, core: int = 3, chip: tuple[int, int] = (0, 0)) -> None:
    """A program that simulates, from its load to its pause."""
    give_data(client, core, (0x12345678, 1000, 3), app=17, chip=chip)
    load(client, core, chip=chip)
    signal(client, Signal.START)


def test_a_core_is_ready_until_start_and_idle_after_stop(client: Client) -> None:
    load(client, 1)
    load(client, 2, app=18)
    assert (count(client, State.READY), count(client, State.READY, 18)) == (1, 1)
    assert client.done(31)[12:16] == bytes((7, 5, 5, 15))
    signal(client, Signal.START)
    assert (count(client, State.RUNNING), count(client, State.READY, 18)) == (1, 1)
    stop(client, 17)
    assert client.done(31)[12:16] == bytes((7, 15, 5, 15))


def test_count_counts_one_board_and_older_clients_count_all(client: Client) -> None:
    for chip in ((0, 0), (1, 1), (8, 4)):
        load(client, 1, chip=chip)
    assert [count(client, State.READY, chip=chip) for chip in ((0, 0), (8, 4), (4, 8), (1, 1))] == [2, 1, 0, 0]
    assert client.done(SIG, 1, 1 << 22 | 2 << 20 | 5 << 16 | 0xFF11, 0xFFFF) == struct.pack("<I", 3)


def test_an_executable_goes_from_chip_to_chip_if_it_arrives_whole(client: Client) -> None:
    words = struct.pack("<1024I", *range(7, 1031)) + b"tail"
    for start in range(0, len(words), 256):
        piece = words[start : start + 256]
        client.done(WRITE, STAGING + start, len(piece), 2, piece)
    sum_ = sum(struct.unpack("<1025I", words)) & 0x1FFFFFFF
    west = 3
    client.done(COPY, sum_ << 3 | west, len(words), 17 << 24 | WAIT | 0b110, chip=(1, 0))
    client.done(COPY, sum_ << 3 | west, len(words), 17 << 24 | WAIT, chip=(2, 0))
    assert client.done(READ, STAGING + len(words) - 4, 8, chip=(2, 0)) == b"tail" + bytes(4)
    assert count(client, State.READY) == 2
    assert client.ask(COPY, (sum_ ^ 1) << 3 | west, len(words), 17 << 24 | WAIT | 2, chip=(3, 0)) == (0x82, b"")


def test_a_simulation_runs_for_as_long_as_it_is_told(client: Client, clock: Clock) -> None:
    simulation(client)
    assert count(client, State.PAUSED) == 1
    client.done(NEW_RUNTIME, 50, 0, 0, struct.pack("<I", 0), core=3, port=3)
    assert count(client, State.SYNC0) == 1
    signal(client, Signal.SYNC1)
    assert count(client, State.SYNC0) == 1
    signal(client, Signal.SYNC0)
    assert count(client, State.RUNNING) == 1
    clock.now += 0.030
    assert int.from_bytes(client.done(TIME, core=3, port=3), "little") == pytest.approx(30, abs=1)
    clock.now += 0.021
    assert count(client, State.READY) == 1
    client.done(NEW_RUNTIME, 80, 0, 50, core=3, port=3)
    assert count(client, State.SYNC1) == 1
    signal(client, Signal.SYNC1)
    clock.now += 0.031
    assert count(client, State.READY) == 1
    assert int.from_bytes(client.done(TIME, core=3, port=3), "little") == 80
    client.tell((EXIT,), chip=(0, 0), core=3, port=3)
    assert count(client, State.FINISHED) == 1


def test_an_endless_run_ends_when_it_is_paused(client: Client, clock: Clock) -> None:
    simulation(client)
    client.done(NEW_RUNTIME, 0, 1, 0, core=3, port=3)
    signal(client, Signal.SYNC0)
    clock.now += 1000
    assert count(client, State.RUNNING) == 1
    client.done(PAUSE, core=3, port=3)
    assert count(client, State.PAUSED) == 1
    assert int.from_bytes(client.done(TIME, core=3, port=3), "little") == pytest.approx(1_000_000, abs=1)


def test_what_a_program_is_for_follows_from_its_data(client: Client) -> None:
    give_data(client, 1, (0xFFFFFFF8, 0, 0, 0, 0, 7), app=16, chip=(0, 0))
    give_data(client, 2, (1, 2, 4), app=16, chip=(0, 0))
    give_data(client, 3, (1, 2, 3), app=17, chip=(0, 0))
    for core, app in ((1, 16), (2, 16), (3, 18), (4, 19)):
        load(client, core, app=app)
    for app in (16, 18, 19):
        signal(client, Signal.START, app)
    assert client.done(31)[13:17] == bytes((State.RUNNING, State.RUNNING, State.FINISHED, State.RUNNING))


def test_user_registers_outlive_programs(client: Client) -> None:
    give_data(client, 3, (1, 1000, 3), app=17, chip=(0, 0))
    register = 0xE5007000 + 128 * 3 + 112
    given = client.word(register)
    load(client, 3, app=18)
    signal(client, Signal.START, 18)
    stop(client, 18)
    assert client.word(register) == given != 0
    load(client, 3)
    signal(client, Signal.START)
    assert count(client, State.PAUSED) == 1


@pytest.mark.parametrize("head", [(17, 0, 5), (17, 1, 1, 5)])
def test_a_compressor_loads_the_routes_that_it_is_given(client: Client, head: tuple[int, ...]) -> None:
    entries = [(0x1000 + n, 0xFFFF0000, 1 << n, 0) for n in range(5)]
    table = struct.pack(f"<{len(head)}I", *head) + b"".join(struct.pack("<4I", *entry) for entry in entries)
    address = int.from_bytes(client.done(ALLOC, 18 << 8, len(table), 1), "little")
    client.done(WRITE, address, len(table), 2, table)
    load(client, 1, app=18)
    signal(client, Signal.START, 18)
    assert (count(client, State.FINISHED, 18), client.word(0xE5007000 + 128 + 116)) == (1, 0)
    copy = client.word(0xF5007FD4)
    routes = [struct.unpack("<2xBx3I", client.done(READ, copy + 16 * n, 16)) for n in range(7)]
    assert [route[0] for route in routes] == [0, 17, 17, 17, 17, 17, 0]
    assert [(key, mask, route) for _, route, key, mask in routes[1:6]] == [entry[:3] for entry in entries]
    assert routes[6][1] >= 0xFF000000


def test_a_program_that_has_a_block_with_the_compressors_tag_is_none(client: Client) -> None:
    address = int.from_bytes(client.done(ALLOC, 18 << 8, 5000, 1), "little")
    client.done(WRITE, address, 16, 2, struct.pack("<4I", 17, 0, 5, 5))
    load(client, 1, app=18)
    signal(client, Signal.START, 18)
    assert count(client, State.RUNNING, 18) == 1


def test_a_flood_fill_may_select_cores_region_by_region(client: Client) -> None:
    client.done(NNP, 6 << 24 | 5 << 16 | 1 << 8, 0, 0x80003F18)
    for chip, cores in ((1, 0b0110), (2, 0b1000), (1, 0b10000)):
        client.done(NNP, 7 << 24 | cores, 3 << 16 | 1 << chip, 0x3F18)
    client.done(FFD, 0x3F180005, 63 << 8, STAGING, b"x" * 256)
    client.done(NNP, 15 << 24 | 5, 17 << 24 | WAIT, 0x3F18)
    assert [client.done(31, chip=(x, 0))[12:18] for x in (1, 2, 3)] == [
        bytes((7, 5, 5, 15, 5, 15)),
        bytes((7, 15, 15, 5, 15, 15)),
        bytes((7, 15, 15, 15, 15, 15)),
    ]


def test_routes_are_loaded_and_go_with_their_application(client: Client) -> None:
    first = int.from_bytes(client.done(ALLOC, 17 << 8 | 3, 2), "little")
    rows = [struct.pack("<2H3I", n, 0, 64, n, 0xFFFFFFFF) for n in range(2)] + [b"\xff" * 16]
    client.done(WRITE, STAGING, 48, 2, b"".join(rows))
    client.done(RTR, 3 << 16 | 17 << 8 | 2, STAGING, first)
    assert int.from_bytes(client.done(31)[:4], "little") >> 14 & 0x7FF == 1021
    chip = client.system.chip_at(0, 0)
    assert isinstance(chip, Chip)
    assert set(chip.router._entries) == {first, first + 1}
    client.done(RTR, 17 << 8 | 3, 0x12345)
    assert client.done(RTR, 17 << 8 | 3, 0x80000000) == struct.pack("<I", 0x12345)
    assert client.done(ALLOC, 17 << 8 | 3, 1022) == bytes(4)
    stop(client, 17)
    assert chip.router._entries == {}
    assert client.done(ALLOC, 17 << 8 | 3, 1023) == struct.pack("<I", 1)


def test_a_flood_fill_loads_the_chips_of_its_region(client: Client) -> None:
    region = 3 << 16 | 1 << (1 + 4 * 2)  # level 3, chip (1, 2)
    client.done(NNP, 6 << 24 | 5 << 16 | 2 << 8, region, 0x80003F1A)
    for block in range(2):
        client.done(FFD, 0x3F1E0005, block << 16 | 63 << 8, STAGING + 256 * block, bytes([block + 1]) * 256)
    client.done(NNP, 15 << 24 | 5, 17 << 24 | WAIT | 0b1100, 0x3F1A)
    assert count(client, State.READY) == 2
    assert client.done(31, chip=(1, 2))[12:16] == bytes((7, 15, 5, 5))
    assert client.done(READ, STAGING + 255, 2, chip=(1, 2)) == b"\1\2"
    assert client.done(READ, STAGING + 255, 2) == b"\0\0"


def test_a_core_fails_as_it_is_told_and_says_why(clock: Clock) -> None:
    places = sites(TRIAD, 1, 1, closed=True)
    places[0, 0, 0].chip_faults.failures[0, 3] = Failure(ErrorCode.SWERR, "out of tea\n", Signal.SYNC0)
    client = Client(machine(places=places, clock=clock))
    simulation(client)
    client.done(NEW_RUNTIME, 50, 0, 0, core=3, port=3)
    signal(client, Signal.SYNC0)
    assert count(client, State.RUN_TIME_EXCEPTION) == 1
    block = client.done(READ, 0xE5007000 + 128 * 3, 128)
    assert (block[44], block[46], block[47]) == (13, State.RUN_TIME_EXCEPTION, 17)
    text = int.from_bytes(block[88:92], "little")
    head = struct.unpack("<4I", client.done(READ, text, 16))
    assert (head[0], client.done(READ, text + 16, head[3])) == (0, b"out of tea\n")
    assert client.ask(PAUSE, core=3, port=3)[0] == 0x89


def fast(client: Client) -> None:
    """A gatherer with tag 1 at (0, 0), core 1, and a monitor at (2, 1), core 2, both running."""
    give_data(client, 1, (0xFFFFFFF8, 0, 0, 0, 0, 1), app=16, chip=(0, 0))
    give_data(client, 2, (9, 9, 9), app=16, chip=(2, 1))
    load(client, 1, app=16)
    load(client, 2, app=16, chip=(2, 1))
    signal(client, Signal.START, 16)
    client.done(IPTAG, 1 << 16 | 1 << 28 | 1 << 30 | 1)


def leaving(client: Client) -> list[bytes]:
    """What left through tags since the last look."""
    streams, client.sent = client.sent, []
    assert all(stream.target == CLIENT for stream in streams)
    return [stream.header + packet for stream in streams for packet in stream.packets]


def test_data_goes_out_in_numbered_packets_with_an_end_behind(client: Client) -> None:
    fast(client)
    content = bytes(range(256)) * 3
    for start in range(0, 768, 256):
        client.done(WRITE, 0x60300000 + start, 256, 2, content[start : start + 256], chip=(2, 1))
    client.tell((100, 7, 0x60300000, 700), chip=(2, 1), core=2, port=5)
    packets = leaving(client)
    assert [struct.unpack_from("<2I", packet) for packet in packets] == [(0, 7), (1, 7), (2, 7), (3 | 1 << 31, 7)]
    assert b"".join(packet[8:] for packet in packets) == content[:700]
    assert client.word(0xE5007000 + 128 * 2 + 116, chip=(2, 1)) == 7
    client.tell((1000, 7, 1, 2, 0), chip=(2, 1), core=2, port=5)
    again = leaving(client)
    assert [packet[:4] for packet in again] == [packets[2][:4], packets[0][:4], packets[3][:4]]
    client.tell((1000, 6, 1, 2), chip=(2, 1), core=2, port=5)
    assert leaving(client) == []
    client.tell((2000, 7), chip=(2, 1), core=2, port=5)
    client.tell((1001, 7, 1), chip=(2, 1), core=2, port=5)
    assert leaving(client) == []


def test_data_comes_in_and_what_is_missing_is_asked_for(client: Client) -> None:
    fast(client)
    content = bytes(range(250)) * 4
    client.tell((200, 9, 0x60400000, 2 << 16 | 1, 3), chip=(0, 0), core=1, port=6)
    for number in (0, 3, 2):
        piece = content[260 * number : 260 * number + 260]
        client.tell((2000, 9, number), piece, chip=(0, 0), core=1, port=6)
    client.tell((2001, 9), chip=(0, 0), core=1, port=6)
    assert leaving(client) == [struct.pack("<4I", 2002, 9, 1, 0xFFFFFFFF)]
    client.tell((2000, 8, 1), bytes(260), chip=(0, 0), core=1, port=6)
    client.tell((2000, 9, 1), content[260:520], chip=(0, 0), core=1, port=6)
    client.tell((2001, 9), chip=(0, 0), core=1, port=6)
    assert leaving(client) == [struct.pack("<2I", 2003, 9)]
    assert b"".join(client.done(READ, 0x60400000 + at, 250, chip=(2, 1)) for at in range(0, 1000, 250)) == content
    assert client.word(0xE5007000 + 128 + 116) == 9


def test_time_limits_of_routers_are_read_as_they_were_set(client: Client) -> None:
    fast(client)
    client.done(0, 0xEE, core=1, port=4)
    client.done(1, 0x11, chip=(2, 1), core=2, port=4)
    client.done(2, 0, 1, 0, b"\1", chip=(2, 1), core=2, port=4)
    status = struct.unpack("<10I", client.done(3, chip=(2, 1), core=2, port=4))
    assert status == (0xEE, 0x11, 0, 0, 0, 0, 0, 0, 0b0110, 0)
    assert client.ask(99, core=1, port=4)[0] == 0x83
    assert [client.ask(command, chip=(2, 1), core=2, port=6)[0] for command in (6, 7, 8)] == [0x80] * 3
