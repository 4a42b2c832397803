# mypy: ignore-errors
"""Run by rig's own Python: boot the machine at argv[1], load memory, programs and routes as network_tester does.

Prints what rig saw, as JSON.
"""

import collections
import collections.abc
import inspect
import json
import random
import sys
import tempfile

if not hasattr(inspect, "getargspec"):  # rig 2.4.1 needs what Python dropped
    inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]
for name in ("Iterable", "Mapping", "MutableMapping", "Sequence", "Callable"):
    if not hasattr(collections, name):
        setattr(collections, name, getattr(collections.abc, name))

from rig.machine_control import MachineController  # noqa: E402
from rig.routing_table import Routes, RoutingTableEntry  # noqa: E402

APP = 66
BYTES = 5000
controller = MachineController(sys.argv[1])
booted = controller.boot(), controller.boot()
system = controller.get_system_info()
chance = random.Random(5)
places = {chip: {1, 2, 17} for chip in chance.sample(sorted(system), 20)}

with tempfile.NamedTemporaryFile(suffix=".aplx") as program, controller.application(APP):
    program.write(chance.randbytes(20000))
    program.flush()
    loaded = []
    for (x, y), cores in places.items():
        for core in cores:
            memory = controller.sdram_alloc_as_filelike(BYTES, tag=core, x=x, y=y)
            content = chance.randbytes(BYTES)
            memory.write(content)
            loaded.append((memory, content))
    controller.load_application(program.name, places, wait=True)
    ready = controller.count_cores_in_state("wait", APP)
    theirs = sum(
        controller.read_vcpu_struct_field("app_id", x, y, core) == APP
        for (x, y), cores in places.items()
        for core in cores
    )
    controller.load_routing_tables(
        {chip: [RoutingTableEntry({Routes.core_1, Routes.east}, 0x1234, 0xFFFF)] for chip in places}
    )
    routes = sum(
        entry is not None and entry[0].key == 0x1234
        for x, y in places
        for entry in controller.get_routing_table_entries(x, y)
    )
    controller.send_signal("start")
    running = controller.wait_for_cores_to_reach_state("run", 3 * len(places), timeout=10)
    same = 0
    for memory, content in loaded:
        memory.seek(0)
        same += memory.read() == content
left = sum(controller.count_cores_in_state(state, APP) for state in ("wait", "run"))

json.dump(
    {
        "booted": booted,
        "size": [system.width, system.height],
        "chips": len(system),
        "cores": sorted({info.num_cores for info in system.values()}),
        "links": sum(len(info.working_links) for info in system.values()),
        "ready": ready,
        "running": running,
        "theirs": theirs,
        "routes": routes,
        "same": same,
        "left": left,
    },
    sys.stdout,
)
