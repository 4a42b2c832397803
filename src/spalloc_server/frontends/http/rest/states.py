"""What a job is doing: the answer that clients ask for most, and wait for.

Theory of operation. `JobStates` serves `GET jobs/ID` as plain ASGI, in front of the framework, which would cost more
than all the rest. A request that is unusual in any way is left to the framework's handler (`frontends.http.rest.jobs`),
which comes to the same answer more slowly.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from spalloc_server.application.caller import Permission
from spalloc_server.application.own_job_commands import JobDetails, OwnJobDetails
from spalloc_server.core.model.job_state import STATES, JobState
from spalloc_server.frontends.http.answers import UNAUTHORIZED, Answer, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.links import websocket_url
from spalloc_server.frontends.http.rest.messages import JobStateAnswer
from spalloc_server.frontends.http.rest.polls import Polls
from spalloc_server.frontends.http.rest.requests import BASE, FORBIDDEN, NO_SUCH_JOB, instant, link, may, told

__all__ = ["JobStates", "reason_of"]

JSON = ((b"content-type", b"application/json"),)
_encode = msgspec.json.Encoder().encode
_NAMES: Any = tuple(state.name.upper() for state in STATES)
_WAITS = {b"": False, b"wait=false": False, b"wait=False": False, b"wait=true": True, b"wait=True": True}
_HAS_BOARDS = {JobState.power, JobState.ready}


class JobStates:
    """Tells jobs' states.

    Args:
        asking: the server.
        polls: waits for changes.
    """

    PATH = re.compile(r"/jobs/([0-9]{1,15})")

    def __init__(self, asking: Asking, polls: Polls) -> None:
        self._asking = asking
        self._polls = polls

    def finds(self, method: str, path: str, query: bytes) -> int | None:
        """Return the number of the job whose state a request asks for in the usual way."""
        if method != "GET" or query not in _WAITS or (match := self.PATH.fullmatch(path)) is None:
            return None
        return int(match[1])

    async def __call__(self, scope: Scope, receive: Receive, send: Send, job_id: int) -> None:
        """Answer a request that `finds` has found."""
        await (await self._answer(scope, receive, job_id))(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, job_id: int) -> Answer:
        caller: WebCaller | None = scope["state"].get("caller")
        if caller is None:
            return UNAUTHORIZED
        if not may(caller, Permission.USE, self._asking.settings):
            return text(403, FORBIDDEN)
        try:
            state = await self.of(caller, job_id, receive, scope["state"][BASE], wait=_WAITS[scope["query_string"]])
        except (RefusedError, ServerAwayError) as error:
            return told(error, NO_SUCH_JOB)
        return Answer(status=200, body=_encode(state), headers=JSON)

    async def of(self, caller: WebCaller, job_id: int, receive: Receive, base: str, *, wait: bool) -> JobStateAnswer:
        """Return the state of a job of the caller's, after a change if it is to wait for one and any can come."""
        ask = OwnJobDetails(job_id=job_id)
        details = await self._asking.ask(ask, JobDetails, behalf=caller.behalf)
        if wait and details.state != JobState.destroyed:
            await self._polls.wait(receive, f"job/{job_id}", details.revision)
            details = await self._asking.ask(ask, JobDetails, behalf=caller.behalf)
        return _answer_for(details, base)


def reason_of(job: JobDetails) -> str | None:
    """Return why a job has ended, without the word for one that had no boards yet; only v1 has that."""
    return None if job.reason is None else job.reason.removeprefix("Cancelled: ")


def _answer_for(job: JobDetails, base: str) -> JobStateAnswer:
    ref, alive = link(base, "jobs", job.job_id), job.state != JobState.destroyed
    proxy = f"{websocket_url(base)}/proxy/{job.job_id}" if job.state in _HAS_BOARDS else None
    return JobStateAnswer(
        state=_NAMES[job.state],
        owner=job.owner,
        start_time=instant(job.created_at),
        finish_time=instant(job.ended_at),
        reason=reason_of(job),
        keepalive_host=job.keepalive_host if alive else None,
        keepalive_ref=f"{ref}/keepalive",
        machine_ref=f"{ref}/machine",
        power_ref=f"{ref}/machine/power",
        chip_ref=f"{ref}/chip",
        proxy_ref=proxy,
        original_request=job.original,
        keep_alive_time=instant(job.kept_alive_at) if alive else None,
    )
