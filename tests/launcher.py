"""`spalloc_server` as a process, but quick with simulated hardware: `python -m tests.launcher CONFIG [OPTION]...`.

Prints a line of JSON whenever it serves: its process number and its address. A successor (see `upgrade`) fails in the
way that the file `fault` beside CONFIG names, if there is one, or waits: it makes a file `waits` and goes on when there
is one `go`. WARM_SECONDS and HANDOVER_SECONDS of `upgrade` are what the environment has by these names, or else so long
that a busy computer fails no upgrade; WATCH_SECONDS of `config_watch` is what the environment has. Where that has
HANGING_NAMES, names that end in `.hangs` are never answered for. Where a file `clock` beside CONFIG says [SECONDS,
BOOT], the wall clock is so far ahead, and this is the name of the present boot.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

from spalloc_server import controller, server
from spalloc_server.cli import serve, signals
from spalloc_server.config import watch as config_watch
from spalloc_server.process import handover, stored_times, upgrade
from spalloc_server.storage.state_file import state_path
from tests.hardware.name_service import NameService
from tests.house import HASTE, PATIENCE


def main() -> None:
    config = Path(sys.argv[1])
    fault = config.with_name("fault")
    if upgrade.VARIABLE in os.environ and fault.exists() and (how := fault.read_text()):
        fail(how)
    clock = config.with_name("clock")
    if clock.exists():
        set_clock(*json.loads(clock.read_text()))
    for name in ("WARM_SECONDS", "HANDOVER_SECONDS"):
        setattr(upgrade, name, float(os.environ.get(name, PATIENCE / 2)))
    config_watch.WATCH_SECONDS = float(os.environ.get("WATCH_SECONDS", config_watch.WATCH_SECONDS))
    if "HANGING_NAMES" in os.environ:
        mock.patch.object(socket, "getaddrinfo", NameService().getaddrinfo).start()
    announce = serve._ready

    def ready(it: server.Server) -> None:
        announce(it)
        print(json.dumps([os.getpid(), *it.address]), flush=True)

    timings = replace(HASTE, reply_s=0.5, power_reply_s=float(os.environ.get("POWER_REPLY_SECONDS", "10")))
    mock.patch.object(server, "Server", partial(server.Server, timings=timings)).start()
    mock.patch.object(serve, "_ready", ready).start()
    signals.hold()
    serve.main([str(config), "--port", "0", "--log-format", "json", *sys.argv[2:]])


def set_clock(ahead: float, boot: str) -> None:
    """As if somebody had set the wall clock, and the computer was started anew where `boot` is another."""
    right = time.time
    mock.patch.object(time, "time", side_effect=lambda: right() + ahead).start()
    mock.patch.object(controller, "_ANCHOR", controller._ANCHOR + ahead).start()
    mock.patch.object(stored_times, "_present_boot", return_value=boot).start()


def fail(how: str) -> None:
    """Fail now, or see to it that this process fails later."""
    if how == "exits at once":
        sys.exit(3)
    elif how == "hangs":
        hang()
    elif how == "talks nonsense":
        os.write(int(os.environ[upgrade.VARIABLE]), b"\0\0\0\5\0\0\0\0nonsense")
        hang()
    elif how == "is of another format":
        mock.patch.object(upgrade, "FORMAT", 99).start()
    elif how == "exits once warm":
        mock.patch.object(handover.Channel, "receive", side_effect=SystemExit(3)).start()
    elif how == "hangs once warm":
        mock.patch.object(handover.Channel, "receive", side_effect=hang).start()
    elif how == "exits instead of being ready":
        mock.patch.object(upgrade, "Ready", side_effect=SystemExit(3)).start()
    elif how == "brings the state to a newer schema":
        mock.patch.object(upgrade, "Ready", side_effect=newer_schema).start()
    elif how == "knows nothing of operators":
        mock.patch.object(
            upgrade, "Warm", side_effect=lambda **fields: handover.Warm(**{**fields, "operators": False})
        ).start()
    elif how == "waits before it is warm":
        mock.patch.object(upgrade, "Warm", side_effect=after_waiting(handover.Warm)).start()
    elif how == "waits before it is ready":
        mock.patch.object(upgrade, "Ready", side_effect=after_waiting(handover.Ready)).start()
    else:
        raise ValueError(how)


def hang(*_: object) -> None:
    time.sleep(60)


def after_waiting(message: Callable[..., object]) -> Callable[..., object]:
    """Makes the message when the test says so."""
    folder = Path(sys.argv[1]).parent

    def make(**fields: object) -> object:
        (folder / "waits").touch()
        deadline = time.monotonic() + PATIENCE
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return message(**fields)

    return make


def newer_schema() -> None:
    """What migrations of a newer version would do, and then the end."""
    config = Path(sys.argv[1])
    with sqlite3.connect(state_path(config)) as connection:
        connection.execute("PRAGMA user_version = 99")
    sys.exit(3)


if __name__ == "__main__":
    main()
