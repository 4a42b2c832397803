"""Random sequences of commands agree with a model of a machine that is a few dictionaries."""

from __future__ import annotations

import struct
from collections import Counter

from hypothesis import assume, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spalloc_server.simulator.applications import Signal, State
from spalloc_server.simulator.chip import LARGEST_BLOCK
from tests.simulator.machines import CLIENT, Client, Clock, machine

TRIAD = [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
READ, WRITE, FILL, COUNT, LINK_READ, AR, NNP, SIG, IPTAG, ALLOC = 2, 3, 5, 15, 17, 19, 20, 22, 26, 28
WAIT = 1 << 18
ETHERNET = ((0, 0), (8, 4), (4, 8))
CHIPS = tuple((ex + x, ey + y) for ex, ey in ETHERNET for x in range(8) for y in range(8) if -3 <= x - y <= 4)
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1))

chips = st.sampled_from([(0, 0), (1, 0), (1, 1), (7, 7), (8, 7), (8, 4), (4, 8), (7, 14), (15, 11)])
addresses = st.integers(0, 600).map(lambda offset: 0x60001000 + 700 + offset)
"""Around the border of two pages."""
APPS = st.integers(16, 18)


def board_of(chip: tuple[int, int]) -> tuple[int, int]:
    return next((ex, ey) for ex, ey in ETHERNET if (chip[0] - ex, chip[1] - ey) in LOCAL)


LOCAL = {(x, y) for x in range(8) for y in range(8) if -3 <= x - y <= 4}


class Machine(RuleBasedStateMachine):
    """A triad that does not wrap, through all three ports."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        system = machine(TRIAD, clock=self.clock)
        self.ports = [Client(system, board) for board in range(3)]
        self.memory: dict[tuple[tuple[int, int], int], int] = {}
        self.blocks: dict[tuple[int, int], dict[int, tuple[int, int, int]]] = {chip: {} for chip in CHIPS}
        self.tags: dict[tuple[tuple[int, int], int], tuple[bool, str, int]] = {}
        self.apps: dict[tuple[tuple[int, int], int], tuple[int, State]] = {}

    def ask(self, port: int, command: int, *arguments: int, data: bytes = b"", chip: tuple[int, int]) -> bytes:
        arg1, arg2, arg3 = (*arguments, 0, 0, 0)[:3]
        return self.ports[port].done(command, arg1, arg2, arg3, data, chip=chip)

    ports_of_boards = st.integers(0, 2)

    # ---------------------------------------------------------------- memory and P2P

    @rule(port=ports_of_boards, chip=chips, address=addresses, data=st.binary(min_size=1, max_size=256))
    def write(self, port: int, chip: tuple[int, int], address: int, data: bytes) -> None:
        alias = 0x10000000 * (len(data) % 2)
        self.ask(port, WRITE, address + alias, len(data), data=data, chip=chip)
        self.memory.update({(chip, address + n): byte for n, byte in enumerate(data)})

    @rule(port=ports_of_boards, chip=chips, address=addresses, words=st.integers(1, 40), word=st.integers(0, 2**32 - 1))
    def fill(self, port: int, chip: tuple[int, int], address: int, words: int, word: int) -> None:
        start = address & ~3
        self.ask(port, FILL, start, word, 4 * words, chip=chip)
        content = word.to_bytes(4, "little") * words
        self.memory.update({(chip, start + n): byte for n, byte in enumerate(content)})

    @rule(port=ports_of_boards, chip=chips, address=addresses, length=st.integers(1, 256))
    def read(self, port: int, chip: tuple[int, int], address: int, length: int) -> None:
        expected = bytes(self.memory.get((chip, address + n), 0) for n in range(length))
        assert self.ask(port, READ, address, length, chip=chip) == expected

    @rule(port=ports_of_boards, chip=chips, link=st.integers(0, 5), address=addresses)
    def read_the_neighbour(self, port: int, chip: tuple[int, int], link: int, address: int) -> None:
        there = (chip[0] + STEPS[link][0], chip[1] + STEPS[link][1])
        code, data = self.ports[port].ask(LINK_READ, address, 64, link, chip=chip)
        if there in CHIPS:
            assert data == bytes(self.memory.get((there, address + n), 0) for n in range(64))
        else:
            assert code == 0x86

    @rule(port=ports_of_boards, start=st.sampled_from(CHIPS), end=st.sampled_from(CHIPS))
    def follow_p2p_routes(self, port: int, start: tuple[int, int], end: tuple[int, int]) -> None:
        x, y = end
        here, steps = start, 0
        while True:
            word = struct.unpack("<I", self.ask(port, READ, 0xE1010000 + 128 * x + 4 * (y // 8), 4, chip=here))[0]
            hop = word >> 3 * (y % 8) & 7
            if hop == 7:
                break
            here = (here[0] + STEPS[hop][0], here[1] + STEPS[hop][1])
            steps += 1
            assert here in CHIPS
            assert steps < 48
        assert here == end

    # ---------------------------------------------------------------- the heap

    @rule(chip=chips, size=st.integers(1, 5000), app=APPS, tag=st.sampled_from([0, 2, 3]), retry=st.booleans())
    def allocate(self, chip: tuple[int, int], size: int, app: int, tag: int, retry: bool) -> None:
        (address,) = struct.unpack("<I", self.ask(0, ALLOC, (4 * retry) << 16 | app << 8, size, tag, chip=chip))
        blocks = self.blocks[chip]
        same = [at for at, (_, *whose) in blocks.items() if tag and whose == [app, tag]]
        if same:
            assert address == (same[0] if retry else 0)
            return
        assert address % 4 == 0
        assert 0x60000000 < address < address + size < 0x67800000
        assert all(address + size <= at or at + other <= address for at, (other, _, _) in blocks.items())
        blocks[address] = (size, app, tag)

    @rule(chip=chips, data=st.data())
    def free(self, chip: tuple[int, int], data: st.DataObject) -> None:
        assume(self.blocks[chip])
        address = data.draw(st.sampled_from(sorted(self.blocks[chip])))
        self.ask(0, ALLOC, 1, address, chip=chip)
        del self.blocks[chip][address]

    @rule(chip=chips, app=APPS)
    def free_app(self, chip: tuple[int, int], app: int) -> None:
        kept = {at: block for at, block in self.blocks[chip].items() if block[1] != app}
        (count,) = struct.unpack("<I", self.ask(0, ALLOC, app << 8 | 2, chip=chip))
        assert count == len(self.blocks[chip]) - len(kept)
        self.blocks[chip] = kept
        if not kept:
            assert struct.unpack_from("<I", self.ask(0, 31, chip=chip), 4) == (LARGEST_BLOCK,)

    # ---------------------------------------------------------------- tags

    @rule(board=st.sampled_from(ETHERNET), port=ports_of_boards, tag=st.integers(0, 23), strip=st.booleans())
    def set_tag_to_the_sender(self, board: tuple[int, int], port: int, tag: int, strip: bool) -> None:
        self.ask(port, IPTAG, 1 << 16 | 1 << 30 | strip << 28 | tag, chip=board)
        self.tags[board, tag] = (strip, *CLIENT)

    @rule(board=st.sampled_from(ETHERNET), tag=st.integers(0, 23), to=st.integers(1, 65535))
    def set_tag(self, board: tuple[int, int], tag: int, to: int) -> None:
        self.ask(0, IPTAG, 1 << 16 | tag, to, 0x0100007F, chip=board)
        self.tags[board, tag] = (False, "127.0.0.1", to)

    @rule(board=st.sampled_from(ETHERNET), tag=st.integers(0, 23))
    def clear_tag(self, board: tuple[int, int], tag: int) -> None:
        self.ask(1, IPTAG, 3 << 16 | tag, chip=board)
        self.tags.pop((board, tag), None)

    @rule(board=st.sampled_from(ETHERNET), port=ports_of_boards, tag=st.integers(0, 23))
    def get_tag(self, board: tuple[int, int], port: int, tag: int) -> None:
        payload = self.ask(port, IPTAG, 2 << 16 | tag, 1, chip=board)
        address, to, flags = ".".join(map(str, payload[:4])), *struct.unpack("<H2xH", payload[10:16])
        if (board, tag) in self.tags:
            assert (bool(flags & 0x100), address, to) == self.tags[board, tag]
            assert flags & 0x8000
        else:
            assert payload == bytes(25)

    # ---------------------------------------------------------------- applications and signals

    @rule(chip=chips, app=APPS, cores=st.sets(st.integers(1, 17), max_size=4))
    def load(self, chip: tuple[int, int], app: int, cores: set[int]) -> None:
        self.ask(0, AR, app << 24 | WAIT | sum(1 << core for core in cores), chip=chip)
        self.apps.update({(chip, core): (app, State.READY) for core in cores})

    @rule(port=ports_of_boards, app=APPS, mask=st.sampled_from([0xFF, 0xFE, 0]))
    def start(self, port: int, app: int, mask: int) -> None:
        self.ask(port, SIG, 0, Signal.START << 16 | mask << 8 | app, 0xFFFF, chip=(255, 255))
        for place, (each, state) in self.apps.items():
            if each & mask == app & mask and state == State.READY:
                self.apps[place] = (each, State.RUNNING)

    @rule(app=APPS)
    def exit(self, app: int) -> None:
        self.ask(0, SIG, 0, Signal.EXIT << 16 | 0xFF << 8 | app, 0xFFFF, chip=(255, 255))
        for place, (each, _) in self.apps.items():
            if each == app:
                self.apps[place] = (each, State.FINISHED)

    @rule(app=APPS)
    def stop(self, app: int) -> None:
        self.ask(2, NNP, 0x003F0000, 5 << 28 | 2 << 16 | 0xFF00 | app, 0x80003F00, chip=(255, 255))
        self.apps = {place: each for place, each in self.apps.items() if each[0] != app}
        for chip, blocks in self.blocks.items():
            self.blocks[chip] = {at: block for at, block in blocks.items() if block[1] != app}

    @rule(board=st.sampled_from(ETHERNET), app=APPS, state=st.sampled_from(State))
    def count(self, board: tuple[int, int], app: int, state: State) -> None:
        (found,) = struct.unpack("<I", self.ask(0, COUNT, app, state, chip=board))
        assert found == sum(each == (app, state) and board_of(chip) == board for (chip, _), each in self.apps.items())

    @invariant()
    def older_clients_count_the_same(self) -> None:
        expected = Counter(self.apps.values())
        for app, state in {(16, State.READY), (17, State.RUNNING), *expected}:
            word = 1 << 22 | 2 << 20 | state << 16 | 0xFF << 8 | app
            (found,) = struct.unpack("<I", self.ask(1, SIG, 1, word, 0xFFFF, chip=(255, 255)))
            assert found == expected[app, state]


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=40)
