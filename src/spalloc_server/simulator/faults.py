"""The file that tells the simulator which faults to show, and the laws of its unreliable network.

Theory of operation. The file is TOML; `Faults` is its shape, and examples/faults.toml explains every key. Reading
it checks its form; applying it to the simulated frames checks that they have the hardware that it names, and then sets
each fault in the frames by the same methods and attributes that tests use. Times in the file count from the start of
the simulator. Only the network is not set but asked: `Network.passages` draws the fate of each datagram.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import Command, ResponseCode
from spalloc_server.simulator.frame import Seconds, SimulatedFrame, SimulatedTimings

__all__ = ["AnswerFault", "BmpFault", "BoardFault", "Faults", "Network", "Passage", "apply_faults", "read_faults"]

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
BoardNumber = Annotated[int, msgspec.Meta(ge=0, le=23)]
Times = Annotated[int, msgspec.Meta(ge=0)] | Literal["forever"]


class Passage(NamedTuple):
    """How one of the copies of a datagram goes through the network."""

    delay: float
    """Seconds."""
    copy: bool
    """The network made it."""


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to datagrams on their way, each way."""

    loss: Chance = 0.0
    duplicate: Chance = 0.0
    reorder: Chance = 0.0
    delay: Seconds = 0.0
    reorder_delay: Seconds = 0.02

    def passages(self, rng: random.Random) -> list[Passage]:
        """The ways of one datagram: none where it is lost; a copy never comes before its original."""
        if rng.random() < self.loss:
            return []
        delay = rng.uniform(0, self.delay) + (self.reorder_delay if rng.random() < self.reorder else 0.0)
        copies = rng.random() < self.duplicate
        return [Passage(delay, copy=False), Passage(delay, copy=True)][: 1 + copies]


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
    timings: SimulatedTimings | None = None
    bmp: tuple[BmpFault, ...] = ()
    board: tuple[BoardFault, ...] = ()
    answer: tuple[AnswerFault, ...] = ()


_Fault = BmpFault | BoardFault | AnswerFault


def read_faults(path: Path) -> Faults:
    """The faults of a TOML file; `ConfigurationError` says what is wrong where it cannot be read."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Faults)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the faults in {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def apply_faults(faults: Faults, frames: Mapping[str, SimulatedFrame], start: float) -> None:
    """Schedule all faults in the `frames`, by host; `start` is when their clock's first second begins.

    `ConfigurationError` where a fault names a BMP or board that there is not; then nothing is changed.
    """
    places: list[_Fault] = [*faults.bmp, *faults.board, *faults.answer]
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
    for answer in faults.answer:
        for frame in _frames_of(answer, frames):
            _apply_to_answers(answer, frame)


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
