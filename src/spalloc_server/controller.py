"""The server's core as a library: jobs, machines, queue and leases without any I/O.

Theory of operation. `Controller` is `core.controller.Controller` with a clock. Commands are method calls; what the
world must do is fetched with `take_changes`, `take_switches`, `changed_jobs` and `changed_machines`, and what the world
answers is told with `switched` and `frame_changed`; `tick` tells that time has passed. A program
with hardware of its own needs no more than this:

    controller = Controller()
    controller.machines = {"desk": Machine.single_board("desk", bmp_ip="10.0.0.1", spinnaker_ip="10.0.0.2")}
    job_id = controller.create_job(owner="me")
    for switch in controller.take_switches():
        ...  # switch the boards, then:
        controller.switched(Outcome(switch.operation))
    assert controller.get_job_state(job_id).state == JobState.ready

A controller can be pickled by the program that embeds it, or stopped with `snapshot` and brought back with `restore`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from spalloc_server.core import controller as core
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, FrameWork, Outcome, Switch
from spalloc_server.core.model.replies import JobMachineInfo, JobStatus
from spalloc_server.core.model.rows import Changes, Snapshot
from spalloc_server.errors import RequestError

__all__ = [
    "BoardFailure",
    "Changes",
    "Controller",
    "FrameWork",
    "JobMachineInfo",
    "JobState",
    "JobStatus",
    "Outcome",
    "RequestError",
    "Snapshot",
    "Switch",
    "steady_time",
]

_ANCHOR = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since the Unix epoch, read from the wall clock once and then advanced by the monotonic clock.

    So durations are right even while somebody sets the wall clock, and times mean something after a restart.
    """
    return _ANCHOR + time.monotonic()


class Controller(core.Controller):
    """The core with the system's clock; all else is `core.controller.Controller`.

    Args:
        max_retired_jobs: ended jobs that are remembered.
        next_id: number of the first job.
        seconds_before_free: seconds that boards rest between two jobs.
        clock: seconds since the epoch; never goes back. A controller can be pickled if its clock can, so not a lambda.
    """

    def __init__(
        self,
        *,
        max_retired_jobs: int = 1200,
        next_id: int = 1,
        seconds_before_free: float = 30.0,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        super().__init__(
            clock=clock, max_retired_jobs=max_retired_jobs, next_id=next_id, seconds_before_free=seconds_before_free
        )
