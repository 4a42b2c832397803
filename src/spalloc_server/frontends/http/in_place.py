"""Reading in place: what TLS has decrypted goes into one buffer that all connections share.

Theory of operation. An event loop gives a protocol bytes, or reads into a buffer that the protocol has. To give bytes
of a connection with TLS, uvloop takes a block of 256 KiB at each read, and gives back what was not needed of it. That
is slow where large blocks go back to the system at once (`cli.process.give_memory_back`). So what comes is read into
a buffer here, and copied: one does for all, as all connections are read in one thread, one after the other. uvicorn's
protocols take bytes only, and so stay as they are, with `InPlace` before them.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["InPlace"]

READ_BYTES: Final = 64 * 1024
"""Most that is read at a time."""

_BUFFER: Final = memoryview(bytearray(READ_BYTES))


class InPlace(asyncio.BufferedProtocol):
    """Reads for a protocol that takes bytes.

    Args:
        protocol: is told all that this is told.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it may be less than that
        """Return where the next bytes go."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        self._protocol.data_received(bytes(_BUFFER[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()
