"""How boards spend their time is counted once, whatever happens to the clock."""

from __future__ import annotations

from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from tests.core.machines import a_machine


def test_what_was_counted_before_the_clock_was_set_stays_and_nothing_of_it_is_counted_again() -> None:
    now, ahead = [7200.0], 1_000_000.0
    before = Controller(clock=lambda: now[0])
    before.configure(Configuration([a_machine("m", 2, 2)]))
    before.take_changes()
    now[0] += 100.0
    job = before.create_job(3, owner="ann")
    before.take_changes()
    now[0] += ahead
    after = Controller(clock=lambda: now[0])
    after.restore(before.snapshot(), moved_by=ahead)
    changes = after.take_changes()
    assert changes.jobs.keys() == {job}, "with the times as they are now"
    (row,) = changes.board_time.values()
    assert (row.began, row.until, row.boards_s) == (7200.0, 7300.0, 12 * 100.0)
    present = changes.facts["board_time/m"]
    assert present["began"] == present["until"] == 7300.0 + ahead
    assert (present["boards"], present["in_use"], present["boards_s"]) == (12, 3, 0.0)


def test_hours_in_which_nothing_changed_are_one_row_that_ends_with_the_last_whole_hour() -> None:
    now = [7200.0 + 600.0]
    core = Controller(clock=lambda: now[0])
    core.configure(Configuration([a_machine("m", 2, 2)]))
    core.take_changes()
    now[0] = 5 * 3600.0 + 60.0
    core.create_job(3, owner="ann")
    rows = sorted((row.began, row.until, row.boards_s) for row in core.take_changes().board_time.values())
    assert rows == [(7800.0, 10800.0, 12 * 3000.0), (10800.0, 18000.0, 12 * 7200.0)]
