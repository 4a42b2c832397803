"""A board's IP tags: where what the board's applications send leaves to, and what comes back in."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["FIXED_TAGS", "POOL_TAGS", "Tag", "TagTable", "Target"]

FIXED_TAGS: Final = 8
POOL_TAGS: Final = 16
"""Tags that SCAMP gives to single datagrams by itself; clients may set them, too."""
USED: Final = 0x8000
REVERSE: Final = 0x0200
STRIP: Final = 0x0100
_INFORMATION: Final = struct.Struct("<4s6s3HIH3B")
DEFAULT_TIMEOUT: Final = 9

Target = tuple[str, int]
"""Address and port of who gets what a board sends."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag. Of a reverse one `port` is the board's, and what comes there goes to a core."""

    port: int
    host: str = "0.0.0.0"  # noqa: S104 - the address that a tag without one has
    strip: bool = False
    reverse: bool = False
    chip: tuple[int, int] = (0, 0)
    core: int = 0
    """SDP port << 5 | core."""


class TagTable:
    """The tags of one board, by number from 0 to `FIXED_TAGS + POOL_TAGS - 1`."""

    __slots__ = ("_tags", "changed", "timeout")

    def __init__(self) -> None:
        self._tags: dict[int, Tag] = {}
        self.changed = False
        """A tag was set or cleared; for whoever opens ports to note."""
        self.timeout = DEFAULT_TIMEOUT

    def set(self, number: int, tag: Tag) -> bool:
        """Set a tag; False where there is none of this number."""
        if not 0 <= number < FIXED_TAGS + POOL_TAGS:
            return False
        self._tags[number] = tag
        self.changed = True
        return True

    def get(self, number: int) -> Tag | None:
        """Return the tag of a number, if it is set."""
        return self._tags.get(number)

    def clear(self, number: int) -> bool:
        """Take a tag away; False where there is none of this number."""
        self._tags.pop(number, None)
        self.changed = True
        return 0 <= number < FIXED_TAGS + POOL_TAGS

    def reverse_ports(self) -> dict[int, Tag]:
        """{port of the board: its tag} of all reverse tags."""
        return {tag.port: tag for tag in self._tags.values() if tag.reverse}

    def information(self) -> bytes:
        """Return the answer about all tags: time-out, size of a tag, how many there are."""
        return bytes((self.timeout, 0x20, POOL_TAGS, FIXED_TAGS))

    def describe(self, number: int) -> bytes | None:
        """Return the 25 bytes that tell of a tag; None where there is none of this number."""
        if not 0 <= number < FIXED_TAGS + POOL_TAGS:
            return None
        tag = self._tags.get(number)
        if tag is None:
            return bytes(_INFORMATION.size)
        flags = USED | tag.strip * STRIP | tag.reverse * REVERSE
        address = bytes(map(int, tag.host.split(".")))
        port, received = (0, tag.port) if tag.reverse else (tag.port, 0)
        x, y = tag.chip
        return _INFORMATION.pack(address, bytes(6), port, 0, flags, 0, received, y, x, tag.core)
