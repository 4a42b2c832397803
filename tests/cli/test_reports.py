"""Reports, history and events, of servers that run and of states that none has; and looks at stopped servers."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spalloc_server.cli import reports
from spalloc_server.cli.admin import main
from spalloc_server.cli.running_server import changes
from spalloc_server.frontends.local_api import socket_path
from tests.house import Client, Place
from tests.storage.months import Month
from tests.storage.test_settled import look

BEGIN = 1_774_000_000.0
READY = 3


def run(*arguments: object, columns: str = "80") -> Result:
    return CliRunner(env={"COLUMNS": columns}).invoke(main, [str(argument) for argument in arguments])


def shown(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What a server left that was killed: with a job that runs and two that have ended, and its log unmerged."""
    (tmp_path / "life").mkdir()
    month = Month(tmp_path / "life" / "state.db", BEGIN)
    month.create("ann@example.org", 3)
    month.wait(7200)
    month.create("bob\x1b[31m", 1, 1)
    month.wait(3600)
    month.destroy(0)
    month.destroy(0)
    month.close_board()
    month.wait(600)
    month.create("=cas", 6)
    month.wait(60)
    month.connection.execute("INSERT OR REPLACE INTO facts VALUES ('clock', ?)", (json.dumps({"at": month.now}),))
    (tmp_path / "copy").mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(tmp_path / "life" / name, tmp_path / "copy" / name)
    month.connection.close()
    return tmp_path / "copy" / "state.db"


def test_a_report_is_a_table_that_fits_a_terminal(state: Path) -> None:
    text = shown("report", "--state", state)
    assert all(len(line) <= 80 for line in text.splitlines()[:5])
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["ann@example.org"][1:4] == ["1", "9.0", "89%"]
    assert rows["bob\\x1b[31m"][1] == "1", "what somebody typed is no control of terminals"
    assert rows["all"][1] == "2"
    assert "1 job had boards at the end" in text
    assert "of 38.2 board-hours," in text


def test_a_report_is_json_and_csv_for_programs(state: Path) -> None:
    found = json.loads(shown("report", "--state", state, "--json"))
    assert found["groups"]["ann@example.org"]["board_seconds"] == pytest.approx(3 * 10800)
    table = list(csv.DictReader(io.StringIO(shown("report", "--state", state, "--csv"))))
    assert {line["owner"] for line in table} == {"ann@example.org", "bob\\x1b[31m", "'=cas"}
    assert float(table[0]["board_seconds"]) == pytest.approx(3 * 10800)


@pytest.mark.parametrize("by", ["machine", "size", "day", "hour"])
def test_a_report_can_be_by_other_things(state: Path, by: str) -> None:
    text = shown("report", "--by", by, "--since", "2026-03-20", "--until", "2026-03-22", "--state", state)
    assert by in text
    total = json.loads(shown("report", "--by", by, "--since", "2026-03-19", "--state", state, "--json"))
    assert total["total"]["board_seconds"] == pytest.approx(3 * 10800 + 3600 + 6 * 60)
    assert sum(group["board_seconds"] for group in total["groups"].values()) == pytest.approx(
        total["total"]["board_seconds"]
    )


def test_a_period_that_is_none_is_told(state: Path) -> None:
    assert "'gestern' is no time" in run("report", "--since", "gestern", "--state", state).stderr
    assert "is not before" in run("report", "--since", "2026-03-22", "--until", "2026-03-21", "--state", state).stderr


def test_too_many_hours_are_told(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_SPANS", 10)
    assert "more than 10 hours" in run("report", "--by", "hour", "--since", "2026-03-01", "--state", state).stderr


def test_history_lists_jobs_that_have_ended(state: Path) -> None:
    text = shown("history", "--state", state)
    assert "2 jobs ended" in text
    assert "bob" not in shown("history", "--owner", "ann@example.org", "--state", state)
    assert [job["owner"] for job in json.loads(shown("history", "--state", state, "--json"))] == [
        "ann@example.org", "bob\x1b[31m",
    ]  # fmt: skip
    assert "0 jobs ended" in shown("history", "--since", "2026-04-01", "--state", state)
    assert "0 jobs ended" in shown("history", "--since", "2026-03-01", "--until", "2026-03-02", "--state", state)


def test_events_tell_what_happened_to_whom_and_why(state: Path) -> None:
    text = shown("events", "--since", "2026-03-01", "--state", state)
    lines = text.splitlines()
    assert lines == sorted(lines, key=lambda line: line[:19])
    assert "job 1  created  (ann@example.org)" in text
    assert "job 1  ended" in text
    assert "job 2  failed  1 board of hall  (bob\\x1b[31m)" in text
    assert "board failed" in text
    assert "board closed  0,0,0 of hall  by ann  it is hot" in text
    mine = json.loads(shown("events", "--job", 1, "--state", state, "--json"))
    assert [event["event"] for event in mine] == ["created", "allocated", "ready", "ended"]
    of_board = shown("events", "--board", "0,0,0", "--since", "2026-03-01", "--state", state)
    assert "board closed" in of_board
    assert "job 3" not in of_board
    assert "is no board; right would be 3,1,2" in run("events", "--board", "0,0", "--state", state).stderr
    assert "nothing happens there" in run("events", "-f", "--state", state).stderr


def test_looks_at_a_stopped_server_answer_as_the_server_did_and_leave_no_trace(state: Path) -> None:
    before = look(state.parent)
    status = run("status", "--state", state)
    assert status.exit_code == 0, status.output
    assert "no server runs: this is how it was at 2026-03-20" in status.stderr
    assert "jobs: 1 ready" in status.stdout
    assert " 6 " in shown("machines", "--state", state)
    assert "=cas" in shown("jobs", "--state", state)
    assert "out of service" in shown("boards", "--bad", "--state", state)
    assert "ann@example.org" in shown("job", 1, "--state", state)
    assert json.loads(shown("job", 3, "--state", state, "--json"))["state"] == "ready"
    for name in ("report", "history", "events"):
        shown(name, "--state", state)
    assert look(state.parent) == before


def test_a_job_that_ended_long_ago_is_found_in_a_state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spalloc_server.cli.stopped_server.RETIRED", 0)
    assert "bob" in shown("job", 2, "--state", state)
    assert "no job 99 is known" in run("job", 99, "--state", state).stderr


@pytest.mark.parametrize(
    "command", [("kill", "1", "--reason", "x"), ("drain", "hall"), ("read-temperatures", "hall"), ("resume",)]
)
def test_what_changes_something_needs_a_server(state: Path, command: tuple[str, ...]) -> None:
    before = look(state.parent)
    result = run(*command, "--state", state)
    assert result.exit_code == 1
    assert f"no server runs with the state {state}" in result.stderr
    assert look(state.parent) == before


def test_the_only_state_of_a_folder_need_not_be_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("state.db", "state.db-wal"):
        state.with_name(name).rename(state.with_name(f".hall.toml.{name}"))
    monkeypatch.chdir(state.parent)
    assert "ann@example.org" in shown("report")
    assert "jobs: 1 ready" in shown("status")
    shutil.copy(".hall.toml.state.db", ".other.toml.state.db")
    assert "no server runs in this folder" in run("report").stderr


def test_a_state_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"there is no state {tmp_path / 'x.db'}" in run("report", "--state", tmp_path / "x.db").stderr
    assert f"no server runs with the state {tmp_path / 'x.db'}" in run("status", "--state", tmp_path / "x.db").stderr


async def test_a_running_server_is_reported_on_and_followed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        job_id = await client.create(3, owner="ann")
        await client.until(job_id, READY)

        def first_news() -> Any:
            news = changes(socket_path(place.state))
            next(news)
            subscribed.set()
            next(news)  # the answer to the subscription
            next(news)

        subscribed = asyncio.Event()
        told = asyncio.create_task(asyncio.to_thread(first_news))
        await asyncio.to_thread(lambda: None)
        await client.call("destroy_job", job_id, "done")
        other = await client.create(1, owner="bob")
        await client.until(other, READY)
        await told
        report = await asyncio.to_thread(run, "report", "--state", place.state, "--json")
        assert json.loads(report.stdout)["groups"]["ann"]["jobs"] == 1
        assert json.loads(report.stdout)["running"] == 1
        events = await asyncio.to_thread(run, "events", "--state", place.state)
        assert f"job {job_id}  ended  3 boards of m  (ann)  done" in events.stdout
        await client.close()
    report = await asyncio.to_thread(run, "report", "--state", place.state, "--json")
    assert json.loads(report.stdout)["total"]["jobs"] == 1
