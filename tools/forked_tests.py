"""Runs pytest again and again in forks of a process that has loaded all but the project; for `tools/mutants.py`.

Theory of operation. A line of standard input is `[seconds, arguments]` in JSON; the answer is a line with pytest's exit
status, or `LATE`. What pytest prints goes to the file `output`. The package is loaded in each fork anew, and must be
the one below the working directory: else the answer is `ELSEWHERE`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

PASSED, FAILED, BROKEN, LATE, ELSEWHERE = 0, 1, 3, 100, 101
"""As pytest has them, but for the last two."""
LOADED = (
    "click", "hypothesis.stateful", "msgspec", "pytest", "pytest_asyncio.plugin", "pytest_timeout", "rich.console",
    "sqlite3", "structlog", "uvloop",
)  # fmt: skip


def run(arguments: list[str]) -> int:
    """Run pytest in this process."""
    import pytest

    with Path("output").open("w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    status = int(pytest.main(arguments))
    sys.stdout.flush()
    package = sys.modules.get("spalloc_server")
    if package is not None and not Path(str(package.__file__)).is_relative_to(Path.cwd()):
        return ELSEWHERE
    return status


def in_fork(seconds: float, arguments: list[str]) -> int:
    """Run pytest in a fork, and end all that it leaves."""
    process = os.fork()
    if not process:
        os.setsid()
        status = BROKEN
        try:
            status = run(arguments)
        except BaseException:  # noqa: BLE001 - whatever it is, nobody is there to catch it
            traceback.print_exc()
        finally:
            os._exit(status)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    except TimeoutError:
        return LATE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        end_all(process)


def end_all(group: int) -> None:
    """Kill a fork and what it has started."""
    try:
        os.killpg(group, signal.SIGKILL)
        os.waitpid(group, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def too_late(*_: object) -> None:
    """Break off the wait for a fork."""
    raise TimeoutError


def main() -> None:
    """Do what the lines of standard input say."""
    for name in LOADED:
        import_module(name)
    assert not any(name.startswith(("spalloc_server", "tests")) for name in sys.modules)
    gc.freeze()
    signal.signal(signal.SIGALRM, too_late)
    for line in sys.stdin:
        seconds, arguments = json.loads(line)
        print(in_fork(seconds, arguments), flush=True)


if __name__ == "__main__":
    main()
