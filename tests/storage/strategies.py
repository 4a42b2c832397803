"""Any rows at all, for property tests."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.power import FrameWork
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import (
    BoardReport,
    BoardRow,
    Changes,
    JobRow,
    Note,
    ReleaseRow,
    ResultRow,
    SessionRow,
    TokenRow,
    UserRow,
)
from spalloc_server.links import Links

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
_numbers = st.integers(-MAX_NUMBER, MAX_NUMBER)
_requests = st.builds(
    Request,
    owner=_texts,
    boards=st.none() | _numbers,
    triads=st.none() | st.tuples(_numbers, _numbers),
    board=st.none() | _boards,
    machine=st.none() | _texts,
    tags=st.frozensets(_texts, max_size=3),
    min_ratio=st.floats(0, 1),
    max_dead_boards=st.none() | _numbers,
    max_dead_links=st.none() | _numbers,
    require_torus=st.booleans(),
    max_runtime=_optional_times,
    priority=_numbers,
    root=st.none() | st.tuples(_numbers, _numbers),
)
_jobs = st.builds(
    JobRow,
    job_id=st.integers(1, 6),
    owner=_texts,
    request=_requests,
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
    created_from=st.none() | _texts,
    due=_optional_times,
    original=st.none() | _texts,
    session=st.none() | _texts,
    of_account=st.booleans(),
    held=st.none() | st.builds(Note, _texts, _texts, _times),
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
    reports=st.lists(st.builds(BoardReport, _times, st.none() | _texts, _texts, _texts), max_size=2),
    counts_from=_times,
    strikes=st.integers(0, 5),
    trial_at=_optional_times,
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


_users = st.builds(
    UserRow,
    number=st.integers(1, 3),
    name=_texts,
    role=_texts,
    password=st.none() | _texts,
    enabled=st.booleans(),
    created_at=_times,
    last_log_in=_optional_times,
    last_failure=_optional_times,
    wrong_passwords=_times,
    known=st.lists(_texts, max_size=2),
)
_ids = st.sampled_from(["a", "b", "c"])


@st.composite
def _some(draw: st.DrawFn, rows: st.SearchStrategy[Any], key: str, order: str | None = None) -> dict[Any, Any]:
    """Rows by `key`, some of which go; no two have the same time `order`, by which they are read."""
    drawn = {getattr(row, key): row for row in draw(st.lists(rows, max_size=2))}
    if order is not None:
        for number, row in enumerate(drawn.values()):
            setattr(row, order, number + draw(st.floats(0, 0.5)) + 10 * ord(row.id))
    return {each: draw(st.sampled_from([row, None])) for each, row in drawn.items()}


_tokens = st.builds(
    TokenRow,
    id=_ids,
    account=st.integers(1, 3),
    hash=_texts,
    role=st.none() | _texts,
    note=_texts,
    created_at=_times,
    expires_at=_times,
    used_at=_optional_times,
)
_sessions = st.builds(
    SessionRow, id=_ids, account=st.integers(1, 3), token=st.none() | _ids, began_at=_times, used_at=_times
)
_results = st.builds(ResultRow, number=st.integers(1, 4), id=_texts, command=_texts, answer=_texts)


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
        changes = Changes(jobs=jobs, boards=boards, releases=releases, facts=facts)
        changes.users = draw(_some(_users, "number"))
        changes.tokens = draw(_some(_tokens, "id", "created_at"))
        changes.sessions = draw(_some(_sessions, "id", "used_at"))
        changes.results = draw(_some(_results, "number"))
        result.append(changes)
    return result
