"""Modules that log go on, whatever becomes of the line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from spalloc_server.log.logger import get_logger
from tests.pages import SOURCES, module_name


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Refusing:
    """A logger of an embedding program's, or a stream, that fails at everything."""

    def __getattr__(self, name: str) -> Any:
        raise BrokenPipeError(32, "Broken pipe")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("level", ["info", "warning", "error", "exception"])
@pytest.mark.parametrize("broken", ["the logger", "the rendering", "the stream"])
def test_no_call_raises(level: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "the logger":
        structlog.configure(logger_factory=lambda *_: Refusing())
    elif broken == "the stream":
        monkeypatch.setattr(sys, "stdout", Refusing())
        structlog.reset_defaults()
    log = get_logger("anybody")
    try:
        int("cause")
    except ValueError:
        assert getattr(log, level)("event", value=Unshowable()) is None


def test_an_embedding_programs_own_configuration_is_used() -> None:
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, method: str, event: Any) -> Any:
        lines.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.BoundLogger)
    log = get_logger("anybody")
    log.info("one", value=1)
    try:
        int("cause")
    except ValueError:
        log.exception("two")
    assert lines == [
        {"level": "info", "event": "one", "value": 1},
        {"level": "error", "event": "two", "exc_info": True},
    ]


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=module_name)
def test_every_module_logs_by_it(path: Any) -> None:
    uses_structlog = "structlog.get_logger" in path.read_text()
    assert not uses_structlog or module_name(path) in {"log.logger", "cli.logs"}
