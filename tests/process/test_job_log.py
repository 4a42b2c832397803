"""The job log: whatever its path leads to, no job waits for it, and no line is torn."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spalloc_server.core.model.effects import JobEvent
from spalloc_server.process import job_log
from spalloc_server.process.job_log import JobLog
from tests.house import PATIENCE, Place
from tests.test_server import Clients, clients, until

__all__ = ["clients"]


def event(number: int, owner: str = "me") -> JobEvent:
    return JobEvent(time=float(number), event="created", job_id=number, owner=owner)


def numbers(text: str) -> list[int]:
    return [json.loads(line)["job_id"] for line in text.splitlines()]


def text(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def remove(path: Path) -> None:
    path.unlink()


def is_pipe(path: Path) -> bool:
    return stat.S_ISFIFO(path.stat().st_mode)


async def settled(log: JobLog) -> bool:
    """Whether everything is written once it has been tried again."""
    assert log._background is not None
    return await asyncio.to_thread(log._background.flush, PATIENCE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.jsonl"


async def test_lines_are_appended_in_order(path: Path) -> None:
    write(path, "")
    async with JobLog(path) as log:
        for number in range(1000):
            log.append([event(number), event(number)])
    assert numbers(text(path)) == [number for number in range(1000) for _ in range(2)]


async def test_without_a_path_nothing_happens() -> None:
    async with JobLog(None) as log:
        log.append([event(1)])
        assert log._background is None


async def test_a_file_that_was_rotated_away_is_begun_anew(path: Path) -> None:
    async with JobLog(path) as log:
        log.append([event(1)])
        assert await settled(log)
        old = rename(path, "old")
        log.append([event(2)])
        assert await settled(log)
        remove(path)
        log.append([event(3)])
    assert numbers(text(old)) == [1]
    assert numbers(text(path)) == [3]


async def test_a_line_that_another_process_left_torn_does_not_swallow_the_next(path: Path) -> None:
    write(path, '{"at":1.0,"eve')
    async with JobLog(path) as log:
        log.append([event(2)])
    first, second = text(path).splitlines()
    assert first == '{"at":1.0,"eve'
    assert numbers(second) == [2]


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Within, no file of this process grows beyond so many bytes: a write takes a part, and the next one nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [1, 50, 150, 151, 1000])
async def test_on_a_full_disk_no_line_is_torn_and_none_is_lost_once_there_is_room(path: Path, room: int) -> None:
    with capture_logs() as lines:
        async with JobLog(path) as log:
            with full_at(room):
                log.append([event(number) for number in range(20)])
                assert await settled(log) is False
                await until(lambda: text(path).endswith("\n") or not text(path))
            log.append([event(20)])
            await until(lambda: text(path).count("\n") == 21)
    assert numbers(text(path)) == list(range(21))
    assert [line["event"] for line in lines] == ["job log cannot be written", "job log can be written again"]
    assert lines[0]["error"] in {"No space left on device", "File too large"}


async def test_a_torn_line_that_cannot_be_taken_back_is_followed_by_a_whole_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int, __: int) -> None:
        raise PermissionError(1, "Operation not permitted")  # as for a file that only grows (chattr +a)

    monkeypatch.setattr(os, "ftruncate", refuse)
    async with JobLog(path) as log:
        with full_at(30):
            log.append([event(1)])
            assert await settled(log) is False
        await until(lambda: text(path).endswith("\n"))
    *torn, last = text(path).splitlines()
    assert all(len(line) <= 30 for line in torn)
    assert numbers(last) == [1]


@pytest.mark.parametrize("kind", ["directory", "in no folder", "full"])
async def test_a_path_that_cannot_be_written_is_logged_at_once_and_once(tmp_path: Path, kind: str) -> None:
    paths = {"directory": tmp_path, "in no folder": tmp_path / "none" / "log", "full": Path("/dev/full")}
    with capture_logs() as lines:
        async with JobLog(paths[kind]) as log:
            if kind != "full":
                assert await settled(log) is False
            for number in range(10):
                log.append([event(number)])
            assert await settled(log) is False
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("job log cannot be written", "error"),
        ("events of the job log were lost", "error"),
    ]
    assert lines[1]["events"] == 10


async def test_a_folder_that_is_made_later_will_do(tmp_path: Path) -> None:
    path = tmp_path / "later" / "log"
    async with JobLog(path) as log:
        log.append([event(1)])
        assert await settled(log) is False
        path.parent.mkdir()
        await until(path.exists)
        log.append([event(2)])
    assert numbers(text(path)) == [1, 2]


async def test_a_pipe_gets_its_lines_once_it_is_read_and_when_it_is_read_again(path: Path) -> None:
    os.mkfifo(path)
    with capture_logs() as lines:
        async with JobLog(path) as log:
            for number in (1, 2):
                log.append([event(number)])
                assert await settled(log) is False
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
                    os.set_blocking(reader.fileno(), True)
                    await until(lambda: log._background is not None and log._background.idle())
                    assert numbers(reader.readline()) == [number]
    assert lines[0]["error"] == "nobody reads from it"
    assert is_pipe(path)


async def test_a_pipe_that_is_full_holds_up_no_job_and_what_is_lost_is_counted(
    tmp_path: Path, path: Path, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # who does not read
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    place = Place(tmp_path)
    place.configure()
    try:
        with capture_logs() as lines:
            async with place.simulator(), place.serving(job_log=path) as server:
                monkeypatch.setattr("spalloc_server.log.background.BUFFER_BYTES", 1_500)
                client = await clients.connect(server)
                for _ in range(50):
                    await client.call("destroy_job", await client.create(3))
                assert server.stalls.longest < PATIENCE / 10
    finally:
        os.close(reader)
    (lost,) = [line["events"] for line in lines if line["event"] == "events of the job log were lost"]
    assert lost > 10


async def test_nobody_waits_for_a_write_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = asyncio.Event()
    goes_on = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(job_log, "CLOSE_SECONDS", 0.05)
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        hangs.set()
        await goes_on

    def hang(*_: object) -> int:
        asyncio.run_coroutine_threadsafe(wait(), loop).result()
        return 0

    monkeypatch.setattr(job_log, "torn", hang)  # the first thing that is done with the file
    with capture_logs() as lines:
        async with asyncio.timeout(PATIENCE), JobLog(path) as log:
            await hangs.wait()
            log.append([event(1)])
    goes_on.set_result(None)
    assert [(line["event"], line["events"]) for line in lines] == [("events of the job log were lost", 1)]
