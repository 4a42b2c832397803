"""What is remembered of owners: how much they have used, and how long their jobs ran."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.core.scheduling import prediction as runtime
from spalloc_server.core.scheduling.prediction import MAX_OWNERS, Past


def stored(past: Past, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, with what has changed written over them."""
    facts.update(past.facts())
    return {name: fact for name, fact in facts.items() if fact is not None}


def owners(facts: dict[str, Any]) -> set[str]:
    return {name for name in facts if name.startswith("owner/")}


@pytest.mark.slow
def test_of_twice_as_many_owners_those_are_kept_whose_jobs_ended_last_and_a_start_takes_back_only_those() -> None:
    past = Past(half_life=1000.0)
    facts: dict[str, Any] = {}
    for number in range(2 * MAX_OWNERS):
        past.learn(Request(owner=f"user {number}", boards=1), 1, 10.0, float(number))
        past.learn(Request(owner="always", boards=1), 1, 77.0, float(number))
        if number % 3000 == 0:
            facts = stored(past, facts)
    facts = stored(past, facts)
    kept = {f"owner/user {number}" for number in range(MAX_OWNERS + 1, 2 * MAX_OWNERS)} | {"owner/always"}
    assert owners(facts) == kept
    restarted = Past(half_life=1000.0)
    restarted.restore(facts)
    assert restarted.facts() == {}
    assert restarted.predict(Request(owner="always", boards=1)) == 77.0


def test_after_the_clock_went_back_the_sums_are_those_of_use_as_it_counts_then() -> None:
    past = Past(half_life=1000.0)
    past.learn(Request(owner="a", boards=1), 1, 100.0, 0.0)
    past.learn(Request(owner="b", boards=1), 1, 40.0, 1000.0)
    past.learn(Request(owner="c", boards=1), 1, 10.0, 500.0)
    used = [past.used(owner, 500.0) for owner in "abc"]
    assert used == pytest.approx([100.0 * 0.5**0.5, 40.0, 10.0])
    assert past.sums(500.0) == pytest.approx((sum(used), sum(each**2 for each in used)))


def test_what_owners_who_are_forgotten_have_used_is_in_the_sums_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "MAX_OWNERS", 2)
    past = Past(half_life=1000.0)
    for owner, seconds in (("a", 100.0), ("b", 40.0), ("c", 10.0)):
        past.learn(Request(owner=owner, boards=1), 1, seconds, 0.0)
    assert past.sums(0.0) == (40.0 + 10.0, 40.0**2 + 10.0**2)


def test_use_is_half_forgotten_after_each_half_life_and_so_are_the_sums() -> None:
    past = Past(half_life=1000.0)
    assert (past.used("a", 5.0), past.sums(5.0)) == (0.0, (0.0, 0.0))
    past.learn(Request(owner="a", boards=1), 1, 100.0, 10.0)
    past.learn(Request(owner="b", boards=1), 3, 100.0, 10.0)
    assert [past.used(owner, 10.0) for owner in "abc"] == pytest.approx([100.0, 300.0, 0.0])
    assert past.sums(10.0) == pytest.approx((400.0, 100.0**2 + 300.0**2))
    assert past.sums(2010.0) == pytest.approx((100.0, 25.0**2 + 75.0**2))
    past.learn(Request(owner="a", boards=1), 1, 100.0, 1010.0)
    assert past.used("a", 1010.0) == pytest.approx(150.0)
    past.set_half_life(500.0)
    assert past.sums(1510.0) == pytest.approx((75.0 + 300.0 / 8, 75.0**2 + (300.0 / 8) ** 2))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(1, 1200), st.floats(0, 1e6), st.floats(-1e3, 1e5)),
        max_size=40,
    )
)
def test_sums_that_are_kept_up_are_those_that_a_start_works_out(jobs: list[tuple[str, int, float, float]]) -> None:
    """With owners that are forgotten, and a clock that goes back at times, which counts use as older by as much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "MAX_OWNERS", 4)
        past, facts, now, back = Past(half_life=1e6), dict[str, Any](), 0.0, 0.0
        for owner, boards, seconds, passed in jobs:
            now += passed
            back += max(0.0, -passed)
            past.learn(Request(owner=owner, boards=boards), boards, seconds, now)
            facts = stored(past, facts)
            again = Past(half_life=1e6)
            again.restore(facts)
            most = max(1.0, *(boards * seconds for _, boards, seconds, _ in jobs)) * len(jobs)
            later = 1e7  # by which not all is forgotten
            older = 1 - 0.5 ** (back / 1e6)
            assert past.sums(later)[0] == pytest.approx(again.sums(later)[0], abs=(older + 1e-9) * most)
            assert past.sums(later)[1] == pytest.approx(again.sums(later)[1], abs=(2 * older + 1e-9) * most**2)


def test_predictions_are_means_of_the_last_of_a_size_of_an_owner_and_of_everybody() -> None:
    past = Past(half_life=1000.0)

    def ask(owner: str, boards: int, max_runtime: float | None = None) -> float:
        return past.predict(Request(owner=owner, boards=boards, max_runtime=max_runtime))

    assert ask("a", 3) == runtime.UNKNOWN
    for seconds in (10.0, 20.0, 40.0):
        past.learn(Request(owner="a", boards=3), 3, seconds, 1.0)
    past.learn(Request(owner="a", boards=6), 6, 100.0, 1.0)
    assert (ask("a", 3), ask("a", 6), ask("a", 9)) == (30.0, 100.0, 70.0)
    assert ask("b", 3) == (10.0 + 20.0 + 40.0 + 100.0) / 4
    assert (ask("a", 3, max_runtime=5.0), ask("a", 3, max_runtime=50.0)) == (5.0, 30.0)
    for _ in range(runtime.EVERYBODY):
        past.learn(Request(owner="c", boards=3), 3, 7.0, 1.0)
    assert ask("b", 3) == 7.0


def test_of_an_owners_sizes_those_are_kept_that_were_used_last() -> None:
    past = Past(half_life=1000.0)
    for boards in [*range(3, 3 + runtime.MAX_SIZES), 3, 3 + runtime.MAX_SIZES]:
        past.learn(Request(owner="a", boards=boards), boards, 10.0 * boards, 1.0)
    kept = past.facts()["owner/a"]["sizes"]
    assert len(kept) == runtime.MAX_SIZES
    assert kept["3"] == [30.0, 30.0]
    assert "4" not in kept
    assert past.facts() == {}


def test_a_start_on_more_owners_than_are_remembered_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    past = Past(half_life=1000.0)
    for number in range(10):
        past.learn(Request(owner=f"user {number}", boards=1), 1, 10.0, float(number))
    shuffled = list(past.facts().items())
    random.Random(1).shuffle(shuffled)
    monkeypatch.setattr(runtime, "MAX_OWNERS", 3)
    controller = Controller(clock=lambda: 1000.0)
    controller.restore(Snapshot(facts=dict(shuffled)))
    controller.configure(Configuration())
    changes = controller.take_changes().facts
    assert {name for name, fact in changes.items() if fact is None} == {f"owner/user {number}" for number in range(7)}
    assert owners(controller.snapshot().facts) == {f"owner/user {number}" for number in range(7, 10)}
