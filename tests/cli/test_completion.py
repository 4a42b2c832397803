"""What a shell offers at a tab."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.shell_completion import ShellComplete

from spalloc_server.cli.admin import COMMANDS, COMPLETION, main
from spalloc_server.cli.completion import COMPLETION_SECONDS
from spalloc_server.frontends.local_api import socket_path
from tests.cli.commands import BIN
from tests.house import PATIENCE, Client, Place


@pytest.fixture(autouse=True)
def asked_by_a_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(COMPLETION, "bash_complete")
    with structlog.testing.capture_logs():
        yield


def offered(*words: object, incomplete: str = "") -> list[str]:
    completion = ShellComplete(main, {}, "spalloc-admin", COMPLETION)
    return [each.value for each in completion.get_completions([str(word) for word in words], incomplete)]


def test_commands_are_offered_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spalloc_server.cli.admin.import_module", lambda _: pytest.fail("imported"))
    assert offered() == list(COMMANDS)
    assert offered(incomplete="boa") == ["boards", "board"]


def test_commands_of_a_group_and_options_are_offered() -> None:
    assert offered("board") == ["disable", "enable"]
    assert "--reason" in offered("kill", incomplete="--")


async def test_machines_jobs_owners_and_boards_are_those_of_the_running_server(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure(width=2, height=1)
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        for owner in ("ann", "bob"):
            await client.create(1, owner=owner)
        await client.close()
        at = ["--state", place.state]

        async def tab(*words: object, incomplete: str = "") -> list[str]:
            return await asyncio.to_thread(offered, *words, incomplete=incomplete)

        assert await tab("boards", *at) == ["m"]
        assert await tab("boards", *at, incomplete="x") == []
        assert await tab("job", *at) == ["1", "2"]
        assert await tab("board", "disable", *at, "m") == [f"{x},0,{z}" for x in range(2) for z in range(3)]
        assert await tab("board", "disable", *at, "m", "0,0,1", incomplete="1,") == ["1,0,0", "1,0,1", "1,0,2"]
        assert await tab("frame", "disable", *at, "m", "0") == ["0"]
        assert await tab("machines", "--config", place.config) == []


def test_what_is_of_no_running_server_is_not_asked_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spalloc_server.cli.completion.find_server", lambda *_: pytest.fail("asked"))
    assert offered("simulate", "--machine") == []


def test_where_no_server_runs_nothing_is_offered(tmp_path: Path) -> None:
    assert offered("job", "--state", tmp_path / "none.db") == []


def test_a_server_that_does_not_answer_holds_no_shell_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPALLOC_STATE", str(tmp_path / "hangs.db"))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(tmp_path / "hangs.db")))
        silent.listen()
        begun = time.monotonic()
        assert offered("job") == []
        assert COMPLETION_SECONDS / 2 < time.monotonic() - begun < PATIENCE
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shell", "said"),
    [("bash", "plain,status\n"), ("zsh", "plain\nstatus\nHow a running server is"), ("fish", "status")],
)
def test_shells_that_click_knows_are_answered(shell: str, said: str) -> None:
    word = "1" if shell != "fish" else "statu"
    environment = {"COMP_WORDS": "spalloc-admin statu", "COMP_CWORD": word, COMPLETION: f"{shell}_complete"}
    told = subprocess.run(
        [BIN / "spalloc-admin"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert said in told.stdout
    script = subprocess.run(
        [BIN / "spalloc-admin"],
        env=os.environ | {COMPLETION: f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert COMPLETION in script.stdout
