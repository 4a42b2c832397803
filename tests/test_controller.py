"""The core as a library: it can be pickled, it has a clock of its own, and the example that embeds it works."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path

import msgspec
import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller, JobState, Outcome, steady_time

ROOT = Path(__file__).parents[1]


def controller_with_jobs() -> Controller:
    """On a machine of one board: job 1 has it, job 2 waits for it, job 3 has ended."""
    controller = Controller(seconds_before_free=0)
    controller.machines = {"desk": Machine.single_board("desk", bmp_ip="bmp", spinnaker_ip="board")}
    controller.create_job(owner="ann", keepalive=None)
    switch(controller)
    controller.create_job(owner="bob", keepalive=None)
    controller.destroy_job(controller.create_job(owner="cas"), "not needed")
    return controller


def switch(controller: Controller) -> None:
    """Be the hardware."""
    while switches := controller.take_switches():
        for each in switches:
            controller.switched(Outcome(each.operation))


def states(controller: Controller) -> list[int]:
    return [controller.get_job_state(job_id).state for job_id in (1, 2, 3)]


def test_a_pickled_controller_still_has_its_jobs_and_goes_on() -> None:
    controller = pickle.loads(pickle.dumps(controller_with_jobs()))
    controller.check()
    assert states(controller) == [JobState.ready, JobState.queued, JobState.destroyed]
    assert controller.get_job_machine_info(1).connections == [((0, 0), "board")]
    controller.destroy_job(1)
    switch(controller)
    controller.check()
    assert states(controller) == [JobState.destroyed, JobState.ready, JobState.destroyed]
    assert controller.create_job(owner="dan") == 4


def test_a_power_operation_under_way_ends_in_the_unpickled_controller() -> None:
    controller = controller_with_jobs()
    controller.power_on_job_boards(1)
    (under_way,) = controller.take_switches()
    controller = pickle.loads(pickle.dumps(controller))
    assert states(controller)[0] == JobState.power
    controller.switched(Outcome(under_way.operation))
    assert states(controller)[0] == JobState.ready


class Clock:
    """A clock that can be pickled."""

    now = 1000.0

    def __call__(self) -> float:
        return Clock.now


def test_a_job_outlives_the_hour_for_which_its_controller_was_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller(clock=Clock())
    controller.machines = {"desk": Machine.single_board("desk", bmp_ip="bmp", spinnaker_ip="board")}
    controller.create_job(owner="ann", keepalive=60)
    pickled = pickle.dumps(controller)
    monkeypatch.setattr(Clock, "now", 4600.0)
    controller = pickle.loads(pickled)
    live = []
    for now in (4600.0, 4659.0, 4661.0):
        monkeypatch.setattr(Clock, "now", now)
        controller.tick()
        controller.check()
        live.append(len(controller.list_jobs()))
    assert live == [1, 1, 0]


def test_a_controller_goes_on_where_a_snapshot_of_another_was_taken() -> None:
    before = controller_with_jobs()
    after = Controller(seconds_before_free=0)
    after.restore(before.snapshot())
    after.check()
    assert states(after) == states(before)
    assert after.list_jobs() == before.list_jobs()
    assert after.next_id == before.next_id


def test_one_snapshot_serves_two_controllers_that_then_go_their_own_ways() -> None:
    before = controller_with_jobs()
    before.report_problem("board", "no chip (3, 3)", reporter="hub")
    before.destroy_job(1)
    snapshot = before.snapshot()
    stored = msgspec.json.encode(snapshot)
    one, other = Controller(seconds_before_free=30), Controller(seconds_before_free=30)
    one.restore(snapshot)
    switch(one)
    one.disable_board("desk", (0, 0, 0), reason="smells", by="eve")
    assert msgspec.json.encode(snapshot) == stored
    other.restore(snapshot)
    other.check()
    assert [each.on for each in other.take_switches()] == [False]
    assert other.machine_views()[0].out_of_service == 0


def test_a_controller_that_is_in_use_is_not_restored_over() -> None:
    controller = controller_with_jobs()
    with pytest.raises(RuntimeError, match="only a new controller"):
        controller.restore(controller.snapshot())
    assert states(controller)[0] == JobState.ready


def test_without_a_clock_of_its_own_it_reads_the_systems() -> None:
    before = steady_time()
    controller = controller_with_jobs()
    start = controller.get_job_state(1).start_time
    assert start is not None
    assert before <= start <= steady_time()


def test_the_example_of_an_embedded_controller_works(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "embedded_controller.py"), run_name="__main__")
    first, second, resting, third, last = capsys.readouterr().out.splitlines()
    assert resting == "job 3 is queued and has None"
    assert third == first.replace("job 1", "job 3")
    assert first.startswith("job 1 is ready and has ")
    assert second.startswith("job 2 is ready and has ")
    assert "lamp-0" not in first + second
    assert last == "0 lamps are on"
