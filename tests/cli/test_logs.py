"""The log: one line an event, for people and for programs."""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from pathlib import Path

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
    assert line[19:] == ' info    board failed  board=3  bmp=127.0.0.1  reason="no answer"'


def test_nobody_can_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().warning("job made", owner="x\n2026-01-01 00:00:00 error disk full", other="", equal="a=b")
    (line,) = lines_of(capsys)
    assert line.endswith(r'owner="x\n2026-01-01 00:00:00 error disk full"  other=""  equal="a=b"')


def test_programs_read_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json")
    structlog.get_logger().error("board failed", board=3)
    (line,) = lines_of(capsys)
    entry = json.loads(line)
    assert (entry["level"], entry["event"], entry["board"]) == ("error", "board failed", 3)
    assert datetime.fromisoformat(entry["timestamp"]).tzinfo is not None


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


HOSTILE = "red\x1b[31m\x9b1m\u202e\udc80\x7f\n"
"""Sequences for terminals with 7 and with 8 bits, an override of direction, half a character, and an end of line."""


def test_values_are_json_and_those_that_are_not_known_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().info("it", list=["a", 1], map={"a": None}, yes=True, none=None, path=Path("/a b"), one="é")
    (line,) = lines_of(capsys)
    assert line.partition("  ")[0].endswith(" info")
    assert line.endswith('it  list=["a", 1]  map={"a": null}  yes=true  path="/a b"  one=é')


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_text_is_a_control_of_a_terminal(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format=log_format)
    log = structlog.get_logger()
    log.info(HOSTILE, value=HOSTILE, inside=[HOSTILE])
    log.error("failed", exc_info=ValueError(f"{HOSTILE}2026-01-01 00:00:00 error   disk full"))
    lines = lines_of(capsys)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("2026-01-01 00:00:00") for line in lines)
    if log_format == "json":
        assert json.loads(lines[0])["inside"] == [HOSTILE]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_lines_for_the_journal_begin_with_their_priority(
    log_format: LogFormat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = os.fstat(2)
    for stream, begins in ((f"{status.st_dev}:{status.st_ino}", "<4>"), (f"{status.st_dev}:0", ""), ("", "")):
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        configure(log_format=log_format)
        structlog.get_logger().warning("it", exc_info=(ValueError, ValueError("two\nlines"), None))
        lines = lines_of(capsys)
        assert all(line.startswith(begins) for line in lines)
        assert lines[0].startswith("<") == bool(begins)
