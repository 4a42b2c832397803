"""`python -m benchmarks [KIND ...] [--quick]`: what is measured, of this server and of the published one beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from benchmarks import (
    boards,
    forecasts,
    local_api,
    memory,
    people,
    policies,
    proxy,
    queues,
    reports,
    schedule,
    service,
    storage,
    web,
)

KINDS: Mapping[str, Callable[..., str | None]] = {
    "schedule": schedule.main,
    "queues": queues.main,
    "flood": people.main_flood,
    "interactive": people.main_interactive,
    "policies": policies.main,
    "forecasts": forecasts.main,
    "storage": storage.main,
    "service": service.main,
    "boards": boards.main,
    "proxy": proxy.main,
    "memory": memory.main,
    "reports": reports.main,
    "local_api": local_api.main,
    "web": web.main,
}


def main() -> None:
    """Run one kind, or all; what takes longer than it may is told at the end, with an exit status of 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="which; by default all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, for development")
    options = parser.parse_args()
    failed = []
    for kind in options.kinds or KINDS:
        print(f"# {kind}\n", flush=True)
        if text := KINDS[kind](quick=options.quick):
            failed.append(text)
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    main()
