"""The server's core as a library: jobs, machines, queue and leases without any I/O.

Theory of operation. `Controller` is the core's parts behind one object. Commands are method calls; what the
world must do is fetched with `take`, and what the world answers is told with `switched` and `frame_changed`; `tick`
tells that time has passed. A program with hardware of its own needs no more than this:

    controller = Controller()
    controller.machines = {"desk": Machine.single_board("desk", bmp_ip="10.0.0.1", spinnaker_ip="10.0.0.2")}
    job_id = controller.create_job(owner="me")
    for switch in controller.take_switches():
        ...  # switch the boards, then:
        controller.switched(Outcome(switch.operation))
    assert controller.get_job_state(job_id).state == JobState.ready

A controller can be pickled by the program that embeds it, or stopped with `snapshot` and brought back with `restore`.
Nothing is decided here: see `core.commands`, `core.operations`, `core.views`, `core.engine` and `core.restore`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board, Location
from spalloc_server.core import commands, details, job_operations, operations, restore, set_aside, transitions, views
from spalloc_server.core.board_time import account
from spalloc_server.core.check import check
from spalloc_server.core.defects import Contained, Defects
from spalloc_server.core.engine import Engine
from spalloc_server.core.model import (
    BoardFailure,
    BoardView,
    Changes,
    Effects,
    FrameWork,
    JobDescription,
    JobMachineInfo,
    JobState,
    JobStatus,
    Note,
    Outcome,
    SetAsideView,
    Snapshot,
    Switch,
    WhereIs,
)
from spalloc_server.core.model.arguments import DEFAULT_KEEPALIVE, parse_keepalive, parse_request, told_of
from spalloc_server.core.model.details import FoundBoard, SubMachine
from spalloc_server.core.state import State
from spalloc_server.core.views_of_jobs import job_view, job_views
from spalloc_server.errors import RequestError

__all__ = [
    "BoardFailure",
    "Changes",
    "Contained",
    "Controller",
    "Defects",
    "Effects",
    "FrameWork",
    "JobMachineInfo",
    "JobState",
    "JobStatus",
    "Outcome",
    "RequestError",
    "Snapshot",
    "Switch",
    "steady_time",
]

P = ParamSpec("P")
T = TypeVar("T")

ENDED: Final = -1
UNKNOWN: Final = -2
_ANCHOR = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since the Unix epoch, read from the wall clock once and then advanced by the monotonic clock.

    So durations are right even while somebody sets the wall clock, and times mean something after a restart.
    """
    return _ANCHOR + time.monotonic()


def _of_engine(function: Callable[Concatenate[Engine, P], T]) -> Callable[Concatenate[Controller, P], T]:
    """Return the method that calls a function over the engine; its signature and its text are the function's."""

    @wraps(function)
    def method(self: Controller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(self.engine, *args, **kwargs)

    return method


def _of_state(function: Callable[Concatenate[State, P], T]) -> Callable[Concatenate[Controller, P], T]:
    """Return the same of a function over the state."""

    @wraps(function)
    def method(self: Controller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(self.state, *args, **kwargs)

    return method


class Controller:
    """Jobs, machines, queue and leases of one server: commands in, effects out. It does no I/O.

    A command that raises has changed nothing.

    Args:
        max_retired_jobs: ended jobs that are remembered.
        next_id: number of the first job.
        seconds_before_free: seconds that boards rest between two jobs.
        clock: seconds since the epoch; never goes back. A controller can be pickled if its clock can, so not a lambda.
    """

    def __init__(
        self,
        *,
        max_retired_jobs: int = 1200,
        next_id: int = 1,
        seconds_before_free: float = 30.0,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        configuration = Configuration(max_retired_jobs=max_retired_jobs, seconds_before_free=seconds_before_free)
        self.state = State(clock, configuration, next_id)
        self.engine = Engine(self.state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where a pickled controller left off; leases start afresh, as after `restore`."""
        self.__dict__.update(state)
        now = self.state.clock()
        for job in self.state.jobs.values():
            transitions.begin_lease(self.state, job, now)

    # ---------------------------------------------------------------- commands on jobs

    def create_job(self, /, *args: Any, keepalivehost: str | None = None, **kwargs: Any) -> int:
        """Make a job and start it if it can start; its number.

        Args:
            args: sizes, see `core.model.arguments.parse_request`.
            keepalivehost: the address that the command came from.
            kwargs: `owner`, `keepalive` and the other keywords of the protocol.

        Raises:
            RequestError: the arguments make no sense, or there are too many jobs. Nothing has changed.
        """
        request = parse_request(args, kwargs)
        keepalive = parse_keepalive(kwargs.get("keepalive", DEFAULT_KEEPALIVE))
        args_told, kwargs_told = told_of(args, kwargs)
        return self.submit(request, keepalive=keepalive, host=keepalivehost, args=args_told, kwargs=kwargs_told)

    submit = _of_engine(commands.create_job)

    def job_keepalive(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Start the job's lease anew, as every command that names the job does."""
        transitions.touch(self.state, job_id, keepalivehost)

    def renew(self, job_id: int, host: str | None, *, look: bool = False, of_accounts: bool = True) -> int:
        """Start a job's lease anew, unless this is a `look`; an account's job only if `of_accounts`.

        Returns:
            A number that is another where `get_job_state` has another answer: `Job.revision` of a live job; `ENDED` or
            `UNKNOWN`, which are negative, where the job is not live.
        """
        job = self.state.jobs.get(job_id)
        if job is None:
            return ENDED if job_id in self.state.retired else UNKNOWN
        if not look and (of_accounts or not job.of_account):
            transitions.renew_lease(self.state, job, host)
        return job.revision

    def get_job_state(self, job_id: int, keepalivehost: str | None = None, *, look: bool = False) -> JobStatus:
        """State, power, lease and start of a job; unknown ones and ended ones are told apart."""
        self.renew(job_id, keepalivehost, look=look)
        return views.job_status(self.state, job_id)

    def get_job_machine_info(
        self, job_id: int, keepalivehost: str | None = None, *, look: bool = False
    ) -> JobMachineInfo:
        """Where the job's boards are, and how to reach them."""
        self.renew(job_id, keepalivehost, look=look)
        return views.machine_info(self.state, self.state.jobs.get(job_id))

    def power_on_job_boards(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Switch the job's boards on; those that are on are reset."""
        commands.switch_power(self.engine, job_id, keepalivehost, on=True)

    def power_off_job_boards(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Switch the job's boards off; the job keeps them."""
        commands.switch_power(self.engine, job_id, keepalivehost, on=False)

    destroy_job = _of_engine(commands.destroy_job)
    report_problem = _of_engine(commands.report_problem)
    report_issue = _of_engine(commands.report_issue)

    # ---------------------------------------------------------------- questions of users

    def list_jobs(self) -> list[JobDescription]:
        """All live jobs, oldest first."""
        return [views.describe(job) for job in self.state.jobs.values()]

    def job_revisions(self) -> list[tuple[int, int]]:
        """Return (number, `Job.revision`) of each live job, oldest first: a new one where anything has changed."""
        return [(job.job_id, job.revision) for job in self.state.jobs.values()]

    def describe_job(self, job_id: int) -> JobDescription:
        """Return what `list_jobs` says of a live job; `RequestError` where there is none."""
        if job_id not in self.state.jobs:
            raise RequestError(f"there is no live job {job_id}")
        return views.describe(self.state.jobs[job_id])

    def owner_of(self, job_id: int) -> str | None:
        """The owner of a job that lives or is remembered; None where there is none."""
        job = self.state.jobs.get(job_id) or self.state.retired.get(job_id)
        return None if job is None else job.owner

    def is_of_account(self, job_id: int) -> bool:
        """Whether a live job was made by somebody whose name had been checked."""
        job = self.state.jobs.get(job_id)
        return job is not None and job.of_account

    def has_jobs_in(self, session: str) -> bool:
        """Whether any job lives that was made in this session."""
        return session in self.state.quotas.sessions

    def created_from(self, job_id: int) -> str | None:
        """The address that created a live job; None where there is no such job, or that is not known."""
        job = self.state.jobs.get(job_id)
        return None if job is None else job.created_from

    list_machines = _of_state(views.list_machines)

    def get_board_position(self, machine_name: str, x: int, y: int, z: int) -> Location | None:
        """(cabinet, frame, board) of a board, or None where there is none."""
        return views.board_position(self.state.machines.get(machine_name), (x, y, z))

    def get_board_at_position(self, machine_name: str, x: int, y: int, z: int) -> Board | None:
        """(x, y, z) of the board at cabinet x, frame y, board z, or None where there is none."""
        return views.board_at_position(self.state.machines.get(machine_name), (x, y, z))

    def where_is(self, /, **place: Any) -> WhereIs | None:
        """One place in every kind of coordinates; `core.views.where_is` says in which forms."""
        return views.where_is(self.state, place)

    # ---------------------------------------------------------------- what owners see

    job_details = _of_state(details.job_details)
    job_numbers = _of_state(details.job_numbers)
    machine_details = _of_state(details.machine_details)
    find_board = _of_state(details.find_board)

    def sub_machine(self, job_id: int, host: str | None) -> SubMachine | None:
        """The boards that a job has, whose lease begins anew; None where it has none."""
        return details.sub_machine(self.state, transitions.touch(self.state, job_id, host))

    def board_of_job(self, job_id: int, chip: Sequence[int], host: str | None) -> FoundBoard | None:
        """A chip as a job counts chips; its lease begins anew. See `core.details.board_of_job`."""
        return details.board_of_job(self.state, transitions.touch(self.state, job_id, host), chip)

    # ---------------------------------------------------------------- what operators see

    @property
    def stopped(self) -> Note | None:
        """The emergency stop that holds, if any."""
        return self.state.closures.stopped

    machine_views = _of_state(views.machine_views)
    board_views = _of_state(views.board_views)
    board_view = _of_state(views.board_view)
    job_views = _of_state(job_views)
    job_view = _of_state(job_view)

    def set_aside(self) -> list[SetAsideView]:
        """Stored rows that made no sense at a start, in order of table and key."""
        return set_aside.views(self.state.facts)

    def live_jobs(self) -> set[int]:
        """Numbers of the live jobs."""
        return set(self.state.jobs)

    # ---------------------------------------------------------------- what operators do

    def disable_board(self, machine: str, board: Board, *, reason: str, by: str) -> BoardView:
        """Take a board out of service; a job that has it keeps it."""
        return operations.set_board(self.engine, machine, board, Note(reason, by, self.state.clock()))

    def enable_board(self, machine: str, board: Board) -> BoardView:
        """Return a board to service and forget its failures, reports and strikes; its frame is another matter."""
        return operations.set_board(self.engine, machine, board, None)

    def disable_frame(self, machine: str, frame: Frame, *, reason: str, by: str) -> list[BoardView]:
        """Take all boards of a frame out of service; jobs that have some keep them."""
        return operations.set_frame(self.engine, machine, frame, Note(reason, by, self.state.clock()))

    def enable_frame(self, machine: str, frame: Frame) -> list[BoardView]:
        """Return a frame to service; what speaks against single boards of it stays."""
        return operations.set_frame(self.engine, machine, frame, None)

    def drain(self, machine: str, *, reason: str, by: str) -> Note | None:
        """Start no more jobs on a machine; those that run there go on. Return what drained it before."""
        return operations.set_drained(self.engine, machine, Note(reason, by, self.state.clock()))

    def undrain(self, machine: str) -> Note | None:
        """Start jobs on a machine again; also on one that has gone, should it come back. Return the note."""
        return operations.set_drained(self.engine, machine, None)

    import_machines = _of_engine(operations.import_machines)
    remove_machine = _of_engine(operations.remove_machine)
    power_cycle = _of_engine(operations.power_cycle)
    kill_jobs = _of_engine(job_operations.kill)
    hold_jobs = _of_engine(job_operations.hold)
    release_jobs = _of_engine(job_operations.release)
    extend_jobs = _of_engine(job_operations.extend)
    set_priority = _of_engine(job_operations.set_priority)
    emergency_stop = _of_engine(operations.emergency_stop)
    resume = _of_engine(operations.resume)
    switch_off_unused = _of_engine(operations.switch_off_unused)

    def kill(self, job_id: int, *, reason: str, by: str) -> None:
        """End a job; its reason says by whom and why. `RequestError` where it does not live."""
        self.kill_jobs([job_id], reason=reason, by=by)

    # ---------------------------------------------------------------- what the world tells

    @property
    def machines(self) -> Mapping[str, Machine]:
        """Machines by name, highest priority first. Assign to it to `configure` other machines alone."""
        return MappingProxyType(self.state.machines)

    @machines.setter
    def machines(self, machines: Mapping[str, Machine]) -> None:
        self.configure(dataclasses.replace(self.state.configuration, machines=list(machines.values())))

    def bmps(self) -> set[str]:
        """Return the hosts of the BMPs of all machines."""
        return {host for machine in self.state.machines.values() for host in machine.bmp_ips.values()}

    @property
    def imported(self) -> Mapping[str, Machine]:
        """Those machines that were imported, and are not of the configuration."""
        return MappingProxyType(self.state.imported)

    configure = _of_engine(Engine.configure)
    switched = _of_engine(Engine.switched)
    frame_changed = _of_engine(Engine.frame_changed)
    predict_starts = _of_engine(Engine.predict_starts)
    predict_at_once = _of_engine(Engine.predict_at_once)
    tick = _of_engine(Engine.tick)
    wake_at = _of_engine(Engine.wake_at)

    # ---------------------------------------------------------------- what the world must do

    @property
    def changed(self) -> bool:
        """Whether there is anything to fetch."""
        return self.state.outbox.has_changes()

    @property
    def next_id(self) -> int:
        """Number of the next job."""
        return self.state.next_id

    @property
    def defects(self) -> Defects:
        """What has gone wrong in the core itself."""
        return self.state.defects

    def take(self) -> Effects:
        """Return all that there is to do since the last call: rows to store first, and then what follows from them."""
        account(self.state)
        return self.state.outbox.take()

    def take_changes(self) -> Changes:
        """Rows to store that changed since the last call; storing them makes the state last."""
        account(self.state)
        return self.state.outbox.take_changes()

    def take_switches(self) -> list[Switch]:
        """Power operations to start since the last call, in order; only after their changes are stored."""
        taken, self.state.outbox.switches = self.state.outbox.switches, []
        return taken

    # ---------------------------------------------------------------- stop and go on

    snapshot = _of_state(restore.snapshot)
    restore = _of_engine(restore.restore)
    check = _of_state(check)
