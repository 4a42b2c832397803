"""A process that writes a workload until it is killed: `python -m tests.storage.writer PATH SEED OPERATIONS`.

Prints the number of every batch that was acknowledged. Kills itself before that many operations on the disk from the
start of its writing, unless the number is 0.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from functools import partial
from itertools import islice
from pathlib import Path

from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import StorageError
from spalloc_server.storage.sqlite import SqliteJournal
from tests.storage.disk import Disk, Operation
from tests.storage.workload import workload


async def write(path: Path, seed: int, operations: int) -> None:
    """Go on with the workload where the state leaves off, in bursts."""
    with Disk() as disk:
        journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
        journal._connection.execute("PRAGMA wal_autocheckpoint = 8")
        begun: int = journal.load(max_retired=0).facts.get("batch", 0)

        left = operations

        def count_down(_: Operation) -> int:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        disk.fault = count_down
        rng = random.Random(begun)
        batches = enumerate(islice(workload(seed), begun, None), begun + 1)
        while True:
            acknowledged = asyncio.Event()
            for number, changes in islice(batches, rng.randint(1, 4)):
                journal.write(changes, partial(tell, number, acknowledged))
            await acknowledged.wait()


def tell(number: int, acknowledged: asyncio.Event, error: StorageError | None) -> None:
    """What the parent process reads."""
    assert error is None
    print(number, flush=True)
    acknowledged.set()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
