"""The published server's queue and allocator in virtual time, by the Python of the environment that has it.

    python published_queue.py WIDTH HEIGHT < ROWS

ROWS is a JSON array of [submitted at, seconds, boards], in order of submission; WIDTH and HEIGHT are in triads. Boards
rest no time. Prints a JSON array of the times at which the jobs started; null for those that were refused.
"""

from __future__ import annotations

import heapq
import importlib
import json
import os
import sys
import tempfile
from typing import Any


def started(rows: list[tuple[float, float, int]], width: int, height: int) -> list[float | None]:
    """When each job starts."""
    now = 0.0
    starts: list[float | None] = [None] * len(rows)
    ends: list[tuple[float, int]] = []

    def on_allocate(number: int, *_: Any) -> None:
        starts[number] = now
        heapq.heappush(ends, (now + rows[number][1], number))

    os.chdir(tempfile.mkdtemp())  # it writes a log of jobs where it is imported
    module = importlib.import_module("spalloc_server.job_queue")
    queue = module.JobQueue(on_allocate, lambda *_: None, lambda *_: None, seconds_before_free=0)
    queue.add_machine("m", width, height, tags={"default"})
    for number, (submitted, _, boards) in enumerate([*rows, (float("inf"), 0.0, 0)]):
        while ends and ends[0][0] <= submitted:
            now, ended = heapq.heappop(ends)
            queue.destroy_job(ended, "")
            queue.free(ended)
            queue.check_free()
        if boards:
            now = submitted
            queue.create_job(boards, job_id=number)
    return starts


if __name__ == "__main__":
    print(json.dumps(started(json.load(sys.stdin), int(sys.argv[1]), int(sys.argv[2]))))
