"""The commands of the v1 protocol: from one line to one reply.

Theory of operation. A line is decoded into a `Call` in one step that checks its shape. The command's method is called
with the arguments as they came, by position or by name, so the methods' signatures are the protocol. The core answers
with structs whose fields bear the protocol's names, so its results are encoded as they are.

Three things can go wrong, and they are kept apart. A line that is no request at all raises `GarbageError`: its sender
is disconnected. A request that is refused, or whose arguments do not fit, is answered with an `exception` that the user
can act on. A defect of this server is put on record (`defects`) and answered with an `exception`; the connection
survives.

A value that is not of its argument's kind names nothing (no job, no machine, no board), and is answered like any
other unknown name: with nulls, not with an exception, because the oldest clients wait for ever when they get one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from spalloc_server.config.options import MAX_NUMBER, Access, Limits
from spalloc_server.controller import Controller
from spalloc_server.errors import RequestError
from spalloc_server.frontends.v1.lines import GarbageError
from spalloc_server.frontends.v1.requests import MAX_TEXT, shown
from spalloc_server.frontends.v1.watches import Watches
from spalloc_server.log.defects import DefectLog

__all__ = ["CHANGING", "COMMANDS", "PROTOCOL_VERSION", "Call", "Client", "Commands"]
__all__ += ["decode", "exception_reply", "notification"]

PROTOCOL_VERSION = "1.0.0"
"""Reply of `version`. Every published client checks it before anything else: it must be three plain integers, and no
range that all of them accept is wider than [0.4.0, 2.0.0). The version of this package is told by `--version`."""

CHANGING = frozenset({"create_job", "power_on_job_boards", "power_off_job_boards", "destroy_job", "report_problem"})
"""Commands whose replies must not leave before their changes are durable."""

COMMANDS = (
    *("version", "create_job", "job_keepalive", "get_job_state", "get_job_machine_info"),
    *("power_on_job_boards", "power_off_job_boards", "destroy_job"),
    *("notify_job", "no_notify_job", "notify_machine", "no_notify_machine"),
    *("list_jobs", "list_machines", "get_board_position", "get_board_at_position", "where_is"),
    "report_problem",
)
"""All of the protocol."""

NO_DESCRIPTION = "It doesn't work and I don't know why."
"""What a report says without words of its own, as the Java server has it."""

NOTHING: Final = -1
"""A number that no job and no board has."""

C = TypeVar("C", bound="Client")
K = TypeVar("K", bound=Hashable)


class Client(Hashable, Protocol):
    """What a command knows of who sent it."""

    host: str
    """IP address."""


class Call(msgspec.Struct):
    """A request, as it comes over the wire."""

    command: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class _Return(msgspec.Struct):
    value: Any = msgspec.field(name="return")


class _Exception(msgspec.Struct):
    text: str = msgspec.field(name="exception")


_decode = msgspec.json.Decoder(Call).decode
_encode = msgspec.json.Encoder().encode
_RETURN_NULL = b'{"return":null}\n'


def exception_reply(text: str) -> bytes:
    """The line that tells a client that its command failed."""
    return _encode(_Exception(text)) + b"\n"


def notification(kind: str, changed: list[Any]) -> bytes:
    """The line that tells a client what changed; `kind` is jobs_changed or machines_changed."""
    return _encode({kind: changed}) + b"\n"


def decode(line: bytes | bytearray) -> Call:
    """The request in `line`; `GarbageError` where it holds none."""
    try:
        return _decode(line)
    except (ValueError, RecursionError) as exc:  # what msgspec raises: bad JSON, bad UTF-8, bad shape, too deep
        raise GarbageError(f"not a request: {exc}", line) from exc


def whole(value: Any) -> int:
    """The whole number that `value` is (2 and 2.0 are), else `NOTHING`; so are those beyond `MAX_NUMBER`."""
    if type(value) is not int:
        if not isinstance(value, float) or not value.is_integer():
            return NOTHING
        value = int(value)
    return value if -MAX_NUMBER <= value <= MAX_NUMBER else NOTHING


def text(value: Any) -> str:
    """The name that `value` is, else one that no machine has; names that are too long are none."""
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else ""


def chip(value: Any, name: str) -> int:
    """A chip coordinate. Any whole number names a chip, because they wrap; so what is none must be refused."""
    number = whole(value)
    if number == NOTHING != value:
        large = isinstance(value, int | float) and abs(value) > MAX_NUMBER
        right = f"a whole number from {-MAX_NUMBER} to {MAX_NUMBER}" if large else "a whole number"
        raise RequestError(f"{name} must be {right}, not {shown(value)}")
    return number


class Commands(Generic[C]):
    """Executes commands for any number of clients, and keeps what they watch.

    The public methods named in `COMMANDS` are the commands; each is given the client and the request's arguments.
    """

    def __init__(self, core: Controller, limits: Limits, defects: DefectLog | None = None) -> None:
        self.limits = limits
        self._defects = defects or DefectLog()
        self.access = Access()
        self.watched_jobs: Watches[C, int] = Watches()
        self.watched_machines: Watches[C, str] = Watches()
        self._core = core
        self._methods: dict[str, Callable[..., Any]] = {name: getattr(self, name) for name in COMMANDS}

    def execute(self, client: C, call: Call) -> bytes:
        """The line that answers `call`.

        Raises:
            GarbageError: there is no such command.
        """
        method = self._methods.get(call.command)
        if method is None:
            raise GarbageError("unknown command", call.command.encode())
        if call.kwargs:
            call.kwargs.pop("client", None)  # the published servers' own first parameter: some scripts send it
        try:
            value = method(client, *call.args, **call.kwargs)
            if type(value) is bytes:  # encoded already
                return b'{"return":' + value + b"}\n"
            return _RETURN_NULL if value is None else _encode(_Return(value)) + b"\n"
        except RequestError as exc:
            return exception_reply(str(exc))
        except RecursionError:
            return exception_reply(f"{call.command}: the arguments are nested too deeply")
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client is told
            # Only now is it worth the time to tell arguments that do not fit from a defect of the server.
            if isinstance(exc, TypeError) and (misfit := _misfit(call)):
                return exception_reply(misfit)
            self._defects.note("command failed", exc, command=call.command, peer=client.host)
            return exception_reply(f"{call.command}: internal error of the server; its log tells more")

    def forget(self, client: C) -> None:
        """Remove all that `client` watches."""
        self.watched_jobs.forget(client)
        self.watched_machines.forget(client)

    def watched(self, client: C) -> tuple[list[int] | None, list[str] | None]:
        """(jobs, machines) that `client` watches; None for all."""
        jobs, machines = self.watched_jobs.watched(client), self.watched_machines.watched(client)
        return None if jobs is None else sorted(jobs), None if machines is None else sorted(machines)

    def watch(self, client: C, jobs: list[int] | None, machines: list[str] | None) -> None:
        """Let `client` watch `jobs` and `machines`; None for all."""
        for job_id in (None,) if jobs is None else jobs:
            self.watched_jobs.watch(client, job_id)
        for name in (None,) if machines is None else machines:
            self.watched_machines.watch(client, name)

    def version(self, _client: C, /) -> str:
        """Tell what the protocol is, in the terms of published clients."""
        return PROTOCOL_VERSION

    def create_job(self, client: C, /, *args: Any, **kwargs: Any) -> int:
        """Queue a job; its id."""
        kwargs["keepalivehost"] = client.host
        return self._core.create_job(*args, **kwargs)

    def job_keepalive(self, client: C, /, job_id: Any) -> None:
        """Keep a job alive."""
        self._core.job_keepalive(whole(job_id), keepalivehost=client.host)

    def get_job_state(self, client: C, /, job_id: Any) -> Any:
        """Tell how a job does, and keep it alive."""
        return self._core.encoded_job_state(whole(job_id), client.host, _encode)

    def get_job_machine_info(self, client: C, /, job_id: Any) -> Any:
        """Tell which boards a job has and how to reach them, and keep it alive."""
        return self._core.get_job_machine_info(whole(job_id), keepalivehost=client.host)

    def power_on_job_boards(self, client: C, /, job_id: Any) -> None:
        """Switch a job's boards on, or reset them, and keep it alive."""
        self._authorise(client, job_id)
        self._core.power_on_job_boards(whole(job_id), keepalivehost=client.host)

    def power_off_job_boards(self, client: C, /, job_id: Any) -> None:
        """Switch a job's boards off, and keep it alive."""
        self._authorise(client, job_id)
        self._core.power_off_job_boards(whole(job_id), keepalivehost=client.host)

    def destroy_job(self, client: C, /, job_id: Any, reason: Any = None) -> None:
        """End a job."""
        self._authorise(client, job_id)
        # Shortened, not refused: who does not need boards any more shall be able to give them back
        self._core.destroy_job(whole(job_id), None if reason is None else _words(reason))

    def list_jobs(self, _client: C, /) -> Any:
        """List live jobs, the oldest first."""
        return b"[" + b",".join(self._core.encoded_jobs(_encode)) + b"]"

    def list_machines(self, _client: C, /) -> Any:
        """List machines, the one of highest priority first."""
        return self._core.list_machines()

    def get_board_position(self, _client: C, /, machine_name: Any, x: Any, y: Any, z: Any) -> Any:
        """Tell where the board (x, y, z) is: (cabinet, frame, board)."""
        return self._core.get_board_position(text(machine_name), whole(x), whole(y), whole(z))

    def get_board_at_position(self, _client: C, /, machine_name: Any, x: Any, y: Any, z: Any) -> Any:
        """Tell which board (x, y, z) is at a place; here x, y, z are cabinet, frame, board."""
        return self._core.get_board_at_position(text(machine_name), whole(x), whole(y), whole(z))

    def where_is(self, _client: C, /, **place: Any) -> Any:
        """Tell everything about the place of a board or chip."""
        for name, value in place.items():
            if name == "machine":
                place[name] = text(value)
            else:
                place[name] = chip(value, name) if name in ("chip_x", "chip_y") else whole(value)
        return self._core.where_is(**place)

    def report_problem(
        self, client: C, /, address: Any, x: Any = None, y: Any = None, p: Any = None, description: Any = None
    ) -> None:
        """Say that the board at `address`, or its chip (x, y), or core p of that, does not work; operators will see."""
        words = (description.strip() if isinstance(description, str) else "") or NO_DESCRIPTION
        if x is not None and y is not None:
            core = "" if p is None else f"core {whole(p)} of "
            words += f" (at {core}chip ({whole(x)}, {whole(y)}))"
        self._core.report_problem(text(address), words, reporter=client.host)

    def notify_job(self, client: C, /, job_id: Any = None) -> None:
        """Tell this client when a job changes, and keep it alive; any job, where none is named."""
        if job_id is not None:
            self.job_keepalive(client, job_id)
        self._watch(client, self.watched_jobs, None if job_id is None else whole(job_id))

    def no_notify_job(self, client: C, /, job_id: Any = None) -> None:
        """Undo `notify_job`; all of them, where no job is named."""
        self.watched_jobs.unwatch(client, None if job_id is None else whole(job_id))

    def notify_machine(self, client: C, /, machine_name: Any = None) -> None:
        """Tell this client when a machine changes; any machine, where none is named."""
        self._watch(client, self.watched_machines, None if machine_name is None else text(machine_name))

    def no_notify_machine(self, client: C, /, machine_name: Any = None) -> None:
        """Undo `notify_machine`; all of them, where no machine is named."""
        self.watched_machines.unwatch(client, None if machine_name is None else text(machine_name))

    def _authorise(self, client: C, job_id: Any) -> None:
        """Refuse to change jobs that another address created, where that is restricted."""
        if not self.access.managers or self.access.may_manage(client.host):
            return
        creator = self._core.created_from(whole(job_id))
        if creator is not None and creator != client.host:
            raise RequestError(
                f"job {whole(job_id)} was created from {creator}: only from there, and from the networks that the "
                "server's `access.managers` lists, may it be ended or switched"
            )

    def _watch(self, client: C, watches: Watches[C, K], key: K | None) -> None:
        most = self.limits.watches_per_connection
        watched = watches.watched(client)
        both = len(self.watched_jobs.watched(client) or ()) + len(self.watched_machines.watched(client) or ())
        if key is not None and watched is not None and key not in watched and both >= most:
            raise RequestError(
                f"this connection watches {most} jobs and machines, the most that one may: "
                "watch all at once by giving null, or stop watching those that have ended"
            )
        watches.watch(client, key)


def _words(value: Any) -> str:
    """A reason as it is kept, whatever was given for one."""
    return value[:MAX_TEXT] if isinstance(value, str) else shown(value)


def _misfit(call: Call) -> str | None:
    """In what the arguments of `call` do not fit its command; None where they do."""
    usage, names = _usage(call.command)
    try:
        usage.bind(*call.args, **call.kwargs)
    except TypeError as exc:
        return f"{exc}: the command is {call.command}({names})"
    return None


@cache
def _usage(command: str) -> tuple[inspect.Signature, str]:
    """What a command is given, and the same in words."""
    signature = inspect.signature(getattr(Commands, command))
    parameters = list(signature.parameters.values())[2:]  # without those that the server gives
    names = ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters)
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty), names
