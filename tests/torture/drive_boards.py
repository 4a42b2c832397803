# mypy: ignore-errors
"""Run by the Python of SpiNNMan 1!7.4.1: hold a job, and use its boards by all ways until told to stop.

argv: URL of the service, user, password, a file that says by being there that this is to stop. Prints a line `ROUND`
after each round, and in the end `RESULT` and what came of it, as JSON.
"""

import json
import logging
import sys
import threading
from pathlib import Path

from spinn_utilities.config_holder import set_config
from spinnman.config_setup import unittest_setup
from spinnman.data.spinnman_data_writer import SpiNNManDataWriter
from spinnman.spalloc import SpallocClient, SpallocState
from spinnman.transceiver.version5transceiver import Version5Transceiver

SDRAM, KEPT = 0x60100000, 0x61000000
errors, warnings = [], []


class Keeper(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


def watch(job):
    """Wait for the end of the job, as sPyNNaker does in a thread of its own."""
    try:
        state = SpallocState.READY
        while state is not SpallocState.DESTROYED:
            state = job.wait_for_state_change(state)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
        if not ending:
            errors.append(f"watching: {exc!r}")


def pattern(number, length):
    return bytes((number * 31 + i * 7) % 256 for i in range(length))


ending = []
url, user, password, stop = sys.argv[1:]
out, sys.stdout = sys.stdout, sys.stderr  # progress bars
unittest_setup()
logging.getLogger().addHandler(Keeper(logging.WARNING))
SpiNNManDataWriter.setup().set_n_required(3, None)
set_config("Machine", "version", "5")
client = SpallocClient(url, user, password)
job = client.create_job()
job.wait_until_ready()
transceiver = job.create_transceiver()
chips = transceiver.get_machine_details().n_chips
threading.Thread(target=watch, args=(job,), daemon=True).start()
ethernets = sorted(job.get_connections())
kept = pattern(1, 100_000)
for x, y in ethernets:
    job.write_data(x, y, KEPT, kept)
listener = job.open_eieio_listener_connection()
rounds = 0
while not Path(stop).exists():
    rounds += 1
    for x, y in ethernets:
        data = pattern(rounds, 5_000)
        # by REST there, and back by datagrams through the proxy; and the other way round
        job.write_data(x, y, SDRAM, data)
        if bytes(Version5Transceiver.read_memory(transceiver, x, y, SDRAM, len(data))) != data:
            errors.append(f"round {rounds}: other bytes by datagrams")
        Version5Transceiver.write_memory(transceiver, x, y, SDRAM + 0x10000, data)
        if job.read_data(x, y, SDRAM + 0x10000, len(data)) != data:
            errors.append(f"round {rounds}: other bytes by REST")
        listener.update_tag(x, y, 1)
    if (
        job.get_state() is not SpallocState.READY
        or job.where_is_machine(0, 0) is None
        or len(list(client.list_jobs())) != 1
    ):
        errors.append(f"round {rounds}: the job is no longer as it was")
    print("ROUND", rounds, file=out, flush=True)
same = all(job.read_data(x, y, KEPT, len(kept)) == kept for x, y in ethernets)
ending.append(True)
job.destroy()
result = {
    "errors": errors,
    "warnings": warnings,
    "same": same,
    "chips": chips,
    "state": job.get_state().name,
}
print("RESULT", json.dumps(result), file=out, flush=True)
