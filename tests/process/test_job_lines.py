"""What happens to jobs is in the log, a line an event, but no flood of it."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
import structlog

from spalloc_server.core.model import JobEvent
from spalloc_server.log import logger
from spalloc_server.process import job_lines
from spalloc_server.process.job_lines import LINES, JobLines
from tests.house import PATIENCE


def happened(event: str, job_id: int = 7, **facts: Any) -> JobEvent:
    return JobEvent(1000.0, event, job_id, "ann", "10.0.0.7", **facts)


async def test_each_event_has_a_line_with_what_an_operator_asks_for() -> None:
    placed: dict[str, Any] = {"machine": "hall", "boards": ((0, 0, 0), (0, 0, 1))}
    with structlog.testing.capture_logs() as log:
        JobLines().tell(
            [
                happened("created"),
                happened("allocated", **placed, seconds=1.26),
                happened("power", **placed),
                happened("ready", **placed, seconds=3.0),
                happened("failed", **placed, reason="no FPGA"),
                happened("destroyed", **placed, reason="done", seconds=60.0),
            ]
        )
    common = {"job": 7, "owner": "ann", "log_level": "info"}
    where = {**common, "machine": "hall", "boards": 2}
    assert log == [
        {**common, "event": "job created", "address": "10.0.0.7"},
        {**where, "event": "job allocated", "seconds": 1.3},
        {**where, "event": "job ready", "seconds": 3.0},
        {**where, "event": "job is placed again", "reason": "no FPGA"},
        {**where, "event": "job ended", "reason": "done", "seconds": 60.0},
    ]


async def test_ten_thousand_jobs_at_once_cost_little_and_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = JobLines()
    events = [happened("destroyed", job_id) for job_id in range(10_000)]
    gc.collect()  # what earlier tests have left is not to be collected meanwhile
    with structlog.testing.capture_logs() as log:
        begin = time.process_time()
        lines.tell(events)
        assert time.process_time() - begin < 0.5  # a few hundredths
        assert len(log) == LINES
        lines.tell([happened("created")])
        async with asyncio.timeout(PATIENCE):
            while len(log) == LINES:  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.01)
        lines.tell([happened("created")])
    more = {"event": "more happened to jobs than was logged", "log_level": "info"}
    assert log[LINES] == {**more, "destroyed": 10_000 - LINES, "created": 1}
    assert log[LINES + 1]["event"] == "job created"


async def test_a_log_that_cannot_be_written_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(job_lines, "_tell", fails)
    JobLines().tell([happened("created")])
    monkeypatch.undo()
    monkeypatch.setattr(logger.Logger, "info", fails)
    JobLines().tell([happened("created")])
