"""The machine by the name under which programs that embed the core import it; `configuration` has it, too."""

from spalloc_server.config.machine import Machine

__all__ = ["Machine"]
