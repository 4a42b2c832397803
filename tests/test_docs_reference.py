"""The tables of the reference and the code say the same: limits, the log, and the formats that programs read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from docs import make_tables
from spalloc_server import errors
from spalloc_server.application.account_commands import AccountView, TokenView
from spalloc_server.application.caller import ROLES
from spalloc_server.application.commands import AnyCommand
from spalloc_server.application.views import ServerView, TemperaturesView
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.effects import JobEvent
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Note
from spalloc_server.core.model.views import BoardView, FrameView, JobView, MachineView, SetAsideView
from spalloc_server.core.simulation import Simulation, TraceJob
from spalloc_server.storage.events import Event
from spalloc_server.storage.reports import Figures, Report
from tests.pages import PAGES, SOURCES, cells, page, section, spans, table_rows

# -------------------------------------------------------------------- limits


def test_the_tables_of_all_pages_are_those_of_the_code() -> None:
    assert [str(path) for path in make_tables.outdated()] == []


def test_every_table_that_comes_from_the_code_is_on_a_page() -> None:
    named = {name for path in PAGES for name in re.findall("^<!-- table: (.+) -->", path.read_text(), re.MULTILINE)}
    assert named == make_tables.TABLES.keys()


def test_a_number_in_capitals_is_a_limit_unless_it_is_final() -> None:
    listed = {each.name: make_tables.amount(each) for each in make_tables.limits(SOURCES / "process" / "handover.py")}
    assert listed == {"MAX_BYTES": "1 GiB"}  # and not FORMAT
    lines, *_ = make_tables.limits(SOURCES / "application" / "command_kinds.py")
    assert lines == ("MAX_REASON", 1000, "Characters of an operator's reason (else an exception).")


def test_a_limit_needs_a_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    def undocumented(body: list[ast.stmt], value: object) -> Iterator[make_tables.Described]:
        yield make_tables.Described("LIMIT", 1, "")

    monkeypatch.setattr(make_tables, "described", undocumented)
    with pytest.raises(ValueError, match=r"handover\.LIMIT needs a docstring"):
        make_tables.limits(SOURCES / "process" / "handover.py")


@pytest.mark.parametrize(
    ("name", "value", "text", "told"),
    [
        ("WAIT_SECONDS", 0.5, "A wait.", "0.5 s"),
        ("WAIT_SECONDS", 7 * 86400.0, "A wait.", "7 days"),
        ("WAIT", 3600.0, "Most seconds of a wait.", "1 h"),
        ("LINE", 2**20, "Bytes of a request.", "1 MiB"),
        ("LINE_BYTES", 100, "A line.", "100 bytes"),
        ("MAX_JOBS", 10_000, "Jobs.", "10,000"),
    ],
)
def test_a_limit_is_told_with_its_unit(name: str, value: float, text: str, told: str) -> None:
    assert make_tables.amount(make_tables.Described(name, value, text)) == told


# -------------------------------------------------------------------- the log

LEVELS = {level: level for level in ("debug", "info", "warning", "error")} | {"exception": "error"}


def events() -> Iterator[tuple[str, str, set[str]]]:
    """(text, level, names of values) of every line that the package logs; `**` where more values are computed."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                "core" in path.relative_to(SOURCES).parts
            ):  # which does not log; what it calls `defects` are the records of `core.defects`
                continue
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (level := _level(node.func)):
                event = node.args[0]
                if isinstance(event, ast.Name):
                    assert path.name in {"logger.py", "defects.py"}, f"{path}:{node.lineno}: the event is no constant"
                else:
                    yield str(ast.literal_eval(event)), level, {keyword.arg or "**" for keyword in node.keywords}


def _level(function: ast.Attribute) -> str | None:
    if function.attr == "complain":  # `Complaints` logs so many lines a second
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


# -------------------------------------------------------------------- the local API socket


def test_the_reference_lists_every_command_with_the_permission_that_it_takes() -> None:
    listed = {
        command: spans(row[1])
        for row in table_rows(section(page("reference/local-api.md"), "## Commands").partition("| command |")[2])
        for command in spans(row[0])
    }
    assert listed == {kind.__struct_config__.tag: [kind.permission] for kind in get_args(AnyCommand)}


def test_the_reference_lists_the_permissions_of_every_role() -> None:
    roles = section(page("reference/local-api.md"), "## Commands").partition("| command |")[0]
    listed = {spans(row[0])[0]: set(spans(row[1])) for row in table_rows(roles)}
    assert listed == ROLES


def test_the_reference_lists_the_code_of_every_error_that_a_request_can_meet() -> None:
    listed = cells(section(page("reference/local-api.md"), "## Lines").partition("| code |")[2])
    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "code")}
    source = (SOURCES / "frontends" / "operators").glob("*.py")
    codes |= {code for path in source for code in re.findall(r'code="([a-z-]+)"', path.read_text())} - {"protocol"}
    assert set(listed) == codes


# -------------------------------------------------------------------- what programs read

VIEWS: dict[str, type[msgspec.Struct]] = {
    "### The server": ServerView,
    "### Rows that were set aside": SetAsideView,
    "### Machines": MachineView,
    "### Frames": FrameView,
    "### Boards": BoardView,
    "### Jobs": JobView,
    "### Temperatures": TemperaturesView,
    "### Accounts": AccountView,
    "### Tokens": TokenView,
    "### Notes": Note,
    "### Reports": Report,
    "### Figures of a report": Figures,
    "### Events": Event,
}


@pytest.mark.parametrize("heading", VIEWS)
def test_the_reference_lists_every_field_of_the_answers_to_operators(heading: str) -> None:
    listed = cells(section(page("reference/formats.md"), heading))
    assert sorted(listed) == sorted(VIEWS[heading].__struct_fields__)


def test_the_reference_tells_the_answer_of_every_command_that_asks_a_running_server() -> None:
    listed = cells(section(page("reference/formats.md"), "## Answers as JSON"))
    asking = re.findall(r"^### `(.+)`\n\n.*\[WHICH\]$", page("command-line.md"), re.MULTILINE)
    assert sorted(listed) == sorted(asking)


EVENT_MAKERS = {"changed", "job_event", "_tell", "_change"}
"""Functions of the core that are told which event it is."""


def test_the_reference_lists_the_fields_and_events_of_the_job_log() -> None:
    fields_table, events_table = section(page("reference/formats.md"), "## The job log").split("| event |")
    assert cells(fields_table) == list(JobEvent.__struct_fields__)
    recorded: set[object] = set()
    for path in (SOURCES / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in EVENT_MAKERS:
                recorded |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    assert set(cells(events_table)) == recorded


def test_the_example_of_the_job_log_is_a_line_of_it() -> None:
    (line,) = re.findall(r"^    (\{.+\})$", section(page("reference/formats.md"), "## The job log"), re.MULTILINE)
    assert msgspec.json.encode(msgspec.json.decode(line, type=JobEvent)).decode() == line


def test_the_reference_lists_the_figures_of_a_simulation() -> None:
    simulation = Simulation({}, [TraceJob(0.0, 1.0, Request(owner="me", boards=1), waited=2.0)], Scheduling(), 0.0)
    truth = [f"true_{name}" for name in simulation.true_waits()]
    told = ["machine", "boards", *simulation.figures(), "wall_s", *truth]
    assert cells(section(page("reference/formats.md"), "### `simulate`")) == told
