"""What connections are encrypted with: the certificate and the key that a configuration names."""

from __future__ import annotations

import os
import ssl
from functools import partial
from pathlib import Path

from spalloc_server.config.options import Access, Web
from spalloc_server.config.sources import note
from spalloc_server.errors import ConfigurationError

__all__ = ["tls_context"]


def tls_context(settings: Access | Web, folder: Path) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where no certificate is named.

    Args:
        settings: name the files.
        folder: that they are relative to.

    Raises:
        ConfigurationError: the files cannot be read, or do not belong together.
    """
    if not settings.tls_certificate:
        return None
    certificate, key = folder / settings.tls_certificate, folder / (settings.tls_key or settings.tls_certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    table = type(settings).__name__.lower()
    failed = f"{table}: no TLS with certificate {certificate} and key {key}"
    for what, file in (("certificate", certificate), ("key", key)):
        note(file)
        if not os.path.isfile(file):  # noqa: PTH113 - it takes any name; OpenSSL would wait for a FIFO
            raise ConfigurationError(f"{failed}: the {what} is no file")
    try:
        context.load_cert_chain(
            certificate, key, password=partial(_no_phrase, table, key)
        )  # else OpenSSL asks the terminal
    except (OSError, ValueError) as exc:  # an SSLError is one too; ValueError: no name of a file
        raise ConfigurationError(f"{failed}: {exc}") from exc
    return context


def _no_phrase(table: str, key: Path) -> str:
    raise ConfigurationError(
        f"{table}: the key {key} has a pass phrase, and there is nobody to ask for it; write one without:"
        f" openssl pkey -in {key} -out NEW"
    )
