"""A chip's router: its table of multicast routes, and the fixed route.

Theory of operation. The table has 1,024 entries, of which entry 0 is SCAMP's own. Entries are allocated to applications
before routes are loaded into them, and given back when the application is stopped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["ENTRIES", "Router"]

ENTRIES: Final = 1024
ENTRY: Final = struct.Struct("<2xBx3I")
"""An entry as clients read it back: application, route, key, mask."""
LOADED: Final = struct.Struct("<2H3I")
"""An entry as clients load it: index, -, route, key, mask."""
UNUSED: Final = (0, 0xFF000000, 0xFFFFFFFF, 0)
END_MARK: Final = 0xFFFF


class _Range(NamedTuple):
    """Entries of one application."""

    first: int
    size: int
    app: int


class Router:
    """Routes by entry, and which entries are allocated to which application."""

    __slots__ = ("_entries", "_ranges", "fixed_route")

    def __init__(self) -> None:
        self._entries: dict[int, tuple[int, int, int, int]] = {}
        self._ranges: list[_Range] = []
        self.fixed_route = 0

    def allocate(self, count: int, app: int) -> int:
        """Return the first of `count` entries, 0 where there is no room."""
        first = next((at for at, room in self._gaps() if 0 < count <= room), 0)
        if first:
            self._ranges.append(_Range(first, count, app))
        return first

    def load(self, table: bytes, first: int, app: int) -> bool:
        """Load a table from entry `first` on, up to its end mark; False where an entry is outside of the router."""
        routes = {}
        for index, _, route, key, mask in LOADED.iter_unpack(table[: len(table) // LOADED.size * LOADED.size]):
            if index == END_MARK:
                break
            if first + index >= ENTRIES:
                return False
            routes[first + index] = (app, route, key, mask)
        self._entries.update(routes)
        return True

    def free(self, first: int) -> bool:
        """Give entries back, by the first of them; whether there were any."""
        return self._drop([each for each in self._ranges if each.first == first]) > 0

    def free_app(self, app: int, mask: int = 0xFF) -> int:
        """Give all entries of the applications whose number fits back; how many ranges there were."""
        count = self._drop([each for each in self._ranges if each.app & mask == app & mask])
        for number in [number for number, entry in self._entries.items() if entry[0] & mask == app & mask]:
            del self._entries[number]
        return count

    def clear(self) -> None:
        """Forget all routes, and all allocations of entries."""
        self._entries.clear()
        self._ranges.clear()

    @property
    def largest(self) -> int:
        """The most entries that one allocation could have."""
        return max(room for _, room in self._gaps())

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """(first entry, entries) between the ranges, in order; some are empty."""
        at = 1
        for taken in [*sorted(self._ranges), _Range(ENTRIES, 0, 0)]:
            yield at, taken.first - at
            at = taken.first + taken.size

    def copy(self) -> bytes:
        """The table as SCAMP keeps a copy of it in memory."""
        return b"".join(ENTRY.pack(*self._entries.get(number, UNUSED)) for number in range(ENTRIES))

    def _drop(self, ranges: list[_Range]) -> int:
        for each in ranges:
            self._ranges.remove(each)
            for number in range(each.first, each.first + each.size):
                self._entries.pop(number, None)
        return len(ranges)
