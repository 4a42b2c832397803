"""`python -m benchmarks [schedule] [policies] [service] [--quick]`: the service beside the published one."""

from __future__ import annotations

import argparse

from benchmarks import policies, schedule, service

KINDS = {"schedule": schedule.main, "policies": policies.main, "service": service.main}


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
