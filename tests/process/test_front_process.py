"""`spalloc_web` as a process: how it begins, ends, follows its settings, and is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import struct
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from spalloc_server.application.account_commands import Grant
from spalloc_server.frontends.front_lock import FrontLock, Holder, front_folder, holder
from spalloc_server.frontends.http.boards.messages import HEADER, Operation
from spalloc_server.frontends.http.main import STOP_SECONDS
from tests.frontends.http.boards.stand_in import OWNER, boards, details, sub_machine
from tests.frontends.http.fake_accounts import KEYS
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client
from tests.process.front_processes import ended, fronts


async def test_it_serves_http_and_tls_for_clients_that_trust_its_authority(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.start()
        plain = await it.client()
        assert await plain.get("/healthz") == (200, b"ok")
        assert await plain.get("/readyz") == (200, b"ok")
        status, authority = await plain.get("/spalloc/ca.pem")
        assert (status, authority) == (200, (front_folder(it.state) / "ca.pem").read_bytes())
        assert (await plain.get("/elsewhere"))[0] == 404
        (serving,) = it.events("serving HTTP")
        encrypted = await it.client(ssl=ssl.create_default_context(cafile=serving["trust"]["REQUESTS_CA_BUNDLE"]))
        assert await encrypted.get("/healthz") == (200, b"ok")


async def test_it_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.server.die()
        await it.start()
        await until(lambda: it.log.exists() and it.events("the server is away"))
        await it.server.start()
        assert await (await it.client()).get("/readyz") == (200, b"ok")
        await it.server.die()
        client = await it.client()
        await until(lambda: it.events("the server is gone: requests wait for it"))
        assert await client.get("/healthz") == (200, b"ok")
        assert (await client.get("/readyz"))[0] == 503


async def test_it_tells_figures_of_the_server_and_of_itself(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        machine = {"name": 'm"1', "boards": {"free": 3, "in use": 2}, "out_of_service": 1}
        it.server.answers["figures"] = lambda _: {
            "jobs": {"queued": 4, "ready": 1},
            "machines": [machine],
            "connections": 7,
            "defects": 0,
            "started_at": 1.5e9,
        }
        await it.start()
        client = await it.client()
        status, told = await client.get("/metrics")
        lines = told.decode().splitlines()
        assert status == 200
        for line in (
            "spalloc_up 1.0",
            "spalloc_web_connections 1.0",
            'spalloc_jobs{state="queued"} 4.0',
            'spalloc_boards{machine="m\\"1",state="in use"} 2.0',
            'spalloc_boards_out_of_service{machine="m\\"1"} 1.0',
        ):
            assert line in lines
        assert any(line.startswith("spalloc_web_lag_seconds ") for line in lines)
        assert (await client.get("/metrics"))[0] == 200
        assert len(it.server.commands("figures")) == 1


async def test_told_to_stop_it_ends_soon_whatever_clients_do(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        process = await it.start()
        idle, silent, slow = await it.client(), await it.client(), await it.client()
        await idle.get("/healthz")
        slow.send(b"GET /healthz HTTP/1.1\r\n")
        begun = asyncio.get_running_loop().time()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
        assert asyncio.get_running_loop().time() - begun < 10.0
        for client in (idle, silent, slow):
            assert await client.ended()


async def test_a_second_one_of_a_state_does_not_begin(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.start()
        await it.serving()
        assert await ended(await it.start()) == 1
        assert "serves this state already" in it.log.read_text()


async def test_another_port_is_listened_to_when_the_settings_say_so(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.start()
        before = await it.serving()
        client = await it.client()
        it.server.web = type(it.server.web)(ip="127.0.0.2", port=0, plain_http=True)
        it.server.change("server")
        after = await it.serving(2)
        assert after[0] == "127.0.0.2"
        assert await client.get("/healthz") == (200, b"ok")  # who is connected stays
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*before)


async def test_settings_that_cannot_be_applied_change_nothing(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.start()
        await it.serving()
        it.server.web = type(it.server.web)(ip="127.0.0.1", port=0, tls_certificate=str(tmp_path / "absent.pem"))
        it.server.change("server")
        await until(lambda: it.events("settings cannot be applied: going on as before"))
        assert await (await it.client()).get("/healthz") == (200, b"ok")


async def test_it_is_replaced_and_no_client_notices(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        old = await it.start()
        address = await it.serving()
        stopping, answered = False, 0

        async def keep_asking() -> None:
            nonlocal answered
            while not stopping:
                client = Client(*await asyncio.open_connection(*address))
                for _ in range(5):
                    assert await client.get("/healthz") == (200, b"ok")
                    answered += 1
                    if b"connection: close" in client.head:
                        break
                client.close()

        asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
        first = it.pid
        old.send_signal(signal.SIGUSR2)
        await until(lambda: it.pid not in {0, first})
        assert await ended(old) == 0
        more = answered + 100
        await until(lambda: answered > more)
        os.kill(it.pid, signal.SIGUSR2)
        second = it.pid
        await until(lambda: it.pid not in {0, second})
        stopping = True
        await asyncio.gather(*asking)


async def test_a_replaced_process_serves_what_is_open_and_the_new_one_can_end_it(tmp_path: Path) -> None:
    async with fronts(tmp_path, drained=1) as it:
        old = await it.start()
        client = await it.client()
        client.send(b"GET /healthz HTTP/1.1\r\n")  # a request that is under way
        first = it.pid
        old.send_signal(signal.SIGUSR2)
        await until(lambda: it.pid not in {0, first})
        await until(lambda: it.events("the new front process serves; this one ends with its clients"))
        client.send(b"\r\n")
        assert await client.answer() == (200, b"ok")
        assert b"connection: close" in client.head
        assert await ended(old) == 0


async def test_a_websocket_stays_with_the_process_that_is_replaced(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it, boards() as made:
        it.server.answers |= {
            "signing keys": lambda _: KEYS,
            "check token": lambda _: Grant(account=OWNER, role="user", token="t1"),
            "own job": lambda _: details(1, 60.0),
            "own job machine": lambda _: sub_machine({(0, 0): made[0].host}),
            "keepalive": lambda _: None,
        }
        old = await it.start()
        url = "ws://{}:{}/spalloc/proxy/1".format(*await it.serving())
        first = it.pid
        async with connect(url, additional_headers={"Authorization": "Bearer abc"}, proxy=None) as websocket:
            await websocket.send(struct.pack("<5I", Operation.OPEN, 7, 0, 0, made[0].port))
            _, _, channel = struct.unpack("<3I", await websocket.recv(decode=False))
            os.kill(first, signal.SIGUSR2)
            await until(lambda: it.pid not in {0, first})
            for payload in (b"one", b"two"):
                await websocket.send(HEADER.pack(Operation.MESSAGE, channel) + payload)
                assert await websocket.recv() == HEADER.pack(Operation.MESSAGE, channel) + payload
            os.kill(it.pid, signal.SIGTERM)  # which ends those that were replaced, too
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(STOP_SECONDS):
                    await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert await ended(old) == 0


async def test_no_more_replaced_processes_serve_than_may(tmp_path: Path) -> None:
    async with fronts(tmp_path, drained=1, idle_seconds=1000.0, header_seconds=1000.0) as it:
        old = await it.start()
        clients: list[Client] = []
        for _ in range(2):
            clients.append(await it.client())
            clients[-1].send(b"GET /healthz HTTP/1.1\r\n")
            await until(lambda: clients)
            pid = it.pid
            os.kill(pid, signal.SIGUSR2)
            await until(lambda pid=pid: it.pid not in {0, pid})  # type: ignore[misc]
        assert await ended(old) == 0  # for the other one is drained
        assert await clients[0].ended()
        os.kill(it.pid, signal.SIGTERM)  # which ends that, too
        assert await clients[1].ended()


def children_of(pid: int) -> list[str]:
    """Numbers of the processes that this one has started and that have not ended."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_a_new_process_that_does_not_serve_changes_nothing(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        old = await it.start()
        await it.serving()
        it.server.silent = True  # so that the new one gets no settings
        (tmp_path / "sitecustomize").mkdir()
        old.send_signal(signal.SIGUSR2)
        await until(lambda: it.events("a new front process is started"))
        assert await (await it.client()).get("/healthz") == (200, b"ok")
        new = {int(pid) for pid in children_of(old.pid)}
        assert len(new) == 1
        old.send_signal(signal.SIGTERM)
        assert await ended(old) == 0
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in new))  # nothing is left behind


async def test_a_server_of_another_version_has_it_replaced(tmp_path: Path) -> None:
    async with fronts(tmp_path) as it:
        await it.start()
        await it.serving()
        first = it.pid
        it.server.version = "99.0"
        it.server.greet()
        await until(lambda: it.pid not in {0, first})
        assert len(it.events("the server is of another version: a new front process is started")) == 1


def test_a_lock_tells_who_serves(tmp_path: Path) -> None:
    folder = tmp_path / "state.web"
    assert holder(folder) is None
    lock = FrontLock.take(folder)
    found = holder(folder)
    assert found is not None
    assert found.pid == 0
    lock.say(Holder(pid=1234567, of_server=True))
    lock.say(Holder(pid=12))
    assert holder(folder) == Holder(pid=12)
    lock.release()
    assert holder(folder) is None
