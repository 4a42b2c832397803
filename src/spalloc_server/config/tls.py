"""What connections are encrypted with: the certificate and the key that a configuration names."""

from __future__ import annotations

import os
import ssl
from functools import partial
from pathlib import Path

from spalloc_server.config.options import Access
from spalloc_server.config.sources import note
from spalloc_server.errors import ConfigurationError

__all__ = ["tls_context"]


def tls_context(access: Access, folder: Path) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where they are not to be.

    Args:
        access: names the files.
        folder: that they are relative to.

    Raises:
        ConfigurationError: the files cannot be read, or do not belong together.
    """
    if not access.tls_certificate:
        return None
    certificate, key = folder / access.tls_certificate, folder / (access.tls_key or access.tls_certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    failed = f"access: no TLS with certificate {certificate} and key {key}"
    for what, file in (("certificate", certificate), ("key", key)):
        note(file)
        if not os.path.isfile(file):  # noqa: PTH113 - it takes any name; OpenSSL would wait for a FIFO
            raise ConfigurationError(f"{failed}: the {what} is no file")
    try:
        context.load_cert_chain(certificate, key, password=partial(_no_phrase, key))  # else OpenSSL asks the terminal
    except (OSError, ValueError) as exc:  # an SSLError is one too; ValueError: no name of a file
        raise ConfigurationError(f"{failed}: {exc}") from exc
    return context


def _no_phrase(key: Path) -> str:
    raise ConfigurationError(
        f"access: the key {key} has a pass phrase, and there is nobody to ask for it; write one without:"
        f" openssl pkey -in {key} -out NEW"
    )
