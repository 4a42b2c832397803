"""An event loop that does nothing but answer each line with the same text: `python -m benchmarks.echo PORT`.

What it costs, any server costs that has the same event loop and reads and writes as often.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

REPLY = (
    b'{"return":{"state":1,"power":null,"keepalive":null,"reason":null,'
    b'"start_time":1764219999.12,"keepalivehost":"127.0.0.1"}}\n'
)


class Echo(asyncio.Protocol):
    """One client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast("asyncio.WriteTransport", transport).write  # uvloop's derives from nothing

    def data_received(self, data: bytes) -> None:
        self.write(REPLY * data.count(b"\n"))


async def serve(port: int) -> None:
    """Serve until it is ended."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
