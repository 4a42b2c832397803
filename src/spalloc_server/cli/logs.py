"""The log: one line an event on standard error, `key=value` for people or JSON for programs.

Theory of operation. All modules log with structlog; `configure` says once where that goes. What the standard library
logs (asyncio's complaints) is led into the same stream. Values that come from users are quoted, so that nobody can
forge a line. A value that cannot be shown is replaced by a note, and errors in writing are ignored: nothing
that only tells may decide. In a program that serves, standard error takes lines without waiting (`cli.output`); how
many it had to drop is a line of the log, too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import structlog

from spalloc_server.cli.output import Stream

__all__ = ["LogFormat", "configure"]

LogFormat = Literal["console", "json"]


def configure(*, log_format: LogFormat = "console", quiet: bool = False) -> None:
    """Send the log to standard error.

    Args:
        log_format: `console` for people, `json` for programs.
        quiet: hide all but errors.
    """
    level = logging.ERROR if quiet else logging.INFO
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if log_format == "json" else "%Y-%m-%d %H:%M:%S", utc=False),
        _Lines(log_format),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError,
    )
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=max(level, logging.WARNING))
    if isinstance(sys.stderr, Stream):
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=processors)
        sys.stderr.background.tell_lost = lambda lines: f"{_lost(log, lines)}\n".encode()


def _lost(log: Any, lines: int) -> object:
    return log.error("lines of the log were lost", lines=lines)


class _StandardError:
    """Writes to what standard error is at that moment: a live display may have put itself in between."""

    def __init__(self, *_name: str) -> None:
        pass

    def msg(self, line: str) -> None:
        with suppress(Exception):  # it may be missing, closed, or whatever an embedding program has put there
            # In one piece: during an upgrade two processes write into the same log
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


class _FromStandardLibrary(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not go with the text, or cannot be shown
            message = str(record.msg)
        with suppress(Exception):
            log = structlog.get_logger()
            tell = log.error if record.levelno >= logging.ERROR else log.warning
            tell(message, exc_info=record.exc_info)


class _Lines:
    """The last processor: makes a line of an event, whatever its values are."""

    def __init__(self, log_format: LogFormat) -> None:
        json_ = structlog.processors.JSONRenderer(default=_shown)
        self._render: Callable[..., Any] = json_ if log_format == "json" else _for_people

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> Any:
        text, level, when = (event.get(name) for name in ("event", "level", "timestamp"))
        try:
            return self._render(logger, method, structlog.processors.format_exc_info(logger, method, event))
        except Exception as exc:  # noqa: BLE001 - say a value that contains itself; the event is told without its values
            entry = {"event": _shown(text), "not_shown": type(exc).__name__, "level": level, "timestamp": when}
            return self._render(logger, method, entry)


def _for_people(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    line = f"{event.pop('timestamp')} {event.pop('level'):<7} {event.pop('event')}"
    trace = event.pop("exception", None)
    line = "  ".join([line, *(f"{name}={_quoted(value)}" for name, value in event.items())])
    return line if trace is None else f"{line}\n{trace}"


def _quoted(value: Any) -> str:
    text = _shown(value)
    return text if text.isprintable() and text and not set(text) & set(" =\"'") else repr(text)


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:  # noqa: BLE001 - a class may do anything in there
        return f"({type(value).__name__} that cannot be shown: {type(exc).__name__})"
