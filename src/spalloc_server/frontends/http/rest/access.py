"""What REST needs of the way to the boards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from spalloc_server.frontends.local_api import Behalf

__all__ = ["BoardAccess"]


class BoardAccess(Protocol):
    """Reads and writes memory of jobs' boards, and resets their routers.

    All raise `RefusedError` where the job is not the caller's (`no-such`), has no boards (`no-boards`) or no such chip
    (`bad-request`), and where the boards do not do it (`hardware`).
    """

    async def read(self, behalf: Behalf, job: int, x: int, y: int, address: int, size: int) -> bytes:
        """Return so many bytes of a chip's memory; (255, 255) is the job's first Ethernet chip."""
        ...

    async def write(self, behalf: Behalf, job: int, x: int, y: int, address: int, data: bytes) -> None:
        """Write into a chip's memory."""
        ...

    async def reset_router(self, behalf: Behalf, job: int, filters: Mapping[int, int]) -> None:
        """Clear counters and tables of the routers of all chips, and set these diagnostic filters."""
        ...
