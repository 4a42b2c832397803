"""Every command by every door: answer, effect and audit, for all callers and while the disk works, refuses or fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, get_args

import msgspec
import pytest
import structlog

from spalloc_server.application import commands, job_commands, own_job_commands
from spalloc_server.application.caller import ROLES, Caller, Permission
from spalloc_server.application.commands import AnyCommand, Command, Kind
from spalloc_server.config.definitions import read_definitions
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model.request import Request as JobRequest
from spalloc_server.errors import SpallocServerError, StorageError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.frontends.operators.service import Operators
from spalloc_server.frontends.v1.commands import decode
from spalloc_server.frontends.v1.door import Door as V1Door, Request
from spalloc_server.log.defects import DefectLog
from tests.application.house import NOBODY, OPERATOR, READER, SECRET, SESSION, TOKEN, USER, WEB, House
from tests.frontends.operators.speaking import HELLO, Operator

FULL = "the disk is full"
A_BOARD: dict[str, Any] = {"machine": "m", "x": 1, "y": 1, "z": 2}
CLOSED: dict[str, Any] = {"machine": "n", "x": 0, "y": 0, "z": 0}
FRAME: dict[str, Any] = {"machine": "m", "cabinet": 0, "frame": 0}
DESK = (Path(__file__).parents[1] / "data" / "definitions" / "single-board-example.json").read_text()
DESK = DESK.replace("my-board", "desk")
BOB = {"account": "bob", "role": "user", "stamp": None}
SERVICE = [("m", True), ("n", False)]
EVERY_COMMAND = list(get_args(AnyCommand))


@dataclass(frozen=True)
class Example:
    """A command, and what is to come of it where nothing speaks against it."""

    command: Command
    right: Callable[[Any], bool]
    """Whether an answer, as JSON has it, is the right one."""
    changes: tuple[str, ...] = ()
    """What of `House.seen` changes."""
    before: Callable[[House], object] = lambda _: None


def _null(answer: Any) -> bool:
    return answer is None


def a_waiting_job(house: House) -> int:
    """It is number 2, and can never start; its run time is bounded."""
    return house.core.create_job(3, owner="ann", keepalive=None, machine="n", max_runtime=60.0)


EXAMPLES = [
    Example(commands.CreateJob(request=JobRequest(owner="ann", boards=3)), lambda it: it == 2, ("jobs", "boards")),
    Example(commands.KeepAlive(job_id=1), _null),
    Example(commands.GetJobState(job_id=1), lambda it: it["state"] == 3),
    Example(commands.GetJobMachineInfo(job_id=1), lambda it: it["machine_name"] == "m"),
    Example(commands.PowerOnJob(job_id=1), _null, ("jobs",), lambda house: house.core.power_off_job_boards(1)),
    Example(commands.PowerOffJob(job_id=1), _null, ("jobs",)),
    Example(commands.DestroyJob(job_id=1, reason="done"), _null, ("jobs", "boards")),
    Example(commands.ListJobs(), lambda it: [job["owner"] for job in it] == ["ann"]),
    Example(commands.JobRevisions(), lambda it: [job_id for job_id, _ in it] == [1]),
    Example(commands.DescribeJob(job_id=1), lambda it: it["owner"] == "ann"),
    Example(commands.ListMachines(), lambda it: [machine["name"] for machine in it] == ["m", "n"]),
    Example(commands.BoardPosition(**A_BOARD), lambda it: it == [0, 0, 11]),
    Example(commands.BoardAtPosition(**FRAME, board=11), lambda it: it == [1, 1, 2]),
    Example(commands.WhereIs(place={"machine": "m", "x": 1, "y": 1, "z": 2}), lambda it: it["physical"] == [0, 0, 11]),
    Example(commands.ReportProblem(board_address="spinn-m-1-1-2", description="dead"), _null, ("boards",)),
    Example(commands.Status(), lambda it: it["jobs"] == {"ready": 1}),
    Example(commands.Figures(), lambda it: it["jobs"] == {"ready": 1}),
    Example(commands.Machines(), lambda it: [machine["name"] for machine in it] == ["m", "n"]),
    Example(commands.Boards(bad=True), lambda it: {board["machine"] for board in it} == {"n"}),
    Example(commands.Jobs(), lambda it: [job["owner"] for job in it] == ["ann"]),
    Example(commands.ShowJob(job_id=1), lambda it: it["owner"] == "ann"),
    Example(commands.Kill(job_id=1, reason="night"), _null, ("jobs", "boards")),
    Example(job_commands.KillJobs(job_ids=[1, 1], reason="night"), lambda it: it == [1], ("jobs", "boards")),
    Example(job_commands.HoldJobs(job_ids=[2], reason="night"), lambda it: it == [2], ("held",), a_waiting_job),
    Example(
        job_commands.ReleaseJobs(job_ids=[2]),
        lambda it: it == [2],
        ("held",),
        lambda house: house.core.hold_jobs([a_waiting_job(house)], reason="night", by="eve"),
    ),
    Example(job_commands.ExtendJobs(job_ids=[2], seconds=60.0), lambda it: it == [2], ("requests",), a_waiting_job),
    Example(job_commands.SetPriority(job_ids=[2], priority=-1), lambda it: it == [2], ("requests",), a_waiting_job),
    Example(
        commands.DisableBoard(**A_BOARD, reason="smells"), lambda it: it["out_of_service"] == "smells", ("boards",)
    ),
    Example(
        commands.EnableBoard(**CLOSED),
        lambda it: it["out_of_service"] is None,
        ("boards",),
        lambda house: house.core.enable_frame("n", (0, 0)),
    ),
    Example(
        commands.DisableFrame(**FRAME, reason="fans"),
        lambda it: {board["out_of_service"] for board in it} == {"fans"},
        ("boards",),
    ),
    Example(commands.EnableFrame(machine="n", cabinet=0, frame=0), lambda it: len(it) == 3, ("boards",)),
    Example(commands.Drain(machine="m", reason="moving"), _null, ("drained",)),
    Example(commands.Undrain(machine="n"), lambda it: it["by"] == "eve", ("drained",)),
    Example(
        commands.ImportMachines(definitions=DESK),
        lambda it: [machine["name"] for machine in it] == ["desk"],
        ("boards",),
    ),
    Example(
        commands.RemoveMachine(machine="desk"),
        _null,
        ("boards",),
        lambda house: house.core.import_machines(read_definitions(DESK).machines),
    ),
    Example(commands.EmergencyStop(reason="smoke"), _null, ("jobs", "boards", "stopped")),
    Example(
        commands.StopByCode(code="c0de", reason="smoke"),
        _null,
        ("jobs", "boards", "stopped"),
        lambda house: house.application.configure(Configuration(web=Web(emergency_code="c0de"))),
    ),
    Example(
        commands.Resume(),
        lambda it: it["reason"] == "smoke",
        ("stopped",),
        lambda house: house.core.emergency_stop(reason="smoke", by="somebody"),
    ),
    Example(commands.PowerCycle(**A_BOARD), lambda it: it["last_trial"] == "passed", ("boards",)),
    Example(
        commands.Temperatures(machine="m", cabinet=0, frame=0),
        lambda it: len(it) == 12 and {board["top"] for board in it} == {30.0},
    ),
    Example(commands.Blacklist(**A_BOARD), lambda it: it == ["chip 1 2 dead"]),
    Example(commands.SetBlacklist(**A_BOARD, lines=["chip 0 0 link 1"]), lambda it: len(it) == 1, ("flash",)),
    Example(
        own_job_commands.OwnJobDetails(job_id=1), lambda it: (it["owner"], it["state"], it["power"]) == ("ann", 3, True)
    ),
    Example(own_job_commands.OwnJobMachine(job_id=1), lambda it: it["connections"] == [[[0, 0], "spinn-m-0-0-0"]]),
    Example(own_job_commands.JobNumbers(), lambda it: it == [1]),
    Example(
        own_job_commands.MachineDetailsOf(), lambda it: [(each["name"], each["in_service"]) for each in it] == SERVICE
    ),
    Example(
        own_job_commands.BoardOfJob(job_id=1, chip=[1, 2]),
        lambda it: (it["board"], it["job_chip"]) == ([0, 0, 0], [1, 2]),
    ),
    Example(own_job_commands.FindBoard(machine="m", board=[1, 1, 2]), lambda it: it["address"] == "spinn-m-1-1-2"),
    Example(
        own_job_commands.ReportIssue(job_id=1, boards=["spinn-m-0-0-0"], issue="dead"), lambda it: it == 0, ("boards",)
    ),
    Example(
        commands.TellWebSettings(),
        lambda it: it["web"]["port"] == 8080,
        before=lambda house: house.application.configure(Configuration(web=Web())),
    ),
    Example(
        commands.LogIn(name="bob", password="secret"),
        lambda it: it == {**BOB, "session": "s" + 16 * "04", "token": None},
        ("sessions",),
    ),
    Example(
        commands.LogInWithToken(secret=SECRET),
        lambda it: it == {**BOB, "session": "s" + 16 * "04", "token": TOKEN},
        ("sessions",),
    ),
    Example(commands.LogOut(session=SESSION), _null, ("sessions",)),
    Example(
        commands.CheckPassword(name="bob", password="secret"),
        lambda it: it == {**BOB, "session": None, "token": None, "stamp": it["stamp"]} and len(it["stamp"]) == 16,
    ),
    Example(commands.CheckSession(session=SESSION), lambda it: it == {**BOB, "session": SESSION, "token": None}),
    Example(commands.CheckToken(secret=SECRET), lambda it: it == {**BOB, "session": None, "token": TOKEN}),
    Example(commands.SigningKeys(), lambda it: [len(key["secret"]) for key in it] == [64], ("keys",)),
    Example(commands.ListAccounts(), lambda it: [account["name"] for account in it] == ["bob"]),
    Example(commands.ShowAccount(name="bob"), lambda it: (it["role"], it["has_password"]) == ("user", True)),
    Example(
        commands.CreateAccount(name="eva", role="reader", password="x"), lambda it: it["number"] == 2, ("accounts",)
    ),
    Example(commands.ChangeAccount(name="bob", role="admin"), lambda it: it["role"] == "admin", ("accounts",)),
    Example(commands.DeleteAccount(name="bob"), _null, ("accounts", "sessions", "tokens")),
    Example(commands.CreateToken(name="bob", role="reader"), lambda it: it["view"]["role"] == "reader", ("tokens",)),
    Example(commands.ListTokens(), lambda it: [token["id"] for token in it] == [TOKEN]),
    Example(commands.RevokeToken(id=TOKEN), lambda it: it["account"] == "bob", ("tokens",)),
]
BY_NAME = {type(example.command).__name__: example for example in EXAMPLES}

Ask: TypeAlias = Callable[[Caller, Command], Awaitable[Any]]
"""Asks by a door, and waits for the commit; raises what the caller is told."""


class RefusedError(Exception):
    """What a door says instead of an answer."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@asynccontextmanager
async def application_door(house: House) -> AsyncIterator[Ask]:
    """No door at all: what all of them call."""

    async def ask(caller: Caller, command: Command) -> Any:
        try:
            perform = house.application.ask if command.waits else None
            answer = await perform(caller, command) if perform else house.application.perform(caller, command)
            await house.commits.durable(answer.commit)
        except SpallocServerError as exc:
            raise RefusedError(exc.code, str(exc)) from exc
        return msgspec.json.decode(msgspec.json.encode(answer.value))

    yield ask


@asynccontextmanager
async def socket_door(house: House) -> AsyncIterator[Ask]:
    """The local API socket, where a program asks for the caller."""
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        async with Operators(house.application, state=state, complain=lambda *_, **__: None):
            operator = await Operator.at(socket_path(state))
            front = await Operator.at(socket_path(state), HELLO.replace(b'"test"', b'"spalloc_web"'))

            async def ask(caller: Caller, command: Command) -> Any:
                roles = [role for role, permitted in ROLES.items() if permitted == caller.permissions][:1]
                names = {"name": caller.name, "address": caller.address, "verified": caller.verified}
                if caller is WEB:
                    reply = await front.say(msgspec.to_builtins(command))
                else:
                    reply = await operator.say(msgspec.to_builtins(command), **{"for": {**names, "roles": roles}})
                if "error" in reply:
                    raise RefusedError(reply["error"]["code"], reply["error"]["text"])
                return reply["return"]

            yield ask
            operator.close()
            front.close()


IN_WORDS_OF_V1: dict[type[Command], dict[str, Any]] = {
    commands.CreateJob: {"command": "create_job", "args": [3], "kwargs": {"owner": "ann"}},
    commands.KeepAlive: {"command": "job_keepalive", "args": [1]},
    commands.GetJobState: {"command": "get_job_state", "args": [1]},
    commands.GetJobMachineInfo: {"command": "get_job_machine_info", "args": [1]},
    commands.PowerOnJob: {"command": "power_on_job_boards", "args": [1]},
    commands.PowerOffJob: {"command": "power_off_job_boards", "args": [1]},
    commands.DestroyJob: {"command": "destroy_job", "args": [1, "done"]},
    commands.ListJobs: {"command": "list_jobs"},
    commands.ListMachines: {"command": "list_machines"},
    commands.BoardPosition: {"command": "get_board_position", "args": ["m", 1, 1, 2]},
    commands.BoardAtPosition: {"command": "get_board_at_position", "args": ["m", 0, 0, 11]},
    commands.WhereIs: {"command": "where_is", "kwargs": {"machine": "m", "x": 1, "y": 1, "z": 2}},
    commands.ReportProblem: {"command": "report_problem", "args": ["spinn-m-1-1-2", None, None, None, "dead"]},
}
"""The examples that v1's protocol has words for."""


class V1Client:
    """Who asks, as the v1 door knows it; what changes, it is told in vain."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def hear(self, kind: Kind, names: Collection[Any]) -> None:
        pass


@asynccontextmanager
async def v1_door(house: House) -> AsyncIterator[Ask]:
    """The v1 protocol, whose refusals have a text and no code."""
    door = V1Door(house.application, most_watched=1, defects=DefectLog())

    async def ask(caller: Caller, command: Command) -> Any:
        line = msgspec.json.encode(IN_WORDS_OF_V1[type(command)])
        answer, commit = door.answer(V1Client(caller), Request(decode(line)))
        try:
            await house.commits.durable(commit)
        except StorageError as exc:
            raise RefusedError(exc.code, str(exc)) from exc
        reply = msgspec.json.decode(answer)
        if "exception" in reply:
            raise RefusedError("", reply["exception"])
        return reply["return"]

    yield ask


DOORS = {"application": application_door, "socket": socket_door, "v1": v1_door}

every_command_by_every_door = pytest.mark.parametrize(
    ("door", "example"),
    [
        pytest.param(door, example, id=f"{name}-{kind}")
        for name, door in DOORS.items()
        for kind, example in BY_NAME.items()
        if name != "v1" or type(example.command) in IN_WORDS_OF_V1
    ],
)
Door: TypeAlias = Callable[[House], Any]


def audit(log: list[Any]) -> list[tuple[str, str]]:
    """(event, outcome) of the lines of the audit, which all tell who it was."""
    lines = [line for line in log if line["event"].startswith("command")]
    assert all({"by", "door", "address", "command"} <= line.keys() for line in lines)
    return [(line["event"], line["outcome"]) for line in lines]


def who_may(command: Command) -> Caller:
    return WEB if command.permission is Permission.AUTHENTICATE else OPERATOR


async def prepared(example: Example) -> tuple[House, dict[str, Any]]:
    house = await House.built()
    example.before(house)
    house.commits.hold()
    await house.rest()
    return house, house.seen()


def changed(before: dict[str, Any], house: House) -> set[str]:
    return {name for name, value in house.seen().items() if value != before[name]}


def test_every_command_has_an_example_and_says_what_it_must() -> None:
    assert [type(example.command) for example in EXAMPLES] == EVERY_COMMAND
    for kind in EVERY_COMMAND:
        operators = kind.permission in {Permission.OPERATE, Permission.STOP} or kind is commands.StopByCode
        assert kind.audited == (operators and (kind.changes or kind.waits)), kind
        assert not (kind.even_if_read_only and not kind.changes)


@every_command_by_every_door
async def test_what_is_permitted_is_done_and_answered_once_it_is_stored(door: Door, example: Example) -> None:
    house, before = await prepared(example)
    async with door(house) as ask:
        with structlog.testing.capture_logs() as log:
            assert example.right(await ask(who_may(example.command), example.command))
    await house.rest()
    assert changed(before, house) == set(example.changes)
    outcome = "stored" if example.command.changes else "done"
    assert audit(log) == ([("command performed", outcome)] if example.command.audited else [])


@every_command_by_every_door
async def test_what_is_not_permitted_leaves_no_trace_but_in_the_audit(door: Door, example: Example) -> None:
    house, before = await prepared(example)
    caller = {Permission.LOOK: NOBODY, Permission.USE: READER}.get(example.command.permission, USER)
    async with door(house) as ask:
        with structlog.testing.capture_logs() as log, pytest.raises(RefusedError, match="may not do this") as refused:
            await ask(caller, example.command)
    assert refused.value.code == ("" if door is v1_door else "forbidden")
    await house.rest()
    assert not changed(before, house)
    ((event, outcome),) = audit(log)
    assert event == "command not performed"
    assert outcome == f"refused: {refused.value}"


@every_command_by_every_door
async def test_while_nothing_can_be_stored_only_what_makes_things_safe_is_changed(door: Door, example: Example) -> None:
    house, before = await prepared(example)
    house.application.refuse_changes(FULL)
    command = example.command
    async with door(house) as ask:
        with structlog.testing.capture_logs() as log:
            if not command.changes or command.even_if_read_only:
                assert example.right(await ask(who_may(command), command))
                assert changed(before, house) == set(example.changes)
                assert len(audit(log)) == command.audited
                return
            with pytest.raises(RefusedError, match=FULL) as refused:
                await ask(who_may(command), command)
    assert refused.value.code == ("" if door is v1_door else "read-only")
    await house.rest()
    assert not changed(before, house)
    assert audit(log) == ([("command not performed", f"refused: {FULL}")] if command.audited else [])


def test_what_is_changed_although_nothing_can_be_stored_is_this() -> None:
    names = {kind.__name__ for kind in EVERY_COMMAND if kind.even_if_read_only}
    assert names == {"EmergencyStop", "StopByCode", "DisableBoard", "DisableFrame", "Drain"} | {
        *("LogOut", "RevokeToken", "SigningKeys"),
    }


@every_command_by_every_door
async def test_caller_and_audit_are_told_of_a_commit_that_fails(door: Door, example: Example) -> None:
    house, before = await prepared(example)
    house.journal.failure = StorageError(FULL)
    async with door(house) as ask:
        with structlog.testing.capture_logs() as log:
            if not example.command.changes:
                assert example.right(await ask(who_may(example.command), example.command))
                assert len(audit(log)) == example.command.audited
                return
            with pytest.raises(RefusedError, match=FULL) as refused:
                await ask(who_may(example.command), example.command)
    assert refused.value.code == "not-stored"
    if isinstance(example.command, commands.CreateJob):
        assert set(house.seen()["jobs"]) == {1}, "a job that nobody knows of must not live"
    elif not isinstance(example.command, commands.PowerCycle):
        assert changed(before, house) & set(example.changes)
    if example.command.audited:
        assert audit(log) == [("command performed but not stored", f"not stored: {FULL}")]
