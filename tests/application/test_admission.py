"""One budget of rates a caller."""

from __future__ import annotations

from spalloc_server.application import admission
from spalloc_server.application.admission import BURST_SECONDS, CREATE_BURST, Admission, Charged


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_rate_no_caller_waits_and_none_is_remembered() -> None:
    counting = Admission(0.0)
    assert [counting.charge("a") for _ in range(1000)] == [0.0] * 1000
    assert not counting._due


def test_a_caller_may_be_ahead_by_a_burst_and_then_waits_for_its_rate() -> None:
    clock = Clock()
    counting = Admission(10.0, clock=clock)
    delays = [counting.charge("a") for _ in range(int(10 * BURST_SECONDS) + 2)]
    assert delays[:20] == [0.0] * 20
    assert [round(delay, 6) for delay in delays[20:]] == [0.1, 0.2]
    assert counting.delay("a") == delays[-1]
    assert counting.delay("a") == delays[-1], "to look costs nothing"
    clock.now += 0.2
    assert counting.delay("a") <= 1e-9
    assert round(counting.charge("a"), 6) == 0.1


def test_callers_are_counted_apart_and_so_are_keepalives() -> None:
    counting = Admission(1.0, clock=Clock())
    for _ in range(10):
        counting.charge("a")
    assert counting.charge("a") > 0
    assert counting.charge("b") == 0
    assert counting.delay("c") == 0
    assert counting.charge("a", Charged.KEEPALIVE) == 0
    for _ in range(10):
        counting.charge("b", Charged.KEEPALIVE)
    assert counting.charge("b", Charged.KEEPALIVE) > 0
    assert counting.charge("b") == 0


def test_creations_have_a_budget_of_their_own_which_a_campaign_does_not_use_up() -> None:
    clock = Clock()
    counting = Admission(creates=10.0, clock=clock)
    for _ in range(CREATE_BURST):
        assert counting.delay("lab", Charged.CREATE) == 0
        assert counting.charge("lab", Charged.CREATE) == 0
    counting.charge("lab", Charged.CREATE)
    assert round(counting.delay("lab", Charged.CREATE), 6) == 0.1
    assert counting.delay("elsewhere", Charged.CREATE) == 0
    assert counting.charge("lab") == counting.charge("lab", Charged.KEEPALIVE) == 0
    clock.now += 0.2
    assert counting.delay("lab", Charged.CREATE) == 0


def test_only_a_caller_that_has_earned_what_it_sent_is_forgotten() -> None:
    clock = Clock()
    counting = Admission(1.0, clock=clock)
    for number in range(admission.SWEEP_KEYS):
        counting.charge(f"early {number}")
    for _ in range(10):
        counting.charge("early 7")
    clock.now += 5
    counting.charge("late")
    assert counting._due.keys() == {"early 7", "late"}
    assert counting.delay("early 7") > 0
    for number in range(5 * admission.SWEEP_KEYS):
        counting.charge(f"many {number}")
    assert len(counting._due) == 5 * admission.SWEEP_KEYS + 2, "none of these has earned its command"


def test_the_next_sweep_comes_when_there_are_twice_as_many_as_the_last_one_has_left() -> None:
    clock = Clock()
    counting = Admission(1.0, clock=clock)
    left = admission.SWEEP_KEYS
    for number in range(left + 1):  # one more than are remembered without a look: none can be forgotten yet
        counting.charge(f"first {number}")
    clock.now += 1000
    for number in range(left - 1):
        counting.charge(f"second {number}")
    assert len(counting._due) == 2 * left
    counting.charge("third")
    assert len(counting._due) == left
