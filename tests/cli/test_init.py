"""`spalloc-admin init`: answers become a config file that is good, or nothing is written."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, strategies as st

from spalloc_server.cli.admin import main
from spalloc_server.config.load import load
from spalloc_server.errors import ConfigurationError
from tests.cli.commands import BIN, STOP_SECONDS, as_in_a_terminal, one_line_of
from tests.pages import ROOT

WIRING = ROOT / "examples" / "spinner-1200.csv"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def init(*arguments: object, typed: list[str] | None = None) -> Result:
    words = ["init", *map(str, arguments)]
    return CliRunner().invoke(main, words, input=None if typed is None else "\n".join([*typed, ""]))


def test_with_enter_alone_it_is_one_board_on_a_desk(here: Path) -> None:
    result = init(typed=[""] * 8)
    assert result.exit_code == 0, result.output
    assert names(here) == ["my-machine.toml"]
    (machine,) = load(here / "my-machine.toml").machines
    assert (machine.name, machine.bmp_ips, machine.spinnaker_ips) == (
        "my-machine",
        {(0, 0): "192.168.240.0"},
        {(0, 0, 0): "192.168.240.1"},
    )
    assert "\n  spalloc_server my-machine.toml\n" in result.output
    assert "spalloc_server my-machine.toml is good" not in result.output


def test_what_it_says_to_type_is_what_was_answered(here: Path) -> None:
    told = init(typed=["hall", "h.toml", "24", "10.0.0.0", "", "22250", "/var/lib/hall.db", "n"]).output
    assert "\n  spalloc-admin doctor h.toml --port 22250 --state /var/lib/hall.db\n" in told
    assert "\n  spalloc_server h.toml --port 22250 --state /var/lib/hall.db\n" in told
    text = (here / "h.toml").read_text()
    assert "# Start: spalloc_server h.toml --port 22250 --state /var/lib/hall.db\n" in text
    assert "# Ask:   spalloc-admin status --state /var/lib/hall.db\n" in text
    assert load(here / "h.toml").web is None


def test_a_wrong_answer_is_asked_for_again(here: Path) -> None:
    (here / "there.toml").touch()
    wrong = ["\x07", "hall", "there.toml", "hall.py", "no/hall.toml", "hall.toml", "25", "3", "http://b", "10.0.0.0"]
    told = init(typed=[*wrong, "", "70000", "0", "", "y"]).output
    assert told.count("Error: ") == 7
    configuration = load(here / "hall.toml")
    assert len(configuration.machines[0].live_boards) == 3
    assert configuration.web is not None
    assert "--port 0" in told


def test_bmps_of_many_frames_are_one_answer_or_one_each(here: Path) -> None:
    told = init("a.toml", "--name", "m", "--boards", WIRING, "--no-web", typed=["10.0.0.0", "y", "", "", ""]).output
    assert "10.0.1.0, ..., 10.0.49.0" in told
    assert load(here / "a.toml").machines[0].bmp_ips[9, 4] == "10.0.49.0"
    one_by_one = [f"bmp-{number}" for number in range(50)]
    init(
        "b.toml",
        "--name",
        "m",
        "--boards",
        WIRING,
        "--no-web",
        typed=[*one_by_one, "b{cabinet}-{frame}-{board}", "", ""],
    )
    (machine,) = load(here / "b.toml").machines
    assert list(machine.bmp_ips.values()) == one_by_one
    assert machine.spinnaker_ips[0, 0, 0].startswith("b")


@pytest.mark.parametrize("boards", ["1", "3", "24", WIRING])
def test_without_questions_options_say_it_and_the_rest_is_usual(here: Path, boards: object) -> None:
    assert init("a.toml", "--yes", "--boards", boards).exit_code == 0
    assert CliRunner().invoke(main, ["check-config", "a.toml"]).exit_code == 0
    assert one_line_of(main, "init", "b.toml", "--yes", "--boards", boards, "--bmp", "bmp").endswith(
        "there is no usual answer; give it as an option"
    )


def test_options_that_cannot_be_are_refused(here: Path) -> None:
    assert "each frame has one" in one_line_of(main, "init", "a.toml", "--yes", "--bmp", "a", "--bmp", "b")
    assert "without a scheme" in one_line_of(main, "init", "a.toml", "--yes", "--bmp", "http://b")
    assert "each needs one of its own" in one_line_of(
        main, "init", "a.toml", "--yes", "--boards", "3", "--board-hosts", "same"
    )
    (here / "empty.csv").write_text("cabinet,frame,board,x,y\n")
    assert "it lists no boards" in one_line_of(main, "init", "a.toml", "--yes", "--boards", "empty.csv")
    assert names(here) == ["empty.csv"]


def test_no_file_is_ever_overwritten(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a.toml").write_text("mine")
    assert "a.toml is there already" in one_line_of(main, "init", "a.toml", "--yes")
    (here / "link.toml").symlink_to("nowhere")
    assert "link.toml is there already" in one_line_of(main, "init", "link.toml", "--yes")

    def late(path: Path) -> object:
        (here / "late.toml").write_text("somebody else's")
        return load(path)

    monkeypatch.setattr("spalloc_server.cli.init.load", late)
    assert "late.toml is there already" in one_line_of(main, "init", "late.toml", "--yes")
    assert (here / "a.toml").read_text() == "mine"
    assert (here / "late.toml").read_text() == "somebody else's"
    assert names(here) == ["a.toml", "late.toml", "link.toml"]


def test_what_cannot_be_written_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    assert "a.toml cannot be written: No space left on device" in one_line_of(main, "init", "a.toml", "--yes")
    assert names(here) == []


def test_at_the_end_of_input_nothing_is_written(here: Path) -> None:
    result = init(typed=["hall", "hall.toml"])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "nothing is written")
    assert names(here) == []


def test_ctrl_c_writes_nothing(here: Path) -> None:
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [BIN / "spalloc-admin", "init"], stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=as_in_a_terminal
    ) as process:
        os.write(controller, b"hall\n")
        said = b""
        while b"config file" not in said:
            said += os.read(controller, 1000)
        try:
            deadline = time.monotonic() + STOP_SECONDS
            while process.poll() is None:  # one that comes just before it begins to read is noticed with the next
                assert time.monotonic() < deadline
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            assert process.returncode == 130
        finally:
            process.kill()
    assert names(here) == []


@given(
    st.lists(
        st.sampled_from(["", "hall", "a b", "24", "1", "10.0.0.0", "bmp", "{board}", "y", "n", "x.toml", "'", '"', "é"])
    ),
    st.sampled_from(["1", "3", "24"]),
)
def test_whatever_is_typed_the_file_is_good_or_there_is_none(typed: list[str], boards: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.toml"
        result = init(path, "--boards", boards, typed=typed)
        assert result.exit_code in {0, 1, 130}, result.output
        assert names(name) == (["a.toml"] if result.exit_code == 0 else [])
        if result.exit_code == 0:
            try:
                load(path)
            except ConfigurationError as error:
                raise AssertionError(path.read_text()) from error
