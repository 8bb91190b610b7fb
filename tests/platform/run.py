#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""run.py PROGRAM...: runs each, with huge pages to be had."""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from lab import Refused
from lab.basics import stop_on_signals
from lab.memory import HugePages

PATIENCE_SECONDS = 60


def run(program):
    name = pathlib.Path(program).name
    print(f"# {name}", flush=True)
    try:
        return subprocess.run([program], timeout=PATIENCE_SECONDS,
                              check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"not ok - {name}: no end within {PATIENCE_SECONDS} s")
        return 1


def main():
    pool = HugePages()
    try:
        pool.reserve(8 << 20)
    except Refused as error:
        print(f"# {error}")
    try:
        return max([run(program) for program in sys.argv[1:]])
    finally:
        pool.give_back()


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
