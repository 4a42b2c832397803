"""A first config file, from the answers to a few questions.

Theory of operation. Where boards stand is known of a single board, of a triad, and of a frame that is wired as SpiNNer
tells; of any other machine the wiring tool's CSV says it. Addresses that follow from one another as they usually do
are told by the first (`standard_ips`), all others one by one. The file is made as text, so that it can have comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import msgspec

from spalloc_server.config.machine import Frame
from spalloc_server.config.machine_parts import ipv4
from spalloc_server.coordinates import Board, Location
from spalloc_server.errors import ConfigurationValueError

__all__ = ["LAYOUTS", "Answers", "bmps_from", "frames_of", "text_of_first"]

_OF_24: Final = "000 010 301 311 002 012 302 312 001 011 300 310 100 110 201 211 102 112 202 212 101 111 200 210"
"""x, y and z of each board of a frame, by its number there: `spinner-ethernet-chips -n 24`."""

LAYOUTS: Final[Mapping[int, Mapping[Board, Location]]] = {
    count: {(int(xyz[0]), int(xyz[1]), int(xyz[2])): (0, 0, number) for number, xyz in enumerate(boards.split())}
    for count, boards in ((1, "000"), (3, "000 001 002"), (24, _OF_24))
}
"""Where the boards of a machine of one frame stand, by how many there are."""

_FRAME_STRIDE: Final = 0x100
_CABINET_STRIDE: Final = 0x500
_BOARD_STRIDE: Final = 8
_LAST_ADDRESS: Final = 2**32 - 1


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a machine and its server."""

    name: str
    locations: Mapping[Board, Location]
    """Of every board."""
    wiring: str | None = None
    """The CSV that says so, relative to the config file's folder; None for one of `LAYOUTS`."""
    bmps: Sequence[str]
    """The BMP's host of each of `frames_of(locations)`."""
    board_hosts: str | None = None
    """The host of a board, with {cabinet}, {frame}, {board}, {x}, {y} and {z} in it; None for the usual addresses:
    that of the frame's BMP + 8 x board + 1."""
    web: bool = False


def frames_of(locations: Mapping[Board, Location]) -> list[Frame]:
    """All frames, sorted."""
    return sorted({(cabinet, frame) for cabinet, frame, _ in locations.values()})


def bmps_from(first: str, frames: Sequence[Frame]) -> list[str] | None:
    """The BMPs' usual addresses, where the first has this one; None where that is no address, or they are too many."""
    try:
        base = ipv4("", first) - _offset(frames[0])
    except ConfigurationValueError:
        return None
    numbers = [base + _offset(frame) for frame in frames]
    return [str(IPv4Address(each)) for each in numbers] if 0 <= min(numbers) <= max(numbers) <= _LAST_ADDRESS else None


def _offset(frame: Frame) -> int:
    return frame[0] * _CABINET_STRIDE + frame[1] * _FRAME_STRIDE


def text_of_first(answers: Answers, head: Iterable[str]) -> str:
    """Return a config file in TOML that begins with the lines of `head` as comments.

    Raises:
        ConfigurationValueError: an answer is missing, or is no text in UTF-8.
    """
    try:
        lines = [*(f"# {line}".rstrip() for line in head), "", "[[machine]]", *_machine(answers)]
        lines += ["", "[web]"] if answers.web else []
        return "\n".join(lines) + "\n"
    except UnicodeEncodeError as error:
        raise ConfigurationValueError(f"{error.object!r} is no text in UTF-8") from error


def _machine(answers: Answers) -> list[str]:
    frames = frames_of(answers.locations)
    if len(answers.bmps) != len(frames):
        raise ConfigurationValueError(
            f"there are {len(answers.bmps)} BMPs for {len(frames)} frames: each frame has one"
        )
    hosts = {board: _host(answers, board, frames) for board in sorted(answers.locations)}
    name = f"name = {_json(answers.name)}"
    if len(hosts) == 1 and answers.wiring is None:
        (host,) = hosts.values()
        return ['form = "single_board"', name, f"bmp_ip = {_json(answers.bmps[0])}", f"spinnaker_ip = {_json(host)}"]
    places = _list("board_locations", "board", "location", answers.locations)
    if answers.wiring is not None:
        places = [f"board_locations = {_json(answers.wiring)}"]
    usual = bmps_from(answers.bmps[0], frames)
    if usual == list(answers.bmps) and answers.board_hosts is None:
        base = ipv4("", usual[0]) - _offset(frames[0])
        if base >= 0:
            return ['form = "standard_ips"', name, f'base_ip = "{IPv4Address(base)}"', *places]
    bmps = dict(zip(frames, answers.bmps, strict=True))
    every = [*_list("bmp_ips", "frame", "host", bmps), *_list("spinnaker_ips", "board", "host", hosts)]
    return ['form = "explicit"', name, *places, *every]


def _host(answers: Answers, board: Board, frames: Sequence[Frame]) -> str:
    cabinet, frame, number = answers.locations[board]
    if answers.board_hosts is None:
        bmp = answers.bmps[frames.index((cabinet, frame))]
        address = ipv4("a BMP's address, from which those of its boards follow,", bmp) + _BOARD_STRIDE * number + 1
        return str(IPv4Address(ipv4(f"the address of board {number} of its frame", address)))
    host = answers.board_hosts
    for word, value in zip(("cabinet", "frame", "board", "x", "y", "z"), (cabinet, frame, number, *board), strict=True):
        host = host.replace(f"{{{word}}}", str(value))
    return host


def _list(name: str, key: str, value: str, mapping: Mapping[Any, Any]) -> list[str]:
    entries = (f"    {{ {key} = {_json(one)}, {value} = {_json(mapping[one])} }}," for one in sorted(mapping))
    return [f"{name} = [", *entries, "]"]


def _json(value: Any) -> str:
    """A number, a text or a list of them, which TOML writes as JSON does."""
    return msgspec.json.encode(value).decode()
