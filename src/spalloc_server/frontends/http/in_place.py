"""Reading in place: what TLS has decrypted goes into one buffer that all connections share.

Theory of operation. The event loop gives a protocol either bytes, or asks it for a buffer to read into. Of a connection
with TLS it makes the bytes by way of 256 KiB that it takes and gives back at each read, for requests of a few hundred.
Where such large blocks go back to the system at once (`cli.process.give_memory_back`), that takes a quarter of the
time of a request. All connections are read in one thread, one after the other, so one buffer does for all.
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
