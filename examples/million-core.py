# The largest machine: 1,200 boards in 50 frames, 20 x 20 triads. And a test board, which jobs get by asking for it.

import sys
from pathlib import Path

# It is beside this file. In version 7.0.0 `__file__` is another file, but this one is named on the command line.
places = (Path(name).parent / "spinner-1200.csv" for name in (__file__, *sys.argv))
wiring = next((place for place in places if place.exists()), "spinner-1200.csv")

configuration = Configuration(
    machines=[
        Machine.with_standard_ips(
            name="million-core",
            tags={"default", "million"},
            # Written by: spinner-ethernet-chips -n 1200
            board_locations=board_locations_from_spinner(wiring),
            base_ip="10.11.192.0",
        ),
        Machine(
            name="test-board",
            tags={"test"},
            dead_boards={(0, 0, 1), (0, 0, 2)},
            board_locations={(0, 0, 0): (0, 0, 0)},
            bmp_ips={(0, 0): "test-board-bmp.example.org"},
            spinnaker_ips={(0, 0, 0): "test-board.example.org"},
        ),
    ],
    seconds_before_free=30,
    history_days=400,
    scheduling=Scheduling(policy="backfill", half_life=604800),
    health=Health(quarantine_after=1, quarantine_seconds=3600),
    limits=Limits(connections_per_address=4096),
)
