"""`spalloc-admin jobs` and `top`: who has boards, who waits and until when, once or again and again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from spalloc_server.cli.admin import main
from spalloc_server.cli.jobs import ORDERS
from tests.cli.commands import BIN, STOP_SECONDS, as_in_a_terminal
from tests.house import PATIENCE, Client, Place

READY = 3
WHEN = r"[A-Z][a-z]{2} \d\d:\d\d to ([A-Z][a-z]{2} )?\d\d:\d\d \S+"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.configure()
    with structlog.testing.capture_logs():
        yield place


@asynccontextmanager
async def busy(place: Place) -> AsyncIterator[Client]:
    """A server with a job of ann's that has the machine, and two of bob's and carl's that wait, and know until when."""
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        await client.until(await client.create(12, owner="ann"), READY)
        for owner, boards in (("bob", 12), ("carl", 3)):
            await client.create(boards, owner=owner, machine="m")
        async with asyncio.timeout(PATIENCE):
            while any(view.latest_start is None for view in server.controller.job_views() if view.state == "queued"):  # noqa: ASYNC110
                await asyncio.sleep(0)
        try:
            yield client
        finally:
            await client.close()


async def shown(place: Place, *arguments: object) -> list[str]:
    """The lines that a command prints."""
    line = [str(argument) for argument in (*arguments, "--state", place.state)]
    result = await asyncio.to_thread(CliRunner().invoke, main, line)
    assert result.exit_code == 0, result.output
    return [" ".join(each.split()) for each in result.output.splitlines()]


async def test_of_those_who_wait_jobs_tells_place_start_and_why(place: Place) -> None:
    async with busy(place):
        heading, has, _, wait, *rows = await shown(place, "jobs")
        assert heading.split()[:3] == ["job", "owner", "state"]
        assert has.startswith("1 ann ready 12 boards m 12 ")
        assert wait == "2 jobs wait:"
        assert rows[0] == "place job owner asked for waits starts why"
        by_owner = {row.split()[2]: row for row in rows[1:]}
        told = rf"\d 2 bob 12 boards machine=m \d+ s {WHEN} it waits for boards of jobs? \d.*"
        assert re.fullmatch(told, by_owner["bob"])
        assert {row.split()[0] for row in rows[1:]} == {"1", "2"}
        described = " ".join(await shown(place, "job", 2))
        assert re.search(rf"predicted to start at \S+ \S+, four of five such jobs start {WHEN}", described)


async def test_jobs_are_chosen_and_sorted(place: Place) -> None:
    async with busy(place):

        async def numbers(*options: str) -> list[int]:
            result = "\n".join(await shown(place, "jobs", "--json", *options))
            return [view["job_id"] for view in json.loads(result)]

        assert await numbers("--owner", "bob") == [2]
        assert await numbers("--owner", "nobody") == []
        assert await numbers("--only", "ready") == [1]
        assert sorted(await numbers("--only", "queued")) == [2, 3]
        assert sorted(await numbers("--only", "queued", "--only", "ready")) == [1, 2, 3]
        assert sorted(await numbers("--machine", "m")) == [1, 2, 3]
        assert await numbers("--machine", "n") == []
        for order in ORDERS:
            assert sorted(await numbers("--sort", order)) == [1, 2, 3]
        assert await numbers("--sort", "job") == [1, 2, 3]
        assert await numbers("--sort", "owner") == [1, 2, 3]
        assert (await numbers("--sort", "start"))[-1] == 1, "what runs starts no more"


class Terminal:
    """A command in a terminal of 80 columns, and all that it has shown."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process, self._screen, self.text = process, screen, ""

    def until(self, found: Callable[[str], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not found(self.text):
            assert time.monotonic() < deadline, self.text
            self.text += os.read(self._screen, 65536).decode()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [BIN / "spalloc-admin", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
        preexec_fn=as_in_a_terminal,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)


async def test_jobs_that_are_watched_are_drawn_over_on_a_terminal_until_ctrl_c(place: Place) -> None:
    async with busy(place) as client:
        with terminal("jobs", "--watch", "--state", place.state) as screen:
            await asyncio.to_thread(screen.until, lambda text: "2 jobs wait:" in text)
            await client.call("destroy_job", 3)
            await asyncio.to_thread(screen.until, lambda text: "1 job waits:" in text)
            assert await asyncio.to_thread(screen.interrupt) == 130
            assert screen.text.count("\x1b[H\x1b[J") >= 2
            assert "Traceback" not in screen.text
            assert all(len(line) <= 80 for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", screen.text).splitlines())


async def test_jobs_that_are_watched_in_a_pipe_are_plain_and_told_when_they_change(place: Place) -> None:
    async with busy(place) as client:
        command: list[str | Path] = [
            BIN / "spalloc-admin",
            "jobs",
            "--watch",
            "--state",
            place.state,
            "--only",
            "queued",
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            text = ""
            while " carl " not in text:
                text += (await process.stdout.readline()).decode()
            await client.call("destroy_job", 2)
            while text.count("place") < 2:
                text += (await process.stdout.readline()).decode()
            process.send_signal(signal.SIGINT)
            await process.wait()
        assert "\x1b" not in text


async def test_top_is_a_picture_on_a_terminal_and_gives_it_back(place: Place) -> None:
    async with busy(place) as client:
        with terminal("top", "--state", place.state) as screen:
            await asyncio.to_thread(screen.until, lambda text: "12 of 12 boards in use" in text)
            await asyncio.to_thread(screen.until, lambda text: "waits, number" in text)
            await client.call("destroy_job", 3, "enough")
            await asyncio.to_thread(screen.until, lambda text: "job 3 of carl: ended" in text)
            assert await asyncio.to_thread(screen.interrupt) == 130
            await asyncio.to_thread(screen.until, lambda text: "\x1b[?1049l" in text and "\x1b[?25h" in text)
            assert "Traceback" not in screen.text


async def test_top_in_a_pipe_is_a_line_an_event(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def enough(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("spalloc_server.cli.top.time.sleep", enough)
    async with busy(place):
        result = await asyncio.to_thread(CliRunner().invoke, main, ["top", "--state", str(place.state)])
        assert result.exit_code == 130
        assert "job 1 of ann: ready, 12 boards" in result.output
        assert "job 2 of bob: queued, asks for 12" in result.output
        assert "\x1b" not in result.output
        line = ["top", "--machine", "n", "--state", str(place.state)]
        wrong = await asyncio.to_thread(CliRunner().invoke, main, line)
        assert "there is no machine 'n'; there are: m" in wrong.output
        told = await asyncio.to_thread(CliRunner().invoke, main, ["top", "--json", "--state", str(place.state)])
        assert "a picture has no JSON" in told.output
