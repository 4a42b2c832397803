"""Who may do what.

Theory of operation. A command names the permission that it takes. What is about one job takes more. For a caller whose
name is verified there are no jobs but those that it owns: `NoSuchError` for others as for numbers that no job has had.
One that is known by address only, as v1's clients are, may change what was created from there, or anything where
`access.managers` restricts nobody or names its network. Who may operate may use any job.

Jobs of those who have logged in are not for callers without a verified name. These see them in lists, and may ask for
their state, which does not renew the lease; else a v1 client that polls any number could keep others' boards. Ending
and switching them is refused, and so are keepalives: published clients send them from a thread of its own, which ends
with this text on the terminal, while silence would let its user believe that the job is kept alive.
"""

from __future__ import annotations

from typing import Any

from spalloc_server.application.caller import Caller, Permission
from spalloc_server.application.commands import Command, CreateJob, KeepAlive, OfJob
from spalloc_server.config.options import Access
from spalloc_server.controller import Controller
from spalloc_server.errors import ForbiddenError, NoSuchError

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
        """Raise `ForbiddenError` where the caller may not do this, `NoSuchError` where it may not know of the job."""
        if command.permission not in caller.permissions:
            has = " and ".join(f"`{permission}`" for permission in Permission if permission in caller.permissions)
            raise ForbiddenError(
                f"{caller.shown} may not do this: it takes the permission `{command.permission}`, "
                f"and {caller.shown} has {has or 'none'}"
            )
        if command.own_job or isinstance(command, OfJob):
            if caller.verified:
                self._check_own(caller, command.job_id)  # type: ignore[attr-defined]
            elif Permission.OPERATE not in caller.permissions:
                self._check_by_address(caller, command)
        elif isinstance(command, CreateJob):
            self._check_owner(caller, command.request.owner)

    def _check_owner(self, caller: Caller, owner: str) -> None:
        if caller.verified and owner != caller.name and Permission.OPERATE not in caller.permissions:
            raise ForbiddenError(f"{caller.shown} may create jobs with {caller.shown} as owner, and not for {owner}")

    def _check_own(self, caller: Caller, job_id: int) -> None:
        """Jobs of others do not exist, for those who may not operate."""
        owner = self._core.owner_of(job_id)
        if owner is None or (owner != caller.name and Permission.OPERATE not in caller.permissions):
            raise NoSuchError(f"there is no job {job_id}, or none of {caller.shown}")

    def _check_by_address(self, caller: Caller, command: Any) -> None:
        job_id = command.job_id
        if self._core.is_of_account(job_id):
            if command.own_job:
                raise NoSuchError(f"there is no job {job_id}, or none of {caller.shown}")
            if command.manages_job or isinstance(command, KeepAlive):
                raise ForbiddenError(
                    f"job {job_id} was made by somebody who had logged in: only by HTTP, or by operators, may it be "
                    "kept alive, switched or ended"
                )
        elif command.manages_job and self.access.managers:
            if caller.address and self.access.may_manage(caller.address):
                return
            creator = self._core.created_from(job_id)
            if creator is not None and creator != caller.address:
                raise ForbiddenError(
                    f"job {job_id} was created from {creator}: only from there, and from the networks that the "
                    "server's `access.managers` lists, may it be ended or switched"
                )
