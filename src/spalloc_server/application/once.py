"""Commands that are done once, however often they are sent: what they were answered is committed with what they did.

Theory of operation. Who does not know what has become of a command, because the server was killed or the connection
lost, sends it again under the id that it had. The answer to a command with an id is kept as a row, which goes into the
transaction of the command's effect: so after a crash there are both or neither. A command whose id is known is not done
again but answered from its row, also while nothing can be stored; if the first one still waits for its commit, the
second one waits for the same. An id belongs to the caller: the door, and the name, or the address where the name is not
verified. A hash of the command is kept, so that an id which comes with another command is noticed. Ids and commands are
kept as hashes only, the latter keyed by the id: who can read the state learns nothing of passwords in commands.

What needs none of this: commands that change nothing, and those that may be done again (`Command.repeatable`). What
waits for hardware or passwords (`Command.waits`) is done each time it is sent. Of a command whose answer is a secret
(`Command.confidential`) nothing is kept, and so it is done again, too. A command that was refused has left no trace,
and is judged anew.

Where a commit fails, nothing was promised, and jobs made in it are ended again. So its answers are forgotten: who sends
such a command again has it done anew.

A row lives for `LIFE_SECONDS` after its command or after a start, much longer than anybody holds a request. There are
at most `MAX_RESULTS` rows with `MAX_BYTES` of answers; where that is too few, the oldest go first.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from spalloc_server.application.caller import Caller
from spalloc_server.application.command_kinds import Command
from spalloc_server.application.commits import Commits
from spalloc_server.controller import Controller
from spalloc_server.core.model import ResultRow
from spalloc_server.errors import RequestError

__all__ = ["Asked", "Once"]

LIFE_SECONDS = 600.0
"""For so long at least a command that is sent again under its id is answered, and not done again."""

MAX_RESULTS = 100_000
"""Answers that are kept for commands that are sent again; the oldest go first."""

MAX_BYTES = 64 * 2**20
"""Length of all these answers together."""

EXPIRED_AT_ONCE = 500
"""Rows whose time is over that are deleted in one commit."""

HASH_BYTES: Final = 16

_encode = msgspec.json.Encoder(order="deterministic").encode


class Asked(NamedTuple):
    """A command that is to be done once."""

    id: str
    command: str


class _Kept(NamedTuple):
    number: int
    """Of the row."""
    until: float
    commit: int | None
    """That it waits, or has waited, for; None where it is from before the start."""


class Once:
    """Knows what commands with ids were answered.

    Args:
        core: keeps the rows, and has them stored.
        commits: tell what could not be stored.
        hold: names the commit that the last changes belong to.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        core: Controller,
        commits: Commits,
        hold: Callable[[], int | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = core.state
        self._commits = commits
        self._hold = hold
        self._clock = clock
        until = self._clock() + LIFE_SECONDS
        self._kept = OrderedDict((row.id, _Kept(row.number, until, None)) for row in self._state.results.values())
        """By `Asked.id`, the oldest first."""
        self._bytes = sum(len(row.answer) for row in self._state.results.values())
        self._last = max(self._state.results, default=0)
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def __len__(self) -> int:
        return len(self._kept)

    def asked(self, caller: Caller, command: Command, once: str) -> Asked | None:
        """Return what is asked for under this id; None where that is not to be remembered."""
        if not command.changes or command.repeatable or command.waits or command.confidential:
            return None
        whose = caller.door, caller.verified, caller.name, None if caller.verified else caller.address
        key = once.encode()[: blake2b.MAX_KEY_SIZE]
        return Asked(_hash(_encode((*whose, once))), _hash(_encode(_said(command)), key))

    def find(self, asked: Asked) -> tuple[Any, int | None] | None:
        """Return what this command was answered, and the commit to wait for; None where it is to be done.

        Raises:
            RequestError: it was another command.
        """
        kept = self._kept.get(asked.id)
        if kept is None:
            return None
        row = self._state.results[kept.number]
        if row.command != asked.command:
            raise RequestError("another command was sent under this id before: each needs an id of its own")
        try:
            return msgspec.json.decode(row.answer), kept.commit
        except msgspec.DecodeError:  # it was changed by hand
            self._forget(asked.id)
            return None

    def keep(self, asked: Asked, value: Any) -> None:
        """Have this answer stored with what has just been done."""
        while len(self._kept) >= MAX_RESULTS or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))
        number = self._last = self._last + 1
        row = ResultRow(number=number, id=asked.id, command=asked.command, answer=_encode(value).decode())
        self._state.results[number] = self._state.outbox.results[number] = row
        self._bytes += len(row.answer)
        commit = self._hold()
        assert commit is not None
        self._kept[asked.id] = _Kept(number, self._clock() + LIFE_SECONDS, commit)
        self._commits.when_over(commit, lambda error: None if error is None else self._not_stored(asked.id, number))
        if self._timer is None:
            self._arm()

    def expire(self) -> None:
        """Forget those whose time is over, some at a time."""
        now = self._clock()
        for _ in range(EXPIRED_AT_ONCE):
            if not self._kept or next(iter(self._kept.values())).until > now:
                break
            self._forget(next(iter(self._kept)))
        self._hold()
        self._arm()

    def _arm(self) -> None:
        """Wait for the end of the oldest one's time."""
        self._timer = None
        if self._kept and not self._commits.stopped:
            due = next(iter(self._kept.values())).until - self._clock()
            self._timer = asyncio.get_running_loop().call_later(max(due, 0.1), self.expire)

    def _not_stored(self, key: str, number: int) -> None:
        if key in self._kept and self._kept[key].number == number:
            self._forget(key)

    def _forget(self, key: str) -> None:
        number = self._kept.pop(key).number
        self._bytes -= len(self._state.results.pop(number).answer)
        self._state.outbox.results[number] = None


def _hash(data: bytes, key: bytes = b"") -> str:
    return blake2b(data, digest_size=HASH_BYTES, key=key).hexdigest()


def _said(command: Command) -> list[Any]:
    """A command without what has its default: a later version with more fields must see the same in it."""
    values = ((name, getattr(command, name), default) for name, default in _defaults(type(command)))
    return [command.__struct_config__.tag, {name: value for name, value, default in values if value != default}]


@cache
def _defaults(kind: type[Command]) -> tuple[tuple[str, Any], ...]:
    """(name, default) of each field."""
    return tuple(
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
    )
