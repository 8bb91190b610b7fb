# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs tests, one function each, and prints TAP."""

import os
import sys
import time
import traceback

from lab import Failed, Refused
from lab.basics import stop_on_signals
from lab.machine import check_accelerator

ACCEL = os.environ.get("ACCEL", "tcg")
TESTS = []


class Skip(Exception):
    """The text says what this machine lacks."""


def test(function=None, /, **cases):
    """Registers a test; with cases, once for every combination of one value
    from each."""
    if function is None:
        return lambda function: test_cases(function, cases)
    TESTS.append((function.__name__, function, {}))
    return function


def test_cases(function, cases):
    combinations = [{}]
    for key, values in cases.items():
        combinations = [{**combination, key: value}
                        for combination in combinations for value in values]
    for arguments in combinations:
        name = "_".join([function.__name__, *map(str, arguments.values())])
        TESTS.append((name, function, arguments))
    return function


def require(condition, text):
    if not condition:
        raise Failed(text)


def show(title, text):
    """Something for whoever reads what the tests printed."""
    print(f"# {title}:")
    print("".join(f"#   {line}\n" for line in text.splitlines()), end="")


def run_one(function, arguments):
    """Returns the verdict and what is to be said about it."""
    try:
        function(**arguments)
    except Skip as reason:
        return "skipped", str(reason)
    except (Failed, Refused) as error:
        return "failed", str(error)
    except Exception: # pylint: disable=broad-except
        return "failed", traceback.format_exc()
    return "passed", ""


def run(patterns):
    chosen = [entry for entry in TESTS
              if not patterns or any(p in entry[0] for p in patterns)]
    if not chosen:
        sys.exit(f"no test has {' or '.join(patterns)} in its name")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    print(f"1..{len(chosen)}", flush=True)
    for number, (name, function, arguments) in enumerate(chosen, 1):
        start = time.monotonic()
        verdict, text = run_one(function, arguments)
        counts[verdict] += 1
        ok = "not ok" if verdict == "failed" else "ok"
        skip = f" # SKIP {text}" if verdict == "skipped" else ""
        print(f"{ok} {number} - {name} ({time.monotonic() - start:.1f} s)"
              f"{skip}")
        if verdict == "failed":
            print("".join(f"# {line}\n" for line in text.splitlines()), end="")
        sys.stdout.flush()
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["failed"] else 0


def lines(vm, word):
    return [m for m in vm.guest.messages if m.word == word]


def wait_more(vm, word, key, count, seconds=120):
    """Waits until the guest's program for a device has done so much more. What
    it finds to be wrong ends the wait."""
    def newest():
        said = lines(vm, word)
        return said[-1][key] if said else 0
    goal = newest() + count
    vm.guest.wait(lambda _: newest() >= goal, f"{word} {key} {goal}", seconds,
                  vm.machine.check_alive)


def wait_disk(vm, passes):
    """Waits until the guest has gone through its disk so many times more."""
    wait_more(vm, "DISK", "passes", passes)


def main(text):
    """The whole of a program of tests that `text` describes."""
    stop_on_signals()
    if any(word in ("-h", "--help") for word in sys.argv):
        print(text)
        sys.exit(0)
    reason = check_accelerator(ACCEL)
    if reason:
        print(f"1..0 # SKIP ACCEL={ACCEL} runs no guest here: {reason}")
        sys.exit(0)
    sys.exit(run(sys.argv[1:]))
