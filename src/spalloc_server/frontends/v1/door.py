"""The v1 door: what a line asks for is done, and becomes the line that answers it.

Theory of operation. Almost everything is a `Command`, which the application performs. What clients watch is kept as
subscriptions. Three things can go wrong, and they are kept apart: a line that is no request raises `GarbageError`; a
request that is refused, or whose arguments do not fit, is answered with an `exception` that the user can act on; a
defect of this server is put on record (`defects`) and answered with an `exception`, and the connection survives.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from spalloc_server.application.api import ROLES, Application, Caller, Charged, Listener
from spalloc_server.application.commands import CreateJob, GetJobState, KeepAlive, Key, Kind, ListJobs
from spalloc_server.config.hosts import network_of
from spalloc_server.errors import RequestError
from spalloc_server.frontends.v1.commands import Asked, Call, Version, Watch, read
from spalloc_server.frontends.v1.replies import PROTOCOL_VERSION, RETURN_NULL, CachedReplies, exception_reply, reply
from spalloc_server.log.defects import DefectLog

__all__ = ["Client", "Door", "Request", "caller_at"]


class Client(Listener, Protocol):
    """Who sent a command, and is notified of changes."""

    caller: Caller


class Request(msgspec.Struct):
    """A line that was decoded."""

    call: Call
    asks: Asked | None = None
    """What it asks for, once that is understood."""
    changes: bool = False
    """Whether that changes something."""
    creates: bool = False
    """Whether it asks for a job."""

    def __post_init__(self) -> None:
        """Look once, since a program sends the same line again and again."""
        self.creates = self.call.command == "create_job"


def caller_at(host: str) -> Caller:
    """The caller that a client at this address is: the protocol knows no log-in."""
    return Caller(door="v1", address=host, permissions=ROLES["user"])


class Door:
    """Answers requests of any number of clients.

    Args:
        application: performs commands.
        most_watched: jobs and machines that one client may watch by name; may be assigned anew.
        defects: told what of the server itself goes wrong.
    """

    def __init__(self, application: Application, most_watched: int, defects: DefectLog) -> None:
        self.most_watched = most_watched
        self._application = application
        self.subscriptions = application.subscriptions
        """What clients watch."""
        self._defects = defects
        self._cached = CachedReplies(application, defects)

    def charge(self, client: Client, request: Request) -> float:
        """Count a request against its client's address; seconds to wait before the next one is read."""
        kind = Charged.KEEPALIVE if request.call.command == "job_keepalive" else Charged.COMMAND
        return self._application.admission.charge(network_of(client.caller.address), kind)

    def delay(self, client: Client) -> float:
        """Seconds to wait before a job may be made."""
        return self._application.admission.delay(network_of(client.caller.address), Charged.CREATE)

    def answer(self, client: Client, request: Request) -> tuple[bytes, int | None]:
        """(the line that answers `request`, the commit that it must wait for or None)."""
        call, asks = request.call, request.asks
        try:
            if asks is None:
                asks = request.asks = read(call)
                request.changes = asks.changes
            if isinstance(asks, GetJobState):  # most are
                return self._cached.job_state(client.caller, asks), None
            return self._answer(client, asks)
        except RequestError as exc:
            return exception_reply(str(exc)), None
        except RecursionError:
            return exception_reply(f"{call.command}: the arguments are nested too deeply"), None
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client is told
            self._defects.note("command failed", exc, command=call.command, peer=client.caller.address)
            return exception_reply(f"{call.command}: internal error of the server; its log tells more"), None

    def watched(self, client: Client) -> tuple[list[Any] | None, list[Any] | None]:
        """(jobs, machines) that `client` watches; None for all."""
        jobs, machines = (self.subscriptions.subscribed(client, kind) for kind in (Kind.JOB, Kind.MACHINE))
        return None if jobs is None else sorted(jobs), None if machines is None else sorted(machines)

    def watch(self, client: Client, kind: Kind, names: Collection[Any] | None) -> None:
        """Let `client` watch these; None for all."""
        for name in (None,) if names is None else names:
            self.subscriptions.subscribe(client, Key(kind, name))

    def _answer(self, client: Client, asks: Asked) -> tuple[bytes, int | None]:
        if isinstance(asks, KeepAlive):
            self._application.keep_alive(client.caller, asks.job_id)
            return RETURN_NULL, None
        if isinstance(asks, ListJobs):
            return self._cached.jobs(client.caller), None
        if isinstance(asks, Watch):
            self._change_watch(client, asks)
            return RETURN_NULL, None
        if isinstance(asks, Version):
            return reply(PROTOCOL_VERSION), None
        if isinstance(asks, CreateJob):
            self._application.admission.charge(network_of(client.caller.address), Charged.CREATE)
        value, commit = self._application.perform(client.caller, asks)
        return reply(value), commit

    def _change_watch(self, client: Client, watch: Watch) -> None:
        key, subscriptions = watch.key, self.subscriptions
        if not watch.on:
            subscriptions.unsubscribe(client, key)
            return
        if isinstance(key.name, int):  # a job
            self._application.renew(client.caller, key.name)
        of_jobs, of_machines = (subscriptions.subscribed(client, kind) for kind in (Kind.JOB, Kind.MACHINE))
        watched = of_jobs if key.kind is Kind.JOB else of_machines
        most = self.most_watched
        both = len(of_jobs or ()) + len(of_machines or ())
        if key.name is not None and watched is not None and key.name not in watched and both >= most:
            raise RequestError(
                f"this connection watches {most} jobs and machines, the most that one may: "
                "watch all at once by giving null, or stop watching those that have ended"
            )
        subscriptions.subscribe(client, key)
