"""The tables of the reference and the code say the same: limits, the log, and the formats that programs read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module

import msgspec
import pytest

from spalloc_server.config.options import Limits, Scheduling
from spalloc_server.core.model.events import JobEvent
from spalloc_server.core.model.rows import Note
from spalloc_server.core.model.views import BoardView, FrameView, JobView, MachineView, SetAsideView
from spalloc_server.core.simulation import Simulation
from spalloc_server.frontends.operators.messages import ServerView, TemperaturesView
from spalloc_server.hardware.timings import Timings
from tests.pages import SOURCES, cells, module_name, page, section, spans, table_rows

# -------------------------------------------------------------------- limits

NOT_LIMITS = {
    "cli.demo.POLL_SECONDS": "how often `--once` looks whether boards are off",
    "cli.demo_look": "what registers of hardware read as",
    "cli.demo_parts.GRACE_SECONDS": "a second word, before the limit",
    "cli.demo_parts.KEPT_LINES": "how much of what a part said is kept, of which the last line is told",
    "cli.demo_view": "how much of a demo is shown",
    "cli.signals.TYPE_CHECKING": "no number",
    "cli.simulate_plot": "how fine a curve is drawn",
    "config.load.WRITABLE_BY_OTHERS": "bits of a file's mode",
    "coordinates": "geometry",
    "core.scheduling.queue.CHUNK": "how a list is copied",
    "core.placement.dead_links.LINKS_A_STEP": "weighs one kind of work against others",
    "core.scheduling.request_kinds.ROUNDING": "how exact numbers are",
    "core.model.power.NO_JOB": "stands for no job",
    "core.placement.shapes.ROUNDING": "how exact numbers are",
    "core.simulation": "how the results of a simulation are told",
    "core.placement.work.BOARD": "weighs one kind of work against others",
    "core.placement.work.START": "weighs one kind of work against others",
    "drawing": "measures of pictures",
    "process.handover.FORMAT": "a version",
    "hardware.blacklist": "where things lie in a board's flash",
    "hardware.bmp.READ_GRACE_S": "what has arrived is read before a timer is believed",
    "hardware.scp": "the form of packets",
    "frontends.v1.commands.NOTHING": "stands for nothing",
    "config.watch.DEFAULT_PORT": "a setting: `port`",
    "server.SIGNAL_TURNS": "what has arrived is heard before the process ends",
    "simulator": "the simulator stands for hardware",
    "process.loop_lag.BEAT_SECONDS": "how exactly stalls are measured",
    "storage.history.PAGE": "how many rows are read at once, of all",
    "storage.state_file.APPLICATION_ID": "says whose a file is",
    "process.upgrade.ACCEPTED_TURNS": "what has arrived is read before a timer is believed",
}
"""Constants of the code that bound nothing which anybody meets, or whole modules of them, and what they are instead."""

TIME = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0}
SIZE = {"bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


def constants() -> dict[str, float]:
    """The numbers that modules define in capitals."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and re.fullmatch("[A-Z][A-Z0-9_]*", target.id):
                    value = getattr(import_module(f"spalloc_server.{module_name(path)}"), target.id)
                    if isinstance(value, int | float):
                        found[f"{module_name(path)}.{target.id}"] = value
    return found


def with_ancestors(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def listed_limits() -> dict[str, tuple[float, str]]:
    """{constant: (value, unit)} of the tables whose last column is a constant."""
    found = {}
    for row in table_rows(page("reference/limits.md")):
        if len(row) == 3 and re.search(r"\.[A-Z_]+`$", row[2]):
            number, _, unit = row[1].partition(" ")
            (name,) = spans(row[2])
            assert name not in found, f"{name} is listed twice"
            found[name] = float(number), unit
    return found


def test_the_reference_tells_what_becomes_of_who_reaches_each_limit() -> None:
    assert set(cells(section(page("reference/limits.md"), "## In the config file"))) == set(Limits.__struct_fields__)


def test_every_limit_in_the_code_is_in_the_reference() -> None:
    limits = {name for name in constants() if not NOT_LIMITS.keys() & set(with_ancestors(name))}
    assert limits == listed_limits().keys()


def test_every_limit_in_the_reference_has_the_value_that_it_has_in_the_code() -> None:
    there = constants()
    for name, (number, unit) in listed_limits().items():
        assert number * {"": 1.0, **TIME, **SIZE}[unit] == there[name], name
        assert (unit in TIME) or "SECONDS" not in name, f"{name}: seconds are told with a unit"


def test_every_constant_that_the_page_of_limits_names_is_compared() -> None:
    named = {span for span in spans(page("reference/limits.md")) if re.fullmatch(r"[a-z0-9_.]+\.[A-Z_]+", span)}
    assert named == listed_limits().keys()


def test_nothing_is_excused_from_being_a_limit_that_is_not_there() -> None:
    assert NOT_LIMITS.keys() <= {each for name in constants() for each in with_ancestors(name)}


def test_the_reference_lists_every_timing_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page("reference/limits.md"), re.MULTILINE))
    assert rows == {field.name: f"{field.default:g}" for field in fields(Timings)}


# -------------------------------------------------------------------- the log

LEVELS = {level: level for level in ("debug", "info", "warning", "error")} | {"exception": "error"}


def events() -> Iterator[tuple[str, str, set[str]]]:
    """(text, level, names of values) of every line that the package logs; `**` where more values are computed."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if "core" in path.parts:  # which does not log; what it calls `defects` are the records of `core.defects`
                continue
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (level := _level(node.func)):
                event = node.args[0]
                if isinstance(event, ast.Name):
                    assert path.name in {"service.py", "defects.py"}, f"{path}:{node.lineno}: the event is no constant"
                else:
                    yield str(ast.literal_eval(event)), level, {keyword.arg or "**" for keyword in node.keywords}


def _level(function: ast.Attribute) -> str | None:
    if function.attr == "complain":  # `Service.complain` logs so many lines a second
        return "warning"
    logger = ast.unparse(function.value)
    if logger == "self" and function.attr in {"note", "contained"}:  # in `DefectLog` itself
        return "error"
    if logger.endswith("defects") and function.attr in {
        "note",
        "contained",
    }:  # `DefectLog` logs each kind now and then
        return "error"
    return LEVELS.get(function.attr) if logger in {"log", "_log", "structlog.get_logger()"} else None


def listed_events() -> dict[str, list[str]]:
    """{event: [level, values]} of the page."""
    rows = table_rows(page("reference/log.md"))
    listed = {spans(row[0])[0].strip(): row[1:3] for row in rows}
    assert len(listed) == len(rows)
    return listed


def test_the_reference_lists_every_event_of_the_log() -> None:
    assert listed_events().keys() == {text for text, _, _ in events()}


def test_the_reference_tells_the_level_of_every_event() -> None:
    assert {text: level for text, (level, _) in listed_events().items()} == {text: level for text, level, _ in events()}


def test_the_reference_names_the_values_of_every_event() -> None:
    values: dict[str, set[str]] = {}
    for text, _, names in events():
        values.setdefault(text, set()).update(names)
    for text, (_, listed) in listed_events().items():
        assert values[text] - {"**"} <= set(spans(listed)), text
        assert "**" in values[text] or values[text] == set(spans(listed)), text


# -------------------------------------------------------------------- what programs read

VIEWS: dict[str, type[msgspec.Struct]] = {
    "### The server": ServerView,
    "### Rows that were set aside": SetAsideView,
    "### Machines": MachineView,
    "### Frames": FrameView,
    "### Boards": BoardView,
    "### Jobs": JobView,
    "### Temperatures": TemperaturesView,
    "### Notes": Note,
}


@pytest.mark.parametrize("heading", VIEWS)
def test_the_reference_lists_every_field_of_the_answers_to_operators(heading: str) -> None:
    listed = cells(section(page("reference/formats.md"), heading))
    assert sorted(listed) == sorted(VIEWS[heading].__struct_fields__)


def test_the_reference_tells_the_answer_of_every_command_that_asks_a_running_server() -> None:
    listed = cells(section(page("reference/formats.md"), "## Answers as JSON"))
    asking = re.findall(r"^### `(.+)`\n\n.*\[WHICH\]$", page("command-line.md"), re.MULTILINE)
    assert sorted(listed) == sorted(asking)


def test_the_reference_lists_the_fields_and_events_of_the_job_log() -> None:
    fields_table, events_table = section(page("reference/formats.md"), "## The job log").split("| event |")
    assert cells(fields_table) == list(JobEvent.__struct_fields__)
    told = set()
    for path in (SOURCES / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._changed":
                told.add(ast.literal_eval(node.args[1]))
    assert set(cells(events_table)) == told


def test_the_example_of_the_job_log_is_a_line_of_it() -> None:
    (line,) = re.findall(r"^    (\{.+\})$", section(page("reference/formats.md"), "## The job log"), re.MULTILINE)
    assert msgspec.json.encode(msgspec.json.decode(line, type=JobEvent)).decode() == line


def test_the_reference_lists_the_figures_of_a_simulation() -> None:
    figures = Simulation({}, [], Scheduling(), 0.0).figures()
    assert cells(section(page("reference/formats.md"), "### `simulate`")) == [*figures, "wall_s"]
