"""The state of a running server is taken away, damaged or read; the clock is set: nothing is lost without a word."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from spalloc_server.cli.running_server import find_server
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.files import beside
from tests.frontends.operators.speaking import Operator
from tests.house import Place
from tests.processes import ServerProcess, events, running
from tests.storage.test_files import flip, remove, replace_by_a_copy
from tests.test_server import READY, Clients, clients, until

__all__ = ["clients"]


def told(place: Place, event: str) -> list[dict[str, str]]:
    return [entry for entry in events(place) if entry["event"].startswith(event)]


def set_clock(place: Place, ahead: float, boot: str = "first") -> None:
    (place.folder / "clock").write_text(json.dumps([ahead, boot]))


@pytest.mark.parametrize("do", [remove, replace_by_a_copy])
@pytest.mark.parametrize("ending", ["", "-wal"])
async def test_no_process_takes_over_into_a_state_that_is_not_the_one_that_was_opened(
    place: Place, clients: Clients, do: Callable[[Path], None], ending: str
) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        jobs = [await client.create(1) for _ in range(6)]
        file = beside(place.state, ending)
        os.link(file, kept := place.folder / "kept")
        do(file)
        await until(lambda: bool(told(place, "state cannot be written")))
        async with Operator.of(place) as operator:
            assert str(file) in (await operator.ask("status"))["refusal"]
        server.signal(signal.SIGUSR2)
        await until(lambda: bool(told(place, "upgrade failed")))
        assert [job["job_id"] for job in await client.call("list_jobs")] == jobs
        with pytest.raises(RuntimeError, match="changes nothing"):
            await client.create(1)
        kept.rename(file)
        await until(lambda: bool(told(place, "state can be written again")))
        jobs.append(await client.create(1))
        before = server.pid
        server.signal(signal.SIGUSR2)
        assert await server.serves() != before
        assert [job["job_id"] for job in await client.call("list_jobs")] == jobs


async def test_a_server_whose_lock_was_removed_keeps_its_state_and_is_upgraded(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(1)
        for _ in range(2):
            remove(beside(place.state, ".lock"))
            with pytest.raises(EOFError):
                await ServerProcess.start(place)
            await until(beside(place.state, ".lock").exists)
            await until(lambda: bool(told(place, "the lock file was removed")))
            before = server.pid
            server.signal(signal.SIGUSR2)
            assert await server.serves() != before
        assert [job["job_id"] for job in await client.call("list_jobs")] == [job_id]


async def test_what_a_flipped_bit_in_the_log_has_cost_is_told(place: Place, clients: Clients) -> None:
    async with place.simulator():
        async with running(place) as server:
            client = await clients.connect(server)
            for _ in range(12):
                last = await client.create(1)
        log = beside(place.state, "-wal")
        flip(0.6)(log)
        async with running(place) as server:
            client = await clients.connect(server)
            left = len(await client.call("list_jobs"))
            assert left < 12
            [event] = told(place, "commits are missing")
            assert f"job {last}" in event["reason"] or f"to {last}" in event["reason"]
            async with Operator.of(place) as operator:
                assert [row["table"] for row in (await operator.ask("status"))["set_aside"]] == ["commits"]
            assert await client.create(1) == last + 1


async def test_a_link_to_the_state_leads_to_its_server(tmp_path: Path, place: Place, clients: Clients) -> None:
    state = tmp_path / "disk" / "state.db"
    state.parent.mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(state)
    async with place.simulator(), place.serving(state=link) as server:
        assert find_server(link, None) == find_server(state, None) == socket_path(state)
        assert socket_path(link).is_socket()
        assert server.controller.machines


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT])
async def test_a_stop_whose_socket_cannot_be_removed_is_a_stop_like_any(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".sock":
            raise OSError(number, os.strerror(number))
        unlink(path, missing_ok)

    async with place.simulator():
        async with place.serving() as server:
            monkeypatch.setattr(Path, "unlink", refuse)
        monkeypatch.undo()
        assert server.defects.count == 0
        async with place.serving():
            assert socket_path(place.state).is_socket()


@pytest.mark.parametrize("step", [-86400.0 * 3650, -7200.0, 7200.0, 86400.0 * 3650])
@pytest.mark.parametrize("how", ["restart", "reboot", "kill", "upgrade"])
async def test_a_clock_that_is_set_between_two_processes_ends_no_job(
    place: Place, clients: Clients, step: float, how: str
) -> None:
    set_clock(place, 0.0)
    async with place.simulator():
        server = await ServerProcess.start(place)
        try:
            client = await clients.connect(server)
            ran = await client.create(12, max_runtime=600)
            await client.until(ran, READY)
            waiting = [await client.create(12, owner=f"owner {number}") for number in range(3)]
            set_clock(place, step, "second" if how == "reboot" else "first")
            if how == "upgrade":
                server.signal(signal.SIGUSR2)
                await server.serves()
            else:
                await (server.kill() if how == "kill" else server.stop())
                server = await ServerProcess.start(place)
                client = await clients.connect(server)
            waiting.append(await client.create(12, owner="last"))
            assert [job["job_id"] for job in await client.call("list_jobs")] == [ran, *waiting]
            await client.call("destroy_job", ran)
            for job_id in waiting:
                await client.until(job_id, READY)
                await client.call("destroy_job", job_id)
        finally:
            await server.kill()
    assert len(told(place, "the clock was set")) == (how != "reboot" or step < 0 or step > 7 * 86400)
