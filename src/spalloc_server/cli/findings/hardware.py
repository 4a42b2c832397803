"""Whether names resolve and BMPs answer, with which firmware, and what their FPGAs say.

Theory of operation. Names are looked up side by side, each by a thread that nobody waits for, and all within
`NAMES_SECONDS`. Frames are asked side by side, too; of one frame, one command is in flight at a time, since a BMP can
crash when two reach it at once. Everything that is asked only reads: the firmware's version, and the numbers of the
FPGAs, which those of a board that is off do not tell. What was heard of a frame (`Heard`) is judged afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from spalloc_server.cli.findings.finding import Finding, bad, good, note, some, warning
from spalloc_server.cli.process import count
from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.hardware.bmp import Bmp, NoAnswer, Refused
from spalloc_server.hardware.names import Names, NoNameService
from spalloc_server.hardware.scp import FLAG_REGISTER, BadPacket, Command, Version
from spalloc_server.hardware.timings import Timings

__all__ = ["Heard", "judge_frames", "look_at_frames", "look_at_names"]

NAMES_SECONDS = 10.0
"""`doctor`: the longest that it waits for the name service."""

SLOW_SECONDS = 1.0
"""`doctor`: a name that takes longer is told."""

FRAME_SECONDS = 30.0
"""`doctor`: the longest that it asks one frame."""

REPLY_SECONDS = 0.4
"""`doctor`: from sending a BMP a command to sending it again."""

TRIES = 8
"""`doctor`: times that a command is sent before the BMP counts as silent."""

LOSSES = 0.02
"""`doctor`: a larger share of lost datagrams is told."""

NAMES_AT_ONCE = 100
"""`doctor`: names that are looked up at the same time."""

FRAMES_AT_ONCE = 200
"""`doctor`: frames that are asked at the same time."""

_BMP_NAME: Final = "BC&MP"
_OFF: Final = 0xFFFFFFFF
_FIRST_WITH_FPGAS: Final = 2
_LATER: Final = "a board that is off tells nothing: the server verifies it when it switches it on"


async def look_at_names(configuration: Configuration) -> list[Finding]:
    """Whether the names of BMPs and boards resolve, and to different addresses."""
    users = dict(_hosts(configuration))
    names = [host for host in users if not _is_address(host)]
    if not names:
        return [good("names", "BMPs and boards are given by their addresses: no name service is needed")]
    service, gate = Names(), asyncio.Semaphore(NAMES_AT_ONCE)
    took: dict[str, float] = {}

    async def look_up(name: str) -> str:
        async with gate:
            begun = time.monotonic()
            try:
                return await service.address(name, NAMES_SECONDS)
            finally:
                took[name] = time.monotonic() - begun

    tasks = {name: asyncio.create_task(look_up(name)) for name in names}
    await asyncio.wait(tasks.values(), timeout=NAMES_SECONDS)
    for task in tasks.values():
        task.cancel()
    outcomes = dict(zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True))
    return list(_judge_names(users, outcomes, took))


def _hosts(configuration: Configuration) -> Iterator[tuple[str, str]]:
    for machine in configuration.machines:
        for frame in machine.frames:
            yield machine.bmp_ips[frame], "{}: BMP of cabinet {}, frame {}".format(machine.name, *frame)
        for board in machine.live_boards:
            yield machine.spinnaker_ips[board], "{}: board {},{},{}".format(machine.name, *board)


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        IPv4Address(host)
        return True
    return False


def _judge_names(
    users: dict[str, str], outcomes: dict[str, str | BaseException], took: dict[str, float]
) -> Iterator[Finding]:
    silent, unknown = [], []
    found: dict[str, list[str]] = defaultdict(list)
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            found[outcome].append(name)
        elif isinstance(outcome, NoNameService | asyncio.CancelledError):
            silent.append(name)
        else:
            unknown.append(f"{name} ({users[name]}): {outcome}")
    if silent:
        yield bad(
            "names",
            f"the name service has not answered for {some(silent)}",
            "look at /etc/resolv.conf and whether its servers answer, or list the names in /etc/hosts",
        )
    if unknown:
        yield bad(
            "names", f"these do not resolve: {some(unknown)}", "correct the config file, or list them in /etc/hosts"
        )
    for address, names in found.items():
        names += [host for host in users if host == address]
        if len(names) > 1:
            yield bad("names", f"{some(names)} are all at {address}", "give each an address of its own")
    if slow := [name for name in outcomes if took.get(name, 0.0) > SLOW_SECONDS and name not in silent]:
        told = f"the name service takes up to {max(took[name] for name in slow):.1f} s, as for {slow[0]}"
        yield warning("names", told, "list the names in /etc/hosts: a restart of the server asks for all of them")
    if not silent and not unknown:
        yield good("names", f"{count(len(outcomes), 'name')} resolve")


@dataclass(slots=True)
class Heard:
    """What was heard of a frame."""

    machine: str
    cabinet: int
    frame: int
    bmp: str
    silent: str | None = None
    """Why nothing more is known of it."""
    versions: dict[int, Version] = field(default_factory=dict)
    """By number of the board in its frame, as what follows."""
    refusals: dict[int, str] = field(default_factory=dict)
    flags: dict[int, list[int]] = field(default_factory=dict)
    """Of each FPGA."""
    commands: int = 0
    resends: int = 0
    seconds: float = 0.0

    @property
    def where(self) -> str:
        """Which frame it is, for people."""
        return f"{self.machine}: cabinet {self.cabinet}, frame {self.frame} ({self.bmp})"


async def look_at_frames(configuration: Configuration) -> list[Heard]:
    """Ask the boards of all frames."""
    gate, names = asyncio.Semaphore(FRAMES_AT_ONCE), Names()
    pace = configuration.hardware.pace_seconds
    timings = Timings(reply_s=REPLY_SECONDS, tries=TRIES, pace_s=pace, refusal_tries=2, open_s=NAMES_SECONDS)

    async def ask(machine: Machine, frame: tuple[int, int], host: str) -> Heard:
        heard = Heard(machine.name, *frame, host)
        async with gate:
            bmp = Bmp(host, timings, lambda _: None, find_address=names.address)
            try:
                async with asyncio.timeout(FRAME_SECONDS):
                    for number in sorted(machine.board_locations[board][2] for board in machine.frames[frame]):
                        await _ask_board(bmp, number, heard)
            except NoAnswer as exc:
                heard.silent = str(exc)
            except TimeoutError:
                heard.silent = f"it took more than {FRAME_SECONDS:g} s to ask all of its boards"
            finally:
                bmp.close()
        heard.commands, heard.resends = bmp.commands, bmp.resends
        return heard

    asked = (
        ask(machine, frame, machine.bmp_ips[frame]) for machine in configuration.machines for frame in machine.frames
    )
    return list(await asyncio.gather(*asked))


async def _ask_board(bmp: Bmp, board: int, heard: Heard) -> None:
    try:
        version = Version.decode(await bmp.command(board, Command.VERSION))
        heard.versions[board] = version
        if version.name == _BMP_NAME and version.version[0] >= _FIRST_WITH_FPGAS:
            flags = [await bmp.command(board, Command.FPGA_READ, FLAG_REGISTER, 4, fpga) for fpga in range(3)]
            heard.flags[board] = [int.from_bytes(each[:4], "little") for each in flags]
    except (Refused, BadPacket) as exc:
        heard.refusals[board] = str(exc)


def judge_frames(frames: Iterable[Heard]) -> Iterator[Finding]:
    """What was heard of frames, as findings."""
    frames = list(frames)
    answering = [heard for heard in frames if heard.silent is None]
    for heard in frames:
        if heard.silent is not None:
            yield bad(
                "BMPs",
                f"{heard.where}: {heard.silent}",
                "is the frame switched on, its network cable in, the address right, and UDP port 17893 let through?",
            )
        if heard.refusals:
            told = some(f"board {board}: {refusal}" for board, refusal in heard.refusals.items())
            yield bad("BMPs", f"{heard.where}: {told}", "is the board there? If not, list it in dead_boards")
        if heard.silent is None and heard.resends > LOSSES * (heard.commands + heard.resends):
            lost = f"{heard.resends} of {heard.commands + heard.resends} datagrams were lost"
            yield warning("BMPs", f"{heard.where}: {lost}", "look at its cable, its switch and the load of the network")
    if answering:
        boards = sum(len(heard.versions) for heard in answering)
        yield good("BMPs", f"{len(answering)} of {count(len(frames), 'frame')} answer, {count(boards, 'board')}")
    yield from _judge_versions(answering)
    yield from _judge_fpgas(answering)


def _judge_versions(frames: list[Heard]) -> Iterator[Finding]:
    places: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for heard in frames:
        others = {version.name for version in heard.versions.values() if version.name != _BMP_NAME}
        if others:
            yield bad(
                "firmware",
                f"{heard.where}: {some(sorted(others))} answers, which is no BMP",
                "give the BMP's address: a board's own is another, usually the next",
            )
        for version in heard.versions.values():
            if version.name == _BMP_NAME:
                places[version.version].append(heard.where)
    told = {".".join(map(str, version)): boards for version, boards in sorted(places.items())}
    for (major, minor, _), boards in places.items():
        if major < _FIRST_WITH_FPGAS:
            yield warning(
                "firmware",
                f"{count(len(boards), 'board')} with BMP firmware {major}.{minor}: {some(dict.fromkeys(boards))}",
                "install 2.1 or newer: this one verifies no FPGAs, and leaves links to other jobs' boards open",
            )
    if len(told) > 1:
        counts = ", ".join(f"{version} on {count(len(boards), 'board')}" for version, boards in told.items())
        yield warning("firmware", f"boards differ: {counts}", "give all of them the same, best the newest")
    elif told and min(places)[0] >= _FIRST_WITH_FPGAS:
        yield good("firmware", f"all have BMP firmware {next(iter(told))}")


def _judge_fpgas(frames: list[Heard]) -> Iterator[Finding]:
    right = off = 0
    for heard in frames:
        wrong = []
        for board, flags in heard.flags.items():
            if all(each == _OFF for each in flags):
                off += 1
            elif bad_ones := [fpga for fpga, each in enumerate(flags) if each & 3 != fpga]:
                wrong.append(f"board {board}, FPGA {some(bad_ones)}")
            else:
                right += 1
        if wrong:
            told = f"{heard.where}: a wrong bit file, or none, in {some(wrong)}"
            yield bad("FPGAs", told, "power-cycle the board; if that does not help, load its FPGAs' flash anew")
    if right:
        yield good("FPGAs", f"those of {count(right, 'board')} are right")
    if off:
        yield note("FPGAs", f"{count(off, 'board')} not looked at: {_LATER}")
