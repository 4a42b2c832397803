"""Damages rows of a state file at random: their types, their ranges, their JSON, and whom they name."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_ALLOCATION = ["machine", "x", "y", "width", "height", "single", "boards"]
TABLES = {
    "jobs": [
        *(
            "owner",
            "request",
            "request",
            "args",
            "kwargs",
            "keepalive",
            "state",
            "power",
            "created_at",
            "allocated_at",
            "ready_at",
            "ended_at",
        ),
        *("ended_at", "operation", "placements", "board_seconds", "due", *_ALLOCATION),
    ],
    "history": [
        *("owner", "request", "args", "kwargs", "state", "created_at", "ended_at", "placements", "board_seconds"),
        "boards",
    ],
    "releases": ["job_id", "machine", "boards", "frames", "rest_until"],
    "boards": [
        *("machine", "x", "y", "z", "out_of_service", "by", "since", "failures", "reports", "counts_from", "strikes"),
        "trial_at",
    ],
    "facts": ["value", "name"],
    "users": [
        "number",
        "name",
        "role",
        "password",
        "enabled",
        "created_at",
        "last_failure",
        "wrong_passwords",
        "known",
    ],
    "tokens": ["account", "hash", "role", "created_at", "expires_at", "used_at"],
    "sessions": ["account", "began_at", "used_at"],
}

VALUES = [
    *(None, "", "x", "-1", "1e400", "null", "{}", "[]", "[[]]", '"x"', "[1e200]", "[" * 2000, '{"a":', "é\0"),
    b"\xff\xfe",
    *(-1, 0, 1, 2, 3, 9, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 1e12 + 1e9, 1e300, -1e300, float("inf"), 0.5),
    *('{"owner":"o1"}', '{"owner":"o1","boards":1,"board":[0,0,0]}', '{"owner":"o1","boards":-3}'),
    *('{"owner":"o1","boards":"3"}', '{"owner":"o1","boards":1e300}', '{"owner":"o1","boards":3,"min_ratio":NaN}'),
    *('{"owner":"o1","boards":3,"max_runtime":-1}', '{"owner":"o2","boards":3,"new":1}'),
    *("[[0, 0, 0]]", "[[9, 9, 9]]", "[[0, 0, 1], [0, 0, 1]]", '[["127.0.0.1", [0], []]]'),
]  # fmt: skip


class Damage:
    """One or a few random changes of a state file."""

    def __init__(self, state: Path, rng: random.Random, spared: set[int]) -> None:
        self._state = state
        self._rng = rng
        self._spared = spared
        self.done: list[str] = []

    def do(self, changes: int) -> None:
        """Damage so many columns of rows that are not about jobs to be spared, nor about their machine's order."""
        with closing(sqlite3.connect(self._state)) as connection, connection:
            for _ in range(changes):
                table = self._rng.choice(list(TABLES))
                if rows := [row for row in self._rows(connection, table) if self._may(table, row)]:
                    self._change(connection, table, self._rng.choice(rows))

    @staticmethod
    def _rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
        connection.text_factory = str
        return rows

    def _may(self, table: str, row: dict[str, Any]) -> bool:
        return table != "jobs" or row["job_id"] not in self._spared

    def _change(self, connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
        column = self._rng.choice(TABLES[table])
        value = self._value(connection, table, column, row[column])
        keys = {"boards": ("machine", "x", "y", "z"), "facts": ("name",), "releases": ("release_id",)}
        keys |= {"users": ("number",), "tokens": ("id",), "sessions": ("id",)}
        key = keys.get(table, ("job_id",))
        texts = [row[name].decode(errors="replace") if isinstance(row[name], bytes) else row[name] for name in key]
        where = " AND ".join(f"[{name}] IS ?" for name in key)
        try:
            connection.execute(f"UPDATE OR IGNORE {table} SET [{column}] = ? WHERE {where}", (value, *texts))
        except sqlite3.IntegrityError:  # NOT NULL
            return
        self.done.append(f"{table} {texts}: {column} = {str(value)[:60]}")

    def _value(self, connection: sqlite3.Connection, table: str, column: str, before: Any) -> Any:
        roll = self._rng.random()
        if isinstance(before, bytes) and roll < 0.3:  # cut, or with a byte that is another
            at = self._rng.randrange(len(before) + 1)
            cut = before[:at] if self._rng.random() < 0.5 else before[:at] + b"9" + before[at + 1 :]
            return cut.decode(errors="replace")
        if roll < 0.5:  # what another row says
            others = [row[column] for row in self._rows(connection, table)]
            other = self._rng.choice(others)
            return other.decode(errors="replace") if isinstance(other, bytes) else other
        return self._rng.choice(VALUES)
