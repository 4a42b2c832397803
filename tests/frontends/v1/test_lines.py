"""How bytes become lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from spalloc_server.frontends.v1.lines import GarbageError, LineReader, shortened


def lines_of(reader: LineReader) -> list[bytes]:
    lines = []
    while (line := reader.next_line()) is not None:
        lines.append(bytes(line))
    return lines


@settings(max_examples=100)
@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), data=st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(line + b"\n" for line in lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    reader, received = LineReader(20), []
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        reader.receive(sent[start:end])
        received += lines_of(reader)
    assert received == lines
    assert reader.unread == b"rest"


def test_a_line_may_be_as_long_as_the_limit() -> None:
    reader = LineReader(4)
    reader.receive(b"1234\n12")
    assert lines_of(reader) == [b"1234"]


@pytest.mark.parametrize("sent", [b"12345\n", b"12345"])
def test_a_longer_line_is_garbage_whether_or_not_it_ends(sent: bytes) -> None:
    reader = LineReader(4)
    reader.receive(sent)
    with pytest.raises(GarbageError, match="more than 4 bytes"):
        reader.next_line()


def test_lines_before_a_longer_one_are_still_read() -> None:
    reader = LineReader(4)
    reader.receive(b"1\n2\n12345")
    assert [bytes(reader.next_line() or b"") for _ in range(2)] == [b"1", b"2"]
    with pytest.raises(GarbageError):
        reader.next_line()


@given(st.binary(max_size=300))
def test_what_is_logged_of_a_line_is_short_and_printable(line: bytes) -> None:
    shown = shortened(line)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()
    assert len(shown) <= 80 * len("\\U00000000") + len("...")
    assert shown.endswith("...") or len(line) <= 80
