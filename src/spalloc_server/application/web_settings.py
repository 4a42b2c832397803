"""What front processes are told of the configuration and of the server: they have no config file of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spalloc_server import __version__
from spalloc_server.application.caller import Permission
from spalloc_server.application.command_kinds import Command
from spalloc_server.config.hosts import is_loopback
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import NoSuchError

__all__ = ["TellWebSettings", "WebSettings", "web_settings"]


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server tells its front processes."""

    web: Web
    """Its files are absolute paths, or empty."""
    version: str
    """Of the server."""
    state: str
    """Path of its state; what belongs to front processes is in a folder beside it."""
    simulated: bool = False
    """Whether its boards are simulated ones of this computer: all BMPs have loopback addresses."""


class TellWebSettings(Command, frozen=True, tag="web settings"):
    """`WebSettings`; `NoSuchError` where the configuration has no `[web]`. A change is one of the key `server`."""

    permission = Permission.AUTHENTICATE
    changes = False
    repeatable = True
    audited = False


def web_settings(configuration: Configuration, config: Path, state: Path) -> WebSettings:
    """Return what front processes of a server with this config file and this state are told.

    Raises:
        NoSuchError: it has no `[web]`.
    """
    if (web := configuration.web) is None:
        raise NoSuchError("this server has no HTTP: its config file has no [web]")
    folder = config.resolve().parent
    files = {name: str(folder / file) for name in ("tls_certificate", "tls_key") if (file := getattr(web, name))}
    bmps = [host for machine in configuration.machines for host in machine.bmp_ips.values()]
    return WebSettings(
        web=msgspec.structs.replace(web, **files),
        version=__version__,
        state=str(state.resolve()),
        simulated=bool(bmps) and all(map(is_loopback, bmps)),
    )
