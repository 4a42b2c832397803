"""How replies of the two servers are compared, and every difference between them that is accepted, by name.

A difference that has no name here fails the test. Most names come with a condition of their own that is asserted:
where the servers choose different boards, ours must have chosen boards that serve the request; where ours lets a job
wait, the oracle must find no place for it; where ours starts a job that the other calls impossible, the oracle must
find a place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.machines import TestMachine
from tests.conformance.oracle import CHIP_OF_Z, Wish, block_faults, could_serve
from tests.conformance.sequences import JobReference, Step
from tests.conformance.wire import DISCONNECTED

__all__ = ["ACCEPTED", "Job", "Judge", "Mismatch", "Reply"]

Reply = dict[str, Any]
Ask = Callable[..., Any]

QUEUED, POWER, READY, DESTROYED = 1, 2, 3, 4
EXPIRED = "Job timed out."
IMPOSSIBLE = "Cancelled: No suitable machines available."
PLACES = {"where_is", "get_board_position", "get_board_at_position"}
SUBJECTS = {"machine", "machine_name", "job_id"}
LARGEST = 2**53
PLACE = re.compile(
    r"number [1-9]\d* of [1-9]\d* in the queue, "
    r"((probably|roughly) starts .+ to .+, .+|too little of .+ is in service for now|.+ is (drained|disabled) by .+)"
)
LIFE = {QUEUED, POWER, READY}

ACCEPTED = {
    "text of exceptions": "7.0.0 passes on what Python says; ours tells what would be right",
    "which boards": "ours searches every origin and wraps around the edges; 7.0.0 packs a tree of rectangles",
    "started or queued": "what fits depends on which boards the jobs before it got",
    "shape for n boards": "ours gives n boards where there are n, not all of a rectangle, and chooses the rectangle",
    "size despite dead boards": "7.0.0 measures a block by its last live board, and so loses rows of dead ones",
    "impossible here": "7.0.0 gives all of a rectangle that so many boards cannot span, which would be no machine",
    "possible here": "7.0.0 tries one rectangle at the corners of an idle machine and takes no wrap but the whole",
    "why it is impossible": "ours goes on to say what was asked for and what there is",
    "place in the queue": "ours tells of a job that waits its place, predicted start, and why, as its reason and host",
    "refused, not cancelled": "7.0.0 looks at arguments only where a machine is a candidate, and at some of them never",
    "taken, not refused": "nulls and numbers that are as good as a default are taken wherever they stand",
    "reason as text": "a reason is kept as text, whatever was given",
    "cancelled or destroyed": "`Cancelled:` tells that a job was queued; that depends on which boards others got",
    "board outside the machine": "7.0.0 wraps x and y, and takes a z that is none for 0; ours finds no such board",
    "coordinates that are no integers": "7.0.0 raises, takes or ignores them, as Python's operators happen to do",
    "numbers that are too large": "ours refuses whole numbers beyond 2**53, which readers of JSON round",
    "lists that name nothing": "a list or an object names no job or machine; 7.0.0 raises, mostly",
    "number of a job that is no integer": "7.0.0 finds the job 1 by `true`, and gives 1.0 back where asked by it",
}
"""name -> the reason; docs/conformance.md has the same list."""


class Mismatch(AssertionError):
    """The replies differ, and no accepted difference explains it (yet: states settle)."""


@dataclass(slots=True)
class Job:
    """What the servers made of one `create_job` of the sequence."""

    args: list[Any]
    kwargs: dict[str, Any]
    ids: tuple[int, int]
    """In the published server, and in ours."""
    diverged: bool = False
    """It was started by one server while the other let it wait or would not have it."""

    @property
    def wish(self) -> Wish:
        return Wish.of(self.args, self.kwargs)

    def candidates(self, machines: dict[str, TestMachine]) -> list[TestMachine]:
        """The machines that may serve it."""
        if (name := self.kwargs.get("machine")) is not None:
            return [machine for machine in machines.values() if machine.name == name]
        tags = self.kwargs.get("tags")
        wanted = {"default"} if tags is None else set(tags)
        return [machine for machine in machines.values() if wanted <= machine.tags]


@dataclass(slots=True)
class Judge:
    """Compares the replies of one sequence."""

    machines: dict[str, TestMachine]
    ask_theirs: Ask
    ask_ours: Ask
    jobs: list[Job] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    """How often each accepted difference was met."""
    diverging: list[Job] = field(default_factory=list)
    """Jobs that the last comparison was the first to see diverge."""

    def compare(self, step: Step, theirs: Reply, ours: Reply) -> None:
        """Raise `Mismatch` unless the replies are the same or differ acceptably."""
        self.diverging = []
        if theirs == ours:
            return
        if DISCONNECTED in (theirs, ours):
            raise Mismatch("only one of them disconnects")
        if "exception" in theirs and "exception" in ours:
            self._accept("text of exceptions")
        elif "exception" in theirs or "exception" in ours:
            self._one_raises(step, theirs, ours)
        else:
            compare = getattr(self, f"_{step.command}", None)
            if compare is None:
                raise Mismatch("the values differ")
            compare(step, theirs["return"], ours["return"])

    def _accept(self, name: str) -> None:
        assert name in ACCEPTED
        self.used[name] += 1

    def _need(self, condition: bool, name: str, problem: str) -> None:
        if not condition:
            raise Mismatch(problem)
        self._accept(name)

    def _one_raises(self, step: Step, theirs: Reply, ours: Reply) -> None:
        values = [*step.args, *step.names.values()]
        if "exception" in ours and any(isinstance(value, int) and abs(value) > LARGEST for value in values):
            self._accept("numbers that are too large")
        elif step.command == "create_job":
            name = "refused, not cancelled" if "exception" in ours else "taken, not refused"
            self._need(not step.is_sound(), name, "only one of them refuses a sound request")
        elif step.command in PLACES:
            self._need(not _all_whole(step), "coordinates that are no integers", "only one of them raises")
        else:
            odd = any(isinstance(value, list | dict) for value in values)
            self._need(odd, "lists that name nothing", "only one of them raises")

    def _get_job_state(self, step: Step, theirs: Reply, ours: Reply) -> None:
        job = self._job_of(step)
        if job is None:
            self._odd_number(step)
            return
        self._states(job, theirs, ours)

    def _states(self, job: Job, theirs: Reply, ours: Reply) -> None:
        if POWER in (theirs["state"], ours["state"]):
            raise Mismatch("power is being switched")
        if theirs["state"] == ours["state"]:
            ours = self._without_place(ours)
            self._same(theirs, ours, "keepalive", "keepalivehost")
            self._times(theirs, ours)
            if theirs["power"] != ours["power"]:
                self._need(job.diverged, "started or queued", "power differs")
            if theirs.get("reason") != ours.get("reason"):
                self._reasons(job, theirs["reason"], ours["reason"])
        elif {theirs["state"], ours["state"]} == {QUEUED, READY}:
            if ours["state"] == QUEUED and not self._must_wait(job):
                raise Mismatch(f"ours waits, though there is a place for {job.wish}")
            self._diverge(job, "started or queued")
        elif theirs["state"] == DESTROYED and theirs["reason"] == IMPOSSIBLE and ours["state"] in LIFE:
            if not self._possible(job):
                raise Mismatch(f"ours takes {job.wish}, which is impossible")
            self._diverge(job, "possible here")
        elif ours["state"] == DESTROYED and str(ours["reason"]).startswith(IMPOSSIBLE) and theirs["state"] in LIFE:
            if self._possible(job):
                raise Mismatch(f"ours refuses {job.wish}, which is possible")
            self._diverge(job, "impossible here")
        else:
            raise Mismatch("the states differ")

    def _without_place(self, ours: Reply) -> Reply:
        """Our reply without what it tells of a job that waits, as 7.0.0 has it."""
        if ours["state"] != QUEUED:
            return ours
        bare = dict(ours)
        if "reason" in bare and bare["reason"] is not None:
            self._need(bool(PLACE.fullmatch(bare["reason"])), "place in the queue", "that is no place in the queue")
            bare["reason"] = None
        host, told, place = (bare["keepalivehost"] or "").partition("; ")
        if told:
            self._need(bool(PLACE.fullmatch(place)), "place in the queue", "that is no place in the queue")
            bare["keepalivehost"] = host
        return bare

    def _differ_in_state(self, job: Job) -> None:
        """Explain why only one of them has boards for the job, by asking for its state."""
        states = [ask("get_job_state", job.ids[server]) for server, ask in enumerate((self.ask_theirs, self.ask_ours))]
        self._states(job, states[0], states[1])
        if states[0]["state"] == states[1]["state"]:
            raise Mismatch("the job has just changed")

    def _diverge(self, job: Job, name: str) -> None:
        if not job.diverged:
            self.diverging.append(job)
        job.diverged = True
        self._accept(name)

    def _possible(self, job: Job) -> bool:
        """Whether an idle machine has a place for the job."""
        return any(could_serve(machine, job.wish) for machine in job.candidates(self.machines))

    def _must_wait(self, job: Job) -> bool:
        """Whether no machine has a place for the job now, or an earlier job waits for the same machine."""
        listed = self.ask_ours("list_jobs")
        taken: dict[str, set[tuple[int, int, int]]] = {}
        for other in listed:
            if other["boards"] is not None:
                taken.setdefault(other["allocated_machine_name"], set()).update(map(tuple, other["boards"]))
        candidates = job.candidates(self.machines)
        names = {machine.name for machine in candidates}
        earlier = (other for other in self.jobs if other.ids[1] < job.ids[1])
        waiting = {entry["job_id"] for entry in listed if entry["state"] == QUEUED}
        if any(
            other.ids[1] in waiting and names & {machine.name for machine in other.candidates(self.machines)}
            for other in earlier
        ):
            return True
        return not any(could_serve(machine, job.wish, taken.get(machine.name, ())) for machine in candidates)

    def _reasons(self, job: Job, theirs: Any, ours: Any) -> None:
        if theirs == IMPOSSIBLE and str(ours).startswith(IMPOSSIBLE):
            self._accept("why it is impossible")
        elif theirs == IMPOSSIBLE:
            self._need(self._possible(job), "possible here", "the reasons differ")
        elif str(ours).startswith(IMPOSSIBLE):
            self._need(not self._possible(job), "impossible here", "the reasons differ")
        elif theirs is not None and ours == str(theirs):
            self._accept("reason as text")
        else:
            explained = _bare(theirs) == _bare(ours) and (job.diverged or _bare(ours) == EXPIRED)
            self._need(explained, "cancelled or destroyed", "the reasons differ")

    def _get_job_machine_info(self, step: Step, theirs: Reply, ours: Reply) -> None:
        job = self._job_of(step)
        if job is None:
            self._odd_number(step)
        elif (theirs["boards"] is None) != (ours["boards"] is None):
            self._differ_in_state(job)
        else:
            self._boards(job, theirs, ours)

    def _boards(self, job: Job, theirs: Reply, ours: Reply) -> None:
        machine = self.machines[ours["machine_name"]]
        boards = [tuple(board) for board in ours["boards"]]
        if problem := block_faults(machine, job.wish, boards, (ours["width"], ours["height"])):
            raise Mismatch(problem)
        if machine not in job.candidates(self.machines):
            raise Mismatch(f"{machine.name} is none of its machines")
        self._connections(machine, ours)
        self._accept("which boards")
        same_size = all(theirs[name] == ours[name] for name in ("width", "height"))
        if len(job.wish.sizes) == 1 and not job.wish.single:
            if not same_size or len(boards) != len(theirs["boards"]):
                self._accept("shape for n boards")
        elif theirs["machine_name"] != ours["machine_name"]:
            pass  # sizes in chips depend on where the machine wraps
        elif not same_size:
            if not machine.dead_boards:
                raise Mismatch("the sizes differ")
            self._accept("size despite dead boards")
        elif len(boards) != len(theirs["boards"]) and not machine.dead_boards:
            raise Mismatch("the numbers of boards differ")

    def _connections(self, machine: TestMachine, info: Reply) -> None:
        """Ours must give each board's own host, at its Ethernet chip as seen from the job's origin."""
        board_at = {host: board for board, host in machine.addresses().items()}
        connections = {tuple(chip): board_at[host] for chip, host in info["connections"]}
        if sorted(connections.values()) != sorted(map(tuple, info["boards"])):
            raise Mismatch("the connections are not those of the boards")
        ox, oy, oz = connections[0, 0]
        for chip, (x, y, z) in connections.items():
            dx, dy = CHIP_OF_Z[z] if len(connections) > 1 else (0, 0)
            if chip != (12 * ((x - ox) % machine.width) + dx, 12 * ((y - oy) % machine.height) + dy):
                raise Mismatch(f"the Ethernet chip of board {(x, y, z)} is not {chip} of the job")
        if len(connections) > 1 and oz != 0:
            raise Mismatch("the job's origin is no board 0")

    def _list_jobs(self, step: Step, theirs: list[Reply], ours: list[Reply]) -> None:
        by_id = tuple({job.ids[server]: job for job in self.jobs} for server in (0, 1))
        their_jobs = {id(by_id[0][entry["job_id"]]): entry for entry in theirs}
        our_jobs = {id(by_id[1][entry["job_id"]]): entry for entry in ours}
        for job in self.jobs:
            their, our = their_jobs.get(id(job)), our_jobs.get(id(job))
            if their and our:
                self._entries(job, their, our)
            elif their or our:
                self._differ_in_state(job)
        both = their_jobs.keys() & our_jobs.keys()
        if [key for key in their_jobs if key in both] != [key for key in our_jobs if key in both]:
            raise Mismatch("the orders differ")

    def _entries(self, job: Job, their: Reply, our: Reply) -> None:
        if their.keys() != our.keys():
            raise Mismatch("the keys differ")
        self._same(their, our, "owner", "args")
        if _plain(their["kwargs"]) != _plain(our["kwargs"]):
            raise Mismatch("the kwargs differ")
        self._states(job, their, our)
        names = {machine.name for machine in job.candidates(self.machines)}
        if our["boards"] is not None and our["allocated_machine_name"] not in names:
            raise Mismatch("that is none of its machines")

    def _list_machines(self, step: Step, theirs: list[Reply], ours: list[Reply]) -> None:
        for their, our in zip(theirs, ours, strict=True):
            if their.keys() != our.keys():
                raise Mismatch("the keys differ")
            for name, value in their.items():
                if (sorted(value), sorted(our[name])) if isinstance(value, list) else (value, our[name]):
                    continue
                raise Mismatch(f"{name} differs")

    def _where_is(self, step: Step, theirs: Reply | None, ours: Reply | None) -> None:
        names = step.names
        if not _all_whole(step):
            self._accept("coordinates that are no integers")
        elif "job_id" in names:
            self._where_in_job(step, theirs, ours)
        elif "z" in names and ours is None:
            machine = self.machines[names["machine"]]
            if (names["x"], names["y"], names["z"]) in machine.boards():
                raise Mismatch("only ours does not know that board")
            self._accept("board outside the machine")
        elif theirs is None or ours is None:
            raise Mismatch("only one of them finds the place")
        else:
            self._same(theirs, ours, "machine", "logical", "physical", "chip", "board_chip")
            self._accept("which boards")
            jobs = (job for job in self.ask_ours("list_jobs") if job["allocated_machine_name"] == ours["machine"])
            holder = next((job["job_id"] for job in jobs if ours["logical"] in job["boards"]), None)
            if ours["job_id"] != holder:
                raise Mismatch(f"ours gives job {ours['job_id']} where job {holder} has the board")

    def _where_in_job(self, step: Step, theirs: Reply | None, ours: Reply | None) -> None:
        job = self._job_of(step)
        if job is None:
            self._odd_number(step)
            return
        exact = len(job.wish.sizes) == 2 or job.wish.single
        machines = job.candidates(self.machines)
        if theirs is None or ours is None:
            if exact and len(machines) == 1 and not machines[0].dead_boards:
                self._differ_in_state(job)
            self._accept("which boards")
            return
        if ours["job_id"] != job.ids[1]:
            raise Mismatch("ours names another job")
        machine = self.machines[ours["machine"]]
        if tuple(ours["physical"]) != machine.locations()[tuple(ours["logical"])]:
            raise Mismatch("ours misplaces the board")
        if exact and len(machines) == 1:
            self._same(theirs, ours, "machine", "board_chip", "job_chip")
        self._accept("which boards")

    def _get_board_position(self, step: Step, theirs: Any, ours: Any) -> None:
        self._need(not _all_whole(step), "coordinates that are no integers", "the places differ")

    _get_board_at_position = _get_board_position

    def _create_job(self, step: Step, theirs: int, ours: int) -> None:
        """Any two identifiers will do."""
        if not (type(ours) is int and ours >= 1):
            raise Mismatch("that is no identifier")

    def _job_of(self, step: Step) -> Job | None:
        subject = next((value for value in self._subjects(step) if isinstance(value, JobReference)), None)
        return None if subject is None else self.jobs[subject.number]

    def _odd_number(self, step: Step) -> None:
        if all(type(value) is int for value in self._subjects(step)):
            raise Mismatch("the values differ")
        self._accept("number of a job that is no integer")

    def _subjects(self, step: Step) -> Iterator[Any]:
        yield from step.args[:1]
        if "job_id" in step.names:
            yield step.names["job_id"]

    def _same(self, theirs: Reply, ours: Reply, *names: str) -> None:
        for name in names:
            if theirs[name] != ours[name]:
                raise Mismatch(f"{name} differs")

    def _times(self, theirs: Reply, ours: Reply) -> None:
        times = (theirs["start_time"], ours["start_time"])
        if (times[0] is None) != (times[1] is None) or (times[0] is not None and abs(times[0] - times[1]) > 5):
            raise Mismatch("start_time differs")


def _all_whole(step: Step) -> bool:
    """Whether all coordinates are whole numbers, and what they are coordinates of is a name or a job."""
    subjects = [*step.args[:1], *(value for name, value in step.kwargs if name in SUBJECTS)]
    coordinates = [*step.args[1:], *(value for name, value in step.kwargs if name not in SUBJECTS)]
    return all(type(value) is int for value in coordinates) and not any(isinstance(value, list) for value in subjects)


def _bare(reason: Any) -> str:
    return "" if reason is None else str(reason).removeprefix("Cancelled: ")


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if name == "tags" and value else value for name, value in kwargs.items()}
