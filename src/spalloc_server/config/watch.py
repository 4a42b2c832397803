"""Where a server's configuration comes from: read when told to, or watched for changes (`--watch-config`).

Theory of operation. A file that is being saved is empty or half for a while, and half a file may well be a good one
with fewer machines, whose jobs would end. So every `WATCH_SECONDS` all files are looked at (`config_sources`), and a
change counts only once `LOOKS` in a row have been the same. Where a file has become shorter, it is likely to be a copy
that is still coming, which a slow network may hold up for seconds: there it takes `LOOKS_IF_SHORTER`. An absent config
file is never a change: it is about to be replaced.

Looks happen in a thread, because a file system of another computer may keep one waiting for long. The thread is a
daemon, so that it does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spalloc_server.config.extras import require_web
from spalloc_server.config.load import load
from spalloc_server.config.settings import Configuration
from spalloc_server.config.sources import Looks, look, recorded
from spalloc_server.config.tls import tls_context
from spalloc_server.errors import ConfigurationError
from spalloc_server.log.logger import get_logger

__all__ = ["Settling", "Source", "watch"]

WATCH_SECONDS = 2.0
"""Between looks at the files of a config that is watched."""

LOOKS = 2
"""Looks in a row that must find the same files before a change of a watched config counts."""

LOOKS_IF_SHORTER = 5
"""The same, where a file is shorter than the one in use."""

log = get_logger(__name__)


class Source:
    """The files that a configuration comes from, as they were when they were read last.

    Args:
        config: the config file.
        port: TCP port that takes the place of the config's.
        allow_unsafe: execute a Python config file even if others may write to it.
    """

    def __init__(self, config: Path, *, port: int | None = None, allow_unsafe: bool = False) -> None:
        self.config = config.absolute()
        self.seen: Looks = {}
        self.used: Looks = {}
        """The same, of the configuration in force: when it was read last without an error."""
        self.tls: ssl.SSLContext | None = None
        """What connections are encrypted with, as the files say that were read last; None where they are not."""
        self._path = config
        self._port = port
        self._allow_unsafe = allow_unsafe

    def read(self) -> Configuration:
        """Read the configuration, and the certificates that it names.

        Raises:
            ConfigurationError: see `config.load.load`; or the certificates are bad.
        """
        files: Looks = {}
        try:
            with recorded(files):
                configuration = load(self._path, allow_unsafe=self._allow_unsafe)
                try:
                    tls = tls_context(configuration.access, self._path.parent)
                    if configuration.web is not None:
                        require_web()
                        tls_context(configuration.web, self._path.parent)
                except ConfigurationError as error:
                    raise ConfigurationError(f"{self._path}: {error}") from error
        except BaseException:  # what was read before is looked at, too: it may be at fault, and be mended
            self.seen = {path: look(path) for path in self.seen} | files
            raise
        self.seen, self.used, self.tls = files, files, tls
        return configuration

    def address(self, configuration: Configuration) -> tuple[str, int]:
        """(ip, port) where to listen."""
        if self._port is not None:
            return configuration.ip, self._port
        port, warning = configuration.port_and_warning()
        if warning is not None:
            log.warning("`port` in the config file", port=configuration.port, warning=warning)
        return configuration.ip, port

    def look(self) -> Looks:
        """How they are now. Blocks; from any thread."""
        return {path: look(path) for path in self.seen}


class Settling:
    """Judges looks, one after the other.

    Args:
        config: the config file.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._last: Looks = {}
        self._same = 0

    def settled(self, now: Looks, *, seen: Looks, used: Looks) -> bool:
        """Whether the files, `seen` when they were read last, and `used` now, have changed and stand still again."""
        self._same = self._same + 1 if now == self._last else 1
        self._last = now
        if now == seen or now.get(self._config) is None:
            return False
        return self._same >= (LOOKS_IF_SHORTER if _is_shorter(used, now) else LOOKS)


def _is_shorter(used: Looks, now: Looks) -> bool:
    pairs = ((before, now.get(path)) for path, before in used.items())
    return any(before is not None and (after is None or after.size < before.size) for before, after in pairs)


async def watch(source: Source, changed: Callable[[], None]) -> None:
    """Call `changed`, which reads the files again, whenever they have changed and stand still, for ever."""
    settling = Settling(source.config)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = await _in_thread(source.look)
        if settling.settled(now, seen=source.seen, used=source.used):
            changed()


async def _in_thread(function: Callable[[], Looks]) -> Looks:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Looks] = loop.create_future()

    def run() -> None:
        looks = function()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(lambda: None if result.done() else result.set_result(looks))

    threading.Thread(target=run, name="config", daemon=True).start()
    return await result
