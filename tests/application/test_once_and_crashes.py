"""kill -9 between commit and answer, again and again: what is sent again is answered alike, and is not done twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

SENT_AGAIN = 8
"""Creations that are sent again although they were answered, besides all that were not."""


def killed_creators(path: Path, seed: int, kills: int) -> dict[int, int]:
    """Kill a process that creates jobs, by turns from outside and within an operation on the disk; {N: its number}."""
    rng, numbers = random.Random(seed), dict[int, int]()
    for kill in range(kills):
        operations = rng.randint(1, 60) if kill % 2 else 0
        first = max(0, max(numbers, default=-1) + 1 - SENT_AGAIN)
        command = [sys.executable, "-m", "tests.application.creator", str(path), str(first), str(operations)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as creator:
            assert creator.stdout is not None
            patience = SENT_AGAIN + rng.randint(1, 40)
            for line in creator.stdout:
                number, job = map(int, line.split())
                assert numbers.setdefault(number, job) == job, "it was answered otherwise before"
                patience -= 1
                if not operations and not patience:
                    creator.kill()
        assert creator.returncode == -9
    return numbers


def check(path: Path, numbers: dict[int, int]) -> None:
    """Assert that each creation has made one job, the one that it was answered."""
    with closing(sqlite3.connect(path)) as connection:
        jobs = connection.execute(
            "SELECT owner, job_id FROM history UNION ALL SELECT owner, job_id FROM jobs"
        ).fetchall()
    made = {int(owner): job for owner, job in jobs}
    assert len(made) == len(jobs), "two jobs of one creation"
    assert made.items() >= numbers.items()


def test_no_job_is_made_twice_and_none_is_lost_however_often_its_creation_is_sent(tmp_path: Path) -> None:
    numbers = killed_creators(tmp_path / "state.db", seed=1, kills=6)
    assert len(numbers) > 20
    check(tmp_path / "state.db", numbers)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(5))
def test_so_it_is_after_hundreds_of_kills(tmp_path: Path, seed: int) -> None:
    numbers = killed_creators(tmp_path / "state.db", seed, kills=60)
    check(tmp_path / "state.db", numbers)
