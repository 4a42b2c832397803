"""A server over simulated hardware whose boards boot, and the published stack that boots and discovers its jobs."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from tests.conformance.environments import environment
from tests.conformance.servers import Server, free_port, ours, simulated_hardware
from tests.conformance.wire import Connection

__all__ = ["Hall", "discovered", "expected", "hall", "spinnman", "wait_until_ready", "write_hall"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SPINNER = {
    24: ROOT / "examples" / "spinner-24.csv",
    120: ROOT / "tests" / "data" / "spinner-120.csv",
    1200: ROOT / "examples" / "spinner-1200.csv",
}
REQUIREMENTS = {
    "1!7.4.1": ("SpiNNMan==1!7.4.1",),
    "1!7.3.0": ("SpiNNMan==1!7.3.0", "numpy<2.3"),
    "1!7.0.0": ("SpiNNMan==1!7.0.0", "numpy<2", "six"),
}
DISCOVERY_SECONDS = 300
READY, DESTROYED = 3, 4
STEPS = [(1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1)]
BOARD = [(x, y) for x in range(8) for y in range(8) if -3 <= x - y <= 4]


@dataclass(frozen=True, slots=True)
class Hall:
    """A running server, and the machine that it shares out."""

    server: Server
    machine: Machine

    @contextlib.contextmanager
    def job(self, *sizes: int, **how: Any) -> Iterator[dict[str, Any]]:
        """A job that is ready: what the server tells of its machine."""
        with self.server.connect() as connection:
            job_id = connection.call("create_job", *sizes, owner="me", keepalive=None, **how)
            try:
                wait_until_ready(connection, job_id)
                yield connection.call("get_job_machine_info", job_id)
            finally:
                connection.call("destroy_job", job_id)


def wait_until_ready(connection: Connection, job_id: int) -> None:
    """Wait until a job is ready; fail where it ends instead."""
    connection.call("notify_job", job_id)
    while (state := connection.call("get_job_state", job_id))["state"] != READY:
        assert state["state"] != DESTROYED, state["reason"]
        connection.notification()


@contextlib.contextmanager
def hall(boards: int, directory: Path, *options: str) -> Iterator[Hall]:
    """A hall of so many boards; `options` are the simulator's."""
    config = write_hall(boards, directory)
    (machine,) = load(config).machines
    with (
        simulated_hardware(config, machine.bmp_ips.values(), directory, "--boards", *options),
        ours(config, directory, free_port()) as server,
    ):
        yield Hall(server, machine)


def write_hall(boards: int, directory: Path) -> Path:
    """Write a config file of one machine of so many boards, at addresses that nobody uses."""
    config = directory / "hall.toml"
    config.write_text(
        'ip = "127.0.0.1"\nseconds_before_free = 0\n[[machine]]\nform = "standard_ips"\nname = "hall"\n'
        f'board_locations = "{SPINNER[boards]}"\nbase_ip = "{_free_network()}"\n'
    )
    return config


def _free_network() -> str:
    """The first address of a part of 127.0.0.0/8 that nobody uses."""
    while True:
        network = f"127.{random.SystemRandom().randrange(100, 250)}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind((f"{network}.0.0", 17893))
            return f"{network}.0.0"


def spinnman(version: str) -> Path:
    """The Python of an environment that has SpiNNMan of this version."""
    return environment(f"spinnman-{version.removeprefix('1!')}", *REQUIREMENTS[version])


def discovered(version: str, host: str) -> dict[str, Any]:
    """What SpiNNMan finds of the machine at `host`, once it has booted it."""
    done = subprocess.run(
        [spinnman(version), HERE / "drive_discovery.py", host],
        capture_output=True,
        text=True,
        timeout=DISCOVERY_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def expected(info: dict[str, Any]) -> dict[str, Any]:
    """What SpiNNMan should find of a job of which the server tells this: all of its chips, and no others."""
    width, height = info["width"], info["height"]
    around = (0 if width % 12 else width, 0 if height % 12 else height)

    def wrapped(x: int, y: int) -> tuple[int, int]:
        return (x % around[0] if around[0] else x, y % around[1] if around[1] else y)

    chips = {wrapped(cx + x, cy + y) for (cx, cy), _ in info["connections"] for x, y in BOARD}
    links = [[x, y, link] for x, y in chips for link, (dx, dy) in enumerate(STEPS) if wrapped(x + dx, y + dy) in chips]
    return {
        "width": width,
        "height": height,
        "wrap": _KINDS[bool(around[0]), bool(around[1])],
        "cores": {f"{x},{y}": 18 for x, y in chips},
        "links": sorted(links),
        "boards": sorted([x, y, host] for (x, y), host in info["connections"]),
        "warnings": [],
    }


_KINDS = {
    (False, False): "NoWrapMachine",
    (True, False): "HorizontalWrapMachine",
    (False, True): "VerticalWrapMachine",
    (True, True): "FullWrapMachine",
}
