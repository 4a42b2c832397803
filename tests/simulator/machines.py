"""Booted machines without sockets, and clients of them that speak in bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from itertools import count

from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.links import Links
from spalloc_server.simulator import datagrams
from spalloc_server.simulator.boot import HEADER, BootReceiver, Image
from spalloc_server.simulator.fast_data import Outgoing
from spalloc_server.simulator.flood import flood
from spalloc_server.simulator.site import Site
from spalloc_server.simulator.system import System

__all__ = ["CLIENT", "Client", "Clock", "an_image", "boot_datagrams", "booted", "machine", "sites"]

CLIENT = ("127.0.0.1", 40000)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def an_image(version: str = "4.0.0", blocks: int = 30) -> bytes:
    """An image of so many blocks, the last of them shorter, that says it is SCAMP of this version."""
    content = bytearray(1024 * (blocks - 1) + 172)
    content[384:512] = bytes(range(128))
    struct.pack_into("<I", content, 384 + 0x1C, 0x5F000000)
    content[2000:2008] = bytes.fromhex("0001ffff60000000")
    text = b"SC&MP/SpiNNaker\0" + version.encode() + b"\0"
    content[2008 : 2008 + len(text)] = text
    return bytes(content)


def boot_datagrams(content: bytes | None = None) -> list[bytes]:
    """What a client sends to boot a board with an image, a multiple of 4 bytes long."""
    content = an_image() if content is None else content
    blocks = [content[start : start + 1024] for start in range(0, len(content), 1024)]
    datagrams = [HEADER.pack(1, 1, 0, 0, len(blocks) - 1)]
    for number, block in enumerate(blocks):
        words = array("I", block)
        words.byteswap()
        datagrams.append(HEADER.pack(1, 3, 0xFF00 | number, 0, 0) + words.tobytes())
    return [*datagrams, HEADER.pack(1, 5, 1, 0, 0)]


def booted(content: bytes | None = None) -> Image:
    """What a board makes of an image."""
    receiver = BootReceiver()
    *_, last = [receiver.receive(datagram) for datagram in boot_datagrams(content)]
    assert isinstance(last, Image)
    return last


def sites(boards: Iterable[Board], width: int, height: int, *, closed: bool = False) -> dict[Board, Site]:
    """Boards of a torus of triads; `closed`, without the links over its edges. Their addresses are 127.77.0.1 on."""
    found = {board: Site(f"127.77.0.{n + 1}", "127.77.1.0", n) for n, board in enumerate(sorted(boards))}
    for board, site in found.items():
        for link in Links:
            x, y, z, wrapped = board_down_link(*board, link, width, height)
            if (x, y, z) in found and not (closed and wrapped):
                site.neighbours[link] = found[x, y, z]
    return found


def machine(
    boards: Iterable[Board] = ((0, 0, 0),),
    width: int = 1,
    height: int = 1,
    *,
    closed: bool = True,
    clock: Clock | None = None,
    places: dict[Board, Site] | None = None,
) -> System:
    """A machine that was booted at its first board."""
    places = places or sites(boards, width, height, closed=closed)
    numbering = flood(
        places[min(places)],
        lambda site, link: site.neighbours.get(link),
        dead_chips=lambda site: site.chip_faults.dead_chips,
        dead_links=lambda site: site.chip_faults.dead_links,
    )
    return System(numbering, booted(), clock or Clock())


class Client:
    """Sends commands to a machine through the port of one of its boards."""

    def __init__(self, system: System, board: int = 0) -> None:
        self.system = system
        self.board = board
        self.sent: list[Outgoing] = []
        self._sequence = count(1)

    def raw(self, datagram: bytes) -> bytes | None:
        """The answer to a datagram."""
        reply, outgoing = datagrams.handle(self.system, self.board, datagram, CLIENT)
        self.sent += outgoing
        return reply

    def ask(
        self,
        command: int,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        data: bytes = b"",
        *,
        chip: tuple[int, int] = (255, 255),
        core: int = 0,
        port: int = 0,
    ) -> tuple[int, bytes]:
        """The code and payload of the answer to a command."""
        x, y = chip
        sequence = next(self._sequence)
        head = struct.pack(
            "<2x8B2H3I", 0x87, 255, port << 5 | core, 255, y, x, 0, 0, command, sequence, arg1, arg2, arg3
        )
        reply = self.raw(head + data)
        assert reply is not None
        *_, code, echoed = struct.unpack_from("<2x8B2H", reply)
        assert echoed == sequence
        return code, reply[14:]

    def done(
        self,
        command: int,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        data: bytes = b"",
        *,
        chip: tuple[int, int] = (255, 255),
        core: int = 0,
        port: int = 0,
    ) -> bytes:
        """The payload of the answer to a command that is done."""
        code, payload = self.ask(command, arg1, arg2, arg3, data, chip=chip, core=core, port=port)
        assert code == 0x80, hex(code)
        return payload

    def tell(self, words: Iterable[int], data: bytes = b"", *, chip: tuple[int, int], core: int, port: int) -> None:
        """Send plain words, to which there is no answer."""
        words = list(words)
        x, y = chip
        head = struct.pack("<2x8B", 0x07, 255, port << 5 | core, 255, y, x, 0, 0)
        assert self.raw(head + struct.pack(f"<{len(words)}I", *words) + data) is None

    def word(self, address: int, *, chip: tuple[int, int] = (255, 255)) -> int:
        """The word at an address."""
        return int.from_bytes(self.done(2, address, 4, 2, chip=chip), "little")
