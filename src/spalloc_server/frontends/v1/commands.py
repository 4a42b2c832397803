"""The commands of the v1 protocol: from one line to what it asks for.

Theory of operation. A line is decoded into a `Call` in one step that checks its shape. Each command of the protocol has
a function here; its signature is the protocol, and it is called with the arguments as they came, by position or by
name. It returns a `Command` for the application, or what the door does itself: a `Watch`, or the `Version`.

Two things can go wrong, and they are kept apart. A line that is no request at all raises `GarbageError`: its sender is
disconnected. Arguments that do not fit raise `RequestError`, which is answered with a text that the user can act on.

A value that is not of its argument's kind names nothing (no job, no machine, no board), and is answered like any
other unknown name: with nulls, not with an exception, because the oldest clients wait for ever when they get one.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from spalloc_server.application import commands
from spalloc_server.application.commands import Command, Key, Kind
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import MAX_TEXT, shown
from spalloc_server.core.model.arguments import (
    DEFAULT_KEEPALIVE,
    parse_keepalive,
    parse_request,
    told_of,
)
from spalloc_server.errors import RequestError
from spalloc_server.frontends.v1.lines import GarbageError

__all__ = ["COMMANDS", "Asked", "Call", "Version", "Watch", "decode", "read"]

NO_DESCRIPTION = "It doesn't work and I don't know why."
"""What a report says without words of its own, as the Java server has it."""

NOTHING: Final = -1
"""A number that no job and no board has."""


class Call(msgspec.Struct):
    """A request, as it comes over the wire."""

    command: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Version(msgspec.Struct, frozen=True):
    """What is the protocol?"""

    changes: ClassVar[bool] = False


class Watch(msgspec.Struct, frozen=True):
    """Notify this client of changes, or no longer."""

    changes: ClassVar[bool] = False

    key: Key
    on: bool


Asked: TypeAlias = Command | Version | Watch
"""What a line asks for."""

_decode = msgspec.json.Decoder(Call).decode

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def decode(line: bytes | bytearray) -> Call:
    """The request in `line`, which may be JSON only as Python has it (`_in_strict_json`).

    Raises:
        GarbageError: it holds none, or there is no such command.
    """
    try:
        call = _decode(line)
    except (ValueError, RecursionError) as exc:  # what msgspec raises: bad JSON, bad UTF-8, bad shape, too deep
        try:
            call = _decode(_in_strict_json(line))
        except (ValueError, RecursionError):
            raise GarbageError(f"not a request: {exc}", line) from exc
    if call.command not in COMMANDS:
        raise GarbageError("unknown command", call.command.encode())
    return call


def _in_strict_json(line: bytes | bytearray) -> str:
    """Return what Python's own `json` takes, and published clients send, as JSON for everybody.

    Infinity becomes null, which is no limit wherever it makes sense, and other numbers that JSON has not become texts,
    which are refused. Python clients read a user's name in Latin-1 as lone surrogates: these become the letters that
    were meant, and all others the sign for what cannot be read.
    """

    def finite(number: str) -> float | str | None:
        value = float(number)
        return value if math.isfinite(value) else None if value > 0 else number

    asked = json.loads(line.decode(), parse_constant=finite, parse_float=finite)
    return _LONE_SURROGATE.sub(_letter, json.dumps(asked, ensure_ascii=False))


def _letter(surrogate: re.Match[str]) -> str:
    number = ord(surrogate[0])
    return chr(number - 0xDC00) if 0xDC80 <= number <= 0xDCFF else "\ufffd"


def read(call: Call) -> Asked:
    """Return what a call asks for.

    Raises:
        RequestError: its arguments do not fit.
        Exception: a defect.
    """
    if call.kwargs:
        call.kwargs.pop("client", None)  # the published servers' own first parameter: some scripts send it
    try:
        return COMMANDS[call.command](*call.args, **call.kwargs)
    except RecursionError as exc:
        raise RequestError(f"{call.command}: the arguments are nested too deeply") from exc
    except TypeError as exc:
        # Only now is it worth the time to tell arguments that do not fit from a defect of the server.
        if misfit := _misfit(call):
            raise RequestError(misfit) from exc
        raise


# -------------------------------------------------------------------- the protocol


def version() -> Version:
    """Tell what the protocol is, in the terms of published clients."""
    return Version()


def create_job(*args: Any, **kwargs: Any) -> Command:
    """Queue a job; its id."""
    kwargs.pop("keepalivehost", None)  # which the server itself knows
    request = parse_request(args, kwargs)
    keepalive = parse_keepalive(kwargs.get("keepalive", DEFAULT_KEEPALIVE))
    as_it_came = told_of(args, kwargs)
    return commands.CreateJob(request=request, keepalive=keepalive, args=as_it_came[0], kwargs=as_it_came[1])


def job_keepalive(job_id: Any) -> Command:
    """Keep a job alive."""
    return commands.KeepAlive(job_id=whole(job_id))


def get_job_state(job_id: Any) -> Command:
    """Tell how a job does, and keep it alive."""
    return commands.GetJobState(job_id=whole(job_id))


def get_job_machine_info(job_id: Any) -> Command:
    """Tell which boards a job has and how to reach them, and keep it alive."""
    return commands.GetJobMachineInfo(job_id=whole(job_id))


def power_on_job_boards(job_id: Any) -> Command:
    """Switch a job's boards on, or reset them, and keep it alive."""
    return commands.PowerOnJob(job_id=whole(job_id))


def power_off_job_boards(job_id: Any) -> Command:
    """Switch a job's boards off, and keep it alive."""
    return commands.PowerOffJob(job_id=whole(job_id))


def destroy_job(job_id: Any, reason: Any = None) -> Command:
    """End a job."""
    # Shortened, not refused: who does not need boards any more shall be able to give them back
    words = reason[:MAX_TEXT] if isinstance(reason, str) else None if reason is None else shown(reason)
    return commands.DestroyJob(job_id=whole(job_id), reason=words)


def notify_job(job_id: Any = None) -> Watch:
    """Notify this client when a job changes, and keep it alive; any job, where none is named."""
    return Watch(Key(Kind.JOB, None if job_id is None else whole(job_id)), on=True)


def no_notify_job(job_id: Any = None) -> Watch:
    """Undo `notify_job`; all of them, where no job is named."""
    return Watch(Key(Kind.JOB, None if job_id is None else whole(job_id)), on=False)


def notify_machine(machine_name: Any = None) -> Watch:
    """Notify this client when a machine changes; any machine, where none is named."""
    return Watch(Key(Kind.MACHINE, None if machine_name is None else text(machine_name)), on=True)


def no_notify_machine(machine_name: Any = None) -> Watch:
    """Undo `notify_machine`; all of them, where no machine is named."""
    return Watch(Key(Kind.MACHINE, None if machine_name is None else text(machine_name)), on=False)


def list_jobs() -> Command:
    """List live jobs, the oldest first."""
    return commands.ListJobs()


def list_machines() -> Command:
    """List machines, the one of highest priority first."""
    return commands.ListMachines()


def get_board_position(machine_name: Any, x: Any, y: Any, z: Any) -> Command:
    """Tell where the board (x, y, z) is: (cabinet, frame, board)."""
    return commands.BoardPosition(machine=text(machine_name), x=whole(x), y=whole(y), z=whole(z))


def get_board_at_position(machine_name: Any, x: Any, y: Any, z: Any) -> Command:
    """Tell which board (x, y, z) is at a place; here x, y, z are cabinet, frame, board."""
    return commands.BoardAtPosition(machine=text(machine_name), cabinet=whole(x), frame=whole(y), board=whole(z))


def where_is(**place: Any) -> Command:
    """Tell everything about the place of a board or chip."""
    for name, value in place.items():
        if name == "machine":
            place[name] = text(value)
        else:
            place[name] = chip(value, name) if name in ("chip_x", "chip_y") else whole(value)
    return commands.WhereIs(place=place)


def report_problem(address: Any, x: Any = None, y: Any = None, p: Any = None, description: Any = None) -> Command:
    """Say that the board at `address`, or its chip (x, y), or core p of that, does not work; operators will see."""
    words = (description.strip() if isinstance(description, str) else "") or NO_DESCRIPTION
    if x is not None and y is not None:
        core = "" if p is None else f"core {whole(p)} of "
        words += f" (at {core}chip ({whole(x)}, {whole(y)}))"
    return commands.ReportProblem(board_address=text(address), description=words)


COMMANDS: Mapping[str, Callable[..., Asked]] = {
    each.__name__: each
    for each in (
        *(version, create_job, job_keepalive, get_job_state, get_job_machine_info),
        *(power_on_job_boards, power_off_job_boards, destroy_job),
        *(notify_job, no_notify_job, notify_machine, no_notify_machine),
        *(list_jobs, list_machines, get_board_position, get_board_at_position, where_is, report_problem),
    )
}
"""All of the protocol."""


# -------------------------------------------------------------------- arguments


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
    signature = inspect.signature(COMMANDS[command])
    names = ", ".join(
        str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in signature.parameters.values()
    )
    return signature.replace(return_annotation=inspect.Signature.empty), names
