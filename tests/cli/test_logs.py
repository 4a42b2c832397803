"""The log: one line an event, for people and for programs."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from spalloc_server.cli.logs import LogFormat, configure


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_people_read_the_event_and_then_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger("anybody").info("board failed", board=3, bmp="127.0.0.1", reason="no answer")
    (line,) = lines_of(capsys)
    assert line[19:] == " info    board failed  board=3  bmp=127.0.0.1  reason='no answer'"


def test_nobody_can_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().warning("job made", owner="x\n2026-01-01 00:00:00 error disk full", other="", equal="a=b")
    (line,) = lines_of(capsys)
    assert line.endswith(r"owner='x\n2026-01-01 00:00:00 error disk full'  other=''  equal='a=b'")


def test_programs_read_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json")
    structlog.get_logger().error("board failed", board=3)
    (line,) = lines_of(capsys)
    entry = json.loads(line)
    assert (entry["level"], entry["event"], entry["board"]) == ("error", "board failed", 3)
    assert entry["timestamp"][4] == "-"


def test_quiet_hides_all_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    configure(quiet=True)
    structlog.get_logger().warning("hidden")
    structlog.get_logger().error("shown")
    assert [line.split()[-1] for line in lines_of(capsys)] == ["shown"]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_exceptions_are_shown_with_their_traces(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format=log_format)
    try:
        int("the cause")
    except ValueError:
        structlog.get_logger().exception("it failed")
    shown = "\n".join(lines_of(capsys))
    assert "it failed" in shown
    assert "Traceback (most recent call last)" in shown
    assert "ValueError: invalid literal" in shown


def test_the_standard_library_logs_into_the_same_stream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure()
    logging.getLogger("asyncio").warning("socket.send() raised %s", "exception")
    (line,) = lines_of(capsys)
    assert line.endswith("warning socket.send() raised exception")
