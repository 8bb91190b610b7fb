#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations to which things happen, drawn from a seed.

run.py [--seed S] [--runs N] [--jobs J]   N runs; prints the seed
run.py --seed S --run K                   run K of them again
run.py --check                            some, and TAP
--engine E: of memory for which there is a choice; --link none: of full speed,
on a kernel without the qdisc that makes a migration take a second
"""

import argparse
import collections
import concurrent.futures
import functools
import pathlib
import secrets
import sys
import time
import traceback

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "loop"), str(TESTS / "vm")]

# pylint: disable=wrong-import-position,import-error
from pair import Failed
from lab import pki
from lab.basics import stop_on_signals
import loop
import plan as plans
import vms

# Always the same ones, and new ones.
CHECKED = 32, 8
OUTCOMES = ("completed", "recovered", "stayed", "stayed unasked",
            "lost with its QEMU", "FAILED")


def one(seed, number, **how):
    """Returns a row for the table."""
    plan = plans.draw(seed, number, **how)
    start = time.monotonic()
    done, figures, error = [], [], ""
    try:
        done, outcomes, figures = (vms if plan.vm else loop).carry_out(plan)
    except Failed as failure:
        outcomes, error = ["FAILED"], str(failure)
    except Exception: # pylint: disable=broad-except
        outcomes, error = ["FAILED"], traceback.format_exc()
    return {"plan": plan, "done": done, "outcomes": outcomes, "error": error,
            "figures": figures, "seconds": time.monotonic() - start}


def print_table(rows):
    stages = collections.defaultdict(collections.Counter)
    outcomes = collections.defaultdict(collections.Counter)
    for row in rows:
        for what, stage in row["done"]:
            stages[what][stage] += 1
            outcomes[what].update(row["outcomes"][:1])
    print(f"\n{'injected':13}" + "".join(f"{s:>10}" for s in plans.STAGES)
          + " | the guest that it was done to")
    for what in plans.FAULTS:
        print(f"{what:13}" + "".join(f"{stages[what][s] or '-':>10}"
                                     for s in plans.STAGES)
              + " | " + ", ".join(f"{count} {name}" for name, count
                                  in outcomes[what].most_common()))


def print_sums(rows, seconds):
    counts = collections.Counter(o for row in rows for o in row["outcomes"])
    wrong = sum("wrong pages" in row["error"] for row in rows)
    stalls = [each["longest_stall_us"] / 1e6 for row in rows
              for each in row["figures"] if "longest_stall_us" in each]
    kinds = collections.Counter(
        f"{row['plan'].kind}{' VM' if row['plan'].vm else ''} by "
        f"{row['plan'].engine}{' in TLS' if row['plan'].tls else ''}"
        for row in rows)
    print("\nruns: " + ", ".join(f"{count} {name}"
                                 for name, count in kinds.most_common()))
    print(f"{sum(counts.values())} migrations in {len(rows)} runs, "
          f"{seconds:.0f} s: " + ", ".join(f"{counts[name]} {name}"
                                           for name in OUTCOMES[:-1]))
    if stalls:
        print(f"the longest stall of a guest: {max(stalls):.1f} s")
    print(f"guests lost where none may be: {counts['FAILED'] - wrong}, "
          f"runs with wrong pages: {wrong}", flush=True)
    return 1 if counts["FAILED"] else 0


def print_row(row, number, tap):
    failed = bool(row["error"])
    verdict = f"{'not ok' if failed else 'ok'} {number} - " if tap else ""
    print(f"{verdict}{row['plan']} -> {', '.join(row['outcomes'])} "
          f"({row['seconds']:.1f} s)")
    print("".join(f"# {line}\n" for line in row["error"].splitlines()),
          end="", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--run", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--engine")
    parser.add_argument("--link", default=plans.LINK)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    if options.check:
        every = [(1, number) for number in range(CHECKED[0])]
        every += [(seed, number) for number in range(CHECKED[1])]
        print(f"1..{len(every)}")
    elif options.run is None:
        every = [(seed, number) for number in range(options.runs)]
    else:
        every = [(seed, options.run)]
    print(f"# SEED={seed}", flush=True)
    pki.lab_authority() # before the workers are forked: theirs too
    start = time.monotonic()
    rows = []
    with concurrent.futures.ProcessPoolExecutor(
            options.jobs, initializer=stop_on_signals) as pool:
        for row in pool.map(functools.partial(one, engine=options.engine,
                                              link=options.link),
                            *zip(*every)):
            rows.append(row)
            print_row(row, len(rows), options.check)
    print_table(rows)
    return print_sums(rows, time.monotonic() - start)


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
