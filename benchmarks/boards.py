"""Simulated boards: how much memory and processor time a machine takes that boots, is discovered, read and written.

Each figure is of a simulator in a process of its own (`spalloc-admin simulate-hardware --boards --power-on`), driven
over loopback sockets by this process, which keeps eight commands in flight as published clients do. Processor time
and memory are those of the simulator, from /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.hardware.scp import SCP_PORT
from spalloc_server.simulator.boot import BOOT_PORT
from tests.simulator.machines import boot_datagrams

ROOT = Path(__file__).parents[1]
MACHINES = {
    3: ROOT / "tests/data/spinner-3.csv",
    24: ROOT / "examples/spinner-24.csv",
    1200: ROOT / "examples/spinner-1200.csv",
}
NETWORKS = {3: "127.91.0.0", 24: "127.92.0.0", 1200: "127.93.0.0"}
IN_FLIGHT = 8
REPLY_SECONDS = 10.0
VER, READ, WRITE, INFO = 0, 2, 3, 31
COMMAND = struct.Struct("<2x8B2H3I")
MIB = 2**20


def main(*, quick: bool) -> None:
    """Measure machines of 3, 24 and 1,200 boards, and the memory of one."""
    print("| boards | on | booted | discovered | boot: processor time | first answer | discovery | the client's |")
    print("|---|---|---|---|---|---|---|---|")
    for boards in (3, 24) if quick else (3, 24, 1200):
        with simulated(boards) as (machine, pid):
            print(f"| {boards} | {_discovery(machine, pid)} |", flush=True)
    print("\n| memory, one client, 8 commands in flight | by the clock | by the simulator's processor time |")
    print("|---|---|---|")
    with simulated(3) as (machine, pid):
        host = machine.spinnaker_ips[0, 0, 0]
        with connected(host) as client:
            boot(client, host)
            for name, command in (("write", WRITE), ("read", READ)):
                print(f"| {name} | {_transfer(client, pid, command, (1 if quick else 16) * MIB)} |", flush=True)


def _discovery(machine: Machine, pid: int) -> str:
    host = machine.spinnaker_ips[0, 0, 0]
    idle = _memory(pid)
    with connected(host) as client:
        before = _processor(pid)
        seconds = boot(client, host)
        booting = _processor(pid) - before
        booted = _memory(pid)
        (size,) = answers(client, [command_of(READ, 0xF5007F02, 2)])
        height, width = size[14], size[15]
        before, began = _processor(pid), time.process_time()
        columns = [command_of(READ, 0xE1010000 + 128 * x, 4 * ((height + 7) // 8), chip=(0, 0)) for x in range(width)]
        chips = list(_chips(answers(client, columns), height))
        assert len(chips) == 48 * len(machine.live_boards)
        for command in ((INFO, 0x5F, 0), (READ, 0xF5007F94, 40)):
            answers(client, [command_of(*command, chip=chip) for chip in chips])
        spent = _processor(pid) - before
        own = time.process_time() - began
    memory = f"{idle:.0f} MiB | {booted:.0f} MiB | {_memory(pid):.0f} MiB"
    return f"{memory} | {booting:.2f} s | {seconds:.2f} s | {spent:.2f} s for {len(chips)} chips | {own:.2f} s"


def _chips(columns: list[bytes], height: int) -> Iterator[tuple[int, int]]:
    for x, reply in enumerate(columns):
        words = struct.unpack(f"<{(height + 7) // 8}I", reply[14:])
        yield from ((x, y) for y in range(height) if words[y // 8] >> 3 * (y % 8) & 7 != 6)


def _transfer(client: socket.socket, pid: int, command: int, length: int) -> str:
    data = os.urandom(256) if command == WRITE else b""
    commands = [command_of(command, 0x60000000 + at, 256, 2, data) for at in range(0, length, 256)]
    before, began = _processor(pid), time.monotonic()
    answers(client, commands)
    wall, spent = time.monotonic() - began, _processor(pid) - before
    return f"{length / wall / 1e6:.1f} MB/s | {length / spent / 1e6:.1f} MB/s"


def boot(client: socket.socket, host: str) -> float:
    """Boot; seconds from the last block to the first answer."""
    content = bytearray(29 * 1024 + 172)
    text = b"SC&MP/SpiNNaker\x004.0.0\x00"
    content[1992:2000] = bytes.fromhex("0001ffff60000000")
    content[2000 : 2000 + len(text)] = text
    *blocks, end = boot_datagrams(bytes(content))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for datagram in blocks:
            channel.sendto(datagram, (host, BOOT_PORT))
            time.sleep(0.001)
        began = time.monotonic()
        channel.sendto(end, (host, BOOT_PORT))
    client.settimeout(0.02)
    while time.monotonic() < began + REPLY_SECONDS:
        client.send(command_of(VER, 0, 0))
        with contextlib.suppress(TimeoutError):
            client.recv(512)
            took = time.monotonic() - began
            with contextlib.suppress(TimeoutError):
                while True:  # answers to those that were sent while the board booted
                    client.recv(512)
            return took
    raise TimeoutError(f"{host} did not boot")


def command_of(
    command: int, arg1: int, arg2: int, arg3: int = 0, data: bytes = b"", *, chip: tuple[int, int] = (255, 255)
) -> bytes:
    x, y = chip
    return COMMAND.pack(0x87, 255, 0, 255, y, x, 0, 0, command, 0, arg1, arg2, arg3) + data


def answers(client: socket.socket, commands: list[bytes]) -> list[bytes]:
    """Send all commands, a few in flight at a time; their answers, in order."""
    client.settimeout(REPLY_SECONDS)
    found: list[bytes] = [b""] * len(commands)
    sent = 0
    for done in range(len(commands)):
        while sent < min(len(commands), done + IN_FLIGHT):
            client.send(commands[sent][:12] + struct.pack("<H", sent & 0xFFFF) + commands[sent][14:])
            sent += 1
        answer = client.recv(512)
        sequence = int.from_bytes(answer[12:14], "little")
        number = done + ((sequence - done + 0x8000) & 0xFFFF) - 0x8000
        assert answer[10] == 0x80
        found[number] = answer
    return found


@contextlib.contextmanager
def connected(host: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, SCP_PORT))
        yield client


@contextlib.contextmanager
def simulated(boards: int) -> Iterator[tuple[Machine, int]]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "machine.toml"
        config.write_text(
            f'[[machine]]\nform = "standard_ips"\nname = "m"\nboard_locations = "{MACHINES[boards]}"\n'
            f'base_ip = "{NETWORKS[boards]}"\n'
        )
        (machine,) = load(config).machines
        program = str(Path(sys.executable).parent / "spalloc-admin")
        command = [program, "simulate-hardware", str(config), "--boards", "--power-on"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                next(line for line in process.stdout if line.startswith("simulated"))
                yield machine, process.pid
            finally:
                process.terminate()


def _memory(pid: int) -> float:
    """MiB that the process has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _processor(pid: int) -> float:
    """Seconds of processor time that the process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks: Callable[[str], int] = os.sysconf
    return (int(fields[11]) + int(fields[12])) / ticks("SC_CLK_TCK")
