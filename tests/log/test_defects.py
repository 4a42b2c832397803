"""Defects of the shells: logged now and then, counted always, and contained where they happen."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.controller import Controller
from spalloc_server.core.defects import Defects
from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.frontends.v1.connection import Connection
from spalloc_server.frontends.v1.outgoing import Outgoing
from spalloc_server.hardware.frame import Frame
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.log import defects
from spalloc_server.log.defects import DefectLog
from spalloc_server.process import expiry, journal_maintenance
from spalloc_server.process.job_log import JobLog
from spalloc_server.process.loop_lag import StallDetector
from spalloc_server.storage.sqlite import SqliteJournal
from tests.house import PATIENCE, Client, Place

READY = 3


class Boom(Exception):
    """What no code raises on purpose."""


def boom(*_: Any, **__: Any) -> Any:
    raise Boom


def caught(raise_it: Callable[[], Any]) -> Exception:
    try:
        raise_it()
    except (Boom, OSError) as exc:
        return exc
    raise AssertionError


# -------------------------------------------------------------------- the log of them


def test_a_kind_of_defect_is_logged_once_in_an_interval_and_counted_always() -> None:
    now = [0.0]
    log = DefectLog(clock=lambda: now[0])
    with capture_logs() as lines:
        for _ in range(500):
            log.note("command failed", caught(boom), command="list_jobs")
        log.note("command failed", caught(lambda: Path("/nowhere").stat()), command="list_jobs")
        assert [line["event"] for line in lines] == ["command failed"] * 2
        assert all(line["exc_info"] for line in lines)
        now[0] += defects.LOG_SECONDS
        log.note("command failed", caught(boom), command="list_jobs")
    assert [line.get("unlogged") for line in lines] == [None, None, 499]
    assert log.count == 502
    assert log.last is not None
    assert log.last.startswith("command failed: Boom")


def test_more_kinds_than_are_told_apart_do_not_flood_the_log_either() -> None:
    log = DefectLog(clock=lambda: 0.0)
    with capture_logs() as lines:
        for number in range(3 * defects.MAX_KINDS):
            log.note(f"event {number}", caught(boom))
    assert len(lines) == defects.MAX_KINDS + 1
    assert log.count == 3 * defects.MAX_KINDS


async def test_a_task_that_fails_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "RESTART_SECONDS", 0.0)
    log, begun = DefectLog(), []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 4:
            raise Boom

    with capture_logs() as lines:
        await log.lasting("work", work)
    assert (len(begun), log.count) == (4, 3)
    assert [(line["event"], line["task"]) for line in lines] == [("a task failed: it is begun again", "work")]


async def test_a_task_is_contained_and_one_that_is_cancelled_before_it_began_leaves_nothing_behind() -> None:
    log, loop = DefectLog(), asyncio.get_running_loop()

    async def work() -> None:
        raise Boom

    await log.begin(loop, "work", work())
    assert log.count == 1
    never = work()
    log.begin(loop, "work", never).cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(never) == inspect.CORO_CLOSED
    assert log.count == 1


async def test_what_a_callback_of_the_loop_raises_is_noted_and_anything_else_told_as_before() -> None:
    log, loop = DefectLog(), asyncio.get_running_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    with log.heard_by(loop):
        loop.call_soon(boom)
        await asyncio.sleep(0)
    assert log.count == 1
    loop.call_exception_handler({"message": "afterwards"})
    assert [context["message"] for context in told] == ["afterwards"]


def test_the_defects_of_a_core_are_fetched_and_name_their_job() -> None:
    log, core = DefectLog(), Defects()
    core.note("the end of a job", caught(boom), 7)
    with capture_logs() as lines:
        log.take(core)
        log.take(core)
    assert [(line["event"], line["doing"], line["job"]) for line in lines] == [
        ("a part of the core failed", "the end of a job", 7)
    ]


async def test_five_hundred_lines_that_meet_a_defect_write_one_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.configure()
    with capture_logs() as lines:
        async with place.simulator(), place.serving() as server:
            monkeypatch.setattr(Controller, "list_machines", boom)
            client = await Client.connect(server.address)
            for _ in range(500):
                with pytest.raises(RuntimeError, match="internal error"):
                    await client.call("list_machines")
            await client.close()
            assert server.defects.count == 500
    assert len([line for line in lines if line["event"] == "command failed"]) == 1


# -------------------------------------------------------------------- a server in which something raises

RAISING: list[tuple[Any, str]] = [
    *((Controller, name) for name in ("tick", "switched", "frame_changed", "wake_at")),
    *((Hardware, name) for name in ("switch", "_on_part", "_conclude")),
    *((Frame, name) for name in ("_switch_on", "_switch_off", "_watch", "greet", "_verify")),
    (Subscriptions, "publish"),
    (Connection, "hear"),
    (Outgoing, "notify"),
    (JobLog, "append"),
    (StallDetector, "beat"),
    (journal_maintenance.JournalMaintenance, "look"),
    (expiry.Expiry, "_tick"),
    (SqliteJournal, "prune"),
    (Controller, "machine_views"),
]
"""What a server of several clients calls all the time."""


@pytest.mark.parametrize("seam", RAISING, ids=lambda seam: f"{seam[0].__name__}.{seam[1]}")
async def test_whatever_raises_the_server_lives_and_serves_as_soon_as_it_raises_no_more(
    seam: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defects, "RESTART_SECONDS", 0.02)
    monkeypatch.setattr(expiry, "DEFECT_PAUSE", 0.02)
    monkeypatch.setattr("spalloc_server.process.consequences.SWITCH_AGAIN_SECONDS", 0.02)
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        other = await client.create(1, owner="other")
        await client.until(other, READY)
        raised = asyncio.Event()

        def raising(*_: Any, **__: Any) -> Any:
            raised.set()
            raise Boom

        with monkeypatch.context() as patch:
            patch.setattr(*seam, raising)
            victim = await client.create(2, owner="victim", keepalive=0.1)
            short = await client.create(1, owner="victim", keepalive=0.1)
            for job_id in (victim, short):
                await client.call("power_off_job_boards", job_id)
                await client.call("destroy_job", job_id)
            await asyncio.sleep(0.05)  # in which timers have their turn
        await client.close()
        client = await Client.connect(server.address)
        assert (await client.call("get_job_state", other))["state"] == READY
        assert not raised.is_set() or server.defects.count
        if seam not in STRANDING:
            last = await client.create(1, owner="next")
            async with asyncio.timeout(PATIENCE):
                await client.until(last, READY)
        await client.close()


STRANDING: list[tuple[Any, str]] = [(Controller, "switched"), (Hardware, "_on_part"), (Hardware, "_conclude")]
"""Where an outcome is lost, its boards stay held until a restart drives their power-off anew."""


async def test_a_row_that_cannot_be_stored_costs_its_own_job_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.configure()
    original = SqliteJournal.write

    def write(self: SqliteJournal, changes: Changes, committed: Any) -> None:
        if any(row.owner == "victim" and row.ended_at is None for row in changes.jobs.values()):
            raise StorageError("a value cannot be stored")
        original(self, changes, committed)

    monkeypatch.setattr(SqliteJournal, "write", write)
    async with place.simulator(), place.serving() as server:
        one, two = await Client.connect(server.address), await Client.connect(server.address)
        bad, good = await asyncio.gather(one.create(1, owner="victim"), two.create(1, owner="other"))
        await two.until(good, READY)
        assert "could not store" in (await one.call("get_job_state", bad))["reason"]
        assert server.defects.count
        await one.close()
        await two.close()
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        assert [job["owner"] for job in await client.call("list_jobs")] == ["other"]
        await client.close()
