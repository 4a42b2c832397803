"""The arguments of `create_job`, from clients of v1, embedding programs and old rows: how they become a `Request`.

Theory of operation. The published clients send clean requests, but people's own scripts have always got away with a
keepalive that is a string, an owner that is not one, and sizes that end in null; so these are taken. Anything else is
refused with a text that says what would be right. What a `Request` must be, however it was made, it checks itself.

Numbers are bounded here, generously: whole ones to those that every reader of JSON takes exactly, and times to some
three hundred years. So all that the core works out from them fits into a float and into the journal.

A job is stored with its `Request`. Rows that older versions have written lack it, and have the arguments alone:
`read_request` is for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set as AbstractSet
from typing import Any

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.core.model.request import EITHER_MACHINE_OR_TAGS, MAX_SHOWN, MAX_TAGS, Request, shown
from spalloc_server.errors import RequestError

__all__ = ["DEFAULT_KEEPALIVE", "KEYWORDS", "parse_keepalive", "parse_request", "read_request", "told_of"]

DEFAULT_KEEPALIVE = 60.0
"""Seconds of silence after which a job is destroyed, where its creator names none."""

KEYWORDS = frozenset(
    {"owner", "keepalive", "machine", "tags", "min_ratio", "max_dead_boards", "max_dead_links", "require_torus"}
    | {"max_runtime", "priority"}
)
"""What `create_job` takes by name."""


def parse_request(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
    """The request that `create_job(*args, **kwargs)` makes.

    Args:
        args: none or one number (boards), two (width and height in triads) or three (x, y, z of one board).
        kwargs: `owner` and any of the other keywords of `create_job`; `keepalive` is for `parse_keepalive`.

    Raises:
        RequestError: the arguments cannot be understood; its text is for the user.
    """
    if kwargs.get("owner") is None:
        raise RequestError("owner must be specified for all jobs: give the owner's name or e-mail address as owner=...")
    if unknown := sorted(set(kwargs) - KEYWORDS):
        raise RequestError(
            f"unknown argument {shown(unknown[0])}: create_job takes sizes and {', '.join(sorted(KEYWORDS))}"
        )
    sizes = _sizes(args)
    machine, tags = _machine_and_tags(kwargs.get("machine"), kwargs.get("tags"))
    request = Request(
        owner=_in_text(kwargs["owner"], "owner"),
        boards=sizes[0] if len(sizes) == 1 else None,
        triads=(sizes[0], sizes[1]) if len(sizes) == 2 else None,
        board=(sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None,
        machine=machine,
        tags=tags,
        min_ratio=_min_ratio(kwargs.get("min_ratio")),
        max_dead_boards=_count(kwargs.get("max_dead_boards"), "max_dead_boards"),
        max_dead_links=_count(kwargs.get("max_dead_links"), "max_dead_links"),
        require_torus=bool(kwargs.get("require_torus", False)),
        max_runtime=_max_runtime(kwargs.get("max_runtime")),
        priority=_count(kwargs.get("priority"), "priority") or 0,
    )
    request.check()
    return request


def read_request(owner: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
    """Return the request of a job whose row has these arguments, and no request.

    Raises:
        RequestError: no server can have made a job of them.
    """
    return parse_request(args, {**kwargs, "owner": owner})


def told_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What `list_jobs` tells of a request that `parse_request` has understood: (args, kwargs).

    They are as they came, but never long: the server keeps them for as long as the job lives.

    Raises:
        RequestError: there are more tags than `MAX_TAGS`.
    """
    if (tags := len(kwargs.get("tags") or ())) > MAX_TAGS:  # as they came: the same one a thousand times is long, too
        raise RequestError(f"{tags} tags given: name at most {MAX_TAGS}")
    told = {name: value for name, value in kwargs.items() if name not in {"owner", "keepalive"}}
    torus = told.get("require_torus")
    if len(shown(torus)) > MAX_SHOWN or (isinstance(torus, int) and abs(torus) > MAX_NUMBER):
        told["require_torus"] = bool(torus)  # anything counts as true or false
    return list(args[:3]), told


def parse_keepalive(value: Any) -> float | None:
    """Seconds of silence that a job survives, or None where it never expires; `RequestError` otherwise."""
    if value is None:
        return None
    keepalive = _float(value)
    if not abs(keepalive) <= MAX_SECONDS:  # nor is it, where it is not a number
        raise RequestError(
            f"keepalive must be a number of seconds, at most {MAX_SECONDS:.0f}, or null for a job that never expires, "
            f"not {shown(value)}"
        )
    return keepalive


def _in_text(value: Any, name: str) -> str:
    """Return `value` as a text; `RequestError` where it is too long, or nested too deeply, to be one."""
    try:
        return str(value)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"{name} must be a text, not {shown(value)}") from exc


def _sizes(args: Sequence[Any]) -> tuple[int, ...]:
    given = list(args)
    while given and given[-1] is None:
        given.pop()
    if len(given) > 3:
        raise RequestError(
            f"{len(given)} sizes given: give a number of boards, or width and height in triads, or x, y, z of a board"
        )
    return tuple(_whole_number(arg, "size") for arg in given) or (1,)


def _machine_and_tags(machine: Any, tags: Any) -> tuple[str | None, frozenset[str]]:
    if machine is not None and tags is not None:
        raise RequestError(EITHER_MACHINE_OR_TAGS)
    if machine is not None:
        if not isinstance(machine, str | int | float):
            raise RequestError(f"machine must be a machine's name, not {shown(machine)}")
        return _in_text(machine, "machine"), frozenset()
    if tags is None:
        return None, DEFAULT_TAGS
    if not (isinstance(tags, Sequence | AbstractSet) or tags == {}) or (isinstance(tags, str) and tags):
        raise RequestError(f"tags must be a list of strings, not {shown(tags)}")
    for tag in tags:
        if not isinstance(tag, str):
            raise RequestError(f"a tag must be a string, not {shown(tag)}")
    return None, frozenset(tags)


def _min_ratio(value: Any) -> float:
    ratio = 0.0 if value is None else _number(value, "min_ratio", "a number from 0 to 1")
    return 1 / ratio if ratio > 1 else ratio


def _max_runtime(value: Any) -> float | None:
    return None if value is None else _number(value, "max_runtime", "a number of seconds, or null for no bound")


def _count(value: Any, name: str) -> int | None:
    return None if value is None else _whole_number(value, name)


def _whole_number(value: Any, name: str) -> int:
    number = _number(value, name, "a whole number")
    if not number.is_integer():
        raise RequestError(f"{name} must be a whole number, not {shown(value)}")
    return int(value)  # not `number`, which is rounded


def _number(value: Any, name: str, right: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(number := _float(value)):
        raise RequestError(f"{name} must be {right}, not {shown(value)}")
    return number


def _float(value: Any) -> float:
    """As Python converts it; not a number where it does not."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
