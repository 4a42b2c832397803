"""The six board-to-board links, numbered anticlockwise from east as the hardware numbers them.

A link's vector is the step that it takes in hexagonal coordinates (x to the east, y to the north, and the
diagonal between them to the north-east), for chips and boards alike.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Links"]


class Links(IntEnum):
    """A direction in which a board, or a chip, has a neighbour."""

    east = 0
    north_east = 1
    north = 2
    west = 3
    south_west = 4
    south = 5

    @property
    def opposite(self) -> Links:
        """The link by which the neighbour sees this one."""
        return Links((self + 3) % 6)

    def to_vector(self) -> tuple[int, int]:
        """Step (dx, dy), each -1, 0 or 1, that this link takes."""
        return _VECTORS[self]

    @classmethod
    def from_vector(cls, vector: tuple[int, int]) -> Links:
        """The link that takes the step (dx, dy).

        A step of more than one in an axis is one that wraps around an edge of a machine, and is taken as the
        single step the other way. `ValueError` for (0, 0), which is no step.

        On a machine that is 2 wide or high, (1, -1) and (-1, 1) are diagonals that wrap around that axis alone, where
        both ways are one step: as in the published server they are south_west and north_east.
        """
        dx, dy = (_unwrapped(step) for step in vector)
        if dx and dy and dx != dy:
            dx = dy
        for link, step in _VECTORS.items():
            if step == (dx, dy):
                return link
        raise ValueError(f"no link takes the step {vector!r}; the steps are {sorted(_VECTORS.values())}")


def _unwrapped(step: int) -> int:
    if abs(step) <= 1:
        return step
    return -1 if step > 0 else 1


_VECTORS: dict[Links, tuple[int, int]] = {
    Links.east: (1, 0),
    Links.north_east: (1, 1),
    Links.north: (0, 1),
    Links.west: (-1, 0),
    Links.south_west: (-1, -1),
    Links.south: (0, -1),
}
