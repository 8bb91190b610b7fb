#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the harnesses of this folder, and prints how often and how far.

run.py [--seconds N] [--runs N] [NAME]...
                                 fuzz each for so long, in turns until all have
                                 been executed so often; new inputs go into its
                                 corpus, then the smallest that reach as much
                                 are kept. The table counts what this machine's
                                 log, in the cache, has of all times
run.py --check [NAME]...         the corpora again, and CHECK_SECONDS more; TAP
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "build/fuzz/fuzz"
FOUND = ROOT / "build/fuzz/found"
CHECK_SECONDS = 5
# The time also runs while the process is stopped for somebody to measure.
LIMITS = ["-max_len=1024", "-timeout=600", "-rss_limit_mb=4096",
          "-close_fd_mask=2", f"-artifact_prefix={FOUND}/"]
LOG = pathlib.Path(os.environ.get("XDG_CACHE_HOME",
                                  pathlib.Path.home() / ".cache"),
                   "remapd/fuzz.jsonl")
# Whatever leaks is found by --check: looking for it takes longer than all else.
EXPLORES = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=1:"
                            "malloc_context_size=1"}
FUZZED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
REACHED = re.compile(r"cov: (\d+) ft: (\d+)")


class Found(Exception):
    """An input that ends a harness; the text is its report."""


def fuzz(name, arguments, folders, seconds=0, environment=()):
    """Runs a harness. Returns (executions, edges, features)."""
    FOUND.mkdir(parents=True, exist_ok=True)
    command = [PROGRAMS / name, *LIMITS, *arguments, "-print_final_stats=1",
               *folders]
    if seconds:
        command.insert(1, f"-max_total_time={seconds}")
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        errors="replace", timeout=seconds + 1200,
        env={**os.environ, **dict(environment),
             "LLVM_PROFILE_FILE": str(FOUND / f"{name}.profraw")})
    if done.returncode:
        raise Found(f"{name} ended with {done.returncode}:\n"
                    f"{done.stderr[-6000:]}")
    executed = FUZZED.search(done.stderr)
    reached = REACHED.findall(done.stderr)
    return (int(executed[1]) if executed else 0,
            *(map(int, reached[-1]) if reached else (0, 0)))


def lines_covered(name):
    """Of the daemon's files that the harness is about, in percent."""
    profile = FOUND / f"{name}.profdata"
    subprocess.run(["llvm-profdata", "merge", "-o", profile,
                    FOUND / f"{name}.profraw"], check=True)
    text = subprocess.run(
        ["llvm-cov", "report", PROGRAMS / name, f"-instr-profile={profile}"],
        check=True, capture_output=True, text=True).stdout
    rows = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0].endswith(".c") and len(words) >= 10:
            rows[pathlib.Path(words[0]).name] = words[9]
    return rows


def minimise(name, corpus):
    with tempfile.TemporaryDirectory() as folder:
        fuzz(name, ["-merge=1"], [folder, corpus])
        shutil.rmtree(corpus)
        shutil.copytree(folder, corpus)


def note(**entry):
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG, "a", encoding="ascii") as log:
        log.write(json.dumps(entry) + "\n")


def totals():
    """Of each harness, all that was ever logged here."""
    sums = collections.defaultdict(collections.Counter)
    text = LOG.read_text() if LOG.exists() else ""
    for entry in map(json.loads, text.splitlines()):
        total = sums[entry["harness"]]
        for key in ("seconds", "executions", "found"):
            total[key] += entry[key]
        total["edges"] = max(total["edges"], entry["edges"])
    return sums


def explore_one(name, seconds):
    """Returns whether nothing was found."""
    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    executions = edges = found = 0
    start = time.monotonic()
    try:
        executions, edges, _ = fuzz(name, ["-entropic=0"], [corpus],
                                    seconds, EXPLORES.items())
    except (Found, subprocess.TimeoutExpired) as error:
        found = 1
        print(error, flush=True)
    note(harness=name, seconds=round(time.monotonic() - start),
         executions=executions, edges=edges, found=found)
    return not found


def explore(names, seconds, runs):
    good, left = True, list(names)
    while left:
        for name in left:
            good &= explore_one(name, seconds)
        sums = totals()
        left = [name for name in left
                if good and sums[name]["executions"] < runs]
    print(f"{'harness':10} {'hours':>6} {'executions':>11} {'edges':>6} "
          f"{'found':>5} {'inputs':>6}  lines of the daemon that were reached")
    for name in names:
        corpus, total = HERE / "corpus" / name, totals()[name]
        rows = {file: share for file, share in lines_covered(name).items()
                if share != "0.00%"}
        minimise(name, corpus)
        print(f"{name:10} {total['seconds'] / 3600:6.2f} "
              f"{total['executions']:11} {total['edges']:6} "
              f"{total['found']:5} {len(list(corpus.iterdir())):6}  "
              + ", ".join(f"{file} {share}" for file, share in rows.items()),
              flush=True)
    return 0 if good else 1


def check_one(name):
    """The corpus, then some new inputs that are not kept; says how many."""
    corpus = HERE / "corpus" / name
    inputs = sorted(corpus.iterdir()) if corpus.is_dir() else []
    if not inputs:
        raise Found(f"{corpus} is empty: make fuzz FUZZ={name}")
    fuzz(name, [], inputs)
    with tempfile.TemporaryDirectory() as folder:
        executions, edges, _ = fuzz(name, [], [folder, corpus], CHECK_SECONDS)
    return f"{len(inputs)} inputs, {executions} executions, {edges} edges"


def missing():
    """Returns why the harnesses cannot be built here, or None."""
    if not shutil.which("clang"):
        return "there is no clang: apt-get install clang"
    made = subprocess.run(["clang", "-print-file-name="
                           "libclang_rt.fuzzer-x86_64.a"],
                          capture_output=True, text=True, check=True)
    if not pathlib.Path(made.stdout.strip()).is_file():
        return "clang has no libFuzzer: apt-get install libclang-rt-dev"
    return None


def check(names):
    lacks = missing()
    print(f"1..{len(names)}")
    if not lacks:
        subprocess.run(["make", "--no-print-directory", "-C", ROOT,
                        "fuzz-build"], check=True, stdout=sys.stderr)
    failed = 0
    for number, name in enumerate(names, 1):
        try:
            said = f" # SKIP {lacks}" if lacks else f" # {check_one(name)}"
            print(f"ok {number} - {name}{said}", flush=True)
        except (Found, subprocess.TimeoutExpired) as error:
            failed = 1
            print(f"not ok {number} - {name}")
            print("".join(f"# {line}\n" for line in str(error).splitlines()),
                  end="", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or sorted(file.stem for file in HERE.glob("*.c"))
    if options.check:
        return check(names)
    return explore(names, options.seconds, options.runs)


if __name__ == "__main__":
    sys.exit(main())
