"""Manual pages and the schema are what the code says, and the pages are roff that `man` can show."""

from __future__ import annotations

import re

import pytest

from docs import make_files
from spalloc_server.cli.examples import examples_of
from tests.pages import DOCS
from tests.test_docs_command_line import commands, options

MACROS = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".nf", ".fi", ".RS", ".RE", '.\\"'}
PAGES = sorted((DOCS / "man").glob("*.1"))


def test_the_files_that_come_from_the_code_are_as_it_says() -> None:
    assert [str(path) for path in make_files.outdated()] == []


def test_checking_them_tells_which_are_not_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_files.ROOT / "docs" / "man" / "other.1"
    monkeypatch.setattr(make_files, "files", lambda: {path: "text"})
    assert make_files.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/man/other.1 is not what the code says: run `make format`\n"
    assert not path.exists()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_has_no_requests_and_escapes_but_those_that_are_meant(path: object) -> None:
    text = next(each for each in PAGES if each == path).read_text()
    lines = text.splitlines()
    assert {line.split()[0] for line in lines if line.startswith((".", "'"))} <= MACROS
    assert set(re.findall(r"\\(?:\(..|f.|.)", text)) <= {
        "\\-",
        "\\e",
        "\\&",
        "\\(ga",
        "\\(ha",
        "\\(ti",
        "\\fB",
        "\\fP",
        '\\"',
    }
    assert lines.count(".RS") == lines.count(".RE")
    assert lines.count(".nf") == lines.count(".fi")
    assert "" not in lines


def test_the_page_of_operators_has_every_command_with_its_options_and_its_example() -> None:
    text = (DOCS / "man" / "spalloc-admin.1").read_text().replace("\\-", "-")
    for name, command in commands():
        part = text.partition(f".SS {name}\n")[2].partition("\n.SS ")[0]
        assert [
            form for form in options(command) if not re.search(rf"^\.B .*{re.escape(form)}\b", part, re.MULTILINE)
        ] == []
        for example in examples_of(name):
            assert f"\n{example}\n" in part
