"""`spalloc-admin import-machines`, `add-machines` and `remove-machine`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from spalloc_server.cli.check_config import check_config
from spalloc_server.cli.definitions import import_machines
from spalloc_server.config.definitions import read_definitions
from spalloc_server.config.load import load
from spalloc_server.config.settings import Configuration
from tests.cli.commands import BIN, one_line_of
from tests.cli.test_operators import admin, complaint, data, words
from tests.house import Place

pytestmark = pytest.mark.usefixtures("quiet")

DATA = Path(__file__).parents[1] / "data" / "definitions"
SINGLE, THREE, LITTLE = (DATA / f"{name}.json" for name in ("single-board-example", "three-board-example", "little"))


def test_the_config_file_has_the_very_machines_of_all_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(import_machines, [str(LITTLE), str(SINGLE), str(THREE)])
    assert (result.exit_code, result.stderr) == (0, "")
    config = tmp_path / "hall.toml"
    config.write_bytes(result.stdout_bytes)
    machines = [machine for path in (LITTLE, SINGLE, THREE) for machine in read_definitions(path.read_text()).machines]
    assert load(config) == Configuration(machines, ip="127.0.0.1")
    checked = CliRunner().invoke(check_config, [str(config)])
    assert checked.output.splitlines() == [
        "little: 2 x 2 triads, 11 boards in 1 frame, 1 dead board, 2 dead links, tags little",
        "my-board: 1 x 1 triads, 1 board in 1 frame, tags single",
        "SpiNNaker3board: 1 x 1 triads, 3 boards in 1 frame, tags default, machine-room",
        f"{config} is good: 3 machines, 15 boards",
    ]


def from_standard_input(text: bytes) -> subprocess.CompletedProcess[bytes]:
    """The command in a terminal that has no characters but those of ASCII."""
    command = [str(BIN / "spalloc-admin"), "import-machines", "-"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(command, input=text, capture_output=True, env=environment, check=False)


def test_it_is_utf_8_whatever_the_terminal_has(tmp_path: Path) -> None:
    text = SINGLE.read_text().replace("my-board", "b\u00e9\U0001f600")
    done = from_standard_input(text.encode())
    config = tmp_path / "hall.toml"
    config.write_bytes(done.stdout)
    assert load(config) == read_definitions(text)


def test_what_cannot_be_imported_is_one_line_that_names_the_file() -> None:
    bad = DATA / "bad-board-example.json"
    told = one_line_of(import_machines, SINGLE, bad)
    assert told.startswith(f"spalloc-admin import-machines: {bad}: the file: ip: '1.2.3.4.5.not-an-ip' is a bad IPv4")
    assert f"{DATA}: cannot be read: Is a directory" in one_line_of(import_machines, DATA)
    assert "/nowhere: cannot be read: No such file" in one_line_of(import_machines, "/nowhere")
    assert "is used by machine 1 of the list and by machine 2" in one_line_of(import_machines, SINGLE, SINGLE)
    for text, problem in (
        (b"\xff", "<stdin>, line 1: not a text in UTF-8"),
        (b"{}", "standard input: the file: machines"),
    ):
        done = from_standard_input(text)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().startswith(f"spalloc-admin import-machines: {problem}")


def test_files_that_do_not_agree_on_a_setting_are_not_put_together(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(THREE.read_text().replace('"seconds-before-free":30', '"seconds-before-free":7'))
    told = f"{other}: seconds-before-free is 7, and in {SINGLE} 30: import the files one by one"
    assert told in one_line_of(import_machines, SINGLE, other)


# -------------------------------------------------------------------- a running server


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving():
        yield place


async def test_machines_come_to_a_running_server_and_go(place: Place) -> None:
    shown = await words(place, "add-machines", LITTLE)
    assert "little 2x2 11 0 11 1 0 imported" in shown
    assert "1 machine added" in shown
    assert [(each["name"], each["imported"]) for each in await data(place, "machines")] == [
        ("m", False),
        ("little", True),
    ]
    assert "little 2x2 11 0 11 1 0 imported" in await words(place, "machines")
    told = await complaint(place, "add-machines", LITTLE)
    assert "there is a machine 'little' already, which is imported: remove that one, or give this one another" in told
    assert "machine 'm' is of the configuration: take it out there, and reload" in await complaint(
        place, "remove-machine", "m"
    )
    assert await words(place, "remove-machine", "little") == "little is removed"
    assert [each["name"] for each in await data(place, "machines")] == ["m"]
    assert "there is no machine 'little'" in await complaint(place, "remove-machine", "little")


async def test_what_is_wrong_is_told_before_the_server_is_asked(place: Place) -> None:
    bad = DATA / "bad-board-example.json"
    assert f"{bad}: the file: ip: '1.2.3.4.5.not-an-ip' is a bad IPv4" in await complaint(place, "add-machines", bad)
    assert "cannot be read" in await complaint(place, "add-machines", "/nowhere")


async def test_a_check_of_the_config_file_leaves_imported_machines_alone(place: Place) -> None:
    await words(place, "add-machines", LITTLE)
    result = await admin(None, "check-config", "--against", place.state, place.config)
    assert result.output.splitlines()[-2:] == ["no machine would change", "0 jobs of 0 would end"]
