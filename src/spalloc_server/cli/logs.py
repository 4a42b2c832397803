"""The log: one line an event on standard error, `key=value` for people or JSON for programs.

Theory of operation. All modules log with structlog; `configure` says once where that goes. What the standard library
logs (asyncio's complaints) is led into the same stream. Values that come from users are quoted, so that nobody can
forge a line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Literal

import structlog

__all__ = ["LogFormat", "configure"]

LogFormat = Literal["console", "json"]


def configure(*, log_format: LogFormat = "console", quiet: bool = False) -> None:
    """Send the log to standard error.

    Args:
        log_format: `console` for people, `json` for programs.
        quiet: hide all but errors.
    """
    level = logging.ERROR if quiet else logging.INFO
    render: Callable[..., Any] = structlog.processors.JSONRenderer() if log_format == "json" else _for_people
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if log_format == "json" else "%Y-%m-%d %H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError,
    )
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=max(level, logging.WARNING))


class _StandardError:
    """Writes to what standard error is at that moment: a live display may have put itself in between."""

    def __init__(self, *_name: str) -> None:
        pass

    def msg(self, line: str) -> None:
        # In one piece: during an upgrade two processes write into the same log
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = msg


class _FromStandardLibrary(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def _for_people(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    line = f"{event.pop('timestamp')} {event.pop('level'):<7} {event.pop('event')}"
    trace = event.pop("exception", None)
    line = "  ".join([line, *(f"{name}={_quoted(value)}" for name, value in event.items())])
    return line if trace is None else f"{line}\n{trace}"


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(" =\"'") else repr(text)
