"""Draw docs/img/terminal-*.svg, what the main commands print on 80 columns: `.venv/bin/python docs/draw_terminals.py`.

Theory of operation. A server with simulated hardware is started, some people ask it for boards, an operator closes
some, and then each command runs in a terminal of its own of 80 columns and 256 colours. What it prints becomes SVG.
Ages and process numbers differ from one time to the next, so nothing compares these pictures: draw them anew where the
commands' output has changed.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1]))
from docs.draw_pictures import IMAGES, trace_text
from spalloc_server.cli.client import Client

ADMIN = Path(sys.executable).with_name("spalloc-admin")
COLUMNS, LINES = 80, 40

MACHINE = "simulated-1200"
COMMANDS = {
    "status": "status",
    "jobs": "jobs",
    "job": "job 6",
    "boards": "boards --bad",
    "map": f"map {MACHINE}",
    "simulate": "simulate trace.csv --machine 20x20 --machine 20x20+10x8",
}
"""{picture: what is typed after `spalloc-admin`}."""

JOBS = [(240, "visual-cortex"), (96, "ann@lab.example.org"), (48, "retina"), (12, "cochlea"), (3, "sudoku")]
CLOSED = [
    f"board disable {MACHINE} 2,3,1 2,3,2 --reason 'link 4 loses packets'",
    f"frame disable {MACHINE} 0 3 --reason 'a new fan, Monday'",
]
PATIENCE = 60.0
"""Seconds after which something has gone wrong."""

FORMAT = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code, ", "")
"""What rich draws, without fonts from elsewhere."""


def main() -> None:
    """Start the demo, and draw what each command prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trace.csv").write_text(trace_text(), encoding="utf-8")
        demo = subprocess.Popen(
            [ADMIN, "demo", "--quiet-users", "--port", "0", "--state", "hall.db"], cwd=folder, stdout=subprocess.DEVNULL
        )
        try:
            asyncio.run(ask(port_of(folder)))
            for line in CLOSED:
                subprocess.run([ADMIN, *shlex.split(line)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for picture, typed in COMMANDS.items():
                (IMAGES / f"terminal-{picture}.svg").write_text(drawn(typed, folder), encoding="utf-8")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait()


def port_of(folder: Path) -> int:
    """Return the server's port as soon as it answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = subprocess.run([ADMIN, "status", "--json"], cwd=folder, capture_output=True, text=True, check=False)
        if status.returncode == 0:
            return int(json.loads(status.stdout)["address"][1])
        time.sleep(0.1)
    raise TimeoutError("the demo does not serve")


async def ask(port: int) -> None:
    """Be the people: ask for boards, and for more than there are."""
    async with asyncio.timeout(PATIENCE), Client.connect("127.0.0.1", port) as client:
        jobs = [await client.call("create_job", boards, owner=owner, keepalive=None) for boards, owner in JOBS]
        await client.call("create_job", 1000, owner="whole-brain", keepalive=None)
        while {(await client.call("get_job_state", job))["state"] for job in jobs} != {3}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def drawn(typed: str, folder: Path) -> str:
    """Return what a command prints on a terminal, as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ spalloc-admin {typed}", "dim"))
    console.print(Text.from_ansi(in_a_terminal(shlex.split(typed), folder)))
    return console.export_svg(title="", theme=DEFAULT_TERMINAL_THEME, code_format=FORMAT, unique_id="terminal")


def in_a_terminal(arguments: list[str], folder: Path) -> str:
    """Return what a command prints where standard output is a terminal."""
    terminal, inside = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": ""}
    running = subprocess.Popen(
        [ADMIN, *arguments], cwd=folder, env=environment, stdin=inside, stdout=inside, stderr=subprocess.DEVNULL
    )
    os.close(inside)
    output = b""
    while True:
        try:
            piece = os.read(terminal, 2**16)
        except OSError:  # so Linux says that nobody has the other end any more
            break
        output += piece
    os.close(terminal)
    if running.wait():
        raise RuntimeError(f"{arguments} ended with status {running.returncode}")
    return output.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
