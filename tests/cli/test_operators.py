"""`spalloc-admin` for operators: which server is meant, what people see, and what programs get."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from spalloc_server.cli import running_server
from spalloc_server.cli.admin import main
from spalloc_server.cli.machines import show_boards, show_machines
from spalloc_server.controller import BoardFailure, Outcome
from spalloc_server.core.model.views import BoardView, MachineView
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.server import Server
from tests.house import Client, Place

READY = 3


pytestmark = pytest.mark.usefixtures("quiet")


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[tuple[Server, Client]]:
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        try:
            yield server, client
        finally:
            await client.close()


async def admin(place: Place | None, *arguments: object) -> Result:
    where = [] if place is None else ["--state", place.state]
    line = [str(argument) for argument in (*arguments, *where)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


async def words(place: Place, *arguments: object) -> str:
    """What a command that succeeds prints, its spaces single."""
    result = await admin(place, *arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


async def data(place: Place, *arguments: object) -> Any:
    result = await admin(place, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


async def complaint(place: Place | None, *arguments: object) -> str:
    result = await admin(place, *arguments)
    assert result.exit_code == 1, result.output
    return result.stderr


async def test_the_server_is_the_one_that_runs_in_this_folder_unless_one_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(place.folder)
    assert "no server runs in this folder" in await complaint(None, "status")
    assert f"no server runs with the state {place.state}" in await complaint(place, "status")
    other = Place(tmp_path_factory.mktemp("other"))
    other.configure(name="n")
    async with serving(place), serving(other):
        assert "\nm " in (await admin(None, "machines")).output
        assert (await words(other, "machines")).count(" n 2x2 12 0 12 ") == 1
        assert "\nn " in (await admin(None, "machines", "--config", other.config)).output
        socket_path(place.folder / "second.db").symlink_to(socket_path(other.state))
        assert "several servers run in this folder" in await complaint(None, "status")


async def test_status_is_for_people_and_with_json_for_programs(place: Place) -> None:
    async with serving(place) as (server, client):
        job_id = await client.create(3)
        await client.until(job_id, READY)
        shown = await words(place, "status")
        assert f"port {server.address[1]}" in shown
        assert "jobs: 1 ready" in shown
        assert "machine triads boards in use free jobs m 2x2 12 3 9 1" in shown
        assert (await data(place, "status"))["jobs"] == {"ready": 1}


async def test_jobs_are_listed_explained_and_ended(place: Place) -> None:
    async with serving(place) as (_, client):
        job_id = await client.create(12, owner="ann")
        await client.until(job_id, READY)
        waiting = await client.create(3, owner="bob", machine="m")
        shown = await words(place, "jobs")
        assert f"{job_id} ann ready 12 boards m 12" in shown
        assert f"1 {waiting} bob 3 boards machine=m" in shown
        assert "queue" in await words(place, "explain", waiting)
        explained = await words(place, "explain", waiting, "--json")
        assert '"position": 1' in explained
        assert f'"held_by": [ {job_id} ]' in explained
        assert f"in line number 1 held by job {job_id} predicted to start at" in await words(place, "job", waiting)
        one = await words(place, "job", job_id)
        assert "owner ann, last from 127.0.0.1" in one
        assert "(1,1,2)" in one
        await words(place, "kill", job_id, "--reason", "night")
        assert "night" in await words(place, "explain", job_id)
        await client.until(waiting, READY)


async def test_boards_and_frames_go_out_of_service_and_come_back(place: Place) -> None:
    async with serving(place):
        assert "board 0,0,1 of m (0/0/1): out of service: smells" in await words(
            place, "board", "disable", "m", 0, 0, 1, "--reason", "smells"
        )
        assert "0,0,1" in await words(place, "boards", "--bad")
        assert len(await data(place, "boards", "m")) == 12
        assert await words(place, "frame", "disable", "m", 0, 0, "--reason", "fans")
        assert "cabinet 0, frame 0" in await words(place, "status")
        assert "is disabled by" in await words(place, "machines")
        await words(place, "frame", "enable", "m", 0, 0)
        assert "free" in await words(place, "board", "enable", "m", 0, 0, 1)
        assert await data(place, "boards", "--bad") == []
        assert "all boards are in service" in await words(place, "boards", "--bad")
        assert "m has no board 7,7,7" in await complaint(place, "board", "enable", "m", 7, 7, 7)


async def test_a_machine_is_drained_and_opened_again(place: Place) -> None:
    async with serving(place):
        await words(place, "drain", "m")
        assert "maintenance" in await words(place, "machines")
        await words(place, "drain", "m", "--reason", "moving house")
        assert "moving house" in await words(place, "machines")
        await words(place, "undrain", "m")
        assert "moving house" not in await words(place, "machines")


async def test_an_emergency_stop_needs_a_yes(place: Place) -> None:
    async with serving(place) as (_, client):
        job_id = await client.create(3)
        await client.until(job_id, READY)
        assert "add --yes" in await complaint(place, "emergency-stop")
        assert (await client.call("get_job_state", job_id))["state"] == READY
        await words(place, "emergency-stop", "--yes", "--reason", "smoke")
        assert "EMERGENCY STOP by" in await words(place, "status")
        await words(place, "resume")
        assert "EMERGENCY" not in await words(place, "status")


async def test_boards_are_power_cycled_and_their_temperatures_read(place: Place) -> None:
    async with serving(place):
        shown = await words(place, "power-cycle", "m", 1, 1, 2)
        assert shown == "board 1,1,2 of m (0/0/11): passed"
        shown = await words(place, "read-temperatures", "m", 0, 0)
        assert "1,1,2 0/0/11 30.0 30.0" in shown
        assert "give both CABINET and FRAME" in await complaint(place, "read-temperatures", "m", 0)


async def test_a_power_cycle_of_a_disabled_board_tells_whether_its_repair_has_helped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(place) as (server, _):
        await words(place, "board", "disable", "m", 0, 0, 1, "--reason", "smells")
        for options in ([], ["--json"]):
            result = await admin(place, "power-cycle", "m", 0, 0, 1, *options)
            assert result.exit_code == 0, result.output
            assert "passed" in result.output
            assert "smells" in result.output
        switched = server.controller.switched

        def no_fpga(outcome: Outcome) -> None:
            switched(Outcome(outcome.operation, (BoardFailure(place.hosts[0], 1, "no FPGA"),)))

        monkeypatch.setattr(server.controller, "switched", no_fpga)
        for options in ([], ["--json"]):
            result = await admin(place, "power-cycle", "m", 0, 0, 1, *options)
            assert result.exit_code == 1, result.output
            assert "failed: no FPGA" in result.output


async def test_a_blacklist_is_shown_and_set(place: Place) -> None:
    async with serving(place) as (_, client):
        assert await words(place, "blacklist", "show", "m", 0, 0, 1) == (
            "the blacklist is empty: nothing is known to be broken"
        )
        (shown,) = await data(place, "blacklist", "show", "m", 0, 0, 1)
        assert shown == {"machine": "m", "x": 0, "y": 0, "z": 1, "answer": [], "error": None}
        file = place.folder / "blacklist"
        file.write_text("chip 1 2 dead\n\nchip 3 4 core 1 link 2\n")
        assert "2 lines written" in await words(place, "blacklist", "set", "m", 0, 0, 1, file)
        (shown,) = await data(place, "blacklist", "show", "m", 0, 0, 1)
        assert shown["answer"] == ["chip 1 2 dead", "chip 3 4 core 1 link 2"]
        job_id = await client.create(0, 0, 1)
        refused = await admin(place, "blacklist", "set", "m", 0, 0, 1, file)
        assert refused.exit_code == 1
        assert f"NOT DONE: job {job_id} has board" in refused.stdout
        assert "no board 9,9,9" in await complaint(place, "blacklist", "show", "m", 9, 9, 9)


# -------------------------------------------------------------------- lost connections


class Replies:
    """A socket that answers each connection's request with the next of these, or by closing it where it is empty."""

    def __init__(self, path: Path, *replies: bytes) -> None:
        self.requests: list[bytes] = []
        self._replies = list(replies)
        self._path = path

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"hello" in await reader.readline()
        self.requests.append(await reader.readline())
        writer.write(self._replies.pop(0))
        writer.close()


HELLO = b'{"hello": {"protocol": 1, "version": "1", "program": "spalloc_server"}}\n'
AGAIN = b'{"exception": "the server was upgraded: send it again", "again": true}\n'
BUSY = HELLO + b'{"id": 1, "error": {"code": "busy", "text": "not now", "again": true}}\n'
OTHERS = HELLO + b'{"changed": ["jobs"]}\n{"id": 7, "error": {"code": "x", "text": "y"}}\n{"id": 2, "return": 1}\n'
DONE = OTHERS + HELLO + b'{"id": 1, "return": null}\n'


@pytest.mark.parametrize(
    ("command", "replies"),
    [
        (("emergency-stop", "--yes"), [b"", b"", DONE]),
        (("emergency-stop", "--yes"), [AGAIN, b"", AGAIN, DONE]),
        (("resume",), [AGAIN, AGAIN, DONE]),
        (("kill", 7, "--reason", "night"), [AGAIN, DONE]),
        (("kill", 7, "--reason", "night"), [BUSY, AGAIN, BUSY, DONE]),
        (("drain", "m"), [b"", DONE]),
    ],
)
async def test_a_request_is_sent_again_where_that_is_safe(
    place: Place, command: tuple[object, ...], replies: list[bytes]
) -> None:
    async with Replies(socket_path(place.state), *replies) as server:
        await words(place, *command)
    assert len(server.requests) == len(replies)
    assert len(set(server.requests)) == 1


@pytest.mark.parametrize("command", [("resume",), ("undrain", "m"), ("kill", 7, "--reason", "night")])
async def test_a_request_that_may_have_been_done_is_not_sent_again(place: Place, command: tuple[object, ...]) -> None:
    async with Replies(socket_path(place.state), b"", DONE) as server:
        assert "the server has ended" in await complaint(place, *command)
    assert len(server.requests) == 1


async def test_a_request_is_sent_again_for_some_seconds_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_server, "AGAIN_SECONDS", 0.0)
    async with Replies(socket_path(place.state), b"", DONE) as server:
        assert "the server has ended" in await complaint(place, "emergency-stop", "--yes")
    assert len(server.requests) == 1


async def test_a_last_word_is_read_though_the_connection_is_closed(place: Place) -> None:
    last = b'{"exception": "enough"}\n'
    async with Replies(socket_path(place.state), last) as server:
        assert "enough" in await complaint(place, "resume")
    assert len(server.requests) == 1


async def test_why_a_request_was_not_done_is_told(place: Place) -> None:
    refused = HELLO + b'{"id": 1, "error": {"code": "bad-request", "text": "there is no live job 7", "again": false}}\n'
    async with Replies(socket_path(place.state), refused):
        assert "there is no live job 7" in await complaint(place, "kill", 7, "--reason", "night")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'{"exception": "Object missing required field `command`"}\n', "the server is older than this spalloc-admin"),
        (b'{"exception": "speaks version 2", "code": "protocol"}\n', "speaks version 2"),
    ],
)
async def test_a_server_of_another_version_is_told_apart(place: Place, said: bytes, told: str) -> None:
    async with Replies(socket_path(place.state), said) as server:
        assert told in await complaint(place, "status")
    assert len(server.requests) == 1


# -------------------------------------------------------------------- text from users


HOSTILE = "red\x1b[31m\x9b1m\u202e:skull:\x7f\n[b]9 root ready"
SHOWN = r"red\x1b[31m\x9b1m\u202e:skull:\x7f\n[b]9 root ready"


async def test_what_users_and_operators_have_typed_is_shown_escaped_and_is_data_in_json(place: Place) -> None:
    async with serving(place) as (_, client):
        job_id = await client.create(3, owner=HOSTILE)
        status = await client.until(job_id, READY)
        assert status["state"] == READY
        board = (await client.call("get_job_machine_info", job_id))["connections"][0][1]
        await client.call("report_problem", board, description=HOSTILE)
        await admin(place, "frame", "disable", "m", 0, 0, "--reason", HOSTILE)
        await admin(place, "drain", "m", "--reason", HOSTILE)
        looks = [("status",), ("machines",), ("boards",), ("jobs",), ("job", job_id), ("explain", job_id), ("map", "m")]
        for look in looks:
            output = (await admin(place, *look)).output
            assert SHOWN in output, look
            assert all(line.isprintable() for line in output.splitlines()), look
            if look[0] != "map":
                told = (await admin(place, *look, "--json")).output
                assert all(line.isascii() and line.isprintable() for line in told.splitlines()), look
                assert json.dumps(HOSTILE) in told, look
        await admin(place, "emergency-stop", "--yes", "--reason", HOSTILE)
        assert SHOWN in (await admin(place, "explain", job_id)).output
        assert SHOWN in await complaint(place, "undrain", HOSTILE)


async def test_bytes_that_are_no_text_are_refused_in_a_reason_and_escaped_in_a_path(tmp_path: Path) -> None:
    place = Place(tmp_path / "folder-\udcff")
    place.folder.mkdir()
    place.configure()
    async with serving(place):
        assert "is no text in UTF-8" in await complaint(place, "kill", 1, "--reason", "\udcff")
        assert r"folder-\xff" in await words(place, "status")


# -------------------------------------------------------------------- what was so before


async def test_who_closes_what_is_closed_is_told_what_is_replaced(place: Place) -> None:
    async with serving(place):
        for close in (
            ("drain", "m"),
            ("emergency-stop", "--yes"),
            ("frame", "disable", "m", 0, 0),
        ):
            assert "already" not in await words(place, *close, "--reason", "first")
            shown = await words(place, *close, "--reason", "second")
            assert re.search(r"it was so already, by \S+, \d+ s ago: first; that reason is replaced$", shown), shown
        await words(place, "frame", "enable", "m", 0, 0)
        board = ("board", "disable", "m", 0, 0, 1)
        assert "already" not in await words(place, *board, "--reason", "first")
        assert "it was out of service already: first (by " in await words(place, *board, "--reason", "second")


async def test_who_opens_what_is_open_is_told_so(place: Place) -> None:
    async with serving(place):
        assert await words(place, "undrain", "m") == "m was not drained"
        assert await words(place, "resume") == "there was no emergency stop"
        assert (await words(place, "frame", "enable", "m", 0, 0)).endswith("the frame was not disabled")
        assert (await words(place, "board", "enable", "m", 0, 0, 1)).endswith("it was not out of service")
        await words(place, "frame", "disable", "m", 0, 0, "--reason", "fans")
        shown = await words(place, "frame", "enable", "m", 0, 0)
        assert re.search(r"the frame was disabled by \S+, \d+ s ago: fans$", shown), shown
        await words(place, "board", "disable", "m", 0, 0, 1, "--reason", "smokes")
        assert "it was out of service: smokes (by " in await words(place, "board", "enable", "m", 0, 0, 1)
        await words(place, "drain", "m", "--reason", "moving")
        await words(place, "emergency-stop", "--yes", "--reason", "smoke")
        assert re.fullmatch(r"m is drained no more; it was, by .* moving", await words(place, "undrain", "m"))
        assert re.fullmatch(r"the emergency stop is over; it was given by .* smoke", await words(place, "resume"))


@pytest.mark.parametrize(
    "command",
    [("job", 2**70), ("explain", 2**70), ("kill", 2**70, "--reason", "x"), ("board", "enable", "m", 0, 0, 2**70)],
)
async def test_a_number_that_no_server_can_read_is_not_sent_to_one(place: Place, command: tuple[Any, ...]) -> None:
    result = await admin(place, *command)
    assert result.exit_code == 2
    assert "is not in the range" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("kill", 1),
        ("drain", "m"),
        ("emergency-stop", "--yes"),
        ("board", "disable", "m", 0, 0, 0),
        ("frame", "disable", "m", 0, 0),
    ],
)
@pytest.mark.parametrize("reason", ["", " \n"])
async def test_a_reason_is_to_say_something(place: Place, command: tuple[object, ...], reason: str) -> None:
    result = await admin(place, *command, "--reason", reason)
    assert result.exit_code == 2
    assert "it is empty: say why" in result.stderr


async def test_a_config_file_that_is_not_there_is_named(place: Place, tmp_path: Path) -> None:
    told = f"there is no config file {tmp_path / 'none.toml'}"
    assert told in await complaint(None, "status", "--config", tmp_path / "none.toml")
    assert told in await complaint(None, "map", "m", "--config", tmp_path / "none.toml")
    assert f"there is no config file {tmp_path}" in await complaint(None, "status", "--config", tmp_path)


async def test_every_board_is_in_one_column_of_the_status(place: Place) -> None:
    place.configure(seconds_before_free=60)
    async with serving(place) as (server, client):
        job_id = await client.create(3)
        await client.until(job_id, READY)
        other = await client.create(1)
        await client.until(other, READY)
        await words(place, "frame", "disable", "m", 0, 0, "--reason", "fans")
        assert "m 2x2 12 4 0 8 2 4 boards more to go out of service when free" in await words(place, "status")
        await words(place, "frame", "enable", "m", 0, 0)
        await client.call("destroy_job", other)
        assert server.controller.machine_views()[0].boards["switching off"] == 1
        assert "m 2x2 12 3 8 1 1" in " ".join(table(server.controller.machine_views()).split())


def table(views: list[MachineView]) -> str:
    with redirect_stdout(io.StringIO()) as output:
        show_machines(views)
    return output.getvalue()


# -------------------------------------------------------------------- boards in rows


def rows(views: list[BoardView], **options: Any) -> list[list[str]]:
    """The rows of the table of these boards, in a pipe."""
    with redirect_stdout(io.StringIO()) as output:
        show_boards(views, **options)
    return [re.split(r"  +", line) for line in output.getvalue().splitlines()[1:]]


def bad(number: int, **fields: Any) -> BoardView:
    """Board `number` of frame 0/3, out of service."""
    known = {"state": "out of service", "out_of_service": "the BMP is silent", "by": "server"}
    place = {"x": number // 3, "y": 0, "z": number % 3, "cabinet": 0, "frame": 3, "board": number}
    return BoardView(machine="m", **{**known, **place, **fields})


def test_boards_of_a_frame_that_are_alike_are_one_row() -> None:
    now = time.time()
    frame = [bad(number, since=now - 7200 - number / 10) for number in range(24)]
    assert rows(frame) == [["m", "24 boards", "0/3/0-23", "out of service", "the BMP is silent (by server); since 2 h"]]
    assert len(rows(frame, each=True)) == 24
    apart = [bad(0), bad(1), bad(7), bad(3, strikes=2), bad(4, frame=4), bad(5, state="in use", job_id=9)]
    assert rows(apart) == [
        ["m", "0,0,0 0,0,1 2,0,1", "0/3/0-1, 7", "out of service", "the BMP is silent (by server)"],
        ["m", "1,0,0", "0/3/3", "out of service", "the BMP is silent (by server); 2 strikes"],
        ["m", "1,0,1", "0/4/4", "out of service", "the BMP is silent (by server)"],
        ["m", "1,0,2", "0/3/5", "in use", "9", "the BMP is silent (by server)"],
    ]


def test_a_row_of_boards_tells_from_when_to_when_they_went_out_of_service() -> None:
    now = time.time()
    (row,) = rows([bad(0, since=now - 3 * 86400, trial_at=now + 8000), bad(1, since=now - 7200, trial_at=now + 9000)])
    assert row[-1] == "the BMP is silent (by server); since 3 d to 2 h; tried again in 2 h"
