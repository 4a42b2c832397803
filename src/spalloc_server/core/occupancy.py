"""Who has which board of a machine: the one place that says whether a board may be given.

Theory of operation. A board is *held* from the moment it is given to a job until it has been powered off, then
*rests* until its time to cool down is over, then is free. Apart from that a board may be *out of service* (dead in
the configuration, or taken out by an operator or the server): it is then not given to anybody, but if a job has it,
the job keeps it. `free` is what remains: working, in service, neither held nor resting. It is kept up to date as a
set of bits, because every placement decision reads it.

There are two answers to what the machine could serve were it empty. `could_serve` counts every board that is not dead
in the configuration: whoever fails that need not wait. `serves_now` leaves out what is out of service, which is
expected back: whoever fails only that may wait, but must not be waited for.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.ground import Ground
from spalloc_server.core.messages import Request
from spalloc_server.core.placement import place
from spalloc_server.core.topology import Topology
from spalloc_server.core.torus import Planes, Torus, count, union, without

__all__ = ["Occupancy"]

MAX_REMEMBERED_REQUESTS = 1000
"""Kinds of request of which a machine remembers whether it could serve them."""


class Occupancy:
    """The boards of one machine: its topology, and who has what of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.torus = Torus(machine.width, machine.height)
        self.holders: dict[Board, int] = {}
        """Boards held, and the job that each is held for."""
        self.resting: dict[Board, float] = {}
        """Boards that rest, and until when."""
        self.out: set[Board] = set()
        """Boards taken out of service, apart from the configuration's dead ones."""
        self.closed = False
        """Nothing is to be given for the time being."""
        self._topology: Topology | None = None
        self._whole: Topology | None = None
        self._ground: Ground | None = None
        self._could_serve: dict[tuple[object, ...], bool] = {}
        self._serves_now: dict[tuple[object, ...], bool] = {}
        self.free: Planes = self.topology.live
        """Boards that may be given, were the machine not closed."""
        self.lately: Planes = (0, 0, 0)
        """The boards whose rest has ended last, up to half of the machine: others are given first."""
        self._ends_of_rest: list[tuple[float, Board]] = []

    @property
    def topology(self) -> Topology:
        """The boards that work and are in service, and their links."""
        if self._topology is None:
            self._topology = Topology(self.torus, self.machine.dead_boards | self.out, self.machine.dead_links)
        return self._topology

    def could_serve(self, request: Request) -> bool:
        """Whether the machine as configured could serve a request if nobody had any of it."""
        if self._whole is None:
            self._whole = Topology(self.torus, self.machine.dead_boards, self.machine.dead_links)
        return self._serves(request, self._whole, self._could_serve)

    def serves_now(self, request: Request) -> bool:
        """Whether what is in service of the machine could serve a request if nobody had any of it."""
        return not self.closed and self._serves(request, self.topology, self._serves_now)

    def _serves(self, request: Request, topology: Topology, known: dict[tuple[object, ...], bool]) -> bool:
        kind = request.boards, request.kind
        if kind not in known:
            if len(known) >= MAX_REMEMBERED_REQUESTS:
                known.clear()
            known[kind] = place(request, Ground(topology, topology.live)) is not None
        return known[kind]

    def working(self) -> int:
        """How many boards work and are in service."""
        return count(self.topology.live)

    def configure(self, machine: Machine) -> bool:
        """Take over what may change of the same hardware; whether placement can come out differently now."""
        before, self.machine = self.machine, machine
        if (before.dead_boards, before.dead_links) == (machine.dead_boards, machine.dead_links):
            return False
        self._topology = self._whole = self._ground = None
        self._could_serve, self._serves_now = {}, {}
        taken = self.torus.planes({*self.holders, *self.resting})
        self.free = without(self.topology.live, taken)
        return True

    def set_out_of_service(self, board: Board, out: bool) -> bool:
        """Take a board out of service or put it back; whether that is a change."""
        if out == (board in self.out):
            return False
        if out:
            self.out.add(board)
        else:
            self.out.remove(board)
        self._topology = self._ground = None
        self._serves_now = {}
        self.free = without(self.free, self.torus.planes([board]))
        if board not in self.holders and board not in self.resting:
            self._set_free([board])
        return True

    @property
    def ground(self) -> Ground:
        """The free boards, as placement takes them."""
        if self._ground is None or self._ground.free != self.free:
            self._ground = self.ground_of(self.free)
        return self._ground

    def ground_of(self, boards: Planes) -> Ground:
        """Some of the free boards, likewise."""
        return Ground(self.topology, boards, self.lately)

    def hold(self, boards: Collection[Board], job_id: int) -> None:
        """Give boards to a job."""
        for board in boards:
            assert board not in self.holders, f"board {board} of {self.machine.name} is held already"
            self.holders[board] = job_id
            self.resting.pop(board, None)
        self.free = without(self.free, self.torus.planes(boards))

    def release(self, boards: Collection[Board], rest_until: float | None) -> None:
        """Boards are powered off: they rest until then, and are free from then on."""
        for board in boards:
            self.holders.pop(board, None)
            if rest_until is not None:
                self.resting[board] = rest_until
                heapq.heappush(self._ends_of_rest, (rest_until, board))
        if rest_until is None:
            self._set_free(boards)

    def wake(self, now: float) -> bool:
        """End the rest of boards whose time has come; whether there were any."""
        woken = []
        while self._ends_of_rest and self._ends_of_rest[0][0] <= now:
            until, board = heapq.heappop(self._ends_of_rest)
            if self.resting.get(board) == until:
                del self.resting[board]
                woken.append(board)
        if not woken:
            return False
        self._set_free(woken)
        self._note_used_lately(woken)
        return True

    def next_wake(self) -> float | None:
        """When the first rest ends, as far as known; None while no board rests."""
        while self._ends_of_rest and self.resting.get(self._ends_of_rest[0][1]) != self._ends_of_rest[0][0]:
            heapq.heappop(self._ends_of_rest)
        return self._ends_of_rest[0][0] if self._ends_of_rest else None

    def check(self) -> None:
        """Assert that what is kept agrees with itself."""
        assert not self.holders.keys() & self.resting.keys(), "a board is both held and resting"
        unfree = self.torus.planes({*self.holders, *self.resting})
        expected = tuple(live & ~taken for live, taken in zip(self.topology.live, unfree, strict=True))
        assert self.free == expected, f"free boards of {self.machine.name} are not those that nobody has"
        assert self.resting.items() <= {(board, until) for until, board in self._ends_of_rest}

    def _note_used_lately(self, boards: Collection[Board]) -> None:
        # In two ages, which costs nothing to keep: when half of the boards are young, those before the last are old
        young = self.torus.planes(boards)
        more = union(self.lately, young)
        self.lately = more if 2 * count(more) <= count(self.topology.live) else young
        self._ground = None

    def _set_free(self, boards: Iterable[Board]) -> None:
        """Nobody has these any more: those that are in service may be given."""
        a, b, c = self.torus.planes(boards)
        live = self.topology.live
        self.free = union(self.free, (a & live[0], b & live[1], c & live[2]))
