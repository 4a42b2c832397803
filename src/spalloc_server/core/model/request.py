"""What a user asks for, and which of that makes sense.

Theory of operation. A `Request` checks itself, by whatever door it came: `check` refuses what makes no sense, and
`check_lengths` what would take too much memory. Older servers have taken longer texts, so the latter is for new jobs
only. A request that makes sense but that no machine could serve is not refused: it becomes a job that is cancelled at
once, the answer that published clients understand. How high a `priority` may be is a setting (`core.commands`).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board
from spalloc_server.errors import RequestError

__all__ = ["MAX_TAGS", "MAX_TEXT", "Kind", "Request", "shown"]

MAX_TEXT = 256
"""Characters of an owner, a machine's name and a tag (else an exception), and of a reason that are kept."""

MAX_TAGS = 16
"""Tags of one request (else an exception)."""

MAX_SHOWN = 80
"""Characters of a wrong value that an exception repeats."""

EITHER_MACHINE_OR_TAGS: Final = "machine and tags exclude each other: give the machine's name, or tags, or neither"

Kind: TypeAlias = tuple[object, ...]
"""All of a request that bears on its place, but the number of boards."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a job asks for. Exactly one of `boards`, `triads` and `board` is set.

    A request for one board (`boards == 1` or `board`) is a *single*: it gets one board and no rectangle.

    It is stored as JSON, without fields that have their default. So a default never changes, and a new field needs a
    migration, be it an empty one: an older server must refuse a state whose requests it would not understand.
    """

    owner: str
    boards: int | None = None
    """At least this many boards, as a rectangle of triads (one board where 1)."""
    triads: tuple[int, int] | None = None
    """Exactly (width, height) triads."""
    board: Board | None = None
    """This very board; `machine` says of which machine."""
    machine: str | None = None
    """Only this machine. Never together with `tags`."""
    tags: frozenset[str] = frozenset()
    """Only machines that have all of these; empty where `machine` is given."""
    min_ratio: float = 0.0
    """Least height/width, or width/height, of a rectangle for `boards`; 0 to 1."""
    max_dead_boards: int | None = None
    """Most dead or unreachable boards, of those asked for; None for any number."""
    max_dead_links: int | None = None
    """Most dead links inside the block; None for any number."""
    require_torus: bool = False
    """The block must span an axis on which the machine wraps (with `triads`: the whole machine)."""
    max_runtime: float | None = None
    """Seconds after which the job is ended; None for no bound."""
    priority: int = 0
    """Higher goes first; the configuration bounds it."""
    root: tuple[int, int] | None = None
    """The triad that is to be the bottom-left one of `triads`; None for any."""

    def check(self) -> None:
        """Raise `RequestError` where this makes no sense; its text is for the user."""
        if sum(size is not None for size in (self.boards, self.triads, self.board)) != 1:
            raise RequestError("ask for either boards (a number), or triads (width, height), or board (x, y, z)")
        counts = [("size", size) for size in self.triads or self.board or (self.boards,)]
        counts += [("root", place) for place in self.root or ()]
        counts += [(name, getattr(self, name)) for name in ("max_dead_boards", "max_dead_links", "priority")]
        for name, count in counts:
            if count is not None and abs(count) > MAX_NUMBER:
                right = f"a whole number from {-MAX_NUMBER} to {MAX_NUMBER}"
                raise RequestError(f"{name} must be {right}, not {shown(count)}")
        if self.root is not None and self.triads is None:
            raise RequestError("root is the bottom-left triad of `triads`: give both, or leave root out")
        if self.machine is not None and self.tags:
            raise RequestError(EITHER_MACHINE_OR_TAGS)
        if self.require_torus and self.single:
            raise RequestError("a single board cannot be a torus: ask for more boards, or leave require_torus out")
        if not 0 <= self.min_ratio <= 1:
            raise RequestError(f"min_ratio must be from 0 (any shape) to 1 (square), not {self.min_ratio}")
        if (seconds := self.max_runtime) is not None and not 0 < seconds <= MAX_SECONDS:
            right = "more than 0" if seconds <= 0 else f"at most {MAX_SECONDS:.0f}"
            raise RequestError(f"max_runtime must be {right} seconds, not {seconds}")

    def check_lengths(self) -> None:
        """Raise `RequestError` where there are more tags than `MAX_TAGS`, or a text is longer than `MAX_TEXT`."""
        if len(self.tags) > MAX_TAGS:
            raise RequestError(f"{len(self.tags)} tags given: name at most {MAX_TAGS}")
        for name, text in (
            ("owner", self.owner),
            ("machine", self.machine or ""),
            *(("a tag", tag) for tag in self.tags),
        ):
            if len(text) > MAX_TEXT:
                raise RequestError(f"{name} of {len(text)} characters given: it may have at most {MAX_TEXT}")

    @property
    def single(self) -> bool:
        """Whether this asks for one board, and so for no rectangle."""
        return self.boards == 1 or self.board is not None

    @property
    def asked(self) -> int:
        """Boards asked for; never negative, although sizes may be, which no machine can serve."""
        if self.triads is not None:
            return max(0, BOARDS_PER_TRIAD * self.triads[0] * self.triads[1])
        return max(0, self.boards or 1)

    @property
    def kind(self) -> Kind:
        """What two requests must have in common so that the one for more boards cannot be easier to place."""
        return (
            self.triads,
            self.root,
            self.board,
            self.min_ratio,
            self.max_dead_boards,
            self.max_dead_links,
            self.require_torus,
            self.single,
        )


def shown(value: Any) -> str:
    """Return `value` as an error text repeats it: never long, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or a list in a list in a list ...
        return f"a value of the kind `{type(value).__name__}` that is too large to be shown"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
