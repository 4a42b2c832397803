"""What is written in the background: in order, bounded, counted where it is lost, and never waited for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from spalloc_server.log.background import BUFFER_BYTES, RECORD_BYTES, Background
from tests.house import PATIENCE


class Sink:
    """Where a background writes: it fails, or hangs, when the test says so."""

    def __init__(self, *, together: bool = True) -> None:
        self.taken = b""
        self.calls = 0
        self.error: Exception | None = None
        self.lost: list[int] = []
        self.writing = threading.Event()
        """Set once somebody writes."""
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.background = Background(self.write, tell_lost=self.tell_lost, name="test", together=together)

    def write(self, data: bytes) -> int:
        self.calls += 1
        self.writing.set()
        assert self.goes_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.taken += data
        return len(data)

    def tell_lost(self, lines: int) -> bytes:
        self.lost.append(lines)
        return b"(%d lost)\n" % lines

    def hang(self) -> None:
        """Hang in the next write, and wait until somebody is in there."""
        self.goes_on.clear()
        self.writing.clear()
        self.background.put(b"first\n")
        assert self.writing.wait(PATIENCE)

    def written(self) -> list[bytes]:
        assert self.background.flush(PATIENCE)
        return self.taken.splitlines()


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.error = None
    sink.goes_on.set()
    sink.background.close(PATIENCE)


def test_records_are_written_in_order_and_joined(sink: Sink) -> None:
    sink.hang()
    for number in range(10_000):
        sink.background.put(b"%d\n" % number)
    sink.goes_on.set()
    assert sink.written() == [b"first", *(b"%d" % number for number in range(10_000))]
    assert sink.calls < 100


def test_who_puts_never_waits_and_what_does_not_fit_is_counted_in_its_place(sink: Sink) -> None:
    sink.hang()
    record = b"x" * 1000 + b"\n"
    fit = BUFFER_BYTES // (len(record) + RECORD_BYTES)
    for _ in range(fit + 25):
        sink.background.put(record)
    sink.goes_on.set()
    assert sink.written() == [b"first", *[record[:-1]] * fit, b"(25 lost)"]
    sink.background.put(b"later\n")
    assert sink.written()[-2:] == [b"(25 lost)", b"later"]
    assert sink.lost == [25]


def test_empty_records_do_not_fill_the_memory_either(sink: Sink) -> None:
    sink.hang()
    for _ in range(BUFFER_BYTES // RECORD_BYTES + 100):
        sink.background.put(b"\n")
    sink.goes_on.set()
    sink.written()
    assert sum(sink.lost) >= 100


def test_a_sink_that_refuses_gets_everything_once_it_recovers(sink: Sink) -> None:
    sink.error = OSError("No space left on device")
    for number in range(100):
        sink.background.put(b"%d\n" % number)
    assert sink.background.flush(PATIENCE) is False, "what fails is not waited for"
    assert sink.taken == b""
    sink.error = None
    assert sink.written() == [b"%d" % number for number in range(100)]
    assert sink.lost == []


def test_a_flush_does_not_wait_longer_than_it_is_told_for_a_sink_that_hangs(sink: Sink) -> None:
    sink.hang()
    begun = time.monotonic()
    assert sink.background.flush(0.1) is False
    assert 0.1 <= time.monotonic() - begun < PATIENCE / 2


def test_closing_tells_how_much_is_lost_by_it(sink: Sink) -> None:
    sink.error = OSError("gone")
    for _ in range(3):
        sink.background.put(b"one\ntwo\n")
    assert sink.background.close(PATIENCE) == 6


def test_after_closing_nothing_is_written(sink: Sink) -> None:
    sink.background.put(b"before\n")
    assert sink.background.close(PATIENCE) == 0
    sink.background.put(b"after\n")
    assert sink.taken == b"before\n"


def test_a_background_that_is_not_used_has_no_thread() -> None:
    before = threading.active_count()
    sink = Sink()
    assert sink.background.flush(PATIENCE) is True
    assert threading.active_count() == before


def test_a_system_without_threads_to_give_costs_the_lines_only(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        sink.background.put(b"lost\n")
    sink.background.put(b"written\n")
    assert sink.written() == [b"(1 lost)", b"written"]


def test_an_account_of_the_lost_that_fails_costs_nothing_else(sink: Sink) -> None:
    def fail(_: int) -> bytes:
        raise ValueError

    sink.background.tell_lost = fail
    sink.hang()
    for _ in range(BUFFER_BYTES // 1000 + 1):
        sink.background.put(b"x" * 1000)
    sink.goes_on.set()
    sink.background.flush(PATIENCE)
    sink.background.put(b"\nlater\n")
    assert sink.written()[-1] == b"later"


@pytest.mark.parametrize("seed", range(20))
def test_a_sink_that_fails_hangs_and_takes_parts_at_random_loses_nothing_untold(seed: int) -> None:
    rng = random.Random(seed)
    taken = bytearray()

    def write(data: bytes) -> int:
        chance = rng.random()
        if chance < 0.2:
            raise rng.choice([OSError("full"), BrokenPipeError(), ValueError("closed"), RuntimeError("strange")])
        if chance < 0.3:
            time.sleep(rng.uniform(0, 0.01))
        count = len(data) if chance > 0.6 else rng.randrange(len(data) + 1)
        taken.extend(data[:count])
        return count

    background = Background(write, tell_lost=lambda lines: b"lost %d\n" % lines, name="test")
    sent = 2000
    for number in range(sent):
        background.put(b"%d %s\n" % (number, b"x" * rng.choice([1, 10, 5000])))
    deadline = time.monotonic() + PATIENCE
    while not background.flush(PATIENCE):
        assert time.monotonic() < deadline
    assert background.close(PATIENCE) == 0
    expected = 0
    for line in bytes(taken).splitlines():
        first, second = line.split()
        if first == b"lost":
            expected += int(second)
        else:
            assert int(first) == expected, "a line is missing, doubled or out of order"
            expected += 1
    assert expected == sent


def test_records_that_are_not_to_be_joined_are_written_one_by_one() -> None:
    sink = Sink(together=False)
    sink.hang()
    for _ in range(3):
        sink.background.put(b"message\n")
    sink.goes_on.set()
    sink.written()
    sink.background.close(PATIENCE)
    assert sink.calls == 4


def test_after_closing_the_thread_ends_unless_a_write_hangs(sink: Sink) -> None:
    sink.error = OSError()
    sink.background.put(b"never\n")
    assert sink.background.close(0.0) == 1
    assert sink.background.join(PATIENCE)
    other = Sink()
    other.hang()
    other.background.close(0.0)
    assert not other.background.join(0.0)
    other.goes_on.set()
    assert other.background.join(PATIENCE)
    assert Sink().background.join(0.0)
