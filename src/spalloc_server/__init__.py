"""Share out the boards of SpiNNaker machines: queue, power, isolate, keep alive, give back.

Theory of operation: `core` is pure and synchronous and holds every decision; `protocol`, `hardware` and
`storage` are thin shells around the world; `server` wires them together. docs/architecture.md tells the way
of one job through the house.
"""

from spalloc_server._version import __version__

__all__ = ["__version__"]
