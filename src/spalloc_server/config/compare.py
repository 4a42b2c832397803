"""What a change of the configuration changes.

Theory of operation. Two configurations are compared setting by setting and machine by machine. Jobs end only on
machines that vanish, or whose hardware changes, and there only those whose own boards or links change, which is the
core's to find out (`core.reconfiguration`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set as AbstractSet
from dataclasses import dataclass, fields

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration

__all__ = ["Comparison", "compare", "vanishing"]

SECRET = frozenset({"web.emergency_code"})
"""Settings whose values no log tells."""

GROUP = object()
"""Stands for a group of settings, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between the configuration in force and a new one. False where nothing does."""

    added: tuple[str, ...] = ()
    """Names of machines whose hardware only the new one has."""
    removed: tuple[str, ...] = ()
    """Names of machines whose hardware only the old one has."""
    renamed: Mapping[str, str]
    """{name: new name}: the same hardware under another name."""
    replaced: Mapping[str, str]
    """{machine: what differs in its hardware}: jobs end whose own boards or links do."""
    changed: Mapping[str, str]
    """{machine, by its new name: what differs}: changed in place, and their jobs stay."""
    order: tuple[str, ...] | None = None
    """The new order of the machines that both have, where it is not the old one."""
    settings: Mapping[str, tuple[object, object]]
    """{setting: (old value, new value)}."""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def lines(self) -> list[str]:
        """For people: one line for each machine and each setting that differs."""
        return [
            *(f"machine {name}: removed" for name in self.removed),
            *(f"machine {old}: renamed to {new}" for old, new in self.renamed.items()),
            *(f"machine {name}: replaced ({what})" for name, what in self.replaced.items()),
            *(f"machine {name}: {what}" for name, what in self.changed.items()),
            *(f"machine {name}: added" for name in self.added),
            *([f"machines reordered: {', '.join(self.order)}"] if self.order else ()),
            *(f"{name}: {_difference(name, old, new)}" for name, (old, new) in self.settings.items()),
        ]


def _difference(name: str, old: object, new: object) -> str:
    if old is GROUP or new is GROUP:
        return "added" if new is GROUP else "removed"
    return "changed" if name in SECRET else f"{old!r} -> {new!r}"


def compare(old: Configuration, new: Configuration) -> Comparison:
    """What a reload that replaces `old` by `new` changes."""
    before = {machine.name: machine for machine in old.machines}
    after = {machine.name: machine for machine in new.machines}
    both = [name for name in after if name in before]
    same = [name for name in both if before[name].same_hardware(after[name])]
    renamed = {
        old: new
        for old, machine in before.items()
        for new, other in after.items()
        if old not in same and new not in same and machine.hardware == other.hardware
    }
    came = set(renamed.values())
    changes = {name: _changes(before[name], after[name]) for name in same}
    changes |= {new: _changes(before[old], after[new]) for old, new in renamed.items()}
    earlier, now = dict(_settings(old)), dict(_settings(new))
    return Comparison(
        added=tuple(name for name in after if name not in came and (name not in before or name in renamed)),
        removed=tuple(name for name in before if name not in renamed and (name not in after or name in came)),
        renamed=renamed,
        replaced={
            name: _hardware_changes(before[name], after[name])
            for name in both
            if name not in same and name not in renamed and name not in came
        },
        changed={name: what for name, what in changes.items() if what},
        order=tuple(both) if both != [name for name in before if name in after] else None,
        settings={name: (earlier[name], now[name]) for name in now if name in earlier and now[name] != earlier[name]},
    )


def vanishing(old: Mapping[str, Machine], new: Mapping[str, Machine]) -> list[str]:
    """Names of the machines whose jobs may end where `new` follows `old`: those removed, and those replaced."""
    return [name for name, machine in old.items() if name not in new or not machine.same_hardware(new[name])]


def _settings(configuration: Configuration) -> Iterator[tuple[str, object]]:
    """Yield each setting with its name, those of a group as `limits.connections`; and each group that there is."""
    for field in fields(configuration):
        value = getattr(configuration, field.name)
        if isinstance(value, msgspec.Struct):
            yield field.name, GROUP
            yield from ((f"{field.name}.{name}", part) for name, part in msgspec.structs.asdict(value).items())
        elif field.name != "machines":
            yield field.name, value


def _hardware_changes(old: Machine, new: Machine) -> str:
    size = f"{old.width} x {old.height} -> {new.width} x {new.height} triads"
    changes = [size] if (old.width, old.height) != (new.width, new.height) else []
    for what, before, after in (
        ("board locations", old.board_locations, new.board_locations),
        ("BMP addresses", old.bmp_ips, new.bmp_ips),
        ("board addresses", old.spinnaker_ips, new.spinnaker_ips),
    ):
        differing = sum(before.get(key) != after.get(key) for key in {*before, *after})
        if differing:
            changes.append(f"{differing} {what} differ")
    return ", ".join(changes)


def _changes(old: Machine, new: Machine) -> str:
    changes = [
        f"{what} +{len(after - before)} -{len(before - after)}"
        for what, before, after in (
            ("dead boards", old.dead_boards, new.dead_boards),
            ("dead links", old.dead_links, new.dead_links),
        )
        if before != after
    ]
    if old.tags != new.tags:
        changes.append(f"tags {_listed(old.tags)} -> {_listed(new.tags)}")
    return ", ".join(changes)


def _listed(tags: AbstractSet[str]) -> str:
    return "{" + ", ".join(sorted(tags)) + "}"
