"""Tables in a terminal of 80 columns, and what they say of a job's request."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_a_table_loses_nothing_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", "80")
    machine = "the-million-core-machine-of-1200-boards"
    show(("job", "owner", "machine", "state"), [(12, OWNER, machine, "ready")])
    _, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[::3] == ["12", "ready"]
    machine_at = lines[0].index("the-m")
    assert "".join(line[5:machine_at].strip() for line in lines) == OWNER
    assert "".join(line[machine_at:].split()[0] for line in lines if line[machine_at:].strip()) == machine


@pytest.mark.parametrize(
    ("args", "kwargs", "brief", "whole"),
    [
        ([24], PUBLISHED, "24", "24 max_dead_boards=0 min_ratio=0.333 require_torus=False"),
        ([3, 2], {"max_dead_boards": None}, "3 2", "3 2"),
        (
            [],
            {**PUBLISHED, "min_ratio": 0.0, "max_dead_boards": 2, "require_torus": True, "tags": ["big"]},
            "max_dead_boards=2 min_ratio=0.0 require_torus=True tags=['big']",
            "max_dead_boards=2 min_ratio=0.0 require_torus=True tags=['big']",
        ),
        ([], PUBLISHED, "1", "max_dead_boards=0 min_ratio=0.333 require_torus=False"),
    ],
)
def test_a_list_of_jobs_leaves_out_what_every_job_asks_for(
    args: list[Any], kwargs: dict[str, Any], brief: str, whole: str
) -> None:
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
    assert asked(view, briefly=True) == brief
    assert asked(view) == whole
