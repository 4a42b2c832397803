"""What a server imports: nothing of what only HTTP needs, which may not be installed, nor of what only tables need."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

from tests.cli.commands import BIN, STOP_SECONDS, running

FOR_HTTP = {"argon2", "cryptography", "httptools", "litestar", "prometheus_client", "uvicorn", "websockets"}


def test_a_server_without_http_imports_nothing_of_it_and_nothing_that_draws(config: Path) -> None:
    with running(
        Path(sys.executable).name, "-X", "importtime", "-m", "spalloc_server", config, "-p", 0, folder=BIN
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        while not said or "serving" not in said[-1]:
            said.append(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        said += process.stderr.readlines()
        assert process.wait(STOP_SECONDS) == 0
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", "".join(said), re.MULTILINE))
    assert "spalloc_server.server" in imported
    assert {name for name in imported if name.partition(".")[0] in FOR_HTTP} == set()
    assert {name for name in imported if name.startswith("spalloc_server.frontends.http")} == set()
    assert {name for name in imported if name.startswith(("pygments", "rich."))} == set()
