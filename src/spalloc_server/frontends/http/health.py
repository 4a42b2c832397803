"""What is answered without asking who asks: whether this process and the server live, figures, and the certificate.

Theory of operation. `/healthz` says that this process answers; `/readyz`, that the server does, too. For `/metrics` see
`metrics`. `/spalloc/ca.pem` is the certificate authority that clients are to trust. It is no secret, but who fetches it
without TLS, or before trusting it, should compare it with the file itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from spalloc_server.frontends.front_lock import CA_FILE
from spalloc_server.frontends.http.answers import Answer, ASGIApp, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import ServerAwayError
from spalloc_server.frontends.http.connection import Connection
from spalloc_server.frontends.http.links import base_url

__all__ = ["Health"]


class Health:
    """Answers for one front process.

    Args:
        connection: to the server.
        folder: of its certificates.
        metrics: answers with figures.
    """

    def __init__(self, connection: Connection, folder: Path, metrics: ASGIApp) -> None:
        self._connection, self._folder = connection, folder
        self.paths: Mapping[str, ASGIApp] = {
            "/healthz": text(200, "ok"),
            "/readyz": self._ready,
            "/metrics": metrics,
            "/spalloc/ca.pem": self._authority,
        }
        """What is answered at which path."""

    async def only_encrypted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request without TLS that may not be served."""
        base = base_url({**scope, "scheme": "https"}, self._connection.settings)
        told = (
            f"This service is reached by TLS only: {base}/\n"
            "Where your computer does not trust its certificate, let it trust the certificate authority (CA) of this"
            f" server, {base}/ca.pem; on the server itself, `spalloc-admin web-ca` tells where that is. Published"
            " clients do when REQUESTS_CA_BUNDLE and WEBSOCKET_CLIENT_CA_BUNDLE name that file.\n"
        )
        await text(403, told)(scope, receive, send)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = text(200, "ok") if self._connection.there else text(503, "the server is away")
        await answer(scope, receive, send)

    async def _authority(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand out the certificate authority."""
        try:
            if self._connection.settings.web.tls_certificate:
                raise FileNotFoundError
            data = await asyncio.to_thread((self._folder / CA_FILE).read_bytes)
        except (OSError, ServerAwayError):
            await text(404, "this server has no certificate authority of its own")(scope, receive, send)
        else:
            kind = (b"content-type", b"application/x-pem-file")
            await Answer(status=200, body=data, headers=(kind,))(scope, receive, send)
