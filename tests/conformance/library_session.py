"""A user's script: scenarios that a published client's library runs, in the environment of that client.

    python library_session.py SCENARIO HOST PORT ...

Each prints a line of JSON for everything that it learns.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def library() -> Any:
    """The client's package: its name changed with version 7."""
    try:
        return importlib.import_module("spalloc_client")
    except ImportError:
        return importlib.import_module("spalloc")


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def machine_info(job: Any) -> dict[str, Any]:
    connections = sorted([list(chip), host] for chip, host in job.connections.items())
    boards = sorted(job.boards)
    return {
        "hostname": job.hostname,
        "width": job.width,
        "height": job.height,
        "machine_name": job.machine_name,
        "connections": connections,
        "boards": boards,
    }


def life(spalloc: Any, server: dict[str, Any], *sizes: str) -> None:
    """A job as a context manager: ready, described, off, on, reset, gone."""
    with spalloc.Job(*map(int, sizes), owner="life", **server) as job:
        tell(id=job.id, state=int(job.state), power=job.power, reason=job.reason)
        tell(**machine_info(job))
        job.set_power(False)
        while job.state != spalloc.JobState.ready:
            job.wait_for_state_change(spalloc.JobState.power)
        tell(state=int(job.state), power=job.power)
        job.set_power(True)
        job.wait_until_ready(timeout=20)
        tell(state=int(job.state), power=job.power)
        job.reset()
        tell(state_after_reset=int(job.state))
        job.wait_until_ready(timeout=20)
        if hasattr(job, "where_is_machine"):
            tell(where=list(job.where_is_machine(chip_x=1, chip_y=1)))
        else:
            tell(where=None)
    tell(done=True)


def wait_and_destroy(spalloc: Any, server: dict[str, Any], reason: str) -> None:
    """A job made, waited for and destroyed by hand, for a reason."""
    job = spalloc.Job(1, 1, owner="by hand", **server)
    job.wait_until_ready(timeout=20)
    tell(id=job.id)
    job.destroy(reason)
    tell(done=True)


def resume(spalloc: Any, server: dict[str, Any], job_id: str) -> None:
    """Take over a job, and let it live on."""
    try:
        job = spalloc.Job(resume_job_id=int(job_id), **server)
    except spalloc.JobDestroyedError as error:
        tell(refused=str(error))
        return
    job.wait_until_ready(timeout=20)
    tell(id=job.id, **machine_info(job))
    job.close()
    tell(done=True)


def hold(spalloc: Any, server: dict[str, Any], keepalive: str) -> None:
    """A job that lives by its keepalive alone, until this process is killed."""
    job = spalloc.Job(owner="hold", keepalive=float(keepalive), **server)
    job.wait_until_ready(timeout=20)
    tell(id=job.id)
    sys.stdin.readline()


def impossible(spalloc: Any, server: dict[str, Any]) -> None:
    """A job that no machine can take."""
    try:
        with spalloc.Job(99, 99, owner="dreamer", **server):
            tell(error=None)
    except spalloc.JobDestroyedError as error:
        tell(error=str(error))


def refused(spalloc: Any, server: dict[str, Any]) -> None:
    """A request that the server refuses."""
    names = ("SpallocServerException", "ProtocolTimeoutError")
    errors = tuple(getattr(spalloc, name) for name in names if hasattr(spalloc, name))
    try:
        spalloc.Job(1, owner="greedy", require_torus=True, **server | {"timeout": 1.0})
    except errors as error:
        tell(kind=type(error).__name__, error=str(error))


def watched(spalloc: Any, server: dict[str, Any], *sizes: str) -> None:
    """A job whose reason is asked for in its states: while it waits until it is told, and once it has ended."""
    job = spalloc.Job(*map(int, sizes), owner="watched", **server)
    while job.state == spalloc.JobState.queued and job.reason is None:
        pass
    tell(id=job.id, state=int(job.state), reason=job.reason)
    sys.stdin.readline()
    try:
        job.wait_until_ready(timeout=20)
        tell(state=int(job.state))
        while job.state == spalloc.JobState.ready:
            job.wait_for_state_change(spalloc.JobState.ready)
        tell(state=int(job.state), reason=job.reason)
    except spalloc.JobDestroyedError as error:
        tell(error=str(error))


def held(spalloc: Any, server: dict[str, Any], keepalive: str, end: str) -> None:
    """A job that is waited for while it is on hold, with what is told of it; at last it is ended, for this reason."""
    job = spalloc.Job(1, 1, owner="held", keepalive=float(keepalive), **server)
    tell(id=job.id)
    sys.stdin.readline()
    tell(state=int(job.state), power=job.power, reason=job.reason, boards=job.boards)
    try:
        if not end:
            job.wait_until_ready(timeout=60)
            tell(state=int(job.state), reason=job.reason, hostname=job.hostname)
        job.destroy(end or "done")
        tell(done=True)
    except spalloc.JobDestroyedError as error:
        tell(error=str(error))


def wait_in_queue(spalloc: Any, server: dict[str, Any], *sizes: str) -> None:
    """A job that has to wait; a timeout first, then for good."""
    job = spalloc.Job(*map(int, sizes), owner="patient", **server)
    tell(id=job.id)
    try:
        job.wait_until_ready(timeout=0.3)
    except spalloc.StateChangeTimeoutError:
        tell(timed_out=True, state=int(job.state))
    job.wait_until_ready(timeout=20)
    tell(state=int(job.state))
    job.destroy()
    tell(done=True)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (life, wait_and_destroy, resume, hold, impossible, refused, watched, held, wait_in_queue)
}

if __name__ == "__main__":
    name, host, port, *arguments = sys.argv[1:]
    SCENARIOS[name](
        library(),
        {"hostname": host, "port": int(port), "config_filenames": [], "timeout": 10.0, "reconnect_delay": 1.0},
        *arguments,
    )
