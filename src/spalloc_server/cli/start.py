"""Where the programs begin: signals first, and only then whatever takes time to import."""

from __future__ import annotations

from spalloc_server.cli import signals

__all__ = ["admin", "serve"]


def serve() -> None:
    """Be `spalloc_server`."""
    signals.hold()
    from spalloc_server.cli.serve import main

    main()


def admin() -> None:
    """Be `spalloc-admin`."""
    release = signals.hold_interrupt()
    from spalloc_server.cli.admin import main

    release()
    main()
