"""The demo's config file, with addresses that no other demo on this computer has.

Theory of operation. Only the demo's own machine is moved: to a network, 127.N.0.0, and to a port for HTTP. Whoever has
one of these, or is about to, shows that by a socket that nothing else needs, bound as long as the demo runs: else two
that start at once would both find the same place free.
"""

from __future__ import annotations

import json
import socket
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final

from spalloc_server.config.extras import require_web
from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import SCP_PORT

__all__ = ["HOST", "HTTP_PORT", "MILLION_CORE", "RESERVED_PORT", "beside_other_demos", "serving_http"]

HOST = "127.0.0.1"
MILLION_CORE = Path(__file__).parents[1] / "examples" / "simulated-1200.toml"
NETWORKS: Final = (1, *range(101, 200))
"""127.N.0.0 that demos on one computer have, each one of its own. Config files of others may name those between."""
RESERVED_PORT: Final = SCP_PORT + 1
"""UDP, of a demo's network, which shows that it is taken before the hardware listens there."""
FIRST_NETWORK: Final = '"127.1.0.0"'
"""The `base_ip` of the demo's own machine, as its config file has it."""
HTTP_PORT: Final = 8080
"""Where a demo serves HTTP, if nobody else does. The UDP port of this number shows that one will."""


def beside_other_demos(config: Path, folder: Path, stack: AsyncExitStack | ExitStack) -> Path:
    """Return the config file of the demo's own machine, or a copy with other addresses if another demo has these."""
    if config != MILLION_CORE:
        return config
    text = config.read_text(encoding="utf-8")
    network = next((number for number in NETWORKS if _reserve(f"127.{number}.0.0", stack)), 1)
    if network == 1 or FIRST_NETWORK not in text:
        return config
    copy = folder / config.name
    copy.write_text(text.replace(FIRST_NETWORK, f'"127.{network}.0.0"').replace('"spinner-1200.csv"', _wiring()))
    return copy


def serving_http(config: Path, folder: Path, stack: AsyncExitStack | ExitStack, *, once: bool) -> Path:
    """Return a copy of the config file of the demo's own machine that has HTTP, too; else the file as it is."""
    if config.name != MILLION_CORE.name or config.parent not in {MILLION_CORE.parent, folder} or once:
        return config
    try:
        require_web()
    except ConfigurationError:
        return config
    text = config.read_text(encoding="utf-8").replace('"spinner-1200.csv"', _wiring())
    copy = folder / config.name
    copy.write_text(f'{text}\n[web]\nip = "{HOST}"\nport = {_http_port(stack)}\nstart = false\n')
    return copy


def _wiring() -> str:
    """Return the table of where the boards of the demo's own machine are, as TOML names it from anywhere."""
    return json.dumps(str(MILLION_CORE.with_name("spinner-1200.csv")))


def _http_port(stack: AsyncExitStack | ExitStack) -> int:
    """Return a TCP port that nobody listens at, `HTTP_PORT` if it is one and no other demo has it, or soon will."""
    of_one_demo = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            of_one_demo.bind((HOST, HTTP_PORT))
            one.bind((HOST, HTTP_PORT))
        except OSError:
            one.bind((HOST, 0))
        return int(one.getsockname()[1])


def _reserve(host: str, stack: AsyncExitStack | ExitStack) -> bool:
    """Reserve an address for the time of `stack`; False where another demo, or a simulated frame, has it."""
    with ExitStack() as tried:
        try:
            for port in (RESERVED_PORT, SCP_PORT):
                one = tried.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                one.bind((host, port))
        except OSError:
            return False
        one.close()  # for the hardware
        stack.enter_context(tried.pop_all())
    return True
