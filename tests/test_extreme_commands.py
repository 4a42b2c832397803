"""No line of any client ends the server, keeps it from starting, or costs anybody else a job."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from tests.extremes import LITERALS, Attack, Rig, lines
from tests.house import PATIENCE, Place

OVERFLOWS = b'{"command":"create_job","args":[1e200,1e200],"kwargs":{"owner":"x","keepalive":1}}\n'
"""After which the job's lease ran out, and the server ended and never started again."""


def attack(folder: Path, commands: int, restart_every: int) -> Attack:
    """Send so many commands, with restarts between."""
    with Rig(Place(folder)) as rig:
        attacking = Attack(rig)

        @settings(
            max_examples=commands // 20,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(lines, min_size=20, max_size=20))
        def send(some: list[bytes]) -> None:
            before = attacking.sent
            for line in some:
                attacking.send(line)
            if before // restart_every != attacking.sent // restart_every:
                attacking.restart()

        send()
        attacking.restart()
        attacking.close()
        assert attacking.disconnected < attacking.sent
        assert rig.starts > commands // restart_every
        return attacking


def test_the_line_that_ended_the_server_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with Rig(Place(tmp_path)) as rig:
        attacking = Attack(rig)
        before = rig.ask(lambda: (rig.server.controller.next_id, len(rig.server.controller.list_jobs())))
        for _ in range(3):
            attacking.send(OVERFLOWS)
        assert rig.ask(lambda: (rig.server.controller.next_id, len(rig.server.controller.list_jobs()))) == before
        attacking.restart()
        attacking.close()


def test_a_state_with_the_job_that_ended_the_server_serves_again(tmp_path: Path) -> None:
    """An older version has stored it."""
    place = Place(tmp_path)
    with Rig(place) as rig:
        attacking = Attack(rig)
        attacking.close()
        rig.stop()
        with closing(sqlite3.connect(place.state)) as connection, connection:
            connection.execute(
                "INSERT INTO jobs"
                " (job_id, owner, args, kwargs, keepalive, state, created_at, placements, board_seconds)"
                " VALUES (700, 'x', '[1e200,1e200]', '{}', 1, 1, 1e9, 0, 0)"
            )
        rig.start()
        with attacking.victim() as victim:
            assert {job["owner"] for job in victim.call("list_jobs")} == {"victim"}
            assert victim.call("get_job_state", 700)["reason"].startswith("Cancelled: ")
            assert victim.call("create_job", owner="victim") == 701
        (row,) = rig.ask(rig.server.controller.set_aside)
        assert (row.table, row.key) == ("jobs", "700")
        assert "size must be a whole number" in row.reason
        rig.stop()
        rig.start()
        assert [row.key for row in rig.ask(rig.server.controller.set_aside)] == ["700"]


@pytest.mark.parametrize("literal", LITERALS, ids=range(len(LITERALS)))
def test_every_extreme_value_in_every_place_of_a_job(literal: str, rig_of_all: Attack) -> None:
    for sizes in ("{0}", "{0},{0}", "1,{0}", "{0},0,0"):
        rig_of_all.send(_creation(sizes.format(literal), ""))
    for name in ("owner", "keepalive", "machine", "tags", "min_ratio", "max_dead_boards", "max_dead_links"):
        rig_of_all.send(_creation("2", f'"{name}":{literal}'))
    for name in ("require_torus", "max_runtime", "priority"):
        rig_of_all.send(_creation("2", f'"{name}":{literal}'))
    rig_of_all.look()


@pytest.fixture(scope="module")
def rig_of_all(tmp_path_factory: pytest.TempPathFactory) -> Attack:  # type: ignore[misc]
    """An attack that all literals share; at its end it is seen that what they left can be read again."""
    with Rig(Place(tmp_path_factory.mktemp("rig"))) as rig:
        attacking = Attack(rig)
        yield attacking
        attacking.restart()
        attacking.close()


def _creation(sizes: str, kwargs: str) -> bytes:
    owner = (
        "" if '"owner"' in kwargs else '"owner":"x","keepalive":null' if "keepalive" not in kwargs else '"owner":"x"'
    )
    return (
        f'{{"command":"create_job","args":[{sizes}],"kwargs":{{{",".join(filter(None, (owner, kwargs)))}}}}}\n'.encode()
    )


def test_commands_with_extreme_arguments_end_no_server_and_no_job_of_others(tmp_path: Path) -> None:
    begun = time.monotonic()
    attack(tmp_path, commands=400, restart_every=200)
    assert time.monotonic() - begun < 2 * PATIENCE
