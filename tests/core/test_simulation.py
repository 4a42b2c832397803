"""Traces in virtual time: what the figures say, and that nobody waits for ever."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.request import Request
from spalloc_server.core.scheduling import backfill as policy_backfill, order as policy_order
from spalloc_server.core.simulation import Simulation, TraceJob
from tests.core.machines import a_machine

POLICIES = ["fifo", "backfill"]
OLD_AFTER, MAX_BACKLOG, PATIENCE = 1800.0, 1800.0, 900.0
"""Short ones, so that a trace need not be long to show them."""


def a_job(submit: float, duration: float, boards: int, owner: str = "me") -> TraceJob:
    return TraceJob(submit, duration, Request(owner=owner, boards=boards, tags=DEFAULT_TAGS))


def run(
    jobs: list[TraceJob], policy: str = "backfill", width: int = 4, height: int = 4, cool_down: float = 0.0
) -> Simulation:
    scheduling = msgspec.convert({"policy": policy}, Scheduling)
    simulation = Simulation({"m": a_machine("m", width, height)}, jobs, scheduling, cool_down)
    for _ in simulation.run():
        pass
    return simulation


def waits(simulation: Simulation) -> list[float]:
    return [at - simulation.jobs[number].submit for number, at in sorted(simulation.started.items())]


def test_the_figures_of_a_trace_that_can_be_worked_out_by_hand() -> None:
    simulation = run([a_job(0, 100, 48), a_job(10, 100, 48)], "fifo")
    assert waits(simulation) == [0, 90]
    figures = simulation.figures()
    assert (figures["jobs"], figures["started"], figures["cancelled"]) == (2, 2, 0)
    assert (figures["mean_wait_s"], figures["max_wait_s"], figures["makespan_s"]) == (45.0, 90.0, 200.0)
    assert (figures["useful"], figures["utilisation"]) == (1.0, 1.0)
    assert (figures["mean_wait_large_s"], figures["max_wait_large_s"]) == (None, None)


def test_every_figure_of_a_trace_with_two_owners_and_a_large_job() -> None:
    jobs = [
        a_job(10, 100, 144, "ann"),
        a_job(30, 200, 144, "bob"),
        a_job(20, 30, 72, "ann"),
        a_job(110, 60, 72, "bob"),
        a_job(310, 5, 145, "ann"),
    ]
    simulation = run(jobs, "fifo", 8, 6)
    assert [job.submit for job in simulation.jobs] == [10, 20, 30, 110, 310]
    assert waits(simulation) == [0, 90, 110, 230]
    slowdowns = [1.0, (90 + 30) / 60, (110 + 200) / 200, (230 + 60) / 60]
    ann, bob = (slowdowns[0] + slowdowns[1]) / 2, (slowdowns[2] + slowdowns[3]) / 2
    work_inside = 144 * 100 + 72 * 30 + 144 * (310 - 140)  # up to when the last job came
    assert simulation.figures() == {
        "policy": "fifo",
        "jobs": 5,
        "started": 4,
        "cancelled": 1,
        "utilisation": round(work_inside / (144 * 300), 4),
        "useful": round((144 * 100 + 72 * 30 + 144 * 200 + 72 * 60) / (144 * 390), 4),
        "makespan_s": 390.0,
        "mean_wait_s": 107.5,
        "p95_wait_s": 230.0,
        "max_wait_s": 230.0,
        "mean_wait_large_s": 55.0,
        "max_wait_large_s": 110.0,
        "mean_slowdown": round(sum(slowdowns) / 4, 2),
        "fairness": round((ann + bob) ** 2 / (2 * (ann**2 + bob**2)), 3),
    }
    assert sorted({*simulation.timeline} - {(0.0, 0, 0)}) == [
        (10, 144, 0),
        (20, 144, 1),
        (30, 144, 2),
        (110, 72, 2),
        (140, 144, 1),
        (310, 144, 1),
        (340, 72, 0),
        (400, 0, 0),
    ]


def test_a_run_tells_how_many_jobs_are_over() -> None:
    jobs = [a_job(0, 100, 48), a_job(10, 100, 49), a_job(10, 50, 48)]
    simulation = Simulation({"m": a_machine("m", 4, 4)}, jobs, Scheduling(), 0.0)
    assert list(simulation.run()) == [0, 1, 2, 3]


def test_a_job_is_large_from_a_cabinet_on() -> None:
    figures = run([a_job(0, 10, 119), a_job(1, 10, 120), a_job(2, 10, 144)], "fifo", 8, 6).figures()
    assert (figures["mean_wait_large_s"], figures["max_wait_large_s"]) == (13.5, 18.0)


def test_of_many_waits_the_one_is_told_that_nineteen_of_twenty_are_below() -> None:
    figures = run([a_job(0, 10, 48) for _ in range(40)], "fifo").figures()
    assert figures["p95_wait_s"] == 380.0


def test_boards_rest_between_jobs() -> None:
    assert waits(run([a_job(0, 100, 48), a_job(10, 100, 48)], cool_down=30)) == [0, 120]


def test_jobs_that_no_machine_can_take_are_counted_and_hold_up_nobody() -> None:
    simulation = run([a_job(0, 10, 49), a_job(0, 10, 48)])
    assert simulation.cancelled == {0}
    assert simulation.figures()["started"] == 1


def test_an_empty_trace_has_no_figures_to_tell() -> None:
    figures = run([]).figures()
    assert (figures["jobs"], figures["mean_wait_s"], figures["useful"], figures["fairness"]) == (0, None, None, None)
    assert (figures["utilisation"], figures["makespan_s"], figures["mean_slowdown"]) == (None, 0.0, None)


def test_first_come_first_served_lets_nobody_overtake() -> None:
    simulation = run([a_job(0, 100, 40), a_job(1, 100, 48), a_job(2, 10, 3)], "fifo")
    assert waits(simulation) == [0, 99, 198]


def test_backfill_lets_those_overtake_who_delay_nobody_before_them() -> None:
    known = [a_job(time, 10, 3) for time in (0, 20)] + [a_job(0, 100, 36, "you")]
    simulation = run([*known, a_job(110, 100, 36, "you"), a_job(111, 100, 48, "you"), a_job(112, 10, 3)])
    assert waits(simulation)[3:] == [0, 99, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_job_of_a_busy_trace_is_started_and_no_sooner_than_it_came(policy: str) -> None:
    rng = random.Random(5)
    jobs = [
        a_job(rng.uniform(0, 3000), rng.expovariate(1 / 200), rng.choice([1, 1, 2, 3, 6, 12, 30]), f"user {n % 5}")
        for n in range(300)
    ]
    simulation = run(jobs, policy)
    assert len(simulation.started) == len(jobs)
    assert min(waits(simulation)) >= 0
    assert all(0 <= in_use <= 48 for _, in_use, _ in simulation.timeline)
    assert simulation.timeline[-1][1:] == (0, 0)


def test_backfill_makes_a_busy_machine_wait_less_than_first_come_first_served() -> None:
    rng = random.Random(7)
    jobs = [
        a_job(rng.uniform(0, 5000), rng.expovariate(1 / 200), rng.choice([1, 1, 1, 3, 6, 24, 48]), f"user {n % 5}")
        for n in range(300)
    ]
    means = {policy: run(jobs, policy).figures()["mean_wait_s"] for policy in POLICIES}
    assert means["backfill"] < means["fifo"] / 2


@settings(max_examples=6)
@given(seed=st.integers(0, 1000), boards=st.sampled_from([24, 36, 48]))
@pytest.mark.slow
def test_a_large_job_among_endless_small_ones_starts_within_the_bound_that_is_promised(seed: int, boards: int) -> None:
    """The small ones are more than the machine can ever serve, and run far longer than their owners' last jobs."""
    rng = random.Random(seed)
    longest = 3000.0
    small = [a_job(time * 20, rng.choice([30.0, longest]), 1, f"user {time % 7}") for time in range(2500)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_order, "OLD_AFTER", OLD_AFTER)
        patch.setattr(policy_order, "MAX_BACKLOG", MAX_BACKLOG)
        patch.setattr(policy_backfill, "PATIENCE", PATIENCE)
        patch.setattr(policy_backfill, "LAST_PATIENCE", PATIENCE)
        simulation = run([*small, a_job(5000, 100, boards, "patient"), a_job(5001, 100, boards, "patient")])
    old_at = 5000 + OLD_AFTER + MAX_BACKLOG
    older = [n for n, job in enumerate(simulation.jobs) if job.submit <= 5000 and simulation.started[n] >= old_at]
    patient = [number for number, job in enumerate(simulation.jobs) if job.request.owner == "patient"]
    for before, number in enumerate(patient, len(older)):
        assert simulation.started[number] <= old_at + (before + 1) * (2 * PATIENCE + 2 * longest)
        assert simulation.started[number] <= 30_000, "and long before the small ones come to an end"
