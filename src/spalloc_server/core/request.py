"""From the arguments of `create_job` to a `Request`: parsed and validated once, where they enter.

Theory of operation. The published clients send numbers as numbers, but people's own scripts have always got away with
strings; so numbers are taken in both forms, and anything that is not one is refused with a text that says what would be
right. A request that makes sense but that no machine could serve is not refused here: it becomes a job that is
cancelled at once, because that is the answer which published clients understand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from spalloc_server.core.messages import Request
from spalloc_server.errors import RequestError

__all__ = ["DEFAULT_KEEPALIVE", "DEFAULT_TAGS", "parse_keepalive", "parse_request"]

DEFAULT_KEEPALIVE = 60.0
"""Seconds of silence after which a job is destroyed, where its creator names none."""

DEFAULT_TAGS = frozenset({"default"})
"""Tags that a machine must have, where the request names neither tags nor a machine."""

_KEYWORDS = frozenset(
    {"owner", "keepalive", "machine", "tags", "min_ratio", "max_dead_boards", "max_dead_links", "require_torus"}
    | {"max_runtime", "priority"}
)

T = TypeVar("T", bound=float)


def parse_request(args: Sequence[Any], kwargs: Mapping[str, Any], *, max_priority: int = 0) -> Request:
    """The request that `create_job(*args, **kwargs)` makes.

    Args:
        args: none or one number (boards), two (width and height in triads) or three (x, y, z of one board).
        kwargs: `owner` and any of the other keywords of `create_job`; `keepalive` is for `parse_keepalive`.
        max_priority: the highest `priority` that may be asked for.

    Raises:
        RequestError: the arguments cannot be understood; its text is for the user.
    """
    if unknown := sorted(set(kwargs) - _KEYWORDS):
        raise RequestError(
            f"unknown argument {unknown[0]!r}: create_job takes sizes and {', '.join(sorted(_KEYWORDS))}"
        )
    if kwargs.get("owner") is None:
        raise RequestError("owner must be specified for all jobs: give the owner's name or e-mail address as owner=...")
    sizes = _sizes(args)
    machine, tags = _machine_and_tags(kwargs.get("machine"), kwargs.get("tags"))
    single = len(sizes) == 3 or sizes == (1,)
    require_torus = bool(kwargs.get("require_torus", False))
    if require_torus and single:
        raise RequestError("a single board cannot be a torus: ask for more boards, or leave require_torus out")
    return Request(
        owner=str(kwargs["owner"]),
        boards=sizes[0] if len(sizes) == 1 else None,
        triads=(sizes[0], sizes[1]) if len(sizes) == 2 else None,
        board=(sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None,
        machine=machine,
        tags=tags,
        min_ratio=_min_ratio(kwargs.get("min_ratio")),
        max_dead_boards=_optional(_count, kwargs, "max_dead_boards"),
        max_dead_links=_optional(_count, kwargs, "max_dead_links"),
        require_torus=require_torus,
        max_runtime=_optional(_seconds, kwargs, "max_runtime"),
        priority=_priority(kwargs.get("priority"), max_priority),
    )


def parse_keepalive(value: Any) -> float | None:
    """Seconds of silence that a job survives, or None where it never expires; `RequestError` otherwise."""
    if value is None:
        return None
    return _number(float, value, "keepalive", "a number of seconds, or null for a job that never expires")


def _sizes(args: Sequence[Any]) -> tuple[int, ...]:
    if len(args) > 3:
        raise RequestError(
            f"{len(args)} sizes given: give a number of boards, or width and height in triads, or x, y, z of a board"
        )
    return tuple(_number(int, arg, "size", "a whole number") for arg in args) or (1,)


def _machine_and_tags(machine: Any, tags: Any) -> tuple[str | None, frozenset[str]]:
    if machine is not None and tags is not None:
        raise RequestError("machine and tags exclude each other: give the machine's name, or tags, or neither")
    if machine is not None:
        return str(machine), frozenset()
    if tags is None:
        return None, DEFAULT_TAGS
    if isinstance(tags, str) or not isinstance(tags, Sequence | frozenset | set):
        raise RequestError(f"tags must be a list of strings, not {tags!r}")
    return None, frozenset(str(tag) for tag in tags)


def _min_ratio(value: Any) -> float:
    if value is None:
        return 0.0
    ratio = _number(float, value, "min_ratio", "a number from 0 to 1")
    if ratio < 0:
        raise RequestError(f"min_ratio must be from 0 (any shape) to 1 (square), not {ratio}")
    return 1 / ratio if ratio > 1 else ratio


def _count(value: Any, name: str) -> int:
    count = _number(int, value, name, "a whole number, or null for any number")
    if count < 0:
        raise RequestError(f"{name} must not be negative: 0 for none, null for any number")
    return count


def _seconds(value: Any, name: str) -> float:
    seconds = _number(float, value, name, "a number of seconds, or null for no bound")
    if seconds <= 0:
        raise RequestError(f"{name} must be more than 0 seconds")
    return seconds


def _priority(value: Any, highest: int) -> int:
    if value is None:
        return 0
    priority = _number(int, value, "priority", f"a whole number of at most {highest}")
    if priority > highest:
        raise RequestError(f"priority {priority} is more than this server allows: at most {highest}")
    return priority


def _optional(parse: Callable[[Any, str], T], kwargs: Mapping[str, Any], name: str) -> T | None:
    value = kwargs.get(name)
    return None if value is None else parse(value, name)


def _number(kind: type[T], value: Any, name: str, right: str) -> T:
    """`value` as an int or a float; numbers written as strings count, truth values and halves of boards do not."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        if math.isfinite(number) and (kind is float or number.is_integer()):
            return kind(number)
    except (ValueError, OverflowError):
        pass
    raise RequestError(f"{name} must be {right}, not {value!r}")
