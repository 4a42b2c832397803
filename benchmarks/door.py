"""Serves an ASGI application as the front process does, with its listener and its WebSockets, and nothing else."""

from __future__ import annotations

import asyncio
import ssl

from spalloc_server.config.options import Web
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.home import Home
from spalloc_server.frontends.http.listener import Acceptor
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.log.defects import DefectLog

__all__ = ["serve"]


async def serve(app: ASGIApp, host: str, port: int, certificate: str | None) -> None:
    """Serve for ever; `ready` on standard output says when that begins.

    Args:
        app: what answers.
        host: where it listens.
        port: likewise.
        certificate: file of a certificate and its key, for TLS; None for none.
    """
    acceptor = Acceptor(Home(app, Web(), DefectLog()), app)
    if certificate is not None:
        acceptor.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        acceptor.tls.load_cert_chain(certificate)
        acceptor.tls.num_tickets = 1
    acceptor.listen(listening_sockets(host, port))
    print("ready", flush=True)
    await asyncio.Event().wait()
