"""`make bench`: every benchmark in turn, each in a process of its own, and docs/benchmarks.md from what they found."""

from __future__ import annotations

import argparse
import subprocess
import sys

from loadtest.driver import ROOT

BENCHES = ("turns", "locks", "tools", "streams", "providers", "recall", "scaling", "shards", "profile")


def main() -> int:
    """The number of benchmarks that failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES), help="names, with commas between: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices: a look, not a result")
    parser.add_argument("--write", action="store_true", help="keep the results, and write docs/benchmarks.md anew")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := {*names} - {*BENCHES}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    flags = [flag for flag, wanted in (("--quick", args.quick), ("--write", args.write)) if wanted]
    failed = 0
    for name in names:
        print(f"\n## {name}\n", flush=True)
        failed += bool(
            subprocess.run([sys.executable, "-m", f"loadtest.{name}", *flags], cwd=ROOT, check=False).returncode
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
