"""What a machine is made of: places, hosts, links and sizes, each checked by itself.

Theory of operation. Each function turns what an operator gave into the one form that the model has, or raises an error
that begins with `where` or `what`, and says what would be right. No number is larger than the state can store.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from spalloc_server.config.hosts import why_no_host
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board, BoardLink, Location
from spalloc_server.errors import ConfigurationTypeError, ConfigurationValueError
from spalloc_server.links import Links

__all__ = ["BOARD", "FRAME", "board_of", "check_size", "dead_link", "hosts_of", "ipv4", "locations_of", "shortened"]
__all__ += ["set_of", "size_of"]

MAX_TRIADS = 100_000
"""Triads of one machine (else an error). The largest machine that there is has 400."""

BOARDS_PER_FRAME: Final = 24
"""Boards that one BMP switches: numbers from 0."""

MAX_SHOWN = 100
"""Characters of an operator's own text that an error repeats."""

BOARD = "(x, y, z)"
_LOCATION = "(cabinet, frame, board)"
FRAME = "(cabinet, frame)"
_LINKS = f"one of {', '.join(f'Links.{link.name}' for link in Links)}"


def shortened(text: str) -> str:
    """A text for an error: the beginning of a long one."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}..."


def _numbers(what: str, value: Any, form: str) -> tuple[int, ...]:
    """`value` as whole numbers; `form` tells how many, and the reader of an error what they are."""
    count = form.count(",") + 1
    try:
        numbers = tuple(map(operator.index, value))
        if len(numbers) == count and max(map(abs, numbers)) <= MAX_NUMBER:
            return numbers
        told = "" if len(numbers) == count else f", not {value!r}"
    except TypeError:
        told = f", not {value!r}"
    raise ConfigurationValueError(
        f"{what} must be {'two' if count == 2 else 'three'} whole numbers {form}, each up to {MAX_NUMBER}{told}"
    )


def board_of(what: str, value: Any) -> Board:
    """A board's coordinates."""
    x, y, z = _numbers(what, value, BOARD)
    return x, y, z


def dead_link(where: str, value: Any) -> BoardLink:
    """A board's coordinates and one of its links."""
    try:
        x, y, z, link = value
        return *board_of(f"{where}: board of a dead link", (x, y, z)), Links(link)
    except ConfigurationValueError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationValueError(
            f"{where}: dead link must be (x, y, z, link) with {_LINKS} as its link, not {value!r}"
        ) from error


def set_of(where: str, what: str, value: Any) -> frozenset[Any]:
    """Whatever can be gone through, as a set; a text is none of tags."""
    try:
        if not isinstance(value, str):
            return frozenset(value)
        told = f", as in {{{value!r}}}, not {value!r}"
    except TypeError as error:  # it cannot be gone through, or has lists in it
        told = f", as in {{...}}: {error}"
    raise ConfigurationTypeError(f"{where}: {what} must be a set{told}")


def _mapping(where: str, what: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationTypeError(f"{where}: {what} must be a mapping, as in {{...: ...}}, not {value!r}")
    return value


def locations_of(where: str, value: Mapping[Board, Location] | None) -> dict[Board, Location]:
    """Where boards stand; None for nowhere."""
    locations = {}
    for key, location in _mapping(where, "board_locations", value).items():
        board = board_of(f"{where}: a board in board_locations", key)
        cabinet, frame, number = _numbers(f"{where}: location of board {board}", location, _LOCATION)
        if not 0 <= number < BOARDS_PER_FRAME:
            raise ConfigurationValueError(
                f"{where}: board {board} is at cabinet {cabinet}, frame {frame}, board {number};"
                f" the boards of a frame are numbered from 0 to {BOARDS_PER_FRAME - 1}"
            )
        locations[board] = cabinet, frame, number
    return locations


def hosts_of(where: str, what: str, value: Mapping[Any, str] | None, form: str) -> dict[Any, str]:
    """Hosts by place, which has this `form`; None for no hosts."""
    hosts = {}
    for key, host in _mapping(where, what, value).items():
        place = _numbers(f"{where}: a key of {what}", key, form)
        if not host or not isinstance(host, str):
            raise ConfigurationTypeError(f"{where}: {what} of {place} must be a host's name or address, not {host!r}")
        if wrong := why_no_host(host):
            raise ConfigurationValueError(f"{where}: {what} of {place} is {shortened(host)}: {wrong}")
        hosts[place] = host
    return hosts


def size_of(where: str, width: int | None, height: int | None, boards: Iterable[Board]) -> tuple[int, int]:
    """Width and height in triads, inferred from the boards where both are None."""
    if width is None and height is None:
        known = list(boards)
        if not known:
            raise ConfigurationValueError(f"{where}: has no boards; give board_locations (or width and height)")
        return check_size(where, max(x for x, _, _ in known) + 1, max(y for _, y, _ in known) + 1)
    if width is None or height is None:
        raise ConfigurationTypeError(f"{where}: both or neither of width and height must be given, in triads")
    if not all(isinstance(size, int) for size in (width, height)):
        raise ConfigurationTypeError(f"{where}: width and height must be whole numbers of triads")
    if min(width, height) < 1:
        raise ConfigurationValueError(f"{where}: width and height must be 1 or more triads, not {width} x {height}")
    return check_size(where, width, height)


def check_size(where: str, width: int, height: int) -> tuple[int, int]:
    """Return the width and height of a machine, in triads; `ConfigurationValueError` where it is far too large."""
    if width * height > MAX_TRIADS:
        raise ConfigurationValueError(
            f"{where}: {_digits(width)} x {_digits(height)} triads are more than a machine may have: {MAX_TRIADS}"
        )
    return width, height


def _digits(number: int) -> str:
    """A whole number for an error text; Python refuses to write out one of thousands of digits."""
    return str(number) if abs(number) < MAX_NUMBER else "over 9 quadrillion"


def ipv4(what: str, address: str | int) -> int:
    """An IPv4 address as the number that it is. Its parts are decimal, as the published server has it: 010 is 10."""
    try:
        return int(IPv4Address(re.sub(r"\b0+(?=\d)", "", address) if isinstance(address, str) else address))
    except AddressValueError as error:
        raise ConfigurationValueError(
            f"{what} must be an IPv4 address, 0.0.0.0 to 255.255.255.255, not {address!r}"
        ) from error
