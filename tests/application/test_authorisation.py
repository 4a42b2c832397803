"""Who may do what: permissions, owners, and addresses where v1 is restricted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spalloc_server.application import commands, own_job_commands
from spalloc_server.application.authorisation import Authorisation
from spalloc_server.application.caller import FRONT, ROLES, Caller, Permission, permissions_of
from spalloc_server.application.commands import OfJob
from spalloc_server.config.options import Access
from spalloc_server.controller import Controller, steady_time
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.request import Request
from spalloc_server.errors import ForbiddenError, NoSuchError, RequestError
from spalloc_server.frontends.v1.commands import decode
from spalloc_server.frontends.v1.door import Door, Request as V1Request
from spalloc_server.log.defects import DefectLog
from tests.application.house import OPERATOR, USER, House
from tests.application.test_every_command import V1Client

MANAGING: list[OfJob] = [
    commands.PowerOnJob(job_id=1),
    commands.PowerOffJob(job_id=1),
    commands.DestroyJob(job_id=1),
]
NAMING: list[OfJob] = [
    commands.KeepAlive(job_id=1),
    commands.GetJobState(job_id=1),
    commands.GetJobMachineInfo(job_id=1),
]
OWN: list[Any] = [
    own_job_commands.OwnJobDetails(job_id=1),
    own_job_commands.OwnJobMachine(job_id=1),
    own_job_commands.BoardOfJob(job_id=1, chip=[0, 0]),
    own_job_commands.ReportIssue(job_id=1, boards=[], issue="dead"),
]
managing = pytest.mark.parametrize("command", MANAGING, ids=lambda command: type(command).__name__)


def v1(address: str | None) -> Caller:
    return Caller(door="v1", address=address, permissions=ROLES["user"])


@pytest.fixture
async def authorisation() -> Authorisation:
    return (await House.built()).application.authorisation


def test_roles_permit_what_they_say_together_and_unknown_ones_nothing() -> None:
    assert permissions_of(["reader"]) == {Permission.LOOK}
    assert permissions_of(["user", "wizard"]) == {Permission.LOOK, Permission.USE}
    assert permissions_of(["operator"]) == {Permission.LOOK, Permission.USE, Permission.OPERATE}
    assert permissions_of(["reader", "admin"]) == set(Permission) - FRONT
    assert permissions_of(["basic"]) == frozenset()
    assert permissions_of([]) == permissions_of(["wizard"]) == frozenset()


@managing
def test_any_address_may_change_any_job_where_no_managers_are_named(
    authorisation: Authorisation, command: OfJob
) -> None:
    authorisation.check(v1("10.0.0.1"), command)
    authorisation.check(v1(None), command)


@managing
def test_where_managers_are_named_others_may_change_only_what_was_created_from_their_address(
    authorisation: Authorisation, command: OfJob
) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(v1("127.0.0.1"), command)
    authorisation.check(v1("10.9.8.7"), command)
    for address in ("127.0.0.2", None):
        with pytest.raises(ForbiddenError, match=r"job 1 was created from 127\.0\.0\.1: only from there"):
            authorisation.check(v1(address), command)
    authorisation.check(OPERATOR, command)


def test_any_address_may_change_a_job_that_does_not_exist_or_whose_creator_is_unknown(
    authorisation: Authorisation,
) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(v1("127.0.0.2"), commands.DestroyJob(job_id=77))
    core = Controller()
    job_id = core.create_job(owner="me")
    other = Authorisation(core)
    other.access = authorisation.access
    other.check(v1("127.0.0.2"), commands.DestroyJob(job_id=job_id))


@pytest.mark.parametrize("command", NAMING, ids=lambda command: type(command).__name__)
def test_every_address_may_name_any_job_that_was_made_without_a_log_in(
    authorisation: Authorisation, command: OfJob
) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(v1("127.0.0.2"), command)


@pytest.mark.parametrize("command", [*MANAGING, *NAMING, *OWN], ids=lambda command: type(command).__name__)
def test_for_a_verified_caller_there_are_its_own_jobs_and_no_others(
    authorisation: Authorisation, command: OfJob
) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(USER, command)
    authorisation.check(OPERATOR, command)
    bob = Caller(door="socket", name="bob", address="127.0.0.1", verified=True, permissions=ROLES["user"])
    with pytest.raises(NoSuchError, match="there is no job 1, or none of bob") as refused:
        authorisation.check(bob, command)
    none = msgspec.structs.replace(command, job_id=77)
    for caller in (bob, OPERATOR):
        with pytest.raises(NoSuchError, match=f"there is no job 77, or none of {caller.name}"):
            authorisation.check(caller, none)
    assert refused.value.code == "no-such"


def test_an_owner_may_name_a_job_that_has_ended(authorisation: Authorisation) -> None:
    authorisation._core.destroy_job(1)
    for command in (*MANAGING, *NAMING, *OWN):
        authorisation.check(USER, command)


@pytest.mark.parametrize("command", [*MANAGING, NAMING[0]], ids=lambda command: type(command).__name__)
async def test_a_job_that_was_made_by_an_account_is_not_changed_or_kept_alive_by_who_has_none(command: OfJob) -> None:
    application = (await House.built()).application
    job = application.perform(USER, commands.CreateJob(request=Request(owner="ann", boards=1))).value
    of_account = msgspec.structs.replace(command, job_id=job)
    with pytest.raises(ForbiddenError, match=f"job {job} was made by somebody who had logged in: only by HTTP"):
        application.authorisation.check(v1("127.0.0.1"), of_account)
    for caller in (USER, OPERATOR, Caller(door="v1", permissions=ROLES["operator"])):
        application.authorisation.check(caller, of_account)


async def test_clients_of_v1_are_told_so_in_words_and_go_on_asking_for_the_state() -> None:
    house = await House.built()
    create = commands.CreateJob(request=Request(owner="ann", boards=1), original={"num-boards": 1})
    job = house.application.perform(USER, create).value
    door, client = Door(house.application, most_watched=9, defects=DefectLog()), V1Client(v1("127.0.0.1"))

    def ask(command: str, *args: Any) -> Any:
        line = msgspec.json.encode({"command": command, "args": args})
        return msgspec.json.decode(door.answer(client, V1Request(decode(line)))[0])

    for command in ("job_keepalive", "power_on_job_boards", "power_off_job_boards", "destroy_job"):
        assert f"job {job} was made by somebody who had logged in" in ask(command, job)["exception"]
    assert ask("get_job_state", job)["return"]["state"] == JobState.power
    assert ask("get_job_machine_info", job)["return"]["machine_name"] == "m"
    assert ask("notify_job", job) == {"return": None}
    (_, listed) = ask("list_jobs")["return"]
    assert (listed["job_id"], listed["owner"], listed["args"]) == (job, "ann", [1])
    assert job in house.core.live_jobs()


async def test_the_words_of_a_request_are_kept_as_far_as_they_are_short_and_its_session_lives_on() -> None:
    house = await House.built()
    caller = msgspec.structs.replace(USER, session="s1")
    words = {"num-boards": 1, "tags": ["ä"], "max-dead-boards": None}
    create = commands.CreateJob(request=Request(owner="ann", boards=1), original=words)
    job = house.application.perform(caller, create).value
    details = house.application.perform(USER, own_job_commands.OwnJobDetails(job_id=job)).value
    assert msgspec.json.decode(msgspec.json.encode(details))["original"] == words
    assert house.accounts.sessions.has_jobs("s1")
    too_long = msgspec.structs.replace(create, original={"a": "x" * 16 * 1024})
    with pytest.raises(RequestError, match="`original` has 16392 bytes: it may have at most 16384"):
        house.application.perform(caller, too_long)
    house.application.perform(USER, commands.DestroyJob(job_id=job))
    assert not house.accounts.sessions.has_jobs("s1")


async def test_who_has_no_account_may_look_at_such_a_job_and_does_not_keep_it_alive_by_that() -> None:
    house = await House.built()
    application, request = house.application, Request(owner="ann", boards=1)
    job = application.perform(USER, commands.CreateJob(request=request, keepalive=60.0)).value
    of_none = application.perform(v1("127.0.0.1"), commands.CreateJob(request=request, keepalive=60.0)).value
    house.core.state.clock = lambda: steady_time() + 30.0
    before = {each: house.core.state.jobs[each].deadline for each in (job, of_none)}
    for each in (job, of_none):
        for command in (commands.GetJobState(job_id=each), commands.GetJobMachineInfo(job_id=each)):
            application.perform(v1("127.0.0.2"), command)
        application.renew(v1("127.0.0.2"), each)
    assert [house.core.state.jobs[each].deadline == before[each] for each in (job, of_none)] == [True, False]
    assert house.core.state.jobs[job].keepalivehost is None
    with pytest.raises(ForbiddenError, match="only by HTTP"):
        application.keep_alive(v1("127.0.0.2"), job)
    application.keep_alive(USER, job)
    kept = house.core.state.jobs[job].deadline
    assert kept != before[job]
    house.core.state.clock = lambda: steady_time() + 60.0
    application.renew(USER, job)
    assert house.core.state.jobs[job].deadline not in {kept, before[job]}
    assert len(application.perform(v1("127.0.0.2"), commands.ListJobs()).value) == 3
    for hidden in (own_job_commands.OwnJobDetails(job_id=job), own_job_commands.OwnJobMachine(job_id=job)):
        with pytest.raises(NoSuchError):
            application.perform(v1("127.0.0.2"), hidden)


def test_a_name_that_was_only_said_is_no_identity(authorisation: Authorisation) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    said = Caller(door="socket", name="ann", address="127.0.0.2", permissions=ROLES["user"])
    with pytest.raises(ForbiddenError, match="was created from"):
        authorisation.check(said, MANAGING[0])


def test_a_verified_caller_owns_the_jobs_that_it_creates_unless_it_is_an_operator(
    authorisation: Authorisation,
) -> None:
    for owner, caller in (("ann", USER), ("bob", OPERATOR), ("bob", v1("127.0.0.1"))):
        authorisation.check(caller, commands.CreateJob(request=Request(owner=owner)))
    with pytest.raises(ForbiddenError, match="ann may create jobs with ann as owner, and not for bob"):
        authorisation.check(USER, commands.CreateJob(request=Request(owner="bob")))


def test_a_refusal_names_the_permission_that_is_needed_and_those_that_the_caller_has(
    authorisation: Authorisation,
) -> None:
    told = "ann may not do this: it takes the permission `operate`, and ann has `look` and `use`"
    with pytest.raises(ForbiddenError, match=told):
        authorisation.check(USER, commands.Undrain(machine="m"))
    with pytest.raises(ForbiddenError, match="somebody unknown has none"):
        authorisation.check(Caller(door="v1", permissions=frozenset()), commands.ListJobs())
