"""Traces of jobs to simulate: CSV, Standard Workload Format, and a server's own history."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.core.model.arguments import parse_request, read_request
from spalloc_server.core.model.request import MAX_TEXT, Request
from spalloc_server.core.simulation import TraceJob
from spalloc_server.errors import RequestError, SpallocServerError
from spalloc_server.storage.history import read_history

__all__ = ["TraceError", "from_history", "from_trace"]

SWF_SUBMIT, SWF_RUN_TIME, SWF_PROCESSORS, SWF_REQUESTED, SWF_USER = 1, 3, 4, 7, 11
"""Fields of a line of the Standard Workload Format, counted from 0."""


class TraceError(SpallocServerError):
    """A trace cannot be read; the text says which line, and what would be right."""


def from_trace(path: Path) -> list[TraceJob]:
    """The jobs of a file, by its ending: `.swf`, or else CSV with the columns submit_s, duration_s, owner, request.

    Raises:
        TraceError: it cannot be read, or a line of it cannot be understood.
    """
    try:
        with path.open(
            encoding="utf-8-sig", newline=""
        ) as file:  # some spreadsheets begin a CSV with a byte order mark
            return list(_from_swf(file, path) if path.suffix.lower() == ".swf" else _from_csv(file, path))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def from_history(path: Path) -> list[TraceJob]:
    """The jobs in a server's state file that have ended, as they were asked for and for as long as they had boards."""
    jobs = []
    for row in read_history(path):
        if row.allocation is None or row.allocated_at is None or row.ended_at is None:
            continue  # it never had boards, or lost them and waited for others
        try:
            request = row.request or read_request(row.owner, row.args, row.kwargs)
        except RequestError as error:
            raise TraceError(f"job {row.job_id} in {path}: {error}") from error
        jobs.append(TraceJob(row.created_at, row.ended_at - row.allocated_at, request))
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
            yield TraceJob(_seconds(row["submit_s"]), _seconds(row["duration_s"]), request)
        except (ValueError, RequestError) as error:
            raise TraceError(
                f"{path}, line {reader.line_num}: {error}; right would be seconds, seconds, a name, and boards (24) or "
                "triads (4x2)"
            ) from error


def _from_swf(lines: Iterator[str], path: Path) -> Iterator[TraceJob]:
    """A processor counts as a board. Jobs that never ran are left out."""
    for number, line in enumerate(lines, 1):
        fields = line.partition(";")[0].split()
        if not fields:
            continue
        try:
            boards = max(int(fields[SWF_REQUESTED]), int(fields[SWF_PROCESSORS]))
            submit, owner = _seconds(fields[SWF_SUBMIT]), fields[SWF_USER]
            duration = _seconds(fields[SWF_RUN_TIME]) if fields[SWF_RUN_TIME] != "-1" else 0.0  # -1 is unknown
        except (ValueError, IndexError) as error:
            raise TraceError(f"{path}, line {number}: {error}; right would be the 18 numbers of a job") from error
        if boards > MAX_NUMBER or len(owner) > MAX_TEXT:
            raise TraceError(
                f"{path}, line {number}: at most {MAX_NUMBER} processors, and {MAX_TEXT} characters of a user"
            )
        if boards > 0 and duration > 0:
            yield TraceJob(submit, duration, Request(owner=f"user {owner}", boards=boards, tags=DEFAULT_TAGS))


def _seconds(text: str) -> float:
    """A time or a span: not negative, and not absurdly long."""
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:  # nor is it, where it is not a number
        raise ValueError(f"{text} is no number of seconds from 0 to {MAX_SECONDS:.0f}")
    return seconds
