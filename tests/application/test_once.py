"""Commands that come with an id are done once, whatever happens between what they do and the answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from spalloc_server.application import commands, once
from spalloc_server.application.account_commands import CreateToken
from spalloc_server.application.api import Application
from spalloc_server.application.caller import ROLES, Caller
from spalloc_server.application.commands import CreateJob
from spalloc_server.application.commits import Commits
from spalloc_server.application.once import Once
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.controller import Controller
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Snapshot, UnreadableRow
from spalloc_server.errors import RequestError, StorageError
from spalloc_server.hardware.switchboard import Hardware
from tests.application.house import OPERATOR, USER, House

ID = "0123456789abcdef"
CREATE = CreateJob(request=Request(owner="ann", boards=1))


@pytest.fixture
async def house() -> House:
    return await House.built()


async def done(house: House, caller: Caller, command: commands.Command, name: str = ID) -> Any:
    """What a command is answered, once that is stored."""
    answer = house.application.perform(caller, command, name)
    await house.commits.durable(answer.commit)
    return answer.value


def jobs(house: House) -> list[int]:
    return [view.job_id for view in house.core.job_views()]


async def restarted(house: House, stored: Snapshot | None = None) -> House:
    """The same house after a crash: what is stored is all that there is."""
    after = House.__new__(House)
    after.core, after.journal, after.flash = Controller(), house.journal, house.flash
    after.core.restore(stored or house.journal.load(max_retired=100))
    after.subscriptions = Subscriptions()
    after.commits = Commits(after.core, after.journal, act=after._act)
    after.application = Application(after.core, cast("Hardware", after.flash), after.commits, after.subscriptions)
    return after


async def test_a_command_that_is_sent_again_is_answered_alike_and_not_done_again(house: House) -> None:
    first = await done(house, USER, CREATE)
    assert await done(house, USER, CREATE) == first
    assert jobs(house) == [1, first]
    assert await done(house, USER, CREATE, ID[::-1]) == first + 1
    assert house.application.perform(USER, CREATE).value == first + 2, "without an id it is done"


async def test_so_it_is_after_a_crash_once_it_was_stored(house: House) -> None:
    first = await done(house, USER, CREATE)
    after = await restarted(house)
    assert await done(after, USER, CREATE) == first
    assert await done(await restarted(after), USER, CREATE) == first
    assert jobs(after) == [1, first]


async def test_answer_and_effect_are_stored_together_or_not_at_all(house: House) -> None:
    house.journal.held = True
    number = house.application.perform(USER, CREATE, ID).value
    await asyncio.sleep(0)
    assert not house.journal.load(max_retired=0).results
    house.journal.commit()
    stored = house.journal.load(max_retired=0)
    assert [row.answer for row in stored.results] == [str(number)]
    assert number in [row.job_id for row in stored.jobs]


async def test_before_it_is_stored_it_is_answered_when_the_first_one_is(house: House) -> None:
    house.journal.held = True
    first, second = (house.application.perform(USER, CREATE, ID) for _ in range(2))
    assert first == second
    assert first.commit is not None
    house.journal.commit()


async def test_what_could_not_be_stored_is_done_anew(house: House) -> None:
    house.journal.failure = StorageError("the disk is full")
    answers = [house.application.perform(USER, CREATE, ID) for _ in range(2)]
    for answer in answers:
        with pytest.raises(StorageError, match="full"):
            await house.commits.durable(answer.commit)
    house.journal.failure = None
    await house.rest()
    assert await done(house, USER, CREATE) == answers[0].value + 1
    assert jobs(house) == [1, answers[0].value + 1]
    stored = house.journal.load(max_retired=0)
    assert [row.answer for row in stored.results] == [str(answers[0].value + 1)]


async def test_another_command_under_the_same_id_is_refused(house: House) -> None:
    await done(house, USER, CREATE)
    other = CreateJob(request=Request(owner="ann", boards=2))
    with pytest.raises(RequestError, match="another command was sent under this id"):
        await done(house, USER, other)
    with pytest.raises(RequestError, match="another command was sent under this id"):
        await done(await restarted(house), USER, other)
    assert len(jobs(house)) == 2


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(USER, name="bob"),
        msgspec.structs.replace(USER, door="other"),
        Caller(door="test", name="ann", permissions=ROLES["user"]),
    ],
    ids=["name", "door", "unverified"],
)
async def test_an_id_is_its_callers_own(house: House, other: Caller) -> None:
    number = await done(house, USER, CREATE)
    command = CreateJob(request=Request(owner=other.name or "", boards=1))
    assert await done(house, other, command) == number + 1
    assert await done(house, other, command) == number + 1


async def test_callers_without_a_checked_name_are_told_apart_by_their_addresses(house: House) -> None:
    callers = [Caller(door="test", address=f"127.0.0.{last}", permissions=ROLES["user"]) for last in (1, 2, 1)]
    assert [await done(house, caller, CREATE) for caller in callers] == [2, 3, 2]


async def test_a_refused_command_is_judged_anew(house: House) -> None:
    house.application.refuse_changes("the disk is full")
    with pytest.raises(RequestError, match="full"):
        await done(house, USER, CREATE)
    house.application.refuse_changes(None)
    number = await done(house, USER, CREATE)
    house.application.refuse_changes("the disk is full")
    assert await done(house, USER, CREATE) == number, "that it was done must be told all the same"


async def test_what_may_be_repeated_changes_nothing_or_is_secret_is_not_remembered(house: House) -> None:
    for command in (
        commands.ListJobs(),
        commands.DestroyJob(job_id=1),
        commands.PowerCycle(machine="m", x=1, y=1, z=2),
        CreateToken(name="ann"),
    ):
        assert house.application._once.asked(OPERATOR, command, ID) is None, command
    assert await done(house, USER, commands.DestroyJob(job_id=1)) is None
    assert not house.core.state.results


async def test_a_command_that_changed_nothing_is_not_done_later(house: House) -> None:
    number = await done(house, USER, CreateJob(request=Request(owner="ann", machine="n", boards=1)))
    assert await done(house, USER, commands.PowerOnJob(job_id=number), ID[::-1]) is None
    assert len(house.journal.load(max_retired=0).results) == 2


def hashed(command: commands.Command) -> str:
    asked = Once.asked(cast("Once", None), USER, command, ID)
    assert asked is not None
    return asked.command


def test_a_later_version_with_more_fields_sees_the_same_command() -> None:
    class Later(CreateJob, frozen=True, tag="create job"):
        colour: str = "red"

    assert hashed(Later(request=CREATE.request)) == hashed(CREATE)
    assert hashed(Later(request=CREATE.request, colour="blue")) != hashed(CREATE)
    assert hashed(CreateJob(request=CREATE.request, keepalive=None)) != hashed(CREATE)


async def test_neither_ids_nor_commands_can_be_read_from_the_state(house: House) -> None:
    asked = [house.application._once.asked(USER, CREATE, name) for name in (ID, ID[::-1])]
    assert asked[0] is not None
    assert asked[1] is not None
    assert asked[0].command != asked[1].command, "who guesses a command cannot try the guess without the id"
    await done(house, USER, CREATE)
    (row,) = house.core.state.results.values()
    assert ID not in msgspec.json.encode(row).decode()


async def test_rows_expire_and_are_bounded_the_oldest_first(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    remembered = house.application._once = Once(house.core, house.commits, house.commits.hold, clock=lambda: now)
    monkeypatch.setattr(once, "MAX_RESULTS", 5)
    for number in range(8):
        await done(house, USER, CREATE, f"{ID}-{number}")
    await house.rest()
    assert len(remembered) == len(house.core.state.results) == len(house.journal.load(max_retired=0).results) == 5
    assert await done(house, USER, CREATE, f"{ID}-7") == 9
    assert await done(house, USER, CREATE, f"{ID}-0") == 10, "which was forgotten"
    now = once.LIFE_SECONDS - 1
    await done(house, USER, CREATE, f"{ID}-new")
    now += 2
    remembered.expire()
    await house.rest()
    assert len(remembered) == len(house.core.state.results) == len(house.journal.load(max_retired=0).results) == 1
    now *= 3
    remembered.expire()
    await house.rest()
    assert not house.journal.load(max_retired=0).results
    assert not remembered._bytes


async def test_rows_expire_by_themselves_some_at_a_time_with_pauses(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "LIFE_SECONDS", 0.0)
    monkeypatch.setattr(once, "EXPIRED_AT_ONCE", 1)
    remembered, stored = house.application._once, house.journal
    for number in range(3):
        house.application.perform(USER, CREATE, f"{ID}-{number}")
    for left in (2, 1):
        assert remembered._timer is not None, "or they would never expire"
        remembered.expire()
        assert len(remembered) == left
        assert remembered._timer.when() > asyncio.get_running_loop().time() + 0.05, "other work has its turn"
    remembered.expire()
    await house.rest()
    assert not stored.load(max_retired=0).results


async def test_long_answers_are_bounded_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "MAX_BYTES", 300)
    remembered = house.application._once
    for number in range(10):
        enable = commands.EnableBoard(machine="m", x=0, y=0, z=number % 3)
        await done(house, OPERATOR, enable, f"{ID}-{number}")
    assert 0 < len(remembered) < 4


async def test_a_row_that_makes_no_sense_costs_only_itself(house: House) -> None:
    await done(house, USER, CREATE)
    (row,) = house.core.state.results.values()
    snapshot = house.journal.load(max_retired=100)
    snapshot.results = [msgspec.structs.replace(row, answer="{")]
    bad = UnreadableRow(table="results", key=(7,), reason="no text", row={"id": 1})
    snapshot.unreadable.append(bad)
    after = await restarted(house, snapshot)
    assert [(view.table, view.key) for view in after.core.set_aside()] == [("results", "7")]
    assert after.core.take_changes().results == {7: None}
    assert await done(after, USER, CREATE) == 3, "what it was answered cannot be known"
    assert await done(after, USER, CREATE) == 3


async def test_a_start_lets_rows_live_anew_and_goes_on_counting(house: House) -> None:
    await done(house, USER, CREATE)
    after = await restarted(house)
    await done(after, USER, CREATE, ID[::-1])
    assert [row.number for row in after.journal.load(max_retired=0).results] == [1, 2]
    assert after.application._once._timer is not None, "or they would never expire"
