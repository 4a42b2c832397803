"""A command that raises has changed nothing.

Theory of operation. A command first works out all that it can. Then, before it changes anything, it says in an `Undo`
how that is put back; should it raise after all, the steps are taken in reverse order. So a step must be harmless where
its change has not been made. What has its own undo, and is the last thing that can raise, needs no step.

Only what the command itself does is put back. What follows from it, as the start of other jobs, comes afterwards and is
contained (`Engine.follow`): the command stands.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import copy
from typing import Any, Self

__all__ = ["Undo"]

_NOTHING = object()


class Undo:
    """Use it as a context: what was noted is put back where an exception leaves the context."""

    def __init__(self) -> None:
        self._steps = ExitStack()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function."""
        self._steps.callback(function, *args)

    def entries(self, key: Any, *mappings: dict[Any, Any]) -> None:
        """Put back what these mappings have under a key now."""
        for mapping in mappings:
            self._steps.callback(_put, mapping, key, mapping.get(key, _NOTHING))

    def attributes(self, *parts: Any) -> None:
        """Put back all attributes of these objects."""
        for part in parts:
            self._steps.callback(vars(part).update, vars(part).copy())

    def fields(self, *structs: Any) -> None:
        """Put back all fields of these structs."""
        for each in structs:
            self._steps.callback(_put_fields, each, copy(each))

    def contents(self, *some: Any) -> None:
        """Put back all that is in these dicts or sets."""
        for each in some:
            self._steps.callback(each.update, each.copy())
            self._steps.callback(each.clear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._steps.close()


def _put(mapping: dict[Any, Any], key: Any, value: Any) -> None:
    if value is _NOTHING:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _put_fields(struct: Any, before: Any) -> None:
    for name in struct.__struct_fields__:
        setattr(struct, name, getattr(before, name))
