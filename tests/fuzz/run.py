#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the harnesses of this folder, and prints how often and how far.

run.py [--seconds N] [NAME]...   fuzz each for so long; new inputs go into its
                                 corpus, then the smallest that reach as much
                                 are kept
run.py --check [NAME]...         the corpora again, and CHECK_SECONDS more; TAP
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "build/fuzz/fuzz"
FOUND = ROOT / "build/fuzz/found"
CHECK_SECONDS = 5
LIMITS = ["-max_len=1024", "-timeout=60", "-rss_limit_mb=4096",
          "-close_fd_mask=2", f"-artifact_prefix={FOUND}/"]
FUZZED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
REACHED = re.compile(r"cov: (\d+) ft: (\d+)")


class Found(Exception):
    """An input that ends a harness; the text is its report."""


def fuzz(name, arguments, folders, seconds=0):
    """Runs a harness. Returns (executions, edges, features)."""
    FOUND.mkdir(parents=True, exist_ok=True)
    command = [PROGRAMS / name, *LIMITS, *arguments, "-print_final_stats=1",
               *folders]
    if seconds:
        command.insert(1, f"-max_total_time={seconds}")
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        errors="replace", timeout=seconds + 600,
        env={**os.environ, "LLVM_PROFILE_FILE": str(FOUND / f"{name}.profraw")})
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


def explore(names, seconds):
    print(f"{'harness':10} {'seconds':>7} {'executions':>11} {'edges':>6} "
          f"{'inputs':>6}  lines of the daemon that were reached")
    for name in names:
        corpus = HERE / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        executions, edges, _ = fuzz(name, [], [corpus], seconds)
        rows = {file: share for file, share in lines_covered(name).items()
                if share != "0.00%"}
        minimise(name, corpus)
        print(f"{name:10} {seconds:7} {executions:11} {edges:6} "
              f"{len(list(corpus.iterdir())):6}  "
              + ", ".join(f"{file} {share}" for file, share in rows.items()),
              flush=True)


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
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or sorted(file.stem for file in HERE.glob("*.c"))
    if options.check:
        return check(names)
    explore(names, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
