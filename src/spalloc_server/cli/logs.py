"""The log: one line an event on standard error, `key=value` for people or JSON for programs.

Theory of operation. All modules log with structlog; `configure` says once where that goes. What the standard library
logs (asyncio's complaints) is led into the same stream. Values are JSON, and what does not print is escaped, so that
nobody can forge a line. Where standard error leads to systemd's journal, lines begin with their priority. A value that
cannot be shown is replaced by a note, and errors in writing are ignored: nothing that only tells may decide. In a
program that serves, standard error takes lines without waiting (`cli.output`); how many it had to drop is a line of the
log, too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from spalloc_server.cli.output import Stream
from spalloc_server.log.text import printable


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let nobody import a module meanwhile."""
    had = {module: sys.modules[module]} if module in sys.modules else {}
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(had)


with _hidden("rich"):  # which structlog imports for tracebacks that this log does not have: a tenth of the start
    import structlog

__all__ = ["LogFormat", "configure"]

LogFormat = Literal["console", "json"]

PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""As syslog numbers them."""

_TIMES: Final = {
    "json": structlog.processors.TimeStamper(fmt="iso", utc=True),
    "console": structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
}


def configure(*, log_format: LogFormat = "console", quiet: bool = False) -> None:
    """Send the log to standard error.

    Args:
        log_format: `console` for people, `json` for programs.
        quiet: hide all but errors.
    """
    level = logging.ERROR if quiet else logging.INFO
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _TIMES[log_format],
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
        self._render: Callable[..., str] = _for_programs if log_format == "json" else _for_people
        self._to_journal = _is_journal(2)

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        text, level, when = (event.get(name) for name in ("event", "level", "timestamp"))
        try:
            line = self._render(structlog.processors.format_exc_info(logger, method, event))
        except Exception as exc:  # noqa: BLE001 - say a value that contains itself; the event is told without its values
            line = self._render(
                {"event": _shown(text), "not_shown": type(exc).__name__, "level": level, "timestamp": when}
            )
        if self._to_journal:  # each line there is an entry
            priority = PRIORITIES.get(str(level), PRIORITIES["info"])
            line = "\n".join(f"<{priority}>{each}" for each in line.split("\n"))
        return line


def _is_journal(number: int) -> bool:
    """Whether a descriptor leads to systemd's journal, which takes priorities from the beginning of lines."""
    with suppress(OSError):
        status = os.fstat(number)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def _for_programs(event: structlog.typing.EventDict) -> str:
    return json.dumps(event, default=_shown)


def _for_people(event: structlog.typing.EventDict) -> str:
    line = f"{event.pop('timestamp')} {event.pop('level'):<7} {printable(_shown(event.pop('event')))}"
    trace = event.pop("exception", None)
    line = "  ".join([line, *(f"{name}={_value(value)}" for name, value in event.items() if value is not None)])
    # Indented, so that no error's text looks like a line of the log
    return "\n  ".join([line, *(() if trace is None else map(printable, trace.split("\n")))])


def _value(value: object) -> str:
    """JSON; of a single word, without its quotes."""
    text = json.dumps(value, default=_shown, ensure_ascii=False)
    if not text.isprintable():
        return json.dumps(value, default=_shown)
    return text[1:-1] if text[0] == '"' and len(text) > 2 and not set(text[1:-1]) & set(" =\"'\\") else text


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:  # noqa: BLE001 - a class may do anything in there
        return f"({type(value).__name__} that cannot be shown: {type(exc).__name__})"
