# SPDX-License-Identifier: GPL-2.0-or-later
"""One plan, with VMs: the same things happen to them."""

import os
import signal

# pylint: disable=import-error
from pair import Pair, require, wait_until
from lab import Lab
from lab.move import Move
from loop import OPTIONS, PATIENT_SECONDS, Chaos, Guest, keep_logs

ACCEL = os.environ.get("ACCEL", "tcg")
MEMORY = "96M"


class VmPair(Lab):
    """The hosts of VMs, as a Pair."""

    end_daemon, tail = Pair.end_daemon, Pair.tail
    check_log = staticmethod(Pair.check_log)
    start_daemon = Lab.start_remapd

    def end_daemons(self):
        for host in self.hosts:
            host.remapd.process.check_alive()
            self.check_log(host)


class VmGuest(Guest):
    """A VM on its way, as what guestless stands in for."""

    # pylint: disable=super-init-not-called
    def __init__(self, lab, options):
        self.pair = lab
        self.killed = None
        self.vm = lab.vm("chaos", guest="tiny", memory=MEMORY, accel=ACCEL,
                         backend=options["kind"])
        self.name = self.vm.config.name
        self.vm.start(pager="required")
        self.move = Move(self.vm, pager="required")
        self.move.start()
        self.process = self # alive until the migration is over

    def alive(self):
        machines = (self.move.source, self.move.destination)
        return (all(machine.process.alive() for machine in machines) and
                not self.move.destination.qmp.find("MIGRATION",
                                                   status="completed"))

    def close(self):
        """Nothing: the lab ends its machines."""

    def signal(self, side, number):
        os.kill(getattr(self.move, side).process.pid, number)
        if number == signal.SIGKILL:
            getattr(self.move, side).process.child.wait()

    def held(self):
        return False

    def release(self):
        for side in ("source", "destination"):
            if getattr(self.move, side).process.alive():
                self.signal(side, signal.SIGCONT)

    def figures_of(self):
        newest = self.vm.guest.newest()
        return {"longest_stall_us": newest["mark_us"]} if newest else {}

    def outcome(self, may_stay):
        if self.killed:
            return "lost with its QEMU"
        ready = next(m for m in self.vm.guest.messages if m.word == "READY")
        self.move.wait(PATIENT_SECONDS)
        self.vm.wait_runs()
        pages, _ = self.vm.verify()
        require(pages == ready["pages"], f"wrong pages: {pages} verified of "
                f"{ready['pages']}")
        # By QEMU's word: a remapd that is killed at the very end has written
        # no report.
        said = [event["status"] for event in
                self.move.pager_events(self.move.destination)]
        require(said[-1] == "completed", f"guest lost: {said}")
        return "recovered" if "paused" in said else "completed"


class VmChaos(Chaos):
    guest = VmGuest

    def hopeless(self, guest):
        """As for others; but who has it all already does not say so."""
        if guest.killed and not guest.alive():
            wait_until(lambda: super(VmChaos, self).hopeless(guest) or
                       guest.move.destination.qmp.find(
                           "MIGRATION", status="completed"),
                       "the other side says that a QEMU has left",
                       PATIENT_SECONDS)
        return False


def carry_out(plan):
    options = (*OPTIONS, "--engine", plan.engine)
    with VmPair(link=plan.link, daemon_options=options,
                tls="on" if plan.tls else "off") as pair:
        chaos = VmChaos(plan, pair)
        try:
            outcomes = chaos.run()
            pair.end_daemons()
        except BaseException:
            keep_logs(plan, pair)
            raise
        return chaos.done, outcomes, [chaos.guests[0].figures_of()]
