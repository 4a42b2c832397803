"""`kill`, `hold`, `release`, `extend` and `priority`: which jobs are meant, what is asked first, and what is told."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from spalloc_server.cli import job_commands
from spalloc_server.cli.job_commands import extend
from spalloc_server.server import Server
from tests.cli.test_operators import admin, complaint, data, serving, words
from tests.house import Client, Place

READY, QUEUED, DESTROYED = 3, 1, 4
WHY = ("--reason", "night")


pytestmark = pytest.mark.usefixtures("quiet")


async def a_queue(client: Client) -> list[int]:
    """Jobs: ann's, which has the whole machine; two of bob's and one of ann's, which wait."""
    running = await client.create(12, owner="ann", max_runtime=3600)
    await client.until(running, READY)
    waiting = [
        await client.create(12, owner=owner, machine=name)
        for owner, name in (("bob", "m"), ("bob", None), ("ann", None))
    ]
    return [running, *waiting]


def live(server: Server) -> list[int]:
    return sorted(server.controller.live_jobs())


@pytest.mark.parametrize(
    ("which", "meant"),
    [
        ((1, 3), [1, 3]),
        ((3, 1, 3, 2), [1, 2, 3]),
        (("--owner", "bob"), [2, 3]),
        (("--owner", "ann", "--only", "queued"), [4]),
        (("--only", "queued"), [2, 3, 4]),
        (("--only", "ready"), [1]),
        (("--only", "ready", "--only", "queued"), [1, 2, 3, 4]),
        (("--machine", "m"), [1, 2]),
        (("--machine", "m", "--owner", "bob"), [2]),
        (("--all",), [1, 2, 3, 4]),
    ],
)
async def test_those_are_ended_that_are_named_or_chosen(place: Place, which: tuple[Any, ...], meant: list[int]) -> None:
    async with serving(place) as (server, client):
        assert await a_queue(client) == [1, 2, 3, 4]
        assert sorted(await data(place, "kill", *which, *WHY, "--dry-run")) == meant
        shown = await admin(place, "kill", *which, *WHY, "--dry-run")
        assert sorted(map(int, re.findall(r"^ *(\d) +(?:ann|bob)", shown.output, re.MULTILINE))) == meant
        assert f"{len(meant)} job{'s' if len(meant) > 1 else ''} would be ended" in shown.output
        assert live(server) == [1, 2, 3, 4], "nothing was done"
        shown = await admin(place, "kill", *which, *WHY, "--yes")
        ended = re.findall(r"^job (\d) of \w+ is ended$", shown.output, re.MULTILINE)
        assert (shown.exit_code, sorted(map(int, ended))) == (0, meant)
        assert live(server) == sorted({1, 2, 3, 4} - {*meant})
        assert "night" in (await client.call("get_job_state", meant[0]))["reason"]


async def test_without_a_terminal_many_are_ended_only_with_yes_and_one_that_is_named_at_once(place: Place) -> None:
    async with serving(place) as (server, client):
        await a_queue(client)
        for which in ((2, 3), ("--owner", "bob"), ("--all",)):
            result = await admin(place, "kill", *which, *WHY)
            assert result.exit_code == 1
            assert "add --yes to do it, or --dry-run to see which" in result.stderr
        assert "add --yes" in await complaint(place, "kill", "--all", *WHY, "--json")
        assert live(server) == [1, 2, 3, 4]
        assert await words(place, "kill", 4, *WHY) == "job 4 is ended"
        assert await data(place, "kill", 2, 3, *WHY, "--yes") == [2, 3]
        assert "no live job is meant: nothing is done" in await words(place, "kill", "--owner", "bob", *WHY)


@pytest.mark.parametrize(("answer", "left"), [(True, [1]), (False, [1, 2, 3, 4])])
async def test_at_a_terminal_it_shows_them_and_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch, answer: bool, left: list[int]
) -> None:
    asked = []

    def confirm(text: str) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(job_commands, "_at_a_terminal", lambda: True)
    monkeypatch.setattr(click, "confirm", confirm)
    async with serving(place) as (server, client):
        await a_queue(client)
        result = await admin(place, "kill", "--only", "queued", *WHY)
        assert result.exit_code == (0 if answer else 1)
        assert asked == ["End 3 jobs?"]
        assert "bob" in result.output
        assert ("nothing is done" in result.output) == (not answer)
        assert live(server) == left


def test_a_terminal_is_where_standard_input_and_output_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert not job_commands._at_a_terminal()


async def test_where_one_of_the_jobs_does_not_live_nothing_is_done(place: Place) -> None:
    async with serving(place) as (server, client):
        await a_queue(client)
        before = server.controller.job_views()
        for command in (
            ("kill", 2, 77, 78, *WHY, "--yes"),
            ("kill", 2, 77, 78, *WHY, "--dry-run"),
            ("hold", 2, 77, 78, *WHY),
            ("release", 2, 77, 78),
            ("priority", 2, 77, 78, 0),
            ("extend", 1, 77, 78, "--by", "1h"),
        ):
            assert "there is no live job 77, 78: nothing is done" in await complaint(place, *command)
        assert server.controller.job_views() == before


@pytest.mark.parametrize("which", [(), (3, "--owner", "bob"), (3, "--all"), ("--all", "--machine", "m")])
@pytest.mark.parametrize("command", [("kill", *WHY, "--yes"), ("hold", *WHY), ("release",), ("extend", "--by", "1h")])
async def test_jobs_are_named_or_chosen_or_all(place: Place, command: tuple[str, ...], which: tuple[Any, ...]) -> None:
    result = await admin(place, command[0], *which, *command[1:])
    assert result.exit_code == 2
    assert "name jobs by their numbers; or choose them by --owner, --only and --machine; or give --all" in result.output


async def test_jobs_that_have_ended_since_they_were_shown_are_told_apart(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(place) as (server, client):
        await a_queue(client)
        monkeypatch.setattr(job_commands, "_at_a_terminal", lambda: True)
        monkeypatch.setattr(click, "confirm", lambda _: server.controller.destroy_job(3) is None)
        result = await admin(place, "kill", "--owner", "bob", *WHY)
        assert "job 2 of bob is ended\njob 3 of bob had ended already\n" in result.output


async def test_of_very_many_those_that_wait_are_ended_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_commands, "MAX_JOBS", 2)
    async with serving(place) as (server, client):
        await a_queue(client)
        assert await data(place, "kill", "--all", *WHY, "--yes") == [2, 3, 4, 1]
        assert live(server) == []
        assert all(server.controller.state.retired[job_id].allocated_at is None for job_id in (2, 3, 4))


async def test_jobs_are_held_and_released_and_everybody_sees_it(place: Place) -> None:
    async with serving(place) as (_, client):
        await a_queue(client)
        assert await words(place, "hold", "--owner", "bob", *WHY) == "job 2 of bob is on hold job 3 of bob is on hold"
        assert re.search(r"held 2 bob 12 boards machine=m \S+ s On hold, by \S+: night", await words(place, "jobs"))
        assert re.fullmatch(r"job 2 of bob is held: On hold, by \S+: night", await words(place, "explain", 2))
        status = await client.call("get_job_state", 2)
        assert status["state"] == QUEUED
        assert "On hold" in status["reason"]
        await client.call("destroy_job", 1)
        await client.until(4, READY)
        shown = await words(place, "hold", 2, "--reason", "moon")
        assert re.fullmatch(r"job 2 of bob is on hold; it was so already, by \S+, \d+ s ago: night; that .*", shown)
        await client.call("destroy_job", 4)
        shown = await words(place, "release", 2)
        assert re.fullmatch(r"job 2 of bob waits again; it was on hold by \S+, \d+ s ago: moon", shown)
        await client.until(2, READY)
        waiting = await client.create(12, owner="cas")
        shown = await words(place, "release", 3, waiting)
        assert shown.startswith("job 3 of bob waits again; it was on hold by ")
        assert shown.endswith(f": night job {waiting} of cas was not on hold")
        assert "job 2 has boards already" in await complaint(place, "hold", 2, *WHY)
        assert "no live job is meant" in await words(place, "release", "--all")


async def test_a_job_has_more_time_where_it_has_a_limit(place: Place) -> None:
    async with serving(place) as (server, client):
        await a_queue(client)
        assert "may run for 2 h, until 20" in await words(place, "extend", 1, "--by", "1h")
        assert server.controller.job_view(1).max_runtime == 7200.0
        assert "job 2 has no max_runtime: it may run for as long as it is kept alive" in await complaint(
            place, "extend", 1, 2, "--by", "1h"
        )
        assert await data(place, "extend", "--all", "--by", "30min", "--json") == [1]
        assert server.controller.job_view(1).max_runtime == 9000.0


@pytest.mark.parametrize(
    ("span", "seconds"), [("90", 90), ("1h", 3600), ("30min", 1800), ("1h30m", 5400), ("1.5 h", 5400), ("2d", 172800)]
)
def test_more_time_is_given_as_people_write_it(span: str, seconds: float) -> None:
    (option,) = [each for each in extend.params if each.name == "seconds"]
    context = click.Context(extend)
    assert option.process_value(context, span) == seconds
    for wrong in ("", "0", "-1h", "1h30", "1 x", "h", "1e3", "1" * 13, "999999999999d", "nan", "1h 30m!"):
        result = CliRunner().invoke(extend, ["1", f"--by={wrong}"])
        assert result.exit_code == 2, wrong
        assert "is no length of time" in result.output


async def test_a_job_goes_to_its_new_place_at_once(place: Place) -> None:
    async with serving(place) as (server, client):
        await a_queue(client)
        assert await words(place, "priority", 2, 3, -1) == (
            "job 2 of bob has priority -1; it had 0 job 3 of bob has priority -1; it had 0"
        )
        assert (await data(place, "job", 4))["position"] == 1
        assert server.controller.job_view(2).priority == -1
        assert "priority 5 is more than this server allows: at most 0" in await complaint(place, "priority", 2, 5)
        assert "job 1 has boards already" in await complaint(place, "priority", 1, -1)
        assert await data(place, "priority", "--owner", "bob", "0") == [2, 3]
        assert (await admin(place, "priority", 2, "--ownr", "x")).exit_code == 2
