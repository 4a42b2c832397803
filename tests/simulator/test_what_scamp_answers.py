"""Booted boards answer as SCAMP does, byte by byte, and say of themselves what clients look for."""

from __future__ import annotations

import struct

import pytest

from spalloc_server.links import Links
from spalloc_server.simulator.datagrams import MAX_DATAGRAM, Malformed
from spalloc_server.simulator.system import System
from tests.simulator.machines import Client, an_image, booted, machine, sites

OK, LEN, SUM, CMD, ARG, PORT, TIMEOUT, ROUTE, CPU, DEAD = range(0x80, 0x8A)
TRIAD = [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
VER, READ, WRITE, FILL, LINK_READ, LINK_WRITE, INFO = 0, 2, 3, 5, 17, 18, 31


@pytest.fixture
def one() -> Client:
    return Client(machine())


@pytest.fixture
def three() -> Client:
    return Client(machine(TRIAD))


def hexed(client: Client, datagram: str) -> str:
    reply = client.raw(bytes.fromhex(datagram))
    assert reply is not None
    return reply.hex()


def test_version(one: Client) -> None:
    answer = hexed(one, "0000 87ff00ff ffff 0000 0000 0100 00000000 00000000 00000000")
    text = (b"SC&MP/SpiNNaker\x004.0.0\x00").hex()
    assert answer == "000007ffff000000000080000100000000000001ffff60000000" + text


def test_the_version_is_the_images_own() -> None:
    assert booted(an_image("3.4.2")).version.endswith(b"SpiNNaker\x003.4.2\0")


def test_other_cores_say_that_they_are_sark(one: Client) -> None:
    payload = one.done(VER, core=5, chip=(2, 3))
    assert payload[:4] == bytes((5, 5, 3, 2))
    assert payload[12:] == b"SARK/SpiNNaker\x004.0.0\0"


def test_information_about_the_chip_at_the_network_plug(one: Client) -> None:
    payload = one.done(INFO, 0x5F)
    # the mask of links has E, NE and N, as nothing lies beyond the edges of one board
    assert payload.hex() == ("12c7ff02e0ff5b07d447000007" + "0f" * 17 + "00007f4d00010700")


def test_information_about_another_chip(three: Client) -> None:
    payload = three.done(INFO, 0x5F, chip=(9, 6))
    flags, _, _ = struct.unpack_from("<3I", payload)
    assert flags & 0x1F == 18
    assert flags >> 8 & 0x3F == 0b111111
    assert not flags >> 25 & 1
    assert payload[30:32] == bytes((4, 8))
    assert payload[32:36] == bytes(4)


@pytest.mark.parametrize(
    ("boards", "closed", "size"),
    [([(0, 0, 0)], True, "0808"), (TRIAD, True, "1010"), (TRIAD, False, "0c0c")],
)
def test_size(boards: list[tuple[int, int, int]], closed: bool, size: str) -> None:
    client = Client(machine(boards, closed=closed))
    assert client.done(READ, 0xF5007F02, 2).hex() == size
    assert client.done(READ, 0xE5007F02, 2).hex() == size


def test_maps_of_cores(one: Client) -> None:
    maps = one.done(READ, 0xF5007F94, 40, chip=(3, 3))
    assert maps == (bytes(range(18)) + b"\xff\xff") * 2


def test_what_the_client_put_into_the_image_is_there(one: Client) -> None:
    assert one.word(0xF5007F1C) == 0x5F000000
    assert one.done(READ, 0xF5007FF0, 4) == bytes((127, 77, 0, 1))
    assert one.done(READ, 0xF5007FF0, 4, chip=(1, 1)) == bytes(4)
    assert one.done(READ, 0xF5007F50, 4) == struct.pack("<I", 16384)


def test_p2p_table(one: Client) -> None:
    assert one.done(READ, 0xE1010000, 4).hex() == "9764db00"
    assert one.word(0xE1010004) == 0x00DB6DB6
    assert one.word(0xF1010000 + 128 * 200) == 0x00DB6DB6


def test_the_chips_of_the_p2p_table_are_those_that_answer(three: Client) -> None:
    for x in range(16):
        column = three.done(READ, 0xE1010000 + 128 * x, 8)
        words = struct.unpack("<2I", column)
        for y in range(16):
            there = words[y // 8] >> 3 * (y % 8) & 7 != 6
            assert three.ask(VER, chip=(x, y))[0] == (OK if there else ROUTE)


def test_a_chip_is_reached_through_every_boards_port() -> None:
    system = machine(TRIAD)
    Client(system, 0).done(WRITE, 0x60001000, 4, 2, b"abcd", chip=(9, 5))
    for board in range(3):
        assert Client(system, board).done(READ, 0x70001000, 4, 2, chip=(9, 5)) == b"abcd"
    assert [Client(system, board).done(VER)[2:4] for board in range(3)] == [b"\0\0", b"\x04\x08", b"\x08\x04"]


def test_memory_of_cores_is_their_own(one: Client) -> None:
    one.done(WRITE, 0x00400000, 4, 2, b"core", core=3)
    assert one.done(READ, 0x00400000, 4, 2, core=3) == b"core"
    assert one.done(READ, 0x00400000, 4, 2, core=4) == bytes(4)


def test_a_neighbours_memory_over_a_link(three: Client) -> None:
    three.done(WRITE, 0x60000100, 4, 2, b"east", chip=(1, 0))
    assert three.done(LINK_READ, 0x60000100, 4, 0) == b"east"
    three.done(LINK_WRITE, 0x60000200, 4, 0, b"back")
    assert three.done(READ, 0x60000200, 4, chip=(1, 0)) == b"back"
    assert three.ask(LINK_READ, 0x60000100, 4, 3) == (TIMEOUT, b"")
    assert three.ask(LINK_READ, 0x60000100, 4, 6) == (ARG, b"")


def test_fill(one: Client) -> None:
    one.done(FILL, 0x60000010, 0x04030201, 12)
    assert one.done(READ, 0x6000000C, 20) == bytes(4) + bytes((1, 2, 3, 4)) * 3 + bytes(4)


def test_heap_of_the_chip_can_be_walked(one: Client) -> None:
    alloc = 28
    first = int.from_bytes(one.done(alloc, 0x1100, 100, 7), "little")
    second = int.from_bytes(one.done(alloc, 0x1200, 50, 0), "little")
    at = one.word(one.word(0xF5007F4C) + 4)
    blocks = []
    while (after := one.word(at)) != 0:
        blocks.append((at + 8, after - at - 8, one.word(at + 4)))
        at = after
    assert blocks[:2] == [(first, 100, 0xFFFF1107), (second, 52, 0xFFFF1200)]
    assert [use for _, _, use in blocks[2:]] == [0]
    one.done(alloc, 0x0001, first)
    assert one.ask(alloc, 0x1202) == (OK, struct.pack("<I", 1))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"command": 77}, CMD),
        ({"command": 1}, CMD),
        ({"command": INFO, "core": 1}, CMD),
        ({"command": READ, "arg1": 0x60000000, "arg2": 0}, ARG),
        ({"command": READ, "arg1": 0x60000000, "arg2": 257}, ARG),
        ({"command": WRITE, "arg1": 0x60000000, "arg2": 8, "data": b"four"}, ARG),
        ({"command": FILL, "arg1": 0x60000001, "arg2": 0, "arg3": 4}, ARG),
        ({"command": 28, "arg1": 9}, ARG),
        ({"command": 29, "arg1": 9}, ARG),
        ({"command": 26, "arg1": 0x00010099}, ARG),
        ({"command": 26, "arg1": 0x00010001, "chip": (1, 1)}, ARG),
        ({"command": 20, "arg1": 0x11000000}, ARG),
        ({"command": VER, "core": 18}, CPU),
        ({"command": VER, "port": 1}, PORT),
        ({"command": VER, "port": 1, "core": 3}, DEAD),
        ({"command": VER, "chip": (7, 0)}, ROUTE),
        ({"command": 21, "arg1": 3, "arg2": 4}, TIMEOUT),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_right_code(one: Client, request_: dict[str, int], code: int) -> None:
    assert one.ask(**request_) == (code, b"")  # type: ignore[arg-type]


def test_a_command_without_its_arguments_is_too_short(one: Client) -> None:
    reply = one.raw(struct.pack("<2x8B2H", 0x87, 255, 0, 255, 255, 255, 0, 0, READ, 9))
    assert reply is not None
    assert struct.unpack_from("<2H", reply, 10) == (LEN, 9)


@pytest.mark.parametrize("datagram", [b"", b"\0" * 9, b"\0" * 26, bytes(MAX_DATAGRAM + 1), b"\0\0\x88" + bytes(30)])
def test_what_is_no_datagram_of_sdp_makes_no_sense(one: Client, datagram: bytes) -> None:
    with pytest.raises(Malformed):
        one.raw(datagram)


def test_nothing_is_answered_where_no_answer_is_expected(one: Client) -> None:
    assert one.raw(struct.pack("<2x8B2H3I", 0x07, 255, 0, 255, 255, 255, 0, 0, VER, 1, 0, 0, 0)) is None


@pytest.mark.parametrize("chip", [(0, 0), (4, 8), (99, 99)], ids=str)
def test_the_chip_that_takes_a_datagram_answers_where_that_is_not_to_be_routed(
    three: Client, chip: tuple[int, int]
) -> None:
    x, y = chip
    reply = three.raw(struct.pack("<2x8B2H3I", 0xA7, 255, 0, 255, y, x, 0, 0, VER, 1, 0, 0, 0))
    assert reply is not None
    assert reply[2] == 0x27
    assert reply[8:10] == bytes((0, 0))
    assert struct.unpack_from("<2H", reply, 10) == (OK, 1)
    assert three.raw(struct.pack("<2x8B2H3I", 0x27, 255, 0, 255, y, x, 0, 0, VER, 1, 0, 0, 0)) is None


def test_dead_chips_cores_and_links_are_not_told_of() -> None:
    places = sites([(0, 0, 0)], 1, 1)
    faults = places[0, 0, 0].chip_faults
    faults.dead_chips.add(1)  # chip (1, 0)
    faults.dead_cores[0] = {5, 11}
    faults.dead_links.add((0, Links.north))
    client = Client(machine(places=places))
    assert client.ask(VER, chip=(1, 0))[0] == ROUTE
    flags = int.from_bytes(client.done(INFO, 0x5F)[:4], "little")
    assert (flags & 31, flags >> 8 & 63) == (16, 0b000010)
    assert client.done(READ, 0xF5007FA8, 20) == bytes(n for n in range(18) if n not in {5, 11}) + b"\xff" * 4
    to_virtual = client.done(READ, 0xF5007F94, 20)
    assert (to_virtual[4], to_virtual[5], to_virtual[6]) == (4, 255, 5)
    assert int.from_bytes(client.done(INFO, 0x5F, chip=(0, 1))[:4], "little") >> 8 & 1 << 5 == 0


def test_a_board_that_is_lost_is_not_answered_for() -> None:
    system: System = machine(TRIAD)
    client = Client(system)
    client.done(WRITE, 0x60000000, 4, 2, b"data", chip=(8, 4))
    system.lose(next(site for site in system.sites if system.position(48 * system.sites.index(site)) == (8, 4)))
    assert client.ask(READ, 0x60000000, 4, chip=(8, 4)) == (ROUTE, b"")
    assert client.ask(VER)[0] == OK
