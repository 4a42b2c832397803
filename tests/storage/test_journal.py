"""What both journals promise: the one on disk and its twin in memory."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_asyncio
from hypothesis import given, settings

from spalloc_server.core.model.rows import Changes, Snapshot
from spalloc_server.errors import StorageError
from spalloc_server.storage.journal import OnHealth
from tests.storage.journals import Bench, MemoryBench, SqliteBench, stored, written
from tests.storage.strategies import batches
from tests.storage.workload import Model, a_board, a_job, a_release

MakeBench: TypeAlias = Callable[[Path, OnHealth | None], Bench]

BENCHES: list[MakeBench] = [MemoryBench, SqliteBench]


@pytest.fixture
def health() -> list[StorageError | None]:
    """What the journal said about its health."""
    return []


@pytest_asyncio.fixture(params=BENCHES, ids=["memory", "sqlite"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, health: list[StorageError | None]
) -> AsyncIterator[Bench]:
    bench = request.param(tmp_path / "state.db", health.append)
    yield bench
    await bench.journal.close()


async def test_a_new_journal_is_empty_and_healthy(bench: Bench) -> None:
    assert bench.journal.load(max_retired=10) == Snapshot()
    assert bench.journal.error is None


async def test_every_field_of_every_row_comes_back(bench: Bench) -> None:
    await stored(
        bench.journal,
        Changes(
            jobs={1: a_job(1), 2: a_job(2, ended_at=9.5)},
            boards={("hall", 4, 0, 2): a_board(4)},
            releases={8: a_release(8)},
            facts={"next_id": 3, "run_times": {"ada": [1.5, 2.5]}},
        ),
    )
    assert bench.journal.load(max_retired=10) == Snapshot(
        jobs=[a_job(1), a_job(2, ended_at=9.5)],
        boards=[a_board(4)],
        releases=[a_release(8)],
        facts={"next_id": 3, "run_times": {"ada": [1.5, 2.5]}},
    )


async def test_callbacks_come_in_the_order_of_the_writes_in_the_thread_of_the_loop(bench: Bench) -> None:
    calls: list[tuple[int, int]] = []

    def note(number: int, _: StorageError | None) -> None:
        calls.append((number, threading.get_ident()))

    for number in range(50):
        bench.journal.write(Changes(facts={"n": number}), partial(note, number))
    await stored(bench.journal, Changes())
    assert calls == [(number, threading.get_ident()) for number in range(50)]


async def test_nothing_is_acknowledged_before_its_commit(bench: Bench) -> None:
    outcomes: list[StorageError | None] = []
    with bench.held():
        bench.journal.write(Changes(facts={"a": 1}), outcomes.append)
        bench.journal.write(Changes(facts={"a": 2}), outcomes.append)
        for _ in range(10):
            await asyncio.sleep(0)
        assert outcomes == []
        assert bench.journal.load(max_retired=0).facts == {}
    await stored(bench.journal, Changes())
    assert outcomes == [None, None]
    assert bench.journal.load(max_retired=0).facts == {"a": 2}


async def test_a_later_row_replaces_an_earlier_one_of_its_key(bench: Bench) -> None:
    await stored(bench.journal, Changes(jobs={1: a_job(1, owner="ada")}))
    await stored(bench.journal, Changes(jobs={1: a_job(1, owner="bob")}))
    assert [job.owner for job in bench.journal.load(max_retired=0).jobs] == ["bob"]


async def test_of_the_ended_jobs_only_those_that_ended_last_come_back(bench: Bench) -> None:
    ends = {1: 50.0, 2: 10.0, 3: 40.0, 4: None, 5: 30.0}
    await stored(bench.journal, Changes(jobs={job_id: a_job(job_id) for job_id in ends}))
    await stored(bench.journal, Changes(jobs={job_id: a_job(job_id, ended_at=end) for job_id, end in ends.items()}))
    assert [job.job_id for job in bench.journal.load(max_retired=2).jobs] == [1, 3, 4]
    assert [job.job_id for job in bench.journal.load(max_retired=0).jobs] == [4]


async def test_none_deletes_a_board_a_release_and_a_fact(bench: Bench) -> None:
    key = ("hall", 4, 0, 2)
    await stored(bench.journal, Changes(boards={key: a_board(4)}, releases={8: a_release(8)}, facts={"a": 1, "b": 2}))
    await stored(bench.journal, Changes(boards={key: None}, releases={8: None, 9: None}, facts={"a": None}))
    assert bench.journal.load(max_retired=0) == Snapshot(facts={"b": 2})


async def test_pruning_forgets_what_ended_before_and_nothing_else(bench: Bench) -> None:
    ends = {1: 50.0, 2: 10.0, 3: 20.0, 4: None, 5: 19.5}
    await stored(bench.journal, Changes(jobs={job_id: a_job(job_id, ended_at=end) for job_id, end in ends.items()}))
    await bench.prune(20.0)
    assert [job.job_id for job in bench.journal.load(max_retired=10).jobs] == [1, 3, 4]


async def test_a_row_changed_after_the_write_is_stored_as_it_was(bench: Bench) -> None:
    job = a_job(1)
    with bench.held():
        bench.journal.write(Changes(jobs={1: job}), lambda _: None)
        job.owner = "mallory"
        job.args.append("more")
    await stored(bench.journal, Changes())
    assert bench.journal.load(max_retired=0).jobs == [a_job(1)]


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, [object()], 1j], ids=["text", "key", "object", "complex"])
async def test_what_cannot_be_stored_is_refused_at_once_and_harms_nobody_else(bench: Bench, value: Any) -> None:
    with pytest.raises(StorageError, match="cannot be stored"):
        bench.journal.write(Changes(jobs={1: a_job(1)}, facts={"odd": value}), lambda _: None)
    await stored(bench.journal, Changes(facts={"sound": 1}))
    assert bench.journal.load(max_retired=0) == Snapshot(facts={"sound": 1})


async def test_integers_of_any_size_in_arguments_come_back(bench: Bench) -> None:
    job = a_job(1)
    job.args = [10**30, -(10**30)]
    await stored(bench.journal, Changes(jobs={1: job}))
    assert bench.journal.load(max_retired=0).jobs == [job]


async def test_a_failed_commit_is_reported_and_made_up_for_by_the_next_write(
    bench: Bench, health: list[StorageError | None]
) -> None:
    await stored(bench.journal, Changes(facts={"a": 1}))
    bench.break_disk()
    outcomes = await written(bench.journal, Changes(facts={"a": 2, "b": 2}), Changes(facts={"c": 2}))
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    assert isinstance(bench.journal.error, StorageError)
    assert bench.journal.load(max_retired=0).facts == {"a": 1}
    bench.mend_disk()
    await stored(bench.journal, Changes(facts={"a": 3}))
    assert bench.journal.load(max_retired=0).facts == {"a": 3, "b": 2, "c": 2}
    assert [error is None for error in [*health, bench.journal.error]] == [False, True, True]


async def test_a_retry_writes_what_failed(bench: Bench, health: list[StorageError | None]) -> None:
    bench.break_disk()
    outcomes: list[StorageError | None] = []
    bench.journal.write(Changes(facts={"a": 1}), outcomes.append)
    await written(bench.journal, Changes())
    bench.journal.retry()
    bench.mend_disk()
    bench.journal.retry()
    await stored(bench.journal, Changes())
    assert bench.journal.load(max_retired=0).facts == {"a": 1}
    assert [error is None for error in outcomes] == [False]  # told once, whatever happens later
    assert health[-1] is None


async def test_a_callback_that_raises_does_not_keep_the_next_from_being_called(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    raised: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))

    def fail(_: StorageError | None) -> None:
        raise RuntimeError("a mistake in the caller")

    with bench.held():
        bench.journal.write(Changes(facts={"a": 1}), fail)
        bench.journal.write(Changes(facts={"b": 1}), fail)
    await stored(bench.journal, Changes(facts={"c": 1}))
    assert [str(context["exception"]) for context in raised] == ["a mistake in the caller"] * 2


async def test_close_writes_what_is_pending_and_takes_nothing_more(bench: Bench) -> None:
    outcomes: list[StorageError | None] = []
    for number in range(20):
        bench.journal.write(Changes(facts={"n": number}), outcomes.append)
    await bench.journal.close()
    assert outcomes == [None] * 20
    with pytest.raises(StorageError, match="closed"):
        bench.journal.write(Changes(facts={"n": 21}), outcomes.append)
    await bench.journal.close()


@settings(max_examples=30)
@given(sequence=batches())
def test_any_sequence_of_batches_gives_what_the_model_gives_in_both(sequence: list[Changes]) -> None:
    model = Model()
    for changes in sequence:
        model.apply(changes)

    async def load(make: MakeBench) -> Snapshot:
        with tempfile.TemporaryDirectory() as directory:
            bench = make(Path(directory) / "state.db", None)
            await stored(bench.journal, *sequence)
            snapshot = bench.journal.load(max_retired=2)
            await bench.journal.close()
            return snapshot

    for make in BENCHES:
        assert asyncio.run(load(make)) == model.snapshot(max_retired=2)
