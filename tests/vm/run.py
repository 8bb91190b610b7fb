#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU end to end: VMs move between two hosts through two remapd.

run.py [PART OF A NAME]...   runs the tests that have one of these, or all
ACCEL=kvm                    under KVM, where a probe guest shows that it works
QEMU=PATH                    another patched QEMU
QEMU_UPSTREAM=PATH           an unpatched one of the same version, as a peer
"""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from checks import ENGINES, require_guest_whole, require_native, require_whole
from harness import ACCEL, Skip, main, require, test
from lab import BACKENDS, Failed, Lab, placer, wait_until
from lab.basics import BUILD, run as run_command
from lab.daemon import lacks_remap
from lab.memory import HUGE, read_block, read_memory
from lab.move import Move
from lab.pingpong import spinning

SMALL = {"guest": "tiny", "memory": "192M", "accel": ACCEL}
LINUX = {"guest": "linux", "memory": "512M", "accel": ACCEL}


# ---- moving ----

@test(backend=BACKENDS, precopy=(0, 1))
def moves(backend, precopy):
    with Lab() as lab:
        vm = lab.vm("small", backend=backend, **SMALL)
        vm.start(pager="required")
        require_whole(vm, vm.move(precopy=bool(precopy), pager="required"))


@test(backend=("thp", "memfd"))
def moves_encrypted(backend):
    """The pages, that is; QEMU's own stream is QEMU's to encrypt."""
    with Lab(tls="on") as lab:
        vm = lab.vm("small", backend=backend, **SMALL)
        vm.start(pager="required")
        move = vm.move(pager="required")
        require_whole(vm, move)
        report = lab.hosts[1].remapd.report("destination", "small", ())
        print(f"# engine {move.engine()}, {report['cipher']}")
        require(report["cipher"].startswith("TLS_"), f"{report}")


@test(backend=("thp", "memfd"), precopy=(0, 1))
def moves_linux_of_four_vcpus(backend, precopy):
    with Lab() as lab:
        vm = lab.vm("linux", backend=backend, vcpus=4, **LINUX)
        vm.start(pager="required")
        require_whole(vm, vm.move(precopy=bool(precopy), pager="required"))


@test
def moves_linux_of_one_vcpu():
    with Lab() as lab:
        vm = lab.vm("linux", options={"pattern": "hot"}, **LINUX)
        vm.start(pager="required")
        require_whole(vm, vm.move(pager="required"))


@test(pattern=("hot", "scan"))
def moves_a_guest_that_goes_by(pattern):
    with Lab() as lab:
        vm = lab.vm("small", options={"pattern": pattern}, **SMALL)
        vm.start(pager="required")
        require_whole(vm, vm.move(pager="required"))


@test
def moves_there_and_back():
    with Lab() as lab:
        vm = lab.vm("small", **SMALL)
        vm.start(pager="required")
        for _ in range(3):
            require_whole(vm, vm.move(pager="required"))


@test(when=("at_once", "beside_others", "after_precopy"))
def huge_pages_stay_huge(when):
    """What pre-copy has left in pieces, or what has come ahead of the rest of
    its huge page, becomes huge again a little later; zeros do, too."""
    with contextlib.ExitStack() as stack, Lab() as lab:
        for _ in range(8 if when == "beside_others" else 0):
            stack.enter_context(spinning())
        vm = lab.vm("huge", backend="thp", **SMALL)
        vm.start(pager="required")
        move = vm.move(pager="required", precopy=when == "after_precopy")
        if move.engine() not in ("move", "remap"):
            raise Skip(f"engine {move.engine()}: this kernel cannot move pages")
        move.settle(20, 0.99)
        require(move.thp_bytes_source > 0, "the source had no huge page")
        require(move.huge_kept >= 0.99,
                f"{move.thp_bytes_source} bytes were huge, of which "
                f"{move.huge_kept:.1%} are again")
        require_whole(vm, move)


@contextlib.contextmanager
def reading(machine):
    """A thread reads all of its memory, 2 MiB at once, and holds the pages that
    are there until the last of them is."""
    hva, length = machine.blocks()["ram0"]
    over = threading.Event()

    def read():
        while not over.is_set():
            for offset in range(0, length, HUGE):
                read_memory(machine.pid, hva + offset, HUGE)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def moved_slowly(vm, beside=None):
    """Moves it over a link that carries a huge page slowly: pages that the guest
    waits for come ahead of it. Returns what the destination says of it."""
    probed = run_command(str(BUILD / "remapd"), "--probe")
    if "page tables left empty: freed" not in probed:
        raise Skip("this kernel keeps page tables that are empty")
    move = Move(vm, pager="required")
    move.start()
    wait_until(lambda: move.destination.qmp.find("RESUME"), "post-copy")
    with beside(move.destination) if beside else contextlib.nullcontext():
        move.wait()
    require_whole(vm, move)
    if move.engine() != "move":
        raise Skip(f"engine {move.engine()}: pages do not come ahead")
    return move.report("destination")


@test
def pages_come_ahead_of_their_huge_page():
    with Lab(link="1gbit") as lab:
        vm = lab.vm("ahead", backend="thp", **SMALL)
        vm.start(pager="required")
        report = moved_slowly(vm)
        huge = report["huge_pages"]
        print(f"# {report['faults']} faults, huge pages: {huge}")
        require(report["faults"] > huge["whole"] + huge["pieces"],
                "more granules than faults")
        require(huge["whole"] > 5 * huge["pieces"],
                f"in pieces: {huge['pieces']} of {huge['whole']}")


@test(backend=("thp", "memfd"))
def what_can_be_spliced_is(backend):
    """The source's QEMU sends it; of a file's memory it sends none. The guest
    runs on only when all is there: what comes ahead for one that waits is too
    little to be spliced, and how much that is is chance."""
    with Lab() as lab:
        vm = lab.vm("splice", backend=backend, **SMALL)
        vm.start(pager="required")
        move = vm.move(pager="required", stopped=True)
        move.destination.qmp("cont")
        vm.arrived(move.destination)
        require_whole(vm, move)
        pages = move.report("source")["pages"]
        print(f"# of {pages['data']} pages with bytes {pages['spliced']} "
              "were spliced")
        if backend == "memfd":
            # The firmware's own is private.
            require(pages["spliced"] < 0.01 * pages["data"], f"{pages}")
        else:
            require(pages["spliced"] > 0.8 * pages["data"], f"{pages}")


@test
def a_stopped_source_gives_all():
    """The memory of a QEMU that is stopped in mid-drain can be read."""
    with Lab(link="200mbit") as lab:
        vm = lab.vm("stopped", backend="thp", **SMALL)
        vm.start(pager="required")
        move = Move(vm, pager="required")
        move.start()
        source = move.source.process.pid
        wait_until(lambda: move.destination.qmp.find("RESUME"), "post-copy")
        os.kill(source, signal.SIGSTOP)
        try:
            wait_until(lambda: "source complete" in
                       move.old_host.remapd.process.output(),
                       "every page is there", 60)
        finally:
            os.kill(source, signal.SIGCONT)
        move.wait()
        require_whole(vm, move)
        report = move.report("source")
        print(f"# {report['pauses']} pauses, "
              f"{report['pages']['spliced']} pages spliced")
        require(report["pages"]["spliced"] < report["pages"]["data"],
                f"{report}")


@contextlib.contextmanager
def overlaid():
    """A directory on a file system of which QEMU does not know that it pins."""
    with tempfile.TemporaryDirectory(prefix="remapd-overlay-") as directory:
        parts = {name: pathlib.Path(directory, name)
                 for name in ("tmpfs", "merged")}
        for part in parts.values():
            part.mkdir()
        run_command("mount", "-t", "tmpfs", "tmpfs", str(parts["tmpfs"]))
        try:
            for name in ("lower", "upper", "work"):
                (parts["tmpfs"] / name).mkdir()
            run_command("mount", "-t", "overlay", "overlay", "-o", ",".join(
                f"{name}dir={parts['tmpfs']}/{name}"
                for name in ("lower", "upper", "work")), str(parts["merged"]))
            try:
                yield parts["merged"]
            finally:
                run_command("umount", str(parts["merged"]))
        finally:
            run_command("umount", str(parts["tmpfs"]))


@test
def none_are_taken_where_a_disk_may_not_pin_them():
    """A read past the page cache might still write to a page that was taken."""
    with overlaid() as directory, Lab(link="1gbit") as lab:
        image = directory / "disk"
        image.write_bytes(bytes(1 << 20))
        vm = lab.vm("refers", backend="thp", **SMALL, arguments=[
            "-blockdev", f"driver=file,node-name=disk,filename={image},"
            "cache.direct=on"])
        vm.start(pager="required")
        huge = moved_slowly(vm)["huge_pages"]
        print(f"# huge pages: {huge}")
        require(huge["pieces"] > huge["whole"], f"{huge}")


@test
def pinned_pages_stay_the_guests():
    """Somebody reads QEMU's memory, and holds pages of a granule until the last
    of them is there: they cannot be taken out of the guest."""
    with Lab(link="1gbit") as lab:
        vm = lab.vm("pinned", backend="thp", **SMALL)
        vm.start(pager="required")
        report = moved_slowly(vm, reading)
        print(f"# copied after all: {report['pages']['fallback']} pages")
        require(report["pages"]["fallback"] > 0, "nothing was pinned")


def remapped():
    """Huge pages and single pages that UFFDIO_REMAP has moved on this host."""
    with open("/proc/vmstat", encoding="ascii") as lines:
        counts = dict(line.split() for line in lines)
    return [int(counts[f"uffd_remap_{what}"]) for what in ("pmd", "pte")]


def locked_bytes(machine):
    with open(f"/proc/{machine.pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines
                    if line.startswith("VmLck:"))


@test(mem_lock=("off", "on"))
def remap_keeps_every_huge_page(mem_lock):
    """The guest goes on once all is there: where nobody waits, every granule
    comes and moves as one huge page. A QEMU that locks its memory unlocks it
    for the time of a post-copy."""
    reason = lacks_remap()
    if reason:
        raise Skip(reason)
    with Lab() as lab:
        vm = lab.vm("remap", guest="tiny", memory="96M", accel=ACCEL,
                    arguments=("-overcommit", f"mem-lock={mem_lock}"))
        vm.start(pager="required")
        before = remapped()
        move = vm.move(pager="required", stopped=True)
        huge, single = (now - then for then, now in zip(before, remapped()))
        move.settle(30)
        report = move.report("destination")
        print(f"# engine {move.engine()}: {huge} huge pages and {single} single "
              f"ones moved, AnonHugePages {move.thp_bytes_source >> 10} KiB at "
              f"the source, {move.thp_bytes_destination >> 10} KiB at the "
              "destination")
        require(move.engine() == "remap", move.engine())
        require(report["pages"]["fallback"] == 0, f"{report['pages']}")
        require(huge * HUGE >= 0.9 * move.thp_bytes_source,
                f"{huge} huge pages were moved")
        require(move.thp_bytes_destination == move.thp_bytes_source > 0,
                f"{move.thp_bytes_source} bytes were huge, "
                f"{move.thp_bytes_destination} are")
        require((locked_bytes(move.destination) >= vm.config.memory) ==
                (mem_lock == "on"),
                f"{locked_bytes(move.destination)} bytes are locked")
        move.destination.qmp("cont")
        vm.arrived(move.destination)
        require_whole(vm, move)


def lies(machine):
    """Commands that name what is not the placer's."""
    hva, length = machine.blocks()["ram0"]
    own = placer.staging(machine)[0]
    with open(f"/proc/{machine.pid}/maps", encoding="ascii") as maps:
        stack = next(int(line.split("-")[0], 16) for line in maps
                     if line.rstrip().endswith("[stack]"))
    slot = placer.SLOT_BYTES
    return {
        "no such operation": (99, own, hva, slot),
        **{f"{name} {what}": (operation, *command)
           for name, operation in (("move", placer.MOVE),
                                   ("receive", placer.RECEIVE))
           for what, command in {
               "out of the guest": (hva, hva, slot),
               "out of the stack": (stack & -slot, hva, slot),
               "half a slot on": (own + slot // 2, hva, slot),
               "out of what is before staging": (own - slot, hva, slot),
               "out of address 0": (0, hva, slot),
               "out of the largest slot": (2**64 - slot, hva, slot),
               "nothing": (own, hva, 0),
               "part of a page": (own, hva, 100),
               "part of a slot": (own, hva, 4096),
               "more than a slot": (own, hva, slot + 4096),
               "the largest length": (own, hva, 2**64 - 4096),
           }.items()},
        **{f"move {what}": (placer.MOVE, own, *to)
           for what, to in {
               "to address 0": (0, slot),
               "before the block": (hva - 4096, slot),
               "over the block's end": (hva + length - 4096, slot),
               "behind the block": (hva + length, slot),
               "to QEMU's stack": (stack & -4096, slot),
               "over the end of all": (2**64 - 4096, slot),
               "to a part of a page": (hva + 100, slot),
           }.items()},
        "prime the guest": (placer.PRIME, hva, 0, slot),
        "prime all and one more": (placer.PRIME, own, 0, 1 << 40),
        "prime half a slot": (placer.PRIME, own, 0, 1 << 20),
        "prime nothing": (placer.PRIME, own, 0, 0),
    }


def stopped_between_commands(pid, ends):
    """Stops it, and lets it go on if it was waiting for an answer."""
    os.kill(pid, signal.SIGSTOP)
    if not select.select(ends, [], [], 0.2)[0]:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


@test
def placers_refuse_lies():
    """A remapd that is stopped in mid-drain, and somebody who talks for it."""
    with Lab(link="200mbit") as lab:
        vm = lab.vm("lies", backend="thp", **SMALL)
        vm.start(pager="required")
        move = Move(vm, pager="required")
        move.start()
        remapd = move.new_host.remapd.process
        wait_until(lambda: move.destination.qmp.find("RESUME"), "post-copy")
        ends = placer.sockets(remapd.pid)
        if not ends:
            raise Skip("no placer: this kernel cannot move pages")
        try:
            wait_until(lambda: stopped_between_commands(remapd.pid, ends),
                       "no answer is under way")
            said = lies(move.destination)
            for end in ends:
                for what, command in said.items():
                    answer = placer.tell(end, *command)
                    require(answer == ("EINVAL", 0), f"{what}: {answer}")
                end.close()
        finally:
            os.kill(remapd.pid, signal.SIGCONT)
        move.wait()
        require_whole(vm, move)
        require(move.engine() == "move", f"engine {move.engine()}")
        refused = re.findall(r"refused (\d+) commands",
                             move.destination.process.output())
        require(refused == len(ends) * [str(len(said))],
                f"QEMU counts {refused} refusals of {len(ends)} placers")


def move_all(vms):
    """Boots all of them, and moves them at once."""
    for vm in vms:
        vm.start(pager="required", wait=False)
    for vm in vms:
        vm.wait_ready()
    moves_ = [Move(vm, pager="required") for vm in vms]
    for move in moves_:
        move.prepare()
    for move in moves_:
        move.begin()
        move.switch()
    for move in moves_:
        move.wait()
    for vm, move in zip(vms, moves_):
        require_whole(vm, move)


@test
def moves_several_at_once_both_ways():
    with Lab() as lab:
        vms = [lab.vm(f"vm{i}", host=i % 2, guest="tiny", memory="96M",
                      accel=ACCEL, backend=backend)
               for i, backend in enumerate(("thp", "anon", "memfd", "thp"))]
        move_all(vms)


@test
def moves_sixteen_at_once():
    with Lab() as lab:
        vms = [lab.vm(f"vm{i}", guest="tiny", memory="64M", accel=ACCEL,
                      options={"rate": 2000, "seed": i}) for i in range(16)]
        move_all(vms)


@test
def idle_daemons_have_no_migration_and_end():
    with Lab() as lab:
        for host in lab.hosts:
            listed = json.loads(run_command(
                str(BUILD / "remapctl"), "--socket", str(host.remapd.control),
                "--json", "list"))
            require(listed == {"sessions": [], "ended": []},
                    f"remapctl lists {listed}")
            host.remapd.close()
            code = host.remapd.process.child.returncode
            require(code == 0, f"remapd ended with {code}")


@test(backend=BACKENDS, precopy=(0, 1))
def every_byte_is_equal(backend, precopy):
    """The guest does not run at the destination, so that its memory there must
    be the source's."""
    with Lab() as lab:
        vm = lab.vm("small", backend=backend, **SMALL)
        vm.start(pager="required")
        move = vm.move(precopy=bool(precopy), pager="required", stopped=True)
        require(move.engine() in ENGINES[backend], move.engine())
        there = move.destination.blocks()
        for name, (hva, length) in move.source.blocks().items():
            pieces = zip(read_block(move.source.pid, hva, length),
                         read_block(move.destination.pid, *there[name]))
            for number, (source, destination) in enumerate(pieces):
                require(source == destination,
                        f"{name} differs in its 2 MiB number {number}")


# ---- not moving ----

@test(precopy=(0, 1))
def cancelled_before_the_switchover_runs_on(precopy):
    with Lab() as lab:
        vm = lab.vm("small", **SMALL)
        vm.start(pager="required")
        move = Move(vm, pager="required")
        move.prepare()
        move.begin()
        wait_until(lambda: move.information().get("ram", {})
                   .get("transferred", 0) > 1 << 18, "pre-copy has begun")
        move.cancel()
        require(vm.machine.status() == "running", vm.machine.status())
        vm.wait_runs()
        require(not move.source.qmp.find("STOP"), "the guest was stopped")
        require_whole(vm, vm.move(pager="required", precopy=bool(precopy)))


@test(absent=("a", "b", "ab"))
def without_a_daemon_moves_natively(absent):
    with Lab(daemons="".join(set("ab") - set(absent))) as lab:
        vm = lab.vm("small", **SMALL)
        vm.start()
        require_native(vm, vm.move())


@test(absent=("a", "b"))
def without_a_daemon_required_fails_before_the_stop(absent):
    daemons = "".join(set("ab") - set(absent))
    with Lab(daemons=daemons) as lab:
        vm = lab.vm("small", **SMALL)
        vm.start(pager="required")
        require_refused(vm, "required")


def require_refused(vm, pager):
    """The migration fails, one side says why, and the guest never notices."""
    move = Move(vm, pager=pager)
    move.start()
    said = move.wait_refused()
    require("The required migration-pager fails: " in said, said)
    require(move.information()["status"] == "failed", move.information())
    require(not move.source.qmp.find("STOP"), "the guest was stopped")
    require(vm.machine.status() == "running", vm.machine.status())
    vm.wait_runs()
    vm.verify()
    for line in {line.split("qemu-system-x86_64: ")[-1]
                 for line in said.splitlines()
                 if "migration-pager fails" in line}:
        print(f"# {line}", flush=True)
    return said


class OtherVersion:
    """Before a remapd: what it answers is said to be of version 1, and what
    QEMU says of version 99."""

    def __init__(self, remapd):
        path = remapd.handoff
        self.real = path.rename(path.with_suffix(".real"))
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self):
        with contextlib.suppress(OSError), self.listener:
            while True:
                qemu, _ = self.listener.accept()
                with qemu, socket.socket(socket.AF_UNIX,
                                         socket.SOCK_SEQPACKET) as remapd:
                    remapd.connect(str(self.real))
                    for source, target, version in ((qemu, remapd, 99),
                                                    (remapd, qemu, 1)):
                        packet = bytearray(source.recv(4096))
                        struct.pack_into(">H", packet, 4, version)
                        target.send(packet)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)


@test(host=("a", "b"))
def remapd_of_another_version_is_refused(host):
    """Before the switchover, with both versions named."""
    with Lab() as lab:
        remapd = lab.hosts["ab".index(host)].remapd
        lab.close_at_end(OtherVersion(remapd))
        vm = lab.vm("small", **SMALL)
        vm.start(pager="required")
        said = require_refused(vm, "required")
        require("speaks version 1 of the hand-off, QEMU speaks 3" in said, said)
        says = "hand-off version 99, this remapd speaks 3"
        wait_until(lambda: says in remapd.process.output(), says)


@test
def peer_without_a_pager_moves_natively():
    with Lab() as lab:
        vm = lab.vm("small", **SMALL)
        vm.start()
        require_native(vm, vm.move(pager=None))


@test
def source_without_a_pager_moves_natively():
    with Lab() as lab:
        vm = lab.vm("small", **SMALL)
        vm.start(pager=None)
        require_native(vm, vm.move())


@test
def peer_without_a_pager_required_fails_before_the_stop():
    with Lab() as lab:
        vm = lab.vm("small", **SMALL)
        vm.start(pager="required")
        require_refused(vm, None)


@test(upstream=("source", "destination"))
def unpatched_qemu_as(upstream):
    path = os.environ.get("QEMU_UPSTREAM")
    if not path:
        raise Skip("QEMU_UPSTREAM names no unpatched QEMU")
    with Lab() as lab:
        patched = lab.qemu
        vm = lab.vm("small", **SMALL)
        lab.qemu = path if upstream == "source" else patched
        vm.start(pager="on" if upstream == "destination" else None)
        lab.qemu = path if upstream == "destination" else patched
        require_native(vm, vm.move(
            pager="on" if upstream == "source" else None))


if __name__ == "__main__":
    main(__doc__)
