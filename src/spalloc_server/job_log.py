"""A log of what happens to jobs: one JSON object a line (`JobEvent`), appended to a file that may be rotated."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from spalloc_server.core.messages import JobEvent

__all__ = ["JobLog"]

log = structlog.get_logger(__name__)


class JobLog:
    """Appends to the file at `path`; does nothing where that is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def append(self, events: list[JobEvent]) -> None:
        """Write what happened; where it cannot be written, say so in the server's log and go on."""
        if self._path is None or not events:
            return
        lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        try:
            with self._path.open("ab") as file:
                file.write(lines)
        except OSError as exc:
            log.error("job log cannot be written", file=str(self._path), error=str(exc))
