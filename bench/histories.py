"""Whether nights built as they came, and mended in order, equal one full build: histories that `hypothesis` draws.

`make bench NAME=histories`, `ARGS="--histories 20"`. Late rows, corrected days, gaps, nights in another order: the test that `make test`
runs on one history. Closing line: whether a drawn history differs; it is printed, as small as it can be made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from include.nightshift.settings import ROOT

TEST = "tests/include/nightshift/features/test_history.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=20, help="how many are drawn, a minute each")
    asked = parser.parse_args().histories
    if asked < 1:
        parser.error("at least one history")
    told = os.environ | {"NIGHTSHIFT_TEST_HISTORIES": str(asked)}
    line = [sys.executable, "-m", "pytest", TEST, "--verbose", "--hypothesis-show-statistics"]
    differs = subprocess.run(line, cwd=ROOT, env=told, check=False).returncode != 0
    print(f"histories: {int(differs)} (one that differs, of {asked + 1}) target 0 {'short' if differs else 'ok'}")
    return int(differs)


if __name__ == "__main__":
    raise SystemExit(main())
