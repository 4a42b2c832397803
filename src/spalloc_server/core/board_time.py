"""How the boards of each machine spend their time: in use, cooling down, out of service, or free.

Theory of operation. Whenever changes are taken from the core, the boards of each machine are counted. Where a count is
another than before, what has gone by is added up: boards times seconds. A sum is of one hour, so that reports can tell
hours apart; where nothing changes for longer, one sum goes on. Sums that are over are rows, and the present one of each
machine is a fact. Both are stored with the very changes that they count, so a crash loses none, and counts none twice.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from spalloc_server.core.model import LATEST, BoardTimeRow
from spalloc_server.core.state import State
from spalloc_server.core.transitions import set_fact

__all__ = ["FACT", "account", "move", "take_fact"]

FACT = "board_time/"
"""How the names of the facts begin that have the present sums."""

HOUR: Final = 3600.0


def account(state: State) -> None:
    """Count the boards of each machine, and add up what has gone by where a count has changed."""
    with state.defects.contained("how boards spend their time"):
        _account(state, state.clock())


def _account(state: State, now: float) -> None:
    for name in state.machines:
        _count(state, name, state.scheduler.counts(name), now)
    for name in [name for name in state.board_time if name not in state.machines]:
        _count(state, name, (0, 0, 0, 0), now)
        _close(state, state.board_time.pop(name))
        set_fact(state, FACT + name, None)


def take_fact(state: State, fact: Any) -> None:
    """Go on with a stored sum; raise where it makes no sense."""
    row = msgspec.convert(fact, BoardTimeRow)
    if not -LATEST <= row.began <= row.until <= LATEST or min(row.boards, row.in_use, row.cooling, row.out) < 0:
        raise ValueError("it ends before it begins, or counts fewer boards than none")
    state.board_time[row.machine] = row


def move(state: State, seconds: float) -> None:
    """Go on as if the present sums had been left so much later: nothing is counted of the time in between."""
    for name, row in list(state.board_time.items()):
        _close(state, row)
        _begin(state, row, row.until + seconds)
        set_fact(state, FACT + name, msgspec.to_builtins(state.board_time[name]))


def _count(state: State, name: str, counts: tuple[int, int, int, int], now: float) -> None:
    row = state.board_time.get(name)
    if row is None:
        row = BoardTimeRow(machine=name, began=now, until=now, boards=0, in_use=0, cooling=0, out=0)
    elif counts == (row.boards, row.in_use, row.cooling, row.out):
        return
    state.board_time[name] = row
    if now > (end := _end_of_hour(row.began)):
        _extend(row, end)
        _close(state, row)
        row = _begin(state, row, end)
        if now - now % HOUR > end:
            _extend(row, now - now % HOUR)
            _close(state, row)
            row = _begin(state, row, row.until)
    _extend(row, now)
    row.boards, row.in_use, row.cooling, row.out = counts
    set_fact(state, FACT + name, msgspec.to_builtins(row))


def _end_of_hour(time: float) -> float:
    return time - time % HOUR + HOUR


def _extend(row: BoardTimeRow, until: float) -> None:
    seconds = max(0.0, until - row.until)
    row.boards_s += row.boards * seconds
    row.in_use_s += row.in_use * seconds
    row.cooling_s += row.cooling * seconds
    row.out_s += row.out * seconds
    row.until += seconds


def _begin(state: State, row: BoardTimeRow, began: float) -> BoardTimeRow:
    sums = {"boards_s": 0.0, "in_use_s": 0.0, "cooling_s": 0.0, "out_s": 0.0}
    state.board_time[row.machine] = begun = msgspec.structs.replace(row, began=began, until=began, **sums)
    return begun


def _close(state: State, row: BoardTimeRow) -> None:
    if row.until > row.began:
        state.outbox.board_time[row.machine, row.began] = row
