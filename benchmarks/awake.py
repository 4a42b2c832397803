"""Keeps the computer's cores awake: `python -m benchmarks.awake SECONDS`, at the lowest priority that there is.

To wake a core up costs tens of microseconds on a virtual machine, and they are charged to whoever is woken. A server
that answers one client at a time would be charged for that more than for what it does; so would the other server. What
runs here gives way to everything else, and ends by itself after so long, or when its parent has.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cores_awake"]

LONGEST = 3600


@contextlib.contextmanager
def cores_awake() -> Iterator[None]:
    """Keep all cores awake meanwhile."""
    command = [sys.executable, str(Path(__file__)), str(LONGEST)]
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def spin(seconds: float) -> None:
    """Do nothing, busily."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    parent, end = os.getppid(), time.monotonic() + seconds
    while time.monotonic() < end and os.getppid() == parent:
        sum(range(10_000))


if __name__ == "__main__":
    spin(float(sys.argv[1]))
