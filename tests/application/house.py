"""An application on a core whose journal and hardware are stand-ins, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from spalloc_server.accounts.accounts import Accounts
from spalloc_server.application.api import Application
from spalloc_server.application.caller import FRONT, ROLES, Caller
from spalloc_server.application.commands import Kind
from spalloc_server.application.commits import Commits, Effects
from spalloc_server.application.passwords import Passwords
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from spalloc_server.core.transitions import set_fact
from spalloc_server.hardware.blacklist import encode
from spalloc_server.hardware.scp import Adc
from spalloc_server.hardware.switchboard import Hardware
from tests.core.machines import a_machine
from tests.storage.memory_journal import MemoryJournal

PATIENCE = 30.0
OPERATOR = Caller(door="test", name="eve", verified=True, permissions=ROLES["admin"])
USER = Caller(door="test", name="ann", verified=True, permissions=ROLES["user"])
READER = Caller(door="test", name="rob", verified=True, permissions=ROLES["reader"])
WEB = Caller(door="test", name="web", verified=True, permissions=FRONT)
NOBODY = Caller(door="test", address="127.0.0.9", permissions=frozenset())


SESSION, SECRET, TOKEN = "s" + 16 * "01", "spalloc_" + 10 * "AgIC" + "AgI", "t" + 8 * "03"
"""Of the account bob, which has them from the beginning."""


class Plain:
    """Hashes that hide nothing, made at once; as `argon2.PasswordHasher`."""

    def __init__(self) -> None:
        self.compared: list[tuple[str, str]] = []
        """What has been compared: (hash, password)."""
        self.version = 1
        """Hashes of another are out of date."""

    def hash(self, password: str) -> str:
        return f"{self.version}:{password[::-1]}"

    def verify(self, hash: str, password: str) -> bool:  # noqa: A002 - as there
        self.compared.append((hash, password))
        if hash.partition(":")[2][::-1] != password:
            raise ValueError("another")
        return True

    def check_needs_rehash(self, hash: str) -> bool:  # noqa: A002
        return not hash.startswith(f"{self.version}:")


def counted() -> Callable[[int], bytes]:
    """So many bytes at random: ones, then twos, and so on."""
    numbers = itertools.count(1)
    return lambda size: bytes([next(numbers) % 256] * size)


class Flash:
    """Hardware whose boards are warm, and all have one flash."""

    def __init__(self) -> None:
        self.lines = ["chip 1 2 dead"]
        self.going = asyncio.Event()
        """Reading and writing wait for this."""
        self.going.set()

    async def ask(self, *_: Any) -> bytes:
        await self.going.wait()
        return encode(self.lines)

    async def read_temperatures(self, *_: Any) -> Adc:
        await self.going.wait()
        return Adc(top=30.0)

    async def write_blacklist(self, _bmp: str, _board: int, lines: list[str]) -> list[str]:
        await self.going.wait()
        self.lines = list(lines)
        return self.lines


class House:
    """Machine m is free but for job 1; of machine n all is closed. Job 1 is ann's, and ready. Account bob is a user.

    His password is `secret`; he has a session and a token.
    """

    def __init__(self) -> None:
        self.core = Controller()
        machines = [a_machine("m", 2, 2), a_machine("n", 1, 1, tags=("other",))]
        self.core.configure(Configuration(machines, seconds_before_free=0.0))
        self.journal = MemoryJournal(loop=asyncio.get_running_loop())
        self.flash = Flash()
        self.subscriptions = Subscriptions()
        self.commits = Commits(self.core, self.journal, act=self._act)
        self.hasher = Plain()
        state = self.core.state
        self.accounts = Accounts(state.outbox, partial(set_fact, state), clock=state.clock, random=counted())
        self.application = Application(
            self.core,
            cast("Hardware", self.flash),
            self.commits,
            self.subscriptions,
            accounts=self.accounts,
            passwords=Passwords(lambda: self.hasher),
        )

    @classmethod
    async def built(cls) -> House:
        house = cls()
        job_id = house.core.create_job(1, owner="ann", keepalive=None, keepalivehost="127.0.0.1")
        note = {"reason": "repair", "by": "eve"}
        house.core.disable_board("n", (0, 0, 0), **note)
        house.core.disable_frame("n", (0, 0), **note)
        house.core.drain("n", **note)
        number = house.accounts.create("bob", "user", password=house.hasher.hash("secret")).number
        assert house.accounts.sessions.begin(number) == SESSION
        secret, token = house.accounts.tokens.create(number, role=None, days=1.0, note="")
        assert (secret, token.id) == (SECRET, TOKEN)
        house.commits.hold()
        await house.rest()
        assert house.core.job_view(job_id).state == "ready"
        return house

    def _act(self, effects: Effects) -> None:
        for switch in effects.switches:
            self.core.switched(Outcome(switch.operation))
        self.subscriptions.publish(Kind.JOB, effects.jobs)
        self.subscriptions.publish(Kind.MACHINE, effects.machines)

    async def rest(self) -> None:
        """Wait until nothing goes on any more."""
        async with asyncio.timeout(PATIENCE):
            while not self.commits.settled():
                await self.commits.settle()

    def seen(self) -> dict[str, Any]:
        """All that commands can change; times apart."""
        self.core.tick()
        return {
            "jobs": {view.job_id: (view.state, view.power) for view in self.core.job_views()},
            "boards": {
                (view.machine, view.x, view.y, view.z): (
                    view.out_of_service,
                    view.last_trial,
                    len(view.reports),
                    "in use" if view.state == "in use" else "",
                )
                for view in self.core.board_views()
            },
            "held": [view.job_id for view in self.core.job_views() if view.held],
            "requests": [
                (view.priority, view.max_runtime) for view in self.core.job_views() if view.priority or view.max_runtime
            ],
            "drained": [view.name for view in self.core.machine_views() if view.drained],
            "stopped": self.core.stopped is not None,
            "flash": list(self.flash.lines),
            "accounts": {row.name: (row.role, row.enabled, row.password) for row in self.accounts.rows()},
            "sessions": len(self.accounts.sessions),
            "keys": self.core.state.facts.get("signing_keys"),
            "tokens": len(self.accounts.tokens.rows()),
        }
