"""`POST jobs`: what each form of a request asks the core for, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from spalloc_server.application.commands import CreateJob
from spalloc_server.application.own_job_commands import FindBoard, OwnJobDetails
from spalloc_server.core.model import Request
from tests.frontends.http.rest.client import FOUND, JOB, MACHINE, ROOT, Client, refusal, who

TAGS = {"keepalive-interval": "PT60S", "tags": ["default"]}
ON_M = {"keepalive-interval": "PT60S", "machine-name": "m"}


@pytest.fixture
def client() -> Client:
    return Client.of("user").answering(
        CreateJob=7, OwnJobDetails=replace(JOB, state=1), FindBoard=FOUND, MachineDetailsOf=[MACHINE]
    )


def created(client: Client) -> CreateJob:
    (command,) = (command for command in client.server.asked if isinstance(command, CreateJob))
    return command


def original(client: Client) -> dict[str, Any]:
    kept = created(client).original
    assert kept is not None
    return kept


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({**TAGS}, {"boards": 1, "tags": {"default"}}),
        ({**TAGS, "num-boards": 24}, {"boards": 24, "tags": {"default"}}),
        ({**ON_M, "num-boards": 24}, {"boards": 24, "machine": "m"}),
        ({**TAGS, "tags": ["a", "b"], "max-dead-boards": 2}, {"boards": 1, "tags": {"a", "b"}, "max_dead_boards": 2}),
        ({**ON_M, "dimensions": {"width": 3, "height": 2}}, {"triads": (3, 2), "machine": "m"}),
        ({**ON_M, "board": {"x": 5, "y": 7, "z": 1}}, {"board": (5, 7, 1), "machine": "m"}),
        ({**ON_M, "board": {"cabinet": 2, "frame": 3, "board": 10}}, {"board": (5, 7, 1), "machine": "m"}),
        ({**ON_M, "board": {"address": "10.1.1.2"}}, {"board": (5, 7, 1), "machine": "m"}),
        ({**TAGS, "board": {"address": "10.1.1.2"}}, {"board": (5, 7, 1), "machine": "m"}),
        ({**TAGS, "group": "lab", "num-boards": None, "owner": None}, {"boards": 1, "tags": {"default"}}),
        ({**TAGS, "nmpi-collab": "c", "owner": " "}, {"boards": 1, "tags": {"default"}}),
        ({**TAGS, "nmpi-job-id": 5}, {"boards": 1, "tags": {"default"}}),
    ],
)
async def test_each_form_of_a_request_asks_the_core_for_the_same(
    client: Client, body: dict[str, Any], wanted: dict[str, Any]
) -> None:
    answer = await client.send("POST", "jobs", body)
    assert answer.json == {"job-id": 7, "job-ref": f"{ROOT}/jobs/7"}
    assert (answer.status, answer.headers["location"]) == (201, f"{ROOT}/jobs/7")
    wanted = {"max_dead_boards": 0, **wanted, "tags": frozenset(wanted.get("tags", ()))}
    assert created(client).request == Request(owner="alice", **wanted)
    assert created(client).keepalive == 60.0


@pytest.mark.parametrize(
    ("board", "asked"),
    [
        ({"x": 5, "y": 7, "z": 0}, FindBoard(machine="m", board=[5, 7, 0])),
        ({"cabinet": 2, "frame": 3, "board": 10}, FindBoard(machine="m", place=[2, 3, 10])),
        ({"address": "10.1.1.2"}, FindBoard(machine="m", address="10.1.1.2")),
        ({"x": 5, "y": 7, "z": 0, "address": "10.1.1.2"}, FindBoard(machine="m", board=[5, 7, 0])),
        ({"x": 5, "cabinet": 2, "frame": 3, "board": 10}, FindBoard(machine="m", place=[2, 3, 10])),
    ],
)
async def test_a_rectangle_can_be_rooted_at_a_board(client: Client, board: dict[str, Any], asked: FindBoard) -> None:
    client.answering(FindBoard=replace(FOUND, board=(5, 7, 0)))
    body = {**ON_M, "dimensions": {"width": 2, "height": 1}, "board": board}
    assert (await client.send("POST", "jobs", body)).status == 201
    assert asked in client.server.asked
    request = created(client).request
    assert (request.triads, request.root, request.board, request.machine) == ((2, 1), (5, 7), None, "m")


@pytest.mark.parametrize(
    ("having", "asked", "taken"), [("bd", ["c", "d"], "d"), ("b", ["c", "d", "b"], "b"), ("bcd", ["c"], "c")]
)
async def test_of_the_machines_with_the_tags_the_first_that_has_the_board_is_taken_one_in_service_rather(
    client: Client, having: str, asked: list[str], taken: str
) -> None:
    names = {"a": [], "b": ["default"], "c": ["default", "x"], "d": ["default"]}
    client.answering(
        MachineDetailsOf=[
            replace(MACHINE, name=name, tags=tags, in_service=name != "b") for name, tags in names.items()
        ],
        FindBoard=lambda command: replace(FOUND, machine=command.machine) if command.machine in having else None,
    )
    assert (await client.send("POST", "jobs", {**TAGS, "board": {"address": "10.1.1.2"}})).status == 201
    assert [each.machine for each in client.server.asked if isinstance(each, FindBoard)] == asked
    assert created(client).request.machine == taken


NO_MACHINE = "no machine available which matches allocation request"
KEEPALIVE = "keepalive-interval must be 30 to 300 seconds"
BOARD = {"x": 5, "y": 7, "z": 1}
SIZE = {"width": 1, "height": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"tags": ["default"]}, "keepalive-interval is required"),
        ({**TAGS, "keepalive-interval": None}, "keepalive-interval is required"),
        ({**TAGS, "keepalive-interval": "PT29.9S"}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": "PT301S"}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": "P1D"}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": "-PT60S"}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": 29}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": 300.5}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": -(2**70)}, KEEPALIVE),
        ({**TAGS, "keepalive-interval": "P1M"}, "keepalive-interval must be a duration"),
        ({**TAGS, "keepalive-interval": "P"}, "keepalive-interval must be a duration"),
        ({**TAGS, "keepalive-interval": f"PT{'9' * 60}S"}, "keepalive-interval must be a duration"),
        ({**TAGS, "keepalive-interval": "45"}, "keepalive-interval must be a duration"),
        ({**TAGS, "keepalive-interval": "banana"}, "keepalive-interval must be a duration"),
        ({**TAGS, "keepalive-interval": True}, "keepalive-interval: "),
        ({**TAGS, "machine-name": "m"}, "either machine-name or tags must be supplied"),
        ({"keepalive-interval": 60}, "either machine-name or tags must be supplied"),
        ({**TAGS, "tags": [""]}, "tags must not be blank"),
        ({**TAGS, "tags": []}, NO_MACHINE),
        ({**ON_M, "machine-name": " "}, NO_MACHINE),
        ({**ON_M, "num-boards": 0}, "number of boards must be at least 1 if given"),
        ({**ON_M, "num-boards": -1}, "number of boards must be at least 1 if given"),
        ({**ON_M, "num-boards": 2**60}, "num-boards: "),
        ({**ON_M, "num-boards": 10**400}, "num-boards: "),
        ({**ON_M, "num-boards": "1"}, "num-boards: "),
        ({**ON_M, "num-boards": 1.5}, "num-boards: "),
        ({**ON_M, "num-boards": 1, "dimensions": SIZE}, "either specify num-boards or dimensions and/or board"),
        ({**ON_M, "num-boards": 1, "board": BOARD}, "either specify num-boards or dimensions and/or board"),
        ({**ON_M, "dimensions": {"width": 0, "height": 1}}, "dimensions.width: "),
        ({**ON_M, "dimensions": {"width": 1}}, "dimensions: "),
        ({**ON_M, "board": {}}, "at least one way of identifying a board must be given"),
        ({**ON_M, "board": {"x": 1, "y": 2}}, "at least one way of identifying a board must be given"),
        ({**ON_M, "board": {"x": 1, "y": 2, "z": 3}}, "board.z: "),
        ({**ON_M, "board": {"x": -1, "y": 2, "z": 0}}, "board.x: "),
        ({**ON_M, "board": {"address": ""}}, "board.address: must not be blank"),
        ({**ON_M, "dimensions": SIZE, "board": BOARD}, NO_MACHINE),  # its z is not 0
        ({**ON_M, "max-dead-boards": -1}, "max-dead-boards may not be negative"),
        ({**ON_M, "owner": "bob"}, "Only admin and NMPI users can specify an owner"),
        ({**ON_M, "group": "lab", "nmpi-job-id": 5}, "At most one of group, nmpiCollabId or nmpiJobId"),
        ({**ON_M, "bogus": 1}, "the body: Object contains unknown field `bogus`"),
        ({**TAGS, "tags": ["x"] * 17}, "tags: "),
        ({**TAGS, "tags": ["x" * 257]}, "tags[0]: "),
        ([], "the body: "),
    ],
)
async def test_what_makes_no_sense_is_refused_and_no_job_is_made(client: Client, body: Any, said: str) -> None:
    answer = await client.send("POST", "jobs", body)
    assert (answer.status, answer.text[: len(said)]) == (400, said)
    assert not any(isinstance(command, CreateJob) for command in client.server.asked)


@pytest.mark.parametrize("found", [None, refusal("no-such", "there is no machine m")])
async def test_a_board_that_is_not_there_is_refused(client: Client, found: Any) -> None:
    client.answering(FindBoard=found)
    answer = await client.send("POST", "jobs", {**ON_M, "board": {"address": "10.9.9.9"}})
    assert answer.summary == (400, f"{NO_MACHINE}: there is no such board")


async def test_a_job_that_no_machine_can_serve_is_refused_with_the_reason(client: Client) -> None:
    client.answering(OwnJobDetails=replace(JOB, state=4, ended_at=1.0, reason="Cancelled: No machine has 2000 boards."))
    answer = await client.send("POST", "jobs", {**ON_M, "num-boards": 2000})
    assert answer.summary == (400, "No machine has 2000 boards.")
    assert client.server.asked[-1] == OwnJobDetails(job_id=7)


@pytest.mark.parametrize("role", ["operator", "admin"])
async def test_who_operates_may_create_jobs_for_others(client: Client, role: str) -> None:
    answer = await client.send("POST", "jobs", {**ON_M, "owner": "bob"}, caller=who(role, "root"))
    assert answer.status == 201
    assert created(client).request.owner == "bob"
    assert original(client)["owner"] == "bob"


NOTHING_MORE: dict[str, Any] = {
    "group": None,
    "nmpi-collab": None,
    "nmpi-job-id": None,
    "num-boards": None,
    "dimensions": None,
    "board": None,
    "machine-name": None,
    "tags": [],
    "max-dead-boards": 0,
}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({**ON_M, "num-boards": 3}, {"num-boards": 3, "machine-name": "m"}),
        ({**TAGS, "group": "lab", "max-dead-boards": 1}, {"tags": ["default"], "group": "lab", "max-dead-boards": 1}),
        ({**TAGS, "nmpi-job-id": 5}, {"tags": ["default"], "nmpi-job-id": 5}),
        ({**TAGS, "nmpi-collab": "c"}, {"tags": ["default"], "nmpi-collab": "c"}),
        ({**ON_M, "dimensions": SIZE}, {"machine-name": "m", "dimensions": SIZE}),
        (
            {**ON_M, "board": {"cabinet": 2, "frame": 3, "board": 10}},
            {
                "machine-name": "m",
                "board": {**dict.fromkeys("xyz"), "cabinet": 2, "frame": 3, "board": 10, "address": None},
            },
        ),
    ],
)
async def test_the_job_keeps_the_request_in_its_own_words(
    client: Client, body: dict[str, Any], kept: dict[str, Any]
) -> None:
    await client.send("POST", "jobs", body)
    assert original(client) == {**NOTHING_MORE, "owner": "alice", "keepalive-interval": 60.0, **kept}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("PT30S", 30.0), ("pt1m", 60.0), ("PT0.75M", 45.0), ("PT300S", 300.0), (45.5, 45.5), (30, 30)],
)
async def test_a_keepalive_is_a_duration_or_a_number(client: Client, given: Any, seconds: float) -> None:
    await client.send("POST", "jobs", {**TAGS, "keepalive-interval": given})
    assert created(client).keepalive == seconds
    assert original(client)["keepalive-interval"] == seconds


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{not json", "application/json", 400, "the body is not JSON"),
        (b"", "application/json", 400, "the body is empty"),
        (b"null", "application/json", 400, "the body: "),
        (b'{"owner": "\xff"}', "application/json", 400, "the body is not "),
        (b"\xff\xfe{\x00}\x00", "application/json", 400, "the body is not "),
        (b'{"tags": ' + b"[" * 100_000, "application/json", 400, "tags[0]: "),
        (b"[" * 100_000, "application/json", 400, "the body"),
        (b'{"bogus": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 400, "the body"),
        (b'{"num-boards": 1e400}', "application/json", 400, "num-boards: "),
        (b'{"num-boards": NaN}', "application/json", 400, "the body is not JSON"),
        (json.dumps(TAGS).encode(), "text/plain", 415, "the content type must be application/json"),
        (json.dumps(TAGS).encode(), None, 415, "the content type must be application/json"),
        (b"x=1", "application/x-www-form-urlencoded", 415, "the content type must be application/json"),
        (b"\x80", "application/x-msgpack", 415, "the content type must be application/json"),
        (b"--x", "multipart/form-data; boundary=x", 415, "the content type must be application/json"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    client: Client, body: bytes, kind: str | None, status: int, said: str
) -> None:
    answer = await client.send("POST", "jobs", body, kind)
    assert (answer.status, answer.text[: len(said)]) == (status, said)
    assert client.server.asked == []


async def test_a_text_may_have_a_nul_and_comes_back_as_it_is(client: Client) -> None:
    await client.send("POST", "jobs", {**TAGS, "group": "a\0b\N{SNOWMAN}<script>"})
    assert original(client)["group"] == "a\0b\N{SNOWMAN}<script>"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/json;x=y"])
async def test_the_content_type_may_have_parameters(client: Client, kind: str) -> None:
    assert (await client.send("POST", "jobs", json.dumps(TAGS).encode(), kind)).status == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_of_another_length_is_refused_by_its_name(client: Client, key: str) -> None:
    answer = await client.send("POST", "jobs", TAGS, key=key)
    assert (answer.status, answer.text[:28]) == (400, "Idempotency-Key: Expected `s")
    assert client.server.asked == []
