"""SpiNNMan boots the jobs that the server gives, and discovers each exactly: chips, cores, links, size and wraps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.environments import environment
from tests.conformance.hall import DISCOVERY_SECONDS, REQUIREMENTS, Hall, discovered, expected, hall

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
VERSIONS = tuple(REQUIREMENTS)
AT_ONCE = 4
"""Discoveries side by side: most of a boot is waiting."""
ODD_SIZES = (2, 4, 7, 13, 19, 31)
"""Which versions before 1!7.4 refused, when given less compact than they can be."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(1200, tmp_path_factory.mktemp("large")) as running:
        yield running


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(120, tmp_path_factory.mktemp("hundred")) as running:
        yield running


def check(version: str, info: dict[str, Any]) -> None:
    hosts = {tuple(chip): host for chip, host in info["connections"]}
    assert discovered(version, hosts[0, 0]) == expected(info)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sizes", [(1,), (3,), (24,), (4, 2)], ids=str)
def test_a_job_is_found_as_the_server_tells_it(large: Hall, version: str, sizes: tuple[int, ...]) -> None:
    with large.job(*sizes) as info:
        check(version, info)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_machine_wraps_around(hundred: Hall, version: str) -> None:
    machine = hundred.machine
    with hundred.job(machine.width, machine.height, require_torus=True) as info:
        assert (info["width"], info["height"]) == (12 * machine.width, 12 * machine.height)
        assert len(info["boards"]) == 120
        check(version, info)


@pytest.mark.parametrize("version", VERSIONS)
def test_120_boards_of_a_larger_machine_do_not_wrap(large: Hall, version: str) -> None:
    with large.job(8, 5) as info:
        assert (info["width"], info["height"]) in {(100, 64), (64, 100)}
        check(version, info)


@pytest.mark.parametrize(
    ("version", "sizes"), [("1!7.4.1", range(1, 49)), ("1!7.3.0", ODD_SIZES), ("1!7.0.0", ODD_SIZES)]
)
def test_a_job_for_any_number_of_boards_is_a_machine(large: Hall, version: str, sizes: Any) -> None:
    def one(size: int) -> None:
        with large.job(size) as info:
            assert len(info["boards"]) >= size
            check(version, info)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = {size: pool.submit(one, size) for size in sizes}
    wrong = {size: str(result.exception())[-300:] for size, result in results.items() if result.exception()}
    assert wrong == {}


def test_neighbouring_jobs_find_exactly_their_own_chips(hundred: Hall) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [stack.enter_context(hundred.job(size)) for size in (3, 3, 6, 1)]
        boards = [tuple(board) for info in jobs for board in info["boards"]]
        assert len(boards) == len(set(boards))
        found = list(pool.map(lambda info: discovered("1!7.4.1", info["connections"][0][1]), jobs))
        assert found == [expected(info) for info in jobs]


def test_memory_programs_and_routes_are_loaded_as_network_tester_loads_them(hundred: Hall) -> None:
    python = environment("rig-2.4.1", "rig==2.4.1", "setuptools<81")
    with hundred.job(3) as info:
        done = subprocess.run(
            [python, HERE / "drive_rig_boards.py", info["connections"][0][1]],
            capture_output=True,
            text=True,
            timeout=DISCOVERY_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    all_of_three_boards = len(expected(info)["links"])
    assert json.loads(done.stdout) == {
        "booted": [True, False],
        "size": [16, 16],
        "chips": 144,
        "cores": [18],
        "links": all_of_three_boards,
        "ready": 60,
        "theirs": 60,
        "routes": 20,
        "running": 60,
        "same": 60,
        "left": 0,
    }
