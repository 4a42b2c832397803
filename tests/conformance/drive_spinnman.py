# mypy: ignore-errors
"""Run by spinnman's own Python: drive the BMP at argv[1] by spinnman's Transceiver, print what it saw, as JSON.

It is made as spalloc_server 7.0.0 makes it, for it is that server's driver.
"""

import json
import struct
import sys

from spinnman import constants, transceiver
from spinnman.config_setup import unittest_setup
from spinnman.messages.scp.enums import LEDAction
from spinnman.model import BMPConnectionData

transceiver.BMP_POST_POWER_ON_SLEEP_TIME = 0.01
unittest_setup()
bmp = transceiver.create_transceiver_from_hostname(
    None, 5, bmp_connection_data=[BMPConnectionData(0, 0, sys.argv[1], [0], constants.SCP_SCAMP_PORT)]
)
version = bmp.read_bmp_version(3, 0, 0)
bmp.power_on([0, 1, 3], 0, 0)
bmp.power_on([5], 0, 0)
identities = [bmp.read_fpga_register(fpga, 0x40004, 0, 0, 3) for fpga in range(3)]
bmp.write_fpga_register(2, 0x5C, 1, 0, 0, 3)
stopped = bmp.read_fpga_register(2, 0x5C, 0, 0, 3)
bmp.set_led([0, 7], LEDAction.ON, 3, 0, 0)
try:
    adc = bmp.read_adc_data(3, 0, 0)
except struct.error as exc:  # a fault of spinnman 7.0.0: it cannot pack its own request
    adc = str(exc)
bmp.power_off([1], 0, 0)
json.dump(
    {
        "name": version.name,
        "version": version.version_number,
        "hardware": version.hardware,
        "identities": identities,
        "stopped": stopped,
        "adc": adc,
    },
    sys.stdout,
)
