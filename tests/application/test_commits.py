"""Nothing leaves before its commit, and nothing is lost where a commit fails."""

from __future__ import annotations

import asyncio

import pytest

from spalloc_server.application import commits as batches
from spalloc_server.application.commits import Batches, Effects
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, JobState
from spalloc_server.errors import StorageError
from tests.core.machines import a_machine
from tests.storage.memory_journal import MemoryJournal


class House:
    def __init__(self) -> None:
        self.controller = Controller()
        self.controller.configure(Configuration([a_machine("m", 2, 2)]))
        self.journal = MemoryJournal(loop=asyncio.get_running_loop())
        self.log: list[tuple[str, object]] = []
        self.ons: list[bool] = []
        self.batches = Batches(
            self.controller,
            self.journal,
            settled=lambda number, error: self.log.append(("settled", (number, error))),
            act=self.act,
        )

    def act(self, effects: Effects) -> None:
        self.log += [("switch", switch.job_id) for switch in effects.switches]
        self.ons += [switch.on for switch in effects.switches]
        self.log += [("tell", job_id) for job_id in sorted(effects.jobs)]


@pytest.fixture
async def house() -> House:
    house = House()
    await house.batches.settle()
    house.log.clear()
    return house


async def test_replies_leave_first_and_effects_next_and_both_after_the_commit(house: House) -> None:
    house.journal.held = True
    job_id = house.controller.create_job(owner="me")
    ticket = house.batches.hold()
    house.batches.flush()
    await asyncio.sleep(0)
    assert house.log == []
    house.journal.held = False
    house.journal.commit()
    await house.batches.settle()
    assert house.log == [("settled", (ticket, None)), ("switch", job_id), ("tell", job_id)]


async def test_a_command_that_changes_nothing_waits_for_nothing(house: House) -> None:
    house.controller.get_job_state(1)
    assert house.batches.hold() is None


async def test_a_command_that_finds_its_work_done_waits_for_the_commit_of_who_did_it(house: House) -> None:
    job_id = house.controller.create_job(owner="me")
    await house.batches.settle()
    house.journal.held = True
    house.controller.destroy_job(job_id)
    first = house.batches.hold()
    house.batches.flush()
    house.controller.destroy_job(job_id)
    assert house.batches.hold() == first is not None
    other = house.controller.create_job(owner="me")
    assert house.batches.hold() != first
    house.batches.flush()
    house.controller.destroy_job(job_id)
    assert house.batches.hold() != first, "the last of those that are not settled"
    house.journal.held = False
    house.journal.commit()
    await house.batches.settle()
    house.controller.destroy_job(job_id)
    assert house.batches.hold() is None
    assert house.controller.get_job_state(other).state == JobState.power


async def test_what_happens_in_one_turn_of_the_loop_is_one_batch(house: House) -> None:
    tickets = set()
    for _ in range(3):
        house.controller.create_job(owner="me")
        tickets.add(house.batches.hold())
    assert len(tickets) == 1
    await asyncio.sleep(0)
    house.controller.create_job(owner="me")
    assert house.batches.hold() not in tickets


async def test_a_commit_that_fails_is_told_and_its_new_jobs_end(house: House) -> None:
    house.journal.failure = StorageError("the disk is full")
    job_id = house.controller.create_job(owner="me")
    ticket = house.batches.hold()
    await house.batches.settle()
    assert house.log[0] == ("settled", (ticket, "the disk is full"))
    assert house.controller.get_job_state(job_id).state == JobState.destroyed
    assert not [entry for entry in house.log if entry[0] != "settled"], "effects are withheld"


async def test_effects_that_were_withheld_follow_in_order_once_the_disk_recovers(house: House) -> None:
    job_id = house.controller.create_job(owner="me")
    await house.batches.settle()
    house.log.clear()
    house.journal.failure = StorageError("the disk is full")
    house.controller.destroy_job(job_id)
    await house.batches.settle()
    house.journal.failure = None
    other = house.controller.create_job(owner="me")
    await house.batches.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == [("switch", job_id), ("switch", other)]
    assert house.controller.get_job_state(other).state == JobState.power


async def test_power_offs_of_an_emergency_stop_do_not_wait_for_a_disk_that_refuses(house: House) -> None:
    house.controller.create_job(owner="me")
    await house.batches.settle()
    house.log.clear()
    house.ons.clear()
    house.journal.failure = StorageError("the disk is full")
    house.controller.create_job(owner="me")
    house.batches.flush()
    house.controller.emergency_stop(reason="smoke", by="eve")
    await house.batches.settle()
    assert {job_id for kind, job_id in house.log if kind == "switch"} == {0, 1, 2}
    assert not any(house.ons)
    assert not [entry for entry in house.log if entry[0] == "tell"]
    house.log.clear()
    house.journal.failure = None
    house.controller.resume()
    later = house.controller.create_job(owner="me")
    await house.batches.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == []
    assert house.controller.get_job_state(later).state == JobState.queued


async def test_power_offs_of_an_emergency_stop_do_not_wait_for_a_disk_that_hangs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "EMERGENCY_SECONDS", 0.0)
    running = house.controller.create_job(owner="me")
    await house.batches.settle()
    house.log.clear()
    house.ons.clear()
    house.journal.held = True
    house.controller.create_job(owner="me")
    house.batches.flush()
    house.controller.emergency_stop(reason="smoke", by="eve")
    house.batches.flush()
    async with asyncio.timeout(30):
        while not house.log:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert running in {job_id for _, job_id in house.log}
    assert {kind for kind, _ in house.log} == {"switch"}, "nobody is told of what is not stored"
    assert not any(house.ons)
    house.log.clear()
    house.journal.held = False
    house.journal.commit()
    await house.batches.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == [], "it is switched off once"


async def test_once_another_process_has_taken_over_nothing_is_stored_or_done(house: House) -> None:
    assert house.batches.settled()
    house.batches.stop()
    house.controller.create_job(owner="me")
    assert not house.batches.settled()
    house.batches.flush()
    await asyncio.sleep(0)
    assert house.journal.load(max_retired=0).jobs == []
    assert house.log == []
