"""The root of the service, and the emergency stop."""

from __future__ import annotations

import re
from typing import Annotated, Any

from litestar import Router, get, post
from litestar.params import QueryParameter

from spalloc_server.application import commands
from spalloc_server.application.caller import Permission
from spalloc_server.frontends.http.rest.messages import RootAnswer, Version
from spalloc_server.frontends.http.rest.openapi import ABSENT, REFUSED
from spalloc_server.frontends.http.rest.requests import Plain, Refusal, RestRequest, empty, may

__all__ = ["SERVICE"]

CSRF_HEADER = "X-CSRF-TOKEN"


@get("/", responses=REFUSED, summary="The version, and where to go on")
async def root(request: RestRequest) -> RootAnswer:
    """Tell clients where to begin."""
    caller, settings = request.caller, request.asking.settings
    looks = may(caller, Permission.LOOK, settings)
    release = settings.version.rpartition("!")[2]
    numbers = [*map(int, re.findall(r"\d+", release)), 0, 0, 0]
    return RootAnswer(
        version=Version(major_version=numbers[0], minor_version=numbers[1], revision=numbers[2]),
        jobs_ref=request.link("jobs") if looks else None,
        machines_ref=request.link("machines") if looks else None,
        csrf_header=CSRF_HEADER if caller.csrf else None,
        csrf_token=caller.csrf,
    )


@post(
    "/emergencyStop",
    opt={"permission": Permission.STOP},
    responses=REFUSED,
    status_code=204,
    summary="Switch everything off",
)
async def stop(request: RestRequest, reason: Annotated[str, QueryParameter(max_length=1000)] = "by HTTP") -> None:
    """End jobs that have been ready, switch all boards off, and start nothing until an operator resumes."""
    await request.ask(commands.EmergencyStop(reason=reason if reason.strip() else "by HTTP"), Any)


@get("/emergencyStop", responses=REFUSED | ABSENT, summary="Switch everything off, as with the Java server")
async def stop_by_code(
    request: RestRequest, code: Annotated[str, QueryParameter(name="commandCode", max_length=256)] = ""
) -> Plain:
    """Do the same for anybody who has the code of the configuration; there is no such path where that sets none."""
    if not request.asking.settings.web.emergency_code:
        raise Refusal(404, "there is no code for this; administrators may POST emergencyStop")
    command = commands.StopByCode(code=code, reason=f"{request.caller.name} by HTTP, with the code")
    await request.asking.ask(command, Any)
    return empty(200)


SERVICE = Router("/", route_handlers=[root, stop, stop_by_code], tags=["service"])
"""What is about no machine and no job."""
