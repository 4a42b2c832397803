"""What an operator tells a server: its machines, and how it is to serve.

Python config files and embedding programs import these names from here; `config.settings` and `config.machine` define
them.
"""

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.config.options import Access, Hardware, Health, Limits, Scheduling, Web
from spalloc_server.config.settings import Configuration, board_locations_from_spinner

__all__ = [
    "Access",
    "Configuration",
    "Frame",
    "Hardware",
    "Health",
    "Limits",
    "Machine",
    "Scheduling",
    "Web",
    "board_locations_from_spinner",
]
