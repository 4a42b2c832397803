"""What is known of each command before it is performed, what its fields may hold, and what they are by default."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from spalloc_server.application.commands import AnyCommand, Command, Look, OfJob
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS

LETTERS = {
    "c": "changes",
    "r": "even_if_read_only",
    "a": "audited",
    "w": "waits",
    "t": "takes_long",
    "m": "manages_job",
    "R": "repeatable",
    "o": "own_job",
    "s": "confidential",
}
TABLE = {
    "create job": "use c",
    "keep job alive": "use R",
    "job state": "use R",
    "job machine": "use R",
    "power job on": "use cm",
    "power job off": "use cmR",
    "destroy job": "use cmR",
    "list jobs": "look tR",
    "job revisions": "look tR",
    "describe job": "look R",
    "list machines": "look tR",
    "board position": "look R",
    "board at position": "look R",
    "where is": "look R",
    "report problem": "use c",
    "status": "look tR",
    "figures": "authenticate tR",
    "machines": "look tR",
    "boards": "look tR",
    "jobs": "look tR",
    "job": "look tR",
    "kill": "operate ca",
    "kill jobs": "operate cat",
    "hold jobs": "operate catR",
    "release jobs": "operate cat",
    "extend jobs": "operate cat",
    "set priority": "operate cat",
    "disable board": "operate craR",
    "enable board": "operate ca",
    "disable frame": "operate craR",
    "enable frame": "operate ca",
    "drain": "operate craR",
    "undrain": "operate ca",
    "import machines": "operate cat",
    "remove machine": "operate cat",
    "emergency-stop": "stop craR",
    "emergency-stop by code": "authenticate craR",
    "resume": "stop ca",
    "power-cycle": "operate caw",
    "temperatures": "look wR",
    "blacklist": "look wR",
    "set blacklist": "operate aw",
    "own job": "use Ro",
    "own job machine": "use Ro",
    "job numbers": "look tR",
    "machine details": "look tR",
    "board of job": "use Ro",
    "find board": "look R",
    "report issue": "use cmo",
    "web settings": "authenticate R",
    "log in": "authenticate cws",
    "log in with token": "authenticate cs",
    "log out": "authenticate crRs",
    "check password": "authenticate wRs",
    "check session": "authenticate Rs",
    "check token": "authenticate Rs",
    "signing keys": "authenticate crRs",
    "list accounts": "stop R",
    "show account": "stop R",
    "create account": "stop caw",
    "change account": "stop caw",
    "delete account": "stop ca",
    "create token": "stop cas",
    "list tokens": "stop R",
    "revoke token": "stop cra",
}
"""By its tag, the permission that a command takes, and a letter for each of `LETTERS` that is true of it."""


def told(kind: type[Command]) -> str:
    return f"{kind.permission} {''.join(letter for letter, name in LETTERS.items() if getattr(kind, name))}"


def test_what_is_known_of_each_command_is_this() -> None:
    assert {kind.__struct_config__.tag: told(kind) for kind in get_args(AnyCommand)} == TABLE


def test_a_command_of_which_nothing_is_said_is_an_operators_and_is_stored_and_audited() -> None:
    assert (told(Command), told(Look), told(OfJob)) == ("operate ca", "look R", "use c")


def decoded(tag: str, **fields: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode({"command": tag, **fields}), type=AnyCommand)


def test_fields_that_nobody_gives_have_their_defaults() -> None:
    job = decoded("create job", request={"owner": "ann", "boards": 3})
    assert (job.keepalive, job.args, job.kwargs) == (60.0, None, {})
    assert (decoded("boards").machine, decoded("boards").bad) == (None, False)
    assert decoded("destroy job", job_id=1).reason is None
    temperatures = decoded("temperatures", machine="m")
    assert (temperatures.cabinet, temperatures.frame) == (None, None)


BOARD = {"machine": "m", "x": 0, "y": 0, "z": 0}
ASKED = {"request": {"owner": "ann", "boards": 3}}


@pytest.mark.parametrize(
    ("tag", "fields", "name", "least", "most", "beyond"),
    [
        ("kill", {"reason": "r"}, "job_id", -MAX_NUMBER, MAX_NUMBER, 1),
        ("enable board", BOARD, "x", -MAX_NUMBER, MAX_NUMBER, 1),
        ("enable board", BOARD, "z", -MAX_NUMBER, MAX_NUMBER, 1),
        ("enable frame", {"machine": "m", "frame": 0}, "cabinet", -MAX_NUMBER, MAX_NUMBER, 1),
        ("board at position", {"machine": "m", "cabinet": 0, "frame": 0}, "board", -MAX_NUMBER, MAX_NUMBER, 1),
        ("create job", ASKED, "keepalive", -MAX_SECONDS, MAX_SECONDS, 1e6),
        ("kill", {"job_id": 1}, "reason", "x", "x" * 1000, "x"),
        ("kill jobs", {"reason": "r"}, "job_ids", [1], [1] * 200, [1]),
        ("extend jobs", {"job_ids": [1]}, "seconds", 1e-9, MAX_SECONDS, 1e6),
        ("set priority", {"job_ids": [1]}, "priority", -MAX_NUMBER, MAX_NUMBER, 1),
        ("drain", {"machine": "m"}, "reason", "x", "x" * 1000, "x"),
        ("create account", {}, "name", "x", "x" * 256, "x"),
        ("create account", {"name": "ann"}, "password", "x", "x" * 1024, "x"),
        ("create token", {"name": "ann"}, "days", 1e-9, 3660, 1),
    ],
)
def test_fields_are_bounded(tag: str, fields: dict[str, Any], name: str, least: Any, most: Any, beyond: Any) -> None:
    for value in (least, most):
        assert getattr(decoded(tag, **{**fields, name: value}), name) == value
    for value in (most + beyond, type(least)() if isinstance(least, str | list) else least - beyond):
        with pytest.raises(msgspec.ValidationError):
            decoded(tag, **{**fields, name: value})


def test_a_field_that_there_is_not_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        decoded("resume", force=True)
