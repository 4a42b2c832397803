"""The reference in docs/configuration.md: its examples load, and it names every key that there is."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from spalloc_server import config_toml
from spalloc_server.config_file import load
from spalloc_server.configuration import Access, Configuration, Hardware, Health, Limits, Scheduling

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
    assert {name: str(defaults[name]) for name in listed} == listed


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


def test_the_reference_names_every_key_of_a_machine() -> None:
    forms = (config_toml._SingleBoard, config_toml._StandardIps, config_toml._Explicit)
    keys = {name for form in forms for name in form.__struct_fields__}
    assert {name for name in keys if f"`{name}`" not in TEXT and f"{name} = " not in TEXT} == set()
