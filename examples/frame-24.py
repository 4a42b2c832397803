# One frame of 24 boards, 4 x 2 triads, wired as SpiNNer tells (spinner-wiring-guide -n 24).

import sys
from pathlib import Path

# It is beside this file. In version 7.0.0 `__file__` is another file, but this one is named on the command line.
places = (Path(name).parent / "spinner-24.csv" for name in (__file__, *sys.argv))
wiring = next((place for place in places if place.exists()), "spinner-24.csv")

configuration = Configuration(
    machines=[
        Machine.with_standard_ips(
            name="hall",
            tags={"default", "24-boards"},
            # Written by: spinner-ethernet-chips -n 24
            board_locations=board_locations_from_spinner(wiring),
            base_ip="192.168.0.0",
            # What is broken: one board, and one cable, which is dead from both of its ends.
            dead_boards={(3, 1, 2)},
            dead_links={(0, 0, 0, Links.north), (0, 0, 2, Links.south)},
        )
    ]
)
