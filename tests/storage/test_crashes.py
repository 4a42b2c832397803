"""Power cuts, failing disks and kill -9: all that was acknowledged is there, and nothing is there by halves.

Every batch of the workload stores its number, so what is found after a crash tells how far it got: it must be the
model after exactly that many batches, and no fewer than were acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.rows import Changes, Snapshot
from spalloc_server.errors import StorageError
from spalloc_server.storage.sqlite import SqliteJournal
from tests.storage.disk import Disk, Operation, crash_image
from tests.storage.journals import stored, written
from tests.storage.workload import Model, workload

NAME = "state.db"
ALL = 10_000
"""More retired jobs than there are."""

FAULTS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)


def open_journal(path: Path) -> SqliteJournal:
    """A journal that moves its log into the database every few commits, so that crashes hit that too."""
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    journal._connection.execute("PRAGMA wal_autocheckpoint = 8")
    return journal


async def found(path: Path) -> Snapshot:
    journal = open_journal(path)
    snapshot = journal.load(max_retired=ALL)
    await journal.close()
    return snapshot


def models(seed: int, batches: int) -> list[Snapshot]:
    """What must be there after 0, 1, 2, ... batches."""
    model = Model()
    result = [model.snapshot(ALL)]
    for _, changes in zip(range(batches), workload(seed), strict=False):
        model.apply(changes)
        result.append(model.snapshot(ALL))
    return result


def check(snapshot: Snapshot, expected: Sequence[Snapshot], *, acknowledged: int) -> int:
    """Assert what this module is about; the number of batches found."""
    batches: int = snapshot.facts.get("batch", 0)
    assert batches >= acknowledged
    assert snapshot == expected[batches]
    return batches


class Faults:
    """Makes the n-th operation from now on fail, again and again."""

    def __init__(self, rng: random.Random, *, every: int) -> None:
        self._rng = rng
        self._every = every
        self._left = rng.randint(1, every)

    def __call__(self, operation: Operation) -> int:
        self._left -= 1
        if self._left:
            return 0
        self._left = self._rng.randint(1, self._every)
        return self._rng.choice(FAULTS)


async def run(path: Path, seed: int, batches: int, fault: Faults | None = None) -> tuple[list[Operation], list[int]]:
    """Write batches one by one: what was done to the disk, and how much of that before each acknowledgement."""
    acknowledged: list[int] = []
    with Disk() as disk:
        journal = open_journal(path)
        disk.fault = fault or disk.fault
        for _, changes in zip(range(batches), workload(seed), strict=False):
            (outcome,) = await written(journal, changes)
            acknowledged.append(len(disk.done) if outcome is None else sys.maxsize)
        disk.fault = lambda _: 0
        await journal.close()
    return disk.done, acknowledged


def cut_and_check(
    path: Path, seed: int, batches: int, cuts: int | None, *, faults: bool = False
) -> Iterator[tuple[int, int]]:
    """Cut the power at some moments (all, where None) of a run; (batches acknowledged, found) for each."""
    rng = random.Random(seed)
    fault = Faults(rng, every=40) if faults else None
    done, acknowledged = asyncio.run(run(path, seed, batches, fault))
    expected = models(seed, batches)
    for number, moment in enumerate(range(len(done)) if cuts is None else rng.sample(range(len(done)), cuts)):
        image = path.parent / f"cut-{number}"
        image.mkdir()
        for name, content in crash_image(done[:moment], rng).items():
            (image / name).write_bytes(content)
        before = max((n for n, end in enumerate(acknowledged, 1) if end <= moment), default=0)
        yield before, check(asyncio.run(found(image / NAME)), expected, acknowledged=before)


def test_a_power_cut_at_any_moment_leaves_a_prefix_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    results = list(cut_and_check(tmp_path / NAME, 1, batches=40, cuts=60))
    assert any(acknowledged for acknowledged, _ in results)
    assert any(found > acknowledged for acknowledged, found in results)  # so cuts did hit commits half-way


@pytest.mark.torture
@pytest.mark.parametrize("faults", [False, True], ids=["sound", "failing"])
@pytest.mark.parametrize("seed", range(10))
def test_a_power_cut_at_every_single_moment_of_a_run(tmp_path: Path, seed: int, faults: bool) -> None:
    results = list(cut_and_check(tmp_path / NAME, seed, batches=60, cuts=None, faults=faults))
    assert len(results) > 200


@pytest.mark.parametrize("seed", range(3))
async def test_a_disk_that_fails_now_and_then_loses_nothing_once_it_has_recovered(tmp_path: Path, seed: int) -> None:
    batches = 60
    _, acknowledged = await run(tmp_path / NAME, seed, batches, Faults(random.Random(seed), every=60))
    refused = acknowledged.count(sys.maxsize)
    assert 5 < refused < batches
    assert check(await found(tmp_path / NAME), models(seed, batches), acknowledged=batches) == batches


async def test_a_full_disk_refuses_writes_with_a_clear_error_until_there_is_room_again(tmp_path: Path) -> None:
    with Disk() as disk:
        journal = open_journal(tmp_path / NAME)
        await stored(journal, Changes(facts={"a": 1}))
        disk.fault = lambda operation: sqlite3.SQLITE_FULL if operation.kind == "write" else 0
        for number in range(3):
            (outcome,) = await written(journal, Changes(facts={f"refused {number}": 1}))
            assert isinstance(outcome, StorageError)
            assert str(tmp_path / NAME) in str(outcome)
            assert "full" in str(outcome)
        assert journal.load(max_retired=0).facts == {"a": 1}  # reads go on
        disk.fault = lambda _: 0
        await stored(journal, Changes(facts={"b": 1}))
        await journal.close()
    assert (await found(tmp_path / NAME)).facts == {"a": 1, "b": 1} | {f"refused {n}": 1 for n in range(3)}


async def test_a_server_starts_on_a_full_disk(tmp_path: Path) -> None:
    with Disk() as disk:
        journal = open_journal(tmp_path / NAME)
        await stored(journal, Changes(facts={"a": 1}))
        log = (tmp_path / f"{NAME}-wal").read_bytes()
        await journal.close()
        (tmp_path / f"{NAME}-wal").write_bytes(log)
        disk.fault = lambda operation: sqlite3.SQLITE_FULL if operation.kind == "write" else 0
        journal = open_journal(tmp_path / NAME)
        assert journal.load(max_retired=0).facts == {"a": 1}
        (outcome,) = await written(journal, Changes(facts={"b": 1}))
        assert isinstance(outcome, StorageError)
        await journal.close()


def killed_writers(path: Path, seed: int, kills: int) -> Iterator[tuple[int, int]]:
    """Kill a writing process again and again, by turns from outside and within an operation on the disk."""
    rng = random.Random(seed)
    expected = models(seed, batches=0)
    model, batches = Model(), workload(seed)
    for kill in range(kills):
        operations = rng.randint(1, 60) if kill % 2 else 0
        command = [sys.executable, "-m", "tests.storage.writer", str(path), str(seed), str(operations)]
        acknowledged = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
            assert writer.stdout is not None
            patience = rng.randint(1, 40)
            for line in writer.stdout:
                acknowledged = int(line)
                patience -= 1
                if not operations and not patience:
                    writer.kill()
        assert writer.returncode == -9
        while len(expected) <= acknowledged + 50:
            model.apply(next(batches))
            expected.append(model.snapshot(ALL))
        yield acknowledged, check(asyncio.run(found(path)), expected, acknowledged=acknowledged)


def test_a_writer_killed_at_random_moments_leaves_all_that_it_acknowledged(tmp_path: Path) -> None:
    results = list(killed_writers(tmp_path / NAME, seed=1, kills=6))
    assert results[-1][1] > results[0][0]


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
def test_a_writer_killed_a_thousand_times_in_all(tmp_path: Path, seed: int) -> None:
    assert len(list(killed_writers(tmp_path / NAME, seed, kills=100))) == 100
