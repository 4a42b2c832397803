"""What a user asks for, parsed and checked once."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board

__all__ = ["Kind", "Request"]


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
            self.board,
            self.min_ratio,
            self.max_dead_boards,
            self.max_dead_links,
            self.require_torus,
            self.single,
        )
