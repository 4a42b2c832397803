"""The demo stays live while SpiNNMan boots and discovers a job on it: it answers, shows, and ends at once."""

from __future__ import annotations

import queue
import re
import signal
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.hall import discovered, expected, wait_until_ready, write_hall
from tests.conformance.servers import COMMANDS
from tests.conformance.wire import Connection

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

ANSWER_SECONDS = 0.02
END_SECONDS = 5.0
"""How long ctrl+c may take, on a machine that is busy with other tests."""
PATIENCE = 60.0


def test_the_demo_stays_live_while_a_job_boots(tmp_path: Path) -> None:
    config = write_hall(24, tmp_path)
    command = [str(COMMANDS / "spalloc-admin"), "demo", "--port", "0", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        try:
            lines = lines_of(demo)
            serving = re.search(r"at 127\.0\.0\.1:(\d+) ", lines.get(timeout=PATIENCE))
            assert serving is not None
            with Connection("127.0.0.1", int(serving[1])) as connection, ThreadPoolExecutor(1) as pool:
                job_id = connection.call("create_job", 3, owner="me", keepalive=None)
                wait_until_ready(connection, job_id)
                info = connection.call("get_job_machine_info", job_id)
                while not lines.empty():
                    lines.get()
                discovery = pool.submit(discovered, "1!7.4.1", info["connections"][0][1])
                seconds = []
                while not discovery.done():
                    began = time.monotonic()
                    connection.call("version")
                    seconds.append(time.monotonic() - began)
                    time.sleep(0.01)
                assert discovery.result() == expected(info)
            assert statistics.median(seconds) < ANSWER_SECONDS
            assert re.match(r"\d\d:\d\d:\d\d  job \d+ of ", lines.get(timeout=PATIENCE)), (
                "users came and went meanwhile"
            )
            demo.send_signal(signal.SIGINT)
            assert demo.wait(END_SECONDS) == 0
        finally:
            demo.kill()


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str]:
    """What a process says, line by line, as it says it."""
    said: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line)

    threading.Thread(target=listen, daemon=True).start()
    return said
