"""Traces of jobs for `spalloc-admin simulate`: CSV, the Standard Workload Format, and a server's own history.

Theory of operation. A file is read by its ending, standard input by how it begins, and both may be compressed by gzip.
Where a trace says how long its jobs have waited, that is kept, to be shown beside what a simulation says.
"""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

from spalloc_server.cli.running_server import reaches
from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.core.model import MAX_TEXT, Request
from spalloc_server.core.model.arguments import parse_request, read_request
from spalloc_server.core.simulation import TraceJob
from spalloc_server.errors import RequestError, SpallocServerError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.history import read_history

__all__ = ["TraceError", "from_history", "from_trace"]

SWF_UNKNOWN: Final = -1
SWF_SUBMIT, SWF_WAIT, SWF_RUN_TIME, SWF_PROCESSORS, SWF_REQUESTED, SWF_USER = 1, 2, 3, 4, 7, 11
"""Fields of a line of the Standard Workload Format, counted from 0."""

GZIP: Final = b"\x1f\x8b"
"""What a file that gzip has compressed begins with."""


class TraceError(SpallocServerError):
    """A trace cannot be read; the text says which line, and what would be right."""


def from_trace(path: Path) -> list[TraceJob]:
    """The jobs of a file; `-` is standard input.

    It is in the Standard Workload Format where it ends in `.swf` or `.swf.gz`, or comes from standard input and does
    not begin as CSV does; or else CSV with the columns submit_s, duration_s, owner, request, and start_s where known.

    Raises:
        TraceError: it cannot be read, or a line of it cannot be understood.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        data = _standard_input() if name == "-" else path.read_bytes()
        if data.startswith(GZIP):
            data = gzip.decompress(data)
        if name.endswith(".swf") or (name == "-" and b"submit_s" not in data.partition(b"\n")[0]):
            # Comments in any encoding; the rest is ASCII
            jobs = list(_from_swf(StringIO(data.decode("ascii", errors="replace"), newline=None), path))
            if not jobs:
                raise TraceError(f"{path} has no job that ran on a processor: right would be lines of 18 numbers")
            return jobs
        # Some spreadsheets begin with a byte order mark
        return list(_from_csv(StringIO(data.decode("utf-8-sig"), newline=""), path))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise TraceError("standard input is closed")
    return sys.stdin.buffer.read()


def from_history(path: Path) -> list[TraceJob]:
    """The jobs in a server's state file that have ended, as they were asked for and for as long as they had boards."""
    jobs = []
    for row in read_history(path, live=reaches(socket_path(path))):
        if row.allocation is None or row.allocated_at is None or row.ended_at is None:
            continue  # it never had boards, or lost them and waited for others
        try:
            request = row.request or read_request(row.owner, row.args, row.kwargs)
        except RequestError as error:
            raise TraceError(f"job {row.job_id} in {path}: {error}") from error
        # What it waited for is not known where it was placed again
        waited = row.allocated_at - row.created_at if row.placements <= 1 else None
        jobs.append(TraceJob(row.created_at, row.ended_at - row.allocated_at, request, waited))
    return jobs


def _from_csv(lines: Iterator[str], path: Path) -> Iterator[TraceJob]:
    reader = csv.DictReader(lines)
    missing = {"submit_s", "duration_s", "owner", "request"} - set(reader.fieldnames or ())
    if missing:
        raise TraceError(
            f"{path} lacks the column {min(missing)}: its first line names submit_s,duration_s,owner,request"
        )
    for row in reader:
        if None in row.values():
            raise TraceError(f"{path}, line {reader.line_num}: it has too few columns")
        try:
            sizes = [int(number) for number in row["request"].split("x")]
            request = parse_request(sizes, {"owner": row["owner"]})
            submit, start = _seconds(row["submit_s"]), row.get("start_s")
            waited = _seconds(str(_seconds(start) - submit)) if start else None
            yield TraceJob(submit, _seconds(row["duration_s"]), request, waited)
        except (ValueError, RequestError) as error:
            raise TraceError(
                f"{path}, line {reader.line_num}: {error}; right would be seconds, seconds, a name, and boards (24) or "
                "triads (4x2)"
            ) from error


def _from_swf(lines: Iterator[str], path: Path) -> Iterator[TraceJob]:
    """A processor counts as a board. Jobs that never ran are left out, and headers, also those without a `;`."""
    header = True
    for number, line in enumerate(lines, 1):
        fields = line.partition(";")[0].split()
        header = header and not (fields and _is_number(fields[0]))
        if header or not fields:
            continue
        try:
            boards = max(_whole(fields[SWF_REQUESTED]), _whole(fields[SWF_PROCESSORS]))
            submit, owner = _seconds(fields[SWF_SUBMIT]), fields[SWF_USER]
            run_time, wait = float(fields[SWF_RUN_TIME]), float(fields[SWF_WAIT])
            duration = 0.0 if run_time == SWF_UNKNOWN else _seconds(fields[SWF_RUN_TIME])
        except (ValueError, IndexError, OverflowError) as error:
            raise TraceError(f"{path}, line {number}: {error}; right would be the 18 numbers of a job") from error
        if boards > MAX_NUMBER or len(owner) > MAX_TEXT:
            raise TraceError(
                f"{path}, line {number}: at most {MAX_NUMBER} processors, and {MAX_TEXT} characters of a user"
            )
        if boards > 0 and duration > 0:
            request = Request(owner=f"user {owner}", boards=boards, tags=DEFAULT_TAGS)
            yield TraceJob(submit, duration, request, wait if 0 <= wait <= MAX_SECONDS else None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(text: str) -> int:
    """A whole number, however it is written: some logs say `4.00`."""
    number = float(text)
    if number != int(number):
        raise ValueError(f"{text} is no whole number")
    return int(number)


def _seconds(text: str) -> float:
    """A time or a span: not negative, and not absurdly long."""
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:  # nor is it, where it is not a number
        raise ValueError(f"{text} is no number of seconds from 0 to {MAX_SECONDS:.0f}")
    return seconds
