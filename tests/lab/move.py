# SPDX-License-Identifier: GPL-2.0-or-later
"""One post-copy migration of one VM, watched and measured from outside."""

import time

from .basics import PATIENCE, Failed, wait_until
from .memory import Warm
from .qmp import QmpError

# Bytes a second before the switchover; post-copy has no limit. With a round of
# pre-copy well below what the guests dirty, so that much is left at its end;
# without one so little that next to nothing goes before QEMU hears that it is
# to switch.
PRECOPY_BANDWIDTH = 256 << 20
IMMEDIATE_BANDWIDTH = int((1 << 20) / PATIENCE)
CAPABILITIES = ("events", "postcopy-ram")
ENDED = ("failed", "cancelled")
BROKEN = ("postcopy-paused", "postcopy-recover")


class Move:
    """`pager` is what the destination is told, None, "on" or "required";
    `stopped` keeps the guest from running there; `warm` sees to it that the
    destination finds memory that costs no more than memory should."""

    def __init__(self, vm, precopy=False, pager="on", stopped=False,
                 capabilities=(), warm=False, progress=lambda move: None):
        self.vm = vm
        self.precopy = precopy
        self.pager = pager
        self.stopped = stopped
        self.capabilities = [*CAPABILITIES, *capabilities]
        self.warm = warm
        self.progress = progress
        self.recovers = False # QEMU's stream is to break, and to come back
        self.source = vm.machine
        self.destination = None
        self.huge_kept = None
        self.operations_at_stop = None
        self.old_host, self.new_host = vm.host, vm.other_host()

    # ---- doing it ----

    def prepare(self):
        """Starts the destination's QEMU and sets up both ends."""
        self.destination = self.vm.launch(self.new_host, pager=self.pager,
                                          incoming=True, stopped=self.stopped)
        self.choose_uri()
        for machine in (self.source, self.destination):
            machine.qmp("migrate-set-capabilities", capabilities=[
                {"capability": name, "state": True}
                for name in self.capabilities])
        # Pre-copy alone must not get there while one page is dirty: QEMU may
        # stop for what this bandwidth carries in a millisecond. (With 0 it
        # stops without having counted.)
        self.source.qmp("migrate-set-parameters", downtime_limit=1,
                        max_bandwidth=PRECOPY_BANDWIDTH if self.precopy
                        else IMMEDIATE_BANDWIDTH,
                        avail_switchover_bandwidth=10**6)
        self.destination.qmp("migrate-incoming", uri=self.uri)
        if self.warm:
            size = self.vm.config.memory
            self.warmed = [Warm(size * 3 // 2)]
            if self.precopy:
                # What is dirty again comes into new pages, while the host
                # keeps the old ones for the rest of their huge page.
                self.warmed.append(Warm(size))

    def choose_uri(self):
        self.port = self.new_host.free_port()
        self.uri = f"tcp:{self.new_host.address}:{self.port}"

    def recover(self):
        """Gives QEMU's own stream, which is broken, another connection."""
        self.choose_uri()
        self.destination.qmp("migrate-recover", uri=self.uri)
        self.source.qmp("migrate", uri=self.uri, resume=True)

    def begin(self):
        """Notes what is to be compared, and starts the migration."""
        self.known_reports = {
            host: host.remapd.known_reports() if host.remapd else set()
            for host in (self.old_host, self.new_host)}
        self.thp_bytes_source = self.source.huge_bytes()
        self.huge_source = (self.source.huge_granules()[0]
                            if self.vm.config.backend == "thp" else set())
        self.before = self.counters()
        self.give_warm()
        self.begun = time.time()
        # Of an earlier migration, which may have failed or have come in.
        self.source.qmp.forget()
        self.source.qmp("migrate", uri=self.uri)

    def switch(self):
        """Asks for post-copy: at once, or after one round of pre-copy."""
        if self.precopy:
            self.wait_round(2)
            self.give_warm()
        self.asked = time.time()
        self.source.qmp("migrate-start-postcopy")

    def give_warm(self):
        if self.warm:
            self.warmed.pop(0).give()

    def start(self):
        self.prepare()
        self.vm.mark()
        self.begin()
        self.switch()

    def wait_round(self, count, seconds=300):
        """Waits until the memory has been gone through `count` - 1 times."""
        def synced():
            self.check()
            self.progress(self)
            ram = self.information().get("ram", {})
            return ram.get("dirty-sync-count", 0) >= count
        wait_until(synced, f"pre-copy round {count - 1}", seconds, 0.01)

    def wait(self, seconds=600):
        """Waits for the end and takes the figures."""
        wait_until(self.completed, "the migration completes", seconds, 0.02)
        self.source.qmp.wait("MIGRATION", status="completed")
        self.after = self.counters()
        self.ended = time.time()
        self.information_at_end = self.information()
        self.operations_at_stop = self.vm.guest.operations_in(self.source)
        self.look_at_huge_pages()
        if not self.source.qmp.find("MIGRATION", status="postcopy-active"):
            raise Failed("the migration completed without post-copy")
        if not self.stopped:
            self.vm.arrived(self.destination)

    def wait_refused(self, seconds=60):
        """Waits for the end of a migration that must not leave its source, and
        returns what both sides say of it. Either may notice first; the source
        fails before it says why, the destination says why and ends."""
        def over():
            if self.completed_there():
                raise Failed("the migration completed")
            return (self.source.qmp.find("MIGRATION", status="failed")
                    and not self.destination.process.alive())
        wait_until(over, "both sides give up", seconds)
        return "\n".join([self.information().get("error-desc", ""),
                          self.source.process.output(),
                          self.destination.process.output()])

    def look_at_huge_pages(self):
        """`huge_kept`: how much of what was huge at the source is so again.
        What pre-copy found to be zeros is, too, but takes no memory now."""
        self.thp_bytes_destination = self.destination.huge_bytes()
        if self.huge_source:
            memory, zeros = self.destination.huge_granules()
            self.huge_kept = (len(self.huge_source & (memory | zeros))
                              / len(self.huge_source))

    def settle(self, seconds=1, share=1):
        """Gives the destination so long after the end to have this share of
        its huge pages again."""
        seconds *= PATIENCE
        def huge():
            self.look_at_huge_pages()
            return (self.huge_kept is None or self.huge_kept >= share
                    or time.time() > self.ended + seconds)
        wait_until(huge, "huge pages looked at", seconds + 10, 0.1)

    def rest(self, seconds=1):
        """Waits so long after the end, and takes the processes' times anew:
        making huge pages again is work, too. The source's QEMU has ended."""
        time.sleep(max(0, self.ended + seconds - time.time()))
        self.after["cpu"] |= {name: process.cpu_seconds()
                              for name, process in self.processes().items()
                              if name != "qemu_source"}
        self.after["vcpu"]["destination"] = self.destination.vcpu_seconds()
        self.look_at_huge_pages()

    def completed(self):
        self.check()
        self.progress(self)
        return self.completed_there()

    def completed_there(self):
        return self.destination.qmp.find("MIGRATION", status="completed")

    def check(self):
        """Raises if the migration can no longer complete."""
        for machine in (self.source, self.destination):
            machine.check_alive()
            for status in ENDED + (() if self.recovers else BROKEN):
                if machine.qmp.find("MIGRATION", status=status):
                    raise Failed(f"migration {status}: {self.error()}")

    def error(self):
        """What the QEMUs say; one that ends says it in its log."""
        said = []
        for side, machine in (("source", self.source),
                              ("destination", self.destination)):
            try:
                said.append(f"{side}: " + machine.qmp("query-migrate").get(
                    "error-desc", "-"))
            except Failed:
                machine.process.child.wait(10)
                said.append(f"{side}: {machine.process.output()}")
        return "; ".join(said)

    def cancel(self):
        self.source.qmp("migrate_cancel")
        self.source.qmp.wait("MIGRATION", status="cancelled")
        self.destination.close()

    # ---- seeing it ----

    def information(self):
        return self.source.qmp("query-migrate")

    def pager_events(self, machine):
        return [event.data for event in machine.qmp.events
                if event.name == "MIGRATION_PAGER"]

    def engine(self):
        """What placed the pages, from the destination's own report."""
        statuses = {event["status"]
                    for event in self.pager_events(self.destination)}
        if "completed" not in statuses:
            return "native"
        return self.report("destination")["engine"]

    def report(self, role):
        host = {"source": self.old_host, "destination": self.new_host}[role]
        return host.remapd.report(role, self.vm.config.name,
                                  self.known_reports[host])

    def processes(self):
        processes = {"qemu_source": self.source.process,
                     "qemu_destination": self.destination.process}
        for role, host in (("source", self.old_host),
                           ("destination", self.new_host)):
            if host.remapd:
                processes[f"remapd_{role}"] = host.remapd.process
        return processes

    def counters(self):
        return {"bytes": self.old_host.bytes_sent(),
                "cpu": {name: process.cpu_seconds()
                        for name, process in self.processes().items()},
                "vcpu": {"source": self.source.vcpu_seconds(),
                         "destination": self.destination.vcpu_seconds()}}

    # ---- the figures ----

    def switchover(self):
        """When the source stopped."""
        return self.source.qmp.find("STOP").time

    def postcopy_seconds(self):
        active = self.source.qmp.find("MIGRATION", status="postcopy-active")
        return self.completed_there().time - active.time

    def asked_seconds(self):
        """From the command to switch to the end."""
        return self.completed_there().time - self.asked

    def downtime_seconds(self):
        return self.destination.qmp.find("RESUME").time - self.switchover()

    def work_done(self):
        """[(when, operations so far, longest gap in ms)], line by line, and one
        for the switchover: what the guest did since its newest line before it,
        it did at the source."""
        start, done = self.switchover(), self.operations_at_stop
        lines = [(line.time, line["ops"], line["gap_us"] / 1000)
                 for line in self.vm.guest.lines()]
        if done is None:
            raise Failed("the guest's memory does not say what it had done "
                         "when it stopped")
        before = [line for line in lines if line[0] < start]
        # The newest line from there may still have been on its way.
        after = [line for line in lines if line[0] >= start and line[1] >= done]
        if not (before and after and before[-1][1] <= done):
            raise Failed(f"the guest had not done {done} operations when it "
                         f"stopped at {start}: {before[-1:]}, {after[:1]}")
        return [*before, (start, done, 0), *after]

    def operations_after(self, seconds):
        """The guest's work in so many seconds from the switchover on; between
        two lines by interpolation."""
        end = self.switchover() + seconds
        self.vm.guest.wait(
            lambda _: self.vm.guest.newest().time > end,
            f"{seconds} s of work", seconds + 30)
        points = self.work_done()
        before, after = next(
            (before, after) for before, after in zip(points, points[1:])
            if before[0] <= end < after[0])
        part = (end - before[0]) / (after[0] - before[0])
        return round(before[1] + part * (after[1] - before[1])
                     - self.operations_at_stop)

    def operations_before(self):
        """Operations a second in the second before the migration began."""
        lines = [line for line in self.vm.guest.lines()
                 if self.begun - 1 <= line.time <= self.begun]
        return round((lines[-1]["ops"] - lines[0]["ops"])
                     / ((lines[-1]["t_us"] - lines[0]["t_us"]) / 1e6))

    def timeline(self):
        """The guest's work line by line, seconds from the switchover."""
        start = self.switchover()
        points = [point for point in self.work_done()
                  if start - 1 <= point[0]]
        return [{"seconds": round(after[0] - start, 3),
                 "operations": after[1] - before[1], "gap_ms": after[2]}
                for before, after in zip(points, points[1:])]

    def pages(self):
        """How the pages went. QEMU's own counters where it sent them."""
        if self.engine() == "native":
            ram = self.information_at_end["ram"]
            urgent = ram["postcopy-requests"]
            return {"total": ram["normal"] + ram["duplicate"],
                    "zero": ram["duplicate"], "urgent": urgent,
                    "bulk": ram["normal"] + ram["duplicate"] - urgent}
        return self.report("destination")["pages"]

    def fault_latency(self):
        """QEMU measures none, but counts its requests."""
        if self.engine() == "native":
            return {"p50": None, "p99": None, "max": None,
                    "count": self.information_at_end["ram"]
                             ["postcopy-requests"]}
        return self.report("destination")["fault_latency_us"]

    def waits(self):
        """How long the guest's operations waited that waited at all, until the
        drain ended: what it saw of its faults, whoever carried the pages."""
        lines = self.vm.guest.lines()
        line = next((line for line in lines if line.time >= self.ended),
                    lines[-1])
        return {"count": line["waits"], "long": line["long_waits"],
                "p50_us": line["wait_p50_us"], "p99_us": line["wait_p99_us"]}

    def figures(self):
        cpu = {name: round(seconds - self.before["cpu"][name], 2)
               for name, seconds in self.after["cpu"].items()}
        vcpu = (sum(self.after["vcpu"].values())
                - sum(self.before["vcpu"].values()))
        return {
            "engine": self.engine(),
            "total_seconds": round(self.ended - self.begun, 3),
            "downtime_seconds": round(self.downtime_seconds(), 4),
            "postcopy_seconds": round(self.postcopy_seconds(), 3),
            "asked_seconds": round(self.asked_seconds(), 3),
            "bytes_on_wire": self.after["bytes"] - self.before["bytes"],
            "pages": self.pages(),
            "fault_latency_us": self.fault_latency(),
            "guest_longest_stall_ms":
                self.vm.guest.newest()["mark_us"] / 1000,
            "guest_waits": self.waits(),
            "guest_operations_per_second_before": self.operations_before(),
            "guest_operations_first_second": self.operations_after(1),
            "thp_bytes_source": self.thp_bytes_source,
            "thp_bytes_destination": self.thp_bytes_destination,
            "huge_kept": self.huge_kept,
            "cpu_seconds": cpu,
            "vcpu_seconds": round(vcpu, 2),
        }
