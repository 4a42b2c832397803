"""The simulator on real loopback sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import (
    SCP_PORT,
    Command,
    Request,
    Response,
    ResponseCode,
    power_arguments,
    stop_register,
)
from spalloc_server.links import Links
from spalloc_server.simulator.faults import BmpFault, Faults, Network
from spalloc_server.simulator.frame import SimulatedTimings
from spalloc_server.simulator.simulator import Simulator, SimulatorError
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE


class Wire(asyncio.DatagramProtocol):
    """A bare driver: sends what it is told, and keeps the answers."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Response] = asyncio.Queue()

    @classmethod
    async def to(cls, host: str) -> Self:
        _, wire = await asyncio.get_running_loop().create_datagram_endpoint(cls, remote_addr=(host, SCP_PORT))
        return wire

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.put_nowait(Response.decode(data))

    def send(self, request: Request) -> None:
        self.transport.sendto(request.encode())

    async def answer(self) -> Response:
        return await asyncio.wait_for(self.answers.get(), PATIENCE)

    async def ask(self, request: Request) -> Response:
        self.send(request)
        return await self.answer()


class Clock:
    """Stands still unless told, and tells when it is read: then the simulator is handling a datagram."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._read = asyncio.Event()

    def __call__(self) -> float:
        self._read.set()
        return self.now

    async def next_reading(self) -> None:
        self._read.clear()
        await asyncio.wait_for(self._read.wait(), PATIENCE)


@pytest.fixture
async def wire_to() -> AsyncIterator[Callable[[str], Any]]:
    wires: list[Wire] = []

    async def connect(host: str) -> Wire:
        wires.append(await Wire.to(host))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.transport.close()


def power(*boards: int, sequence: int = 1) -> Request:
    return Request(0, Command.POWER, sequence, *power_arguments(boards, on=True))


async def test_frames_answer_at_their_own_addresses_and_readouts_tell_them_apart(
    wire_to: Callable[[str], Any],
) -> None:
    first, second = loopback_hosts(2)
    fpga, address = stop_register(Links.west)
    async with Simulator({first: range(3), second: range(3)}) as simulator:
        one, two = await wire_to(first), await wire_to(second)
        assert (await one.ask(power(1))).code == ResponseCode.OK
        assert (await two.ask(power(0, 2))).code == ResponseCode.OK
        await two.ask(Request(2, Command.FPGA_WRITE, 2, address, 4, fpga, b"\1\0\0\0"))
        assert (await one.ask(Request(3, Command.VERSION, 3))).code == ResponseCode.ROUTE
    assert simulator.boards_on() == {(first, 1), (second, 0), (second, 2)}
    assert simulator.stopped_links() == {(second, 2, Links.west)}
    assert simulator.power_cycles()[second, 2] == (1, 0)
    assert simulator.counters.commands == {"POWER": 2, "FPGA_WRITE": 1}
    assert (simulator.counters.datagrams, simulator.counters.errors, simulator.counters.overlaps) == (4, 1, 0)


async def test_an_answer_comes_when_it_is_due(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(3)}, timings=SimulatedTimings(power_on=0.05)):
        wire = await wire_to(host)
        began = time.monotonic()
        await wire.ask(power(0))
        assert 0.045 <= time.monotonic() - began < PATIENCE


async def test_two_commands_sent_at_once_are_found_out(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(3)}) as simulator:
        wire = await wire_to(host)
        wire.send(Request(0, Command.VERSION, 1))
        wire.send(Request(1, Command.VERSION, 2))
        await wire.answer()
        await wire.answer()
    assert simulator.counters.overlaps == 1


async def test_commands_sent_one_after_another_do_not_overlap(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(3)}) as simulator:
        wire = await wire_to(host)
        for sequence in range(50):
            await wire.ask(Request(0, Command.VERSION, sequence))
    assert (simulator.counters.overlaps, simulator.counters.repeats) == (0, 0)


async def test_a_network_that_duplicates_answers_everything_several_times(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    async with Simulator({host: range(3)}, faults=Faults(network=Network(duplicate=1.0))) as simulator:
        wire = await wire_to(host)
        wire.send(power(1))
        answers = [await wire.answer() for _ in range(4)]
    assert answers == [Response(ResponseCode.OK, 1)] * 4
    assert simulator.power_cycles()[host, 1] == (1, 0)
    assert simulator.counters.power_repeats == 0


async def test_the_network_of_one_frame_can_be_cut(wire_to: Callable[[str], Any]) -> None:
    cut, sound = loopback_hosts(2)
    async with Simulator({cut: range(3), sound: range(3)}) as simulator:
        simulator.networks[cut] = Network(loss=1.0)
        one, two = await wire_to(cut), await wire_to(sound)
        one.send(power(1))
        await two.ask(power(1))
        assert one.answers.empty()
    assert simulator.boards_on() == {(sound, 1)}


async def test_silence_is_timed_by_the_simulators_clock(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    clock = Clock()
    faults = Faults(bmp=(BmpFault(host=host, silent_until=60.0),))
    async with Simulator({host: range(3)}, faults=faults, clock=clock) as simulator:
        wire = await wire_to(host)
        wire.send(power(1, sequence=1))
        await clock.next_reading()
        clock.now += 60.0
        assert await wire.ask(power(2, sequence=2)) == Response(ResponseCode.OK, 2)
    assert simulator.boards_on() == {(host, 2)}


async def test_answers_that_are_due_after_the_end_are_dropped(wire_to: Callable[[str], Any]) -> None:
    (host,) = loopback_hosts(1)
    clock = Clock()
    async with Simulator({host: range(3)}, timings=SimulatedTimings(command=0.02), clock=clock):
        wire = await wire_to(host)
        wire.send(power(1))
        await clock.next_reading()
    async with Simulator({host: range(3)}):
        assert (await wire.ask(power(1, sequence=2))).sequence == 2


async def test_the_hardware_of_a_configuration_is_that_of_its_machines() -> None:
    first, second = loopback_hosts(2)
    boards = {(0, 0, 0): (0, 0, 1), (0, 0, 1): (0, 0, 2), (0, 0, 2): (0, 1, 0)}
    machine = Machine(
        "three",
        width=1,
        height=1,
        board_locations=boards,
        bmp_ips={(0, 0): first, (0, 1): second},
        spinnaker_ips={(x, y, z): f"127.0.0.{z + 1}" for x, y, z in boards},
    )
    simulator = Simulator.of_configuration(Configuration(machines=[machine]))
    assert {host: set(frame.boards) for host, frame in simulator.frames.items()} == {first: {0, 1, 2}, second: {0}}


@pytest.mark.parametrize("host", ["10.11.193.0", "192.168.240.0", "bmp.example.org", "0.0.0.0"])
async def test_only_loopback_addresses_are_simulated(host: str) -> None:
    with pytest.raises(SimulatorError, match=f"BMP at {host}: only loopback addresses, 127"):
        async with Simulator({host: range(3)}):
            pass


async def test_an_address_that_is_taken_is_named_and_nothing_stays_bound() -> None:
    free, taken = loopback_hosts(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((taken, SCP_PORT))
        with pytest.raises(SimulatorError, match=f"cannot listen on {taken}:17893: Address already in use"):
            async with Simulator({free: range(3), taken: range(3)}):
                pass
    async with Simulator({free: range(3), taken: range(3)}) as simulator:
        assert set(simulator.frames) == {free, taken}


def test_faults_of_hardware_that_there_is_not_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"the BMP 127\.0\.0\.2; there are 127\.0\.0\.1"):
        Simulator({"127.0.0.1": range(3)}, faults=Faults(bmp=(BmpFault(host="127.0.0.2"),)))


async def test_the_largest_machine_is_simulated_within_half_a_second() -> None:
    hosts = loopback_hosts(50)
    began = time.process_time()  # what other programs take of the computer is not to count
    async with Simulator(dict.fromkeys(hosts, range(24))) as simulator:
        taken = time.process_time() - began
    assert sum(len(frame.boards) for frame in simulator.frames.values()) == 1200
    assert taken < 0.5


def test_loopback_hosts_are_never_given_twice_and_skip_those_that_are_taken() -> None:
    hosts = loopback_hosts(20) + loopback_hosts(20)
    assert len(set(hosts)) == 40
    assert all(host.startswith("127.") for host in hosts)
