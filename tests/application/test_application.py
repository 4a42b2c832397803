"""What the application does around commands: the audit's bounds, hardware's bounds, and defects."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import structlog

from spalloc_server.application import audit, commands, performing
from spalloc_server.application.audit import Audit
from spalloc_server.application.commands import SERVER
from spalloc_server.application.performing import MAX_AT_HARDWARE
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Outcome
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import BoardReport
from spalloc_server.errors import BusyError, ForbiddenError, HardwareError, RequestError, StorageError
from spalloc_server.log.logger import COMPLAINTS
from tests.application.house import OPERATOR, PATIENCE, USER, WEB, House

BOARD = {"machine": "m", "x": 1, "y": 1, "z": 2}
TEMPERATURES = commands.Temperatures(machine="m")


@pytest.fixture
async def house() -> House:
    return await House.built()


async def test_the_audit_names_caller_command_and_what_it_was_given(house: House) -> None:
    with structlog.testing.capture_logs() as log:
        house.application.perform(OPERATOR, commands.Kill(job_id=1, reason="night"))
        assert log == [], "its outcome is not known yet"
        await house.rest()
    (line,) = log
    assert line == {
        "event": "command performed",
        "log_level": "info",
        "by": "eve",
        "door": "test",
        "address": None,
        "command": "kill",
        "job_id": 1,
        "reason": "night",
        "jobs_ended": 1,
        "outcome": "stored",
    }


async def test_a_disk_that_hangs_hides_no_command(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LATE_SECONDS", 0.0)
    house.journal.held = True
    with structlog.testing.capture_logs() as log:
        house.application.perform(OPERATOR, commands.EmergencyStop(reason="smoke"))
        async with asyncio.timeout(PATIENCE):
            while not log:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        house.journal.held = False
        house.journal.commit()
        await house.rest()
    assert [line["event"] for line in log] == ["command performed but not stored yet", "command performed"]


async def test_a_stop_of_the_server_leaves_no_command_out_of_the_audit(house: House) -> None:
    house.journal.held = True
    with structlog.testing.capture_logs() as log:
        house.application.perform(OPERATOR, commands.Drain(machine="m", reason="moving"))
        house.commits.stop()
    assert [line["outcome"] for line in log] == ["not stored: the server has ended before it was stored"]


async def test_refusals_do_not_flood_the_log(house: House) -> None:
    now = 0.0
    house.application._audit = Audit(house.commits, clock=lambda: now)
    with structlog.testing.capture_logs() as log:
        for _ in range(100):
            with pytest.raises(ForbiddenError):
                house.application.perform(USER, commands.Resume())
        now = 1.0
        with pytest.raises(RequestError, match="no live job 77"):
            house.application.perform(OPERATOR, commands.Kill(job_id=77, reason="x"))
    assert len(log) == COMPLAINTS + 2
    assert (log[-2]["more"], log[-1]["outcome"]) == (80, "refused: there is no live job 77")


async def test_users_commands_are_not_audited_unless_they_were_forbidden(house: House) -> None:
    with structlog.testing.capture_logs() as log:
        house.application.perform(USER, commands.CreateJob(request=Request(owner="ann", boards=1)))
        with pytest.raises(RequestError):
            house.application.perform(USER, commands.CreateJob(request=Request(owner="ann", boards=1, board=(0, 0, 0))))
        await house.rest()
        assert log == []
        with pytest.raises(ForbiddenError):
            house.application.perform(USER, commands.CreateJob(request=Request(owner="bob")))
    (line,) = log
    assert line["event"] == "command not performed"
    assert line["command"] == "create job"


async def test_what_a_defect_has_changed_is_stored_and_audited(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*_: object, **__: object) -> None:
        house.core.destroy_job(1)
        raise RuntimeError("half way")

    monkeypatch.setattr(house.core, "kill", half)
    with structlog.testing.capture_logs() as log, pytest.raises(RuntimeError, match="half way"):
        house.application.perform(OPERATOR, commands.Kill(job_id=1, reason="x"))
    assert log[0]["outcome"] == "failed: a defect: RuntimeError('half way')"
    async with asyncio.timeout(PATIENCE):
        while not house.commits.settled():  # noqa: ASYNC110 - it tells nobody; no other command has it stored
            await asyncio.sleep(0)
    assert house.journal.load(max_retired=9).jobs[0].ended_at is not None


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request(owner="ann", boards=5), ([5], None)),
        (Request(owner="ann", triads=(2, 1), machine="m"), ([2, 1], "m")),
        (Request(owner="ann", board=(0, 0, 1), tags=frozenset({"other"})), ([0, 0, 1], None)),
        (Request(owner="ann", boards=2, min_ratio=0.5, max_dead_boards=1, max_runtime=9.0), ([2], None)),
    ],
)
async def test_a_job_is_created_with_all_that_its_request_says(
    house: House, request_: Request, told: tuple[list[int], str | None]
) -> None:
    answer = house.application.perform(USER, commands.CreateJob(request=request_, keepalive=None))
    job = house.core.state.jobs[answer.value]
    assert (job.request, job.keepalive) == (request_, None)
    view = house.core.job_view(answer.value)
    assert (view.args, view.kwargs.get("machine")) == told


@pytest.mark.parametrize("sizes", [{}, {"boards": 1, "triads": (1, 1)}, {"triads": (1, 1), "board": (0, 0, 0)}])
async def test_a_request_asks_for_one_kind_of_size(house: House, sizes: dict[str, object]) -> None:
    request = Request(owner="ann", **sizes)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="ask for either boards"):
        house.application.perform(USER, commands.CreateJob(request=request))


async def test_a_change_of_read_only_is_news_of_the_server(house: House) -> None:
    since = house.subscriptions.revision(SERVER)
    house.application.refuse_changes("full")
    assert house.subscriptions.revision(SERVER) != since
    assert house.application.read_only == "full"


# -------------------------------------------------------------------- hardware


async def test_only_so_many_wait_for_hardware_and_a_power_cycle_does_not_begin_then(house: House) -> None:
    house.flash.going.clear()
    application = house.application
    waiting = [asyncio.create_task(application.ask(OPERATOR, TEMPERATURES)) for _ in range(MAX_AT_HARDWARE)]
    await asyncio.sleep(0)
    before = house.seen()
    for command in (TEMPERATURES, commands.PowerCycle(**BOARD)):  # type: ignore[arg-type]
        with pytest.raises(BusyError, match="32 commands wait for hardware already"):
            await application.ask(OPERATOR, command)
    assert house.seen() == before
    house.flash.going.set()
    await asyncio.gather(*waiting)
    assert application.at_hardware.waiting == 0


async def test_a_blacklist_is_written_to_its_end_though_who_asked_has_gone(house: House) -> None:
    house.flash.going.clear()
    command = commands.SetBlacklist(**BOARD, lines=["chip 0 0 dead"])  # type: ignore[arg-type]
    asking = asyncio.create_task(house.application.ask(OPERATOR, command))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert house.application.at_hardware._writing
    house.flash.going.set()
    async with asyncio.timeout(PATIENCE):
        while house.application.at_hardware.writing:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert house.flash.lines == ["chip 0 0 dead"]


async def test_the_blacklist_of_a_job_is_not_written(house: House) -> None:
    (board,) = house.core.job_view(1).boards
    where = dict(zip("xyz", board, strict=True))
    with pytest.raises(RequestError, match="job 1 has board"):
        await house.application.ask(OPERATOR, commands.SetBlacklist(machine="m", **where, lines=[]))


async def test_a_power_cycle_waits_for_its_end_with_a_deadline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    switched: list[int] = []
    monkeypatch.setattr(house.core, "switched", lambda outcome: switched.append(outcome.operation))
    command = commands.PowerCycle(**BOARD)  # type: ignore[arg-type]
    asking = asyncio.create_task(house.application.ask(OPERATOR, command))
    async with asyncio.timeout(PATIENCE):
        while not switched:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert not asking.done()
    monkeypatch.undo()
    house.core.switched(Outcome(switched[0]))
    house.commits.hold()
    assert (await asking).value.last_trial == "passed"
    await house.rest()
    monkeypatch.setattr(house.core, "switched", lambda outcome: None)
    monkeypatch.setattr(performing, "POWER_CYCLE_SECONDS", 0.0)
    with pytest.raises(HardwareError, match="is still being tried; look again later"):
        await house.application.ask(OPERATOR, command)


async def test_a_machine_that_goes_cuts_a_power_cycle_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.core, "switched", lambda outcome: None)
    command = commands.PowerCycle(**BOARD)  # type: ignore[arg-type]
    asking = asyncio.create_task(house.application.ask(OPERATOR, command))
    await asyncio.sleep(0)
    await house.rest()
    house.core.machines = {}
    house.commits.hold()
    with pytest.raises(RequestError, match="the power cycle was cut off: there is no machine 'm'"):
        await asking


async def test_a_power_cycle_that_is_not_stored_is_reported_and_audited_once(house: House) -> None:
    house.journal.failure = StorageError("the disk is full")
    with structlog.testing.capture_logs() as log, pytest.raises(StorageError, match="the disk is full"):
        await house.application.ask(OPERATOR, commands.PowerCycle(**BOARD))  # type: ignore[arg-type]
    assert [line["event"] for line in log] == ["command performed but not stored"]


async def test_what_needs_no_hardware_is_not_asked_of_it(house: House) -> None:
    with pytest.raises(TypeError, match="Drain is not for hardware"):
        await house.application.ask(OPERATOR, commands.Drain(machine="m", reason="x"))


async def test_without_a_server_around_it_the_status_tells_what_is_known(house: House) -> None:
    view = house.application.perform(OPERATOR, commands.Status()).value
    assert (view.config, view.address, view.refusal) == (".", ("", 0), None)


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        (commands.EmergencyStop(reason="smoke"), 1),
        (commands.Kill(job_id=1, reason="night"), 1),
        (commands.Drain(machine="m", reason="moving"), 0),
    ],
)
async def test_the_audit_tells_how_many_jobs_a_command_has_ended(
    house: House, command: commands.Command, ended: int
) -> None:
    with structlog.testing.capture_logs() as log:
        house.application.perform(OPERATOR, command)
        await house.rest()
    assert [line["jobs_ended"] for line in log if line["event"] == "command performed"] == [ended]


@pytest.mark.parametrize(
    ("web", "code"),
    [
        (None, ""),
        (Web(), ""),
        (Web(), "c0de"),
        (Web(emergency_code="c0de"), ""),
        (Web(emergency_code="c0de"), "c0d\u00e9"),
    ],
)
async def test_only_the_code_of_the_configuration_stops_everything(web: Web | None, code: str) -> None:
    house = House()
    house.application.configure(Configuration(web=web))
    with structlog.testing.capture_logs() as log, pytest.raises(ForbiddenError, match="not the code"):
        house.application.perform(WEB, commands.StopByCode(code=code, reason="smoke"))
    assert house.core.stopped is None
    assert not any(code and code in str(line) for line in log)


@pytest.mark.parametrize(
    "what",
    [
        {"failures": [(0.0, "no FPGA")]},
        {"strikes": 1},
        {"out_of_service": "dead"},
        {"reports": [BoardReport(0.0, "ann", "10.0.0.1", "dead")]},
    ],
)
async def test_a_board_is_bad_by_any_one_thing_that_speaks_against_it(
    what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await House.built()
    good = house.core.board_views("m")[0]
    bad = msgspec.structs.replace(good, **what)
    views = [good, bad, msgspec.structs.replace(bad, state="dead")]
    monkeypatch.setattr(house.core, "board_views", lambda _: views)
    assert house.application.perform(OPERATOR, commands.Boards(machine="m", bad=True)).value == [bad]
