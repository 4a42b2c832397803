"""Stored rows as tests want them, and a controller that goes on with them."""

from __future__ import annotations

from typing import Any

import msgspec

from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import FrameWork
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import BoardRow, JobRow, ReleaseRow, Snapshot, UnreadableRow
from tests.core.machines import a_machine

MACHINE = a_machine("m", 4, 2)
"""Its board (x, y, z) is number 6 x + 3 y + z of the one frame."""

BMP = "bmp-m-0"
NOW, TOO_LATE, TOO_MUCH = 5000.0, 1e12 + 1e9, 1e18 + 1e6

BLOCK = Allocation(machine="m", x=3, y=1, width=2, height=1, boards=((0, 1, 1), (3, 1, 0), (3, 1, 2)), stopped=())
"""Across the machine's right edge."""


def job(**changes: Any) -> JobRow:
    """A job that is ready, on `BLOCK`."""
    row = JobRow(
        job_id=7,
        owner="ann",
        request=Request(owner="ann", boards=3),
        keepalive=60.0,
        keepalivehost="127.0.0.1",
        state=JobState.ready,
        power=True,
        created_at=1000.0,
        allocated_at=1001.0,
        ready_at=1002.0,
        allocation=BLOCK,
        placements=1,
    )
    return msgspec.structs.replace(row, **changes)


def on(*boards: Board, **changes: Any) -> JobRow:
    """A job that has these boards."""
    return job(allocation=msgspec.structs.replace(BLOCK, boards=boards, **changes))


def block(**changes: Any) -> JobRow:
    return job(allocation=msgspec.structs.replace(BLOCK, **changes))


def single(board: Board = (1, 1, 2), what: dict[str, Any] | None = None, **changes: Any) -> JobRow:
    """A job that has asked for one board."""
    x, y, _ = board
    place = Allocation(machine="m", x=x, y=y, width=1, height=1, boards=(board,), single=True)
    return job(
        request=Request(owner="ann", **({"boards": 1} if what is None else what)),
        allocation=msgspec.structs.replace(place, **changes),
    )


def ended(**changes: Any) -> JobRow:
    fields = {"state": JobState.destroyed, "power": None, "ended_at": 2000.0, "reason": "over", **changes}
    return job(**fields)


def release(**changes: Any) -> ReleaseRow:
    row = ReleaseRow(
        release_id=9,
        job_id=3,
        machine="m",
        boards=[(0, 0, 0), (0, 0, 2)],
        frames=(FrameWork(BMP, (0, 2)),),
    )
    return msgspec.structs.replace(row, **changes)


def board(**changes: Any) -> BoardRow:
    row = BoardRow(machine="m", x=2, y=0, z=1, out_of_service="smoke", by="eve", since=900.0)
    return msgspec.structs.replace(row, **changes)


def restored(*rows: Any, facts: dict[str, Any] | None = None) -> tuple[Controller, list[str]]:
    """A controller that goes on with these rows, and why it has set which aside."""
    controller = Controller(clock=lambda: NOW)
    snapshot = Snapshot(
        jobs=[row for row in rows if isinstance(row, JobRow)],
        boards=[row for row in rows if isinstance(row, BoardRow)],
        releases=[row for row in rows if isinstance(row, ReleaseRow)],
        unreadable=[row for row in rows if isinstance(row, UnreadableRow)],
        facts=facts or {},
    )
    set_aside = controller.restore(snapshot, [MACHINE])
    controller.check()
    assert not controller.defects.take()
    return controller, [f"{row.table}/{row.key}: {row.reason}" for row in set_aside]
