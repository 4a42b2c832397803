"""Which server a command is about, and which servers there are on this computer."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spalloc_server import __version__
from spalloc_server.cli import servers
from spalloc_server.cli.admin import main
from spalloc_server.cli.servers import Found
from spalloc_server.storage.state_file import at_rest
from tests.cli.commands import one_line_of
from tests.house import PATIENCE, Place

pytestmark = pytest.mark.usefixtures("quiet")


async def admin(*arguments: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, [str(argument) for argument in arguments])


async def complaint(*arguments: object) -> str:
    result = await admin(*arguments)
    assert result.exit_code == 1, result.output
    return result.stderr.strip()


def process(folder: Path, pid: int, *words: str) -> Path:
    """A process in a `/proc` of a test's own."""
    made = folder / str(pid)
    made.mkdir()
    (made / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
    (made / "stat").write_text(f"{pid} (python 3) S " + " ".join(["0"] * 18) + " 4711 0 0")
    return made


def sockets(folder: Path, *paths: Path, listening: bool = True) -> None:
    """The kernel's list of Unix sockets."""
    (folder / "net").mkdir(exist_ok=True)
    flags = "00010000" if listening else "00000000"
    lines = [f"ffff: 00000002 00000000 {flags} 0001 01 12345 {path}" for path in paths]
    (folder / "net" / "unix").write_text("\n".join(["Num RefCount Protocol Flags Type St Inode Path", *lines]) + "\n")


# -------------------------------------------------------------------- which is meant


async def test_the_environment_names_the_server_where_no_option_does(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Place(tmp_path_factory.mktemp("other"))
    other.configure(name="n")
    monkeypatch.chdir(place.folder)
    async with place.simulator(), place.serving(), other.simulator(), other.serving():
        assert "\nm " in (await admin("machines")).stdout
        monkeypatch.setenv("SPALLOC_STATE", str(other.state))
        assert "\nn " in (await admin("machines")).stdout
        assert "\nm " in (await admin("machines", "--state", place.state)).stdout
        assert "\nm " in (await admin("machines", "--config", place.config)).stdout
        monkeypatch.setenv("SPALLOC_STATE", "")
        assert "\nm " in (await admin("machines")).stdout


@pytest.mark.parametrize("command", [["status"], ["map", "m"]])
async def test_an_error_tells_how_the_server_was_looked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(place.folder)
    assert "no server runs in this folder: say which is meant with --state or --config" in await complaint(*command)
    line = await complaint(*command, "--config", place.config)
    assert line.endswith(f"no server runs with the state {place.state}, which is beside --config")
    monkeypatch.setenv("SPALLOC_STATE", "/nowhere/hall.db")
    line = await complaint(*command)
    assert line.endswith("no server runs with the state /nowhere/hall.db, which SPALLOC_STATE names")
    assert "SPALLOC_STATE" not in await complaint(*command, "--state", place.state)


@pytest.mark.parametrize("command", [["status"], ["map", "m"], ["report"], ["kill", "1", "--reason", "x"], ["web-ca"]])
def test_a_state_in_a_folder_that_this_user_may_not_enter_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    closed, found = tmp_path / "closed", Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return found(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setenv("SPALLOC_STATE", str(closed / "hall.db"))
    assert "this user may not look for" in one_line_of(main, *command)
    assert at_rest(closed / "hall.db") is None
    assert CliRunner().invoke(main, ["servers"]).exit_code == 0


# -------------------------------------------------------------------- which others there are


async def test_a_running_server_is_listed_with_what_an_operator_needs(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(servers, "PROC", Path("/proc"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    async with place.simulator(), place.serving() as server:
        listed: list[dict[str, Any]] = json.loads((await admin("servers", "--json")).stdout)
        (found,) = [each for each in listed if each["state"] == str(place.state)]
        assert 0 <= time.time() - found.pop("since") < 10 * PATIENCE
        assert found == {
            "state": str(place.state),
            "config": str(place.config),
            "address": list(server.address),
            "pid": os.getpid(),
            "user": getpass.getuser(),
            "version": __version__,
            "machines": ["m"],
            "remark": "",
        }
        assert str(place.state) in (await admin("servers")).stdout


async def test_where_exactly_one_runs_elsewhere_the_error_says_how_to_reach_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    sockets(servers.PROC, Path(f"{place.state}.sock"))
    async with place.simulator(), place.serving():
        assert f"; there is one at {place.state}: say --state {place.state}" in await complaint("status")
        process(servers.PROC, 17, "/usr/bin/python3", "/opt/spalloc_server", "hall.toml")
        assert "; 2 run on this computer: `spalloc-admin servers` lists them" in await complaint("status")
    assert "of user" in await complaint("status")  # only the other one is left


def test_a_server_that_answers_others_only_is_known_by_its_process() -> None:
    process(servers.PROC, 17, "/opt/bin/python3.11", "/opt/bin/spalloc_server", "hall.toml", "-p", "22245").joinpath(
        "cwd"
    ).symlink_to("/etc/spalloc")
    process(servers.PROC, 18, "python3", "-m", "spalloc_server", "a.toml", "--state=/var/lib/a.db")
    process(servers.PROC, 19, "vim", "spalloc_server", "b.toml")
    process(servers.PROC, 20, "python3", "-m", "spalloc_server.cli.front", "--state", "c.db")
    process(servers.PROC, 21)
    (servers.PROC / "22").mkdir()
    one, other = sorted(servers.running(), key=lambda found: found.pid or 0)
    assert (one.config, one.state) == ("/etc/spalloc/hall.toml", "/etc/spalloc/.hall.toml.state.db")
    assert (other.config, other.state, other.machines) == ("a.toml", "/var/lib/a.db", None)
    assert one.since is not None
    assert "does not answer this user" in CliRunner().invoke(main, ["servers"]).stdout


def test_what_listens_without_a_state_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_state: Path) -> Found:
        raise AssertionError

    monkeypatch.setattr(servers, "_asked", asked)
    sockets(servers.PROC, tmp_path / "docker.sock")
    assert servers.running() == []
    (tmp_path / "docker.lock").touch()
    sockets(servers.PROC, tmp_path / "docker.sock", listening=False)
    assert servers.running() == []


def test_states_of_this_folder_are_listed_though_no_server_runs_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no server runs on this computer" in CliRunner().invoke(main, ["servers"]).stdout
    (tmp_path / ".hall.toml.state.db").touch()
    (tmp_path / "other.db").touch()
    monkeypatch.setenv("SPALLOC_STATE", "other.db")
    listed = json.loads(CliRunner().invoke(main, ["servers", "--json"]).stdout)
    assert {each["state"]: each["remark"] for each in listed} == {
        str(tmp_path / ".hall.toml.state.db"): "no server runs with it",
        str(tmp_path / "other.db"): "no server runs with it, named by SPALLOC_STATE",
    }
