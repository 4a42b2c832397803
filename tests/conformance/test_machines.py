"""Every job is a machine for the published tools: SpiNNMachine builds it from the chips that SCAMP would find.

Jobs come from the core, in virtual time. Which boards they have and which links work between them is what the hardware
was told (`tests.worlds`), the coordinates are what SCAMP's rule gives (`tests.scamp_rule`), and four published versions
of SpiNNMachine judge them (`tests.conformance.judges`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import Board, board_to_chip
from tests.conformance.judges import Judges
from tests.core.machines import a_machine
from tests.scamp_rule import Job, working_links

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    with Judges() as judges:
        yield judges


def test_the_judges_refuse_what_is_no_machine(judges: Judges) -> None:
    boards: frozenset[Board] = frozenset({(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)})
    machine = a_machine("m", 8, 8)
    verdicts = judges.judge([("four boards", _left_alone(machine, boards, (16, 28)))])
    assert set(verdicts.complaints) == {"6.0.0", "7.0.0", "7.3.0", "SCAMP's rule"}, verdicts
    column = boards - {(0, 1, 0)} | {(0, 1, 0), (0, 1, 1)}
    verdicts = judges.judge([("no ring", _left_alone(machine, column, (16, 24)))])
    assert len(verdicts.complaints) == 5, verdicts
    assert "wrap around in y, and no link does" in verdicts.complaints["7.4.1"]["no ring"]


def _left_alone(machine: Machine, boards: frozenset[Board], size: tuple[int, int]) -> Job:
    """Boards whose links to each other all work, whatever the core would do about them."""
    ends = working_links(machine.width, machine.height, boards, machine.dead_links, ())
    return Job(boards, ends, size, {board: board_to_chip(*board) for board in boards})
