# mypy: ignore-errors
"""Run by spinnman's own Python: boot the machine at argv[1], discover it, print what was found, as JSON.

Works with 7.0.0, 7.3.0 and 7.4.1, whose ways to a transceiver differ.
"""

import inspect
import json
import logging
import sys

from spinnman.config_setup import unittest_setup
from spinnman.transceiver import create_transceiver_from_hostname

warnings = []


class Keeper(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


logging.getLogger().addHandler(Keeper(logging.WARNING))
unittest_setup()
host = sys.argv[1]
if "version" in inspect.signature(create_transceiver_from_hostname).parameters:
    transceiver = create_transceiver_from_hostname(host, 5)
    transceiver.ensure_board_is_ready()
else:
    from spinn_utilities.config_holder import set_config

    set_config("Machine", "version", "5")
    transceiver = create_transceiver_from_hostname(host)
sys.stdout, out = sys.stderr, sys.stdout  # progress bars
machine = transceiver.get_machine_details()
chips = list(machine.chips)
json.dump(
    {
        "width": machine.width,
        "height": machine.height,
        "wrap": str(type(machine).__name__),
        "cores": {f"{chip.x},{chip.y}": chip.n_processors for chip in chips},
        "links": sorted([chip.x, chip.y, link.source_link_id] for chip in chips for link in chip.router.links),
        "boards": sorted([chip.x, chip.y, chip.ip_address] for chip in chips if chip.ip_address),
        "warnings": warnings,
    },
    out,
)
transceiver.close()
