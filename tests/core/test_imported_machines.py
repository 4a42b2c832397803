"""Imported machines: they take jobs, outlive restarts, and give way to the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.machine_facts import machine_to_fact
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Snapshot, UnreadableRow
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine, renamed

M, N, O = a_machine("m", 2, 2), a_machine("n", 1, 1), a_machine("o", 1, 2)  # noqa: E741


def names(controller: Controller) -> list[str]:
    return list(controller.machines)


def a_house(*imported: Machine) -> House:
    """Machine m is configured, the others are imported, one after the other."""
    house = House(M)
    for machine in imported:
        house.controller.import_machines([machine])
    house.controller.check()
    return house


def ready(house: House, *args: int, **kwargs: Any) -> int:
    job_id = house.create(*args, **kwargs)
    house.hardware()
    assert house.state(job_id) == JobState.ready
    return job_id


def stored(house: House) -> dict[str, Any]:
    """What all batches so far have stored of facts; the machines' own apart."""
    facts = house.controller.take_changes().facts
    return {name: fact for name, fact in facts.items() if name == "machines" or name.startswith("imported/")}


def restarted(snapshot: Snapshot, *machines: Machine) -> Controller:
    """A core that goes on from what is stored, with a configuration of these machines."""
    controller = Controller()
    controller.restore(snapshot, machines)
    controller.configure(Configuration(list(machines)))
    controller.check()
    return controller


def test_they_come_after_those_of_the_configuration_and_take_jobs() -> None:
    house = a_house(N, O)
    assert names(house.controller) == ["m", "n", "o"]
    assert [(view.name, view.imported) for view in house.controller.machine_views()] == [
        ("m", False),
        ("n", True),
        ("o", True),
    ]
    assert house.controller.get_job_machine_info(ready(house, 3)).machine_name == "m"
    assert house.controller.get_job_machine_info(ready(house, machine="n")).machine_name == "n"
    house.configure(a_machine("p", 1, 1), M)
    assert names(house.controller) == ["p", "m", "n", "o"]


def test_a_job_that_waits_may_start_on_one() -> None:
    house = House(N)
    ready(house, 1, 1)
    waiting = house.create(1, 1)
    assert house.state(waiting) == JobState.queued
    house.controller.import_machines([O])
    house.hardware()
    assert house.controller.get_job_machine_info(waiting).machine_name == "o"


def test_what_is_imported_is_told_and_stored() -> None:
    house = a_house()
    stored(house)
    house.changed_machines()
    (view,) = house.controller.import_machines([N])
    assert (view.name, view.imported) == ("n", True)
    assert house.changed_machines() == {"n"}
    assert stored(house) == {"machines": ["m", "n"], "imported/n": machine_to_fact(N)}
    house.controller.remove_machine("n")
    assert house.changed_machines() == {"n"}
    assert stored(house) == {"machines": ["m"], "imported/n": None}
    assert house.controller.import_machines([]) == []


SAME_BMP = Machine.single_board("s", {"x"}, "BMP-N-0.", "10.0.0.1")
SAME_BOARD = Machine.single_board("s", {"x"}, "10.0.0.1", "spinn-m-0-0-0")


@pytest.mark.parametrize(
    ("machines", "problem"),
    [
        ([a_machine("m", 1, 1)], "there is a machine 'm' already, which is of the configuration: remove that one, or"),
        ([a_machine("n", 2, 1)], "there is a machine 'n' already, which is imported: remove that one, or give this"),
        ([O, a_machine("m", 1, 1)], "there is a machine 'm' already"),
        ([O, SAME_BMP], "BMP address 'BMP-N-0.' is used, as 'bmp-n-0', by machine 'n' frame .* and by machine 's'"),
        ([O, SAME_BOARD], "board address 'spinn-m-0-0-0' is used by machine 'm' board .* and by machine 's' board"),
        ([O, renamed(O, "p")], "BMP address 'bmp-o-0' is used by machine 'o' frame .* and by machine 'p'"),
        ([O, O], "machine name 'o' is used by machine 3 of the list and by machine 4"),
    ],
)
def test_a_name_or_an_address_that_is_there_already_is_refused_and_nothing_is_imported(
    machines: list[Machine], problem: str
) -> None:
    house = a_house(N)
    house.controller.take()
    with pytest.raises(RequestError, match=problem):
        house.controller.import_machines(machines)
    assert names(house.controller) == ["m", "n"]
    assert not house.controller.changed


def test_one_that_is_removed_ends_its_jobs_and_no_others_and_its_boards_are_switched_off() -> None:
    house = a_house(N, O)
    stays, goes = ready(house, machine="o"), ready(house, machine="n")
    queued = house.create(1, 1, machine="n")
    house.controller.remove_machine("n")
    house.controller.check()
    assert house.controller.get_job_state(goes).reason == "Machine removed."
    assert "No suitable machines" in str(house.controller.get_job_state(queued).reason)
    assert house.state(stays) == JobState.ready
    (off,) = house.hardware()
    assert [(frame.bmp, list(frame.boards)) for frame in off.frames] == [("bmp-n-0", [0])]
    assert names(house.controller) == ["m", "o"]


def test_only_one_that_was_imported_can_be_removed() -> None:
    house = a_house(N)
    house.controller.take()
    with pytest.raises(RequestError, match="machine 'm' is of the configuration: take it out there, and reload"):
        house.controller.remove_machine("m")
    with pytest.raises(RequestError, match="there is no machine 'x'"):
        house.controller.remove_machine("x")
    assert not house.controller.changed


def test_the_configuration_wins_on_a_name() -> None:
    house = a_house(N, O)
    on_n, on_o = ready(house, machine="n"), ready(house, machine="o")
    house.configure(M, a_machine("n", 2, 1))
    assert names(house.controller) == ["m", "n", "o"]
    assert (house.controller.machines["n"].width, list(house.controller.imported)) == (2, ["o"])
    assert house.state(on_o) == JobState.ready
    assert house.state(on_n) == JobState.ready, "its boards are there as before"
    house.configure(M)
    assert names(house.controller) == ["m", "o"], "what the configuration has taken over goes with it"
    assert house.controller.get_job_state(on_n).reason == "Machine removed."


def test_the_same_machine_in_the_configuration_takes_over_the_jobs_in_place() -> None:
    house = a_house(N)
    job_id = ready(house, machine="n")
    house.controller.take()
    house.configure(N, M)
    assert stored(house) == {"machines": ["n", "m"], "imported/n": None}
    assert house.state(job_id) == JobState.ready
    assert not house.hardware()


def test_and_on_an_address_under_whatever_name() -> None:
    house = a_house(N, O)
    on_n = ready(house, machine="n")
    house.configure(M, renamed(N, "other"), SAME_BOARD._replace(name="s", spinnaker_ips={(0, 0, 0): "SPINN-o-0-0-0."}))
    assert names(house.controller) == ["m", "other", "s"]
    assert house.controller.get_job_machine_info(on_n).machine_name == "other"


def test_they_are_there_after_a_restart_in_their_order_with_their_jobs() -> None:
    house = a_house(O, N)
    job_id = ready(house, machine="n")
    house.controller.destroy_job(house.create(machine="o"))
    again = restarted(house.controller.snapshot(), M)
    assert names(again) == ["m", "o", "n"]
    assert list(again.imported) == ["o", "n"]
    assert again.machines == house.controller.machines
    assert again.get_job_state(job_id).state == JobState.ready
    assert list(restarted(again.snapshot(), M, N).imported) == ["o"]
    assert names(restarted(again.snapshot(), N)) == ["n", "o"]


def torn(snapshot: Snapshot, *facts: str) -> Snapshot:
    """The same, where these facts make no sense any more."""
    snapshot.facts |= {name: {**snapshot.facts[name], "width": 0} for name in facts}
    return snapshot


@pytest.mark.parametrize("fact", ["imported/n", "machine/n"])
def test_a_definition_that_cannot_be_read_is_taken_from_where_it_is_stored_a_second_time(fact: str) -> None:
    house = a_house(N, O)
    job_id = ready(house, machine="n")
    again = restarted(torn(house.controller.snapshot(), fact), M)
    (row,) = again.set_aside()
    assert (row.table, row.key) == ("facts", fact)
    assert "width and height must be 1 or more triads" in row.reason
    assert again.machines == house.controller.machines
    assert again.get_job_state(job_id).state == JobState.ready
    assert restarted(again.snapshot(), M).machines == house.controller.machines


def test_one_that_is_nowhere_to_be_read_is_set_aside_with_its_jobs_and_costs_no_more() -> None:
    house = a_house(N, O)
    on_n, on_o = ready(house, machine="n"), ready(house, machine="o")
    again = restarted(torn(house.controller.snapshot(), "imported/n", "machine/n"), M)
    assert [row.key for row in again.set_aside()] == ["imported/n", "machine/n", str(on_n)]
    assert names(again) == ["m", "o"]
    assert again.get_job_state(on_n).state == JobState.destroyed
    assert again.get_job_state(on_o).state == JobState.ready
    assert [view.name for view in again.import_machines([N])] == ["n"]
    again.check()


def test_a_fact_that_is_no_json_or_describes_another_machine_is_set_aside() -> None:
    snapshot = a_house(N, O).controller.snapshot()
    snapshot.facts["imported/x"] = snapshot.facts["imported/n"]
    del snapshot.facts["imported/o"]
    bad = UnreadableRow(table="facts", key=("imported/o",), reason="it is torn", row={"value": "{"})
    snapshot.unreadable = [bad]
    again = restarted(snapshot, M)
    assert [(row.key, row.reason) for row in again.set_aside()] == [
        ("imported/o", "it is torn"),
        ("imported/x", "it describes the machine 'n'"),
    ]
    assert names(again) == ["m", "n", "o"]


@given(st.lists(st.tuples(st.sampled_from(["import", "remove", "configure", "restart", "job"]), st.integers(0, 7))))
def test_whatever_comes_and_goes_the_configuration_is_first_and_nothing_is_there_twice(
    steps: list[tuple[str, int]],
) -> None:
    """Machines a, b and c; bit by bit, `number` says which of them."""
    every = [a_machine("a", 1, 1), a_machine("b", 2, 1), a_machine("c", 1, 2)]
    house = House()
    configured: list[Machine] = []
    imported: list[Machine] = []
    for step, number in steps:
        some = [machine for bit, machine in enumerate(every) if number >> bit & 1]
        match step:
            case "import" if any(machine in (*configured, *imported) for machine in some):
                with pytest.raises(RequestError, match="already"):
                    house.controller.import_machines(some)
            case "import":
                house.controller.import_machines(some)
                imported += some
            case "remove":
                for machine in some:
                    if machine in imported:
                        house.controller.remove_machine(machine.name)
                        imported.remove(machine)
            case "configure":
                house.controller.configure(Configuration(some))
                configured, imported = some, [machine for machine in imported if machine not in some]
            case "restart":
                house.controller = restarted(house.controller.snapshot(), *configured)
            case "job" if house.controller.machines:
                house.controller.create_job(1, owner="me")
        house.controller.check()
        assert list(house.controller.machines.values()) == [*configured, *imported]
        assert list(house.controller.imported.values()) == imported
