"""The schema of config files says what the files themselves may say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.config.schema import schema
from spalloc_server.config.toml import FILE, read_toml
from spalloc_server.errors import ConfigurationError
from tests.pages import ROOT

SCHEMA = schema()
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.toml") if path.name != "faults.toml")


def is_valid(value: Any, kind: dict[str, Any]) -> bool:
    """Whether a value is of a schema, of the keywords that this one uses."""
    if "$ref" in kind:
        return is_valid(value, SCHEMA["$defs"][kind["$ref"].rpartition("/")[2]])
    if "anyOf" in kind:
        return any(is_valid(value, each) for each in kind["anyOf"])
    if "enum" in kind:
        return value in kind["enum"]
    match kind["type"]:
        case "object":
            known = kind["properties"]
            assert kind["additionalProperties"] is False
            return (
                isinstance(value, dict)
                and set(kind["required"]) <= value.keys() <= known.keys()
                and all(is_valid(each, known[key]) for key, each in value.items())
            )
        case "array":
            if not isinstance(value, list):
                return False
            items = kind.get("prefixItems") or [kind["items"]] * len(value)
            return len(items) == len(value) and all(map(is_valid, value, items))
        case "string":
            return isinstance(value, str)
        case "boolean" | "null" as name:
            return isinstance(value, bool) and name == "boolean"
    numbers = isinstance(value, int | float if kind["type"] == "number" else int) and not isinstance(value, bool)
    inclusive = numbers and kind.get("minimum", value) <= value <= kind.get("maximum", value)
    return inclusive and value > kind.get("exclusiveMinimum", value - 1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid_and_name_the_schema(path: Path) -> None:
    text = path.read_text()
    assert is_valid(tomllib.loads(text), SCHEMA)
    (name,) = re.findall(r"^#:schema (\S+)$", text.splitlines()[0])
    assert (path.parent / name).resolve() == (ROOT / "examples" / "spalloc.schema.json").resolve()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "machine = 5",
        "machine = []\nprot = 5",
        "machine = []\nport = 70000",
        "machine = []\nport = true",
        "machine = []\ntimeout_check_interval = 0",
        "machine = []\n[scheduling]\npolicy = 'best'",
        "machine = []\n[access]\nclients = 'all'",
        "[[machine]]\nname = 'm'\nbmp_ip = 'a'\nspinnaker_ip = 'b'",
        "[[machine]]\nform = 'single_board'\nname = 'm'\nbmp_ip = 'a'",
        "[[machine]]\nform = 'standard_ips'\nname = 'm'\nboard_locations = [{board = [0, 0], location = [0, 0, 0]}]",
        "[[machine]]\nform = 'standard_ips'\nname = 'm'\nboard_locations = 'a.csv'\ndead_links = [[0, 0, 0, 'up']]",
    ],
)
def test_what_the_server_refuses_the_schema_refuses_too(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"a\.toml"):
        read_toml(path)
    assert not is_valid(tomllib.loads(text), SCHEMA)


def test_every_key_has_a_description() -> None:
    lacking = {
        f"{name}.{key}"
        for name, part in SCHEMA["$defs"].items()
        for key, value in part["properties"].items()
        if "description" not in value
    }
    assert {each for each in lacking if not re.match(r"_(Board|Frame)(Location|Host)\.|.*\.form$", each)} == set()


def test_all_keys_of_a_file_are_in_it() -> None:
    assert SCHEMA["$defs"]["ConfigurationFile"]["properties"].keys() == set(FILE.__struct_fields__)
