"""The documentation and the code say the same: what one has, the other has, too."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from spalloc_server.application.authentication import accounts_of
from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Access, Health, Limits, Scheduling, Web
from spalloc_server.config.settings import Configuration
from spalloc_server.config.toml import _Explicit, _SingleBoard, _StandardIps
from spalloc_server.controller import Controller, Outcome
from spalloc_server.core.model import replies
from spalloc_server.core.model.arguments import KEYWORDS
from spalloc_server.frontends.v1.commands import COMMANDS
from spalloc_server.frontends.v1.replies import PROTOCOL_VERSION
from spalloc_server.storage.rows import TABLES
from tests.pages import DOCS, PAGES, ROOT, SOURCES, cells, module_name, page, section, spans, table_rows

GROUPS = {"scheduling": Scheduling, "health": Health, "limits": Limits, "access": Access, "web": Web}
SETTINGS = {f"{name}.{setting}" for name, group in GROUPS.items() for setting in group.__struct_fields__}

TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


# -------------------------------------------------------------------- the protocol


def test_the_reference_lists_every_command_of_the_protocol() -> None:
    listed = [name.partition("(")[0] for name in cells(section(page("reference/protocol.md"), "## Commands"))]
    assert listed == list(COMMANDS)
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


# -------------------------------------------------------------------- the state


@pytest.mark.parametrize("table", ["jobs", "releases", "boards", "board_time"])
def test_the_reference_lists_every_column_of_the_state(table: str) -> None:
    text = page("reference/state-schema.md").partition(f"## `{table}`")[2].partition("\n## ")[0]
    assert set(cells(text)) == set(TABLES[table])


def test_the_reference_lists_every_fact_of_the_state() -> None:
    controller = Controller()
    controller.import_machines([Machine.single_board("NAME", bmp_ip="bmp", spinnaker_ip="board")])
    job_id = controller.create_job(owner="OWNER")
    for switch in controller.take_switches():
        controller.switched(Outcome(switch.operation))
    controller.destroy_job(job_id)
    controller.take_changes()
    controller.drain("NAME", reason="why", by="who")
    controller.disable_frame("NAME", (0, 0), reason="why", by="who")
    controller.emergency_stop(reason="why", by="who")
    gone = Machine.single_board("GONE", bmp_ip="gone", spinnaker_ip="gone-board")
    controller.machines = {"GONE": gone}
    controller.disable_board("GONE", (0, 0, 0), reason="why", by="who")
    controller.disable_frame("GONE", (0, 0), reason="why", by="who")
    controller.machines = {}
    listed = set(cells(section(page("reference/state-schema.md"), "## `facts`: all else"))) - {"name", "value"}
    accounts = accounts_of(controller)
    accounts.create("ann", "user")
    accounts.signing_keys()
    assert set(controller.snapshot().facts) == {
        name.replace("CABINET/FRAME", "0/0").replace("NUMBER", "0").replace("BMP", "gone") for name in listed
    }


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(path: Path) -> None:
    assert {name for name in spans(path.read_text()) if re.fullmatch(r"test_\w+", name)} <= names_of_tests()


@cache
def names_of_tests() -> set[str]:
    return {name for file in (ROOT / "tests").rglob("test_*.py") for name in TEST.findall(file.read_text())}


def test_each_row_of_what_survives_what_has_tests() -> None:
    survival, tests = section(page("durability.md"), "## What survives what").split("| row | tests |")
    named = {word.strip() for row in table_rows("| row | tests |" + tests) for word in row[0].split(",")}
    assert {row[0] for row in table_rows(survival)} <= named


def test_pages_are_named_in_the_index() -> None:
    named = set(re.findall(r"^([\w/-]+)$", page("index.md"), re.MULTILINE))
    there = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if DOCS in path.parents}
    assert there - {"index"} == named


def test_every_page_has_a_link_in_the_index_that_readers_see() -> None:
    seen = page("index.md").partition("```{toctree}")[0]
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", seen))
    assert {str(path.relative_to(DOCS)) for path in PAGES if DOCS in path.parents} - {"index.md"} == linked


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
    machine = {"form"}.union(*(form.__struct_fields__ for form in (_Explicit, _SingleBoard, _StandardIps)))
    settings = {field.name for field in fields(Configuration)}
    for name, value in tomllib.loads(code).items():
        if name == "machine":
            assert all(each.keys() <= machine for each in value), where
        elif isinstance(value, dict):
            assert value.keys() <= set(GROUPS[name].__struct_fields__), where
        else:
            assert name in settings or name in machine, where  # some show a part of a machine


def test_the_functions_on_a_jobs_way_exist() -> None:
    names = re.findall(r"`([a-z_]+\.[\w.]+)`", page("explanation/one-job.md"))
    assert len(names) > 30
    for name in names:
        assert resolved(f"spalloc_server.{name}") is not None, name


@cache
def resolved(name: str) -> object:
    """The module, class or function of this dotted name, or a value of it; None where there is none."""
    for dots in range(name.count(".") + 1):
        module, *rest = name.rsplit(".", dots)
        if find_spec_or_none(module):
            found: object = import_module(module)
            for attribute in ".".join(rest).split(".") if rest else []:
                found = getattr(found, attribute, None)
            return found
    return None


def find_spec_or_none(module: str) -> object:
    try:
        return find_spec(module)
    except ModuleNotFoundError:
        return None


# -------------------------------------------------------------------- what docstrings point at


def docstrings(path: Path) -> list[str]:
    """Of the module, and of all that is in it: also those below attributes."""
    statements = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Expr)]
    return [each.value for each in statements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


@cache
def classes_of_the_code() -> dict[str, list[str]]:
    """{class: modules that have one of this name}."""
    found: dict[str, list[str]] = {}
    for path in SOURCES.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module_name(path))
    return found


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=module_name)
def test_names_and_pages_in_docstrings_exist(path: Path) -> None:
    package = module_name(path).rpartition(".")[0]
    for text in docstrings(path):
        for name in re.findall(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)`", text):
            modules = ["", package, *classes_of_the_code().get(name.partition(".")[0], [])]
            names = [".".join(filter(None, ("spalloc_server", module, name))) for module in modules]
            assert name in SETTINGS or any(resolved(each) is not None for each in (*names, name)), name
        for name in re.findall(r"\bdocs/[\w./-]+\w", text):
            assert (ROOT / name).exists(), name


# -------------------------------------------------------------------- what pages have a user create


def test_git_ignores_what_the_pages_have_a_user_create_in_the_checkout(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)
    created = set[str]()
    for path in PAGES:
        for line in re.findall(r"^ +(\S.*)$", path.read_text(), re.MULTILINE):
            created |= set(re.findall(r"-m venv ([\w.]+)", line))
            created |= set(re.findall(r"(?:^|> |--svg |-config |_server )([a-z][\w-]*\.(?:toml|csv|svg))\b", line))
    assert {"spalloc", "hall.toml", "desk.toml", "hall.svg"} <= created
    for name in created:
        (tmp_path / name).touch() if "." in name else (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / f".{name}.state.db-wal").touch()
    (tmp_path / "spalloc" / "bin" / "python").touch()
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    told = subprocess.run(status, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == "?? .gitignore\n"
