"""Runs the published spalloc_server 7.0.0, by the Python of the environment that it is installed in.

    python published_server.py CONFIG --cold-start --port N

Some of its traits are mended here, only those that keep it from being compared at all: the version that no client
can read, the long sleeps between commands to a BMP, and the ghosts that refused requests leave in its queue (they
could be neither compared nor, some of them, destroyed; one kind stops the server a minute later).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def published(module: str) -> Any:
    """A module of this environment; no type checker can know it."""
    return importlib.import_module(module)


def forget_refused_jobs(controller_class: Any) -> None:
    """Make a refused `create_job` leave nothing behind."""
    create_job = controller_class.create_job

    def create_job_or_nothing(controller: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return create_job(controller, *args, **kwargs)
        except Exception:
            ghost = controller._next_id - 1
            queue = controller._job_queue
            controller._jobs.pop(ghost, None)
            queue._jobs.pop(ghost, None)
            for machine in queue._machines.values():
                for job in [job for job in machine.queue if job.id == ghost]:
                    machine.queue.remove(job)
            raise

    controller_class.create_job = create_job_or_nothing


def main() -> int:
    """The server's own command line; its exit status."""
    server = published("spalloc_server.server")
    server.__version__ = "1.0.0"
    published("spalloc_server.async_bmp_controller")._SECONDS_BETWEEN_TRIES = 0.05
    published("spinnman.transceiver").BMP_POST_POWER_ON_SLEEP_TIME = 0.0
    forget_refused_jobs(published("spalloc_server.controller").Controller)
    status: int = server.main(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
