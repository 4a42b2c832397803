"""`spalloc-admin doctor`: look at all that a first day goes wrong on, and say what to do. Nothing is changed.

Theory of operation. What is looked at is in `findings`, each by itself: whatever one of them meets, the others are
still told. BMPs can crash when two programs command them at once. So where a server runs that may drive them, it is
asked about them instead, or they are left alone.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import msgspec

from spalloc_server.application import commands
from spalloc_server.application.views import ServerView
from spalloc_server.cli import servers
from spalloc_server.cli.findings.computer import (
    files_needed,
    holder_of,
    look_at_clock,
    look_at_files,
    look_at_folder,
    look_at_port,
)
from spalloc_server.cli.findings.finding import Finding, Level, bad, good, note, warning
from spalloc_server.cli.findings.hardware import judge_frames, look_at_frames, look_at_names
from spalloc_server.cli.findings.unit import look_at_units
from spalloc_server.cli.process import PATH, count, one_line_errors, say
from spalloc_server.cli.running_server import NoServerError, OperatorError, RunningServer, find_server, named_state
from spalloc_server.cli.servers import telling_which
from spalloc_server.cli.tables import clock
from spalloc_server.config.extras import has_web, require_web
from spalloc_server.config.load import load
from spalloc_server.config.options import MAX_PORT
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import ConfigurationError, SpallocServerError
from spalloc_server.frontends.front_lock import front_folder, holder
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.history import last_seen
from spalloc_server.storage.state_file import state_path

__all__ = ["doctor"]

ASK_SECONDS = 3.0
"""`doctor`: the longest wait for a running server's answer."""

_HEADS: dict[Level, str] = {"good": "good", "note": "note", "warning": "WARN", "bad": "BAD"}
_WIDTH = 5


@click.command()
@click.argument("config", type=PATH, required=False)
@click.option("--state", type=PATH, help="The server's state file; else SPALLOC_STATE names it.")
@click.option("--port", "-p", type=click.IntRange(0, MAX_PORT), help="The server's TCP port, as it is told it.")
@click.option("--probe", is_flag=True, help="Ask BMPs even if another program may command them, which can crash them.")
@click.option("--allow-unsafe-config", is_flag=True, help="Execute a Python config file that others may write.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON, for programs.")
def doctor(
    config: Path | None, *, state: Path | None, port: int | None, probe: bool, allow_unsafe_config: bool, as_json: bool
) -> None:
    """Look for what may keep the server of CONFIG from serving, and say what to do; exit status 1 where something does.

    Without CONFIG it is the server that runs. Nothing is changed, and a server that runs is not disturbed.
    """
    with one_line_errors("spalloc-admin doctor"):
        if config is None:
            with _wanting_config(), telling_which(state, None):
                view = RunningServer(find_server(state, None), as_json=False).glance(
                    commands.Status(), ServerView, ASK_SECONDS
                )
            config, state = (Path(servers.whole_path(view.pid, path)) for path in (view.config, view.state))
        state = state or named_state() or state_path(config)
        found = list(_Examination(config, state, port, probe=probe, unsafe=allow_unsafe_config).findings())
    if as_json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        _show(found)
    if any(finding.level == "bad" for finding in found):
        raise click.exceptions.Exit(1)


@contextmanager
def _wanting_config() -> Iterator[None]:
    try:
        yield
    except NoServerError as exc:
        raise OperatorError(f"{exc}; or say which CONFIG to look at") from exc


def _show(found: list[Finding]) -> None:
    for finding, following in zip(found, [*found[1:], None], strict=True):
        head = f"{_HEADS[finding.level]:<{_WIDTH}}{finding.about}: "
        say(head + finding.text, indent=_WIDTH)
        if finding.do and (following is None or following.do != finding.do):
            say(f"{'':{_WIDTH}}-> {finding.do}", indent=_WIDTH + 3)
    levels = Counter(finding.level for finding in found)
    say(f"{levels['bad']} bad, {count(levels['warning'], 'warning')}, {levels['good']} good")


class _Examination:
    def __init__(self, config: Path, state: Path, port: int | None, *, probe: bool, unsafe: bool) -> None:
        self._config = config
        self._state = state
        self._port = port
        self._probe = probe
        self._unsafe = unsafe
        self._view: ServerView | None = None
        """What the server says that runs with this state."""
        self._running = False

    def findings(self) -> Iterator[Finding]:
        """Look at everything."""
        configuration, found = self._configuration()
        yield from found
        yield from self._server()
        look: Callable[[], Iterable[Finding]]
        looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = []
        if configuration is not None:
            looks = [
                ("names", lambda: asyncio.run(look_at_names(configuration))),
                ("BMPs", lambda: self._hardware(configuration)),
                ("ports", lambda: self._ports(configuration)),
                ("files", lambda: look_at_files(configuration)),
                ("certificate", lambda: self._certificates(configuration)),
            ]
        needed = files_needed(configuration or Configuration())
        looks += [
            ("state", lambda: look_at_folder(self._state)),
            ("clock", lambda: look_at_clock(self._state)),
            ("unit", lambda: look_at_units(self._config, self._state, needed)),
        ]
        for about, look in looks:
            try:
                yield from look()
            except (OSError, SpallocServerError, ValueError) as exc:
                yield note(about, f"this could not be looked at: {exc}")

    def _configuration(self) -> tuple[Configuration | None, list[Finding]]:
        try:
            configuration = load(self._config, allow_unsafe=self._unsafe)
        except ConfigurationError as exc:
            return None, [bad("config", str(exc), "correct the config file; what follows from it was not looked at")]
        boards = sum(len(machine.live_boards) for machine in configuration.machines)
        machines = count(len(configuration.machines), "machine")
        found = [good("config", f"{self._config}: {machines}, {count(boards, 'board')}")]
        if (told := configuration.port_and_warning()[1]) is not None and self._port is None:
            found.append(warning("config", told, "use --port"))
        if not configuration.machines:
            found.append(note("config", "it has no machines", "add a [[machine]]"))
        if configuration.web is not None:
            try:
                require_web()
            except ConfigurationError as exc:
                found.append(bad("config", str(exc), "install the extra, or take [web] out"))
        return configuration, found

    def _server(self) -> Iterator[Finding]:
        try:
            server = RunningServer(socket_path(self._state), as_json=False)
            self._view = server.glance(commands.Status(), ServerView, ASK_SECONDS)
        except NoServerError:
            with suppress(SpallocServerError):  # of a state that is damaged the clock tells
                if self._state.is_file():
                    seen = clock(last_seen(self._state))
                    yield note("server", f"none runs with this state; one was last seen at {seen}")
            return
        except (SpallocServerError, msgspec.MsgspecError) as exc:
            self._running = True
            yield note("server", f"one runs with this state, and does not answer: {exc}", "ask as its user, or as root")
            return
        self._running = True
        yield good("server", f"spalloc_server {self._view.version} runs, process {self._view.pid}")
        if self._view.refusal is not None:
            yield bad("server", f"changes are refused: {self._view.refusal}", "mend that; it goes on by itself")
        if self._view.stopped is not None:
            do = "`spalloc-admin resume` ends it"
            yield warning("server", f"an emergency stop holds: {self._view.stopped.reason}", do)
        if self._view.defects:
            told = f"{count(self._view.defects, 'defect')} since it started; the last: {self._view.last_defect}"
            yield warning("server", told, "report it with the log")

    # -- hardware

    def _hardware(self, configuration: Configuration) -> Iterator[Finding]:
        if self._view is not None and not self._probe:
            yield from _by_server(self._view)
        elif (why := self._danger(configuration)) is not None and not self._probe:
            do = "where no other program commands these BMPs, add --probe; a BMP can crash when two do"
            yield note("BMPs", f"they were not asked: {why}", do)
        else:
            yield from judge_frames(asyncio.run(look_at_frames(configuration)))

    def _danger(self, configuration: Configuration) -> str | None:
        """Which program may command these BMPs now; None for none that can be seen from here."""
        if self._running:
            return "a server runs with this state"
        names = {machine.name for machine in configuration.machines}
        for each in servers.running():
            if each.machines is None or names.intersection(each.machines):
                return f"another server runs, process {each.pid} of user {each.user}"
        port = self._port_of(configuration)
        if port and (taken := holder_of(port)) is not None:
            return f"port {port} is taken, perhaps by another server: {taken[1]}"
        return None

    def _port_of(self, configuration: Configuration) -> int:
        return configuration.port_and_warning()[0] if self._port is None else self._port

    def _ports(self, configuration: Configuration) -> Iterator[Finding]:
        own: set[int | None] = {None} if self._running else set()  # whose port it is, is not told to other users
        own |= set() if self._view is None else {self._view.pid}
        port = self._port_of(configuration)
        if self._view is not None and self._port is None:
            port = self._view.address[1]
        yield from look_at_port("the server", port, own=own, option="--port")
        if configuration.web is not None:
            front = holder(front_folder(self._state))
            own = set() if front is None else {front.pid, None}
            yield from look_at_port("HTTP", configuration.web.port, own=own, option="[web] port")

    def _certificates(self, configuration: Configuration) -> Iterator[Finding]:
        """Look at the time of those that somebody else renews."""
        if not has_web():
            return
        from spalloc_server.frontends.http.certificates import wrong_time  # takes the extra

        for settings in (configuration.access, configuration.web):
            named = settings.tls_certificate if settings is not None else ""
            if named and (wrong := wrong_time(self._config.parent / named)) is not None:
                is_bad, told = wrong
                yield (bad if is_bad else warning)("certificate", told, "then send the server SIGHUP")


def _by_server(view: ServerView) -> Iterator[Finding]:
    """What the server that commands the BMPs knows of them."""
    silent = 0
    for machine in view.machines:
        for each in machine.frames:
            where = f"{each.machine}: cabinet {each.cabinet}, frame {each.frame} ({each.bmp})"
            if each.silent is not None:
                silent += 1
                do = "is the frame switched on, its network cable in, and the address right? The server goes on trying"
                yield bad("BMPs", f"{where}: {each.silent}", do)
            if each.disabled is not None:
                yield note("BMPs", f"{where} is disabled: {each.disabled.reason}")
        if machine.out_of_service:
            told = f"{machine.name}: {count(machine.out_of_service, 'board')} out of service"
            yield note("BMPs", told, "`spalloc-admin boards --bad` says why")
    if not silent:
        yield good("BMPs", "all frames answer the server, which was asked in their place")
    yield note("firmware", "the server that runs commands the BMPs, so firmware and FPGAs were not looked at")
