"""`python -m benchmarks [service] [--quick]`: the benchmarks, side by side with the published server."""

from __future__ import annotations

import argparse

from benchmarks import service

KINDS = {"service": service.main}


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
