"""A sparse memory: only what was written takes room.

Theory of operation. Bytes live in pages, made when they are first written; what nobody wrote reads as zero. One
executable is copied to every chip of a machine, so whole pages are shared: a page is `bytes` while several memories may
hold it, and becomes a `bytearray` of its own when somebody writes to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["Memory"]

DEFAULT_PAGE: Final = 1024


class Memory:
    """Bytes by address. A larger `page` (bytes, a power of two) suits larger writes."""

    __slots__ = ("_page", "_pages")

    def __init__(self, page: int = DEFAULT_PAGE) -> None:
        self._page = page
        self._pages: dict[int, bytes | bytearray] = {}

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes from `address` on."""
        number, start = divmod(address, self._page)
        end = start + length
        if end <= self._page:
            page = self._pages.get(number)
            return bytes(length) if page is None else bytes(page[start:end])
        return b"".join(self.read(at, size) for at, size in self._pieces(address, length))

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Store `data` from `address` on."""
        number, start = divmod(address, self._page)
        end = start + len(data)
        if end <= self._page:
            self._own(number)[start:end] = data
            return
        view = memoryview(data)
        for at, size in self._pieces(address, len(data)):
            self.write(at, view[at - address : at - address + size])

    def _pieces(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """(address, bytes) of each part of some bytes that lies in one page."""
        end = address + length
        while address < end:
            size = min(self._page - address % self._page, end - address)
            yield address, size
            address += size

    def copy(self, source: Memory, address: int, length: int) -> None:
        """Take over `length` bytes at `address` of another memory with the same page; whole pages are shared."""
        end = address + length
        first, last = -(-address // self._page), end // self._page
        if first >= last:
            self.write(address, source.read(address, length))
            return
        for number in range(first, last):
            self._pages[number] = source.frozen(number)
        head, tail = first * self._page - address, end - last * self._page
        if head:
            self.write(address, source.read(address, head))
        if tail:
            self.write(end - tail, source.read(end - tail, tail))

    def shared(self, address: int, length: int) -> list[bytes]:
        """Return `length` bytes at `address`, where a page begins, page by page; whole pages as they are shared."""
        first, whole = address // self._page, length // self._page
        pages = [self.frozen(number) for number in range(first, first + whole)]
        return [*pages, self.read(address + whole * self._page, length - whole * self._page)]

    def frozen(self, number: int) -> bytes:
        """Return the page of this number, fit to be shared; its content stays here, too."""
        page = self._pages.get(number, b"")
        if not isinstance(page, bytes) or not page:
            page = bytes(page) or bytes(self._page)
            self._pages[number] = page
        return page

    def _own(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if not isinstance(page, bytearray):
            page = self._pages[number] = bytearray(self._page) if page is None else bytearray(page)
        return page
