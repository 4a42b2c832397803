"""The systemd unit of a server, where there is one: what it starts, as whom, and whether upgrades will work.

Theory of operation. Units are read as files, since systemd itself may not run here. A unit is a server's where its
`ExecStart` starts one. Drop-ins are read after the unit, as systemd does.
"""

from __future__ import annotations

import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from spalloc_server.cli.findings.finding import Finding, bad, good, note, warning

__all__ = ["look_at_units"]

FOLDERS = [
    Path(each)
    for each in (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    )
]

SYSTEMD_SECONDS = 2.0
"""`doctor`: the longest wait for systemd to tell its version."""

STOP_SECONDS = 45
"""`doctor`: what a unit must give a server to stop."""

_RELOAD_SINCE: Final = 253
_SERVERS: Final = {"spalloc_server", "spalloc-server"}
_UNITS: Final = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def look_at_units(config: Path | None, state: Path | None, files: int) -> Iterator[Finding]:
    """What is wrong with the units that start a server.

    Args:
        config: of the server that is looked at.
        state: of that server.
        files: that it may have open.
    """
    units = list(_units())
    if not units:
        yield note("unit", "no systemd unit starts a server here", "docs/how-to/run-as-a-service.md has one")
    for path, settings in units:
        found = list(_problems(path, settings, config, state, files))
        yield from found
        if not any(each.level in {"bad", "warning"} for each in found):
            yield good("unit", f"{path} is right")


def _units() -> Iterator[tuple[Path, dict[str, str]]]:
    seen = set()
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.service")):
            if path.name in seen:  # one in a folder before hides it
                continue
            seen.add(path.name)
            drop_ins = sorted(each for where in FOLDERS for each in where.glob(f"{path.name}.d/*.conf"))
            settings: dict[str, str] = {}
            for file in (path, *drop_ins):
                with suppress(OSError):
                    settings |= _settings(file.read_text(errors="replace"))
            if _words(settings) is not None:
                yield path, settings


def _settings(text: str) -> dict[str, str]:
    """The settings of a unit; of one that is given several times, the last."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith(("#", ";")))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _words(settings: dict[str, str]) -> list[str] | None:
    """The command line of a server; None where the unit starts something else."""
    with suppress(ValueError):
        words = shlex.split(settings.get("ExecStart", "").lstrip("@-:+!"))
        at = [number for number, word in enumerate(words) if Path(word).name in _SERVERS]
        return words if at and at[0] <= 2 else None
    return None


def _problems(
    path: Path, settings: dict[str, str], config: Path | None, state: Path | None, files: int
) -> Iterator[Finding]:
    words = _words(settings) or []
    if not Path(words[0]).is_absolute() or shutil.which(words[0]) is None:
        do = "install the server there, or correct ExecStart"
        yield bad("unit", f"{path} starts {words[0]}, which cannot be executed", do)
    yield from _of_command_line(path, words, config, state)
    if (user := settings.get("User")) is not None:
        try:
            pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except KeyError:
            yield bad("unit", f"{path} runs the server as {user}, who does not exist", f"useradd --system {user}")
    kind = settings.get("Type", "simple")
    version = _version()
    if kind == "notify-reload" and version is not None and version < _RELOAD_SINCE:
        do = "use examples/spalloc_server-252.service"
        yield bad("unit", f"{path} has Type=notify-reload, which systemd {version} does not know", do)
    if not kind.startswith("notify"):
        do = "Type=notify-reload (systemd 253 or newer), or Type=notify"
        yield warning("unit", f"{path} has Type={kind}: systemd takes an upgrade in place for the server's end", do)
    for name, right, why in (
        ("NotifyAccess", "all", "an upgrade in place fails where systemd does not believe the new process"),
        ("KillMode", "mixed", "a stop also kills what would have told BMPs to finish"),
    ):
        if settings.get(name) != right:
            yield warning("unit", f"{path} has no {name}={right}: {why}", f"add {name}={right} under [Service]")
    limit = settings.get("LimitNOFILE", "0").rpartition(":")[2]
    if limit != "infinity" and (not limit.isdecimal() or int(limit) < files):
        do = f"LimitNOFILE={max(files, 65536)}"
        yield warning("unit", f"{path} does not allow {files} open files, which all connections may need", do)
    seconds = re.fullmatch(r"(\d+) *([a-z]*)", settings.get("TimeoutStopSec", "90"))
    if seconds and int(seconds[1]) * _UNITS.get(seconds[2], 1) < STOP_SECONDS:
        do = f"TimeoutStopSec={STOP_SECONDS}"
        yield warning("unit", f"{path} kills a server that is letting its BMPs finish, which may take 30 s", do)


def _of_command_line(path: Path, words: list[str], config: Path | None, state: Path | None) -> Iterator[Finding]:
    from spalloc_server.cli.serve import main

    at = next(number for number, word in enumerate(words) if Path(word).name in _SERVERS)
    try:
        given = main.make_context("spalloc_server", words[at + 1 :]).params
    except click.ClickException as exc:
        yield bad(
            "unit", f"{path}: ExecStart: {exc.format_message()}", "correct it; `spalloc_server --help` has all options"
        )
        return
    theirs = given["config_file"]
    if not theirs.is_file():
        yield bad(
            "unit", f"{path} reads {theirs}, which is not there", "put the config file there, or correct ExecStart"
        )
    elif config is not None and not theirs.samefile(config):
        yield note("unit", f"{path} reads {theirs}, and not {config}")
    elif state is not None and given["state"] is not None and given["state"].resolve() != state.resolve():
        yield note("unit", f"{path} keeps the state in {given['state']}", f"look at that: --state {given['state']}")


def _version() -> int | None:
    """The version of systemd; None where it does not tell."""
    program = shutil.which("systemctl")
    with suppress(OSError, subprocess.SubprocessError):
        if program is not None:
            told = subprocess.run(  # noqa: S603 - no input of anybody's
                [program, "--version"], capture_output=True, text=True, timeout=SYSTEMD_SECONDS, check=True
            ).stdout
            if found := re.match(r"systemd (\d+)", told):
                return int(found[1])
    return None
