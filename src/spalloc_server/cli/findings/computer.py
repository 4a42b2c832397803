"""Whether this computer suits a server: ports, folders, disk, clock and open files. Everything is only read.

Theory of operation. The kernel tells in /proc which ports are taken, by which user, and often by which process; to try
a port would keep a server from it that starts at that moment.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from spalloc_server.cli.findings.finding import Finding, bad, good, note, some, warning
from spalloc_server.cli.running_server import reaches
from spalloc_server.cli.tables import clock, span
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.process.stored_times import DOUBTED_SECONDS, FACT
from spalloc_server.storage.files import PARTS, beside
from spalloc_server.storage.history import read_state

__all__ = ["files_needed", "holder_of", "look_at_clock", "look_at_files", "look_at_folder", "look_at_port"]

PROC = Path("/proc")

LEAST_BYTES = 100 * 2**20
"""`doctor`: with less room on the disk a server refuses changes before long."""

FEW_BYTES = 2**30
"""`doctor`: less room is told."""

SPARE_FILES = 100
"""`doctor`: files that a server has open besides connections and BMPs."""

SOCKET_PATH_BYTES: Final = 107
_LISTEN: Final = "0A"
_EARLIEST: Final = 1735689600.0  # 2025
_UNSYNCHRONISED: Final = 5
_REMOTE: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "fuse.sshfs"}


# -------------------------------------------------------------------- ports


def look_at_port(about: str, port: int, *, own: set[int | None], option: str) -> Iterator[Finding]:
    """Whether a TCP port is free, or taken by one of the processes `own` (None: by one that cannot be seen)."""
    if port == 0:
        yield good("ports", f"{about} takes any port that is free")
        return
    holder = holder_of(port)
    if holder is None:
        yield good("ports", f"port {port} is free, for {about}")
        lowest = int((PROC / "sys/net/ipv4/ip_unprivileged_port_start").read_text())
        if port < lowest and os.geteuid() != 0:
            do = f"choose one from {lowest} ({option}), or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
            yield warning("ports", f"port {port}, for {about}, is only for root", do)
    elif holder[0] in own:
        yield good("ports", f"port {port} is that of {about}, which runs")
    else:
        do = f"end that program, or choose another port ({option})"
        yield bad("ports", f"port {port}, for {about}, is taken by {holder[1]}", do)


def holder_of(port: int) -> tuple[int | None, str] | None:
    """Who listens at a TCP port of this computer: number of the process, and in words; None for nobody."""
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):
            for line in (PROC / table).read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == _LISTEN and int(parts[1].rpartition(":")[2], 16) == port:
                    return _process_with(f"socket:[{parts[9]}]", int(parts[7]))
    return None


def _process_with(file: str, user: int) -> tuple[int | None, str]:
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            for each in (folder / "fd").iterdir():
                with suppress(OSError):
                    if str(each.readlink()) == file:
                        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                        return int(folder.name), f"process {folder.name} of user {_user(user)}: {words[:100]}"
    return None, f"a process of user {_user(user)}"


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


# -------------------------------------------------------------------- the folder of the state


def look_at_folder(state: Path) -> Iterator[Finding]:
    """Whether this user can keep a state there, and whether there is room."""
    state = state.resolve()
    folder, me = state.parent, _user(os.geteuid())
    if not folder.is_dir():
        yield bad("state", f"there is no folder {folder}", "make it, for the user as whom the server runs")
        return
    problems = len(found := list(_permissions(state)))
    yield from found
    if (system := _file_system(folder)) in _REMOTE:
        do = "keep the state on a disk of this computer (--state): locks and journal cannot be relied on elsewhere"
        yield bad("state", f"{folder} is on a network file system ({system})", do)
    if len(os.fsencode(socket_path(state))) > SOCKET_PATH_BYTES:
        told = f"the path of {socket_path(state)} is too long for a socket"
        yield bad("state", told, "keep the state at a shorter path (--state): spalloc-admin could not reach the server")
    if not problems:
        yield good("state", f"user {me} can keep the state in {state}")
    room, files = shutil.disk_usage(folder).free, os.statvfs(folder)
    if room < FEW_BYTES:
        kind = bad if room < LEAST_BYTES else warning
        yield kind(
            "disk",
            f"{room / 2**20:,.0f} MiB are free for {folder}",
            "make room: a server refuses changes on a full disk",
        )
    elif files.f_files and files.f_favail < 100:
        yield bad("disk", f"the disk of {folder} has room for {files.f_favail} more files", "delete some there")
    else:
        yield good("disk", f"{room / 2**30:,.1f} GiB are free for {folder}")


def _permissions(state: Path) -> Iterator[Finding]:
    folder, me = state.parent, _user(os.geteuid())
    if not os.access(folder, os.W_OK | os.X_OK):
        owner = _user(folder.stat().st_uid)
        yield bad(
            "state",
            f"user {me} may not write to {folder}, which belongs to {owner}",
            f"run this, and the server, as {owner}; or give the folder to the server's user",
        )
        return
    files = [each for ending in (*PARTS, ".lock") if (each := beside(state, ending)).exists()]
    if closed := [each for each in files if not os.access(each, os.R_OK | os.W_OK)]:
        owner = _user(closed[0].stat().st_uid)
        yield bad(
            "state",
            f"user {me} may not write to {some(closed)}, which belong to {owner}",
            f"run this, and the server, as {owner}; or give the files to the server's user",
        )
    elif len(owners := {_user(each.stat().st_uid) for each in files}) > 1:
        do = "give all of them to the server's user: it may have been started as another user once"
        yield warning("state", f"the files of {state} belong to {some(sorted(owners))}", do)
    if folder.stat().st_mode & 0o1002 == 0o002:
        do = f"chmod o-w {folder}"
        yield warning("state", f"everybody may write to {folder}, and so put another state there", do)


def _file_system(folder: Path) -> str:
    """The kind of file system in which a folder is; empty where that is not known."""
    found = ("", "")
    with suppress(OSError):
        for line in (PROC / "self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mount = before.split()[4].replace("\\040", " ")
            if folder.is_relative_to(mount) and len(mount) >= len(found[0]):
                found = mount, after.split()[0]
    return found[1]


# -------------------------------------------------------------------- clock, files


def look_at_clock(state: Path, now: float | None = None) -> Iterator[Finding]:
    """Whether the clock is sane, by the year, by the state's last time, and by the kernel's word."""
    now = time.time() if now is None else now
    do = "set the clock, best by NTP (`timedatectl set-ntp true`), before the server starts"
    if now < _EARLIEST:
        yield bad("clock", f"it is {clock(now)} by this computer's clock", do)
    with suppress(OSError):
        if state.is_file():
            try:
                last = read_state(state, read_request, live=reaches(socket_path(state))).facts.get(FACT)
            except SpallocServerError as exc:
                yield bad("state", str(exc), "put a backup in its place, or see docs/state.md")
                last = None
            at = last.get("at") if isinstance(last, dict) else None
            if isinstance(at, float) and at > now + 1:
                told = f"the state has been used until {clock(at)}, which is {span(at - now)} ahead of the clock"
                yield bad("clock", told, do)
            elif isinstance(at, float) and now - at > DOUBTED_SECONDS:
                yield note(
                    "clock", f"no server has run with this state for {span(now - at)}, or the clock is ahead", do
                )
    synchronised = _synchronised()
    if synchronised is False:
        yield warning("clock", "nothing keeps this computer's clock right", "switch on NTP: `timedatectl set-ntp true`")
    elif now >= _EARLIEST:
        yield good("clock", f"{clock(now)}" + (", kept by NTP" if synchronised else ""))


def _synchronised() -> bool | None:
    """Whether the kernel counts the clock as synchronised; None where it does not tell."""
    with suppress(OSError, AttributeError):
        # struct timex has 208 bytes; with no modes set, it is only filled in
        found = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(1024))
        return None if found < 0 else found != _UNSYNCHRONISED
    return None


def files_needed(configuration: Configuration) -> int:
    """Open files that a server, or its front process, may need."""
    bmps = sum(len(machine.frames) for machine in configuration.machines)
    web = configuration.web.connections if configuration.web else 0
    return max(configuration.limits.connections + bmps, web) + SPARE_FILES


def look_at_files(configuration: Configuration) -> Iterator[Finding]:
    """Whether as many files may be open as there may be connections."""
    needed, most = files_needed(configuration), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < needed:
        yield warning(
            "files",
            f"a process may have {most} files open, and {needed} may be needed for all connections",
            f"raise the hard limit (ulimit -Hn {needed}; LimitNOFILE= in a unit), or lower [limits] connections",
        )
    else:
        yield good("files", f"a process may have {needed} files open, which is enough for all connections")
