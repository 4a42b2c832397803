"""Tables in a terminal of 80 columns, and what they say of a job's request."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from spalloc_server.cli.tables import asked, show
from spalloc_server.core.model.views import JobView

OWNER = "somebody-with-a-long-name@far.away.example.org"
PUBLISHED: dict[str, Any] = {
    "machine": None,
    "max_dead_boards": 0,
    "max_dead_links": None,
    "min_ratio": 0.333,
    "require_torus": False,
    "tags": ["default"],
}
"""What the published client sends with every job."""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Its lines without colours; none is longer than the terminal, or ends with a space."""
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert not [line for line in lines if line != line.rstrip()]
    return lines


@pytest.mark.usefixtures("terminal")
def test_a_table_loses_nothing_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    machine = "the-million-core-machine-of-1200-boards"
    show(("job", "owner", "machine", "state"), [(12, OWNER, machine, "ready")])
    _, *lines = printed(capsys)
    assert lines[0].split()[::3] == ["12", "ready"]
    machine_at = lines[0].index("the-m")
    assert "".join(line[5:machine_at].strip() for line in lines) == OWNER
    assert "".join(line[machine_at:].split()[0] for line in lines if line[machine_at:].strip()) == machine


@pytest.mark.usefixtures("terminal")
def test_sentences_go_on_below_and_names_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(12, OWNER, "the BMP of the frame does not answer, and has not for a week", "10.11.12.13")]
    show(("job", "owner", "why", "from"), rows, wrap=("why",), drop=("from",))
    _, *lines = printed(capsys)
    assert OWNER in lines[0]
    assert len(lines) > 1
    assert (
        " ".join(" ".join(lines).replace(OWNER, "").split())
        == "12 the BMP of the frame does not answer, and has not for a week"
    )


@pytest.mark.usefixtures("terminal")
def test_columns_are_left_out_only_where_the_rest_would_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    columns = ("owner", "why", "age", "from")
    show(columns, [(OWNER, "it rests", "2 h", "host")], wrap=("why",), drop=("from", "age"))
    assert printed(capsys)[0].split() == list(columns)
    show(columns, [(OWNER, "it rests", "2 h", "a.host.example.org")], wrap=("why",), drop=("from", "age"))
    assert printed(capsys)[0].split() == ["owner", "why", "age"]
    show(columns, [(OWNER * 2, "it rests", "2 h", "host")], wrap=("why",), drop=("from", "age"))
    assert printed(capsys)[0].split() == ["owner", "why"]


@pytest.mark.usefixtures("terminal")
def test_wide_characters_take_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(("owner", "state"), [("神経" * 30, "ready"), ("ann", "queued")])
    lines = printed(capsys)
    assert "".join(line.split()[0] for line in lines[1:-1]) == "神経" * 30
    assert cell_len(lines[1].partition("ready")[0]) == lines[-1].index("queued")


def test_columns_without_a_value_are_left_out_and_numbers_are_flush_right(capsys: pytest.CaptureFixture[str]) -> None:
    show(("job", "machine", "boards"), [(7, None, 3), (12, "", None)])
    assert capsys.readouterr().out == "job  boards\n  7       3\n 12\n"
    show(("job", "machine"), [])
    assert capsys.readouterr().out == "job  machine\n"


def test_in_a_pipe_a_row_is_a_line_unless_the_environment_says_how_wide_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = (OWNER, "the BMP does not answer " * 20)
    monkeypatch.delenv("COLUMNS", raising=False)
    show(("owner", "why"), [row], wrap=("why",))
    assert capsys.readouterr().out.splitlines()[1] == "  ".join(row).rstrip()
    monkeypatch.setenv("COLUMNS", "80")
    show(("owner", "why"), [row], wrap=("why",))
    assert len(printed(capsys)) > 2


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ([24], PUBLISHED, "24 boards"),
        ([24, None], {"keepalive": 60.0}, "24 boards"),
        ([3, 2], {"max_dead_boards": None}, "3x2 triads"),
        ([3, 2, 0], {"machine": "m"}, "board 3,2,0 machine=m"),
        (
            [],
            {**PUBLISHED, "min_ratio": 0.0, "max_dead_boards": 2, "require_torus": True, "tags": ["big", "new"]},
            "1 board max_dead_boards=2 min_ratio=0.0 require_torus=True tags=big,new",
        ),
        ([], PUBLISHED, "1 board"),
    ],
)
def test_what_every_published_client_asks_for_is_left_out(args: list[Any], kwargs: dict[str, Any], told: str) -> None:
    view = JobView(
        job_id=1,
        owner=OWNER,
        state="ready",
        power=True,
        args=args,
        kwargs=kwargs,
        host=None,
        keepalive=60.0,
        machine="m",
        boards=[],
        created_at=0.0,
        allocated_at=None,
        ready_at=None,
        ended_at=None,
        placements=1,
        reason=None,
    )
    assert asked(view) == told


@pytest.mark.usefixtures("terminal")
def test_sentences_become_narrow_before_names_are_broken(capsys: pytest.CaptureFixture[str]) -> None:
    machine = "the-million-core-machine-of-1200-boards"
    row = (
        machine,
        "3,1,2 4,1,0 4,1,1 4,1,2",
        "0/3/0-5, 7, 9, 11, 13, 15",
        "out of service",
        "it smells of burnt resin",
    )
    show(("machine", "boards", "c/f/b", "state", "remarks"), [row], wrap=("boards", "c/f/b", "state", "remarks"))
    _, *lines = printed(capsys)
    assert lines[0].split()[0] == machine
    words = sorted(word for cell in row for word in cell.split())
    assert sorted(" ".join(lines).split()) == words
