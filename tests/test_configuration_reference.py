"""The reference in docs/configuration.md: its examples load, and it names every key that there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path

import msgspec
import pytest

from spalloc_server.config import toml as config_toml
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Access, Hardware, Health, Limits, Scheduling
from spalloc_server.config.settings import Configuration

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize(("language", "number"), [("toml", 0), ("toml", 1), ("toml", 2), ("python", 0)])
def test_examples_of_the_reference_describe_machines(tmp_path: Path, language: str, number: int) -> None:
    for wiring in (ROOT / "examples").glob("*.csv"):
        shutil.copy(wiring, tmp_path)
    path = tmp_path / f"example.{language}"
    path.write_text(re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[number])
    path.chmod(0o600)
    assert load(path).machines


def rows(text: str) -> dict[str, str]:
    """{name: default} of a table whose first two columns these are."""
    return {
        name: default.strip().strip("`") for name, default in re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE)
    }


def test_the_reference_lists_every_setting() -> None:
    listed = rows(TEXT.partition("## Settings")[2].partition("###")[0])
    groups = {"scheduling", "health", "hardware", "limits", "access"}
    assert set(listed) == {field.name for field in fields(Configuration)} - groups
    defaults = {field.name: field.default for field in fields(Configuration)} | {"machines": [], "ip": '""'}
    assert {name: str(defaults[name]).removesuffix(".0") for name in listed} == listed


@pytest.mark.parametrize("group", [Scheduling, Health, Hardware, Limits, Access])
def test_the_reference_lists_every_option_with_its_default(
    group: type[Scheduling | Health | Hardware | Limits | Access],
) -> None:
    listed = rows(TEXT.partition(f"(`{group.__name__}`)")[2].partition("##")[0])
    expected = msgspec.json.decode(msgspec.json.encode(group()))
    assert {name: default.strip('"') for name, default in listed.items()} == {
        name: f"{value:g}" if isinstance(value, float) and value < 1e5 else str(value).removesuffix(".0")
        for name, value in expected.items()
    }


FORMS: dict[Callable[..., Machine], type[msgspec.Struct]] = {
    Machine.single_board: config_toml._SingleBoard,
    Machine.with_standard_ips: config_toml._StandardIps,
    Machine: config_toml._Explicit,
}


def test_the_reference_lists_the_keys_of_machines_of_many_boards_and_no_others() -> None:
    listed = set(rows(TEXT.partition("### Many boards")[2].partition("## Python files")[0]))
    listed |= set(re.findall(r"^\| `width`, `(\w+)` \|", TEXT, re.MULTILINE)) | {"width"}
    listed |= set(re.findall(r"^\| `(\w+)` \(explicit\) \|", TEXT, re.MULTILINE))
    forms = (config_toml._StandardIps, config_toml._Explicit)
    assert listed == {name for form in forms for name in form.__struct_fields__} - {"name", "tags"}


def test_the_reference_tells_the_addresses_that_follow_by_default() -> None:
    listed = rows(TEXT.partition("### The rule of `standard_ips`")[2].partition("```")[0])
    parameters = signature(Machine.with_standard_ips).parameters
    assert {name: f'"{parameters[name].default}"' for name in listed} == listed


def test_machines_have_the_same_keys_in_toml_and_in_python() -> None:
    for constructor, form in FORMS.items():
        assert set(signature(constructor).parameters) == set(form.__struct_fields__)
    (arguments,) = re.findall(r"`Machine\.single_board\((.+?)\)`", TEXT)
    assert arguments.split(", ") == list(signature(Machine.single_board).parameters)
