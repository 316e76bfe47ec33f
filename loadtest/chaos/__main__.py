"""`make soak`: the report as JSON on stdout; status 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from loadtest.chaos.schedule import schedule
from loadtest.chaos.soak import Plan, soak


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="the same seed is the same schedule of faults")
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--talkers", type=int, default=6)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--without", metavar="GUARD", help="pods without this guard (tests/negative/guards.py)")
    parser.add_argument("--schedule", action="store_true", help="print the faults of this seed, and do nothing")
    args = parser.parse_args()
    if args.schedule:
        for fault in schedule(args.seed, args.minutes * 60, args.pods):
            print(f"{fault.at_s:8.3f} s  {fault.kind:<10}  pod {fault.pod}  for {fault.for_s} s")
        return 0
    plan = Plan(args.seed, args.minutes * 60, args.pods, args.talkers, args.workers, guard=args.without)
    report = asyncio.run(soak(plan))
    print(json.dumps(report, indent=2))
    if report["violations"]:
        print(f"{len(report['violations'])} violations; the same again: --seed {args.seed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
