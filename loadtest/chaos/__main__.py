"""`make soak`: the report as JSON on stdout; status 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from loadtest.chaos.soak import Plan, soak
from loadtest.chaos.topology import TOPOLOGIES


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1, help="the same seed is the same schedule of faults")
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="single")
    parser.add_argument("--kinds", default="", help="of the topology's faults these only, comma between")
    parser.add_argument("--no-wait", action="store_true", help="acknowledge what no replica has")
    parser.add_argument("--pace", type=float, default=1.0, help="so many times longer between faults")
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--talkers", type=int, default=6)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds a client thinks between its messages")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds that coming to rest may take")
    parser.add_argument("--logs", default="", help="folder for what the pods logged, where something was found")
    parser.add_argument("--without", metavar="GUARD", help="pods without this guard (tests/negative/guards.py)")
    parser.add_argument("--schedule", action="store_true", help="print the faults of this seed, and do nothing")
    args = parser.parse_args()
    plan = Plan(
        seed=args.seed,
        seconds=args.minutes * 60,
        topology=args.topology,
        waiting=not args.no_wait,
        kinds=tuple(kind for kind in args.kinds.split(",") if kind),
        pace=args.pace,
        pods=args.pods,
        talkers=args.talkers,
        workers=args.workers,
        pause_s=args.pause,
        rest_s=args.rest,
        logs=args.logs,
        guard=args.without,
    )
    if args.schedule:
        for fault in plan.schedule():
            print(f"{fault.at_s:8.3f} s  {fault.kind:<13}  target {fault.target}  for {fault.for_s} s")
        return 0
    report = asyncio.run(soak(plan))
    print(json.dumps(report, indent=2))
    if report["violations"]:
        print(f"{len(report['violations'])} violations; the same again: --seed {args.seed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
