"""A board's image: complete and SCAMP's, or it stays unbooted."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, strategies as st

from spalloc_server.simulator.boot import SPOILT, BootReceiver, Image, MalformedBoot, Spoilt
from tests.simulator.machines import an_image, boot_datagrams


def fed(*datagrams: bytes) -> Image | Spoilt | None:
    """What the last datagram led to."""
    receiver = BootReceiver()
    result = None
    for datagram in datagrams:
        result = receiver.receive(datagram)
    return result


def test_headers_are_as_clients_send_them() -> None:
    start, first, *_, end = boot_datagrams()
    assert start.hex() == "00010000000100000000000000000000001d"
    assert first[:18].hex() == "0001000000030000ff000000000000000000"
    assert end.hex() == "000100000005000000010000000000000000"


def test_a_complete_image_boots_in_any_order_of_its_blocks() -> None:
    start, *blocks, end = boot_datagrams()
    random.Random(1).shuffle(blocks)
    image = fed(start, *blocks, end)
    assert isinstance(image, Image)
    assert image.version == bytes.fromhex("0001ffff60000000") + b"SC&MP/SpiNNaker\x004.0.0\x00"
    assert image.variables[0x0A:0x0C] == bytes((0x0A, 0x0B))


@pytest.mark.parametrize("missing", [0, 7, 29])
def test_a_missing_block_spoils_the_image(missing: int) -> None:
    start, *blocks, end = boot_datagrams()
    del blocks[missing]
    assert fed(start, *blocks, end) is SPOILT


def test_a_repeated_block_spoils_the_image() -> None:
    start, *blocks, end = boot_datagrams()
    assert fed(start, *blocks, blocks[3], end) is SPOILT
    assert fed(start, blocks[3], *blocks, end) is SPOILT


def test_a_spoilt_image_does_no_harm_to_the_next() -> None:
    start, *blocks, end = boot_datagrams()
    assert isinstance(fed(start, *blocks[1:], end, start, *blocks, end), Image)
    assert isinstance(fed(start, *blocks[:9], start, *blocks, end), Image)
    assert fed(*blocks, end) is SPOILT


def test_an_image_that_is_not_scamp_or_larger_than_memory_is_spoilt() -> None:
    assert fed(*boot_datagrams(bytes(4096))) is SPOILT
    assert fed(*boot_datagrams(an_image(blocks=33))) is SPOILT


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(17),
        struct.pack(">H4I", 2, 1, 0, 0, 29),
        struct.pack(">H4I", 1, 4, 0, 0, 0),
        struct.pack(">H4I", 1, 3, 0xFF00, 0, 0),
        struct.pack(">H4I", 1, 3, 0xFF00, 0, 0) + bytes(1028),
        struct.pack(">H4I", 1, 3, 0xFF00, 0, 0) + bytes(5),
    ],
)
def test_what_is_none_of_a_boot_makes_no_sense(datagram: bytes) -> None:
    with pytest.raises(MalformedBoot):
        BootReceiver().receive(datagram)


@given(st.lists(st.integers(0, 31), max_size=80))
def test_only_each_block_once_boots(order: list[int]) -> None:
    datagrams = boot_datagrams()
    receiver = BootReceiver()
    results = [receiver.receive(datagrams[number]) for number in order]
    for at, result in enumerate(results):
        if order[at] == 31:
            begins = max((n for n in range(at) if order[n] == 0), default=None)
            between = order[begins + 1 : at] if begins is not None else []
            whole = begins is not None and sorted(between) == list(range(1, 31))
            assert isinstance(result, Image) == whole
