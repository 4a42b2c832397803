"""Write the tables of the documentation that come from the code: `make format` or `make docs` runs this.

    .venv/bin/python docs/make_tables.py            # write what has changed
    .venv/bin/python docs/make_tables.py --check    # only say which pages are not up to date; `make lint` runs this

Theory of operation. A page has `<!-- table: NAME -->` and `<!-- end -->`, and what is between them is replaced by the
table of this name. The text of a table is the docstring below each constant, field, or module: there is no second
place to keep up to date.

A number whose name is in capitals is a limit, or another number that somebody has chosen. It has a docstring, and the
page of limits lists it. Not listed are facts, which nobody can choose: these are `Final`, such as a register's address.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from re import DOTALL, match, sub
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "spalloc_server"
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)

TIMES = {"days": 86400, "h": 3600, "min": 60}
SIZES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


class Described(NamedTuple):
    """A constant or a field, with the docstring below it."""

    name: str
    value: object
    text: str


def module_name(path: Path) -> str:
    """Return `core.job` for the file of that module."""
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


def paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line; bars are escaped, as in a cell of a table."""
    return " ".join((text or "").partition("\n\n")[0].split()).replace("|", "\\|")


def first_line(path: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    return paragraph(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def described(body: list[ast.stmt], values: Callable[[str], object]) -> Iterator[Described]:
    """Yield what is assigned in the body of a module or class, but for what is `Final` or private."""
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        final = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Final")
        if isinstance(target, ast.Name) and not target.id.startswith("_") and not final:
            text = below.value if isinstance(below, ast.Expr) else None
            value = text.value if isinstance(text, ast.Constant) else ""
            yield Described(target.id, values(target.id), paragraph(str(value)))


def limits(path: Path) -> list[Described]:
    """Return the limits that a module defines.

    Raises:
        ValueError: one of them has no docstring.
    """
    module = f"spalloc_server.{module_name(path)}"
    found = [
        each
        for each in described(
            ast.parse(path.read_text(encoding="utf-8")).body, lambda name: getattr(import_module(module), name, None)
        )
        if each.name.isupper() and isinstance(each.value, int | float) and not isinstance(each.value, bool)
    ]
    for each in found:
        if not each.text:
            raise ValueError(f"{module}.{each.name} needs a docstring below it, or `: Final` if it is no limit")
    return found


def amount(limit: Described) -> str:
    """Return a limit's value with its unit, which follows from its name or from the first words of its text."""
    value = limit.value
    assert isinstance(value, int | float)
    seconds = limit.name.endswith(("_SECONDS", "_S", "_s")) or match(r"(\w+ )?seconds\b", limit.text.lower())
    size = limit.name.endswith("_BYTES") or match(r"(\w+ )?bytes\b", limit.text.lower())
    for unit, one in (TIMES if seconds else SIZES if size else {}).items():
        if value >= one and value % one == 0 and value < 1000 * one:
            return f"{value / one:g} {unit}"
    number = f"{int(value):,}" if value == int(value) else f"{value:g}"
    return f"{number}{' s' if seconds else ' bytes' if size else ''}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace(" --- ", "---")


def rooms() -> Iterator[tuple[str, list[Path]]]:
    """Yield (name, modules) of the package and of each folder in it; the name of the package itself is ''."""
    modules = [path for path in SOURCES.rglob("*.py") if not path.name.startswith("_")]
    modules.sort(key=lambda path: (path.parent, path.stem))
    for folder, paths in groupby(modules, key=lambda path: path.parent):
        yield ".".join(folder.relative_to(SOURCES).parts), list(paths)


def title(name: str) -> str:
    """Return the heading of a room: its name, and the first line of its docstring."""
    if not name:
        return "The package itself: names that are published"
    return f"`{name}`: {first_line(SOURCES / name.replace('.', '/') / '__init__.py').rstrip('.')}"


def limits_of_the_code() -> str:
    """Return a table for each room that has limits."""
    parts = []
    for name, paths in rooms():
        rows = [(f"`{path.stem}.{each.name}`", amount(each), each.text) for path in paths for each in limits(path)]
        if rows:
            parts += [f"### {title(name)}", table(("where", "limit", "meaning"), rows)]
    return "\n\n".join(parts)


def fields(module: str, name: str) -> list[Described]:
    """Return the fields of a class that have a default and a docstring."""
    path = SOURCES / f"{module.replace('.', '/')}.py"
    (body,) = (
        node.body
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    default = getattr(import_module(f"spalloc_server.{module}"), name)()
    return [each for each in described(body, lambda field: getattr(default, field, None)) if each.text]


def shown(value: object) -> str:
    """Return a default as a config file in TOML writes it."""
    if isinstance(value, tuple):
        return "`[]`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"{value:g}" if isinstance(value, float) and value < 1e5 else str(value).removesuffix(".0")


def options(found: list[Described]) -> str:
    """Return a table of options with their defaults."""
    return table(("name", "default", "meaning"), [(f"`{each.name}`", shown(each.value), each.text) for each in found])


def timings() -> str:
    """Return the table of `Timings`."""
    return options(fields("hardware.timings", "Timings"))


def group(name: str) -> Callable[[], str]:
    """Return what writes the table of a group of options."""
    return lambda: options(fields("config.options", name))


def settings() -> str:
    """Return the table of the settings that belong to no group."""
    found = fields("config.settings", "Configuration")
    return options([each for each in found if not hasattr(each.value, "__struct_fields__")])


def layers() -> str:
    """Return the layers that `make lint` checks, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    rows = [layer.replace("spalloc_server.", "").split(" | ") for layer in contract["layers"]]
    return "\n".join("- " + ", ".join(f"`{name}`" for name in row) for row in rows)


def rest_operations() -> str:
    """Return the table of what REST offers: paths, methods, what must be permitted, and what is done."""
    from spalloc_server.frontends.http.rest.app import ROUTERS

    rows = []
    for router in ROUTERS:
        routes: Sequence[Any] = router.routes
        for route in routes:
            for handler in sorted(route.route_handlers, key=lambda handler: sorted(handler.http_methods)):
                permission = {**router.opt, **handler.opt}.get("permission")
                path = sub(r"{(\w+):str}", r"{\1}", route.path)
                for method in handler.http_methods - {"OPTIONS"}:
                    cells = f"`{method}`", f"`{path}`", f"`{permission}`" if permission else "", handler.summary
                    rows.append(cells)
    return table(("method", "path", "permission", "what it does"), rows)


def modules() -> str:
    """Return a table for each room, which says what each of its modules is for."""
    parts = []
    for name, paths in rooms():
        rows = [(f"`{module_name(path)}`", first_line(path)) for path in paths]
        parts += [f"### {title(name)}", table(("module", "what it is for"), rows)]
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[], str]] = {
    "REST operations": rest_operations,
    "settings": settings,
    "limits of the code": limits_of_the_code,
    "timings": timings,
    "layers": layers,
    "modules": modules,
    **{name: group(name) for name in ("Scheduling", "Health", "Hardware", "Limits", "Access", "Web")},
}


def written(text: str) -> str:
    """Return a page with its tables as they are in the code."""
    return sub(
        r"(?<=<!-- table: )(.+?) -->\n.*?(?=<!-- end -->)",
        lambda found: f"{found[1]} -->\n\n{TABLES[found[1]]()}\n\n",
        text,
        flags=DOTALL,
    )


def outdated() -> dict[Path, str]:
    """Return {page: what it should be} of the pages whose tables are not those of the code."""
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    return {page: new for page, old in pages.items() if (new := written(old)) != old}


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; return the exit status."""
    found = outdated()
    for page, text in found.items():
        if arguments == ["--check"]:
            print(f"{page.relative_to(ROOT)}: its tables are not those of the code: run `make format`", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
    return 1 if found and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
