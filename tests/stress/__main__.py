"""Limner under load and accident, counted.

    python tests/stress [--share 0.05] [--seed 0] [--out stress.json] [ROW ...]

A row is a module of this folder that holds TITLE, CASES (how many are tried when all are) and
`run(cases, seed) -> Outcome`. Every row runs in a process of its own, so that a crash or a lack of memory is a failure
of that row and not the end of the others. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib import import_module
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # for the rows, and for the tests' `helpers`

SHOWN = 5  # failures of a row that are printed in full


def rows() -> list[str]:
    """The names of the rows: modules of this folder that hold TITLE."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\nTITLE = " in path.read_text(encoding="utf-8"))


def run_row(name: str, share: float, seed: int, result: Path) -> None:
    """Try a row's cases in this process and write {tried, failures} to `result`."""
    module = import_module(name)
    outcome = module.run(ceil(module.CASES * share), seed)
    result.write_text(json.dumps({"tried": outcome.tried, "failures": outcome.failures}), encoding="utf-8")


def in_process(name: str, share: float, seed: int) -> dict:
    """A row's {title, tried, failures, seconds}, from a process of its own; one that dies is a failure."""
    title = next(line for line in (HERE / f"{name}.py").read_text(encoding="utf-8").splitlines() if "TITLE = " in line)
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(HERE), "--share", str(share), "--seed", str(seed), "--row", name, str(result)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if result.exists():
            found = json.loads(result.read_text(encoding="utf-8"))
        else:
            tail = "\n".join(ran.stdout.splitlines()[-12:])
            found = {"tried": 0, "failures": [f"the row ended with status {ran.returncode}:\n{tail}"]}
    return {"row": name, "title": title.split('"')[1], **found, "seconds": round(time.monotonic() - begun)}


def main() -> int:
    """Run the rows and print their table."""
    parser = argparse.ArgumentParser(prog="python tests/stress", description="Limner under load and accident, counted.")
    parser.add_argument("names", nargs="*", metavar="ROW", help="the rows to run: all, if none is named")
    parser.add_argument("--share", type=float, default=1.0, help="the share of each row's cases that is tried")
    parser.add_argument("--seed", type=int, default=0, help="of the cases: the same seed makes the same ones")
    parser.add_argument("--out", type=Path, help="write the table as JSON, too")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        run_row(options.row[0], options.share, options.seed, Path(options.row[1]))
        return 0
    unknown = set(options.names) - set(rows())
    if unknown:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(rows())}")
    print(f"seed {options.seed}, share {options.share:g}\n{'tried':>7} {'failed':>7} {'seconds':>8}  what", flush=True)
    table = []
    for name in options.names or rows():
        table.append(found := in_process(name, options.share, options.seed))
        print(
            f"{found['tried']:7} {len(found['failures']):7} {found['seconds']:8}  {found['title']} ({name})", flush=True
        )
        for failure in found["failures"][:SHOWN]:
            print("        " + failure.replace("\n", "\n        "), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"seed": options.seed, "share": options.share, "rows": table}, indent=1))
    return int(any(found["failures"] for found in table))


if __name__ == "__main__":
    sys.exit(main())
