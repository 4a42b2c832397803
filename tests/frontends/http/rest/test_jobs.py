"""Jobs: the list, and each job's state, boards, power and end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from spalloc_server.application import commands
from spalloc_server.application.own_job_commands import BoardOfJob, JobNumbers, OwnJobDetails, OwnJobMachine
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.watching import Watching
from tests.frontends.http.fake_socket import until
from tests.frontends.http.rest.client import BOARDS, FOUND, JOB, MACHINE, ROOT, Client
from tests.house import PATIENCE

LINKS = {
    "keepalive-ref": f"{ROOT}/jobs/7/keepalive",
    "machine-ref": f"{ROOT}/jobs/7/machine",
    "power-ref": f"{ROOT}/jobs/7/machine/power",
    "chip-ref": f"{ROOT}/jobs/7/chip",
}
PROXY = {"proxy-ref": "wss://hall.example/spalloc/proxy/7"}
ALIVE = {"keepalive-host": "10.0.0.1", "keep-alive-time": "2021-10-11T12:13:15.500000Z"}
KNOWN = {
    "owner": "alice",
    "start-time": "2021-10-11T12:13:14Z",
    "original-request": {"owner": "alice", "num-boards": 1},
    **LINKS,
}


@pytest.fixture
def client() -> Client:
    return Client.of("user").answering(
        OwnJobDetails=JOB, OwnJobMachine=BOARDS, DestroyJob=None, KeepAlive=None, PowerOnJob=None, PowerOffJob=None
    )


# -------------------------------------------------------------------- the state


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (replace(JOB, state=1), {"state": "QUEUED", **ALIVE}),
        (replace(JOB, state=2), {"state": "POWER", **ALIVE, **PROXY}),
        (JOB, {"state": "READY", **ALIVE, **PROXY}),
        (
            replace(JOB, state=4, ended_at=1_633_954_400.0, reason="finished", kept_alive_at=None),
            {"state": "DESTROYED", "finish-time": "2021-10-11T12:13:20Z", "reason": "finished"},
        ),
        (
            replace(JOB, state=4, ended_at=1_633_954_400.0, reason="Cancelled: finished", keepalive_host=None),
            {"state": "DESTROYED", "finish-time": "2021-10-11T12:13:20Z", "reason": "finished"},
        ),
    ],
)
async def test_a_job_is_told_with_what_its_state_has(client: Client, job: Any, told: dict[str, Any]) -> None:
    client.answering(OwnJobDetails=job)
    answer = await client.get("jobs/7")
    assert (answer.status, answer.json) == (200, {**KNOWN, **told})
    assert client.server.asked == [OwnJobDetails(job_id=7)]
    assert client.server.behalves == [client.caller and client.caller.behalf]


async def test_a_job_of_another_door_is_told_without_a_request(client: Client) -> None:
    client.answering(OwnJobDetails=replace(JOB, original=None, keepalive_host=None, kept_alive_at=None))
    assert (await client.get("jobs/7")).json.keys() == KNOWN.keys() - {"original-request"} | {"state", *PROXY}


@pytest.mark.parametrize("path", ["jobs/7", "jobs/7/", "jobs/7//", "jobs//7", "jobs//7//"])
@pytest.mark.parametrize("query", ["", "wait=false", "wait=False", "wait=0", "unknown=1"])
async def test_the_way_around_the_framework_comes_to_the_same(client: Client, path: str, query: str) -> None:
    assert (await client.get(f"{path}?{query}")).json == (await client.get("jobs/7")).json


@pytest.mark.parametrize("spelling", ["true", "True", "1"])
async def test_a_poll_is_answered_when_the_job_has_changed(client: Client, spelling: str) -> None:
    polling = asyncio.ensure_future(client.get("jobs/7", wait=spelling))
    client.server.revisions["job/7"] = 41
    assert await client.server.waits.get() == ("job/7", 41)
    assert not polling.done()
    client.answering(OwnJobDetails=replace(JOB, state=4))
    client.server.change.set()
    async with asyncio.timeout(PATIENCE):
        assert (await polling).json["state"] == "DESTROYED"


async def test_a_poll_of_a_job_that_is_over_is_answered_at_once(client: Client) -> None:
    client.answering(OwnJobDetails=replace(JOB, state=4))
    client.server.revisions["job/7"] = 41
    assert (await client.get("jobs/7", wait="true")).json["state"] == "DESTROYED"
    assert client.server.waits.empty()


async def test_a_poll_of_a_job_that_has_changed_already_is_answered_at_once(client: Client) -> None:
    client.server.revisions["job/7"] = 42
    assert (await client.get("jobs/7", wait="true")).status == 200
    assert client.server.waits.empty()


@pytest.mark.parametrize("path", ["jobs/7", "jobs/7?wait=1", "jobs", "machines/m"])
async def test_a_poll_ends_when_its_client_has_left(client: Client, path: str) -> None:
    client.answering(JobNumbers=[7], MachineDetailsOf=[MACHINE])
    client.server.revisions |= {"job/7": 41, "jobs": 3, "machine/m": 5}
    polling = asyncio.ensure_future(client.get(path if "?" in path else f"{path}?wait=true"))
    await client.server.waits.get()
    client.left.set()
    async with asyncio.timeout(PATIENCE):
        await polling
    assert client.app._framework.state.polls.waiting == 0


async def test_one_poll_more_than_may_wait_is_answered_at_once() -> None:
    client = Client.of("user", long_polls=2).answering(OwnJobDetails=JOB)
    client.server.revisions["job/7"] = 41
    waiting = [asyncio.ensure_future(client.get("jobs/7?wait=true")) for _ in range(2)]
    for _ in waiting:
        await client.server.waits.get()
    async with asyncio.timeout(PATIENCE):
        assert (await client.get("jobs/7?wait=true")).status == 200
    assert not any(each.done() for each in waiting)
    client.server.change.set()
    async with asyncio.timeout(PATIENCE):
        assert [each.status for each in await asyncio.gather(*waiting)] == [200, 200]


@pytest.mark.parametrize("number", ["abc", "+7", "-7", "1_0", "1.0", "1e2", "\uff11", "9" * 400, "7\0", "7%20"])
async def test_what_is_no_number_is_no_job(client: Client, number: str) -> None:
    answer = await client.send("GET", f"/spalloc/srv/spalloc/jobs/{number}")
    assert (answer.status, answer.text) == (404, "no such job")
    assert client.server.asked == []


# -------------------------------------------------------------------- the others of one job


@pytest.mark.parametrize(
    ("method", "path", "body", "asked", "status", "said"),
    [
        ("PUT", "jobs/7/keepalive", "alive", commands.KeepAlive(job_id=7), 200, "ok"),
        ("DELETE", "jobs/7?reason=finished", "", commands.DestroyJob(job_id=7, reason="finished"), 204, ""),
        ("DELETE", "jobs/7", "", commands.DestroyJob(job_id=7, reason=None), 204, ""),
    ],
)
async def test_what_is_done_with_a_job(
    client: Client, method: str, path: str, body: str, asked: Any, status: int, said: str
) -> None:
    answer = await client.send(method, path, body.encode(), "text/plain; charset=UTF-8")
    assert answer.summary == (status, said)
    assert client.server.asked == [asked]


async def test_the_boards_of_a_job(client: Client) -> None:
    assert (await client.get("jobs/7/machine")).json == {
        "width": 1,
        "height": 1,
        "depth": 1,
        "machine-name": "m",
        "connections": [[[0, 0], "10.1.1.1"]],
        "boards": [[5, 7, 0]],
        "power": f"{ROOT}/jobs/7/machine/power",
        "machine-ref": f"{ROOT}/machines/m",
    }


@pytest.mark.parametrize(("power", "word"), [(True, "ON"), (False, "OFF")])
async def test_the_power_of_a_job(client: Client, power: bool, word: str) -> None:
    client.answering(OwnJobMachine=replace(BOARDS, power=power))
    assert (await client.get("jobs/7/machine/power")).json == {"power": word}


@pytest.mark.parametrize(("method", "path"), [("POST", "jobs/7/machine/power"), ("PUT", "jobs/7/power")])
@pytest.mark.parametrize(("word", "kind"), [("ON", commands.PowerOnJob), ("OFF", commands.PowerOffJob)])
async def test_switching_a_job(client: Client, method: str, path: str, word: str, kind: Any) -> None:
    answer = await client.send(method, path, {"power": word})
    assert (answer.status, answer.body, "content-type" in answer.headers) == (202, b"", False)
    assert client.server.asked[-1] == kind(job_id=7)


@pytest.mark.parametrize("body", [{"power": "BANANA"}, {}, {"power": None}, {"power": "ON", "x": 1}, []])
@pytest.mark.parametrize(("method", "path"), [("POST", "jobs/7/machine/power"), ("PUT", "jobs/7/power")])
async def test_other_words_for_power_are_refused(client: Client, method: str, path: str, body: Any) -> None:
    assert (await client.send(method, path, body)).status == 400
    assert client.server.asked == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "jobs/7/machine", b""),
        ("GET", "jobs/7/machine/power", b""),
        ("POST", "jobs/7/machine/power", {"power": "ON"}),
        ("PUT", "jobs/7/power", {"power": "OFF"}),
        ("GET", "jobs/7/chip", b""),
    ],
)
async def test_a_job_without_boards_has_nothing_to_tell(client: Client, method: str, path: str, body: Any) -> None:
    client.answering(OwnJobMachine=None, BoardOfJob=None)
    answer = await client.send(method, path, body)
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(("query", "chip"), [("", [0, 0]), ("x=9", [9, 0]), ("x=9&y=5", [9, 5])])
async def test_a_chip_of_a_job(client: Client, query: str, chip: list[int]) -> None:
    client.answering(BoardOfJob=FOUND)
    answer = await client.get(f"jobs/7/chip?{query}")
    assert client.server.asked == [BoardOfJob(job_id=7, chip=chip)]
    assert answer.json == {
        "job-id": 7,
        "job-ref": f"{ROOT}/jobs/7",
        "job-chip": [9, 5],
        "chip": [69, 89],
        "logical-board-coordinates": [5, 7, 1],
        "machine": "m",
        "machine-ref": f"{ROOT}/machines/m",
        "board-chip": [68, 88],
        "physical-board-coordinates": [2, 3, 10],
    }


@pytest.mark.parametrize("kind", [None, "text/plain", "text/plain;charset=UTF-8", "Text/Plain"])
async def test_a_lease_is_renewed_by_text_or_by_what_is_of_no_named_type(client: Client, kind: str | None) -> None:
    assert (await client.send("PUT", "jobs/7/keepalive", b"alive", kind)).summary == (200, "ok")
    assert client.server.asked == [commands.KeepAlive(job_id=7)]


async def test_a_lease_is_not_renewed_by_anything_else(client: Client) -> None:
    assert (await client.send("PUT", "jobs/7/keepalive", b"{}", "application/json")).status == 415
    assert client.server.asked == []


PATHS = [
    ("GET", "jobs/7", b""),
    ("GET", "jobs/7?wait=1", b""),
    ("DELETE", "jobs/7", b""),
    ("PUT", "jobs/7/keepalive", "text"),
    ("GET", "jobs/7/machine", b""),
    ("GET", "jobs/7/machine/power", b""),
    ("POST", "jobs/7/machine/power", {"power": "ON"}),
    ("PUT", "jobs/7/power", {"power": "ON"}),
    ("GET", "jobs/7/chip", b""),
    ("POST", "jobs/7/report-issue", {"issue": "x", "boards": [{"address": "1.1.1.1"}]}),
]


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("no-such", 404, "no such job"),
        ("forbidden", 403, "computer says no"),
        ("bad-request", 400, "it makes no sense"),
        ("read-only", 503, "it makes no sense"),
        ("busy", 429, "it makes no sense"),
        ("not-stored", 503, "it makes no sense"),
    ],
)
async def test_what_the_server_refuses_has_a_status_of_its_own(
    client: Client, method: str, path: str, body: Any, kind: str, status: int, said: str
) -> None:
    client.server.answers = dict.fromkeys(
        [OwnJobDetails, OwnJobMachine, BoardOfJob, commands.DestroyJob, commands.KeepAlive],
        RefusedError(kind, "it makes no sense"),
    )
    given = (b"alive", "text/plain") if body == "text" else (body, None)
    answer = await client.send(method, path, *given)
    assert answer.summary == (status, said)
    assert ("retry-after" in answer.headers) == (status in {429, 503})


# -------------------------------------------------------------------- the list


@pytest.mark.parametrize(
    ("query", "asked", "numbers", "prev", "following"),
    [
        ("", JobNumbers(), [9, 8], None, None),
        ("deleted=true", JobNumbers(ended=True), [9, 8], None, None),
        ("limit=2", JobNumbers(limit=2), [9, 8], None, "limit=2&wait=false&start=2"),
        (
            "limit=2&start=1",
            JobNumbers(limit=2, start=1),
            [9, 8],
            "limit=2&start=0&wait=false",
            "limit=2&start=3&wait=false",
        ),
        ("limit=3&start=100", JobNumbers(limit=3, start=100), [], "limit=3&start=97&wait=false", None),
        (
            "deleted=true&limit=1&x=%3Cscript%3E",
            JobNumbers(ended=True, limit=1),
            [9],
            None,
            "deleted=true&limit=1&wait=false&start=1",
        ),
    ],
)
async def test_the_list_of_jobs_comes_in_pages(
    query: str, asked: Any, numbers: list[int], prev: str | None, following: str | None
) -> None:
    client = Client.of("reader").answering(JobNumbers=numbers)
    answer = await client.get(f"jobs?{query}")
    pages = {"next": following, "prev": prev}
    links = {name: f"{ROOT}/jobs?{page}" for name, page in pages.items() if page}
    assert answer.json == {"jobs": [f"{ROOT}/jobs/{number}" for number in numbers], **links}
    assert answer.headers.get("link", "") == ", ".join(f'<{url}>; rel="{name}"' for name, url in links.items())
    assert client.server.asked == [asked]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit must be at least 1"),
        ("limit=-1", "limit must be at least 1"),
        ("limit=201", "limit must not be bigger than 200"),
        ("start=-1", "start must be at least 0"),
        (f"start={2**63}", "start must be at most"),
        (f"start={'9' * 400}", "start must be at most"),
        ("limit=abc", "limit: "),
        ("limit=", "limit: "),
        ("limit=%2B1", "limit: "),
        ("limit=1_0", "limit: "),
        ("limit=%EF%BC%91", "limit: "),
        ("limit=1.5", "limit: "),
        ("limit=%00", "limit: "),
        ("limit=%ff", "limit: "),
        ("wait=perhaps", "wait: "),
    ],
)
async def test_a_page_that_makes_no_sense_is_refused(query: str, said: str) -> None:
    client = Client.of("reader").answering(JobNumbers=[])
    answer = await client.get(f"jobs?{query}")
    assert answer.status == 400
    assert answer.text.startswith(said)
    assert client.server.asked == []


async def test_the_list_can_wait_for_a_change() -> None:
    client = Client.of("reader").answering(JobNumbers=[9])
    client.server.revisions["jobs"] = 3
    polling = asyncio.ensure_future(client.get("jobs?wait=true"))
    assert await client.server.waits.get() == ("jobs", 3)
    assert client.server.asked == []
    client.server.change.set()
    async with asyncio.timeout(PATIENCE):
        assert (await polling).json == {"jobs": [f"{ROOT}/jobs/9"]}


async def test_a_list_that_waits_is_not_answered_because_of_what_changed_before() -> None:
    revision, sinces, tasks = 3, list[int](), set[asyncio.Future[None]]()

    async def ask(_command: Any) -> msgspec.Raw:
        await asyncio.sleep(0)  # the answer comes later
        return msgspec.Raw(b'{"jobs":%d}' % revision)

    async def changed(key: str, since: int, seconds: float) -> int:
        sinces.append(since)
        return await watching.changed(key, since, seconds)

    watching = Watching(ask, lambda work: tasks.add(asyncio.ensure_future(work)), lambda: 0)
    client = Client.of("reader").answering(JobNumbers=[9])
    client.server.changed = changed  # type: ignore[method-assign]

    async def poll() -> None:
        nonlocal revision
        polling = asyncio.ensure_future(client.get("jobs?wait=true"))
        await until(lambda: polling.done() or sinces[-1:] == [revision])
        assert not polling.done()
        revision += 1
        watching.hear(["jobs"])
        async with asyncio.timeout(PATIENCE):
            assert (await polling).status == 200

    await poll()  # nothing is known before it
    revision += 1
    watching.hear(["jobs"])
    await poll()  # something has changed before it


async def test_the_server_is_told_for_whom_each_time(client: Client) -> None:
    client.answering(BoardOfJob=FOUND, FindBoard=FOUND, ReportIssue=0)
    for method, path, body in PATHS:
        await client.send(method, path, *((b"", "text/plain") if body == "text" else (body, None)))
    assert {each and each.session for each in client.server.behalves} == {"s-of-alice"}


@pytest.mark.parametrize("path", ["jobs/7", "jobs/7?unusual=1", "jobs/7/machine"])
async def test_a_defect_is_left_to_what_contains_all_defects(client: Client, path: str) -> None:
    client.answering(OwnJobDetails=lambda _: ZeroDivisionError("x"), OwnJobMachine=lambda _: ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        await client.get(path)
