"""Messages of the proxy: every byte of their layouts."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from spalloc_server.frontends.http.boards.messages import (
    BadMessage,
    Close,
    FromClient,
    Message,
    MessageTo,
    Open,
    OpenUnconnected,
    closed,
    decode,
    error,
    opened,
    opened_unconnected,
)

WORD = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("00000000 07000000 08000000 04000000 e5450000", Open(7, 8, 4, 17893)),
        ("01000000 07000000 2a000000", Close(7, 42)),
        ("02000000 2a000000", Message(42, b"")),
        ("02000000 2a000000 000087ff", Message(42, b"\0\0\x87\xff")),
        ("03000000 ffffffff", OpenUnconnected(0xFFFFFFFF)),
        ("04000000 2a000000 00000000 0c000000 e5450000 61", MessageTo(42, 0, 12, 17893, b"a")),
    ],
)
def test_what_clients_send_is_understood(frame: str, message: FromClient) -> None:
    assert decode(bytes.fromhex(frame)) == message


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        ("", 1007),
        ("020000", 1007),
        ("02000000", 1007),
        ("02000000 2a0000", 1007),
        ("00000000 07000000 08000000 04000000 e54500", 1007),
        ("00000000 07000000 08000000 04000000 e5450000 00", 1007),
        ("01000000 07000000", 1007),
        ("01000000 07000000 2a000000 00", 1007),
        ("03000000", 1007),
        ("03000000 07000000 00", 1007),
        ("04000000 2a000000 00000000 0c000000 e54500", 1007),
        ("05000000 07000000", 1007),
        ("06000000 07000000", 1011),
        ("ffffffff", 1011),
    ],
)
def test_what_is_no_message_has_the_status_that_the_java_server_closes_with(frame: str, status: int) -> None:
    with pytest.raises(BadMessage) as raised:
        decode(bytes.fromhex(frame))
    assert raised.value.status == status
    assert len(str(raised.value)) < 120, "it is the reason of a close"


def test_clients_are_sent_what_they_read() -> None:
    assert opened(7, 42).hex(" ", -4) == "00000000 07000000 2a000000"
    assert closed(7, 42).hex(" ", -4) == "01000000 07000000 2a000000"
    assert closed(7, 0).hex(" ", -4) == "01000000 07000000 00000000"
    assert opened_unconnected(7, 42, bytes((10, 11, 12, 13)), 40000).hex(" ", -4) == (
        "03000000 07000000 2a000000 0a0b0c0d 409c0000"
    )
    assert error(7, "é").hex(" ", -4) == "05000000 07000000 c3a9"


@given(st.text(max_size=1100) | st.text(alphabet="é", min_size=490, max_size=510))
def test_an_error_has_its_text_unless_that_is_longer_than_it_may_be(text: str) -> None:
    shown = text.encode("utf-8", "replace")
    reply = error(3, text)
    assert reply[:8] == struct.pack("<2I", 5, 3)
    assert reply[8:] == (shown if len(shown) <= 1000 else b"")


@given(WORD, WORD, WORD, WORD, WORD, st.binary(max_size=300))
def test_each_message_is_decoded_to_what_was_encoded(a: int, b: int, x: int, y: int, port: int, payload: bytes) -> None:
    assert decode(struct.pack("<5I", 0, a, x, y, port)) == Open(a, x, y, port)
    assert decode(struct.pack("<3I", 1, a, b)) == Close(a, b)
    assert decode(struct.pack("<2I", 2, a) + payload) == Message(a, payload)
    assert decode(struct.pack("<2I", 3, a)) == OpenUnconnected(a)
    assert decode(struct.pack("<5I", 4, a, x, y, port) + payload) == MessageTo(a, x, y, port, payload)
    words = [struct.unpack("<3I", opened(a, b)), struct.unpack("<3I", closed(a, b))]
    assert words == [(0, a, b), (1, a, b)]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_refused(frame: bytes) -> None:
    with suppress(BadMessage):
        assert type(decode(frame)) in {Open, Close, Message, OpenUnconnected, MessageTo}
