"""Drawing a machine."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from spalloc_server.cli.map import map as map_command
from spalloc_server.config.load import load
from spalloc_server.controller import Changes, Controller, Outcome
from spalloc_server.core.model.arguments import read_request
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import state_path
from tests.cli.commands import one_line_of
from tests.house import Place


def store(config: Path, changes: Changes) -> None:
    """Leave a state as a server with this config file does."""

    async def write() -> None:
        journal = SqliteJournal.open(state_path(config), read_request=read_request, loop=asyncio.get_running_loop())
        journal.write(changes, lambda error: None)
        await journal.close()

    asyncio.run(write())


def busy(config: Path) -> Controller:
    """A core with a job of 6 boards, one that ended, and a board out of service."""
    core = Controller()
    core.configure(load(config))
    core.create_job(2, 1, owner="retina")
    gone = core.create_job(owner="gone")
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    core.destroy_job(gone)
    core.disable_board("frame", (3, 1, 2), reason="smells", by="ann")
    return core


def drawn(*arguments: object) -> str:
    result = CliRunner().invoke(map_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"no server runs: this is how it was at [\d-]+ [\d:]+\n", result.stderr)
    return result.stdout


def test_jobs_are_letters_and_boards_that_cannot_be_used_are_marked(config: Path) -> None:
    store(config, busy(config).take_changes())
    text = drawn("frame", "--config", config)
    picture, legend = text.partition("free")[0], text.partition("free")[2]
    assert (picture.count("a"), picture.count("!"), picture.count("~")) == (6, 1, 1)
    assert "job 1 of retina" in legend
    assert "(3, 1, 2) is out of service: smells (by ann)" in legend


def test_boards_of_a_frame_that_are_out_of_service_for_one_reason_are_one_line(config: Path) -> None:
    core = busy(config)
    for board in ((0, 1, 0), (0, 1, 1), (2, 1, 0)):
        core.disable_board("frame", board, reason="a wet shelf", by="bob")
    store(config, core.take_changes())
    assert drawn("frame", "--config", config).splitlines()[-2:] == [
        "(0, 1, 0), (0, 1, 1), (2, 1, 0) are out of service: a wet shelf (by bob)",
        "(3, 1, 2) is out of service: smells (by ann)",
    ]


@pytest.mark.parametrize(("columns", "wide"), [(80, 2), (10, 1)])
def test_with_colours_boards_are_blocks_as_wide_as_there_is_room(config: Path, columns: int, wide: int) -> None:
    store(config, busy(config).take_changes())
    colours = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color", "COLUMNS": str(columns)}
    result = CliRunner().invoke(map_command, ["frame", "--config", str(config)], env=colours)
    assert result.exit_code == 0, result.output
    picture = re.sub(r"\x1b\[[\d;]*m", "", result.stdout).splitlines()[:4]
    assert [len(line) for line in picture] == [8 * wide] * 4
    assert set("".join(picture)) <= {*" ▀▄a~!"}
    assert "\N{UPPER HALF BLOCK}" in "".join(picture)
    assert "a" in "".join(picture), "jobs are told apart without their colours, too"


def test_a_picture_goes_to_a_file_with_every_board_named(config: Path, tmp_path: Path) -> None:
    store(config, busy(config).take_changes())
    out = tmp_path / "frame.svg"
    assert drawn("frame", "--config", config, "--svg", out) == ""
    text = out.read_text()
    assert text.count("job 1 of retina") == 6
    assert "1: retina, 6 boards" in text
    assert "out of service; smells" in text


async def test_a_running_server_is_asked(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure()
    with structlog.testing.capture_logs():  # which would go where the command's words go
        async with place.simulator(), place.serving() as server:
            server.controller.create_job(3, owner="ann")
            server.controller.frame_changed(place.hosts[0], "it is silent")
            result = await asyncio.to_thread(CliRunner().invoke, map_command, ["m", "--config", str(place.config)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    picture = result.stdout.partition("free")[0]
    assert (picture.count("a"), picture.count("!")) == (3, 9), "who has boards of the frame is seen"
    assert "job 1 of ann" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "cabinet 0, frame 0, 12 boards, is out of service: it is silent; in use by job 1"
    )


def test_a_machine_that_there_is_not_is_one_line(config: Path) -> None:
    store(config, busy(config).take_changes())
    result = CliRunner().invoke(map_command, ["fame", "--config", str(config)])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "spalloc-admin map: there is no machine 'fame'; there are: frame"


def test_a_state_that_there_is_not_is_one_line(config: Path, tmp_path: Path) -> None:
    line = one_line_of(map_command, "frame", "--config", config, "--state", tmp_path / "none.db")
    assert line == f"spalloc-admin map: there is no such file, and no server runs with the state {tmp_path / 'none.db'}"


def test_a_picture_that_cannot_be_written_is_one_line(config: Path, tmp_path: Path) -> None:
    store(config, busy(config).take_changes())
    arguments = ["frame", "--config", str(config), "--svg", str(tmp_path / "none" / "frame.svg")]
    result = CliRunner().invoke(map_command, arguments)
    line = result.stderr.splitlines()[-1]
    assert result.exit_code == 1
    assert line.startswith("spalloc-admin map: ")
    assert "frame.svg" in line


def test_boards_of_a_disabled_frame_are_drawn_as_their_jobs_until_these_have_ended(config: Path) -> None:
    core = busy(config)
    core.disable_frame("frame", (0, 0), reason="fans", by="bob")
    store(config, core.take_changes())
    text = drawn("frame", "--config", config)
    picture = text.partition("free")[0]
    assert [picture.count(mark) for mark in "a~!"] == [6, 1, 17], "one has yet to be switched off"
    assert "boards, is out of service: fans (by bob)" not in text
    assert "are out of service: fans (by bob); in use by job 1" in text
