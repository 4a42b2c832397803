"""What the demo shows."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from spalloc_server.cli import demo_config, demo_view
from spalloc_server.cli.demo_view import Events, Floor, picture, show
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from tests.house import PATIENCE, Place

EXAMPLES = Path(__file__).parents[2] / "examples"


def small_machine() -> tuple[Configuration, Controller]:
    configuration = load(EXAMPLES / "simulated-24.toml")
    core = Controller()
    core.configure(configuration)
    return configuration, core


def floor(machine: Machine) -> Floor:
    return Floor(machine.name, machine.width, machine.height, len(machine.live_boards))


def drawn(core: Controller, events: list[str]) -> list[str]:
    (machine,) = core.machines.values()
    console = Console(file=io.StringIO(), width=80)
    console.print(picture([floor(machine)], core.list_jobs(), events))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def news(events: Events, core: Controller) -> list[str]:
    jobs = core.list_jobs()
    return events.since_last(jobs, {job_id: core.get_job_state(job_id).reason for job_id in events.gone(jobs)})


def test_every_step_of_a_job_is_told_once() -> None:
    _, core = small_machine()
    events = Events()
    assert news(events, core) == []
    job_id = core.create_job(2, 1, owner="retina")
    waiting = core.create_job(4, 2, owner="cortex")
    assert news(events, core) == [
        "job 1 of retina: power on, 6 boards",
        "job 2 of cortex: queued, asks for 4 x 2",
    ]
    assert news(events, core) == []
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    assert news(events, core) == ["job 1 of retina: ready, 6 boards"]
    core.power_off_job_boards(job_id)
    assert news(events, core) == ["job 1 of retina: power off, 6 boards"]
    core.destroy_job(job_id, "done")
    core.destroy_job(waiting)
    assert news(events, core) == [
        "job 1 of retina: ended, done",
        "job 2 of cortex: ended, Cancelled: ",
    ]


def test_the_picture_has_the_map_the_jobs_and_the_events() -> None:
    _, core = small_machine()
    core.create_job(2, 1, owner="retina [bold]")
    bar, _, *rows = drawn(core, ["something happened [bold]"])
    assert bar.split() == ["████████" + "░" * 24, "6", "of", "24", "boards", "in", "use,", "6", "switched", "on"]
    assert sum(row[:8].count("█") for row in rows) == 4, "two triads, two characters each"
    assert sum(row[:8].count("·") for row in rows) == 6
    text = "\n".join(rows)
    assert "retina [bold]" in text
    assert "power on" in text
    assert "something happened [bold]" in text


def test_a_long_name_and_a_long_event_take_no_room_from_the_rest_of_80_columns() -> None:
    core = Controller()
    core.configure(load(demo_config.MILLION_CORE))
    core.create_job(600, owner="somebody-with-a-long-name@far.example.org")
    _, _, *rows = (row[41:].rstrip() for row in drawn(core, ["job 1 of somebody-with-a-long-name@far.example.org"]))
    assert rows[0].split() == ["job", "owner", "boards", "state"]
    assert re.fullmatch(r"██ +1 somebody-with.*… +600 power on", rows[1])
    assert re.fullmatch(r"job 1 of somebody-with-a-long-name@.*…", rows[3])


def test_a_long_queue_is_cut_short() -> None:
    _, core = small_machine()
    for _ in range(20):
        core.create_job(4, 2, owner="many")
    rows = drawn(core, [])
    assert len(rows) < 24, "fits a terminal"
    assert any("and 9 more" in row for row in rows)


async def test_the_picture_is_drawn_again_and_again_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_view, "LOOK_SECONDS", 0)
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True)
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving() as server, asyncio.timeout(PATIENCE):
        (machine,) = server.controller.machines.values()
        showing = asyncio.create_task(show(*server.address, machine, live=True, console=console))
        for owner in ("retina", "cochlea"):
            server.controller.create_job(owner=owner)
            while owner not in screen.getvalue():  # noqa: ASYNC110 - a screen tells nobody
                await asyncio.sleep(0)
        showing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await showing
    assert screen.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_jobs_of_other_machines_are_not_counted_as_on_the_one_that_is_shown() -> None:
    core = Controller()
    (machine,) = load(EXAMPLES / "simulated-24.toml").machines
    other = Machine.single_board("other", bmp_ip="bmp", spinnaker_ip="board")
    core.configure(Configuration([machine, other]))
    for name in ("other", machine.name):
        core.create_job(1, machine=name, owner="me")
    console = Console(file=io.StringIO(), width=80)
    console.print(picture([floor(machine)], core.list_jobs(), []))
    assert isinstance(console.file, io.StringIO)
    assert "  1 of 24 boards in use, 1 switched on" in console.file.getvalue()


async def test_owners_are_shown_escaped_in_lines_and_in_the_picture(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving() as server, asyncio.timeout(PATIENCE):
        (machine,) = server.controller.machines.values()
        server.controller.create_job(owner="a\x1b[31m:skull:\n")
        for live in (True, False):
            screen = io.StringIO()
            console = Console(file=screen, width=120, force_terminal=live)
            showing = asyncio.create_task(show(*server.address, machine, live=live, console=console))
            while r"a\x1b[31m:skull:\n" not in screen.getvalue():  # noqa: ASYNC110 - a screen tells nobody
                await asyncio.sleep(0)
            showing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await showing
