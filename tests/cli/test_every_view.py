"""Every command that shows something, on 80 columns, in a pipe, in poor terminals, and as JSON."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from rich.cells import cell_len

from spalloc_server.cli.admin import COMMANDS
from tests.cli.commands import BIN, STOP_SECONDS
from tests.house import Client, Place

MACHINE = "the-million-core-machine"
OWNER = "somebody-with-a-name@lab.example.org"

VIEWS = {
    "servers": [["servers"]],
    "status": [["status"]],
    "machines": [["machines"]],
    "boards": [["boards"], ["boards", "--bad"], ["boards", MACHINE, "--each"]],
    "map": [["map", MACHINE]],
    "jobs": [["jobs"]],
    "job": [["job", "1"], ["job", "2"]],
    "explain": [["explain", "1"], ["explain", "2"]],
    "report": [["report", "--by", by] for by in ("owner", "machine", "size", "day", "hour")],
    "history": [["history"]],
    "events": [["events"], ["events", "--job", "1"]],
    "read-temperatures": [["read-temperatures", MACHINE]],
    "blacklist": [["blacklist", "show", MACHINE, "0,0,0"]],
    "user": [["user", "list"]],
    "token": [["token", "list"]],
    "simulate": [["simulate", "trace.csv", "--machine", "2x2", "--machine", "4x2", "--policy", "fifo"]],
}
"""What each of them is asked."""

NO_VIEWS = {
    *("demo", "check-config", "import-machines", "web-ca", "simulate-hardware", "kill", "board", "frame", "drain"),
    *("undrain", "add-machines", "remove-machine", "power-cycle", "emergency-stop", "resume"),
    *("init", "doctor", "config-schema", "hold", "release", "extend", "priority"),
    "top",
}
"""These do something; or, as `check-config`, have no server and no table; or, as `top`, do not end."""

OF_NO_SERVER = {"servers", "simulate"}
NOT_AS_JSON = {"map"}

TERMINALS = {
    "in 256 colours": {"TERM": "xterm-256color"},
    "in 16 colours and Latin-1": {"TERM": "xterm", "PYTHONIOENCODING": "latin-1"},
    "dumb, in ASCII": {"TERM": "dumb", "PYTHONIOENCODING": "ascii"},
}


def environment(**values: str) -> dict[str, str]:
    there = os.environ.items()
    return {
        name: value for name, value in there if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    } | values


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A server with long names: one job has boards, one waits, a frame is disabled, and a board has a report."""
    place = Place(tmp_path)
    place.configure(name=MACHINE)
    (tmp_path / "trace.csv").write_text("submit_s,duration_s,owner,request,start_s\n0,9,ann,2x2,0\n1,9,bob,12,20\n")
    with structlog.testing.capture_logs():
        async with place.simulator(), place.serving() as server:
            client = await Client.connect(server.address)
            job_id = await client.create(3, owner=OWNER)
            await client.until(job_id, 3)
            board = (await client.call("get_job_machine_info", job_id))["connections"][0][1]
            await client.call("report_problem", board, description="der Lüfter ist laut — très fort, 神経も")
            await client.create(2, 2, owner=OWNER, machine=MACHINE)
            server.controller.disable_frame(MACHINE, (0, 0), reason="ein Lüfter »fehlt« … noch", by="andré")
            yield place
            await client.close()


async def output(place: Place, words: list[str], **values: str) -> str:
    """What a command prints into a pipe."""
    return await asyncio.to_thread(_output, place, words, environment(**values))


def _output(place: Place, words: list[str], there: dict[str, str]) -> str:
    command = [str(BIN / "spalloc-admin"), *words, *which(place, words)]
    done = subprocess.run(command, cwd=place.folder, env=there, capture_output=True, timeout=STOP_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b""), words
    return done.stdout.decode(there.get("PYTHONIOENCODING", "utf-8"))


async def shown(place: Place, words: list[str], **values: str) -> list[str]:
    """The lines that a command prints on a terminal of 80 columns."""
    return await asyncio.to_thread(_shown, place, words, environment(**values))


def _shown(place: Place, words: list[str], there: dict[str, str]) -> list[str]:
    terminal, inside = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [str(BIN / "spalloc-admin"), *words, *which(place, words)]
    process = subprocess.Popen(
        command, cwd=place.folder, env=there, stdin=inside, stdout=inside, stderr=subprocess.PIPE
    )
    os.close(inside)
    pieces = []
    with suppress(OSError):  # so Linux says that nobody has the other end any more
        while piece := os.read(terminal, 2**16):
            pieces.append(piece)
    os.close(terminal)
    _, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, errors) == (0, b""), words
    text = b"".join(pieces).decode(there.get("PYTHONIOENCODING", "utf-8"))
    return re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()


def which(place: Place, words: list[str]) -> list[str]:
    return [] if words[0] in OF_NO_SERVER else ["--state", str(place.state)]


def test_every_command_is_a_view_or_is_known_to_be_none() -> None:
    assert VIEWS.keys() | NO_VIEWS == set(COMMANDS)


@pytest.mark.parametrize("terminal", TERMINALS)
async def test_views_fit_into_80_columns_of_every_terminal(place: Place, terminal: str) -> None:
    for asked in VIEWS.values():
        for words in asked:
            lines = await shown(place, words, **TERMINALS[terminal])
            assert lines, words
            wide = [line for line in lines if cell_len(line) > 80]
            assert all(" " not in line for line in wide), (words, "only a path that has to be typed may be longer")
            for line in lines:
                assert line.isprintable(), words
            if words == ["jobs"]:
                assert sum(OWNER in line for line in lines) == 2, "what one has to type is whole"
            if words[0] in {"status", "machines", "boards"}:
                assert any(line.startswith(MACHINE) or MACHINE in line.split() for line in lines), words


async def test_in_a_pipe_a_row_is_a_line_and_with_json_it_is_data(place: Place) -> None:
    for name, asked in VIEWS.items():
        for words in asked:
            assert await output(place, words, PYTHONIOENCODING="ascii"), words
            if name not in NOT_AS_JSON:
                told = await output(place, [*words, "--json"])
                assert told.isascii()
                json.loads(told)
    assert len((await output(place, ["boards", "--each"])).splitlines()) == 1 + 12
    assert len((await output(place, ["jobs", "--only", "power", "--only", "ready"])).splitlines()) == 1 + 1
    assert len((await output(place, ["jobs", "--only", "queued"])).splitlines()) == 1 + 1
