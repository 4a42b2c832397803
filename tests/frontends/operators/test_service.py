"""Operators' requests over the socket: what they see, what they change, and who may."""

from __future__ import annotations

import asyncio
import getpass
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.frontends.local_api import socket_path
from spalloc_server.hardware.scp import Adc, Command, ResponseCode
from spalloc_server.server import Server
from tests.frontends.operators.speaking import Operator
from tests.house import PATIENCE, Client, Place

QUEUED, POWER, READY, DESTROYED = 1, 2, 3, 4
ME = getpass.getuser()
A_BOARD = {"machine": "m", "x": 0, "y": 0, "z": 0}


@asynccontextmanager
async def a_client(server: Server, source: str = "127.0.0.1") -> AsyncIterator[Client]:
    client = await Client.connect(server.address, local_addr=(source, 0))
    try:
        yield client
    finally:
        await client.close()


async def test_nobody_but_the_servers_own_user_may_connect_and_the_socket_goes_with_the_server(place: Place) -> None:
    path = socket_path(place.state)
    path.parent.mkdir(exist_ok=True)
    async with place.simulator():
        for _ in range(2):
            async with place.serving():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not path.exists()


async def test_a_socket_that_a_crash_left_behind_is_replaced(place: Place) -> None:
    path = socket_path(place.state)
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    async with place.simulator(), place.serving(), Operator.of(place) as operator:
        assert (await operator.ask("status"))["refusal"] is None


async def test_status_tells_how_everything_is(place: Place) -> None:
    async with place.simulator(), place.serving() as server, Operator.of(place) as operator:
        async with a_client(server) as client:
            await client.until(await client.create(3), READY)
            status = await operator.ask("status")
        assert (status["config"], status["state"], status["connections"]) == (str(place.config), str(place.state), 1)
        assert tuple(status["address"]) == server.address
        assert status["jobs"] == {"ready": 1}
        (machine,) = status["machines"]
        assert machine["boards"] == {"free": 9, "in use": 3}


async def test_an_error_names_what_is_wrong_with_a_request_and_the_next_one_is_served(place: Place) -> None:
    async with place.simulator(), place.serving(), Operator.of(place) as operator:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "missing required field `command`"),
            ({"command": "dance"}, "Invalid value 'dance'"),
            ({"command": "kill", "job_id": "x", "reason": "y"}, "Expected `int`"),
            ({"command": "kill", "job_id": 77, "reason": "y"}, "there is no live job 77"),
            ({"command": "drain", "machine": "q", "reason": "y"}, "there is no machine 'q'"),
        ]
        for command, told in wrong:
            error = (await operator.say(command))["error"]
            assert told in error["text"]
            assert (error["code"], error["again"]) == ("bad-request", False)
        assert await operator.ask("jobs") == []


async def test_a_killed_jobs_user_is_told_and_what_was_asked_for_can_be_seen(place: Place) -> None:
    async with place.simulator(), place.serving() as server, Operator.of(place) as operator, a_client(server) as client:
        job_id = await client.create(2, owner="ann")
        await client.until(job_id, READY)
        (job,) = await operator.ask("jobs")
        assert (job["job_id"], job["owner"], job["args"], len(job["boards"])) == (job_id, "ann", [2], 3)
        await operator.ask("kill", job_id=job_id, reason="maintenance")
        status = await client.call("get_job_state", job_id)
        assert (status["state"], status["reason"]) == (DESTROYED, f"Ended by {ME}: maintenance")
        assert (await operator.ask("job", job_id=job_id))["state"] == "destroyed"


async def test_what_was_closed_outlives_a_restart_with_who_when_and_why(place: Place) -> None:
    async with place.simulator():
        async with place.serving(), Operator.of(place) as operator:
            view = await operator.ask("disable board", **A_BOARD, reason="smells")
            assert (view["state"], view["by"]) == ("out of service", ME)
            await operator.ask("drain", machine="m", reason="moving")
        async with place.serving() as server, Operator.of(place) as operator:
            server.reload()
            (bad,) = await operator.ask("boards", bad=True)
            assert bad == view
            (machine,) = await operator.ask("machines")
            assert (machine["drained"]["by"], machine["drained"]["reason"]) == (ME, "moving")
            async with a_client(server) as client:
                job_id = await client.create(0, 0, 0)
                assert (await client.call("get_job_state", job_id))["state"] == QUEUED
                assert "queue" in (await operator.ask("job", job_id=job_id))["reason"]
                await operator.ask("undrain", machine="m")
                assert (await client.call("get_job_state", job_id))["state"] == QUEUED
                assert (await operator.ask("enable board", **A_BOARD))["out_of_service"] is None
                await client.until(job_id, READY)


async def test_a_frame_out_of_service_takes_its_boards_with_it(place: Place) -> None:
    async with place.simulator(), place.serving(), Operator.of(place) as operator:
        views = await operator.ask("disable frame", machine="m", cabinet=0, frame=0, reason="fans")
        assert {view["out_of_service"] for view in views} == {"fans"}
        assert (await operator.ask("machines"))[0]["frames"][0]["disabled"]["reason"] == "fans"
        await operator.ask("enable frame", machine="m", cabinet=0, frame=0)
        assert await operator.ask("boards", machine="m", bad=True) == []


async def test_a_power_cycle_is_answered_when_it_is_over(place: Place) -> None:
    async with place.simulator() as simulator, place.serving(), Operator.of(place) as operator:
        assert (await operator.ask("power-cycle", **A_BOARD))["state"] in {"switching off", "resting", "free"}
        assert simulator.power_cycles()[place.hosts[0], 0][0] == 1
        await operator.machine(lambda machine: machine["boards"] == {"free": 12})
        simulator.frames[place.hosts[0]].refuse(ResponseCode.ARG, command=Command.FPGA_WRITE)
        view = await operator.ask("power-cycle", **A_BOARD)
        assert view["out_of_service"].startswith("failed when it was tried: link")


async def test_an_emergency_stop_switches_everything_off_until_resume(place: Place) -> None:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(place.simulator())
        server = await stack.enter_async_context(place.serving())
        operator = await stack.enter_async_context(Operator.of(place))
        async with a_client(server) as client:
            job_id = await client.create(3)
            await client.until(job_id, READY)
            await operator.ask("emergency-stop", reason="smoke")
            assert (await client.until(job_id, DESTROYED))["reason"] == f"Emergency stop by {ME}: smoke"
            waiting = await client.create(3)
            await operator.machine(lambda machine: machine["boards"] == {"free": 12})
            assert not simulator.boards_on()
            assert all(offs for number, (_, offs) in simulator.power_cycles().items() if number[1] < 12)
            assert (await client.call("get_job_state", waiting))["state"] == QUEUED
            assert (await operator.ask("status"))["stopped"]["reason"] == "smoke"
            await operator.ask("resume")
            await client.until(waiting, READY)


async def test_two_users_reports_set_a_board_aside(place: Place) -> None:
    async with place.simulator(), place.serving() as server, Operator.of(place) as operator:
        for number, owner in enumerate(("ann", "bob"), start=1):
            async with a_client(server, f"127.0.0.{number}") as client:
                job_id = await client.create(0, 0, 0, owner=owner)
                await client.until(job_id, READY)
                ((_, address),) = (await client.call("get_job_machine_info", job_id))["connections"]
                assert await client.call("report_problem", address, description=f"{owner} is sad") is None
                await client.call("destroy_job", job_id)
        (bad,) = await operator.ask("boards", bad=True)
        assert (bad["out_of_service"], bad["by"]) == ("reported by 2 users, last: bob is sad", "server")
        assert [report[1:] for report in bad["reports"]] == [
            ["ann", "127.0.0.1", "ann is sad", 1, None],
            ["bob", "127.0.0.2", "bob is sad", 2, None],
        ]


async def test_temperatures_are_read_from_every_board_or_why_they_are_not(place: Place) -> None:
    async with place.simulator() as simulator, place.serving(), Operator.of(place) as operator:
        frame = simulator.frames[place.hosts[0]]
        frame.boards[4].adc = Adc(top=61.5, fans=(1200, None), warning=0x100)
        views = await operator.ask("temperatures", machine="m", cabinet=0, frame=0)
        assert len(views) == 12
        (hot,) = [view for view in views if view["board"] == 4]
        assert (hot["top"], hot["fans"], hot["warning"], hot["error"]) == (61.5, [1200, None], 0x100, None)
        frame.silence()
        views = await operator.ask("temperatures", machine="m")
        assert all("does not answer" in view["error"] for view in views)
        with pytest.raises(RuntimeError, match="no cabinet 5, frame 6"):
            await operator.ask("temperatures", machine="m", cabinet=5, frame=6)


async def test_a_server_starts_without_its_hardware_and_shows_what_does_not_answer(place: Place) -> None:
    async with place.serving(), Operator.of(place) as operator:
        (frame,) = (await operator.machine(lambda machine: machine["frames"]))["frames"]
        assert frame["bmp"] == place.hosts[0]
        assert "does not answer" in frame["silent"]
        async with place.simulator():
            assert (await operator.machine(lambda machine: not machine["frames"]))["boards"] == {"free": 12}


async def test_operators_who_look_never_wait_for_the_disk_and_those_who_change_wait_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(place.simulator())
        server = await stack.enter_async_context(place.serving())
        one, other, looker = [await stack.enter_async_context(Operator.of(place)) for _ in range(3)]
        await one.machine(lambda machine: machine["boards"] == {"free": 12})
        going = threading.Event()
        stack.callback(going.set)
        commit = server._journal._commit
        monkeypatch.setattr(server._journal, "_commit", lambda rows: (going.wait(PATIENCE), commit(rows))[1])
        drains = [asyncio.create_task(operator.ask("drain", machine="m", reason="fans")) for operator in (one, other)]
        await looker.machine(lambda machine: machine["drained"] is not None)
        assert (await looker.ask("status"))["refusal"] is None
        assert not any(drain.done() for drain in drains)
        going.set()
        answers = await asyncio.gather(*drains)
        assert sorted(answer is None for answer in answers) == [False, True], "one replaces the other"


async def test_a_path_that_is_too_long_costs_operators_their_socket_and_clients_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    place = Place(folder)
    place.configure()
    async with place.simulator(), place.serving() as server, a_client(server) as client:
        await client.until(await client.create(), READY)
        assert not socket_path(place.state).exists()
