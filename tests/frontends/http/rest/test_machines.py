"""Machines, and where things are on them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from spalloc_server.application.own_job_commands import BoardPlace, FindBoard, MachineDetailsOf
from spalloc_server.frontends.http.rest.machines import _link
from spalloc_server.links import Links
from tests.frontends.http.rest.client import FOUND, MACHINE, ROOT, Client, refusal
from tests.house import PATIENCE

DEAD = {"x": 1, "y": 1, "z": 2, "cabinet": None, "frame": None, "board": None, "address": None}
HERE = {"x": 0, "y": 0, "z": 0, "cabinet": 0, "frame": 0, "board": 0, "address": "10.1.1.1"}
DOWN_LINKS = [[{"board": HERE, "direction": "N"}, {"board": DEAD, "direction": "S"}]]


@pytest.fixture
def client() -> Client:
    return Client.of("reader").answering(MachineDetailsOf=[MACHINE], FindBoard=FOUND)


async def test_machines_in_service_are_listed(client: Client) -> None:
    client.answering(MachineDetailsOf=[MACHINE, replace(MACHINE, name="drained", in_service=False)])
    assert (await client.get("machines")).json == {
        "machines": [
            {
                "name": "m",
                "tags": ["default"],
                "uri": f"{ROOT}/machines/m",
                "width": 2,
                "height": 2,
                "dead-boards": [DEAD],
                "dead-links": DOWN_LINKS,
            }
        ]
    }


async def test_a_machine_is_described(client: Client) -> None:
    assert (await client.get("machines/m")).json == {
        "name": "m",
        "tags": ["default"],
        "width": 2,
        "height": 2,
        "down-boards": [DEAD],
        "down-links": DOWN_LINKS,
        "lookup-by-physical-board": f"{ROOT}/machines/m/physical-board",
        "lookup-by-logical-board": f"{ROOT}/machines/m/logical-board",
        "lookup-by-chip": f"{ROOT}/machines/m/chip",
        "lookup-by-address": f"{ROOT}/machines/m/board-ip",
    }
    assert client.server.asked == [MachineDetailsOf(name="m")]


def test_directions_are_those_of_the_links() -> None:
    place = BoardPlace(board=(0, 0, 0), place=(0, 0, 0), address="x")
    words = {link.name: _link(place, link, place, link.opposite) for link in Links}
    assert {name: (one.direction, other.direction) for name, (one, other) in words.items()} == {
        "north": ("N", "S"),
        "north_east": ("E", "W"),
        "east": ("SE", "NW"),
        "south": ("S", "N"),
        "south_west": ("W", "E"),
        "west": ("NW", "SE"),
    }


async def test_the_description_can_wait_for_a_change(client: Client) -> None:
    client.server.revisions["machine/m"] = 5
    polling = asyncio.ensure_future(client.get("machines/m?wait=true"))
    assert await client.server.waits.get() == ("machine/m", 5)
    client.answering(MachineDetailsOf=[replace(MACHINE, down_boards=[])])
    client.server.change.set()
    async with asyncio.timeout(PATIENCE):
        assert (await polling).json["down-boards"] == []


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("logical-board", FindBoard(machine="m", board=[0, 0, 0])),
        ("logical-board?x=3&y=2&z=1", FindBoard(machine="m", board=[3, 2, 1])),
        ("logical-board?x=20&y=0&z=5", FindBoard(machine="m", board=[20, 0, 5])),
        ("physical-board", FindBoard(machine="m", place=[0, 0, 0])),
        ("physical-board?cabinet=1&frame=2&board=3", FindBoard(machine="m", place=[1, 2, 3])),
        ("chip", FindBoard(machine="m", chip=[0, 0])),
        ("chip?x=300&y=16", FindBoard(machine="m", chip=[300, 16])),
        ("board-ip?address=10.1.1.2", FindBoard(machine="m", address="10.1.1.2")),
        ("board-ip?address=zzz", FindBoard(machine="m", address="zzz")),
    ],
)
async def test_each_way_to_name_a_place(client: Client, path: str, asked: FindBoard) -> None:
    answer = await client.get(f"machines/m/{path}")
    assert client.server.asked == [asked]
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


async def test_a_board_that_no_job_has_is_told_without_one(client: Client) -> None:
    client.answering(FindBoard=replace(FOUND, job_id=None, job_chip=None))
    answer = await client.get("machines/m/chip?x=69&y=89")
    assert answer.json.keys().isdisjoint({"job-id", "job-ref", "job-chip"})


@pytest.mark.parametrize("path", ["logical-board?x=1", "physical-board", "chip", "board-ip?address=1.1.1.1"])
async def test_a_place_that_is_not_there_is_told(client: Client, path: str) -> None:
    client.answering(FindBoard=None)
    assert (await client.get(f"machines/m/{path}")).summary == (404, "failed to locate board")


@pytest.mark.parametrize("path", ["", "/logical-board", "/physical-board", "/chip", "/board-ip?address=1.1.1.1"])
async def test_a_machine_that_is_not_there_is_told(client: Client, path: str) -> None:
    client.answering(FindBoard=refusal("no-such"), MachineDetailsOf=refusal("no-such"))
    assert (await client.get(f"machines/nope{path}")).summary == (404, "no such machine")


BAD = ["%2B1", "1_0", "%EF%BC%91", "-1", "abc", "", "1.5", "%00", "%FF", "9" * 400, "1%20", "0x1", "NaN", "true"]


@pytest.mark.parametrize("number", BAD)
@pytest.mark.parametrize("path", ["logical-board?z=", "physical-board?frame=", "chip?y="])
async def test_coordinates_that_are_no_numbers_are_refused(client: Client, path: str, number: str) -> None:
    answer = await client.get(f"machines/m/{path}{number}")
    assert (answer.status, answer.text.partition(":")[0]) == (400, path.partition("?")[2].rstrip("="))
    assert client.server.asked == []


async def test_an_address_must_be_given_to_look_for_one(client: Client) -> None:
    answer = await client.get("machines/m/board-ip")
    assert answer.status == 400
    assert "address" in answer.text


@pytest.mark.parametrize("name", ["a b", "\N{SNOWMAN}", "a?b", "a%b", "..", "<script>", "x" * 300, "a\0b", "{x}", "+"])
async def test_a_machine_may_have_any_name(client: Client, name: str) -> None:
    def told(command: Any) -> Any:
        return [replace(MACHINE, name=command.name)]

    client.answering(MachineDetailsOf=told)
    answer = await client.send("GET", f"/spalloc/srv/spalloc/machines/{quote(name)}")
    assert answer.json["name"] == name
    assert answer.json["lookup-by-chip"].startswith(f"{ROOT}/machines/")
    assert answer.json["lookup-by-chip"].isascii()
