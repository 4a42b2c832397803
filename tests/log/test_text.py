"""Text from anybody, fit to be shown."""

from __future__ import annotations

import pytest

from spalloc_server.log.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Jörg 日本 😀", "Jörg 日本 😀"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\u202etxt.exe\u2066", r"\u202etxt.exe\u2066"),
        ("\u2028\ufeff\udc80", r"\u2028\ufeff\udc80"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_does_not_print_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == shown
