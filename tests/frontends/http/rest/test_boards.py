"""Memory and routers of a job's boards, and reports of boards that do not work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from spalloc_server.application.own_job_commands import BoardOfJob, FindBoard, ReportIssue
from spalloc_server.frontends.http.answers import Receive, Scope, Send
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.boards.fast import Core, Gatherer
from spalloc_server.frontends.http.boards.pieces import Pieces
from spalloc_server.frontends.http.rest import boards as module
from tests.frontends.http.rest.client import FOUND, JOB, Client
from tests.frontends.http.serving import door
from tests.house import PATIENCE

BYTES = "application/octet-stream"


@pytest.fixture
def client() -> Client:
    return Client.of("user")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("address=4110450434&size=2&x=255&y=255", ("read", 7, 255, 255, 4110450434, 2)),
        ("address=0&size=0", ("read", 7, 0, 0, 0, 0)),
        ("address=4294967295&size=1&y=3", ("read", 7, 0, 3, 2**32 - 1, 1)),
        ("address=1610612737&size=999", ("read", 7, 0, 0, 0x60000001, 999)),
    ],
)
async def test_memory_is_read(client: Client, query: str, told: tuple[Any, ...]) -> None:
    answer = await client.get(f"jobs/7/memory?{query}")
    assert (answer.status, answer.headers["content-type"], answer.body) == (
        200,
        BYTES,
        b"0" * (told[-1] // 2) + b"1" * (told[-1] - told[-1] // 2),
    )
    assert client.boards.told == [told]


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 3, b"\xff\x00"])
async def test_memory_is_written(client: Client, data: bytes) -> None:
    answer = await client.send("POST", "jobs/7/memory?x=1&y=2&address=1610612736", data, BYTES)
    assert (answer.status, answer.body) == (202, b"")
    assert client.boards.told == [("write", 7, 1, 2, 0x60000000, data)]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", {}),
        ("14=33535473&15=33519089", {14: 0x01FFB5F1, 15: 0x01FF75F1}),
        ("0=0&1=4294967295", {0: 0, 1: 2**32 - 1}),
    ],
)
async def test_routers_are_reset(client: Client, query: str, told: dict[int, int]) -> None:
    answer = await client.send("DELETE", f"jobs/7/router?{query}")
    assert (answer.status, answer.body) == (202, b"")
    assert client.boards.told == [("reset router", 7, told)]


@pytest.mark.parametrize(
    "query", ["16=1", "-1=1", "x=1", "1=x", "1=4294967296", "1=1&1=2", "1=", "=1", "+1=1", "%EF%BC%91=1", "1_0=1"]
)
async def test_filters_that_make_no_sense_are_refused(client: Client, query: str) -> None:
    assert (await client.send("DELETE", f"jobs/7/router?{query}")).status == 400
    assert client.boards.told == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "address=1",
        "size=1",
        "address=4294967296&size=1",
        "address=-1&size=1",
        "address=1&size=4294967297",
        "address=1&size=-1",
        "address=1&size=1&x=256",
        "address=0x60&size=1",
    ],
)
async def test_memory_that_there_is_not_is_refused(client: Client, query: str) -> None:
    assert (await client.get(f"jobs/7/memory?{query}")).status == 400
    assert client.boards.told == []


async def test_reading_that_breaks_off_ends_the_connection_and_not_the_answer(client: Client) -> None:
    client.boards.breaks = True
    with structlog.testing.capture_logs() as log:
        assert (await client.get("jobs/7/memory?address=0&size=12")).body == b"0" * 6 + b"1" * 6
    assert not client.complete
    (told,) = log
    assert (told["event"], told["reason"]) == (
        "memory is not read to its end",
        "board 10.1.1.1 does not answer any more",
    )


async def test_a_client_that_hardly_reads_loses_its_place(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_SECONDS", 0.01)
    client.reads.clear()
    with structlog.testing.capture_logs() as log:
        assert (await client.get("jobs/7/memory?address=0&size=10")).body == b""
    assert not client.complete
    assert log[0]["reason"] == "the client hardly reads"
    with pytest.raises(StopAsyncIteration):
        await anext(client.boards.read_from[0])


async def test_no_more_is_read_once_the_client_has_left(client: Client) -> None:
    client.left.set()
    answer = await client.get("jobs/7/memory?address=0&size=10")
    assert answer.body == b"00000"
    with pytest.raises(StopAsyncIteration):
        await anext(client.boards.read_from[0])


async def test_what_is_read_from_is_closed_in_the_end(client: Client) -> None:
    await client.get("jobs/7/memory?address=0&size=10")
    with pytest.raises(StopAsyncIteration):
        await anext(client.boards.read_from[0])


GATHERER = "gather_x=1&gather_y=2&iptag=3&eth_x=0&eth_y=4&eth_address=10.1.1.1"


async def test_memory_is_read_fast(client: Client) -> None:
    answer = await client.get(f"jobs/7/fast-data-read?{GATHERER}&x=5&y=6&p=7&address=8&size=9")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "9", b"000011111")
    gatherer = Gatherer(Core(1, 2, 0), (0, 4), 3, "10.1.1.1")
    assert client.boards.told == [("read fast", 7, gatherer, Core(5, 6, 7), 8, 9)]


async def test_memory_is_written_fast(client: Client) -> None:
    path = f"jobs/7/fast-data-write?{GATHERER}&gather_p=11&x=5&y=6&address=8"
    assert (await client.send("POST", path, b"data", BYTES)).summary == (202, "")
    gatherer = Gatherer(Core(1, 2, 11), (0, 4), 3, "10.1.1.1")
    assert client.boards.told == [("write fast", 7, gatherer, 5, 6, 8, b"data")]


async def test_the_board_of_a_gatherer_is_the_first_where_it_is_not_named(client: Client) -> None:
    await client.get("jobs/7/fast-data-read?gather_x=1&gather_y=2&iptag=3&address=8&size=9")
    assert client.boards.told == [("read fast", 7, Gatherer(Core(1, 2, 0), (0, 0), 3), Core(0, 0, 0), 8, 9)]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "*/*", "application/x-www-form-urlencoded"])
async def test_only_bytes_are_written(client: Client, kind: str) -> None:
    assert (await client.send("POST", "jobs/7/memory?address=0", b"1", kind)).status == 415
    path = f"jobs/7/fast-data-write?{GATHERER}&gather_p=1&address=0"
    assert (await client.send("POST", path, b"1", kind)).status == 415
    assert client.boards.told == []


async def test_what_is_of_no_named_type_is_bytes(client: Client) -> None:
    assert (await client.send("POST", "jobs/7/memory?address=0", b"1")).status == 202
    path = f"jobs/7/fast-data-write?{GATHERER}&gather_p=1&address=0"
    assert (await client.send("POST", path, b"1")).status == 202
    assert [told[-1] for told in client.boards.told] == [b"1", b"1"]


OPERATIONS = [
    ("GET", "jobs/7/memory?address=0&size=1", None),
    ("POST", "jobs/7/memory?address=0", BYTES),
    ("GET", f"jobs/7/fast-data-read?{GATHERER}&address=0&size=1", None),
    ("POST", f"jobs/7/fast-data-write?{GATHERER}&gather_p=1&address=0", BYTES),
    ("DELETE", "jobs/7/router", None),
]


@pytest.mark.parametrize(("method", "path", "kind"), OPERATIONS)
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RefusedError("no-such", "there is no job 7, or none of alice"), 404, "no such job"),
        (RefusedError("bad-request", "the job has no chip (9, 9)"), 400, "the job has no chip (9, 9)"),
        (RefusedError("hardware", "board 10.1.1.1 does not answer"), 500, "board 10.1.1.1 does not answer"),
    ],
)
async def test_what_the_boards_do_not_do_is_told(
    client: Client, method: str, path: str, kind: str | None, error: Exception, status: int, said: str
) -> None:
    client.boards.error = error
    assert (await client.send(method, path, b"", kind)).summary == (status, said)


# -------------------------------------------------------------------- boards that do not work


@pytest.fixture
def reporting(client: Client) -> Client:
    return client.answering(OwnJobDetails=JOB, FindBoard=FOUND, BoardOfJob=FOUND, ReportIssue=0)


@pytest.mark.parametrize(
    ("board", "asked"),
    [
        ({"chip": [9, 5]}, BoardOfJob(job_id=7, chip=[9, 5])),
        ({"x": 5, "y": 7, "z": 1}, FindBoard(machine="m", board=[5, 7, 1])),
        ({"machine": "other", "x": 5, "y": 7, "z": 1}, FindBoard(machine="m", board=[5, 7, 1])),
        ({"cabinet": 2, "frame": 3, "board": 10}, FindBoard(machine="m", place=[2, 3, 10])),
        ({"address": "10.1.1.2"}, FindBoard(machine="m", address="10.1.1.2")),
    ],
)
@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "report noted"), (1, "1 boards taken out of service"), (3, "3 boards taken out of service")],
)
async def test_boards_are_reported(reporting: Client, board: Any, asked: Any, number: int, said: str) -> None:
    reporting.answering(ReportIssue=number)
    answer = await reporting.send("POST", "jobs/7/report-issue", {"issue": "smoke", "boards": [board]})
    assert (answer.status, answer.json) == (200, {"action": said})
    assert reporting.server.asked[1:] == [asked, ReportIssue(job_id=7, boards=["10.1.1.2"], issue="smoke")]


@pytest.mark.parametrize(
    ("board", "found", "said"),
    [
        ({"chip": [50, 51]}, None, "chip at (50,51) not in job's allocation"),
        ({"x": 50, "y": 8, "z": 0}, None, "triad (50,8,0) not in machine"),
        ({"cabinet": 30, "frame": 1, "board": 1}, None, "physical board [30,1,1] not in machine"),
        ({"address": "127.9.9.9"}, None, "board at 127.9.9.9 not in machine"),
        ({"x": 5, "y": 8, "z": 0}, replace(FOUND, job_id=8), "triad (5,8,0) not allocated to job 7"),
        ({"cabinet": 3, "frame": 1, "board": 1}, replace(FOUND, job_id=None), "physical board [3,1,1] not allocated"),
        ({"address": "127.1.1.1"}, replace(FOUND, job_id=None), "board at 127.1.1.1 not allocated to job 7"),
    ],
)
async def test_a_board_of_others_is_not_reported(reporting: Client, board: Any, found: Any, said: str) -> None:
    reporting.answering(FindBoard=found, BoardOfJob=found)
    boards = [board, {"x": 5, "y": 7, "z": 1}]
    answer = await reporting.send("POST", "jobs/7/report-issue", {"issue": "smoke", "boards": boards})
    assert answer.status == 200
    assert answer.json["action"].startswith(said)
    assert not any(isinstance(command, ReportIssue) for command in reporting.server.asked)


async def test_a_job_that_waits_has_no_board_to_report(reporting: Client) -> None:
    reporting.answering(OwnJobDetails=replace(JOB, state=1, machine=None))
    body = {"issue": "smoke", "boards": [{"address": "10.1.1.1"}]}
    answer = await reporting.send("POST", "jobs/7/report-issue", body)
    assert answer.json == {"action": "board at 10.1.1.1 not in machine"}


@pytest.mark.parametrize(
    "body",
    [
        {"issue": "", "boards": [{"chip": [0, 0]}]},
        {"issue": " \n", "boards": [{"chip": [0, 0]}]},
        {"issue": "x" * 1001, "boards": [{"chip": [0, 0]}]},
        {"issue": "x", "boards": []},
        {"issue": "x"},
        {"boards": [{"chip": [0, 0]}]},
        {"issue": "x", "boards": [{}]},
        {"issue": "x", "boards": [{"machine": "m"}]},
        {"issue": "x", "boards": [{"chip": [0]}]},
        {"issue": "x", "boards": [{"chip": [0, 0, 0]}]},
        {"issue": "x", "boards": [{"chip": [-1, 0]}]},
        {"issue": "x", "boards": [{"bogus": 1}]},
    ],
)
async def test_a_report_that_says_nothing_is_refused(reporting: Client, body: Any) -> None:
    assert (await reporting.send("POST", "jobs/7/report-issue", body)).status == 400
    assert not any(isinstance(command, ReportIssue) for command in reporting.server.asked)


async def test_memory_is_read_no_faster_than_its_client_reads_and_not_for_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PIECE_SECONDS", 0.3)
    read, closed = 0, asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal read
        try:
            while True:
                read += 1
                await asyncio.sleep(0)
                yield bytes(2**18)
        finally:
            closed.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await module._Sent(Pieces([], pieces()), 2**30)(scope, receive, send)

    async with door(app) as it:
        reader = await asyncio.open_connection(*it.acceptor.address, limit=2**16)
        reader[1].write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
        assert read < 100, "some megabytes are in buffers of the system"
        reader[1].transport.abort()
        assert it.defects.count == 0
