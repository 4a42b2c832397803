"""A server with `[web]` and its front process, which outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from spalloc_server.frontends.front_lock import front_folder, holder
from spalloc_server.frontends.http.main import Front
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client
from tests.frontends.operators.speaking import Operator
from tests.house import PATIENCE, Client as V1Client, Place
from tests.processes import ServerProcess, events, running
from tests.storage.disk import Disk

JOBS = "/spalloc/srv/spalloc/jobs"
BODY = {"keepalive-interval": 300, "tags": ["default"]}


class Hall:
    """A place with a server and its front process."""

    def __init__(self, folder: Path, *, start: bool = True) -> None:
        self.clients: list[Client] = []
        """They leave at the end."""
        self.place = Place(folder)
        self.place.configure()
        config = self.place.config.read_text()
        self.place.config.write_text(
            config.replace("ip='127.0.0.1',", f"ip='127.0.0.1', web=Web(ip='127.0.0.1', port=0, start={start}),")
        )

    def told(self, event: str) -> list[dict[str, str]]:
        """The lines of the log that tell of an event."""
        return [line for line in events(self.place) if line["event"] == event]

    @property
    def front(self) -> int:
        """The front process that serves; 0 while there is none."""
        found = holder(front_folder(self.place.state))
        return 0 if found is None else found.pid

    async def client(self) -> Client:
        """A client, once the front process serves."""
        await until(lambda: self.told("serving HTTP"))
        return await self.client_at(self.address)

    async def client_at(self, address: tuple[str, int]) -> Client:
        """A client of a front process that serves there."""
        self.clients.append(Client(*await asyncio.open_connection(*address)))
        return self.clients[-1]

    @property
    def address(self) -> tuple[str, int]:
        """Where it has served last."""
        host, _, port = self.told("serving HTTP")[-1]["address"].rpartition(":")
        return host, int(port)

    async def bearer(self) -> str:
        """The header of a token of a new account."""
        async with Operator.of(self.place) as operator:
            await operator.ask("create account", name="ann")
            return f"Authorization: Bearer {(await operator.ask('create token', name='ann'))['secret']}"


async def posted(client: Client, body: Any, *headers: str) -> tuple[int, Any]:
    """(status, body) of the answer to a request for a job."""
    data = json.dumps(body)
    head = [f"POST {JOBS} HTTP/1.1", "Host: h", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    client.send("\r\n".join([*head, *headers, "", data]).encode())
    status, answer = await client.answer()
    return status, json.loads(answer) if status == 201 else answer


@asynccontextmanager
async def hall(folder: Path) -> AsyncIterator[tuple[Hall, Client, ServerProcess]]:
    """A hall that serves, and a client; all is killed at the end."""
    it = Hall(folder)
    async with running(it.place) as server:
        client = await it.client()
        try:
            yield it, client, server
        finally:
            for each in it.clients:
                each.reset()
            if it.front:
                os.kill(it.front, signal.SIGKILL)


async def test_it_outlives_a_server_that_is_killed_and_is_adopted_by_the_next(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        front = it.front
        assert (await client.get("/spalloc/system/login.html"))[0] == 200
        await server.kill()
        assert await client.get("/healthz") == (200, b"ok")
        waiting = asyncio.create_task(client.get("/spalloc/system/login.html"))
        async with running(it.place):
            assert (await waiting)[0] == 200
            await until(lambda: len(it.told("connected to the server")) == 2)
            assert it.front == front
            assert len(it.told("a front process is started")) == 1


async def test_an_upgrade_of_the_server_leaves_it_and_a_reload_changes_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        front = it.front
        server.signal(signal.SIGUSR2)
        await server.serves()
        assert await client.get("/readyz") == (200, b"ok")
        assert it.front == front
        it.place.config.write_text(
            it.place.config.read_text().replace("web=Web(ip='127.0.0.1'", "web=Web(ip='127.0.0.3'")
        )
        server.signal(signal.SIGHUP)
        await until(lambda: len(it.told("serving HTTP")) == 2)
        assert it.told("serving HTTP")[-1]["address"].startswith("127.0.0.3:")


async def test_a_server_that_is_stopped_stops_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        await server.stop()
        await until(lambda: not it.front)
        assert await client.ended()


async def test_a_front_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, _, _):
        os.kill(it.front, signal.SIGKILL)
        await until(lambda: len(it.told("serving HTTP")) == 2)
        (ended,) = it.told("the front process has ended: it is started again")
        assert int(ended["status"]) == -signal.SIGKILL
        client = await it.client()
        assert await client.get("/readyz") == (200, b"ok")
        client.close()


@pytest.mark.slow
async def test_a_client_that_sends_a_create_again_under_its_key_has_one_job_whatever_front_is_killed(
    tmp_path: Path,
) -> None:
    async with hall(tmp_path) as (it, _, _):
        bearer, answers, sent = await it.bearer(), dict[str, int](), 0

        async def create(key: str) -> None:
            nonlocal sent
            while key not in answers:
                sent += 1
                try:
                    client = await it.client()
                    status, answer = await posted(client, BODY, bearer, f"Idempotency-Key: {key}")
                    client.close()
                except (ConnectionError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.01)  # as a client does
                    continue
                assert status in {201, 503}, answer
                if status == 201:
                    answers[key] = answer["job-id"]

        async def create_many(worker: int) -> None:
            for number in range(25):
                await create(f"{worker}-{number}")

        creating = [asyncio.create_task(create_many(worker)) for worker in range(8)]
        for many in (20, 100):
            await until(partial(lambda many: len(answers) >= many, many))
            before = it.front
            os.kill(before, signal.SIGKILL)
            await until(partial(lambda before: it.front not in {0, before}, before))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*creating)
        assert sent > len(answers) == 200
        async with Operator.of(it.place) as operator:
            jobs = [job["job_id"] for job in await operator.ask("jobs")]
        assert sorted(answers.values()) == sorted(jobs)


async def test_on_a_full_disk_creates_are_refused_none_that_was_acknowledged_is_lost_and_all_recovers(
    tmp_path: Path,
) -> None:
    it = Hall(tmp_path, start=False)
    answers, refusals = dict[str, int](), list[bytes]()
    with Disk() as disk:
        async with it.place.serving():
            front = Front(it.place.state, of_server=False, notify=lambda *_: None)
            running = asyncio.create_task(front.run())
            await until(lambda: front.address[1])
            bearer = await it.bearer()

            async def create(worker: int) -> None:
                client = await it.client_at(front.address)
                for number in range(20):
                    key = f"{worker}-{number}"
                    while key not in answers:
                        status, answer = await posted(client, BODY, bearer, f"Idempotency-Key: {key}")
                        if status == 201:
                            answers[key] = answer["job-id"]
                        else:
                            assert (status, b"retry-after" in client.head) == (503, True)
                            refusals.append(answer)
                            await asyncio.sleep(0.01)  # as a client does

            creating = [asyncio.create_task(create(worker)) for worker in range(4)]
            await until(lambda: len(answers) > 20)
            disk.fault = lambda operation: sqlite3.SQLITE_FULL if operation.kind == "write" else 0
            await until(lambda: len(refusals) > 20)
            look = await it.client_at(front.address)
            assert (await look.get(f"{JOBS}/{next(iter(answers.values()))}", bearer))[0] == 200
            disk.fault = lambda _: 0
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*creating)
            for each in it.clients:
                each.reset()
            front.stop()
            await running
        assert len({*answers.values()}) == len(answers) == 80
        assert {text for text in refusals if b"disk is full" not in text} == set()
        async with it.place.serving(), Operator.of(it.place) as operator:
            assert sorted(job["job_id"] for job in await operator.ask("jobs")) == sorted(answers.values())


class Held:
    """What a client has before its server or front process ends: a job, and all that can be open about it."""

    def __init__(self, it: Hall, server: ServerProcess) -> None:
        self.it, self.server = it, server

    async def begin(self) -> None:
        self.bearer = await self.it.bearer()
        look = await self.it.client()
        status, answer = await posted(look, BODY, self.bearer)
        assert status == 201
        self.job = f"{JOBS}/{answer['job-id']}"
        await look.get("/spalloc/system/login.html", self.bearer)
        cookie = re.search(rb"set-cookie: (JSESSIONID=s[^;]*)", look.head)
        assert cookie is not None
        self.cookie = f"Cookie: {cookie[1].decode()}"
        self.poll, self.request = await self.it.client(), await self.it.client()
        self.poll.send(f"GET {self.job}?wait=true HTTP/1.1\r\nHost: h\r\n{self.bearer}\r\n\r\n".encode())
        self.request.send(f"POST {JOBS} HTTP/1.1\r\nHost: h\r\n{self.bearer}\r\nContent-Length: 9\r\n\r\nhalf".encode())
        path = self.job.replace("srv/spalloc/jobs", "proxy")
        host, port = self.it.address
        name, _, token = self.bearer.partition(": ")
        self.websocket = await connect(f"ws://{host}:{port}{path}", additional_headers={name: token}, proxy=None)
        self.v1 = await V1Client.connect(self.server.address)
        await self.v1.call("version")
        async with Operator.of(self.it.place) as operator:  # until all has come to the server, this poll included
            await operator.ask("status")

    async def closed(self) -> int:
        """The code that the WebSocket is closed with, once it is."""
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionClosed) as closed:
                await self.websocket.recv()
        return 1006 if closed.value.rcvd is None else closed.value.rcvd.code

    async def still_works(self) -> None:
        """The job, the session and the token are there; the job's owner ends it."""
        client = await self.it.client()
        for header in (self.cookie, self.bearer):
            status, told = await client.get(self.job, header)
            assert (status, json.loads(told)["owner"]) == (200, "ann")
            assert json.loads(told)["state"] != "DESTROYED"
        client.send(f"DELETE {self.job} HTTP/1.1\r\nHost: h\r\n{self.bearer}\r\n\r\n".encode())
        assert (await client.answer())[0] == 204
        assert json.loads((await client.get(self.job, self.bearer))[1])["state"] == "DESTROYED"
        await self.v1.close()


async def test_kill_9_of_the_front_closes_what_is_open_and_ends_no_job_session_or_token(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, _, server):
        held = Held(it, server)
        await held.begin()
        os.kill(it.front, signal.SIGKILL)
        assert await held.poll.ended()
        assert await held.request.ended()
        assert await held.closed() == 1006
        assert await held.v1.call("version")
        await until(lambda: len(it.told("serving HTTP")) == 2)
        await held.still_works()


@pytest.mark.parametrize("how", ["restart", "kill -9"])
async def test_a_unit_of_both_that_ends_closes_what_is_open_and_ends_no_job_session_or_token(
    tmp_path: Path, how: str
) -> None:
    async with hall(tmp_path) as (it, _, server):
        held = Held(it, server)
        await held.begin()
        for pid in (server.pid, it.front):  # as systemd does to the unit
            os.kill(pid, signal.SIGTERM if how == "restart" else signal.SIGKILL)
        if how == "restart":
            assert (await held.poll.answer())[0] in {200, 503}
        assert await held.poll.ended()
        assert await held.request.ended()
        assert await held.closed() == (1012 if how == "restart" else 1006)
        with pytest.raises((EOFError, ConnectionError)):
            await held.v1.call("version")
        await server.ended()
        await until(lambda: not it.front)
        async with running(it.place):
            await until(lambda: len(it.told("serving HTTP")) == 2)
            await held.still_works()


async def test_a_job_on_hold_is_held_over_kill_9_and_who_waits_for_it_waits_on(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        bearer = await it.bearer()
        async with Operator.of(it.place) as operator:
            await operator.ask("drain", machine="m", reason="until it is held")
            status, answer = await posted(client, {**BODY, "num-boards": 1}, bearer)
            assert status == 201
            job_id, job = answer["job-id"], f"{JOBS}/{answer['job-id']}"
            await operator.ask("hold jobs", job_ids=[job_id], reason="night")
            await operator.ask("undrain", machine="m")
        proxy = await it.client_at(it.address)
        proxy.send(
            f"GET /spalloc/proxy/{job_id} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{bearer}\r\n\r\n".encode()
        )
        assert await proxy.answer() == (409, f"job {job_id} has no boards at present".encode())
        poll = await it.client_at(it.address)
        waiting = asyncio.create_task(poll.get(f"{job}?wait=true", bearer))
        async with Operator.of(it.place) as operator:  # until all has come to the server, this poll included
            await operator.ask("status")
        await server.kill()
        async with running(it.place):
            told = json.loads((await client.get(job, bearer))[1])
            assert (told["state"], told["reason"].startswith("On hold, by ")) == ("QUEUED", True)
            head = f"PUT {job}/keepalive HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 0"
            client.send(f"{head}\r\n{bearer}\r\n\r\n".encode())
            assert await client.answer() == (200, b"ok")
            async with Operator.of(it.place) as operator:
                assert await operator.ask("release jobs", job_ids=[job_id]) == [job_id]
            async with asyncio.timeout(PATIENCE):
                state = json.loads((await waiting)[1])["state"]
                while state == "QUEUED":
                    state = json.loads((await client.get(f"{job}?wait=true", bearer))[1])["state"]
            assert state == "POWER", "no hardware answers here"
