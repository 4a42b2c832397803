"""Who may do what.

Theory of operation. A command names the permission that it takes. What changes one job takes more: a caller whose name
is verified may change the jobs that it owns. One that is known by address only, as v1's clients are, may change what
was created from there, or anything where `access.managers` restricts nobody or names its network. Who may operate may
change any job.
"""

from __future__ import annotations

from spalloc_server.application.caller import Caller, Permission
from spalloc_server.application.commands import Command, CreateJob, OfJob
from spalloc_server.config.options import Access
from spalloc_server.controller import Controller
from spalloc_server.errors import ForbiddenError, RequestError

__all__ = ["Authorisation"]


class Authorisation:
    """Judges commands by who gives them.

    Args:
        core: knows whose a job is.
    """

    def __init__(self, core: Controller) -> None:
        self.access = Access()
        """What the configuration says; may be assigned anew."""
        self._core = core

    def check(self, caller: Caller, command: Command) -> None:
        """Raise `ForbiddenError` where the caller may not do this."""
        if command.permission not in caller.permissions:
            has = " and ".join(f"`{permission}`" for permission in Permission if permission in caller.permissions)
            raise ForbiddenError(
                f"{caller.shown} may not do this: it takes the permission `{command.permission}`, "
                f"and {caller.shown} has {has or 'none'}"
            )
        if command.manages_job and isinstance(command, OfJob):
            self._check_job(caller, command.job_id)
        elif isinstance(command, CreateJob):
            self._check_owner(caller, command.request.owner)

    def _check_owner(self, caller: Caller, owner: str) -> None:
        if caller.verified and owner != caller.name and Permission.OPERATE not in caller.permissions:
            raise ForbiddenError(f"{caller.shown} may create jobs with {caller.shown} as owner, and not for {owner}")

    def _check_job(self, caller: Caller, job_id: int) -> None:
        if Permission.OPERATE in caller.permissions:
            return
        if caller.verified:
            if (owner := self._owner(job_id)) not in (None, caller.name):
                raise ForbiddenError(f"job {job_id} is {owner}'s: {caller.shown} may neither end nor switch it")
        elif self.access.managers and not (caller.address and self.access.may_manage(caller.address)):
            creator = self._core.created_from(job_id)
            if creator is not None and creator != caller.address:
                raise ForbiddenError(
                    f"job {job_id} was created from {creator}: only from there, and from the networks that the "
                    "server's `access.managers` lists, may it be ended or switched"
                )

    def _owner(self, job_id: int) -> str | None:
        """Return the owner of a job; None where there is no such job, which harms nobody."""
        try:
            return self._core.job_view(job_id).owner
        except RequestError:
            return None
