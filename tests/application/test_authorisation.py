"""Who may do what: permissions, owners, and addresses where v1 is restricted."""

from __future__ import annotations

import pytest

from spalloc_server.application import commands
from spalloc_server.application.authorisation import Authorisation
from spalloc_server.application.caller import FRONT, ROLES, Caller, Permission, permissions_of
from spalloc_server.application.commands import OfJob
from spalloc_server.config.options import Access
from spalloc_server.controller import Controller
from spalloc_server.core.model.request import Request
from spalloc_server.errors import ForbiddenError
from tests.application.house import OPERATOR, USER, House

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
    authorisation.check(USER, commands.DestroyJob(job_id=77))
    core = Controller()
    job_id = core.create_job(owner="me")
    other = Authorisation(core)
    other.access = authorisation.access
    other.check(v1("127.0.0.2"), commands.DestroyJob(job_id=job_id))


@pytest.mark.parametrize("command", NAMING, ids=lambda command: type(command).__name__)
def test_everybody_who_may_use_the_machines_may_name_any_job(authorisation: Authorisation, command: OfJob) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(v1("127.0.0.2"), command)
    authorisation.check(Caller(door="socket", name="bob", verified=True, permissions=ROLES["user"]), command)


@managing
def test_a_verified_caller_may_change_its_own_jobs_wherever_it_comes_from(
    authorisation: Authorisation, command: OfJob
) -> None:
    authorisation.access = Access(managers=("10.0.0.0/8",))
    authorisation.check(USER, command)
    bob = Caller(door="socket", name="bob", address="127.0.0.1", verified=True, permissions=ROLES["user"])
    with pytest.raises(ForbiddenError, match="job 1 is ann's: bob may neither end nor switch it"):
        authorisation.check(bob, command)
    authorisation.access = Access()
    with pytest.raises(ForbiddenError, match="job 1 is ann's"):
        authorisation.check(bob, command)


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
