# mypy: ignore-errors
"""Run by the Python of SpiNNMan 1!7.4.1, 1!7.3.0 or 1!7.0.0: wait for a job that an operator puts on hold.

Prints, behind `RESULT`, what comes of it, as JSON; what is to be done only then waits for a line of input.

argv: URL of the service, user, password, how to wait, the keepalive in seconds.
"""

import json
import logging
import sys

from spinn_utilities.config_holder import set_config
from spinnman.config_setup import unittest_setup
from spinnman.data.spinnman_data_writer import SpiNNManDataWriter
from spinnman.exceptions import SpallocException
from spinnman.spalloc import SpallocClient, SpallocState, spalloc_client

warnings = []


class Keeper(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


def created(client, keepalive):
    """A job of three boards, which is kept alive as often as this version does."""
    if hasattr(spalloc_client, "KEEP_ALIVE_PERIOND"):
        spalloc_client.KEEP_ALIVE_PERIOND = keepalive
    if hasattr(SpiNNManDataWriter, "set_n_required"):
        SpiNNManDataWriter.setup().set_n_required(3, None)
        return client.create_job()
    job = client.create_job(3, keepalive=keepalive)
    if hasattr(job, "launch_keepalive_task"):
        job.launch_keepalive_task(keepalive / 2)
    return job


def wait(job, how):
    """Wait until it is ready; the state then."""
    if how == "wait_until_ready":
        job.wait_until_ready()
        return job.get_state().name
    state = SpallocState.QUEUED
    while state not in {SpallocState.READY, SpallocState.DESTROYED}:
        state = job.wait_for_state_change(state)
        assert state is not SpallocState.QUEUED, "it takes a change for another state"
    return state.name


def main(out):
    def tell(**facts):
        print("RESULT", json.dumps(facts), file=out, flush=True)

    unittest_setup()
    set_config("Machine", "version", "5")
    logging.getLogger().addHandler(Keeper(logging.WARNING))
    url, user, password, how, keepalive = sys.argv[1:]
    client = SpallocClient(url, user, password)
    job = created(client, int(keepalive))
    tell(id=int(str(job).rstrip("/)").rsplit("/", 1)[1]), state=job.get_state().name)
    if how == "destroy":
        sys.stdin.readline()
        listed = str(job) in map(str, client.list_jobs())
        tell(state=job.get_state().name, listed=listed, boards=job.get_connections() or {}, root=job.get_root_host())
        job.destroy("enough")
        tell(state=job.get_state().name, left=str(job) in map(str, client.list_jobs()))
        return
    try:
        tell(state=wait(job, how), boards=len(job.get_connections() or {}), warnings=warnings)
    except SpallocException as error:
        tell(error=str(error), warnings=warnings)
        return
    job.destroy("done")


if __name__ == "__main__":  # 1!7.0.0 keeps jobs alive from another process
    stdout, sys.stdout = sys.stdout, sys.stderr  # progress bars
    main(stdout)
