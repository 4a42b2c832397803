"""`jobs`: the list, the creation, and each job with what it has.

Theory of operation. Jobs of others do not exist for who may not operate; the server sees to that. What names a job to
use it renews its lease, and to look at its state does not.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode

from litestar import Response, Router, delete, get, post, put
from litestar.params import FromQuery, HeaderParameter, JSONBody, PathParameter, QueryParameter

from spalloc_server.application import commands
from spalloc_server.application.caller import Permission
from spalloc_server.application.own_job_commands import (
    BoardOfJob,
    FoundBoard,
    JobDetails,
    JobNumbers,
    OwnJobDetails,
    OwnJobMachine,
    SubMachine,
)
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model.job_state import JobState
from spalloc_server.frontends.http.rest.creating import command_for
from spalloc_server.frontends.http.rest.issues import report
from spalloc_server.frontends.http.rest.machines import where_is
from spalloc_server.frontends.http.rest.messages import (
    CreateAnswer,
    CreateBody,
    IssueAnswer,
    IssueBody,
    JobsAnswer,
    JobStateAnswer,
    PowerMessage,
    SubMachineAnswer,
    WhereIsAnswer,
)
from spalloc_server.frontends.http.rest.openapi import ABSENT, BODY, NOTHING, REFUSED, TextBody
from spalloc_server.frontends.http.rest.requests import (
    BASE,
    IDEMPOTENCY_KEY,
    NO_SUCH_JOB,
    Plain,
    Refusal,
    RestRequest,
    empty,
)
from spalloc_server.frontends.http.rest.states import reason_of

__all__ = ["JOB", "JOBS", "JobId", "number_of"]

PAGE = 200
"""Jobs that one page of the list has at most."""

JobId: TypeAlias = Annotated[str, PathParameter(pattern=r"^[0-9]{1,15}$", description="Number of the job")]
Number: TypeAlias = Annotated[int, QueryParameter(ge=0, le=MAX_NUMBER)]
IdempotencyKey: TypeAlias = Annotated[
    str | None, HeaderParameter(name=IDEMPOTENCY_KEY, min_length=1, max_length=255, description="Chosen at random")
]


def number_of(job_id: str) -> int:
    """Return the number of the job that a path names."""
    return int(job_id)


@get("/", opt={"permission": Permission.LOOK}, responses=REFUSED, summary="Jobs, the newest first, in pages")
async def list_jobs(
    request: RestRequest,
    wait: FromQuery[bool] = False,
    deleted: FromQuery[bool] = False,
    limit: Annotated[int, QueryParameter(schema_extra={"minimum": 1, "maximum": PAGE})] = 100,
    start: Annotated[int, QueryParameter(schema_extra={"minimum": 0})] = 0,
) -> Response[JobsAnswer]:
    """List jobs; with `wait`, after any has changed; with `deleted`, also those that ended a while ago."""
    _check_page(limit, start)
    if wait:
        await request.app.state.polls.wait(request.receive, "jobs")
    numbers = await request.ask(JobNumbers(ended=deleted, start=start, limit=limit), list[int])
    prev = _page(request, max(0, start - limit)) if start else None
    following = _page(request, start + limit) if len(numbers) == limit else None
    links = [f'<{url}>; rel="{rel}"' for rel, url in (("next", following), ("prev", prev)) if url]
    jobs = [request.link("jobs", number) for number in numbers]
    headers = {"Link": ", ".join(links)} if links else None
    return Response(JobsAnswer(jobs=jobs, prev=prev, next=following), headers=headers)


@post(
    "/",
    opt={"permission": Permission.USE},
    responses=REFUSED | BODY,
    summary="Create a job",
    status_code=201,
)
async def create_job(
    request: RestRequest, data: JSONBody[CreateBody], _key: IdempotencyKey = None
) -> Response[CreateAnswer]:
    """Create a job; one that no machine can serve is refused. Sent again with the same key, it creates no other one."""
    job_id = await request.ask(await command_for(request, data), int)
    job = await request.ask(OwnJobDetails(job_id=job_id), JobDetails)
    if job.state == JobState.destroyed and (reason := reason_of(job)):
        raise Refusal(400, reason)
    ref = request.link("jobs", job_id)
    return Response(CreateAnswer(job_id=job_id, job_ref=ref), headers={"Location": ref})


def _check_page(limit: int, start: int) -> None:
    if limit < 1:
        raise Refusal(400, "limit must be at least 1")
    if limit > PAGE:
        raise Refusal(400, f"limit must not be bigger than {PAGE}")
    if not 0 <= start <= MAX_NUMBER:
        raise Refusal(400, "start must be at least 0" if start < 0 else f"start must be at most {MAX_NUMBER}")


def _page(request: RestRequest, start: int) -> str:
    """Return the address of another page of the same list, which does not wait."""
    given = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    kept = {name: value for name, value in given.items() if name in {"wait", "deleted", "limit", "start"}}
    return f"{request.link('jobs')}?{urlencode({**kept, 'wait': 'false', 'start': start})}"


@get("/", responses=REFUSED | ABSENT, summary="What the job is doing; with wait, after that has changed")
async def show_job(request: RestRequest, job_id: JobId, wait: FromQuery[bool] = False) -> JobStateAnswer:
    """Tell a job's state. One that is over is told at once. This does not keep it alive."""
    states, base = request.app.state.states, request.scope["state"][BASE]
    answer: JobStateAnswer = await states.of(request.caller, number_of(job_id), request.receive, base, wait=wait)
    return answer


@delete("/", responses=REFUSED | ABSENT, summary="End the job")
async def destroy(request: RestRequest, job_id: JobId, reason: FromQuery[str] = "") -> None:
    """End a job. One that is over stays as it is."""
    await request.ask(commands.DestroyJob(job_id=number_of(job_id), reason=reason or None), type(None))


@put(
    "/keepalive",
    responses=REFUSED | ABSENT | BODY,
    summary="Keep the job alive",
    media_type="text/plain",
    operation_class=TextBody,
)
async def keep_alive(request: RestRequest, job_id: JobId) -> str:
    """Renew a job's lease; what the body says does not matter."""
    request.check_type("text/plain")
    await request.ask(commands.KeepAlive(job_id=number_of(job_id)), type(None))
    return "ok"


@get("/machine", responses=REFUSED | ABSENT | NOTHING, summary="The boards that the job has")
async def show_boards(request: RestRequest, job_id: JobId) -> Response[SubMachineAnswer]:
    """Tell a job's boards; 204 while it has none. Keeps it alive."""
    found = await _machine(request, job_id)
    if found is None:
        return empty(204)
    return Response(
        SubMachineAnswer(
            width=found.width,
            height=found.height,
            depth=found.depth,
            machine_name=found.machine,
            connections=found.connections,
            boards=found.boards,
            power=request.link("jobs", number_of(job_id), "machine", "power"),
            machine_ref=request.link("machines", found.machine),
        )
    )


@get("/machine/power", responses=REFUSED | ABSENT | NOTHING, summary="Whether the job's boards are on")
async def show_power(request: RestRequest, job_id: JobId) -> Response[PowerMessage]:
    """Tell whether all boards are on; 204 while there are none. Keeps it alive."""
    found = await _machine(request, job_id)
    if found is None:
        return empty(204)
    return Response(PowerMessage(power="ON" if found.power else "OFF"))


@post("/machine/power", responses=REFUSED | ABSENT | NOTHING | BODY, status_code=202, summary="Switch the boards")
async def switch(request: RestRequest, job_id: JobId, data: JSONBody[PowerMessage]) -> Plain:
    """Begin to switch a job's boards on or off; 204 while it has none."""
    return await _switch(request, job_id, data.power)


@put("/power", responses=REFUSED | ABSENT | NOTHING | BODY, status_code=202, summary="Switch the boards")
async def switch_by_put(request: RestRequest, job_id: JobId, data: JSONBody[PowerMessage]) -> Plain:
    """Do as `POST machine/power`: the Java client asks so."""
    return await _switch(request, job_id, data.power)


@get("/chip", responses=REFUSED | ABSENT | NOTHING, summary="The board that has the job's chip (x, y)")
async def find_chip(request: RestRequest, job_id: JobId, x: Number = 0, y: Number = 0) -> Response[WhereIsAnswer]:
    """Find a chip, as the job counts chips; 204 where it has none there. Keeps it alive."""
    ask = BoardOfJob(job_id=number_of(job_id), chip=[x, y])
    found = await request.find(ask, FoundBoard)
    return empty(204) if found is None else Response(where_is(request, found))


@post("/report-issue", responses=REFUSED | ABSENT | BODY, status_code=200, summary="Report boards of the job")
async def report_issue(request: RestRequest, job_id: JobId, data: JSONBody[IssueBody]) -> IssueAnswer:
    """Say that boards do not work."""
    return IssueAnswer(action=await report(request, number_of(job_id), data))


async def _machine(request: RestRequest, job_id: str) -> SubMachine | None:
    return await request.find(OwnJobMachine(job_id=number_of(job_id)), SubMachine)


async def _switch(request: RestRequest, job_id: str, power: Literal["ON", "OFF"]) -> Plain:
    if await _machine(request, job_id) is None:
        return empty(204)
    kind = commands.PowerOnJob if power == "ON" else commands.PowerOffJob
    await request.ask(kind(job_id=number_of(job_id)), type(None))
    return empty(202)


JOBS = Router("/jobs", route_handlers=[list_jobs, create_job], tags=["jobs"])
"""The list of jobs."""
JOB = Router(
    "/jobs/{job_id:str}",
    route_handlers=[
        show_job,
        destroy,
        keep_alive,
        show_boards,
        show_power,
        switch,
        switch_by_put,
        find_chip,
        report_issue,
    ],
    opt={"permission": Permission.USE, "absent": NO_SUCH_JOB},
    tags=["jobs"],
)
"""One job, of the caller's own, or of anybody's for who may operate."""
