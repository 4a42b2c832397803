"""The figures that CONTRIBUTING gives are kept."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import QUICK_ROOMS
from tests.pages import ROOT, SOURCES, module_name

MODULE_LINES = 400
BODY_LINES = 40


def bodies(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines of the body, its docstring apart) of every function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=module_name)
def test_modules_and_functions_are_no_longer_than_a_reader_likes(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES
    assert {name: lines for name, lines in bodies(path) if lines > BODY_LINES} == {}


def test_the_folders_of_tests_are_the_rooms_of_the_code() -> None:
    rooms = {path.parent.relative_to(SOURCES).parts[0] for path in SOURCES.glob("*/**/*.py")}
    kinds = {"conformance", "distribution", "torture"}
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders == rooms | kinds
    assert set(QUICK_ROOMS) <= rooms


def asserts(path: Path) -> Iterator[str]:
    """Each `assert` that is neither in a `check` nor tells a type checker that something is there."""
    tree = ast.parse(path.read_text())
    checks: list[ast.AST] = [tree] if path.stem == "check" else []
    checks += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "check"]
    allowed = {id(node) for check in checks for node in ast.walk(check)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and id(node) not in allowed:
            test = node.test
            if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=module_name)
def test_what_protects_users_is_no_assert_which_could_be_turned_off(path: Path) -> None:
    assert list(asserts(path)) == []


def test_mutants_that_no_test_could_tell_are_of_lines_that_there_are() -> None:
    listed = tomllib.loads((ROOT / "tools" / "equivalent_mutants.toml").read_text(encoding="utf-8"))["mutant"]
    lines = {each["module"]: (SOURCES / each["module"]).read_text(encoding="utf-8").splitlines() for each in listed}
    gone = [each for each in listed if each["before"] not in map(str.strip, lines[each["module"]])]
    assert gone == []
