"""Rows as lines of tables. That every row comes back as it was is held by `test_journal`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.storage.reading import read_facts
from spalloc_server.storage.rows import TABLES, encode
from spalloc_server.storage.state_file import connect
from tests.storage.workload import a_board, a_job, a_release


def test_the_tables_have_the_columns_that_the_rows_have(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "state.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {*TABLES, "days"}, "which `accounting` writes"
        for table, columns in TABLES.items():
            found = [line[1] for line in connection.execute(f"PRAGMA table_info({table})")]
            assert sorted(found) == sorted(columns)


@pytest.mark.parametrize("size", [2**63, -(2**63)])
def test_an_integer_that_sqlite_cannot_hold_is_refused(size: int) -> None:
    job = a_job(1)
    job.operation = size
    with pytest.raises(StorageError, match="too large"):
        encode(Changes(jobs={1: job}))


def test_a_text_that_sqlite_cannot_hold_is_refused() -> None:
    with pytest.raises(StorageError, match="surrogates"):
        encode(Changes(jobs={1: a_job(1, owner="\ud800")}))


def test_later_lines_replace_earlier_ones_and_none_deletes() -> None:
    rows = encode(Changes(jobs={1: a_job(1)}, boards={("hall", 4, 0, 2): a_board(4)}, releases={8: a_release(8)}))
    rows.update(encode(Changes(jobs={1: a_job(1, owner="bob")}, releases={8: None}, facts={"a": None})))
    assert rows.jobs[1][1] == "bob"
    assert rows.boards[("hall", 4, 0, 2)] is not None
    assert rows.releases == {(8,): None}
    assert rows.facts == {("a",): None}


def test_a_value_that_is_not_text_is_not_taken_for_json(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "state.db")) as connection:
        connection.execute("INSERT INTO facts VALUES ('a', x'01')")
        with pytest.raises(msgspec.ValidationError, match="not JSON"):
            read_facts(connection)
