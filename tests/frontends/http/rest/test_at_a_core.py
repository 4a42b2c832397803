"""REST before the application of a real server: what each role may do with its own jobs and with others', and the cases
that the Java server's core is tested with."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
import pytest

from spalloc_server.application.account_commands import CreateAccount
from spalloc_server.application.command_kinds import Command, Key, Kind
from spalloc_server.application.job_commands import HoldJobs, KillJobs, ReleaseJobs
from spalloc_server.application.own_job_commands import OwnJobMachine, SubMachine
from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.http.asking import RefusedError, WebCaller
from spalloc_server.frontends.local_api import Behalf
from tests.application.house import OPERATOR, WEB, House
from tests.frontends.http.rest.client import ROOT, Answer, Boards, Client, StandIn
from tests.house import PATIENCE

T = TypeVar("T")

ROLES = ["basic", "reader", "user", "nmpi-exec", "operator", "admin"]
FOO = Machine(
    "foo_machine",
    tags=set(),
    width=1,
    height=1,
    dead_boards={(0, 0, 1), (0, 0, 2)},
    board_locations={(0, 0, 0): (1, 1, 0)},
    bmp_ips={(1, 1): "1.1.1.1"},
    spinnaker_ips={(0, 0, 0): "2.2.2.2"},
)


class Server(StandIn):
    """Asks an application as the local API socket does."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        application = self.house.application
        try:
            caller = WEB
            if behalf is not None:
                who = {"session": None, "token": None, "account": behalf.account, "address": behalf.address}
                caller = application.caller("web", **who)
            waits = command.waits
            answer = await application.ask(caller, command) if waits else application.perform(caller, command, once)
        except SpallocServerError as error:
            raise RefusedError(error.code, str(error)) from error
        finally:
            await self.house.rest()
        return msgspec.json.decode(msgspec.json.encode(answer.value), type=kind)

    async def changed(self, key: str, since: int, seconds: float) -> int:
        kind, _, name = key.partition("/")
        assert kind == "job"
        self.waits.put_nowait((key, since))
        return await self.house.subscriptions.wait(Key(Kind.JOB, int(name)), since, seconds)


class Guarded(Boards):
    """Boards that look whose they are before anything is done with them, as the real way there does."""

    def __init__(self, server: StandIn) -> None:
        super().__init__()
        self._server = server

    async def _check(self, caller: WebCaller, job: int) -> None:
        kind: Any = SubMachine | None
        await self._server.ask(OwnJobMachine(job_id=job), kind, behalf=caller.behalf)

    async def stream(self, caller: WebCaller, job: int, x: int, y: int, address: int, size: int) -> Any:
        await self._check(caller, job)
        return await super().stream(caller, job, x, y, address, size)

    async def write(self, caller: WebCaller, job: int, *more: Any) -> None:
        await self._check(caller, job)
        await super().write(caller, job, *more)

    async def reset_router(self, caller: WebCaller, job: int, filters: Any) -> None:
        await self._check(caller, job)


def account(name: str, role: str) -> WebCaller:
    return WebCaller(name=name, role=role, behalf=Behalf(account=name, address="3.3.3.3"), csrf="c5f")


async def serving(*names: tuple[str, str], machines: list[Machine] | None = None) -> Client:
    """A client of a server with these accounts, (name, role); it sends requests of the first."""
    house = await House.built()
    if machines is not None:
        house.core.destroy_job(1)
        house.core.configure(Configuration(machines, seconds_before_free=0.0))
    house.application.configure(Configuration(web=Web(max_role="admin")))
    for name, role in names:
        await house.application.ask(OPERATOR, CreateAccount(name=name, role=role))
    await house.rest()
    server = Server(house)
    client = Client(server, account(*names[0]))
    client.boards = Guarded(server)
    return client


async def created(client: Client, **wanted: Any) -> int:
    body = {"keepalive-interval": 60, "machine-name": "m", **wanted}
    answer = await client.send("POST", "jobs", body)
    assert answer.status == 201, answer
    return int(answer.json["job-id"])


# -------------------------------------------------------------------- roles


WITH_A_JOB: list[tuple[str, str, Any, str | None]] = [
    ("GET", "", None, None),
    ("GET", "?wait=0", None, None),
    ("PUT", "/keepalive", b"alive", "text/plain"),
    ("GET", "/machine", None, None),
    ("GET", "/machine/power", None, None),
    ("POST", "/machine/power", {"power": "ON"}, None),
    ("PUT", "/power", {"power": "OFF"}, None),
    ("GET", "/chip?x=1&y=1", None, None),
    ("POST", "/report-issue", {"issue": "smoke", "boards": [{"chip": [0, 0]}]}, None),
    ("GET", "/memory?address=0&size=4", None, None),
    ("POST", "/memory?address=0", b"data", "application/octet-stream"),
    ("DELETE", "/router", None, None),
    ("DELETE", "?reason=over", None, None),
]


@pytest.mark.parametrize(("method", "path", "body", "kind"), WITH_A_JOB)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("own", [True, False], ids=["own", "other's"])
async def test_what_a_role_may_do_with_a_job(
    own: bool, role: str, method: str, path: str, body: Any, kind: str | None
) -> None:
    client = await serving(("ann", role), ("zoe", "user"))
    if own:
        house = client.server.house  # type: ignore[attr-defined]
        job_id = house.core.create_job(1, owner="ann", keepalive=60.0, machine="m")
        await house.rest()
    else:
        client.caller = account("zoe", "user")
        job_id = await created(client)
        client.caller = account("ann", role)
    answer = await client.send(method, f"jobs/{job_id}{path}", body or b"", kind)
    if role in {"basic", "reader"}:
        assert answer.summary == (403, "computer says no")
    elif own or role in {"operator", "admin"}:
        assert answer.status in {200, 202, 204}
    else:
        assert answer.status == 404
        assert "zoe" not in answer.text


@pytest.mark.parametrize("role", ["user", "nmpi-exec"])
async def test_a_job_of_others_is_as_one_that_there_never_was(role: str) -> None:
    client = await serving(("ann", role), ("zoe", "user"))
    client.caller = account("zoe", "user")
    job_id = await created(client)
    client.caller = account("ann", role)
    for method, path, body, kind in WITH_A_JOB:
        others = await client.send(method, f"jobs/{job_id}{path}", body or b"", kind)
        nobodys = await client.send(method, f"jobs/{job_id + 1000}{path}", body or b"", kind)
        assert others.status == nobodys.status
        assert others.text.replace(str(job_id), "N") == nobodys.text.replace(str(job_id + 1000), "N")


async def test_who_has_lost_the_role_may_not_go_on() -> None:
    client = await serving(("ann", "reader"))
    client.caller = account("ann", "admin")  # as it was when it was looked up
    assert (await client.send("POST", "emergencyStop")).summary == (403, "computer says no")
    assert (await client.get("admin/users")).summary == (403, "computer says no")
    assert (await client.get("jobs/1")).summary == (403, "computer says no")


# -------------------------------------------------------------------- cases of the Java server's core


@pytest.fixture
async def foo() -> Client:
    return await serving(("user_bar", "user"), ("user_foo", "user"), machines=[FOO])


async def test_the_machines_are_this_one(foo: Client) -> None:
    (machine,) = (await foo.get("machines")).json["machines"]
    assert (machine["name"], machine["tags"]) == ("foo_machine", [])
    dead = {(board["x"], board["y"], board["z"]) for board in machine["dead-boards"]}
    assert dead == {(0, 0, 1), (0, 0, 2)}
    assert (await foo.get("machines/bar_machine")).status == 404


@pytest.mark.parametrize(
    "query",
    ["chip?x=0&y=0", "physical-board?cabinet=1&frame=1&board=0", "logical-board?x=0", "board-ip?address=2.2.2.2"],
)
async def test_the_board_is_found_by_each_of_its_coordinates(foo: Client, query: str) -> None:
    told = (await foo.get(f"machines/foo_machine/{query}")).json
    assert told["physical-board-coordinates"] == [1, 1, 0]
    assert told["logical-board-coordinates"] == [0, 0, 0]
    assert told["chip"] == told["board-chip"] == [0, 0]
    assert "job-id" not in told


@pytest.mark.parametrize("query", ["board-ip?address=", "logical-board?z=1", "logical-board?z=3", "chip?x=12"])
async def test_a_board_that_is_not_there_is_not_found(foo: Client, query: str) -> None:
    assert (await foo.get(f"machines/foo_machine/{query}")).summary == (404, "failed to locate board")


FORMS: list[dict[str, Any]] = [
    {"board": {"x": 0, "y": 0, "z": 0}},
    {"board": {"address": "2.2.2.2"}},
    {"board": {"cabinet": 1, "frame": 1, "board": 0}},
    {"num-boards": 1},
    {"num-boards": 1, "group": "grill"},
    {},
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_job_lives_from_its_creation_to_its_end(foo: Client, form: dict[str, Any]) -> None:
    job_id = await created(foo, **{"machine-name": "foo_machine", **form})
    assert (await foo.get("jobs")).json == {"jobs": [f"{ROOT}/jobs/{job_id}"]}
    state = (await foo.get(f"jobs/{job_id}")).json
    assert (state["state"], state["owner"]) == ("READY", "user_bar")
    machine = (await foo.get(f"jobs/{job_id}/machine")).json
    assert (machine["width"], machine["height"], machine["depth"]) == (1, 1, 1)
    assert (machine["boards"], machine["connections"]) == ([[0, 0, 0]], [[[0, 0], "2.2.2.2"]])
    assert (await foo.get(f"jobs/{job_id}/machine/power")).json == {"power": "ON"}
    chip = (await foo.get(f"jobs/{job_id}/chip?x=4&y=4")).json
    assert (chip["chip"], chip["job-chip"], chip["board-chip"]) == ([4, 4], [4, 4], [0, 0])
    assert (chip["logical-board-coordinates"], chip["physical-board-coordinates"]) == ([0, 0, 0], [1, 1, 0])
    assert (await foo.get("machines/foo_machine/chip")).json["job-id"] == job_id
    assert (await foo.send("DELETE", f"jobs/{job_id}?reason=foo%20bar")).status == 204
    state = (await foo.get(f"jobs/{job_id}")).json
    assert (state["state"], state["reason"]) == ("DESTROYED", "foo bar")
    assert state["finish-time"] >= state["start-time"]
    assert (await foo.get("jobs")).json == {"jobs": []}
    assert f"{ROOT}/jobs/{job_id}" in (await foo.get("jobs?deleted=true")).json["jobs"]


@pytest.mark.parametrize(
    "form",
    [
        {"dimensions": {"width": 1, "height": 1}, "max-dead-boards": 1},
        {"dimensions": {"width": 1, "height": 1}, "board": {"address": "2.2.2.2"}},
        {"dimensions": {"width": 1, "height": 2}},
        {"num-boards": 2},
    ],
)
async def test_a_request_that_could_never_be_served_is_refused_with_the_reason(foo: Client, form: Any) -> None:
    body = {"keepalive-interval": 60, "machine-name": "foo_machine", **form}
    answer = await foo.send("POST", "jobs", body)
    assert (answer.status, answer.text.startswith("No suitable machines available.")) == (400, True)
    assert (await foo.get("jobs")).json == {"jobs": []}


async def test_a_job_is_created_once_however_often_it_is_asked_for_under_one_key() -> None:
    client = await serving(("foo", "user"), ("bar", "user"))
    body = {"keepalive-interval": 60, "machine-name": "m"}
    foo, bar = account("foo", "user"), account("bar", "user")

    async def create(caller: WebCaller, key: str | None, **more: Any) -> Any:
        answer = await client.send("POST", "jobs", {**body, **more}, caller=caller, key=key)
        return answer.json["job-id"] if answer.status == 201 else answer.summary

    first = await create(foo, "a")
    assert [await create(foo, "a") for _ in range(3)] == [first] * 3
    others = [await create(foo, "b"), await create(bar, "a"), await create(foo, None), await create(foo, None)]
    assert len({first, *others}) == 5, "another key, another account, and none at all"
    status, told = await create(foo, "a", **{"num-boards": 2})
    assert (status, "another command was sent under this id" in told) == (400, True)
    assert await create(bar, "a") == others[1], "what is of another account is not told"
    for key in ("", "x" * 256):
        assert (await create(foo, key))[0] == 400


async def test_what_is_reported_under_one_key_counts_once() -> None:
    client = await serving(("foo", "user"), ("bar", "user"))
    job_id = await created(client)
    house = client.server.house  # type: ignore[attr-defined]
    issue = {"issue": "smoke", "boards": [{"chip": [0, 0]}]}
    for _ in range(3):
        assert (await client.send("POST", f"jobs/{job_id}/report-issue", issue, key="k")).status == 200
    assert sum(len(view.reports) for view in house.core.board_views()) == 1


async def test_a_keepalive_names_its_host(foo: Client) -> None:
    job_id = await created(foo, **{"machine-name": "foo_machine"})
    before = (await foo.get(f"jobs/{job_id}")).json["keep-alive-time"]
    assert (await foo.send("PUT", f"jobs/{job_id}/keepalive", b"", "text/plain")).summary == (200, "ok")
    state = (await foo.get(f"jobs/{job_id}")).json
    assert state["keepalive-host"] == "3.3.3.3"
    assert state["keep-alive-time"] >= before


async def test_another_user_cannot_see_the_job(foo: Client) -> None:
    job_id = await created(foo, **{"machine-name": "foo_machine"})
    foo.caller = account("user_foo", "user")
    assert (await foo.get(f"jobs/{job_id}")).summary == (404, "no such job")
    foo.caller = account("user_bar", "user")
    assert (await foo.get(f"jobs/{job_id}")).status == 200


async def test_a_board_can_be_reported_again_and_again(foo: Client) -> None:
    job_id = await created(foo, **{"machine-name": "foo_machine"})
    body = {"issue": "test", "boards": [{"address": "2.2.2.2"}]}
    for _ in range(2):
        answer = await foo.send("POST", f"jobs/{job_id}/report-issue", body)
        assert answer.json == {"action": "report noted"}
    house = foo.server.house  # type: ignore[attr-defined]
    (board,) = [board for board in house.core.board_views() if (board.x, board.y, board.z) == (0, 0, 0)]
    assert {report.text for report in board.reports} == {"test"}


async def test_a_job_that_waits_has_no_boards_yet(foo: Client) -> None:
    await created(foo, **{"machine-name": "foo_machine"})
    job_id = await created(foo, **{"machine-name": "foo_machine"})
    assert (await foo.get(f"jobs/{job_id}")).json["state"] == "QUEUED"
    assert (await foo.get(f"jobs/{job_id}/machine")).status == 204
    assert (await foo.send("DELETE", f"jobs/{job_id}")).status == 204
    assert (await foo.get(f"jobs/{job_id}")).json["reason"] == ""


# -------------------------------------------------------------------- jobs on hold


ON_HOLD = "On hold, by eve: night"


async def operated(client: Client, command: Command) -> None:
    """Have an operator do something."""
    house = client.server.house  # type: ignore[attr-defined]
    house.application.perform(OPERATOR, command)
    await house.rest()


async def polled(client: Client, job_id: int) -> asyncio.Task[Answer]:
    """A poll of a job's state that has begun to wait."""
    polling = asyncio.ensure_future(client.get(f"jobs/{job_id}", wait="true"))
    async with asyncio.timeout(PATIENCE):
        await client.server.waits.get()
    return polling


async def told_by(polling: asyncio.Task[Answer]) -> tuple[str, str | None]:
    """(State, reason) that a poll ends with."""
    async with asyncio.timeout(PATIENCE):
        answer = (await polling).json
    return answer["state"], answer.get("reason")


async def waiting_for_foo(foo: Client) -> tuple[int, int]:
    """(A job that has the board, one that waits for it.)"""
    foo.caller = account("user_bar", "user")
    return await created(foo, **{"machine-name": "foo_machine"}), await created(foo, **{"machine-name": "foo_machine"})


async def test_a_job_on_hold_is_told_as_one_that_waits_with_the_reason(foo: Client) -> None:
    _, job_id = await waiting_for_foo(foo)
    before = (await foo.get(f"jobs/{job_id}")).json
    await operated(foo, HoldJobs(job_ids=[job_id], reason="night"))
    told = (await foo.get(f"jobs/{job_id}")).json
    assert told == {**before, "reason": ON_HOLD, "keep-alive-time": told["keep-alive-time"]}
    assert told["state"] == "QUEUED"
    for path in ("machine", "machine/power", "chip"):
        assert (await foo.get(f"jobs/{job_id}/{path}")).status == 204
    assert f"{ROOT}/jobs/{job_id}" in (await foo.get("jobs")).json["jobs"]
    assert (await foo.send("PUT", f"jobs/{job_id}/keepalive", b"", "text/plain")).summary == (200, "ok")
    assert (await foo.get(f"jobs/{job_id}")).json["keep-alive-time"] >= told["keep-alive-time"]
    await operated(foo, ReleaseJobs(job_ids=[job_id]))
    assert "reason" not in (await foo.get(f"jobs/{job_id}")).json


async def test_a_poll_is_answered_by_hold_and_release_and_by_nothing_that_changes_nothing(foo: Client) -> None:
    first, job_id = await waiting_for_foo(foo)
    other = await created(foo, **{"machine-name": "foo_machine"})
    polling = await polled(foo, job_id)
    await operated(foo, HoldJobs(job_ids=[other], reason="day"))
    assert not polling.done(), "that was another job"
    await operated(foo, HoldJobs(job_ids=[job_id], reason="night"))
    assert await told_by(polling) == ("QUEUED", ON_HOLD)
    polling = await polled(foo, job_id)
    await foo.send("PUT", f"jobs/{job_id}/keepalive", b"", "text/plain")
    assert (await foo.send("DELETE", f"jobs/{first}")).status == 204
    assert not polling.done(), "it has no boards for that"
    await operated(foo, ReleaseJobs(job_ids=[job_id]))
    assert (await told_by(polling))[1] is None
    assert (await foo.get(f"jobs/{job_id}")).json["state"] == "READY"
    polling = await polled(foo, other)
    await operated(foo, KillJobs(job_ids=[other], reason="night"))
    assert await told_by(polling) == ("DESTROYED", "Ended by eve: night")


async def test_a_job_on_hold_ends_by_its_owner(foo: Client) -> None:
    _, job_id = await waiting_for_foo(foo)
    await operated(foo, HoldJobs(job_ids=[job_id], reason="night"))
    polling = await polled(foo, job_id)
    assert (await foo.send("DELETE", f"jobs/{job_id}?reason=enough")).status == 204
    assert await told_by(polling) == ("DESTROYED", "enough")
