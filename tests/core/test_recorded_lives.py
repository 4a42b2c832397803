"""What the core does, step by step, comes out as it was recorded: rows, events, switches, and who is told.

Theory of operation. Users, operators, hardware and time do something at random to a controller, many times. After each
step all that it leaves for the world is fetched, and made a line of text; rows and views, which are long, are told by
their check sums. Where a change is meant, the records are written anew, and their differences are looked at:

    python -m tests.core.test_recorded_lives
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Health, Limits, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.power import BoardFailure, Outcome, Switch
from spalloc_server.core.model.rows import Changes, JobRow, Snapshot
from spalloc_server.core.model.views import BoardView, JobView
from spalloc_server.errors import RequestError
from tests.core.machines import a_machine
from tests.core.recorded import sum_of

pytestmark = pytest.mark.slow

RECORDS = Path(__file__).parents[1] / "data" / "recorded-lives.json"
LIVES, STEPS = 24, 90


class Life:
    """A controller, its hardware, and what it was made to do."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.now = 1000.0
        self.controller = Controller(clock=lambda: self.now)
        self.machines = [a_machine("m", 4, 3), a_machine("n", 1, 1, tags=("default", "n"))]
        self.settings: dict[str, Any] = {
            "seconds_before_free": self.choose.choice([0.0, 20.0]),
            "max_retired_jobs": 6,
            "health": Health(quarantine_after=self.choose.choice([1, 2]), quarantine_seconds=100.0, max_placements=2),
            "limits": Limits(jobs_per_owner=6, jobs_per_address=9, queued_jobs=7),
            "scheduling": Scheduling(max_priority=2),
        }
        self.waiting: list[Switch] = []
        self.lines: list[str] = []
        self.configure()
        self.note("configure")

    def configure(self) -> None:
        self.controller.configure(Configuration(self.machines, **self.settings))

    def step(self) -> None:
        deeds: list[Callable[[], str]] = [
            *[self.create] * 8,
            *[self.answer] * 10,
            *[self.wait] * 6,
            *[self.switch] * 3,
            *[self.end] * 4,
            *[self.report, self.board, self.frame, self.silence, self.drain, self.stop, self.try_board] * 2,
            *[self.reload, self.restart, self.restart],
        ]
        deed = self.choose.choice(deeds)
        try:
            what = deed()
        except RequestError as error:
            what = f"{deed.__name__} refused: {error}"
        self.note(what)

    def note(self, what: str) -> None:
        """Fetch what there is to do, and tell of it."""
        controller = self.controller
        controller.check()
        effects = controller.take()
        self.waiting += effects.switches
        rows = {
            name: {str(key): row for key, row in sorted(some.items())}
            for name, some in of_the_core(effects.changes).items()
        }
        views = (
            sum_of(controller.machine_views()),
            sum_of_views(controller.board_views()),
            sum_of_views(controller.job_views()),
            sum_of(controller.list_jobs()),
        )
        told = [
            f"{self.now:.1f} {what}",
            " ".join(f"{one.job_id}:{one.event}" for one in effects.events),
            " ".join(f"{one.operation}{'+' if one.on else '-'}{one.job_id}" for one in effects.switches),
            " ".join(map(str, sorted(effects.jobs))),
            " ".join(sorted(effects.machines)),
            str(controller.wake_at()),
            *(sum_of(each) for each in (rows, effects.events, effects.switches)),
            *views,
        ]
        self.lines.append(f"{told[0]:.50} | {sum_of(told)} | {' | '.join(told[1:6])}")
        assert not controller.defects.take()

    # ---------------------------------------------------------------- deeds

    def a_board(self) -> tuple[Machine, tuple[int, int, int]]:
        machine = self.choose.choice(self.machines)
        return machine, (
            self.choose.randrange(machine.width),
            self.choose.randrange(machine.height),
            self.choose.randrange(3),
        )

    def create(self) -> str:
        args = self.choose.choice([(), (1,), (2,), (3,), (6,), (9,), (2, 2), (1, 1, 1), (40,)])
        kwargs: dict[str, Any] = {
            "owner": self.choose.choice("abc"),
            "keepalive": self.choose.choice([None, None, 60.0, 0.0]),
            "keepalivehost": self.choose.choice([None, "h1", "h2"]),
            "priority": self.choose.choice([0, 0, 0, 1, 3]),
            "max_runtime": self.choose.choice([None, None, 90.0]),
        }
        kwargs |= {"machine": "m"} if len(args) == 3 else {}
        return f"create {args} {kwargs}: {self.controller.create_job(*args, **kwargs)}"

    def a_job(self) -> int:
        live = sorted(self.controller.live_jobs())
        return self.choose.choice(live) if live else 1

    def answer(self) -> str:
        if not self.waiting:
            return "nothing"
        switch = self.waiting.pop(self.choose.randrange(len(self.waiting)))
        boards = [(frame.bmp, number) for frame in switch.frames for number in frame.boards]
        failures: tuple[BoardFailure, ...] = ()
        if switch.on and self.choose.random() < 0.3:
            failures = (BoardFailure(*self.choose.choice(boards), "smoke", self.choose.random() < 0.3),)
        self.controller.switched(Outcome(switch.operation, failures))
        return f"switched {switch.operation} {failures}"

    def wait(self) -> str:
        seconds = self.choose.choice([0.5, 5.0, 20.0, 60.0, 150.0])
        self.now += seconds
        early = self.choose.choice([None, None, self.now - 5.0])
        self.controller.tick(early)
        return f"tick {early}"

    def switch(self) -> str:
        job_id = self.a_job()
        on = self.choose.random() < 0.5
        host = self.choose.choice([None, "h1", "h3"])
        (self.controller.power_on_job_boards if on else self.controller.power_off_job_boards)(job_id, host)
        revision = self.controller.get_job_state(job_id)
        return f"power {job_id} {on}: {revision}"

    def end(self) -> str:
        job_id = self.a_job()
        if self.choose.random() < 0.3:
            self.controller.kill(job_id, reason="night", by="eve")
            return f"kill {job_id}"
        reason = self.choose.choice([None, "done"])
        self.controller.destroy_job(job_id, reason)
        return f"destroy {job_id} {reason}: {self.controller.get_job_state(job_id)}"

    def report(self) -> str:
        machine, board = self.a_board()
        host = self.choose.choice(["h1", "h2", "h3"])
        self.controller.report_problem(machine.spinnaker_ips.get(board, "x"), "odd", reporter=host)
        return f"report {machine.name} {board} {host}"

    def board(self) -> str:
        machine, board = self.a_board()
        if self.choose.random() < 0.5:
            view = self.controller.disable_board(machine.name, board, reason="r", by="eve")
        else:
            view = self.controller.enable_board(machine.name, board)
        return f"board {machine.name} {board} {sum_of(without_later(view))}"

    def frame(self) -> str:
        machine = self.choose.choice(self.machines)
        frame = (0, self.choose.randrange(3))
        if self.choose.random() < 0.4:
            views = self.controller.disable_frame(machine.name, frame, reason="r", by="eve")
            return f"disable {frame} {sum_of_views(views)}"
        return f"enable {frame} {sum_of_views(self.controller.enable_frame(machine.name, frame))}"

    def silence(self) -> str:
        bmp = self.choose.choice(["bmp-m-0", "bmp-m-1", "bmp-n-0"])
        reason = self.choose.choice([None, None, "silent"])
        self.controller.frame_changed(bmp, reason)
        return f"frame {bmp} {reason}"

    def drain(self) -> str:
        name = self.choose.choice(["m", "n", "x"])
        if self.choose.random() < 0.4:
            self.controller.drain(name, reason="r", by="eve")
            return f"drain {name}"
        self.controller.undrain(name)
        return f"undrain {name}"

    def stop(self) -> str:
        if self.controller.stopped is None and self.choose.random() < 0.5:
            self.controller.emergency_stop(reason="smoke", by="eve")
            return "stop"
        self.controller.resume()
        return "resume"

    def try_board(self) -> str:
        machine, board = self.a_board()
        view = self.controller.power_cycle(machine.name, board)
        return f"power-cycle {machine.name} {board}: {sum_of(without_later(view))}"

    def reload(self) -> str:
        self.settings["seconds_before_free"] = self.choose.choice([0.0, 5.0, 20.0, 70.0])
        dead = {self.a_board()[1] for _ in range(self.choose.choice([0, 1]))}
        self.machines[0] = a_machine("m", 4, self.choose.choice([3, 3, 2]), dead_boards={b for b in dead if b[1] < 2})
        if len(self.machines) > 1 and self.choose.random() < 0.3:
            self.machines.pop()
        elif len(self.machines) == 1:
            self.machines.append(a_machine("n", 1, 1, tags=("default", "n")))
        self.configure()
        return f"reload {[machine.name for machine in self.machines]}"

    def restart(self) -> str:
        snapshot = self.controller.snapshot()
        self.controller = Controller(clock=lambda: self.now)
        self.waiting = []
        aside = self.controller.restore(snapshot, self.machines)
        self.configure()
        return f"restart {sum_of(of_the_core(snapshot))} {aside}"


def of_the_core(what: Changes | Snapshot) -> dict[str, Any]:
    """All but what doors keep in the core's tables: accounts, answers, and what they note of jobs. Here are none."""
    tables = msgspec.structs.asdict(what)
    assert not any(tables.pop(table) for table in ("users", "tokens", "sessions", "results"))
    jobs = tables["jobs"]
    tables["jobs"] = (
        {number: bare(row) for number, row in jobs.items()} if isinstance(jobs, dict) else [bare(row) for row in jobs]
    )
    return tables


def bare(row: JobRow) -> dict[str, Any]:
    job = msgspec.structs.asdict(row)
    assert not any(job.pop(name) for name in ("original", "session", "of_account", "held"))
    return job


def without_later(view: JobView | BoardView) -> dict[str, Any]:
    """A view as it was when it was recorded: what it has told since then is worked out from the rest."""
    later = ("held", "priority", "max_runtime", "ends_at", "address")
    return {key: it for key, it in msgspec.structs.asdict(view).items() if key not in later}


def sum_of_views(views: Iterable[JobView | BoardView]) -> str:
    return sum_of([without_later(view) for view in views])


def lived(seed: int) -> list[str]:
    life = Life(seed)
    for _ in range(STEPS):
        life.step()
    return life.lines


@pytest.mark.parametrize("seed", range(LIVES))
def test_the_core_does_what_was_recorded(seed: int) -> None:
    before = json.loads(RECORDS.read_text())[str(seed)]
    for now, then in zip(lived(seed), before, strict=True):
        assert now == then


def write() -> None:
    RECORDS.write_text(json.dumps({seed: lived(seed) for seed in range(LIVES)}, indent=0) + "\n")


if __name__ == "__main__":
    write()
