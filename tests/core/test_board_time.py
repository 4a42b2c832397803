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
    before.create_job(3, owner="ann")
    before.take_changes()
    now[0] += ahead
    after = Controller(clock=lambda: now[0])
    after.restore(before.snapshot(), moved_by=ahead)
    changes = after.take_changes()
    (row,) = changes.board_time.values()
    assert (row.began, row.until, row.boards_s) == (7200.0, 7300.0, 12 * 100.0)
    present = changes.facts["board_time/m"]
    assert present["began"] == present["until"] == 7300.0 + ahead
    assert (present["boards"], present["in_use"], present["boards_s"]) == (12, 3, 0.0)
