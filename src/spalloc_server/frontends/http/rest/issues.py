"""`report-issue`: which boards of a job a user says do not work.

Theory of operation. A board that is none of the job's is told in the answer, with 200 as the Java server does, and then
nothing is noted.
"""

from __future__ import annotations

from spalloc_server.application.own_job_commands import (
    BoardOfJob,
    FindBoard,
    FoundBoard,
    JobDetails,
    OwnJobDetails,
    ReportIssue,
)
from spalloc_server.frontends.http.rest.creating import place_in
from spalloc_server.frontends.http.rest.messages import IssueBody, ReportedBoard
from spalloc_server.frontends.http.rest.requests import Refusal, RestRequest

__all__ = ["report"]


async def report(request: RestRequest, job_id: int, body: IssueBody) -> str:
    """Report boards of a job; what has been done about it.

    Raises:
        Refusal: a board is not named in any of the ways that there are.
    """
    job = await request.ask(OwnJobDetails(job_id=job_id), JobDetails)
    addresses = []
    for board in body.boards:
        found, words = await _look_up(request, job, board)
        if found is None:
            return f"{words} not in job's allocation" if board.chip else f"{words} not in machine"
        if found.job_id != job_id or found.address is None:
            return f"{words} not allocated to job {job_id}"
        addresses.append(found.address)
    number = await request.ask(ReportIssue(job_id=job_id, boards=addresses, issue=body.issue), int)
    return f"{number} boards taken out of service" if number else "report noted"


async def _look_up(request: RestRequest, job: JobDetails, board: ReportedBoard) -> tuple[FoundBoard | None, str]:
    """Return a board of the job's machine, and how the answer calls it."""
    if board.chip is not None:
        found = await request.find(BoardOfJob(job_id=job.job_id, chip=board.chip), FoundBoard)
        return found, "chip at ({},{})".format(*board.chip)
    if (place := place_in(board)) is None:
        raise Refusal(400, "at least one way of identifying a board must be given")
    words = f"board at {board.address}"
    if "board" in place:
        words = "triad ({},{},{})".format(*place["board"])
    elif "place" in place:
        words = "physical board [{},{},{}]".format(*place["place"])
    if job.machine is None:
        return None, words
    return await request.find(FindBoard(machine=job.machine, **place), FoundBoard), words
