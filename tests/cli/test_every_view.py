"""Every command that shows something, on 80 columns, in a pipe, in poor terminals, and as JSON.

Of a running server each is a process of its own, on a terminal of its own. Of servers that were stopped or killed, and
of a copy of a state, each is run in this process, which takes much less time.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import re
import shutil
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from rich.cells import cell_len

from spalloc_server.cli import start
from spalloc_server.cli.admin import COMMANDS, main
from tests.cli.commands import BIN, STOP_SECONDS
from tests.house import Client, Place
from tests.storage.test_settled import look

MACHINE = "the-million-core-machine"
OWNER = "somebody-with-a-name@lab.example.org"
ACCOUNT = "andré@lab.example.org"
STATE = ".config.py.state.db"
SOCKETS = {f"{STATE}.sock"}

VIEWS = {
    "servers": [["servers"]],
    "status": [["status"]],
    "machines": [["machines"]],
    "boards": [["boards"], ["boards", "--bad"], ["boards", MACHINE, "--each"]],
    "map": [["map", MACHINE]],
    "jobs": [["jobs"]],
    "job": [["job", "1"], ["job", "2"], ["job", "3"]],
    "explain": [["explain", "1"], ["explain", "2"], ["explain", "3"]],
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

NEED_A_SERVER = {
    "read-temperatures": [["read-temperatures", MACHINE]],
    "blacklist": [["blacklist", "show", MACHINE, "0,0,0"], ["blacklist", "set", MACHINE, "0,0,0", "trace.csv"]],
    "top": [["top"], ["top", "--machine", MACHINE]],
    "jobs": [["jobs", "--watch"]],
    "events": [["events", "--follow"]],
    "kill": [
        ["kill", "1", "--reason", "x"],
        ["kill", "1", "3", "--reason", "x", "--yes"],
        ["kill", "--owner", OWNER, "--reason", "x"],
        ["kill", "--all", "--reason", "x", "--dry-run"],
    ],
    "hold": [["hold", "3", "--reason", "x"]],
    "release": [["release", "--all"]],
    "extend": [["extend", "1", "--by", "1h"]],
    "priority": [["priority", "3", "7"]],
    "board": [["board", "disable", MACHINE, "0,0,0", "--reason", "x"], ["board", "enable", MACHINE, "0,0,0"]],
    "frame": [["frame", "disable", MACHINE, "0", "0", "--reason", "x"], ["frame", "enable", MACHINE, "0", "0"]],
    "drain": [["drain", MACHINE]],
    "undrain": [["undrain", MACHINE]],
    "add-machines": [["add-machines", "trace.csv"]],
    "remove-machine": [["remove-machine", MACHINE]],
    "power-cycle": [["power-cycle", MACHINE, "0,0,0"]],
    "user": [
        ["user", "add", "bob"],
        ["user", "set", ACCOUNT, "--disable"],
        ["user", "password", ACCOUNT],
        ["user", "remove", ACCOUNT],
    ],
    "token": [["token", "create", ACCOUNT], ["token", "revoke", "x"]],
    "emergency-stop": [["emergency-stop"], ["emergency-stop", "--yes"]],
    "resume": [["resume"]],
}
"""What only a running server can answer or do."""

READ_THE_STATE = {
    "servers": [["servers"]],
    "doctor": [["doctor", "none.toml", "--state", "STATE"]],
    "check-config": [["check-config", "none.toml", "--against", "STATE"]],
    "simulate": [["simulate", "--from-history", "STATE", "--machine", "4x2"]],
    "web-ca": [["web-ca", "--state", "STATE"]],
}
"""What else looks at a state, where STATE is, or at files beside it; and says nothing of a server that does not run."""

NO_STATE = {"demo", "import-machines", "simulate-hardware", "init", "config-schema"}
"""These do something, or have no server and no table."""

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


@asynccontextmanager
async def busy(folder: Path) -> AsyncIterator[Place]:
    """A server with long names, as it is once all that has happened is stored.

    One job has boards, one has ended, one waits. A frame is disabled, a board has a report, and there is an account.
    """
    place = Place(folder)
    place.configure(name=MACHINE)
    (folder / "trace.csv").write_text("submit_s,duration_s,owner,request,start_s\n0,9,ann,2x2,0\n1,9,bob,12,20\n")
    with structlog.testing.capture_logs():
        async with place.simulator(), place.serving() as server:
            client = await Client.connect(server.address)
            job_id = await client.create(3, owner=OWNER)
            await client.until(job_id, 3)
            board = (await client.call("get_job_machine_info", job_id))["connections"][0][1]
            await client.call("report_problem", board, description="der Lüfter ist laut — très fort, 神経も")
            await client.call("destroy_job", await client.create(1, owner=OWNER), "it has had enough — für heute")
            server.controller.disable_frame(MACHINE, (0, 0), reason="ein Lüfter »fehlt« … noch", by="andré")
            await client.create(2, 2, owner=OWNER, machine=MACHINE)
            for words in (["user", "add", ACCOUNT, "--no-password"], ["token", "create", ACCOUNT, "--note", "für CI"]):
                done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--state", str(place.state)])
                assert done.exit_code == 0, done.output
            yield place
            await client.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A server that runs, and is `busy`."""
    async with busy(tmp_path) as place:
        yield place


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
    assert VIEWS.keys() | NEED_A_SERVER.keys() | READ_THE_STATE.keys() | NO_STATE == set(COMMANDS)


@pytest.mark.parametrize("terminal", TERMINALS)
async def test_views_fit_into_80_columns_of_every_terminal(place: Place, terminal: str) -> None:
    for asked in VIEWS.values():
        for words in asked:
            check_lines(words, await shown(place, words, **TERMINALS[terminal]))


def check_lines(words: list[str], lines: list[str]) -> None:
    """What a view prints on a terminal of 80 columns can be read there."""
    assert lines, words
    wide = [line for line in lines if cell_len(line) > 80]
    assert all(" " not in line for line in wide), (words, "only a path that has to be typed may be longer")
    for line in lines:
        assert line.isprintable(), words
    if words == ["jobs"]:
        assert sum(OWNER in line for line in lines) == 2, "what one has to type is whole"
    if words == ["history"]:
        assert sum(OWNER in line for line in lines) == 1
        assert any("it has had" in line for line in lines), "why a job has ended is no column of letters"
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


# -------------------------------------------------------------------- of a server that does not run


@dataclass
class Said:
    """How a command ended that was run in this process."""

    status: int
    out: list[str]
    errors: list[str]


class Terminal(io.TextIOWrapper):
    """Stands in for a terminal."""

    def isatty(self) -> bool:
        return True


def say(words: list[str], *, terminal: bool, **values: str) -> Said:
    """Run a command in this process, as on a terminal of 80 columns or in a pipe."""
    kind = Terminal if terminal else io.TextIOWrapper
    encoding = values.get("PYTHONIOENCODING", "utf-8")
    out, errors = kind(io.BytesIO(), encoding), kind(io.BytesIO(), encoding, "backslashreplace")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        for name in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"} & os.environ.keys():
            patch.delenv(name)
        for name, value in ({**values, "COLUMNS": "80"} if terminal else values).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            start._run("spalloc-admin", partial(main, words, prog_name="spalloc-admin"))
    return Said(int(ended.value.code or 0), text_of(out), text_of(errors))


def text_of(stream: io.TextIOWrapper) -> list[str]:
    stream.seek(0)
    return re.sub(r"\x1b\[[\d;]*m", "", stream.read()).splitlines()


@pytest.fixture(scope="module")
def left_over(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folders of states that no server has any more, by how they came about."""
    root = tmp_path_factory.mktemp("left-over")
    folders = {how: root / how for how in ("life", "killed", "stopped", "copied")}

    async def live() -> None:
        folders["life"].mkdir()
        async with busy(folders["life"]):
            shutil.copytree(folders["life"], folders["killed"], ignore=lambda _, names: {*names} & SOCKETS)
        shutil.copytree(folders["life"], folders["stopped"])

    asyncio.run(live())
    folders["copied"].mkdir()
    for name in (STATE, f"{STATE}-wal"):
        shutil.copy(folders["killed"] / name, folders["copied"])
    assert (folders["killed"] / f"{STATE}-wal").stat().st_size
    assert not (folders["stopped"] / f"{STATE}-wal").exists()
    for folder in folders.values():
        (folder / "none.toml").write_text("machine = []\n")
        (folder / "trace.csv").touch()
    return folders


@pytest.fixture(params=["killed", "stopped", "copied"])
def stopped(
    left_over: Mapping[str, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A state that no server has, in this folder, which nobody may write where it is a copy; it stays as it is."""
    folder = left_over[request.param]
    monkeypatch.chdir(folder)
    before, closed = look(folder), request.param == "copied"
    if closed:
        for file in folder.iterdir():
            file.chmod(0o400)
        folder.chmod(0o500)
    try:
        yield folder / STATE
        assert look(folder) == before, "nothing is written beside it"
    finally:
        folder.chmod(0o700)


AS_IT_WAS = re.compile(r"no server runs: this is how it was at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

ANSWERED = [
    words
    for name, asked in VIEWS.items()
    for words in asked
    if name not in OF_NO_SERVER and words not in NEED_A_SERVER.get(name, [])
]


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_stopped_servers_state_is_shown_as_it_was_in_every_terminal(stopped: Path, terminal: str) -> None:
    for words in ANSWERED:
        said = say([*words, "--state", str(stopped)], terminal=True, **TERMINALS[terminal])
        assert said.status == 0, (words, said)
        check_lines(words, said.out)
        assert len(said.errors) == 1, words
        assert AS_IT_WAS.fullmatch(said.errors[0]), words


def test_a_stopped_servers_state_goes_into_pipes_and_is_json(stopped: Path) -> None:
    for words in ANSWERED:
        said = say([*words, "--state", str(stopped)], terminal=False, PYTHONIOENCODING="ascii")
        assert (said.status, len(said.errors)) == (0, 1), (words, said)
        assert said.out, words
        if words[0] not in NOT_AS_JSON:
            said = say([*words, "--state", str(stopped), "--json"], terminal=False, PYTHONIOENCODING="ascii")
            assert (said.status, len(said.errors)) == (0, 1), (words, said)
            json.loads("\n".join(said.out))
    assert "disabled by andr?" in "\n".join(say(["jobs"], terminal=False, PYTHONIOENCODING="ascii").out)
    assert any(ACCOUNT in line for line in say(["user", "list"], terminal=False).out)
    assert any(ACCOUNT in line for line in say(["token", "list"], terminal=False).out)


def test_what_only_a_running_server_can_do_is_one_line_that_tells_so(stopped: Path) -> None:
    for asked in NEED_A_SERVER.values():
        for words in asked:
            for more in ([], ["--json"]):
                said = say([*words, *more, "--state", str(stopped)], terminal=True)
                assert (said.status, said.out, len(said.errors)) == (1, [], 1), (words, said)
                assert f"start the server first: no server runs with the state {stopped}" in said.errors[0], words


def test_whatever_else_reads_a_state_leaves_it_alone(stopped: Path) -> None:
    for asked in READ_THE_STATE.values():
        for words in asked:
            said = say([str(stopped) if word == "STATE" else word for word in words], terminal=False)
            if words[0] == "doctor":  # what it finds is up to the computer, too
                assert any("none runs with this state; one was last seen" in line for line in said.out)
            else:
                assert said.status == (1 if words[0] == "web-ca" else 0), (words, said)
            assert len(said.errors) == (1 if words[0] == "web-ca" else 0), (words, said)
            assert all(line.isprintable() for line in said.out)
