"""The application: what stands behind every door.

Theory of operation. A door hands in a `Caller` and a `Command`, and gets an `Answer`. In between the same things happen
for all doors, in this order:

1. The caller may do it, or `ForbiddenError`.
2. While nothing can be stored, what changes something is refused (`ReadOnlyError`), unless it makes things safe.
3. The core does it, and answers or refuses.
4. The audit logs it, now or when its commit is over.
5. The answer names the commit that it must wait for.

A command that comes with an id is done once: one that is sent again is answered by what is remembered (`once`).

The door then sends the answer once that commit is durable (`Commits.tell`, or `await commits.durable`). So whatever a
door tells of a change is on disk.

`perform` is synchronous: nothing comes between its steps. What waits for hardware, or for a password to be hashed, goes
through `ask`, with the same steps around the wait.

Doors that log people in ask for their callers by session, token or account (`authentication.Authentication.caller`).
"""

from __future__ import annotations

import hmac
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from spalloc_server import __version__
from spalloc_server.accounts.accounts import Accounts
from spalloc_server.application import commands, own_job_commands
from spalloc_server.application.admission import Admission, Charged
from spalloc_server.application.audit import Audit
from spalloc_server.application.authentication import ACCOUNTS, HASHING, Authentication, accounts_of
from spalloc_server.application.authorisation import Authorisation
from spalloc_server.application.caller import FRONT, ROLES, Caller, Permission, permissions_of
from spalloc_server.application.commands import SERVER, Command, Key, Kind
from spalloc_server.application.commits import Commits
from spalloc_server.application.once import Once
from spalloc_server.application.passwords import Passwords
from spalloc_server.application.performing import PERFORM, AtHardware, board_of
from spalloc_server.application.subscriptions import Listener, Subscriptions
from spalloc_server.application.views import ServerView
from spalloc_server.application.web_settings import WebSettings, web_settings
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, steady_time
from spalloc_server.core.model import Note
from spalloc_server.core.model.details import JobDetails, MachineDetails
from spalloc_server.errors import ForbiddenError, ReadOnlyError, RequestError, SpallocServerError
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.log.defects import DefectLog

__all__ = [
    "FRONT",
    "ROLES",
    "About",
    "Answer",
    "Application",
    "Caller",
    "Charged",
    "Listener",
    "Subscriptions",
    "permissions_of",
]


_USE = Permission.USE  # to look it up in its class takes a while, and `renew` is called often


class Answer(NamedTuple):
    """What a command has come to."""

    value: Any
    """As the command's docstring says."""
    commit: int | None
    """What the answer must wait for; None where it need not wait."""


class About(msgspec.Struct):
    """What a server tells of itself besides what its core knows."""

    config: Path = Path()
    state: Path = Path()
    address: tuple[str, int] = ("", 0)
    connections: int = 0


class Application:
    """Performs commands for all doors.

    Args:
        core: jobs, machines, queue and leases.
        hardware: for what is asked of boards directly.
        commits: make durable what the core changes.
        subscriptions: are told what has changed, after each commit.
        accounts: who may log in; by default nobody.
        passwords: hash and compare passwords.
        hold: names the commit that the last changes belong to; `Commits.hold`, and what a server does besides.
        defects: knows what went wrong in the server itself.
    """

    def __init__(
        self,
        core: Controller,
        hardware: Hardware,
        commits: Commits,
        subscriptions: Subscriptions,
        *,
        accounts: Accounts | None = None,
        passwords: Passwords | None = None,
        hold: Callable[[], int | None] | None = None,
        defects: DefectLog | None = None,
    ) -> None:
        self.commits = commits
        self.subscriptions = subscriptions
        self.authorisation = Authorisation(core)
        self.admission = Admission()
        accounts = accounts or accounts_of(core)
        accounts.sessions.has_jobs = core.has_jobs_in
        self.authentication = Authentication(accounts, passwords)
        self.caller = self.authentication.caller
        self.at_hardware = AtHardware(core, hardware, subscriptions)
        self._core = core
        self._hold = hold or commits.hold
        self.about: Callable[[], About] = About
        """Tells about the server around this; may be assigned."""
        self._defects = defects or DefectLog()
        self._audit = Audit(commits)
        self.read_only: str | None = None
        """Why commands that change something are refused, if they are; see `refuse_changes`."""
        self._started_at = steady_time()
        self._once = Once(core, commits, self._hold)
        self._configuration = Configuration()
        self._own: Mapping[type[Command], Callable[[Any], Any]] = {
            commands.Status: lambda _: self._status(),
            commands.Figures: lambda _: self._status(),
            own_job_commands.OwnJobDetails: self._job_details,
            own_job_commands.MachineDetailsOf: self._machine_details,
            commands.TellWebSettings: lambda _: self._web_settings(),
            commands.StopByCode: self._stop_by_code,
        }
        """What tells more than the core knows."""

    def configure(self, configuration: Configuration) -> None:
        """Do as a configuration says about who may do what, and how often. Subscribers hear it."""
        self.authorisation.access = configuration.access
        self.admission.configure(configuration.limits)
        self.authentication.max_role = (configuration.web or Web()).max_role
        self._configuration = configuration
        self.subscriptions.publish(SERVER.kind, ("",))

    def refuse_changes(self, reason: str | None) -> None:
        """Refuse what changes something from now on, for this reason; or, with None, no longer. Subscribers hear it."""
        self.read_only = reason
        self.subscriptions.publish(SERVER.kind, ("",))

    def perform(self, caller: Caller, command: Command, once: str | None = None) -> Answer:
        """Do what `command` says, for `caller`.

        Args:
            caller: who says it.
            command: what is to be done.
            once: an id under which it is done only once, however often it is sent; see `application.once`.

        Raises:
            RequestError: it is refused; nothing has changed. `ForbiddenError` and `ReadOnlyError` are kinds of it.
            Exception: a defect. What has changed all the same is stored.
        """
        asked = None if once is None else self._once.asked(caller, command, once)
        try:
            if asked is not None and (found := self._once.find(asked)) is not None:
                return Answer(*found)
            self._admit(caller, command)
            before = self._live(command)
            value = self._performed(caller, command)
            if asked is not None:
                self._once.keep(asked, value)
        except Exception as error:
            self._failed(caller, command, error)
            raise
        return self._done(caller, command, value, ended=before - self._live(command))

    def renew(self, caller: Caller, job_id: int) -> int:
        """Renew a job's lease, as every command does that names it; return the revision of its state.

        That of an account's job is not renewed by a caller who is none, such as a client of v1.

        A door that has a reply to `GetJobState` of this revision need not ask again.

        Raises:
            ForbiddenError: the caller may not use jobs.
        """
        if _USE not in caller.permissions:
            self.perform(caller, commands.KeepAlive(job_id=job_id))  # which is refused, and audited
        return self._core.renew(job_id, caller.address, of_accounts=caller.verified)

    def keep_alive(self, caller: Caller, job_id: int) -> None:
        """Renew a job's lease, in less time than `perform` takes for `KeepAlive`.

        Raises:
            ForbiddenError: the caller may not use jobs, or not this one.
        """
        if self._core.is_of_account(job_id):
            self.perform(caller, commands.KeepAlive(job_id=job_id))
        else:
            self.renew(caller, job_id)

    async def ask(self, caller: Caller, command: Command) -> Answer:
        """Do what `command` says, for `caller`, where it waits for hardware, or for a password to be hashed.

        Raises:
            RequestError: as with `perform`.
            HardwareError: the hardware does not do it, or not in time.
            StorageError: a power cycle that has begun could not be stored.
            Exception: a defect.
        """
        begun = False
        try:
            self._admit(caller, command)
            if isinstance(command, HASHING):
                finish = await self.authentication.prepare(command)
                self._admit(caller, command)  # which may have changed meanwhile
                return self._done(caller, command, finish())
            with self.at_hardware.place():
                if not isinstance(command, commands.PowerCycle):
                    return self._done(caller, command, await self.at_hardware.perform(command))
                view = self._core.power_cycle(command.machine, board_of(command))
                begun = True
                await self.commits.durable(self._done(caller, command, view).commit)
                return Answer(await self.at_hardware.power_cycled(command), None)
        except Exception as error:
            if not begun:
                self._failed(caller, command, error)
            raise

    def _performed(self, caller: Caller, command: Command) -> Any:
        """Do what `command` says, and no more; its answer."""
        kind = type(command)
        if kind in PERFORM:
            return PERFORM[kind](self._core, caller, command)
        if kind in self._own:
            return self._own[kind](command)
        return ACCOUNTS[kind](self.authentication, command)

    def _live(self, command: Command) -> int:
        """How many jobs there are, where the audit is to tell how many the command ends."""
        return len(self._core.state.jobs) if command.audited else 0

    def _admit(self, caller: Caller, command: Command) -> None:
        self.authorisation.check(caller, command)
        if self.read_only is not None and command.changes and not command.even_if_read_only:
            raise ReadOnlyError(self.read_only)

    def _done(self, caller: Caller, command: Command, value: Any, *, ended: int = 0) -> Answer:
        commit = self._hold() if command.changes else None
        if command.audited:
            self._audit.performed(caller, command, commit, ended=ended)
        return Answer(value, commit)

    def _failed(self, caller: Caller, command: Command, error: Exception) -> None:
        if command.changes and not isinstance(error, RequestError):
            self._hold()
        if command.audited or isinstance(error, ForbiddenError):
            refused = isinstance(error, RequestError)
            told = error if isinstance(error, SpallocServerError) else Exception(f"a defect: {error!r}")
            self._audit.not_performed(caller, command, told, refused=refused)

    def _job_details(self, command: own_job_commands.OwnJobDetails) -> JobDetails:
        key = Key(Kind.JOB, command.job_id)
        return self._core.job_details(command.job_id, self.subscriptions.revision(key))

    def _machine_details(self, command: own_job_commands.MachineDetailsOf) -> list[MachineDetails]:
        names = sorted(self._core.machines) if command.name is None else [command.name]
        revisions = [self.subscriptions.revision(Key(Kind.MACHINE, name)) for name in names]
        return [self._core.machine_details(*each) for each in zip(names, revisions, strict=True)]

    def _stop_by_code(self, command: commands.StopByCode) -> Note | None:
        web = self._configuration.web
        right = "" if web is None else web.emergency_code
        if not right or not hmac.compare_digest(command.code.encode(), right.encode()):
            raise ForbiddenError("this is not the code of the emergency stop")
        return self._core.emergency_stop(reason=command.reason, by="somebody with the code")

    def _web_settings(self) -> WebSettings:
        about = self.about()
        return web_settings(self._configuration, about.config, about.state)

    def _status(self) -> ServerView:
        self._defects.take(self._core.defects)
        about, jobs = self.about(), Counter(job.state for job in self._core.job_views())
        return ServerView(
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            refusal=self.read_only,
            stopped=self._core.stopped,
            jobs=dict(jobs),
            machines=self._core.machine_views(),
            defects=self._defects.count,
            last_defect=self._defects.last,
            set_aside=self._core.set_aside(),
            config=_text(about.config),
            state=_text(about.state),
            address=about.address,
            connections=about.connections,
        )


def _text(path: Path) -> str:
    """A path as text that any encoding has; its bytes may be no text at all."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
