"""How operators' answers look to people: tables that fit their terminal, and times as spans.

Theory of operation. A table is as wide as the terminal, or as `COLUMNS` says; in a pipe where nothing says so it is as
wide as it needs to be, a line a row, so that `grep` finds whole rows. Columns without a value are left out. Where the
rest is too wide, headings go on below, then sentences do, and then columns that may be missing are left out. What
somebody has to type again is never cut: it goes on below where it does not fit into a line of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from spalloc_server.core.model import JobView, Note
from spalloc_server.log.text import printable

__all__ = ["ago", "asked", "clock", "due", "noted", "screen", "show", "span"]

_CLIENTS_DEFAULTS: Final[Mapping[str, object]] = {
    "min_ratio": 0.333,
    "max_dead_boards": 0,
    "require_torus": False,
    "keepalive": 60,
    "tags": ["default"],
}
"""What published clients ask for unless they are told otherwise."""

_GAP: Final = "  "
"""Between two columns."""

_LEAST: Final = 16
"""Columns of sentences are not made narrower than this as long as another column can be left out; nor than a word."""

_ENDLESS: Final = 100_000
"""Characters of a line that nothing limits."""


def screen() -> Console:
    """Standard output for tables and maps, as wide as this module's docstring says."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console
    return Console(highlight=False, markup=False, emoji=False, width=_ENDLESS)


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    wrap: Collection[str] = (),
    drop: Sequence[str] = (),
    right: Collection[str] = (),
) -> None:
    """Print a table.

    Args:
        columns: their names.
        rows: their cells; None is an empty one. Columns of numbers are flush right.
        wrap: the columns that go on below where the table is too wide; the others stay whole as long as they can.
        drop: the columns that are left out where that does not suffice, the first one first.
        right: other columns that are flush right.
    """
    console = screen()
    rows = list(rows)
    cells = {
        name: column
        for at, name in enumerate(columns)
        if any(column := ["" if row[at] is None else printable(str(row[at])) for row in rows]) or not rows
    }
    flush = {name for at, name in enumerate(columns) if all(isinstance(row[at], int | float | None) for row in rows)}
    flush |= set(right)
    widths = _widths(cells, wrap, drop, console.width)

    def lines(name: str, cell: str) -> list[str]:
        width = widths[name]
        parts = [cell]
        if cell_len(cell) > width:
            parts = [line.plain.rstrip() for line in Text(cell).wrap(console, width, overflow="fold")]
        blanks = [" " * (width - cell_len(part)) for part in parts]
        return [blank + part if name in flush else part + blank for blank, part in zip(blanks, parts, strict=True)]

    def shown(row: Mapping[str, str]) -> Iterable[str]:
        for parts in zip_longest(*(lines(name, row[name]) for name in widths)):
            line = (part if part is not None else " " * widths[name] for name, part in zip(widths, parts, strict=True))
            yield _GAP.join(line).rstrip()

    for line in shown(dict(zip(columns, columns, strict=True))):
        console.print(Text(line, "bold"), soft_wrap=True)
    for number in range(len(rows)):
        for line in shown({name: cells[name][number] for name in widths}):
            print(line, file=console.file)


def _widths(
    cells: Mapping[str, Sequence[str]], wrap: Collection[str], drop: Sequence[str], room: int
) -> dict[str, int]:
    """The columns that are shown, and how wide each is."""
    inner = {name: max(map(cell_len, column), default=0) for name, column in cells.items()}
    widths = {name: max(width, cell_len(name)) for name, width in inner.items()}
    if _excess(widths, room) <= 0:
        return widths
    widths = {name: max(width, *map(cell_len, name.split())) for name, width in inner.items()}
    comfortable = {name: min(width, _LEAST) if name in wrap else width for name, width in widths.items()}
    for name in drop:
        if _excess(comfortable, room) > 0 and name in comfortable:
            del comfortable[name], widths[name]
    words = {name: max((cell_len(word) for cell in cells[name] for word in cell.split()), default=1) for name in widths}
    _narrow(widths, {name: min(words[name], _LEAST) for name in widths if name in wrap}, room)
    _narrow(widths, dict.fromkeys(widths, 1), room)
    return widths


def _excess(widths: Mapping[str, int], room: int) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1) - room


def _narrow(widths: dict[str, int], least: Mapping[str, int], room: int) -> None:
    """Make the widest of some columns narrower until all fit, or each of these is as narrow as it may be."""
    while _excess(widths, room) > 0:
        names = [name for name in least if widths[name] > least[name]]
        if not names:
            return
        widths[max(names, key=lambda name: widths[name])] -= 1


def asked(view: JobView) -> str:
    """What a job asked for, without what published clients say of every job."""
    sizes = [str(size) for size in view.args if size is not None]
    match sizes:
        case [] | ["1"]:
            what = "1 board"
        case [boards]:
            what = f"{boards} boards"
        case [width, height]:
            what = f"{width}x{height} triads"
        case _:
            what = f"board {','.join(sizes)}"
    wishes = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in view.kwargs.items()
        if value not in (None, []) and value != _CLIENTS_DEFAULTS.get(name)
    ]
    return " ".join([what, *wishes])


def noted(note: Note) -> str:
    """Who closed something, when, and why."""
    return f"by {note.by}, {ago(note.since)} ago: {note.reason}"


def clock(when: float) -> str:
    """A time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def ago(when: float) -> str:
    """How long a time is past."""
    return span(time.time() - when)


def due(when: float) -> str:
    """How long it is until a time."""
    return f"in {span(when - time.time())}" if when > time.time() else "when idle"


def span(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
