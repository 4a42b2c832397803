"""Lines and their merge: the order of a pass without sorting, whatever joins, leaves and is cut meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, strategies as st

from spalloc_server.core.model.power import NO_JOB
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.effort import Work
from spalloc_server.core.scheduling.lines import BY_MERIT, FIRST, Group, Line, Merge, Terms, key
from spalloc_server.core.scheduling.waiting import Waiting

MACHINES: tuple[tuple[str, ...], ...] = (("m",), ("m", "n"), ("n",))


@dataclass
class AnOrder:
    """Rates by owner, and one old job."""

    rates: dict[str, float]
    old: int = NO_JOB
    now: float = 1000.0
    asked: list[Line] = field(default_factory=list)

    def terms(self, line: Line) -> Terms:
        self.asked.append(line)
        first = line.jobs[0].job_id
        return self.old if first == self.old else NO_JOB, self.now, self.rates[line.request.owner]


ORDERS = st.builds(
    AnOrder,
    st.fixed_dictionaries({owner: st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.5]) for owner in "abc"}),
    st.integers(0, 30),
)

JOBS = st.lists(
    st.builds(
        lambda owner, boards, priority, since, machines: (
            Request(owner=owner, boards=boards, priority=priority),
            since,
            MACHINES[machines],
        ),
        st.sampled_from("abc"),
        st.integers(1, 3),
        st.integers(0, 1),
        st.integers(0, 9).map(float),
        st.integers(0, 2),
    ),
    max_size=30,
)


class Lines:
    """Groups of lines, and who waits in them."""

    def __init__(self) -> None:
        self.groups = {machines: Group(machines) for machines in MACHINES}
        self.waiting: dict[int, Waiting] = {}

    def join(self, request: Request, since: float, machines: tuple[str, ...]) -> Waiting:
        job = Waiting(len(self.waiting) + 1, request, since, machines, work=request.asked)
        self.waiting[job.job_id] = job
        self.groups[machines].add(job)
        return job

    def leave(self, job: Waiting) -> None:
        self.groups[job.machines].remove(job)

    def line(self, job: Waiting) -> Line:
        return self.groups[job.machines].lines[Group.common(job.request)]

    def lines(self) -> list[Line]:
        return [line for group in self.groups.values() for line in group.lines.values()]


def merged(lines: Lines, order: AnOrder) -> Merge:
    merge = Merge(lines.lines(), order)
    assert merge.gather(Work())
    return merge


@given(JOBS, ORDERS)
def test_a_merge_comes_to_the_same_as_sorting(
    jobs: list[tuple[Request, float, tuple[str, ...]]], order: AnOrder
) -> None:
    lines = Lines()
    for job in jobs:
        lines.join(*job)
    merge, taken = merged(lines, order), []
    while job_taken := merge.take({"m", "n"}):
        taken.append(job_taken.job_id)
    terms = {job.job_id: order.terms(lines.line(job)) for job in lines.waiting.values()}
    keys = sorted(key(job, terms[job.job_id]) for job in lines.waiting.values())
    assert taken == [job_id for *_, job_id in keys]
    assert len(set(keys)) == len(keys), "the order is total"


@given(JOBS, ORDERS, st.data())
def test_nobody_is_forgotten_or_taken_twice_whoever_joins_and_leaves_meanwhile(
    jobs: list[tuple[Request, float, tuple[str, ...]]], order: AnOrder, data: st.DataObject
) -> None:
    lines = Lines()
    for job in jobs[::2]:
        lines.join(*job)
    there = set(lines.waiting)
    merge, late, taken, left = merged(lines, order), iter(jobs[1::2]), [], set()
    machines = {"m", "n"}
    while job_taken := merge.take(machines):
        assert job_taken.job_id not in left
        assert not machines.isdisjoint(job_taken.machines)
        taken.append(job_taken.job_id)
        happens = data.draw(st.sampled_from(["nothing", "it starts", "one leaves", "one joins", "a machine is full"]))
        if happens == "it starts":
            lines.leave(job_taken)
            left.add(job_taken.job_id)
        elif happens == "one leaves" and (stay := sorted(lines.waiting.keys() - left)):
            gone = data.draw(st.sampled_from(stay))
            lines.leave(lines.waiting[gone])
            left.add(gone)
        elif happens == "one joins" and (joins := next(late, None)):
            joined = lines.join(*joins)
            merge.add(joined, lines.line(joined))
            merge.add(joined, lines.line(joined))
            there.add(joined.job_id)
        elif happens == "a machine is full":
            machines.discard("n")
    assert len(set(taken)) == len(taken)
    assert {job_id for job_id in there - left if not machines.isdisjoint(lines.waiting[job_id].machines)} <= {*taken}
    for group in lines.groups.values():
        assert group.work == sum(job.work for line in group.lines.values() for job in line.jobs)
        assert all(line.jobs for line in group.lines.values())


def test_a_job_that_is_added_in_a_place_of_its_own_is_taken_there_and_not_again() -> None:
    lines, order = Lines(), AnOrder({"a": 1.0, "b": 1.0})
    first, second, third = (lines.join(Request(owner="a", boards=1), float(at), ("m",)) for at in range(3))
    other = lines.join(Request(owner="b", boards=1), 0.5, ("m",))
    merge = merged(lines, order)
    merge.add(third, lines.line(third), (0, FIRST, 0.0, 2.0, third.job_id))
    assert [merge.take({"m"}) for _ in range(5)] == [third, first, other, second, None]
    assert key(first, order.terms(lines.line(first)))[1] == BY_MERIT


def test_lines_are_looked_at_in_steps() -> None:
    lines = Lines()
    for number in range(100):
        lines.join(Request(owner=f"owner {number}", boards=1), float(number), ("m",))
    order = AnOrder({f"owner {number}": 1.0 for number in range(100)})
    merge, work, steps = Merge(lines.lines(), order), Work(), 0
    work.left = 10
    while not merge.gather(work):
        steps += 1
        work.left = 10
    assert steps == 9
    assert len(order.asked) == 100
    assert [merge.take({"m"}) for _ in range(101)] == [*lines.waiting.values(), None]
