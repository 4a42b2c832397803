"""What config files of the published server do with its machines and configurations, which were named tuples.

Theory of operation. They are unpacked, compared, and made anew with other values (`_replace`): that works. They were
also changed in place, by their dicts and sets and by the list of machines. A machine is checked when it is made, so
there is no changing it afterwards: whoever tries is told what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import total_ordering
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from spalloc_server.errors import ConfigurationTypeError

__all__ = ["FixedDict", "FixedList", "FixedSet", "NamedTupleLike"]

K = TypeVar("K")
V = TypeVar("V")


@total_ordering
class NamedTupleLike:
    """A dataclass that can also be used as the named tuple of its fields that were published."""

    _fields: ClassVar[tuple[str, ...]]

    @classmethod
    def _make(cls, values: Iterable[Any]) -> Self:
        """One with these values, in the order of the published fields."""
        return cls(*values)

    def _replace(self, **changes: Any) -> Self:
        """The same with other values."""
        return replace(self, **changes)  # type: ignore[type-var]

    def _asdict(self) -> dict[str, Any]:
        """The published fields by name."""
        return {name: getattr(self, name) for name in self._fields}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asdict().values())

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __lt__(self, other: Any) -> bool:
        return tuple(self) < tuple(other)


def _refuse(text: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ConfigurationTypeError(text)

    return refuse


class FixedDict(dict[K, V]):
    """A dict that stays as it is."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse(
        "a machine cannot be changed, and neither can its dicts; make it with what it is to have, or make another one,"
        " as in machine = machine._replace(spinnaker_ips={**machine.spinnaker_ips, (0, 0, 0): 'host'})"
    )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class FixedSet(frozenset[V]):
    """A frozenset that was a set: it stays as it is."""

    add = remove = discard = pop = clear = update = __ior__ = __iand__ = __isub__ = __ixor__ = _refuse(
        "a machine cannot be changed, and neither can its sets; make it with what it is to have, or make another one,"
        " as in machine = machine._replace(dead_boards=machine.dead_boards | {(0, 0, 0)})"
    )
    difference_update = intersection_update = symmetric_difference_update = add

    def __repr__(self) -> str:
        return repr(frozenset(self))


class FixedList(tuple[V, ...]):
    """A tuple that was a list: equal to lists, and to be added to them, but it stays as it is."""

    __slots__ = ()

    __setitem__ = __delitem__ = append = extend = insert = remove = pop = clear = sort = reverse = __iadd__ = _refuse(
        "a configuration cannot be changed, and neither can its machines; give it all of them, or make another one,"
        " as in configuration = configuration._replace(machines=[*configuration.machines, machine])"
    )
    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __add__(self, other: Any) -> Any:
        return [*self, *other]

    def __radd__(self, other: Any) -> Any:
        return [*other, *self]

    def copy(self) -> list[V]:
        """A list of the same."""
        return list(self)
