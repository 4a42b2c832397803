"""The JSON schema of config files in TOML, for editors: they complete keys, and mark what is wrong.

Theory of operation. msgspec makes it from the very structs that files are decoded into. What a key means is the
docstring below its field, which is read from the sources. A schema knows what each value may be by itself, and not what
does not fit together; `check-config` does.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from textwrap import dedent
from typing import Any

import msgspec

from spalloc_server.config import options, toml
from spalloc_server.config.settings import Configuration

__all__ = ["schema"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return the schema: draft 2020-12, as plain values."""
    whole = msgspec.json.schema(toml.FILE)
    kinds = {name: kind for module in (options, toml) for name, kind in vars(module).items() if isinstance(kind, type)}
    for name, part in whole["$defs"].items():
        told = _descriptions(kinds.get(name, Configuration))
        part["title"] = name.removeprefix("_")
        for field, value in part.get("properties", {}).items():
            if field in told:
                value["description"] = told[field]
    file = whole["$defs"][toml.FILE.__name__]
    file["properties"]["machine"]["description"] = "The machines, the highest priority first."
    file["required"] = ["machine"]
    return {"$schema": _DRAFT, "title": "A config file of spalloc_server", **whole}


def _descriptions(kind: type) -> dict[str, str]:
    """{field of a class: the docstring below it}, those of its bases included."""
    found = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("spalloc_server."):
            source = ast.parse(dedent(inspect.getsource(each)))
            body = next(node.body for node in ast.walk(source) if isinstance(node, ast.ClassDef))
            for field, below in pairwise(body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = " ".join(text.split())
    return found
