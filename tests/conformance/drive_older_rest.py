# mypy: ignore-errors
"""Run by the Python of SpiNNMan 1!7.3.0 or 1!7.0.0: log in, get boards, boot them, use their memory, end, as JSON.

argv: URL of the service, user, password, token.
"""

import json
import logging
import sys

from spinn_utilities.config_holder import set_config
from spinnman.config_setup import unittest_setup
from spinnman.data.spinnman_data_writer import SpiNNManDataWriter
from spinnman.spalloc import SpallocClient, SpallocState

warnings = []
SDRAM = 0x60100000


class Keeper(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


def main(out):
    unittest_setup()
    set_config("Machine", "version", "5")
    logging.getLogger().addHandler(Keeper(logging.WARNING))
    url, user, password, token = sys.argv[1:]
    seen = {}
    by_token = SpallocClient(url, bearer_token=token)
    seen["machines"] = [machine.name for machine in by_token.list_machines().values()]
    client = SpallocClient(url, user, password)
    seen["forms"] = []
    for make, arguments in (
        (client.create_job, {"num_boards": 3}),
        (client.create_job_rect, {"width": 2, "height": 1}),
        (client.create_job_board, {"triad": (1, 2, 1)}),
    ):
        with make(**arguments) as job:
            job.wait_until_ready()
            seen["forms"].append(len(job.get_connections()))
    for each in (client, by_token):
        SpiNNManDataWriter.setup()  # it keeps one machine at a time
        set_config("Machine", "version", "5")
        with each.create_job(3) as job:
            if hasattr(job, "launch_keepalive_task"):
                job.launch_keepalive_task(1)
            state = job.get_state()
            while state is not SpallocState.READY:
                state = job.wait_for_state_change(state)
            transceiver = job.create_transceiver()
            if hasattr(transceiver, "ensure_board_is_ready"):
                transceiver.ensure_board_is_ready()
            machine = transceiver.get_machine_details()
            data = bytes(range(256)) * 40
            transceiver.write_memory(8, 4, SDRAM, data)
            listener = job.open_eieio_listener_connection()
            listener.update_tag(0, 0, 1)
            seen.setdefault("booted", []).append(
                [
                    machine.n_chips,
                    bytes(transceiver.read_memory(8, 4, SDRAM, len(data))) == data,
                    listener.is_connected(),
                    len(job.where_is_machine(0, 0)),
                    str(job) in map(str, each.list_jobs()),
                ]
            )
    seen["left"] = [str(job) for job in client.list_jobs()]
    seen["warnings"] = warnings
    print("RESULT", json.dumps(seen), file=out, flush=True)


if __name__ == "__main__":  # 1!7.0.0 keeps jobs alive from another process
    stdout, sys.stdout = sys.stdout, sys.stderr  # progress bars
    main(stdout)
