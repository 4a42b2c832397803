"""Text from anybody, made fit to be shown: what people type never reaches a terminal as controls.

Theory of operation. Owners, reasons, reports and names are kept as they came. Who shows them to people has them
`printable`: what does not print is written as Python writes it, so that it can be seen, too. Programs get exact data,
as JSON in ASCII.
"""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return the text with what does not print escaped: controls and newlines, overrides of direction, surrogates.

    >>> printable("red\x1b[31m\n")
    'red\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
