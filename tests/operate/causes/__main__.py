"""`make alerts`: every cause that can be had here, and a table of what fired; exit status 1 when something did not."""

from __future__ import annotations

import argparse
import sys

from tests.operate.causes.play import CAUSES, UNSEEN, play_all
from tests.operate.causes.stage import Watch


def main() -> None:
    """Play the causes that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("causes", nargs="*", help=", ".join(CAUSES))
    parser.add_argument("--by", type=float, default=30.0, help="how much shorter `for` and windows are")
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    chosen = [CAUSES[name] for name in asked.causes or CAUSES]
    good = True
    print("| alert | cause | fires after | ends after the cure |\n|---|---|---|---|")
    with Watch(asked.by) as watch:
        for result in play_all(chosen, watch, asked.at_once):
            good &= result.good
            print(*result.rows(), sep="\n", flush=True)
            if not result.good:
                told = result.error or f"fired while all was in order: {sorted(result.before)}"
                print(f"{result.cause.name}: {told}", file=sys.stderr, flush=True)
    for alert, why in UNSEEN.items():
        print(f"| `{alert}` | not produced here: {why} | | |")
    sys.exit(not good)


if __name__ == "__main__":
    main()
