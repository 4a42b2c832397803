"""A process that creates jobs until it is killed: `python -m tests.application.creator STATE FIRST OPERATIONS`.

Job N has the owner `N`, and is created once under an id of its own. All from FIRST on are created, whether they were
before or not; a line is printed for each that is answered: its N, and its number. It kills itself before so many
operations on the disk from the start of its writing, unless that is 0.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from itertools import count
from pathlib import Path
from typing import cast

from spalloc_server.application.api import Application
from spalloc_server.application.caller import ROLES, Caller
from spalloc_server.application.commands import CreateJob
from spalloc_server.application.commits import Commits
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.controller import Controller
from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.request import Request
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.storage.sqlite import SqliteJournal
from tests.storage.disk import Disk, Operation

ANN = Caller(door="socket", name="ann", verified=True, permissions=ROLES["operator"])
ANYWHERE = 10**9
"""No machine has so many boards, so that a job is over at once and the queue stays short."""


async def create(application: Application, number: int) -> None:
    """Create a job; the parent process reads what it is answered."""
    command = CreateJob(request=Request(owner=str(number), boards=ANYWHERE))
    answer = application.perform(ANN, command, f"creation-{number:012}")
    await application.commits.durable(answer.commit)
    print(number, answer.value, flush=True)


async def run(path: Path, first: int, operations: int) -> None:
    """Create jobs, some at a time."""
    with Disk() as disk:
        journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
        left = operations

        def count_down(_: Operation) -> int:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        core = Controller()
        core.restore(journal.load(max_retired=0), highest_id=journal.highest_id())
        commits = Commits(core, journal, act=lambda _: None)
        application = Application(core, cast("Hardware", None), commits, Subscriptions())
        disk.fault = count_down
        rng, numbers = random.Random(first), count(first)
        while True:
            await asyncio.gather(*(create(application, next(numbers)) for _ in range(rng.randint(1, 4))))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
