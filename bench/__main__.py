"""``python -m bench [P1 P3 …] [--json FILE] [--rounds N]``: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.harness import Result, Rounds, discover


def main() -> int:
    subjects = discover()
    parser = argparse.ArgumentParser(prog="bench", description="Ratios of this project to yardsticks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(subjects)}; all if none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--rounds", type=int, default=5, help="turns of yardstick and product (5)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(subjects))
    if unknown:
        parser.error(f"no such subject: {', '.join(unknown)}")
    results: list[Result] = []
    print(f"{'':5}{'min':>9}{'median':>9}{'max':>9}{'goal':>9}  met")
    for name in options.names or subjects:
        found = subjects[name](Rounds(options.rounds))
        for result in found if isinstance(found, list) else [found]:
            results.append(result)
            print(row(result), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({each.name: each.as_json() for each in results}, indent=2) + "\n")
    return 0


def row(result: Result) -> str:
    numbers = (min(result.ratios), result.median, max(result.ratios))
    goal = ("<=" if result.at_most else ">=") + f"{result.goal:g}"
    shown = "".join(f"{number:9.2f}" for number in numbers)
    figures = ", ".join(f"{name} {value:g}" for name, value in result.figures.items())
    return (
        f"{result.name:5}{shown}{goal:>9}  {'yes' if result.met else 'NO '}  {result.note}\n{'':7}{figures}"
    )


if __name__ == "__main__":
    sys.exit(main())
