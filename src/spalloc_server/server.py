"""The shell that wires the core to the world, and runs it.

Theory of operation. Everything happens in one event loop. Clients' commands, the hardware's answers and the passing of
time change the core; `Commits` takes the changes, has them stored, and then has their effects done:
`process.consequences` switches power and tells subscribers.

Stopping has two stages. The first finishes what BMPs are doing and disconnects clients; jobs keep their boards,
and boards their power. The second stops at once. Neither loses anything that was acknowledged. After an upgrade the old
process only finishes what it has begun at BMPs, and passes on what it hears meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from spalloc_server.application.api import About, Application
from spalloc_server.application.commits import Commits
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.application.waits import in_words
from spalloc_server.config.compare import compare, vanishing
from spalloc_server.config.settings import Configuration
from spalloc_server.config.watch import Source, watch
from spalloc_server.controller import Controller
from spalloc_server.core.closures import KEPT_FACTS
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import ConfigurationError, ListenError, SpallocServerError
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.frontends.operators.service import Operators
from spalloc_server.frontends.v1.service import Service
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.hardware.timings import Timings
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger
from spalloc_server.process import systemd
from spalloc_server.process.consequences import Consequences, Reports
from spalloc_server.process.expiry import Expiry, hurried
from spalloc_server.process.fronts import Fronts
from spalloc_server.process.in_thread import InThread
from spalloc_server.process.job_log import JobLog
from spalloc_server.process.journal_maintenance import JournalMaintenance
from spalloc_server.process.loop_lag import StallDetector
from spalloc_server.process.restoring import restored
from spalloc_server.process.upgrade import Predecessor, pass_on
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import cold_start, state_path

__all__ = ["Server"]

SIGNAL_TURNS = 10
"""Turns of the event loop after which signals that came while it stood still have been heard."""

DRAIN_SECONDS = 30.0
"""The longest that a graceful stop waits for BMPs to finish what they are doing."""

HASTE_SECONDS = 1.0
"""The longest that a stop at once waits for a disk that hangs."""

NAMED_JOBS = 20
"""Jobs that a configuration ends and that the log names."""

log = get_logger(__name__)


class Server(InThread):
    """One server: its core, and the shells around it.

    In an asyncio program, `await run()`; elsewhere, `start()` and `stop_and_join()`. It runs once.

    Args:
        config: the config file, Python or TOML.
        port: TCP port to listen on, 0 for any free one; by default the config's.
        state: the state file; by default `state_path(config)`.
        cold_start: begin anew: the old state is moved aside, and all boards are switched off.
        watch_config: reload when the config file changes.
        job_log: append what happens to jobs to this file, a JSON object a line (`JobEvent`).
        allow_unsafe_config: execute a Python config file even if others may write to it.
        timings: how patient to be with hardware; by default, as the config's `[hardware]` says.
    """

    def __init__(
        self,
        config: Path,
        *,
        port: int | None = None,
        state: Path | None = None,
        cold_start: bool = False,
        watch_config: bool = False,
        job_log: Path | None = None,
        allow_unsafe_config: bool = False,
        timings: Timings | None = None,
    ) -> None:
        self._config = config
        self._state = state or state_path(config)
        self._cold_start = cold_start
        self._watch_config = watch_config
        self._job_log = JobLog(job_log)
        self._timings = timings
        self._source = Source(config, port=port, allow_unsafe=allow_unsafe_config)
        self._configuration = Configuration()
        self._stop_asked, self._haste_asked = asyncio.Event(), asyncio.Event()
        self._listening = ("", 0)
        self._chores: list[asyncio.Task[None]] = []
        self._upgrading: asyncio.Task[None] | None = None
        self._predecessor_works: asyncio.Task[None] | None = None
        """Until it is over, BMPs may be doing what the predecessor told them."""
        self._successor: int | None = None
        """Number of the process that has taken over."""
        self._serves = False
        self._asked_early: list[Callable[[], None]] = []
        """What is to be done as soon as it serves."""
        self._maintenance = JournalMaintenance(
            lambda reason: self._application.refuse_changes(reason)  # noqa: PLW0108 - which there is not yet
        )
        self.defects = DefectLog()
        """What went wrong in the server itself."""
        self.controller = Controller()
        """The core, once the server is ready. It belongs to the event loop's thread: touch it from no other."""
        self.fronts = Fronts(self._state)
        self.stalls = StallDetector()
        self.address = ("", 0)
        """(address, port) where it listens, once it is ready."""

    async def run(self, *, on_ready: Callable[[], None] | None = None) -> None:
        """Serve until `stop`.

        Args:
            on_ready: called when clients can connect.

        Raises:
            SpallocServerError: it cannot start; the text is for the operator.
        """
        self._configuration = self._source.read()
        predecessor = Predecessor.find()
        if predecessor is not None:  # which may have been told to reload since
            self._configuration = self._source.read()
        address = self._source.address(self._configuration)
        sockets = listening_sockets(*address) if predecessor is None else predecessor.sockets
        async with AsyncExitStack() as stack:
            stack.push_async_callback(systemd.flush)
            await stack.enter_async_context(self._job_log)
            stack.enter_context(self.defects.heard_by(asyncio.get_running_loop()))
            for sock in sockets:
                stack.callback(sock.close)
            self._open_journal(predecessor)
            stack.push_async_callback(lambda: hurried(self._journal.close(), self._haste_asked, HASTE_SECONDS))
            found = restored(self._journal, self._maintenance.times, self._configuration, self._state)
            self.controller, self._accounts = found
            reports, timings = Reports(self.controller, self._hold, self.defects), self._timings or Timings()
            hardware = Hardware(reports.outcome, reports.frame, timings=timings, defects=self.defects)
            self._hardware = await stack.enter_async_context(hardware)
            self._connect_parts(reports)
            self._commits.stopped = predecessor is not None
            stack.push_async_callback(self._wind_up)
            self._configure(self._configuration)
            self.controller.predict_starts(in_words)
            if self._cold_start and predecessor is None:
                self.controller.switch_off_unused()
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            if predecessor is not None:
                predecessor.claim(self._commits, self._hardware, self._operators)
            await stack.enter_async_context(self._operators)  # before all clients: it may be an emergency
            await self._begin(sockets, address, predecessor)
            systemd.notify("READY=1", f"STATUS=serving at port {self.address[1]}")
            if on_ready is not None:
                on_ready()
            await self._stop_asked.wait()
            for task in self._chores:
                task.cancel()

    def stop(self) -> None:
        """Stop gracefully; at once, where it was told before. For the event loop's own thread."""
        if self._put_off(signal.SIGTERM):
            return
        if self._stop_asked.is_set():
            self._haste_asked.set()
        self._stop_asked.set()

    def reload(self) -> None:
        """Read the config file again and apply it; where it is bad, say so and go on as before."""
        if self._put_off(signal.SIGHUP, self.reload):
            return
        systemd.reloading()
        try:
            self._reload()
        except Exception:
            log.exception("reload failed")
        finally:
            systemd.notify("READY=1")

    def upgrade(self) -> None:
        """Start this program anew, as it is now installed, to take over; where that fails, go on as before."""
        if self._put_off(signal.SIGUSR2, self.upgrade):
            return
        if self._upgrading is None or self._upgrading.done():
            self._upgrading = self.defects.begin(self._tasks, "upgrade", self._upgrade())
            self._chores.append(self._upgrading)

    def _put_off(self, number: signal.Signals, ask: Callable[[], None] | None = None) -> bool:
        """Whether another process is the server by now, which is sent this signal; or, with `ask`, this not yet."""
        if self._successor is not None:
            with suppress(ProcessLookupError):
                os.kill(self._successor, number)
            return True
        if ask is not None and not self._serves:
            if ask not in self._asked_early:
                self._asked_early.append(ask)
            return True
        return False

    # ---------------------------------------------------------------- changing while it runs

    def _reload(self) -> None:
        sockets = []
        try:
            configuration = self._source.read()
            address = self._source.address(configuration)
            if address != self._listening:
                sockets = self._service.acceptor.bind(address, self._listening)
        except (ConfigurationError, ListenError) as exc:
            log.error("configuration not changed: the file is bad", error=str(exc))
            return
        before, ended = self._configuration, self._configure(configuration)
        self._hold()
        if sockets:
            self._chores.append(self.defects.begin(self._tasks, "listening elsewhere", self._listen(sockets, address)))
        log.info("configuration reloaded", changes=compare(before, configuration).lines() or "none", jobs_ended=ended)

    def _connect_parts(self, reports: Reports) -> None:
        """Make what stands around core and hardware, once there are both."""
        controller, hardware, defects = self.controller, self._hardware, self.defects
        self._time = Expiry(controller, self._hold, defects)
        subscriptions = Subscriptions()
        act = Consequences(hardware, controller, subscriptions, self._job_log, reports.outcome, defects).act
        commits = self._commits = Commits(controller, self._journal, act=act, defects=defects)
        application = self._application = Application(
            controller, hardware, commits, subscriptions, accounts=self._accounts, hold=self._hold, defects=defects
        )
        application.about = self._about
        service = self._service = Service(application, self._configuration.limits, defects=defects)
        commits.tell(service.committed)
        self._operators = Operators(application, state=self._state, complain=service.complain, defects=defects)

    async def _upgrade(self) -> None:
        if self._predecessor_works is not None:  # else three processes could have commands at one BMP
            await asyncio.wait([self._predecessor_works])
        log.info("upgrade: a new process is started")
        try:
            successor = await pass_on(
                snapshot=lambda: self._accounts.add_to(self.controller.snapshot()),
                journal=self._journal,
                last_commit=partial(self._maintenance.note_time, self._journal),
                service=self._service,
                operators=self._operators,
                commits=self._commits,
                hardware=self._hardware,
                listening=self._listening,
            )
        except Exception as exc:  # noqa: BLE001 - whatever it was, clients are to be served
            told = str(exc) if isinstance(exc, SpallocServerError) else repr(exc)
            log.error("upgrade failed: going on as before", error=told)
            return
        self._successor = successor.pid
        self._time.stop()
        for chore in self._chores:
            if chore is not self._upgrading:
                chore.cancel()
        await successor.finish_commands(self._hardware)
        for _ in range(SIGNAL_TURNS):
            await asyncio.sleep(0)
        log.info("upgrade done: the new process serves")
        self._stop_asked.set()

    # ---------------------------------------------------------------- starting

    async def _begin(
        self, sockets: list[socket.socket], address: tuple[str, int], predecessor: Predecessor | None
    ) -> None:
        """Serve: anew, or where another process left off."""
        chores: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "leases": lambda: self._time.judge_leases(
                lambda: self._configuration.timeout_check_interval, self._service.turns.pass_through
            ),
            "the journal": lambda: self._maintenance.run(self._journal, lambda: self._configuration.history_days),
            "systemd's watchdog": systemd.feed_watchdog,
            "stalls": self.stalls.run,
            "front processes": self.fronts.run,
        }
        if self._watch_config:
            chores["watch over the config file"] = lambda: watch(self._source, self.reload)
        if predecessor is None:
            await self._listen(sockets, address)
        else:
            await self._listen(sockets, predecessor.listening)
            await predecessor.go_on(self._service)
            waiting = predecessor.await_commands(self._hardware)
            self._predecessor_works = self.defects.begin(self._tasks, "the predecessor's BMPs", waiting)
            self._chores.append(self._predecessor_works)
        self._hold()
        self._chores += [self._tasks.create_task(self.defects.lasting(*chore)) for chore in chores.items()]
        self._serves = True
        if address != self._listening:
            self.reload()
        for ask in self._asked_early:
            ask()

    async def _listen(self, sockets: list[socket.socket], address: tuple[str, int]) -> None:
        """Serve clients at these sockets, and at no others; clients of others are disconnected."""
        if self._service.connections:
            await self._service.stop()
        self._service.acceptor.listen(sockets)
        self._listening = address
        self.address = sockets[0].getsockname()[:2]

    def _open_journal(self, predecessor: Predecessor | None) -> None:
        if self._cold_start and predecessor is None and (kept := cold_start(self._state, keep=KEPT_FACTS)):
            log.warning("cold start: old state moved aside", kept_as=str(kept))
        lock, left = (None, None) if predecessor is None else (predecessor.lock, predecessor.left)
        self._journal = SqliteJournal.open(
            self._state,
            read_request=read_request,
            loop=asyncio.get_running_loop(),
            on_health=self._maintenance.on_health,
            lock=lock,
            left=left,
        )

    def _configure(self, configuration: Configuration) -> int:
        self._configuration = configuration
        self._service.configure(configuration.limits, configuration.access)
        self._service.acceptor.tls = self._source.tls
        self._application.configure(configuration)
        before, live, imported = self.controller.machines, self.controller.live_jobs(), self.controller.imported
        self.controller.configure(configuration)
        if opposed := sorted(imported.keys() - self.controller.imported.keys()):
            log.warning("the configuration takes the place of imported machines", machines=opposed)
        if ended := sorted(live - self.controller.live_jobs()):
            gone = vanishing(before, self.controller.machines)
            log.warning("the configuration ends jobs", jobs=len(ended), machines=gone, job_ids=ended[:NAMED_JOBS])
        self._hardware.set_timings(self._timings or Timings.of(configuration.hardware))
        self.fronts.configure(configuration.web)
        self._hardware.watch(self.controller.bmps())
        return len(ended)

    # ---------------------------------------------------------------- from the core to the world

    def _hold(self) -> int | None:
        """Have what may have changed in the core stored; the commit to wait for, if any."""
        if self.controller.defects:
            self.defects.take(self.controller.defects)
        self._time.arm()
        return self._commits.hold()

    def _about(self) -> About:
        return About(self._config, self._state, self._service.acceptor.address, len(self._service.connections))

    # ---------------------------------------------------------------- stopping

    async def _wind_up(self) -> None:
        """Finish what is under way, unless the stop is in a hurry, and disconnect the clients."""
        self._service.acceptor.stop_listening()
        self._time.stop()
        if self._commits.stopped:
            return
        systemd.notify("STOPPING=1")
        self.fronts.stop()
        await hurried(self._finish_work(), self._haste_asked, 0.0)
        await hurried(self._commits.settle(), self._haste_asked, HASTE_SECONDS)
        self._commits.stop()  # should the disk go on after all, the next start does what follows
        for connection in tuple(self._service.connections):
            connection.abort()
        log.info("stopped: jobs keep their boards", jobs=len(self.controller.live_jobs()), jobs_ended=0)

    async def _finish_work(self) -> None:
        await self._commits.settle()
        if not await self._hardware.drain(DRAIN_SECONDS):
            log.warning("BMPs did not finish in time; their work is taken up again at the next start")
        await self._commits.settle()
        await self._service.stop()


if __name__ == "__main__":
    runpy.run_module("spalloc_server", run_name="__main__")  # the way in is above this module
