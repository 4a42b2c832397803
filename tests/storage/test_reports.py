"""Reports say what was: to the second, through failures, crashes, restarts, upgrades and pruning."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, strategies as st

from spalloc_server.core.model import BoardTimeRow, Changes, Holding
from spalloc_server.storage.accounting import SIZES, midnights, pieces, prune, rounded, size_class
from spalloc_server.storage.reading import read_jobs
from spalloc_server.storage.reports import SIZE_NAMES, Report, report
from spalloc_server.storage.rows import encode
from spalloc_server.storage.state_file import connect, transaction
from tests.storage.months import Month
from tests.storage.workload import a_job

BEGIN = 1_774_000_000.0  # 2026-03-20: clocks are set forward on the 29th
DAY = 86400.0
EVER = [0.0, 4e9]


pytestmark = pytest.mark.usefixtures("in_berlin")


OWNERS = ("ann", "bob", "'; DROP TABLE days; --")
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.25, 4 * DAY)),
    st.tuples(st.just("wait"), st.floats(0.25, 7200)),
    st.tuples(st.just("create"), st.sampled_from(OWNERS), st.integers(1, 9), st.integers(0, 3)),
    st.tuples(st.just("create"), st.sampled_from(OWNERS), st.integers(1, 9), st.just(0)),
    st.tuples(st.just("destroy"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["stop_and_resume", "crash", "upgrade", "close_board"])),
    st.tuples(st.just("reboot"), st.floats(1, 2 * DAY)),
    st.tuples(st.just("prune"), st.floats(BEGIN, BEGIN + 20 * DAY), st.integers(1, 5)),
)


def agree(month: Month, report: Report, since: float, until: float) -> None:
    assert report.total.board_seconds == pytest.approx(month.seconds(since, until), abs=0.5)
    assert sum(each.board_seconds for each in report.groups.values()) == pytest.approx(
        report.total.board_seconds, abs=0.5
    )


@given(st.lists(STEPS, max_size=25))
def test_sums_equal_the_books_of_a_month_whatever_happens(steps: list[tuple[object, ...]]) -> None:
    with TemporaryDirectory() as folder:
        month = Month(Path(folder) / "state.db", BEGIN)
        with closing(month.connection):
            rebooted = any(step[0] == "reboot" for step in steps)
            for name, *arguments in steps:
                getattr(month, str(name))(*arguments)
                month.controller.check()
            assert {each.owner for each in month.books} <= {*OWNERS, "late"}
            for by in ("owner", "machine", "size"):
                whole = month.report(by, EVER, [])
                agree(month, whole, *EVER)
                assert whole.total.jobs == month.ended
            for owner, figures in month.report("owner", EVER, []).groups.items():
                assert figures.board_seconds == pytest.approx(month.seconds(*EVER, owner=owner), abs=0.5)
            bounds = midnights(BEGIN, month.now)
            by_day = month.report("day", bounds, [str(each) for each in bounds[:-1]])
            agree(month, by_day, bounds[0], bounds[-1])
            if not rebooted:  # over which jobs go on where they were, but by another clock
                for begin, end in pairwise(bounds):
                    if (of_day := by_day.groups.get(str(begin))) is not None:
                        assert of_day.board_seconds == pytest.approx(month.seconds(begin, end), abs=0.5)
            known = by_day.total.board_time
            assert known is not None
            assert known.in_use == pytest.approx(month.seconds(*EVER), abs=0.5), "two ways to count lead to the same"
            assert known.in_use + known.cooling + known.out <= known.boards + 0.5
            if not rebooted:
                assert known.boards == pytest.approx(12 * (month.now - BEGIN), abs=0.5)


def test_a_job_over_midnight_counts_on_both_days_and_an_hour_that_is_left_out_does_not_exist(tmp_path: Path) -> None:
    last_of_winter = 1_774_738_800.0  # 2026-03-29 00:00 in Berlin
    month = Month(tmp_path / "state.db", last_of_winter - 3600)
    month.create("ann", 3)
    month.wait(25 * 3600)
    month.destroy(0)
    bounds = midnights(month.begin, month.now)
    assert [end - begin for begin, end in pairwise(bounds)] == [DAY, 23 * 3600, DAY]
    for _ in range(2):  # as detail, and as sums
        found = month.report("day", bounds, ["28", "29", "30"])
        assert [each.board_seconds / 3 / 3600 for each in found.groups.values()] == pytest.approx([1, 23, 1])
        assert [each.jobs for each in found.groups.values()] == [0, 0, 1], "where it ended"
        month.prune(month.now + 1, 9)
    assert found.sums_until == "2026-03-30"
    month.connection.close()


def test_a_period_has_its_part_of_what_reaches_over_its_borders(tmp_path: Path) -> None:
    month = Month(tmp_path / "state.db", BEGIN)
    month.create("ann", 1)
    month.create("bob", 3)
    month.wait(3600)
    month.destroy(0)
    month.wait(3600)
    inside = month.report("owner", [BEGIN + 1800, BEGIN + 5400], [])
    assert {name: each.board_seconds for name, each in inside.groups.items()} == pytest.approx(
        {"ann": 1800, "bob": 3 * 3600}
    )
    assert (inside.total.jobs, inside.running) == (1, 1)
    before = month.report("owner", [BEGIN, BEGIN + 1800], [])
    assert before.groups["ann"].board_seconds == pytest.approx(1800)
    assert before.total.jobs == 0, "it ended later"
    month.connection.close()


def test_cooling_down_and_out_of_service_are_told_apart_from_use(tmp_path: Path) -> None:
    month = Month(tmp_path / "state.db", BEGIN, rest=600)
    month.create("ann", 3)
    month.wait(1000)
    month.destroy(0)
    month.wait(600)
    month.close_board()
    month.wait(5000)
    month.close_board()
    month.wait(100)
    (hall,) = month.report("machine", EVER, []).groups.values()
    assert hall.board_time is not None
    assert hall.board_time.in_use == pytest.approx(3 * 1000)
    assert hall.board_time.cooling == pytest.approx(3 * 600)
    assert hall.board_time.out == pytest.approx(5000)
    assert hall.board_time.boards == pytest.approx(12 * 6700)
    assert hall.utilisation == pytest.approx(3000 / (12 * 6700))
    month.connection.close()


def test_hardware_that_fails_is_counted_for_jobs_that_it_fails_and_for_those_that_it_delays(tmp_path: Path) -> None:
    month = Month(tmp_path / "state.db", BEGIN)
    month.create("ann", 1, 1)
    month.create("bob", 1, 9)
    month.destroy(0)
    for _ in range(2):
        groups = month.report("owner", EVER, []).groups
        assert (groups["ann"].failed, groups["ann"].again) == (0, 1)
        assert groups["bob"].failed == 1
        assert groups["bob"].again >= 1
        month.prune(month.now + 1, 9)
    month.connection.close()


def jobs_that_waited(path: Path, waits: list[float]) -> list[float]:
    rows = {}
    for number, wait in enumerate(waits, 1):
        row = a_job(number, ended_at=BEGIN + number)
        row.created_at, row.allocated_at, row.board_seconds, row.earlier = BEGIN - 10 - wait, BEGIN - 10, 24.0, None
        rows[number] = row
    with closing(connect(path)) as connection, transaction(connection):
        encode(Changes(jobs=rows)).store(connection)
    return sorted(waits)


def test_waits_are_exact_while_jobs_are_in_the_history_and_within_a_hundredth_later(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    waits = jobs_that_waited(path, [1.5 * 1.05**n for n in range(200)])
    with closing(connect(path)) as connection:
        found = report(connection, "owner", EVER, [], BEGIN).total.waits
        assert found is not None
        assert found.median == pytest.approx(waits[100])
        assert found.p95 == pytest.approx(waits[190])
        assert found.longest == pytest.approx(waits[-1])
        assert found.mean == pytest.approx(sum(waits) / 200)
        with transaction(connection):
            assert prune(connection, BEGIN + 1e6, 120) == 120
        later = report(connection, "owner", EVER, [], BEGIN).total.waits
        assert later is not None
        assert (later.mean, later.longest) == pytest.approx((found.mean, found.longest))
        assert later.median == pytest.approx(found.median, rel=0.01, abs=1)
        assert later.p95 == pytest.approx(found.p95, rel=0.01, abs=1)


def test_a_clock_that_was_set_makes_no_negative_waits(tmp_path: Path) -> None:
    jobs_that_waited(tmp_path / "state.db", [-100.0, 20.0])
    with closing(connect(tmp_path / "state.db")) as connection:
        waits = report(connection, "owner", EVER, [], BEGIN).total.waits
    assert waits is not None
    assert (waits.mean, waits.longest) == (10.0, 20.0)


@pytest.mark.parametrize("by", ["owner", "machine", "size", "day"])
def test_jobs_of_a_clock_before_1970_are_counted_as_any(tmp_path: Path, by: str) -> None:
    jobs_that_waited(tmp_path / "state.db", [5.0, 7.0])
    with closing(connect(tmp_path / "state.db")) as connection:
        connection.execute("UPDATE history SET created_at = -70, allocated_at = -60, ended_at = -50 WHERE job_id = 1")
        bounds = [-1000.0, 0.0, BEGIN + 1e6]
        names = ["before", "since"] if by == "day" else []
        found = report(connection, by, bounds if names else [bounds[0], bounds[-1]], names, BEGIN + 100)
    assert (found.total.jobs, found.total.board_seconds) == pytest.approx((2, 48.0))
    assert found.total.waits is not None
    assert found.total.waits.longest == pytest.approx(10.0)


def test_rows_that_make_no_sense_are_pruned_and_count_nothing(tmp_path: Path) -> None:
    jobs_that_waited(tmp_path / "state.db", [1.0] * 5)
    with closing(connect(tmp_path / "state.db")) as connection:
        connection.execute("UPDATE history SET allocated_at = -1e12 WHERE job_id = 1")
        connection.execute("UPDATE history SET earlier = 'x' WHERE job_id = 2")
        connection.execute("UPDATE history SET board_seconds = 1e300 WHERE job_id = 3")
        connection.execute("UPDATE history SET owner = CAST(x'ff' AS TEXT) WHERE job_id = 4")
        with transaction(connection):
            assert prune(connection, BEGIN + 1e6, 9) == 5
        assert connection.execute("SELECT count(*) FROM history").fetchone() == (0,)
        total = report(connection, "owner", EVER, [], BEGIN).total
        assert (total.jobs, total.board_seconds) == pytest.approx((2, 48.0))


def test_a_job_that_was_placed_again_before_this_was_stored_has_all_its_use_where_it_was_last(tmp_path: Path) -> None:
    row = a_job(1, ended_at=BEGIN + 100)
    row.allocated_at, row.board_seconds, row.placements, row.earlier = BEGIN, 24 * 150.0, 2, None
    with closing(connect(tmp_path / "state.db")) as connection:
        with transaction(connection):
            encode(Changes(jobs={1: row})).store(connection)
        assert report(connection, "owner", EVER, [], BEGIN).total.board_seconds == pytest.approx(24 * 150)
        half = report(connection, "owner", [BEGIN + 50, BEGIN + 1e6], [], BEGIN).total
        assert half.board_seconds == pytest.approx(24 * 75)


def test_the_machines_that_a_job_had_boards_of_have_their_parts(tmp_path: Path) -> None:
    row = a_job(1, ended_at=BEGIN + 100)
    row.created_at, row.allocated_at = BEGIN - 90, BEGIN
    row.earlier = [Holding("other", 12, BEGIN - 60, BEGIN - 10)]
    row.board_seconds = 24 * 100.0 + 12 * 50.0
    with closing(connect(tmp_path / "state.db")) as connection:
        with transaction(connection):
            encode(Changes(jobs={1: row})).store(connection)
        for _ in range(2):
            found = report(connection, "machine", EVER, [], BEGIN)
            assert {name: each.board_seconds for name, each in found.groups.items()} == pytest.approx(
                {"hall": 2400, "other": 600}
            )
            assert {name: each.jobs for name, each in found.groups.items()} == {"hall": 1, "other": 0}
            assert found.total.waits is not None
            assert found.total.waits.longest == pytest.approx(30)
            prune(connection, BEGIN + 1e6, 9)


def test_sums_of_hours_are_joined_from_rows_and_from_what_goes_on(tmp_path: Path) -> None:
    row = BoardTimeRow(
        machine="hall", began=BEGIN, until=BEGIN + 1000, boards=10, in_use=2, cooling=0, out=1,
        boards_s=1e4, in_use_s=2000, cooling_s=500, out_s=1000,
    )  # fmt: skip
    with closing(connect(tmp_path / "state.db")) as connection:
        changes = Changes(
            board_time={("hall", BEGIN): row},
            facts={"board_time/hall": {**_zeros(row), "began": BEGIN + 1000, "until": BEGIN + 1000}},
        )
        with transaction(connection):
            encode(changes).store(connection)
        known = report(connection, "machine", [BEGIN + 500, BEGIN + 1500], [], BEGIN + 9999).groups["hall"].board_time
        assert known is not None
        assert (known.boards, known.in_use, known.cooling, known.out) == pytest.approx((1e4, 2000, 250, 1000))


def _zeros(row: BoardTimeRow) -> dict[str, object]:
    counts = {name: getattr(row, name) for name in ("machine", "boards", "in_use", "cooling", "out")}
    return counts | dict.fromkeys(("boards_s", "in_use_s", "cooling_s", "out_s"), 0.0)


@given(st.floats(0, 100), st.floats(0, 100), st.lists(st.floats(0, 100), min_size=2, max_size=5, unique=True))
def test_pieces_are_the_parts_inside(begin: float, length: float, bounds: list[float]) -> None:
    bounds.sort()
    end = begin + length
    parts = dict(pieces(begin, end, 10.0, bounds))
    for span, (low, high) in enumerate(pairwise(bounds)):
        if end > begin:
            inside = max(0.0, min(end, high) - max(begin, low)) / (end - begin)
            assert parts.get(span, 0.0) == pytest.approx(10 * inside)
        else:
            assert parts.get(span, 0.0) == (10.0 if low <= begin < high else 0.0)


def test_every_number_of_boards_has_a_class_that_names_it() -> None:
    assert [SIZE_NAMES[size_class(number)] for number in (0, 1, 2, 3, 4, 24, 25, 601)] == [
        "none", "1", "2-3", "2-3", "4-12", "13-24", "25-48", "over 600",
    ]  # fmt: skip
    assert SIZES[-1] == 2**53


@given(st.floats(0, 1e9))
def test_waits_are_rounded_to_three_digits(seconds: float) -> None:
    assert rounded(seconds) <= seconds < rounded(seconds) * 1.0101 + 1


def test_a_report_takes_a_small_part_of_what_it_takes_to_read_all_rows(tmp_path: Path) -> None:
    rows = {n: msgspec.structs.replace(a_job(n, ended_at=BEGIN + n), earlier=None) for n in range(1, 5001)}
    with closing(connect(tmp_path / "state.db")) as connection:
        with transaction(connection):
            encode(Changes(jobs=rows)).store(connection)

        def seconds(function: Callable[[], object]) -> float:
            taken = []
            for _ in range(5):
                begun = time.process_time()
                function()
                taken.append(time.process_time() - begun)
            return min(taken)

        reading = seconds(lambda: sum(1 for _ in read_jobs(connection, "history")))
        assert seconds(lambda: report(connection, "owner", EVER, [], BEGIN)) < reading / 4


def test_a_line_of_history_is_short(tmp_path: Path) -> None:
    row = a_job(1, ended_at=BEGIN)
    whole = tuple((x, y, z) for x in range(1, 3) for y in range(2, 6) for z in range(3))
    assert row.allocation is not None
    row.allocation = msgspec.structs.replace(row.allocation, height=4, boards=whole, stopped=())
    row.kwargs, row.original, row.earlier = {}, None, None
    (line,) = encode(Changes(jobs={1: row})).jobs.values()
    assert sum(8 if isinstance(value, float) else len(str(value)) for value in line if value is not None) < 280
    with closing(connect(tmp_path / "state.db")) as connection:
        with transaction(connection):
            encode(Changes(jobs={1: row})).store(connection)
        assert list(read_jobs(connection, "history")) == [row]
