"""The root of the service, and the emergency stop."""

from __future__ import annotations

import re
from typing import Annotated, Any

from litestar import Router, get, post
from litestar.params import QueryParameter

from spalloc_server.application import commands
from spalloc_server.application.caller import Permission
from spalloc_server.frontends.http.rest.messages import RootAnswer, Version
from spalloc_server.frontends.http.rest.openapi import REFUSED
from spalloc_server.frontends.http.rest.requests import RestRequest, may

__all__ = ["SERVICE"]

CSRF_HEADER = "X-CSRF-TOKEN"


@get("/", responses=REFUSED, summary="The version, and where to go on")
async def root(request: RestRequest) -> RootAnswer:
    """Tell clients where to begin."""
    caller, settings = request.caller, request.asking.settings
    looks = may(caller, Permission.LOOK, settings)
    numbers = [*map(int, re.findall(r"\d+", settings.version)), 0, 0, 0]
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
    """End all jobs, switch all boards off, and start nothing until an operator resumes."""
    await request.ask(commands.EmergencyStop(reason=reason if reason.strip() else "by HTTP"), Any)


SERVICE = Router("/", route_handlers=[root, stop], tags=["service"])
"""What is about no machine and no job."""
