# SPDX-License-Identifier: GPL-2.0-or-later
"""One plan, with guest-less memory."""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import time

# pylint: disable=import-error
from pair import (BUILD, Failed, Migration, Pair, ProxiedPair, require, run,
                  wait_until)
from lab import hosts as lab_hosts
from lab.basics import PATIENCE
import plan as plans

OPTIONS = ("--peer-timeout", str(round(2 * PATIENCE)),
           "--reconnect-interval", "1")
KEPT = pathlib.Path(os.environ.get("CHAOS_LOGS", BUILD / "chaos"))
STAYED = 3 # as in guestless.c
PATIENT_SECONDS = 120

# The other side says one of these when a QEMU is gone.
GONE = ("QEMU has left", "QEMU left before", "there is no such session")


def sessions(host):
    """Of its remapd, or None if it does not answer."""
    with contextlib.suppress(OSError, ValueError):
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(1)
            asked.connect(str(host.remapd.control))
            asked.sendall(b"list\n")
            answer = b""
            while chunk := asked.recv(1 << 16):
                answer += chunk
        return json.loads(answer)["sessions"]
    return None


class Guest(Migration):
    """A migration whose processes are known, and may stay or be lost."""

    def __init__(self, pair, options):
        super().__init__(pair, **options, chaos=True)
        self.killed = None # which QEMU, and when
        wait_until(lambda: self.pids() or not self.process.alive(),
                   "guestless begins")

    def pids(self):
        words = self.process.output().split()
        if len(words) < 4 or words[0] != "source":
            return None
        return {"source": int(words[1]), "destination": int(words[3])}

    def signal(self, side, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids()[side], number)

    def held(self):
        """Has one of the two stopped itself?"""
        for pid in self.pids().values():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                    if stat.read().rsplit(")", 1)[1].split()[0] == "T":
                        return True
        return False

    def release(self):
        for side in ("source", "destination"):
            self.signal(side, signal.SIGCONT)

    def session(self, role="destination"):
        """As its remapd sees it, or None."""
        host = self.pair.hosts[role == "destination"]
        return next((each for each in sessions(host) or ()
                     if each["name"] == self.name and each["role"] == role),
                    None)

    def placed(self):
        """The share that is placed; None while that cannot be said."""
        pages = (self.session() or {}).get("pages")
        if not pages or not pages["total"]:
            return None
        return 1 - pages["left"] / pages["total"]

    def figures_of(self):
        """What guestless has printed at its end."""
        for line in self.process.output().splitlines():
            if line.startswith("{"):
                return json.loads(line)
        return {}

    def outcome(self, may_stay):
        """How it ended; `may_stay`: something may have happened to it before
        the switchover. It may in any case if this machine stands still."""
        code, figures = self.process.child.returncode, self.figures_of()
        require("is wrong" not in self.process.output() and
                not figures.get("wrong"), f"wrong pages: {figures}")
        if code == 0:
            again = figures["pauses"] or figures["returns"] or \
                figures["source_returns"]
            return "recovered" if again else "completed"
        if code == STAYED and not may_stay:
            print(f"# {self.name} stayed: {self.pair.tail()}", flush=True)
            return "stayed unasked"
        if code == STAYED:
            return "stayed"
        if self.killed:
            return "lost with its QEMU"
        raise Failed(f"guest lost: {self.process.output()[-500:]}; "
                     f"{self.pair.tail()}")


class Chaos:
    """Does to the pair what a plan says."""

    guest = Guest

    def __init__(self, plan, pair):
        self.plan = plan
        self.pair = pair
        self.guests = []
        self.done = [] # (what, stage) of what was really done
        self.down = set() # hosts without a daemon
        self.cut = collections.Counter() # sides whose way out is cut

    def hosts(self, side):
        return [host for role, host in zip(plans.SIDES, self.pair.hosts)
                if side in (role, "both")]

    # ---- when ----

    def reached(self, fault, seconds=PATIENT_SECONDS):
        """Waits for a fault's stage. False: the migration is over."""
        guest = self.guests[0]

        def now():
            if not guest.process.alive():
                return "over"
            if fault.stage in plans.HELD:
                return guest.held() and "there"
            if fault.stage == "paused":
                return any((guest.session(role) or {}).get("state") == "paused"
                           for role in ("source", "destination")) and "there"
            placed = guest.placed()
            return placed is not None and placed >= fault.share and "there"

        return wait_until(now, f"{fault} is reached", seconds) == "there"

    # ---- what ----

    def begin(self, fault):
        what, to = fault.what, fault.to
        if what == "link cut":
            self.link("down")
        elif what == "one way cut":
            self.cut[to] += 1
            self.way("replace", to)
        elif what in ("reset", "stall"):
            self.pair.tell(f"{what} {to}")
        elif what == "closed":
            self.pair.tell(f"end {to}")
        elif what == "half open":
            self.pair.tell(f"half {to}")
        elif what in ("refused", "mute", "disorder"):
            self.pair.tell({"refused": "refuse"}.get(what, what))
            self.pair.tell("reset all")
        elif what in ("SIGKILL", "SIGTERM"):
            for host in self.hosts(to):
                if host not in self.down:
                    self.pair.end_daemon(host, signal.Signals[what])
                    self.down.add(host)
        elif what == "SIGSTOP":
            self.to_daemons(to, signal.SIGSTOP)
        elif what == "userfaultfd":
            self.guests[0].signal("destination", signal.SIGUSR2)
        elif what == "QEMU stopped":
            self.guests[0].signal(to, signal.SIGSTOP)
        else:
            self.guests[0].killed = (to, fault.stage)
            self.guests[0].signal(to, signal.SIGKILL)

    def end(self, fault):
        what, to = fault.what, fault.to
        if what == "link cut":
            self.link("up")
        elif what == "one way cut":
            self.cut[to] -= 1
            if not self.cut[to]: # no other one lasts
                self.way("delete", to)
        elif what in ("refused", "mute", "disorder"):
            self.pair.tell({"refused": "admit", "mute": "speak",
                            "disorder": "order"}[what])
        elif what in ("SIGKILL", "SIGTERM"):
            for host in self.down:
                self.pair.start_daemon(host)
            self.down.clear()
        elif what == "SIGSTOP":
            self.to_daemons(to, signal.SIGCONT)
        elif what == "QEMU stopped":
            self.guests[0].release()

    def way(self, what, side):
        here, there = self.pair.hosts[::1 if side == "source" else -1]
        run("ip", "-n", here.namespace, "route", what, "blackhole",
            there.address)

    def link(self, way):
        for host in self.pair.hosts:
            run("ip", "-n", host.namespace, "link", "set", lab_hosts.DEVICE,
                way)
        if way == "up" and self.plan.proxied:
            # With the link went its routes.
            self.pair.route()

    def to_daemons(self, side, number):
        for host in self.hosts(side):
            if host not in self.down:
                os.kill(host.remapd.process.pid, number)

    # ---- all of it ----

    def run(self):
        for options in self.plan.migrations:
            self.guests.append(self.guest(self.pair, options))
        lasting = []
        for fault in self.plan.faults:
            if not self.in_time(fault, lasting):
                self.end_all(lasting)
                if not self.reached(fault):
                    break
            fault.begun = time.monotonic()
            self.begin(fault)
            self.done.append((fault.what, fault.stage))
            if fault.stage in plans.HELD and fault.what != "QEMU stopped":
                self.guests[0].release()
            lasting.append(fault)
        self.end_all(lasting)
        for guest in self.guests:
            guest.release()
        return [self.finish(guest) for guest in self.guests]

    def in_time(self, fault, lasting):
        """Does its stage come while those before it last, as it should?"""
        if not fault.inside:
            return False
        with contextlib.suppress(Failed):
            return self.reached(fault, lasting[-1].seconds)
        return False

    def end_all(self, lasting):
        """Those that last go on for as long as they should, then end."""
        while lasting:
            fault = lasting.pop()
            time.sleep(max(fault.begun + fault.seconds - time.monotonic(), 0))
            self.end(fault)

    def finish(self, guest):
        seconds = PATIENT_SECONDS * PATIENCE
        deadline = time.monotonic() + seconds
        while guest.process.alive() and not self.hopeless(guest):
            if time.monotonic() > deadline:
                raise Failed(f"no end within {seconds:g} s; "
                             f"{self.pair.tail()}")
            time.sleep(0.02)
        if guest.process.alive():
            guest.process.close()
        # How far the others were nobody has looked.
        return guest.outcome(guest is not self.guests[0] or
                             any(stage in plans.BEFORE
                                 for _, stage in self.done))

    def hopeless(self, guest):
        """Its QEMU was killed, and the other side has said so."""
        if not guest.killed:
            return False
        other = self.pair.hosts[guest.killed[0] == "source"]
        said = other.remapd.process.output()
        return any(text in said for text in GONE)


def carry_out(plan):
    """Returns what was done, the migrations' outcomes and figures."""
    options = (*OPTIONS, "--engine", plan.engine)
    pair = (ProxiedPair if plan.proxied else Pair)(
        plan.link, options, "on" if plan.tls else "off")
    with pair:
        chaos = Chaos(plan, pair)
        try:
            outcomes = chaos.run()
            pair.end_daemons()
        except BaseException:
            keep_logs(plan, pair)
            for guest in chaos.guests:
                guest.process.close()
            raise
        figures = [guest.figures_of() for guest in chaos.guests]
    return chaos.done, outcomes, figures


def keep_logs(plan, pair):
    """The logs of a run that went wrong, where they can be looked at."""
    kept = KEPT / f"{plan.seed}-{plan.number}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for log in pair.directory.rglob("*.log"):
        shutil.copy(log, kept / f"{log.parent.name}-{log.name}")
