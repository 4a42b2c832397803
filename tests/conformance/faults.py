"""What the published clients do wrong by themselves, whatever the server does.

Each fault was seen with the published server, too (`CONFORMANCE_AGAINST=published`). The tests assert that a fault
is there where this table says so: a client that has it mended fails them, and its line goes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KNOWN_FAULTS", "Fault", "fault_of"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a published client."""

    name: str
    versions: tuple[str, ...]
    what: str
    evidence: str
    """What the client says or does when the fault strikes."""


KNOWN_FAULTS = (
    Fault(
        name="where-is-by-machine",
        versions=("7.4.1",),
        what="spalloc-where-is --board, --physical and --chip end with a traceback; only --job-chip works",
        evidence="TypeError",
    ),
    Fault(
        name="deaf-to-exceptions",
        versions=("0.2.6",),
        what="takes the reply to a refused request for a notification, and waits on until its timeout",
        evidence="ProtocolTimeoutError",
    ),
    Fault(
        name="keepalive-ends-with-connection",
        versions=("6.0.0", "7.0.0", "7.3.0", "7.4.1"),
        what="the process that keeps a job alive ends for good when a server closes its connection to restart",
        evidence="Job timed out.",
    ),
)


def fault_of(version: str, name: str) -> Fault | None:
    """The fault `name`, where the client of that version has it."""
    return next((fault for fault in KNOWN_FAULTS if fault.name == name and version in fault.versions), None)
