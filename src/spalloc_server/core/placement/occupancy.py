"""Which job has which board of a machine, and whether a board may be given.

Theory of operation. A board is *held* from the moment it is given to a job until it has been powered off, then
*rests* until its time to cool down is over, then is free. Apart from that a board may be *out of service* (dead in
the configuration, or taken out by an operator or the server): it is then not given to anybody, but if a job has it,
the job keeps it. `free` is what remains: working, in service, neither held nor resting. It is kept up to date as a
set of bits, because every placement decision reads it.

There are two answers to what the machine could serve were it empty. `could_serve` counts every board that is not dead
in the configuration: a job that it cannot serve need not wait. `serves_now` leaves out what is out of service, which is
expected back: a job that fails only that may wait, but gets no reservation.

Frames fail and come back all at once, with hundreds of boards. So taking boards out of service costs only as much as
there are of them: the topology, which is costly, is made when it is next asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from copy import copy
from fractions import Fraction

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, WrapAround
from spalloc_server.core.model import Allocation, Request
from spalloc_server.core.placement.effort import Effort, Work
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.search import Place, nearest_size, place
from spalloc_server.core.placement.span import own_stopped_links, wraps_of
from spalloc_server.core.placement.topology import DEFAULT_MIN_FILL, Topology
from spalloc_server.core.placement.torus import NOTHING, Planes, Torus, count, overlap, union, without

__all__ = ["Occupancy"]

MAX_REMEMBERED_REQUESTS = 10_000
"""Kinds of request for which a machine remembers whether it could serve them."""

REMEMBERED_FREE_BOARDS = 4
"""Sets of free boards for which a machine remembers what searches have worked out."""


class Occupancy:
    """The boards of one machine: its topology, and who has what of it.

    Args:
        machine: what the configuration says.
        min_fill: the least share of its rectangle that a job's boards fill.
        work: where searches for places are counted.
    """

    def __init__(self, machine: Machine, min_fill: Fraction = DEFAULT_MIN_FILL, work: Work | None = None) -> None:
        self.machine = machine
        self.min_fill = min_fill
        self.work = work or Work()
        self.torus = Torus(machine.width, machine.height)
        self.holders: dict[Board, int] = {}
        """Boards held, and the job that each is held for."""
        self.resting: dict[Board, float] = {}
        """Boards that rest, and until when."""
        self.out: set[Board] = set()
        """Boards taken out of service, apart from the configuration's dead ones."""
        self.forked = False
        """Nothing is given in earnest: so allocations do not say which links are stopped, which takes long."""
        self.closed = False
        """Nothing is to be given for the time being."""
        self._topology: Topology | None = None
        self._whole: Topology | None = None
        self._live: Planes = self._working_planes()
        self._free_boards: dict[Planes, FreeBoards] = {}
        self._could_serve: dict[Request, bool] = {}
        self._serves_now: dict[Request, bool] = {}
        self._nearest: dict[Request, int | None] = {}
        self.free: Planes = self._live
        """Boards that may be given, unless the machine is closed."""
        self.lately = NOTHING
        """The boards whose rest has ended last, up to half of the machine: others are given first."""
        self._ends_of_rest: list[tuple[float, Board]] = []

    def fork(self, work: Work) -> Occupancy:
        """Return a copy that shares only what never changes, to try on it what may happen.

        Args:
            work: where its searches are counted.
        """
        fork = copy(self)
        vars(fork).update(
            forked=True,
            work=work,
            holders={**self.holders},
            resting={**self.resting},
            out={*self.out},
            _free_boards={},
            _ends_of_rest=[*self._ends_of_rest],
        )
        return fork

    @property
    def topology(self) -> Topology:
        """The boards that work and are in service, and their links."""
        if self._topology is None:
            self._topology = self._topology_without(self.machine.dead_boards | self.out)
        return self._topology

    @property
    def whole(self) -> Topology:
        """The boards that work, in service or not, and their links."""
        if self._whole is None:
            self._whole = self._topology_without(self.machine.dead_boards)
        return self._whole

    def could_serve(self, kind: Request) -> bool:
        """Whether the machine as configured could serve a kind of request if no job had any of it."""
        return self._serves(kind, self.whole, self._could_serve)

    def set_min_fill(self, min_fill: Fraction) -> bool:
        """Change the least share of its rectangle that a job's boards fill; whether that is a change."""
        if min_fill == self.min_fill:
            return False
        self.min_fill = min_fill
        self._forget_topology()
        return True

    def allocation(self, request: Request, found: Place) -> Allocation:
        """Return the allocation of a request that gets this place; later changes of the machine do not change it."""
        block, planes = found
        x, y, width, height = block
        boards = self.torus.boards(planes)
        alone = request.single or self.forked
        wraps = WrapAround.none if alone else wraps_of(self.topology, block, planes)
        return Allocation(
            machine=self.machine.name,
            x=x,
            y=y,
            width=width,
            height=height,
            boards=boards,
            single=request.single,
            wraps=wraps,
            # No link leads from a board to itself
            stopped=() if alone else own_stopped_links(self.machine, block, boards, wraps),
        )

    def serves_now(self, kind: Request) -> bool:
        """Whether the boards in service could serve a kind of request if no job had any."""
        if self.closed or not self.could_serve(kind):
            return False
        return not self.out or self._serves(kind, self.topology, self._serves_now)

    def place(self, kind: Request, free_boards: FreeBoards) -> Place | None:
        """Return where a kind of request fits on some boards of this machine; see `core.placement.search.place`."""
        effort = Effort(self.torus.size)
        found = place(kind, free_boards, effort)
        self.work.searched(effort)
        return found

    def nearest_size(self, kind: Request) -> int | None:
        """The number of boards nearest to what is asked for that the machine as configured could serve."""
        if kind not in self._nearest:
            if len(self._nearest) >= MAX_REMEMBERED_REQUESTS:
                del self._nearest[next(iter(self._nearest))]
            effort = Effort(self.torus.size)
            self._nearest[kind] = nearest_size(kind, FreeBoards(self.whole, self.whole.live), effort)
            self.work.searched(effort)
        return self._nearest[kind]

    def _serves(self, kind: Request, topology: Topology, known: dict[Request, bool]) -> bool:
        if (serves := known.get(kind)) is None:
            if len(known) >= MAX_REMEMBERED_REQUESTS:
                del known[next(iter(known))]
            serves = known[kind] = self.place(kind, FreeBoards(topology, topology.live)) is not None
        return serves

    def _topology_without(self, dead: Iterable[Board]) -> Topology:
        return Topology(self.torus, dead, self.machine.dead_links, self.min_fill)

    def _working_planes(self) -> Planes:
        full = self.torus.full
        return without((full, full, full), self.torus.planes(self.machine.dead_boards | self.out))

    def working(self) -> int:
        """How many boards work and are in service."""
        return count(self._live)

    def configure(self, machine: Machine) -> bool:
        """Take over what may change of the same hardware; whether placement can come out differently now."""
        before, self.machine = self.machine, machine
        if (before.dead_boards, before.dead_links) == (machine.dead_boards, machine.dead_links):
            return False
        self._forget_topology()
        self._live = self._working_planes()
        self.free = without(self._live, self.torus.planes({*self.holders, *self.resting}))
        return True

    def _forget_topology(self) -> None:
        self._topology = self._whole = None
        self._free_boards, self._could_serve, self._serves_now, self._nearest = {}, {}, {}, {}

    def set_out_of_service(self, boards: Collection[Board], *, out: bool) -> bool:
        """Take boards out of service or put them back; whether that changes anything."""
        changed = [board for board in boards if (board in self.out) != out]
        if not changed:
            return False
        if out:
            planes = self.torus.planes(changed)
            self._live, self.free = without(self._live, planes), without(self.free, planes)
            self.out.update(changed)
        else:
            working = [board for board in changed if board not in self.machine.dead_boards]
            idle = [board for board in working if board not in self.holders and board not in self.resting]
            live, free = union(self._live, self.torus.planes(working)), union(self.free, self.torus.planes(idle))
            self._live, self.free = live, free
            self.out.difference_update(changed)
        self._topology = None
        self._free_boards, self._serves_now = {}, {}
        return True

    def free_boards_of(self, boards: Planes) -> FreeBoards:
        """Some of the free boards, as placement takes them."""
        free_boards = self._free_boards.get(boards)
        if free_boards is None:
            if len(self._free_boards) >= REMEMBERED_FREE_BOARDS:
                del self._free_boards[next(iter(self._free_boards))]
            free_boards = self._free_boards[boards] = FreeBoards(self.topology, boards, self.lately)
        return free_boards

    def hold(self, boards: Collection[Board], job_id: int) -> None:
        """Give boards to a job; all of them, or none."""
        for board in boards:
            if board in self.holders:  # no `assert`, which could be turned off: two jobs would have one board
                raise RuntimeError(f"board {board} of {self.machine.name} is held already")
        self.free = without(self.free, self.torus.planes(boards))
        for board in boards:
            self.holders[board] = job_id
            self.resting.pop(board, None)

    def hold_again(self, boards: Collection[Board], job_id: int) -> None:
        """Hold boards for this job that are held for another so far."""
        self.holders.update(dict.fromkeys(boards, job_id))

    def release(self, boards: Collection[Board], rest_until: float | None) -> None:
        """Let boards that are powered off rest until then; they are free after that."""
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
        assert self._live == self.topology.live, f"working boards of {self.machine.name} are not those in service"
        assert self.free == without(self._live, unfree), (
            f"free boards of {self.machine.name} are not those that nobody has"
        )
        assert self.resting.items() <= {(board, until) for until, board in self._ends_of_rest}

    def _note_used_lately(self, boards: Collection[Board]) -> None:
        # In two ages, which costs nothing to keep: when half of the boards are young, those before the last are old
        young = self.torus.planes(boards)
        more = union(self.lately, young)
        self.lately = more if 2 * count(more) <= count(self._live) else young
        self._free_boards = {}

    def _set_free(self, boards: Iterable[Board]) -> None:
        """Free boards, as far as they are in service."""
        self.free = union(self.free, overlap(self.torus.planes(boards), self._live))
