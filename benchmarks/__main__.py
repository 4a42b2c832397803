"""`python -m benchmarks [KIND ...] [--quick]`: what is measured, of this server and of the published one beside it."""

from __future__ import annotations

import argparse

from benchmarks import policies, queues, schedule, service, storage

KINDS = {
    "schedule": schedule.main,
    "queues": queues.main,
    "policies": policies.main,
    "storage": storage.main,
    "service": service.main,
}


def main() -> None:
    """Run one kind, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="which; by default all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, for development")
    options = parser.parse_args()
    for kind in options.kinds or KINDS:
        print(f"# {kind}\n", flush=True)
        KINDS[kind](quick=options.quick)


if __name__ == "__main__":
    main()
