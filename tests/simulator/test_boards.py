"""Boards on real loopback sockets: power, boots that follow the links, faults, bad input, and the files they need."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board
from spalloc_server.hardware.scp import SCP_PORT, Command, Request, power_arguments, stop_register
from spalloc_server.links import Links
from spalloc_server.simulator.boards import files_for
from spalloc_server.simulator.boot import BOOT_PORT
from spalloc_server.simulator.faults import BoardFault, ChipFault, CoreFault, Faults, Network, read_faults
from spalloc_server.simulator.simulator import Simulator, SimulatorError
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE
from tests.simulator.machines import boot_datagrams

TRIAD = [(0, 0, 0), (0, 0, 1), (0, 0, 2)]


class Place:
    """A machine of triads in one frame, simulated with its boards, and a driver of its BMP."""

    def __init__(self, width: int = 1, height: int = 1, faults: Faults | None = None) -> None:
        boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
        self.bmp, *hosts = loopback_hosts(1 + len(boards))
        self.hosts = dict(zip(boards, hosts, strict=True))
        self.machine = Machine(
            "m",
            board_locations={board: (0, 0, number) for number, board in enumerate(boards)},
            bmp_ips={(0, 0): self.bmp},
            spinnaker_ips=self.hosts,
        )
        self.reports: list[str] = []
        self.simulator = Simulator.of_configuration(
            Configuration([self.machine]), faults=faults, boards=True, report=self.reports.append
        )

    async def power(self, *boards: Board, on: bool = True) -> None:
        numbers = tuple(self.machine.board_locations[board][2] for board in boards)
        await self._tell(Command.POWER, *power_arguments(numbers, on=on))

    async def stop_link(self, board: Board, link: Links) -> None:
        fpga, address = stop_register(link)
        number = self.machine.board_locations[board][2]
        await self._tell(Command.FPGA_WRITE, address, 4, fpga, (1).to_bytes(4, "little"), board=number)

    async def _tell(
        self, command: Command, arg1: int, arg2: int, arg3: int = 0, data: bytes = b"", *, board: int = 0
    ) -> None:
        request = Request(board, command, 1, arg1, arg2, arg3, data)
        assert await asked(self.bmp, request.encode()) is not None

    async def boot(self, board: Board, datagrams: list[bytes] | None = None) -> None:
        for datagram in boot_datagrams() if datagrams is None else datagrams:
            told(self.hosts[board], BOOT_PORT, datagram)
        await asyncio.sleep(0)

    async def size(self, board: Board) -> tuple[int, int] | None:
        """(width, height) of the machine that a board is part of; None where it does not answer at once."""
        reply = await asked(self.hosts[board], scp(2, 0xF5007F02, 2), seconds=0.3)
        return None if reply is None else (reply[15], reply[14])

    async def booted(self, board: Board) -> tuple[int, int]:
        async with asyncio.timeout(PATIENCE):
            while (size := await self.size(board)) is None:
                pass
        return size


def scp(command: int, arg1: int = 0, arg2: int = 0, arg3: int = 0, data: bytes = b"", sequence: int = 7) -> bytes:
    return struct.pack("<2x8B2H3I", 0x87, 255, 0, 255, 255, 255, 0, 0, command, sequence, arg1, arg2, arg3) + data


def told(host: str, port: int, datagram: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(datagram, (host, port))


async def asked(host: str, datagram: bytes, *, seconds: float = PATIENCE) -> bytes | None:
    """The answer to a datagram; None where there is none within `seconds`, or nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((host, SCP_PORT))
        try:
            async with asyncio.timeout(seconds):
                client.send(datagram)
                return await asyncio.get_running_loop().sock_recv(client, 512)
        except (TimeoutError, ConnectionRefusedError):
            return None


@asynccontextmanager
async def simulated(width: int = 1, height: int = 1, faults: Faults | None = None) -> AsyncIterator[Place]:
    place = Place(width, height, faults)
    async with place.simulator:
        yield place


async def test_a_board_is_silent_until_it_is_on_and_booted_and_loses_all_when_it_is_switched_off() -> None:
    async with simulated() as place:
        boards = place.simulator.boards
        assert (boards.open_sockets(), await place.size((0, 0, 0))) == (0, None)
        await place.boot((0, 0, 0))
        await place.power((0, 0, 0))
        assert (boards.open_sockets(), await place.size((0, 0, 0))) == (2, None)
        await place.boot((0, 0, 0))
        assert await place.booted((0, 0, 0)) == (8, 8)
        host = place.hosts[0, 0, 0]
        assert await asked(host, scp(3, 0x60000000, 4, 2, b"kept")) is not None
        await place.boot((0, 0, 0))
        reply = await asked(host, scp(2, 0x60000000, 4))
        assert reply is not None
        assert reply[14:] == b"kept", "a board that runs takes no image"
        await place.power((0, 0, 0))
        assert (boards.open_sockets(), await place.size((0, 0, 0))) == (2, None)
        await place.boot((0, 0, 0))
        await place.booted((0, 0, 0))
        reply = await asked(host, scp(2, 0x60000000, 4))
        assert reply is not None
        assert reply[14:] == bytes(4)
        await place.power((0, 0, 0), on=False)
        assert (boards.open_sockets(), await place.size((0, 0, 0))) == (0, None)
    assert boards.counters.images == 2


async def test_a_boot_goes_where_links_run_both_ways() -> None:
    async with simulated() as place:
        await place.power(*TRIAD)
        for link in Links:
            await place.stop_link((0, 0, 1), link)
        await place.boot((0, 0, 0))
        assert await place.booted((0, 0, 0)) not in {(8, 8), (16, 16)}
        assert await place.booted((0, 0, 2)) == await place.booted((0, 0, 0))
        assert await place.size((0, 0, 1)) is None
        await place.boot((0, 0, 1))
        assert await place.booted((0, 0, 1)) == (8, 8)
        assert len(place.simulator.boards.systems()) == 2


async def test_the_size_shows_whether_the_edges_are_closed() -> None:
    async with simulated() as place:
        await place.power(*TRIAD)
        await place.boot((0, 0, 0))
        assert await place.booted((0, 0, 0)) == (12, 12)
        await place.power(*TRIAD)
        for board, link in closed_edges():
            await place.stop_link(board, link)
        await place.boot((0, 0, 0))
        assert await place.booted((0, 0, 0)) == (16, 16)


def closed_edges() -> list[tuple[Board, Links]]:
    """The links over the edges of a triad, seen from one end each; the other end runs, and that does not help."""
    from spalloc_server.coordinates import board_down_link

    return [
        (board, link)
        for board in TRIAD
        for link in (Links.east, Links.north_east, Links.north)
        if board_down_link(*board, link, 1, 1)[3]
    ]


async def test_two_clients_at_one_board_are_both_answered() -> None:
    async with simulated() as place:
        await place.power((0, 0, 0))
        await place.boot((0, 0, 0))
        await place.booted((0, 0, 0))
        host = place.hosts[0, 0, 0]
        answers = await asyncio.gather(*(asked(host, scp(0, sequence=n)) for n in range(20)))
        assert [struct.unpack_from("<H", answer or b"", 12)[0] for answer in answers] == list(range(20))


async def test_what_makes_no_sense_is_dropped_and_counted() -> None:
    async with simulated() as place:
        await place.power((0, 0, 0))
        start, *blocks, end = boot_datagrams()
        for spoilt in ([start, *blocks[1:], end], [start, blocks[0], *blocks, end], [b"", bytes(40)]):
            await place.boot((0, 0, 0), spoilt)
        assert await place.size((0, 0, 0)) is None
        counters = place.simulator.boards.counters
        assert (counters.images, counters.spoilt_images, counters.malformed) == (0, 2, 2)
        await place.boot((0, 0, 0))
        await place.booted((0, 0, 0))
        for datagram in (b"", b"\0" * 9, bytes(300), b"\xff" * 40):
            assert await asked(place.hosts[0, 0, 0], datagram, seconds=0.05) is None
        assert counters.malformed == 6
        assert await place.booted((0, 0, 0)) == (8, 8)


async def test_a_tag_for_datagrams_that_come_in_opens_a_port_and_closes_it() -> None:
    async with simulated() as place:
        await place.power((0, 0, 0))
        await place.boot((0, 0, 0))
        await place.booted((0, 0, 0))
        host, boards = place.hosts[0, 0, 0], place.simulator.boards
        await asked(host, scp(26, 1 << 16 | 3 << 28 | 4 << 8 | 2, 12345))
        assert boards.open_sockets() == 3
        told(host, 12345, b"spikes")
        async with asyncio.timeout(PATIENCE):
            while not boards.counters.injected:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)
        await asked(host, scp(26, 3 << 16 | 2))
        assert boards.open_sockets() == 2


async def test_faults_of_the_file_are_seen() -> None:
    faults = Faults(
        board=(BoardFault(board=2, never_boots=True),),
        chip=(ChipFault(board=0, x=3, y=3, dead=True), ChipFault(x=0, y=1, dead_cores=(7,), dead_links=("north",))),
        core=(CoreFault(board=1, x=2, y=2, core=4, error="NULL", text="why"),),
    )
    async with simulated(faults=faults) as place:
        await place.power(*TRIAD)
        await place.boot((0, 0, 2))
        await place.boot((0, 0, 0))
        await place.booted((0, 0, 0))
        assert await place.size((0, 0, 2)) is None
        (system,) = place.simulator.boards.systems()
        assert len(system.sites) == 2
        dead, hurt = system.chip_at(3, 3), system.chip_at(0, 1)
        assert dead is None
        assert hurt is not None
        assert (hurt.cores, system.links(hurt.number) >> 2 & 1) == (17, 0)
        there = next(site for site in system.sites if site.host == place.hosts[0, 0, 1])
        (failure,) = there.chip_faults.failures.values()
        assert (failure.code, failure.text) == (16, "why")


async def test_a_network_that_loses_datagrams_loses_some_answers() -> None:
    async with simulated(faults=Faults(seed=3, board_network=Network(loss=0.02))) as place:
        await place.power((0, 0, 0))
        async with asyncio.timeout(PATIENCE):
            while await place.size((0, 0, 0)) is None:
                await place.boot((0, 0, 0))
        host = place.hosts[0, 0, 0]
        answers = [await asked(host, scp(0, sequence=n), seconds=0.1) for n in range(200)]
    assert 1 <= answers.count(None) <= 40


async def test_a_network_that_doubles_datagrams_spoils_images() -> None:
    async with simulated(faults=Faults(board_network=Network(duplicate=1.0))) as place:
        await place.power((0, 0, 0))
        await place.boot((0, 0, 0))
        assert await place.size((0, 0, 0)) is None
        assert place.simulator.boards.counters.spoilt_images == 2, "the end came twice, too"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[chip]]\nx = 0\ny = 0\ndead = true", "network plug"),
        ("[[chip]]\nx = 7\ny = 0", "no chip"),
        ("[[chip]]\nx = 1\ny = 1\ndead_cores = [1,2,3,4,5,6,7,8,9,10,11,12,13,14]", "at least 5 cores"),
        ("[[core]]\nx = 1\ny = 1\ncore = 0", "1"),
        ('[[core]]\nx = 1\ny = 1\ncore = 1\nerror = "TEA"', "TEA"),
    ],
)
def test_faults_that_cannot_be_are_refused(tmp_path: Path, text: str, word: str) -> None:
    from spalloc_server.errors import ConfigurationError

    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=word):
        read_faults(path)


def changed(**ips: str) -> Callable[[], Simulator]:
    bmp = loopback_hosts(1)[0]
    machine = Machine.single_board("m", bmp_ip=ips.get("bmp", bmp), spinnaker_ip=ips.get("board", bmp))
    return lambda: Simulator.of_configuration(Configuration([machine]), boards=True)


@pytest.mark.parametrize(
    ("board", "word"), [("127.0.0.1", "for\nthemselves"), ("10.1.2.3", "only loopback"), (None, "two boards or BMPs")]
)
def test_boards_need_loopback_addresses_of_their_own(board: str | None, word: str) -> None:
    with pytest.raises(SimulatorError, match=word.replace("\n", " ")):
        changed(**({} if board is None else {"board": board}))()


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    assert files_for(100, others=50) == 100
    assert limits == [(1024, 4096)]
    assert files_for(1200, others=50) == 1200
    assert limits[-1] == (2514, 4096)
    assert files_for(5000, others=50) == (4096 - 50 - 64) // 2
    assert limits[-1] == (4096, 4096)


async def test_a_board_that_cannot_have_its_sockets_is_told_of() -> None:
    async with simulated() as place:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((place.hosts[0, 0, 0], BOOT_PORT))
            await place.power(*TRIAD)
        assert place.reports == [
            f"the board at {place.hosts[0, 0, 0]} cannot be simulated while it is on: Address already in use"
        ]
        assert place.simulator.boards.open_sockets() == 4
