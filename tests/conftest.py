"""Options of the whole suite: the slow kinds of tests run only when they are asked for."""

from __future__ import annotations

import pytest

SLOW_KINDS = ("conformance", "torture")
"""Markers whose tests are left out unless `--run-<marker>` is given."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for kind in SLOW_KINDS:
        parser.addoption(f"--run-{kind}", action="store_true", help=f"also run the tests marked {kind}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = [kind for kind in SLOW_KINDS if not config.getoption(f"--run-{kind}")]
    left_out = [item for item in items if any(item.get_closest_marker(kind) for kind in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
