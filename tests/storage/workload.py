"""Rows to store, and a model of what must come back (without hypothesis, whose import would slow writers down)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from spalloc_server.coordinates import WrapAround
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.power import FrameWork
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import (
    BoardReport,
    BoardRow,
    Changes,
    Holding,
    JobRow,
    Note,
    ReleaseRow,
    ResultRow,
    SessionRow,
    Snapshot,
    TokenRow,
    UserRow,
)
from spalloc_server.links import Links


def a_job(job_id: int, *, ended_at: float | None = None, owner: str = "ada@example.org", boards: int = 24) -> JobRow:
    """A job with every field set."""
    return JobRow(
        job_id=job_id,
        owner=owner,
        request=Request(owner=owner, boards=boards, tags=frozenset({"default"}), min_ratio=0.333),
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
            wraps=WrapAround.x,
            stopped=((1, 2, 0, Links.north), (1, 2, 2, Links.south)),
        ),
        operation=7,
        placements=1,
        board_seconds=123.75,
        created_from="127.0.0.1",
        due=1_300.5 + job_id,
        original='{"num-boards":24}',
        session=None if ended_at is not None else "s0123456789abcdef",
        of_account=True,
        held=None if ended_at is not None else Note("night", "eve", 1_600.5),
        earlier=[Holding("hall", 24, 1_000.75 + job_id, 1_001.0 + job_id)],
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


def a_result(number: int) -> ResultRow:
    """What a command was answered."""
    return ResultRow(number=number, id=f"{number:032x}", command="0123456789abcdef" * 2, answer=str(number))


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
        reports=[BoardReport(1_980.5, "ada@example.org", "127.0.0.1", "no answer")],
        counts_from=1_990.0,
        strikes=2,
        trial_at=5_600.0,
    )


def a_user(number: int) -> UserRow:
    """An account with every field set."""
    return UserRow(
        number=number,
        name="ada@example.org",
        role="user",
        password="$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
        enabled=False,
        created_at=1_000.5,
        last_log_in=1_100.25,
        last_failure=1_200.5,
        wrong_passwords=3.25,
        known=["127.0.0.1", "2001:db8::/64"],
    )


def a_token(number: int) -> TokenRow:
    """A token with every field set."""
    return TokenRow(
        id=f"t{number}",
        account=1,
        hash="ab" * 32,
        role="reader",
        note="night\nruns",
        created_at=1_000.5 + number,
        expires_at=9_000.25,
        used_at=1_300.5,
    )


def a_session(number: int) -> SessionRow:
    """A session."""
    return SessionRow(id=f"s{number}", account=1, token="t1", began_at=1_000.5, used_at=1_300.25 + number)


class Model:
    """What a journal must give back, in plain dictionaries."""

    def __init__(self) -> None:
        self.all = Changes()

    def apply(self, changes: Changes) -> None:
        """One batch."""
        for table in Changes.__struct_fields__:
            getattr(self.all, table).update(getattr(changes, table))

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
            users=[row for _, row in sorted(self.all.users.items()) if row is not None],
            tokens=sorted((row for row in self.all.tokens.values() if row is not None), key=lambda row: row.created_at),
            sessions=sorted(
                (row for row in self.all.sessions.values() if row is not None), key=lambda row: row.used_at
            ),
            results=[row for _, row in sorted(self.all.results.items()) if row is not None],
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
                changes.results[next_id] = a_result(next_id)
                changes.results[next_id - 20] = None
                next_id += 1
        if rng.random() < 0.3:
            board = a_board(rng.randrange(5))
            changes.boards["hall", board.x, 0, 2] = rng.choice([None, board])
            changes.releases[rng.randrange(1, next_id + 1)] = None
        yield changes
        batch += 1
