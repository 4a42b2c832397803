"""What becomes of stored rows that make no sense, and of what they were about; and which facts a start goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import Outcome
from spalloc_server.core.model.rows import JobRow, Snapshot, UnreadableRow
from tests.core.machines import a_machine
from tests.core.rows import BMP, MACHINE, NOW, TOO_LATE, ended, job, release, restored

# -------------------------------------------------------------------- what becomes of what was set aside


def idle_boards(controller: Controller) -> set[tuple[str, int]]:
    """What the hardware is told to switch off, by BMP and number."""
    switches = controller.take_switches()
    assert not any(switch.on or switch.job_id for switch in switches)
    return {(frame.bmp, number) for switch in switches for frame in switch.frames for number in frame.boards}


def unreadable(table: str, *key: Any, **row: Any) -> UnreadableRow:
    return UnreadableRow(table=table, key=key, reason="it is torn", row=row)


TORN = "what was stored of it cannot be read"
ALL = {(BMP, number) for number in range(24)}


@pytest.mark.parametrize(
    ("row", "off"),
    [
        (unreadable("jobs", 5, state=1, machine=None), set()),
        (unreadable("jobs", 5, state=1, allocation=None), set()),
        (unreadable("jobs", 5, state=3, machine=None), ALL),
        (unreadable("jobs", 5, state=1, machine="m", boards=[[0, 0, 1]]), {(BMP, 1)}),
        (unreadable("jobs", 5, machine="m", boards=[[0, 0, 1], [3, 1, 2], [0, 0, 1]]), {(BMP, 1), (BMP, 23)}),
        (unreadable("jobs", 5, allocation={"machine": "m", "boards": [[0, 0, 1]]}), {(BMP, 1)}),
        (unreadable("jobs", 5, machine="m", boards=[[0, 0, 1], [9, 9, 9]]), ALL),
        (unreadable("jobs", 5, machine="m", boards=[]), ALL),
        (unreadable("jobs", 5, machine="m", boards="?"), ALL),
        (unreadable("jobs", 5, machine="n", boards=[[0, 0, 1]]), ALL),
        (unreadable("jobs", 5, machine=["m"], boards=[[0, 0, 1]]), ALL),
        (unreadable("jobs", 5), ALL),
        (unreadable("releases", 5), ALL),
        (unreadable("releases", 5, state=1), ALL),
        (unreadable("releases", 5, frames=[{"bmp": BMP, "boards": [4, 5]}]), {(BMP, 4), (BMP, 5)}),
        (unreadable("releases", 5, frames=[{"bmp": "elsewhere", "boards": [4, 5]}]), set()),
        (unreadable("releases", 5, frames=[]), ALL),
        (unreadable("history", 5), set()),
        (unreadable("boards", "m", 0, 0, 0), set()),
        (unreadable("facts", "owner/x"), set()),
    ],
)
def test_the_boards_of_a_row_that_cannot_be_read_are_off_before_anybody_gets_them(
    row: UnreadableRow, off: set[tuple[str, int]]
) -> None:
    controller, set_aside = restored(row)
    assert set_aside == [f"{row.table}/{'/'.join(map(str, row.key))}: it is torn"]
    busy = {(view.bmp, view.board) for view in controller.board_views() if view.state == "switching off"}
    assert busy == off
    effects = controller.take()
    assert ("m" in effects.machines) == bool(off)
    switches = effects.switches
    assert not any(switch.on or switch.job_id for switch in switches)
    assert {(frame.bmp, number) for switch in switches for frame in switch.frames for number in frame.boards} == off
    for switch in switches:
        controller.switched(Outcome(switch.operation))
    assert {view.state for view in controller.board_views()} <= {"free", "resting"}


def test_a_row_that_cannot_be_read_takes_no_board_from_a_job_that_can() -> None:
    controller, _ = restored(job(), unreadable("jobs", 5))
    assert idle_boards(controller) == ALL - {(BMP, 4), (BMP, 21), (BMP, 23)}
    assert controller.get_job_state(7).state == JobState.ready


@pytest.mark.parametrize(
    ("columns", "held_back"),
    [
        ({"machine": "m", "x": 1, "y": 1, "z": 2, "out_of_service": "smoke", "by": "eve"}, ("smoke", "eve")),
        (
            {"machine": "m", "x": 1, "y": 1, "z": 2, "out_of_service": 3},
            (TORN, "server"),
        ),
        ({"machine": "m", "x": 1, "y": 1, "z": 2, "by": "eve"}, (TORN, "eve")),
        ({"machine": "m", "x": 1, "y": 1, "z": 2, "out_of_service": "smoke", "by": 3}, ("smoke", "server")),
        ({"machine": "m", "x": 1, "y": 1, "z": 2}, None),
        ({"machine": "m", "x": 1, "y": 1, "z": "2", "by": "eve"}, None),
        ({"machine": "m", "x": 1, "y": 1, "z": True, "by": "eve"}, None),
        ({"machine": "m", "x": 1, "y": 1, "by": "eve"}, None),
        ({"machine": 3, "x": 1, "y": 1, "z": 2, "by": "eve"}, None),
    ],
    ids=str,
)
def test_a_board_that_was_out_of_service_stays_so_where_its_record_cannot_be_read(
    columns: dict[str, Any], held_back: tuple[str, str] | None
) -> None:
    controller, _ = restored(unreadable("boards", "m", 1, 1, 2, **columns))
    view = controller.board_view("m", (1, 1, 2))
    if held_back is None:
        assert (view.state, view.by, view.since) == ("free", None, None)
        assert controller.take_changes().boards == {("m", 1, 1, 2): None}
    else:
        assert (view.state, view.out_of_service, view.by, view.since) == ("out of service", *held_back, NOW)
        (stored,) = controller.take_changes().boards.values()
        assert stored is not None
        assert (stored.out_of_service, stored.by, stored.trial_at) == (*held_back, None)


def test_the_record_of_a_board_of_a_machine_that_is_not_there_is_kept_for_when_it_comes() -> None:
    torn = unreadable("boards", "n", 0, 0, 0, machine="n", x=0, y=0, z=0, by="eve")
    controller, _ = restored(torn)
    controller.configure(Configuration([MACHINE, a_machine("n", 1, 1)]))
    assert controller.board_view("n", (0, 0, 0)).state == "out of service"


@pytest.mark.parametrize(
    ("row", "owner", "created_at", "ended_at"),
    [
        (unreadable("jobs", 5, owner="ann", created_at=900.0, ended_at=950.0), "ann", 900.0, NOW),
        (unreadable("history", 5, owner="ann", created_at=900, ended_at=950), "ann", 900, 950),
        (unreadable("history", 5, owner=7, created_at="x", ended_at=TOO_LATE), "unknown", NOW, NOW),
        (unreadable("history", 5, created_at=-1e12, ended_at=1e12), "unknown", -1e12, 1e12),
        (unreadable("history", 5), "unknown", NOW, NOW),
    ],
    ids=str,
)
def test_history_tells_what_can_be_read_of_a_job(
    row: UnreadableRow, owner: str, created_at: float, ended_at: float
) -> None:
    controller, _ = restored(row)
    view = controller.job_view(5)
    assert (view.owner, view.created_at, view.ended_at, view.state) == (owner, created_at, ended_at, "destroyed")
    assert view.reason == "Cancelled: the server could not read what it had stored of this job."
    assert [each.job_id for each in controller.snapshot().jobs] == [5]
    assert list(controller.take_changes().jobs) == [5]


def test_history_that_cannot_be_read_of_a_job_that_lives_ends_nothing() -> None:
    controller, _ = restored(job(), unreadable("history", 7))
    assert controller.get_job_state(7).state == JobState.ready
    assert [row.ended_at for row in controller.snapshot().jobs] == [None]


def test_rows_that_were_set_aside_are_kept_with_all_that_could_be_read_and_none_takes_anothers_place() -> None:
    controller, _ = restored(
        unreadable("jobs", 5, owner="ann"),
        unreadable("jobs", 5, owner="bob"),
        unreadable("jobs", 5, owner="cid"),
        unreadable("boards", b"m\xff", 1, 1, 2),
        release(frames=()),
    )
    facts = {name: fact for name, fact in controller.snapshot().facts.items() if name.startswith("set_aside/")}
    assert {name: fact["row"].get("owner") for name, fact in facts.items() if name.startswith("set_aside/jobs")} == {
        "set_aside/jobs/5": "ann",
        "set_aside/jobs/5#2": "bob",
        "set_aside/jobs/5#3": "cid",
    }
    assert facts["set_aside/releases/9"]["row"]["release_id"] == 9
    assert {fact["since"] for fact in facts.values()} == {NOW}
    assert "set_aside/boards/m\ufffd/1/1/2" in facts
    again = Controller(clock=lambda: NOW + 100)
    assert again.restore(controller.snapshot(), [MACHINE]) == []
    views = again.set_aside()
    assert views == controller.set_aside()
    assert [(view.table, view.key, view.since) for view in views] == [
        ("boards", "m\ufffd/1/1/2", NOW),
        ("jobs", "5", NOW),
        ("jobs", "5", NOW),
        ("jobs", "5", NOW),
        ("releases", "9", NOW),
    ]


def test_what_was_set_aside_and_then_changed_by_hand_is_still_told() -> None:
    controller, _ = restored(facts={"set_aside/jobs/5/x": {"nonsense": 1}, "another": {"table": "jobs"}})
    assert [(view.table, view.key, view.reason, view.since) for view in controller.set_aside()] == [
        ("jobs", "5/x", "unknown", 0.0)
    ]


# -------------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("facts", "rows", "highest", "first"),
    [
        ({}, (), 0, 1),
        ({"next_id": 12}, (), 0, 12),
        ({"next_id": 12}, (job(job_id=30),), 0, 31),
        ({"next_id": 12}, (ended(job_id=12),), 0, 13),
        ({"next_id": 12}, (job(job_id=7),), 40, 41),
        ({"next_id": 12}, (job(job_id=7),), 11, 12),
        ({"next_id": 12}, (job(job_id=MAX_NUMBER),), 0, 12),
        ({"next_id": 0}, (), 0, 1),
        ({"next_id": "x"}, (job(job_id=7),), 0, 8),
        ({"next_id": MAX_NUMBER}, (), 0, MAX_NUMBER),
    ],
    ids=str,
)
def test_no_number_of_a_job_is_used_twice(
    facts: dict[str, Any], rows: tuple[JobRow, ...], highest: int, first: int
) -> None:
    controller = Controller(clock=lambda: NOW)
    controller.restore(Snapshot(jobs=list(rows), facts=facts), [MACHINE], highest_id=highest)
    controller.configure(Configuration([MACHINE]))
    assert controller.create_job(owner="bob") == first


def fact_of(machine: Machine) -> dict[str, Any]:
    controller = Controller(clock=lambda: NOW)
    controller.configure(Configuration([machine]))
    fact: dict[str, Any] = controller.snapshot().facts[f"machine/{machine.name}"]
    return fact


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({"machines": ["b", "a"], "machine/a": "a", "machine/b": "b"}, ["b", "a"]),
        ({"machine/b": "b", "machine/a": "a"}, ["m", "b", "a"]),
        ({"machines": ["b"], "machine/b": "b", "machine/a": "a"}, ["b", "a"]),
        ({"machines": ["b", "m"], "machine/b": "b", "machine/m": "torn"}, ["b", "m"]),
        ({"machines": ["b", "a"], "machine/b": "b", "machine/a": "b"}, ["b"]),
        ({"machines": 3, "machine/b": "b"}, ["m", "b"]),
    ],
    ids=str,
)
def test_machines_are_those_that_were_stored_in_their_order_and_the_configurations_where_they_cannot_be_read(
    facts: dict[str, Any], names: list[str]
) -> None:
    known = {name: fact_of(a_machine(name, 1, 1)) for name in "ab"}
    made = {key: known.get(value, value) if isinstance(value, str) else value for key, value in facts.items()}
    controller, _ = restored(facts=made)
    assert [machine.name for machine in controller.machine_views()] == names
    assert controller.snapshot().facts.get("machine/m", fact_of(MACHINE)) == fact_of(MACHINE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("machine/m", {"name": "m"}),
        ("machines", 3),
        ("next_id", -1),
        ("everybody", {"last": [-1.0]}),
        ("owner/ann", {"used": -1.0}),
        ("owner/ann", {"used": 1e300}),
        ("owner/ann", {"used": float("1e19")}),
        ("owner/ann", {"last": [1e300]}),
        ("owner/ann", {"sizes": {"1": [-1.0]}}),
        ("owner/ann", {"sizes": {"1": []}}),
        ("owner/ann", {"at": 1e300}),
        ("owner/ann", {"at": -1e300}),
        ("owner/ann", 3),
        ("stopped", 3),
        ("drained/m", {}),
        ("disabled/0/0/m", {}),
    ],
    ids=str,
)
def test_a_fact_that_makes_no_sense_is_set_aside_alone(name: str, value: Any) -> None:
    sound = {"owner/bob": {"used": 0.0, "at": 0.0, "last": [0.0], "total": 1e18}}
    controller, set_aside = restored(facts={**sound, name: value})
    assert [text.partition(": ")[0] for text in set_aside] == [f"facts/{name}"]
    stored = controller.take_changes().facts
    assert name in stored
    kept = stored[name]
    if name in {"stopped", "drained/m", "disabled/0/0/m"}:
        assert kept == {"reason": "the stored reason cannot be read", "by": "server", "since": NOW}
        assert controller.snapshot().facts[name] == kept
    else:
        assert kept is None or name == "machine/m"


def test_what_cannot_be_read_of_a_closure_still_closes_what_it_closed() -> None:
    controller, _ = restored(facts={"stopped": 3, "drained/m": {}, "disabled/0/0/m": {}})
    controller.configure(Configuration([MACHINE]))
    (view,) = controller.machine_views()
    assert view.drained is not None
    assert view.out_of_service == 24
    assert controller.stopped is not None
