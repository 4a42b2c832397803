"""Options of the whole suite: slow kinds of tests run only when they are asked for; `--quick` runs only quick tests."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from tests.house import Place

SLOW_KINDS = ("conformance", "distribution", "torture")
"""Markers whose tests are left out unless `--run-<marker>` is given."""

QUICK_ROOMS = ("application", "config", "core", "drawing", "frontends", "hardware")
"""Folders whose tests start no processes: with `--quick` they run, but for those that are marked `slow`."""

QUICK_EXAMPLES, QUICK_STEPS = 5, 20
"""What a property is tried with at most under `--quick`: examples, and steps of a state machine."""

QUICK_SECONDS = 2.0
"""Of CPU that a test may take under `--quick`; one that takes more is to be marked `slow`."""

FIRST_ESTIMATE = 360.0
"""Seconds that `make test` takes on two idle cores, for who has not run it yet."""

settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # which a busy machine cannot make fail
settings.register_profile(
    "mutants", settings(), phases=[Phase.explicit, Phase.generate], database=None, derandomize=True
)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script: clients would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only quick tests, and few examples of properties")
    for kind in SLOW_KINDS:
        parser.addoption(f"--run-{kind}", action="store_true", help=f"also run the tests marked {kind}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = [kind for kind in SLOW_KINDS if not config.getoption(f"--run-{kind}")]
    left_out = [item for item in items if any(item.get_closest_marker(kind) for kind in unwanted)]
    if config.getoption("--quick"):
        left_out = [item for item in items if item in left_out or not is_quick(item)]
        for item in items:
            try_less(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def is_quick(item: pytest.Item) -> bool:
    """Whether a test runs with `--quick`: it is of a quick room and not marked slow, or it is marked quick."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return item.get_closest_marker("quick") is not None or (
        folder in QUICK_ROOMS and item.get_closest_marker("slow") is None
    )


def try_less(item: pytest.Item) -> None:
    """Bound the examples of a property; Hypothesis has no public way to change what a test's own settings say."""
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    if (chosen := getattr(function, "_hypothesis_internal_use_settings", None)) is not None:
        few = min(chosen.max_examples, QUICK_EXAMPLES), min(chosen.stateful_step_count, QUICK_STEPS)
        bounded = settings(chosen, max_examples=few[0], stateful_step_count=few[1])
        function._hypothesis_internal_use_settings = bounded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    begun = time.process_time()
    outcome = yield
    if item.config.getoption("--quick") and (taken := time.process_time() - begun) > QUICK_SECONDS:
        pytest.fail(f"it takes {taken:.1f} s of CPU: mark it `slow`, or make it quicker")
    return outcome


# -------------------------------------------------------------------- how long it will take


def is_whole(config: pytest.Config) -> bool:
    """Whether all is run that `make test` runs."""
    chosen = config.option.keyword or config.option.markexpr or config.getoption("--quick")
    return not chosen and config.args == config.getini("testpaths") and not hasattr(config, "workerinput")


def pytest_report_header(config: pytest.Config) -> str | None:
    if not is_whole(config) or config.cache is None:
        return None
    last = config.cache.get("suite/seconds", None)
    of_when = "as the last time" if last else "on two idle cores, and two or three times as long on busy ones"
    minutes = max((last or FIRST_ESTIMATE) / 60, 1)
    return f"this takes about {minutes:.0f} minutes, {of_when}; `make test-quick` takes half a minute"


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEGUN] = time.monotonic()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if is_whole(session.config) and exitstatus in {0, 1}:
        session.config.cache.set("suite/seconds", time.monotonic() - session.config.stash[BEGUN])


BEGUN = pytest.StashKey[float]()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A state and a config file, for servers in this process."""
    from tests.house import Place  # only where it is needed: what is tested is not to be imported by all

    place = Place(tmp_path)
    place.configure()
    return place


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of a place where clocks are set forward and back."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()
