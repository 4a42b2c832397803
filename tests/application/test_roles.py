"""Every command for every role, on the caller's own job and on another's: one table says who may."""

from __future__ import annotations

import itertools

import pytest

from spalloc_server.application.caller import FRONT, ROLES, Caller, Permission
from spalloc_server.application.commands import Command, CreateJob, OfJob
from spalloc_server.errors import ForbiddenError, NoSuchError, RequestError
from tests.application.house import House
from tests.application.test_every_command import EXAMPLES

MAY = {
    "basic": "",
    "reader": "look",
    "user": "look use",
    "nmpi-exec": "look use",
    "operator": "look use operate",
    "admin": "look use operate stop",
    "front process": "authenticate",
}
OTHERS = {"operator", "admin"}
"""Who may create jobs for others, and use those of others; for the rest there are none."""


def expected(role: str, command: Command, *, own: bool) -> bool:
    others = not own and (command.own_job or isinstance(command, OfJob | CreateJob))
    return command.permission in MAY[role].split() and (role in OTHERS or not others)


@pytest.mark.parametrize("own", [True, False], ids=["own", "another's"])
@pytest.mark.parametrize("role", MAY)
async def test_who_may_do_what(role: str, own: bool) -> None:
    for example in EXAMPLES:
        house = await House.built()
        example.before(house)
        permissions = FRONT if role == "front process" else ROLES[role]
        caller = Caller(door="test", name="ann" if own else "bea", verified=True, permissions=permissions)
        command = example.command
        try:
            if command.waits:
                await house.application.ask(caller, command)
            else:
                house.application.perform(caller, command)
        except (ForbiddenError, NoSuchError):
            assert not expected(role, command, own=own), f"{role} may {command}"
        else:
            assert expected(role, command, own=own), f"{role} may not {command}"
        await house.rest()


def test_roles_are_one_above_the_other() -> None:
    ranks = sorted(ROLES.values(), key=len)
    assert all(lower <= higher for lower, higher in itertools.pairwise(ranks))
    assert {name: set(map(str, permissions)) for name, permissions in ROLES.items()} == {
        name: set(may.split()) for name, may in MAY.items() if name != "front process"
    }
    assert Permission.AUTHENTICATE not in ROLES["admin"]
    assert issubclass(ForbiddenError, RequestError)
