"""Whether what is installed on request only is installed: what a configuration with `[web]` needs."""

from __future__ import annotations

from importlib.util import find_spec

from spalloc_server.errors import ConfigurationError

__all__ = ["has_web", "require_web"]

WEB = ("argon2", "cryptography", "httptools", "litestar", "prometheus_client", "uvicorn", "websockets")


def has_web() -> bool:
    """Whether the extra `web` is installed."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in WEB if find_spec(name) is None]


def require_web() -> None:
    """Raise `ConfigurationError` where the extra `web` is not installed."""
    if missing := _missing():
        raise ConfigurationError(
            f"[web] needs packages that are not installed ({', '.join(missing)}): install this one with its extra,"
            " pip install 'spalloc-server[web]'"
        )
