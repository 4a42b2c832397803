"""The pages of the documentation, and the tables in them, as the tests that compare them with the code read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "spalloc_server"
DOCS = ROOT / "docs"
PAGES = sorted(page for page in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")) if "_build" not in page.parts)


def page(name: str) -> str:
    return (DOCS / name).read_text()


def table_rows(text: str) -> list[list[str]]:
    """The cells of all tables, without the lines that are headings or rules."""
    lines = text.splitlines()
    heads = {number for number, line in enumerate(lines) if number + 1 < len(lines) and lines[number + 1][:4] == "|---"}
    rows = [line for number, line in enumerate(lines) if line.startswith("| ") and number not in heads]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return [double or single for double, single in re.findall(r"`` (.+?) ``|`([^`]+)`", text)]


def cells(text: str, column: int = 0) -> list[str]:
    """What stands in backticks in this column of all tables."""
    return [span for row in table_rows(text) for span in spans(row[column])]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    return re.split(r"^#+ ", text.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def module_name(path: Path) -> str:
    """`core.job` for the file of that module."""
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
