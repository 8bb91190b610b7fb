# SPDX-License-Identifier: GPL-2.0-or-later
"""What every part of the lab needs: errors, waiting, processes, signals."""

import os
import pathlib
import signal
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / "build"


class Refused(Exception):
    """What was asked for is not possible here; the text says why."""


class Failed(Exception):
    """Something went wrong that should not."""


# Whoever runs a lab inside an emulated machine must wait longer for all.
PATIENCE = float(os.environ.get("PATIENCE", 1))


def wait_until(condition, what, seconds=30.0, every=0.01):
    """Polls `condition` until it returns something true, and returns that."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def run(*command):
    """Runs a command that must succeed, and returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def bytes_of(text):
    """512M, 1G, 4096K or a plain number of bytes."""
    units = {"K": 10, "M": 20, "G": 30}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    if not number.isdecimal() or not int(number):
        raise Refused(f"{text}: a size is a number with K, M or G")
    return int(number) << units.get(unit, 0)


def stop_on_signals():
    """Turns signals into an exit that runs every clean-up."""
    def leave(number, _frame):
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def pid_alive(pid):
    return os.path.exists(f"/proc/{pid}")


class Process:
    """A child with its output in a file, ended on close()."""

    def __init__(self, command, log):
        self.log = pathlib.Path(log)
        self.command = [str(part) for part in command]
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True)
        self.pid = self.child.pid

    def output(self):
        return self.log.read_text(errors="replace")

    def alive(self):
        return self.child.poll() is None

    def check_alive(self):
        if not self.alive():
            lines = self.output().strip().splitlines()[-8:]
            raise Failed(f"{os.path.basename(self.command[0])} ended with "
                         f"{self.child.returncode}: " + "\n".join(lines))

    def cpu_seconds(self, thread=None):
        """The CPU time so far, of all its threads or of one."""
        task = f"/task/{thread}" if thread else ""
        stat = pathlib.Path(f"/proc/{self.pid}{task}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def close(self, patience=5.0):
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()
