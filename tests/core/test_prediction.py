"""What is remembered of owners: how much they have used, and how long their jobs ran."""

from __future__ import annotations

import random
from typing import Any

import pytest

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
