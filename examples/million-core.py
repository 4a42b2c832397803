# The largest machine: 1,200 boards in 50 frames, 20 x 20 triads. And a test board, which jobs get by asking for it.

from pathlib import Path

configuration = Configuration(
    machines=[
        Machine.with_standard_ips(
            name="million-core",
            tags={"default", "million"},
            # Written by: spinner-ethernet-chips -n 1200
            board_locations=board_locations_from_spinner(Path(__file__).parent / "spinner-1200.csv"),
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
