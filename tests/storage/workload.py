"""Rows to store, and a model of what must come back."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
from hypothesis import strategies as st

from spalloc_server.core.messages import Allocation, BoardRow, Changes, FrameWork, JobRow, ReleaseRow, Snapshot
from spalloc_server.links import Links


def a_job(job_id: int, *, ended_at: float | None = None, owner: str = "ada@example.org", boards: int = 24) -> JobRow:
    """A job with every field set."""
    return JobRow(
        job_id=job_id,
        owner=owner,
        args=[boards],
        kwargs={"tags": ["default"], "min_ratio": 0.333, "max_dead_boards": None, "require_torus": False},
        keepalive=60.0,
        keepalivehost="127.0.0.1",
        state=4 if ended_at is not None else 3,
        power=None if ended_at is not None else True,
        created_at=1_000.5 + job_id,
        allocated_at=1_001.25 + job_id,
        ready_at=1_020.125 + job_id,
        ended_at=ended_at,
        reason=None if ended_at is None else "Finished.",
        allocation=Allocation(
            machine="hall",
            x=1,
            y=2,
            width=2,
            height=(boards + 5) // 6,
            boards=tuple((1 + n // 3 % 2, 2 + n // 6, n % 3) for n in range(boards)),
        ),
        operation=7,
        placements=1,
        board_seconds=123.75,
    )


def a_release(release_id: int) -> ReleaseRow:
    """A release with every field set."""
    return ReleaseRow(
        release_id=release_id,
        job_id=3,
        machine="hall",
        boards=[(0, 0, 0), (0, 0, 1)],
        frames=(FrameWork(bmp="192.0.2.1", boards=(0, 5), stopped=((0, Links.north), (5, Links.south_west))),),
        rest_until=1_234.5,
    )


def a_board(x: int) -> BoardRow:
    """A board with every field set."""
    return BoardRow(
        machine="hall",
        x=x,
        y=0,
        z=2,
        out_of_service="FPGA 1 does not answer",
        by="server",
        since=2_000.0,
        failures=[(1_990.5, "FPGA 1 does not answer"), (1_999.5, "FPGA 1 does not answer")],
    )


class Model:
    """What a journal must give back, in plain dictionaries."""

    def __init__(self) -> None:
        self.all = Changes()

    def apply(self, changes: Changes) -> None:
        """One batch."""
        self.all.jobs.update(changes.jobs)
        self.all.boards.update(changes.boards)
        self.all.releases.update(changes.releases)
        self.all.facts.update(changes.facts)

    def snapshot(self, max_retired: int) -> Snapshot:
        """What `load` must give."""
        retired = [row for row in self.all.jobs.values() if row.ended_at is not None]
        retired.sort(key=lambda row: (row.ended_at, row.job_id))
        forgotten = {row.job_id for row in retired[: max(0, len(retired) - max_retired)]}
        return Snapshot(
            jobs=[row for job_id, row in sorted(self.all.jobs.items()) if job_id not in forgotten],
            boards=[row for _, row in sorted(self.all.boards.items()) if row is not None],
            releases=[row for _, row in sorted(self.all.releases.items()) if row is not None],
            facts={name: value for name, value in self.all.facts.items() if value is not None},
        )


def workload(seed: int) -> Iterator[Changes]:
    """Batches without end, the same for the same seed; the fact `batch` counts them from 1."""
    rng = random.Random(seed)
    live: list[int] = []
    next_id = batch = 1
    while True:
        changes = Changes(facts={"batch": batch, "next_id": next_id})
        for _ in range(rng.randint(1, 3)):
            if live and rng.random() < 0.5:
                job_id = live.pop(rng.randrange(len(live)))
                changes.jobs[job_id] = a_job(job_id, ended_at=float(batch), boards=1 + job_id % 60)
                changes.releases[job_id] = a_release(job_id)
            else:
                changes.jobs[next_id] = a_job(next_id, boards=1 + next_id % 60)
                live.append(next_id)
                next_id += 1
        if rng.random() < 0.3:
            board = a_board(rng.randrange(5))
            changes.boards["hall", board.x, 0, 2] = rng.choice([None, board])
            changes.releases[rng.randrange(1, next_id + 1)] = None
        yield changes
        batch += 1


_integers = st.integers(-(2**70), 2**70)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_times = st.floats(0, 1e10)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=4,
)
_optional_times = st.none() | _times
_boards = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2))
_allocations = st.builds(
    Allocation,
    machine=_texts,
    x=st.integers(0, 5),
    y=st.integers(0, 5),
    width=st.integers(1, 5),
    height=st.integers(1, 5),
    boards=st.lists(_boards, max_size=3).map(tuple),
    single=st.booleans(),
)
_jobs = st.builds(
    JobRow,
    job_id=st.integers(1, 6),
    owner=_texts,
    args=st.lists(_json, max_size=2),
    kwargs=st.dictionaries(_texts, _json, max_size=2),
    keepalive=_optional_times,
    keepalivehost=st.none() | _texts,
    state=st.integers(0, 4),
    power=st.none() | st.booleans(),
    created_at=_times,
    allocated_at=_optional_times,
    ready_at=_optional_times,
    ended_at=_optional_times,
    reason=st.none() | _texts,
    allocation=st.none() | _allocations,
    operation=st.none() | st.integers(0, 2**40),
    placements=st.integers(0, 5),
    board_seconds=_times,
)
_board_rows = st.builds(
    BoardRow,
    machine=_texts,
    x=st.integers(0, 2),
    y=st.integers(0, 2),
    z=st.integers(0, 2),
    out_of_service=st.none() | _texts,
    by=st.none() | _texts,
    since=_optional_times,
    failures=st.lists(st.tuples(_times, _texts), max_size=2),
)
_releases = st.builds(
    ReleaseRow,
    release_id=st.integers(1, 4),
    job_id=st.integers(1, 6),
    machine=_texts,
    boards=st.lists(_boards, max_size=2),
    frames=st.lists(
        st.builds(
            FrameWork,
            bmp=_texts,
            boards=st.just((1, 2)),
            stopped=st.lists(st.tuples(st.integers(0, 23), st.sampled_from(Links)), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    rest_until=_optional_times,
)


def _board_key(row: BoardRow) -> tuple[str, int, int, int]:
    return (row.machine, row.x, row.y, row.z)


@st.composite
def batches(draw: st.DrawFn) -> list[Changes]:
    """Some batches in a row; jobs that have ended stay so, as the journal asks."""
    ended: set[int] = set()
    result = []
    for _ in range(draw(st.integers(1, 6))):
        jobs = {row.job_id: row for row in draw(st.lists(_jobs, max_size=3))}
        for job_id, row in jobs.items():
            if job_id in ended and row.ended_at is None:
                jobs[job_id] = msgspec.structs.replace(row, ended_at=1.0)
        ended |= {job_id for job_id, row in jobs.items() if row.ended_at is not None}
        boards: dict[tuple[str, int, int, int], BoardRow | None] = {}
        for board in draw(st.lists(_board_rows, max_size=2)):
            boards[_board_key(board)] = draw(st.sampled_from([board, None]))
        releases: dict[int, ReleaseRow | None] = {}
        for release in draw(st.lists(_releases, max_size=2)):
            releases[release.release_id] = draw(st.sampled_from([release, None]))
        facts = draw(st.dictionaries(st.sampled_from(["next_id", "a", ""]), _json, max_size=2))
        result.append(Changes(jobs=jobs, boards=boards, releases=releases, facts=facts))
    return result
