"""The front process: what it is made of, and how it begins, changes, is replaced and ends.

Theory of operation. It has the lock of its state (`frontends.front_lock`), a connection to the server, and connections
of clients; nothing of it is kept. Its settings come from the server, and are applied whenever they may have changed:
another port, other certificates, other limits. It ends in one of two ways. Told to stop, it answers what is under way,
long polls at once, and is done after `STOP_SECONDS`, whatever clients do. Replaced, it lets another process accept, and
serves its clients until the last has gone; those that come and go are told to come anew, so only WebSockets last.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

from spalloc_server import __version__
from spalloc_server.application.commands import TellWebSettings
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.front_lock import FrontLock, Holder, front_folder, trusting
from spalloc_server.frontends.http.app import make_app
from spalloc_server.frontends.http.asking import WebSettings
from spalloc_server.frontends.http.certificates import context
from spalloc_server.frontends.http.connection import Connection
from spalloc_server.frontends.http.health import Health
from spalloc_server.frontends.http.home import Home
from spalloc_server.frontends.http.listener import Acceptor
from spalloc_server.frontends.http.metrics import Metrics, OwnFigures
from spalloc_server.frontends.http.replacement import Drained, Predecessor, replace
from spalloc_server.frontends.http.websocket import RESTART
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Front"]

STOP_SECONDS = 8.0
"""The longest that a front process takes to answer what is under way, when it is told to stop."""

IDLE_SECONDS = 1.0
"""After so long a front process that is replaced closes connections that wait for nothing."""

RENEWAL_SECONDS = 3600.0
"""Between looks whether the certificate is due."""

log = get_logger(__name__)


class Front:
    """One front process, in the running event loop.

    Args:
        state: of the server.
        of_server: whether the server has started it, and is to stop it.
        notify: tells systemd.
    """

    def __init__(self, state: Path, *, of_server: bool, notify: Callable[..., None]) -> None:
        self._of_server, self._notify = of_server, notify
        self._path, self._folder = socket_path(state), front_folder(state)
        self._loop = asyncio.get_running_loop()
        self._defects = DefectLog()
        self._stop_asked, self._haste_asked, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._settings: WebSettings | None = None
        self._listening = ("", 0)
        """(ip, port) as the settings have it."""
        self._replacing: asyncio.Task[None] | None = None
        self._replaced = asyncio.Event()
        self._lag = 0.0
        """The most seconds by which the event loop was late, since somebody looked."""
        self.address = ("", 0)
        """(address, port) where it listens."""

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`, or until it is replaced and its clients have gone.

        Raises:
            SpallocServerError: it cannot start.
        """
        predecessor = Predecessor.find()
        self._lock = FrontLock.take(self._folder) if predecessor is None else FrontLock(predecessor.lock)
        if predecessor is None:
            self._say_who()
        self._drained = Drained(() if predecessor is None else predecessor.channels)
        async with AsyncExitStack() as stack:
            stack.callback(self._drained.close)
            stack.enter_context(self._defects.heard_by(self._loop))
            connection = self._connection = Connection(
                self._path, TellWebSettings(), on_settings=self._told, on_version=self._server_upgraded
            )
            stack.push_async_callback(connection.close)
            connection.start()
            if not await self._first_settings():
                return
            health = Health(connection, self._folder, Metrics(connection, self._figures))
            app = make_app(connection, defects=self._defects, own=health.paths)
            self._home = Home(app, connection.settings.web, self._defects)
            self._acceptor = Acceptor(self._home, health.only_encrypted)
            await self._begin(predecessor)
            self._notify("READY=1", f"STATUS=serving at port {self.address[1]}")
            on_ready()
            await self._serve()
            await self._wind_up()

    # -- what it is told, in the event loop's thread

    def stop(self) -> None:
        """Answer what is under way, and end; at once, where it was told before.

        One that the server has started is told by that, and at the same time by systemd, where both are of one unit.
        """
        if self._stop_asked.is_set() and not self._of_server:
            self._haste_asked.set()
        self._stop_asked.set()

    def reload(self) -> None:
        """Read the certificates again."""
        self._changed.set()

    def replace(self) -> None:
        """Have a new process of this program, as it is now installed, take over."""
        if self.address[1] and (self._replacing is None or self._replacing.done()) and not self._replaced.is_set():
            self._replacing = self._loop.create_task(self._replace())

    def _told(self, settings: WebSettings | None) -> None:
        self._settings = settings
        self._changed.set()

    def _server_upgraded(self, version: str) -> None:
        if version != __version__:
            log.info("the server is of another version: a new front process is started", version=version)
            self.replace()

    # -- beginning

    async def _first_settings(self) -> bool:
        """Wait until the server has told settings; False where this process is to end before."""
        while self._settings is None:
            if self._stop_asked.is_set():
                return False
            await self._until(self._changed.wait(), self._stop_asked.wait())
            self._changed.clear()
        return True

    async def _begin(self, predecessor: Predecessor | None) -> None:
        """Accept clients; raises `SpallocServerError` where that cannot be."""
        web = self._connection.settings.web
        self._acceptor.tls = await asyncio.to_thread(context, web, self._folder)
        if predecessor is None:
            self._listen(web.ip, web.port)
        else:
            self._acceptor.listen(predecessor.sockets)
            self._listening = predecessor.listening
            self.address = self._acceptor.address
            self._changed.set()  # the port may be another by now
        self._say_who()
        if predecessor is not None:
            predecessor.ready()
        self._drained.stop_all_but(web.drained)

    def _say_who(self) -> None:
        self._lock.say(Holder(pid=os.getpid(), of_server=self._of_server))

    def _listen(self, ip: str, port: int) -> None:
        self._acceptor.listen(listening_sockets(ip, port, receive_bytes=None, setting="[web] port"))
        self._listening, self.address = (ip, port), self._acceptor.address
        told: dict[str, Any] = {} if self._connection.settings.web.tls_certificate else trusting(self._folder)
        log.info("serving HTTP", address="{}:{}".format(*self.address), trust=told or None)

    # -- serving

    async def _serve(self) -> None:
        """Serve until this process is to stop, or is replaced and has no clients any more."""
        chores = [
            self._loop.create_task(self._defects.lasting("settings", self._follow_settings)),
            self._loop.create_task(self._tell_time()),
        ]
        await self._until(self._stop_asked.wait(), self._all_gone())
        for task in chores:
            task.cancel()

    async def _all_gone(self) -> None:
        await self._replaced.wait()
        await self._acceptor.empty.wait()

    async def _until(self, *either: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
        """Wait for one of these, or until the time is over."""
        tasks = [self._loop.create_task(each) for each in either]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _tell_time(self) -> None:
        """Keep the date that answers have, and look by how much the event loop is late."""
        while True:
            date = (b"date", formatdate(time.time(), usegmt=True).encode())
            self._home.state.default_headers = [date]
            seconds = 1.0 - time.time() % 1.0
            due = self._loop.time() + seconds
            await asyncio.sleep(seconds)
            self._lag = max(self._lag, self._loop.time() - due)

    def _figures(self) -> OwnFigures:
        lag, self._lag = self._lag, 0.0
        return OwnFigures(self._acceptor.counted, len(self._home.websockets), lag, self._defects.count)

    async def _follow_settings(self) -> None:
        """Apply the settings whenever they may have changed, and look after the certificate."""
        while True:
            await self._until(self._changed.wait(), seconds=RENEWAL_SECONDS)
            self._changed.clear()
            await self._apply()

    async def _apply(self) -> None:
        """Apply the settings; what cannot be stays as it was."""
        if self._settings is None:
            log.warning("the server has no [web] any more: nobody is let in")
            self._acceptor.stop_listening()
            self._listening = ("", 0)
            return
        before, web = self._home.web, self._settings.web
        self._home.web = web
        if web.plain_http and not before.plain_http:
            self._acceptor.warn()
        try:
            self._acceptor.tls = await asyncio.to_thread(context, web, self._folder)
            if not self._replaced.is_set() and (web.ip, web.port) != self._listening:
                self._listen(web.ip, web.port)
        except SpallocServerError as exc:
            log.error("settings cannot be applied: going on as before", error=str(exc))

    async def _replace(self) -> None:
        log.info("a new front process is started")
        try:
            pid = await replace(
                lock=self._lock.number,
                sockets=self._acceptor.sockets,
                drained=self._drained.channels,
                listening=self._listening,
                stop=self.stop,
            )
        except Exception as exc:  # noqa: BLE001 - whatever it was, clients are to be served
            told = str(exc) if isinstance(exc, SpallocServerError) else repr(exc)
            log.error("the front process was not replaced: going on as before", error=told)
            return
        self._notify(f"MAINPID={pid}")
        self._acceptor.stop_listening()
        self._lock.release()
        self._drained.close()
        self._home.draining = True
        self._replaced.set()
        log.info("the new front process serves; this one ends with its clients", clients=self._acceptor.counted)
        await asyncio.sleep(IDLE_SECONDS)
        for connection in self._acceptor.connections:
            connection.close_if_idle()

    # -- ending

    async def _wind_up(self) -> None:
        """Let clients go: those whose requests are under way, once they are answered."""
        if not self._replaced.is_set():
            self._notify("STOPPING=1")
            self._drained.stop_all_but(0)
        self._acceptor.close()
        self._home.draining = True
        self._connection.stop_waiting()
        for connection in self._acceptor.connections:
            connection.shutdown()
        for websocket in tuple(self._home.websockets):
            websocket.close(RESTART, "the service is restarted")
        await self._until(self._acceptor.empty.wait(), self._haste_asked.wait(), seconds=STOP_SECONDS)
        log.info("stopped serving HTTP", broken_off=self._acceptor.counted)
        for connection in self._acceptor.connections:
            connection.transport.abort()
        for websocket in tuple(self._home.websockets):
            websocket.abort()
        for task in tuple(self._home.state.tasks):
            task.cancel()
