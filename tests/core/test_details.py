"""What owners are told of their jobs, and everybody of machines: places in every kind of coordinates above all."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from spalloc_server.coordinates import Board, Chip, board_to_chip
from spalloc_server.core.boards.records import REPORTS
from spalloc_server.core.model import Request
from spalloc_server.core.model.job_state import JobState
from spalloc_server.errors import NoSuchError, RequestError
from spalloc_server.links import Links
from tests.core.machines import a_machine

CHIPS = [(x, y) for x, y in product(range(8), range(8)) if -3 <= x - y <= 4]
"""Of a board, counted from its Ethernet chip."""


def a_core(width: int = 4, height: int = 3, **machine: Any) -> Controller:
    core = Controller(seconds_before_free=0.0, clock=lambda: 1000.0)
    core.configure(Configuration([a_machine("m", width, height, **machine)], seconds_before_free=0.0))
    return core


def submit(core: Controller, keepalive: float | None = None, **what: Any) -> int:
    """A job with these boards, which are on."""
    job = core.submit(Request(owner="ann", **what), keepalive=keepalive, host=None)
    settle(core)
    return job


def settle(core: Controller) -> None:
    """Let the hardware do all that it was told."""
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))


def told(details: Any) -> Any:
    """As JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(details))


# ---------------------------------------------------------------- where is it?


@pytest.mark.parametrize(
    "what",
    [
        {"triads": (2, 2), "root": (1, 1)},
        {"triads": (2, 2), "root": (3, 2)},  # over both edges of the machine
        {"triads": (4, 2), "root": (0, 2)},  # goes around on one axis
        {"triads": (4, 3)},  # all of it
        {"board": (3, 2, 2), "machine": "m"},
        {"board": (0, 0, 1), "machine": "m"},
    ],
    ids=str,
)
def test_every_chip_of_a_job_is_found_by_its_number_in_the_job_and_on_the_machine_alike(what: dict[str, Any]) -> None:
    core = a_core()
    job = submit(core, **what)
    machine = core.sub_machine(job, None)
    assert machine is not None
    found: dict[Chip, Chip] = {}
    for board, ((root_x, root_y), address) in zip(machine.boards, machine.connections, strict=True):
        ethernet = board_to_chip(*board)
        for x, y in CHIPS:
            chip = (ethernet[0] + x) % 48, (ethernet[1] + y) % 36
            by_machine = core.find_board("m", chip=chip)
            assert by_machine is not None
            assert (by_machine.board, by_machine.address, by_machine.job_id) == (board, address, job)
            assert (by_machine.chip, by_machine.board_chip) == (chip, ethernet)
            assert by_machine.job_chip is not None
            found[by_machine.job_chip] = chip
            assert core.board_of_job(job, by_machine.job_chip, None) == by_machine
            if (x, y) == (0, 0):
                assert by_machine.job_chip == (root_x, root_y)
    assert len(found) == 48 * len(machine.boards)
    assert machine.connections[0][0] == (0, 0)
    for x, y in product(range(-8, 60), range(-8, 60)):
        here = core.board_of_job(job, (x, y), None)
        around = (x % 48 if what.get("triads", (0, 0))[0] == 4 else x, y % 36 if what.get("triads") == (4, 3) else y)
        assert (None if here is None else here.chip) == found.get(around)


def test_a_chip_of_the_machine_that_there_is_not_is_nowhere_and_all_others_are_somewhere() -> None:
    core = a_core()
    found = [core.find_board("m", chip=chip) for chip in product(range(48), range(36))]
    assert {each.board for each in found if each} == set(core.machines["m"].live_boards)
    assert all(found)
    for chip in ((-1, 0), (0, -1), (48, 0), (0, 36), (2**53, 0)):
        assert core.find_board("m", chip=chip) is None


@pytest.mark.parametrize("board", [(0, 0, 0), (3, 2, 2)])
def test_a_board_is_found_by_its_number_its_place_and_its_address(board: Board) -> None:
    core = a_core()
    place = core.machines["m"].board_locations[board]
    address = core.machines["m"].spinnaker_ips[board]
    found = [core.find_board("m", board=board), core.find_board("m", place=place)]
    found += [core.find_board("m", address=spelling) for spelling in (address, f" {address.upper()}. ")]
    assert all(each == found[0] for each in found)
    assert found[0] is not None
    assert (found[0].chip, found[0].job_id, found[0].job_chip) == (board_to_chip(*board), None, None)


def test_what_there_is_not_is_none_and_what_makes_no_sense_is_refused() -> None:
    core = a_core(dead_boards=[(1, 1, 1)])
    assert core.find_board("m", board=(4, 0, 0)) is None
    assert core.find_board("m", board=(0, 0, 3)) is None
    assert core.find_board("m", board=(0, 0, 4)) is None
    assert core.find_board("m", board=(0, 0, -1)) is None
    assert core.find_board("m", place=(9, 9, 9)) is None
    assert core.find_board("m", address="elsewhere.example.org") is None
    with pytest.raises(NoSuchError, match="there is no machine 'other'"):
        core.find_board("other", chip=(0, 0))
    several: list[dict[str, Any]] = [
        {},
        {"board": (0, 0)},
        {"chip": (0, 0, 0)},
        {"chip": (0, 0), "address": "spinn-m-0-0-0"},
    ]
    for places in several:
        with pytest.raises(RequestError, match="give one of board"):
            core.find_board("m", **places)
    with pytest.raises(RequestError, match=r"is \(x, y\)"):
        core.board_of_job(1, (0, 0, 0), None)
    assert core.board_of_job(1, (0, 0), None) is None


def test_a_board_that_is_on_its_way_back_is_of_no_job_although_its_job_has_others_by_now() -> None:
    core = a_core()
    job = core.submit(Request(owner="ann", board=(0, 0, 0), machine="m"), keepalive=None, host=None)
    core.take_switches()
    held = core.state.jobs[job]
    assert held.allocation is not None
    held.allocation = msgspec.structs.replace(held.allocation, boards=((1, 0, 0),), x=1)
    found = core.find_board("m", board=(0, 0, 0))
    assert found is not None
    assert (found.job_id, found.job_chip) == (None, None)
    where = core.where_is(machine="m", x=0, y=0, z=0)
    assert where is not None
    assert (where.job_id, where.job_chip) == (None, None)


# ---------------------------------------------------------------- jobs


def test_an_owner_is_told_of_a_job_from_its_beginning_to_its_end() -> None:
    core = a_core()
    job = core.submit(
        Request(owner="ann", boards=1), keepalive=60.0, host="127.0.0.1", original='{"num-boards":1}', of_account=True
    )
    before = told(core.job_details(job, 7))
    assert before == {
        "job_id": job,
        "owner": "ann",
        "state": JobState.power,
        "power": True,
        "created_at": 1000.0,
        "ended_at": None,
        "reason": None,
        "keepalive": 60.0,
        "keepalive_host": "127.0.0.1",
        "kept_alive_at": 1000.0,
        "machine": "m",
        "original": {"num-boards": 1},
        "revision": 7,
    }
    core.state.clock = lambda: 1030.0
    assert core.job_details(job, 7).kept_alive_at == 1000.0, "to look renews nothing"
    assert core.sub_machine(job, "127.0.0.2") is not None
    assert core.job_details(job, 7).kept_alive_at == 1030.0
    core.destroy_job(job, "done")
    ended = {"state": JobState.destroyed, "power": None, "ended_at": 1030.0, "reason": "done", "kept_alive_at": None}
    assert told(core.job_details(job, 8)) == {**before, **ended, "keepalive_host": "127.0.0.2", "revision": 8}
    assert core.sub_machine(job, None) is None
    with pytest.raises(NoSuchError, match="there is no job 77"):
        core.job_details(77, 1)


def test_a_job_that_waits_has_no_boards_and_no_power() -> None:
    core = a_core()
    submit(core, triads=(4, 3))
    waiting = submit(core, boards=1)
    details = core.job_details(waiting, 1)
    assert (details.state, details.power, details.machine) == (JobState.queued, None, None)
    assert core.sub_machine(waiting, None) is None


def test_sizes_are_in_triads_and_all_boards_are_on_once_the_job_is_ready() -> None:
    core = a_core()
    block, single = submit(core, triads=(2, 1)), submit(core, boards=1)
    machines = [core.sub_machine(job, None) for job in (block, single)]
    assert [(each.width, each.height, each.depth, each.power) for each in machines if each] == [
        (2, 1, 3, True),
        (1, 1, 1, True),
    ]
    core.power_on_job_boards(block)
    switching = core.sub_machine(block, None)
    assert switching is not None
    assert not switching.power, "they are being reset"


def test_numbers_of_jobs_come_newest_first_in_pages() -> None:
    core = a_core()
    jobs = [submit(core, boards=1) for _ in range(6)]
    core.destroy_job(jobs[4])
    core.destroy_job(jobs[1])
    assert core.job_numbers(ended=False, start=0, limit=100) == [6, 4, 3, 1]
    assert core.job_numbers(ended=True, start=0, limit=100) == [6, 5, 4, 3, 2, 1]
    assert core.job_numbers(ended=True, start=1, limit=2) == [5, 4]
    assert core.job_numbers(ended=False, start=9, limit=2) == []


def test_history_keeps_the_words_of_a_job_that_had_boards_and_no_session() -> None:
    core = a_core()
    submit(core, triads=(4, 3))
    words = {"keepalive": None, "host": None, "original": "{}", "session": "s1", "of_account": True}
    waiting = core.submit(Request(owner="ann", boards=1), **words)  # type: ignore[arg-type]
    assert core.has_jobs_in("s1")
    core.destroy_job(waiting)
    assert not core.has_jobs_in("s1")
    core.destroy_job(1)
    settle(core)
    had = core.submit(Request(owner="ann", boards=1), **words)  # type: ignore[arg-type]
    core.take_changes()
    core.destroy_job(had)
    row = core.take_changes().jobs[had]
    assert (row.original, row.session, row.of_account) == ("{}", None, True)
    core.check()


def test_a_session_has_jobs_after_a_restart_too() -> None:
    core = a_core()
    core.submit(Request(owner="ann", boards=1), keepalive=None, host=None, session="s1", original='{"a":1}')
    after = Controller(clock=lambda: 2000.0)
    after.restore(core.snapshot())
    assert after.has_jobs_in("s1")
    assert told(after.job_details(1, 1))["original"] == {"a": 1}
    after.check()


# ---------------------------------------------------------------- machines


def test_a_machine_tells_what_does_not_work_each_link_once_with_both_ends() -> None:
    dead = [(3, 0, 1, Links.east), (0, 0, 0, Links.west), (1, 1, 0, Links.north), (1, 1, 2, Links.south)]
    core = a_core(dead_boards=[(2, 2, 1)], dead_links=dead)
    core.disable_board("m", (0, 1, 2), reason="smells", by="eve")
    details = core.machine_details("m", 5)
    assert (details.name, details.width, details.height, details.revision, details.in_service) == ("m", 4, 3, 5, True)
    assert [each.board for each in details.down_boards] == [(0, 1, 2), (2, 2, 1)]
    assert details.down_boards[0].address == "spinn-m-0-1-2"
    assert details.down_boards[0].place == core.machines["m"].board_locations[0, 1, 2]
    links = [(one.board, Links(way), other.board, Links(back)) for one, way, other, back in details.down_links]
    assert links == [
        ((0, 0, 0), Links.west, (3, 0, 1), Links.east),
        ((1, 1, 0), Links.north, (1, 1, 2), Links.south),
    ]
    core.drain("m", reason="moving", by="eve")
    assert not core.machine_details("m", 6).in_service
    with pytest.raises(NoSuchError, match="there is no machine 'n'"):
        core.machine_details("n", 1)


# ---------------------------------------------------------------- reports


def test_a_report_of_boards_of_a_job_is_noted_as_a_whole_or_not_at_all() -> None:
    core = a_core()
    job, other = submit(core, keepalive=60.0, triads=(1, 1)), submit(core, boards=1)
    mine = [address for _, address in core.sub_machine(job, None).connections]  # type: ignore[union-attr]
    (theirs,) = [address for _, address in core.sub_machine(other, None).connections]  # type: ignore[union-attr]

    def reported() -> list[str]:
        return [f"spinn-m-{view.x}-{view.y}-{view.z}" for view in core.board_views() if view.reports]

    with pytest.raises(RequestError, match=f"job {job} has no board at '{theirs}'"):
        core.report_issue(job, [mine[0], theirs], "hot", reporter="127.0.0.1", user="ann")
    assert not reported()
    assert core.report_issue(job, [mine[0], mine[1], mine[0].upper()], "hot", reporter="127.0.0.1", user="ann") == 0
    assert reported() == sorted(mine[:2])
    (report,) = core.board_views()[0].reports
    assert (report.text, report.user, report.owner, report.host) == ("hot", "ann", "ann", "127.0.0.1")
    assert core.report_issue(job, [], "hot", reporter="127.0.0.1") == 0
    with pytest.raises(RequestError, match="job 77 has no boards"):
        core.report_issue(77, mine, "hot", reporter="127.0.0.1")


def test_a_report_says_how_many_boards_it_has_taken_out_of_service() -> None:
    core = a_core()
    counts = []
    for number in range(REPORTS):
        job = submit(core, board=(0, 0, 0), machine="m")
        counts.append(core.report_issue(job, ["spinn-m-0-0-0"], "hot", reporter="127.0.0.1", user=f"user{number}"))
        core.destroy_job(job)
        settle(core)
    assert counts == [*[0] * (REPORTS - 1), 1]
