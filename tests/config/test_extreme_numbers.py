"""Numbers from outside are bounded where they enter, whoever sends them, and generously."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from spalloc_server.application import commands
from spalloc_server.cli.simulate import simulate
from spalloc_server.cli.traces import TraceError, from_trace
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.machine_parts import MAX_TRIADS
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS, Health, Limits, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model.arguments import parse_keepalive, parse_request
from spalloc_server.errors import ConfigurationError, RequestError
from tests.core.house import House
from tests.core.machines import a_machine

TEN_YEARS = 315_360_000.0


@pytest.mark.parametrize("keepalive", [0, -5, 0.001, TEN_YEARS, str(TEN_YEARS), MAX_SECONDS, -MAX_SECONDS, True])
def test_keepalives_that_somebody_could_mean_are_taken(keepalive: Any) -> None:
    assert parse_keepalive(keepalive) == float(keepalive)


@pytest.mark.parametrize(
    "keepalive", [1e200, -1e200, "1e400", "nan", "-inf", math.inf, math.nan, 10**400, "9" * 5000, []]
)
def test_keepalives_that_nobody_can_mean_are_refused(keepalive: Any) -> None:
    with pytest.raises(RequestError, match="keepalive must be a number of seconds, at most 10000000000") as refusal:
        parse_keepalive(keepalive)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "sizes", [(10**6,), (2**31,), (10**12,), (10**6, 10**6), (MAX_NUMBER,), (MAX_NUMBER, MAX_NUMBER)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_sizes_that_are_merely_too_large_make_a_job_that_is_cancelled(sizes: tuple[int, ...], sign: int) -> None:
    house = House(a_machine("m", 2, 2))
    status = house.controller.get_job_state(house.create(*(sign * size for size in sizes)))
    assert (status.reason or "").startswith("Cancelled: No suitable machines available.")


@pytest.mark.parametrize(
    "number",
    [MAX_NUMBER + 1, -MAX_NUMBER - 1, 1e200, -1e200, 2.0**60, 10**40, -(10**40), 10**400, 10**5000, math.inf, math.nan],
    ids=range(11),
)
@pytest.mark.parametrize("where", ["size", "max_dead_boards", "max_dead_links", "priority"])
def test_absurd_numbers_are_refused_with_a_short_text(number: Any, where: str) -> None:
    args, kwargs = ((number,), {}) if where == "size" else ((2,), {where: number})
    with pytest.raises(RequestError, match=f"{where}") as refusal:
        parse_request(args, {"owner": "me", **kwargs})
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("name", ["owner", "machine", "tags", "colour", "min_ratio", "max_runtime", "require_torus"])
def test_a_whole_number_of_thousands_of_digits_is_no_defect(name: str) -> None:
    house = House(a_machine("m", 2, 2))
    number = 10**5000
    if name == "require_torus":  # anything counts as true or false
        job_id = house.controller.create_job(2, owner="me", require_torus=number)
        (job,) = house.controller.list_jobs()
        assert (job.job_id, job.kwargs) == (job_id, {"require_torus": True})
        return
    kwargs: dict[str, Any] = {"owner": "me", name: number}
    with pytest.raises(RequestError):
        house.controller.create_job(2, **kwargs)
    assert house.controller.list_jobs() == []
    assert house.controller.next_id == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308", "1e11", "9" * 400, "9" * 5000, "-1"], ids=range(8))
@pytest.mark.parametrize(
    "key",
    [
        *("timeout_check_interval", "seconds_before_free", "max_retired_jobs", "history_days", "scheduling.half_life"),
        *("scheduling.max_priority", "health.quarantine_seconds", "hardware.pace_seconds", "limits.queued_jobs"),
    ],
)
def test_settings_that_nobody_can_mean_are_refused(key: str, value: str, tmp_path: Path) -> None:
    if value == "1e11" and key in {"max_retired_jobs", "scheduling.max_priority", "limits.queued_jobs"}:
        value = "1e17"
    group, _, name = key.rpartition(".")
    config = tmp_path / "config.toml"
    config.write_text((f"[{group}]\n" if group else "") + f"{name} = {value}\n")
    config.chmod(0o600)
    with pytest.raises(ConfigurationError, match=str(config)):
        load(config)


def test_settings_that_somebody_could_mean_are_taken() -> None:
    Configuration([], seconds_before_free=TEN_YEARS, max_retired_jobs=10**9, history_days=100_000)
    Scheduling(half_life=TEN_YEARS, max_priority=10**6)
    Health(quarantine_seconds=TEN_YEARS)
    Limits(queued_jobs=10**9, line_bytes=2**40)


@pytest.mark.parametrize("size", [(10**9, 10**9), (1, MAX_TRIADS + 1), (10**5000, 1), (2**63, 2**63)], ids=range(4))
def test_a_machine_far_too_large_is_refused_at_once(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="triads are more than a machine may have"):
        Machine("m", width=size[0], height=size[1])


def test_a_board_far_away_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="more than a machine may have"):
        Machine.with_standard_ips("m", board_locations={(10**9, 10**9, 0): (0, 0, 0)})
    with pytest.raises(ConfigurationError, match="each up to"):
        Machine.with_standard_ips("m", board_locations={(0, 0, 0): (0, 0, 10**400)})


@pytest.mark.parametrize("machine", ["99999x99999", "1000000000000000000x1", "9" * 5000 + "x2"], ids=range(3))
def test_a_machine_far_too_large_cannot_be_simulated(machine: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("submit_s,duration_s,owner,request\n0,1,me,1\n")
    result = CliRunner().invoke(simulate, [str(trace), "--machine", machine])
    assert result.exit_code == 1
    assert not isinstance(result.exception, MemoryError | ValueError)


@pytest.mark.parametrize(
    "line",
    [
        "1e11,1,me,1",
        "0,1e300,me,1",
        "nan,1,me,1",
        "0,inf,me,1",
        "-1,1,me,1",
        "0,1,me," + "9" * 20,
        "0,1,me," + "9" * 5000,
    ],
)
def test_a_trace_with_absurd_numbers_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(f"submit_s,duration_s,owner,request\n{line}\n")
    with pytest.raises(TraceError, match="line 2"):
        from_trace(trace)


@pytest.mark.parametrize("boards", ["9" * 20, "9" * 5000], ids=range(2))
def test_so_is_one_of_the_standard_workload_format(boards: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.swf"
    trace.write_text(f"1 0 0 10 {boards} 0 0 {boards} 0 0 1 1 1 1 1 1 1 1\n")
    with pytest.raises(TraceError, match="line 1"):
        from_trace(trace)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60), 10**300], ids=range(3))
def test_operators_numbers_and_reasons_are_bounded(number: int) -> None:
    for request in (
        {"command": "kill", "job_id": number, "reason": "why"},
        {"command": "disable board", "machine": "m", "x": number, "y": 0, "z": 0, "reason": "why"},
        {"command": "disable frame", "machine": "m", "cabinet": 0, "frame": number, "reason": "why"},
        {"command": "kill", "job_id": 1, "reason": "y" * 10_000},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(request), type=commands.AnyCommand)
