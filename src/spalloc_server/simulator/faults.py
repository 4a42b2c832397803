"""The file that tells the simulator which faults to show, and the laws of its unreliable network.

Theory of operation. The file is TOML; `Faults` is its shape, and examples/faults.toml explains every key. Reading
it checks its form; applying it to the simulated frames checks that they have the hardware that it names, and then sets
each fault in the frames by the same methods and attributes that tests use. Times in the file count from the start of
the simulator. Only the network is not set but asked: `Network.passages` draws the fate of each datagram.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import Command, ResponseCode
from spalloc_server.links import Links
from spalloc_server.simulator.applications import ErrorCode, Failure, Signal
from spalloc_server.simulator.chip import CORES
from spalloc_server.simulator.flood import NUMBER_OF_CHIP
from spalloc_server.simulator.frame import Seconds, SimulatedFrame, SimulatedTimings
from spalloc_server.simulator.site import Site

__all__ = [
    "AnswerFault",
    "BmpFault",
    "BoardFault",
    "ChipFault",
    "CoreFault",
    "Faults",
    "Network",
    "apply_faults",
    "read_faults",
]

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
BoardNumber = Annotated[int, msgspec.Meta(ge=0, le=23)]
OnBoard = Annotated[int, msgspec.Meta(ge=0, le=7)]
PhysicalCore = Annotated[int, msgspec.Meta(ge=0, le=17)]
VirtualCore = Annotated[int, msgspec.Meta(ge=1, le=17)]
LinkName = Literal["east", "north_east", "north", "west", "south_west", "south"]
LEAST_CORES: Final = 5
"""Clients refuse a machine that has a chip with fewer."""
Times = Annotated[int, msgspec.Meta(ge=0)] | Literal["forever"]


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to datagrams on their way, each way."""

    loss: Chance = 0.0
    duplicate: Chance = 0.0
    reorder: Chance = 0.0
    delay: Seconds = 0.0
    reorder_delay: Seconds = 0.02

    def passages(self, rng: random.Random) -> list[tuple[float, bool]]:
        """Return (seconds of delay, whether the network made it) of each copy of a datagram; none where it is lost.

        A copy never comes before its original.
        """
        if rng.random() < self.loss:
            return []
        delay = rng.uniform(0, self.delay) + (self.reorder_delay if rng.random() < self.reorder else 0.0)
        copies = rng.random() < self.duplicate
        return [(delay, False), (delay, True)][: 1 + copies]


class BmpFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults of whole BMPs."""

    host: str | None = None
    silent_from: Seconds | None = None
    silent_until: Seconds | None = None
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+(\.\d+)?$")] | None = None
    crash_on_overlap: bool = False


class BoardFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults of a board's next power-ons."""

    host: str | None = None
    board: BoardNumber
    wrong_fpgas: Times = 0
    stuck: Times = 0
    keeps_registers: bool = False
    never_boots: bool = False


class ChipFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is broken on a chip, given by its place on its board."""

    host: str | None = None
    board: BoardNumber | None = None
    x: OnBoard
    y: OnBoard
    dead: bool = False
    dead_cores: tuple[PhysicalCore, ...] = ()
    dead_links: tuple[LinkName, ...] = ()

    def __post_init__(self) -> None:
        _check_chip(self.x, self.y)
        if self.dead and (self.x, self.y) == (0, 0):
            raise ValueError("chip (0, 0) of a board cannot be dead: it has the network plug; use `never_boots`")
        if len(set(self.dead_cores)) > CORES - LEAST_CORES:
            raise ValueError(f"at least {LEAST_CORES} cores of a chip must work")


class CoreFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run-time error of whatever program is loaded on a core."""

    host: str | None = None
    board: BoardNumber | None = None
    x: OnBoard
    y: OnBoard
    core: VirtualCore
    error: str = "SWERR"
    at: Literal["start", "sync"] = "sync"
    text: str = ""

    def __post_init__(self) -> None:
        _check_chip(self.x, self.y)
        if self.error not in ErrorCode.__members__:
            raise ValueError(f"{self.error!r} is none of {', '.join(ErrorCode.__members__)}")


class AnswerFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wrong or missing answers to commands."""

    host: str | None = None
    board: BoardNumber | None = None
    command: str | None = None
    code: str | None = None
    acts: bool = False
    lost: bool = False
    times: Times = "forever"

    def __post_init__(self) -> None:
        if (self.code is None) != self.lost:
            raise ValueError("an answer has either a `code` or `lost = true`")
        for name, kind in ((self.command, Command), (self.code, ResponseCode)):
            if name is not None and name not in kind.__members__:
                raise ValueError(f"{name!r} is none of {', '.join(kind.__members__)}")


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is to go wrong."""

    seed: int = 0
    network: Network = Network()
    board_network: Network = Network()
    timings: SimulatedTimings | None = None
    bmp: tuple[BmpFault, ...] = ()
    board: tuple[BoardFault, ...] = ()
    answer: tuple[AnswerFault, ...] = ()
    chip: tuple[ChipFault, ...] = ()
    core: tuple[CoreFault, ...] = ()


_Fault = BmpFault | BoardFault | AnswerFault | ChipFault | CoreFault


def read_faults(path: Path) -> Faults:
    """The faults of a TOML file; `ConfigurationError` says what is wrong where it cannot be read."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Faults)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the faults in {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def apply_faults(
    faults: Faults, frames: Mapping[str, SimulatedFrame], start: float, sites: Iterable[Site] = ()
) -> None:
    """Schedule all faults in the `frames`, by host, and on the boards at `sites`.

    `start` is when the clock's first second begins. `ConfigurationError` where a fault names a BMP or board that there
    is not; then nothing is changed.
    """
    places: list[_Fault] = [*faults.bmp, *faults.board, *faults.answer, *faults.chip, *faults.core]
    for fault in places:
        _check_place(fault, frames)
    for frame in frames.values():
        frame.timings = faults.timings or frame.timings
    for bmp in faults.bmp:
        for frame in _frames_of(bmp, frames):
            _apply_to_bmp(bmp, frame, start)
    for board_fault in faults.board:
        for frame in _frames_of(board_fault, frames):
            if board_fault.board in frame.boards:
                frame.boards[board_fault.board].wrong_fpgas = _count(board_fault.wrong_fpgas)
                frame.boards[board_fault.board].stuck = _count(board_fault.stuck)
                frame.boards[board_fault.board].keeps_registers = board_fault.keeps_registers
    for answer in faults.answer:
        for frame in _frames_of(answer, frames):
            _apply_to_answers(answer, frame)
    for site in sites:
        _apply_to_site(faults, site)


def _check_place(fault: _Fault, frames: Mapping[str, SimulatedFrame]) -> None:
    if fault.host is None:
        return
    if fault.host not in frames:
        raise ConfigurationError(f"a fault is given for the BMP {fault.host}; there are {', '.join(frames)}")
    board = None if isinstance(fault, BmpFault) else fault.board
    if board is not None and board not in frames[fault.host].boards:
        present = ", ".join(map(str, frames[fault.host].boards))
        raise ConfigurationError(f"a fault is given for board {board} of {fault.host}; it has {present}")


def _frames_of(fault: _Fault, frames: Mapping[str, SimulatedFrame]) -> list[SimulatedFrame]:
    return list(frames.values()) if fault.host is None else [frames[fault.host]]


def _count(times: Times) -> float:
    return math.inf if times == "forever" else times


def _apply_to_bmp(fault: BmpFault, frame: SimulatedFrame, start: float) -> None:
    if fault.silent_from is not None or fault.silent_until is not None:
        end = math.inf if fault.silent_until is None else start + fault.silent_until
        frame.silence(start + (fault.silent_from or 0.0), end)
    frame.crashes_on_overlap = frame.crashes_on_overlap or fault.crash_on_overlap
    if fault.version is not None:
        major, minor, patch = map(int, [*fault.version.split("."), "0"][:3])
        for board in frame.boards.values():
            board.version = (major, minor, patch)


def _apply_to_answers(fault: AnswerFault, frame: SimulatedFrame) -> None:
    command = None if fault.command is None else Command[fault.command]
    times = _count(fault.times)
    if fault.code is None:
        frame.lose_answers(command=command, board=fault.board, times=times)
    else:
        frame.refuse(ResponseCode[fault.code], command=command, board=fault.board, times=times, acts=fault.acts)


def _apply_to_site(faults: Faults, site: Site) -> None:
    broken = site.chip_faults
    for board in faults.board:
        if board.board == site.number and board.host in {None, site.bmp}:
            broken.never_boots = broken.never_boots or board.never_boots
    for chip in faults.chip:
        if chip.board in {None, site.number} and chip.host in {None, site.bmp}:
            number = NUMBER_OF_CHIP[chip.x, chip.y]
            if chip.dead:
                broken.dead_chips.add(number)
            broken.dead_links.update((number, Links[link]) for link in chip.dead_links)
            broken.dead_cores.setdefault(number, set()).update(chip.dead_cores)
    for core in faults.core:
        if core.board in {None, site.number} and core.host in {None, site.bmp}:
            at = Signal.START if core.at == "start" else Signal.SYNC0
            failure = Failure(ErrorCode[core.error], core.text, at)
            broken.failures[NUMBER_OF_CHIP[core.x, core.y], core.core] = failure


def _check_chip(x: int, y: int) -> None:
    if (x, y) not in NUMBER_OF_CHIP:
        raise ValueError(f"a board has no chip ({x}, {y}); its chips are those of a hexagon in a square of 8 by 8")
