# mypy: ignore-errors
"""Run by rig's own Python: drive the BMP at argv[1] by rig's BMPController and print what it saw, as JSON."""

import inspect
import json
import sys

if not hasattr(inspect, "getargspec"):  # rig 2.4.1 needs it; Python 3.11 dropped it
    inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]

from rig.machine_control import BMPController

bmp = BMPController(sys.argv[1])
version = bmp.get_software_version(0, 0, 3)
bmp.set_power(True, 0, 0, [0, 1, 3], delay=0.0, post_power_on_delay=0.0)
bmp.set_power(True, 0, 0, 5, delay=0.001, post_power_on_delay=0.01)
identities = [bmp.read_fpga_reg(fpga, 0x40004, 0, 0, 3) for fpga in range(3)]
bmp.write_fpga_reg(2, 0x5C, 1, 0, 0, 3)
stopped = bmp.read_fpga_reg(2, 0x5C, 0, 0, 3)
bmp.set_led([0, 7], True, 0, 0, 3)
adc = bmp.read_adc(0, 0, 3)
bmp.set_power(False, 0, 0, 1)
json.dump(
    {
        "name": version.version_string,
        "version": version.version,
        "board": version.board_id,
        "can": version.can_id,
        "buffer": version.buffer_size,
        "identities": identities,
        "stopped": stopped,
        "volts": [round(adc.voltage_1_2a, 2), round(adc.voltage_1_8, 2), round(adc.voltage_supply, 1)],
        "top": adc.temp_top,
        "fans": [adc.fan_0, adc.fan_1],
    },
    sys.stdout,
)
