"""The documentation and the code say the same: what one has, the other has, too."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from spalloc_server.cli.admin import main as admin
from spalloc_server.cli.serve import main as serve
from spalloc_server.config_toml import _Explicit, _SingleBoard, _StandardIps
from spalloc_server.controller import Controller, Outcome
from spalloc_server.core import replies
from spalloc_server.core.request import KEYWORDS
from spalloc_server.hardware.timings import Timings
from spalloc_server.machine import Machine
from spalloc_server.options import Limits
from spalloc_server.protocol.commands import COMMANDS, PROTOCOL_VERSION
from spalloc_server.storage.rows import TABLES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")) if "_build" not in page.parts)

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OPTIONS_OF_OTHERS = {"--group", "--hostname", "--info", "--no-destroy", "--owner", "--resume", "--upgrade"}
"""Of published clients and of pip."""


def page(name: str) -> str:
    return (DOCS / name).read_text()


def cells(text: str, column: int = 0) -> list[str]:
    """What stands in backticks in this column of all tables."""
    rows = [re.split(r"(?<!\\)\|", line)[1:] for line in text.splitlines() if line.startswith("| ")]
    spans = [span for row in rows for span in re.findall(r"`` (.+?) ``|`([^`]+)`", row[column])]
    return [double or single for double, single in spans]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    return re.split(r"^#+ ", text.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def commands(group: click.Command = admin, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by its full name."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for each in group.list_commands(context):
            command = group.get_command(context, each)
            assert command is not None
            yield from commands(command, f"{name} {each}".strip())
    else:
        yield name, group


def options(command: click.Command) -> set[str]:
    opts = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    return {option for option in opts if option.startswith("--")}


# -------------------------------------------------------------------- the command line


def test_the_options_of_the_server_are_those_that_the_reference_lists() -> None:
    listed = set(OPTION.findall(" ".join(cells(page("command-line.md").partition("## `spalloc-admin`")[0]))))
    assert listed == options(serve) | {"--help"}


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_a_section_with_all_of_its_options_and_no_others(name: str) -> None:
    text = section(page("command-line.md"), f"### `{name}`")
    usage = f"    spalloc-admin {name}"
    assert usage in text
    listed = {option for line in text.splitlines() if line.startswith(usage) for option in OPTION.findall(line)}
    every_command_of_operators_has = {"--config", "--state", "--json"} if "[WHICH]" in text else set()
    assert listed | every_command_of_operators_has == options(dict(commands())[name])


def test_every_section_of_the_reference_is_a_command() -> None:
    assert set(re.findall(r"^### `(.+)`$", page("command-line.md"), re.MULTILINE)) == {name for name, _ in commands()}


def test_every_option_that_any_page_names_exists() -> None:
    existing = options(serve).union({"--help"}, *(options(command) for _, command in commands()))
    tests_and_docs = {"--run-conformance", "--run-torture"}
    for path in [path for path in PAGES if path.name != "conformance.md"]:  # which names those of published clients
        named = set(OPTION.findall(" ".join(re.findall(r"`[^`\n]+`", path.read_text()))))
        assert named <= existing | OPTIONS_OF_OTHERS | tests_and_docs, path


def examples() -> list[str]:
    """Lines of blocks of code that call this project's commands."""
    found = set()
    for path in PAGES:
        text = re.sub(r"^```(?!sh|console|$).*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^(?: {4,}|(?:\$ ))(.+)$", text, re.MULTILINE):
            command = line.partition("  #")[0].removeprefix("$ ").strip()
            if re.match(r"(\S*/)?(spalloc-admin|spalloc[_-]server|make)( |$)", command):
                found.add(command)
    return sorted(found)


@pytest.mark.parametrize("line", [line for line in examples() if "[" not in line])
def test_every_command_in_the_docs_can_be_given(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {argument for argument in arguments if "=" not in argument} <= targets
        return
    command: click.Command = admin if program.endswith("admin") else serve
    while isinstance(command, click.Group):
        context = command.make_context(program, arguments)
        _, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command = found
    if not {"--help", "--version"}.intersection(arguments):
        command.make_context(program, arguments)


# -------------------------------------------------------------------- the protocol


def test_the_reference_lists_every_command_of_the_protocol() -> None:
    listed = [name.partition("(")[0] for name in cells(section(page("reference/protocol.md"), "## Commands"))]
    assert tuple(listed) == COMMANDS
    assert f'`"{PROTOCOL_VERSION}"`' in page("reference/protocol.md")


def test_the_reference_lists_every_keyword_of_create_job() -> None:
    assert (
        set(cells(section(page("reference/protocol.md"), "### `create_job`"))) - {"1", "n", "w, h", "x, y, z"}
        == KEYWORDS
    )


def test_the_reference_names_every_field_of_replies() -> None:
    text = section(page("reference/protocol.md"), "### Replies")
    named = set(re.findall(r"`(\w+)`", text))
    for kind in ("JobStatus", "JobMachineInfo", "JobDescription", "MachineDescription", "WhereIs"):
        assert set(getattr(replies, kind).__struct_fields__) <= named, kind


# -------------------------------------------------------------------- limits


def test_the_reference_tells_what_becomes_of_who_reaches_each_limit() -> None:
    assert set(cells(section(page("reference/limits.md"), "## In the config file"))) == set(Limits.__struct_fields__)


def test_the_limits_in_the_code_are_those_in_the_reference() -> None:
    rows = re.findall(r"^\| [^|`]+ \| ([\d.]+)(?: s)? \| `([\w.]+)` \|$", page("reference/limits.md"), re.MULTILINE)
    assert len(rows) > 20
    for value, name in rows:
        module, _, constant = name.rpartition(".")
        assert getattr(import_module(f"spalloc_server.{module}"), constant) == float(value), name


def test_the_reference_lists_every_timing_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page("reference/limits.md"), re.MULTILINE))
    assert rows == {field.name: f"{field.default:g}" for field in fields(Timings)}


# -------------------------------------------------------------------- the log


def events() -> set[str]:
    """The text of every line that the package logs."""
    found = set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log(node.func):
                event = node.args[0]
                if isinstance(event, ast.Name):
                    assert path.name == "service.py", f"{path}:{node.lineno}: the event must be a constant text"
                else:
                    found.add(str(ast.literal_eval(event)))
    return found


def _is_log(function: ast.Attribute) -> bool:
    if function.attr == "complain":  # `Service.complain` logs so many lines a second
        return True
    logger = ast.unparse(function.value)
    levels = {"debug", "info", "warning", "error", "critical", "exception"}
    return function.attr in levels and logger in {"log", "_log", "structlog.get_logger()"}


def test_the_reference_lists_every_event_of_the_log() -> None:
    assert {event.strip() for event in cells(page("reference/log.md"))} == events()


# -------------------------------------------------------------------- the state


@pytest.mark.parametrize("table", ["jobs", "releases", "boards"])
def test_the_reference_lists_every_column_of_the_state(table: str) -> None:
    text = page("reference/state-schema.md").partition(f"## `{table}`")[2].partition("\n## ")[0]
    assert set(cells(text)) == set(TABLES[table])


def test_the_reference_lists_every_fact_of_the_state() -> None:
    controller = Controller()
    controller.machines = {"NAME": Machine.single_board("NAME", bmp_ip="bmp", spinnaker_ip="board")}
    job_id = controller.create_job(owner="OWNER")
    for switch in controller.take_switches():
        controller.switched(Outcome(switch.operation))
    controller.destroy_job(job_id)
    controller.drain("NAME", reason="why", by="who")
    controller.disable_frame("NAME", (0, 0), reason="why", by="who")
    controller.emergency_stop(reason="why", by="who")
    listed = set(cells(section(page("reference/state-schema.md"), "## `facts`: all else"))) - {"name", "value"}
    assert set(controller.snapshot().facts) == {name.replace("CABINET/FRAME", "0/0") for name in listed}


def test_history_has_the_columns_of_jobs() -> None:
    assert TABLES["history"] == TABLES["jobs"]
    assert "The same columns." in section(page("reference/state-schema.md"), "## `history`: those that have ended")


# -------------------------------------------------------------------- everything that pages point at


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target = link.partition("#")[0]
        assert link.startswith(("https://", "#")) or (path.parent / target).exists(), link
    for name in re.findall(
        r"\b((?:tests|src|examples|benchmarks|docs)/[\w./-]+\.(?:py|toml|csv|md|c|service|sql))\b", text
    ):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
        assert find_spec(module) is not None, module


def test_pages_are_named_in_the_index() -> None:
    named = set(re.findall(r"^([\w/-]+)$", page("index.md"), re.MULTILINE))
    there = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if DOCS in path.parents}
    assert there - {"index"} == named


def test_the_layers_are_those_that_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = section(page("architecture.md"), "## Layers")
    drawn = [re.split(r" {2,}", line.strip())[0] for line in text.splitlines() if line.startswith("    ")]
    assert drawn == [layer.replace("spalloc_server.", "") for layer in contracts[0]["layers"]]


def test_the_modules_that_architecture_names_exist() -> None:
    for name in cells(section(page("architecture.md"), "## Where to look"), column=1):
        assert find_spec(f"spalloc_server.{name}") is not None, name


def fenced(language: str) -> list[tuple[str, str]]:
    """(page, code) of the blocks in a language."""
    blocks = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(str(path.relative_to(ROOT)), code) for path in PAGES for code in blocks.findall(path.read_text())]


@pytest.mark.parametrize(("where", "code"), fenced("python"))
def test_python_in_the_docs_is_python(where: str, code: str) -> None:
    for node in ast.walk(compile(code, where, "exec", ast.PyCF_ONLY_AST)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spalloc_server"):
            module = import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), where


@pytest.mark.parametrize(("where", "code"), fenced("toml"))
def test_toml_in_the_docs_has_keys_that_exist(where: str, code: str) -> None:
    machines = tomllib.loads(code).get("machine", [])
    keys = {"form"}.union(*(form.__struct_fields__ for form in (_Explicit, _SingleBoard, _StandardIps)))
    assert all(machine.keys() <= keys for machine in machines), where


def test_the_functions_on_a_jobs_way_exist() -> None:
    names = re.findall(r"`([a-z_]+\.[\w.]+)`", page("explanation/one-job.md"))
    assert len(names) > 30
    for name in names:
        assert resolved(f"spalloc_server.{name}") is not None, name


def resolved(name: str) -> object:
    """The module, class or function of this dotted name."""
    for dots in range(name.count(".")):
        module, *rest = name.rsplit(".", dots)
        if find_spec_or_none(module):
            return reduce(getattr, rest, import_module(module))
    return None


def find_spec_or_none(module: str) -> object:
    try:
        return find_spec(module)
    except ModuleNotFoundError:
        return None
