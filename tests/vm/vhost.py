#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vhost-user devices: their back ends fault on the guest's memory too.

vhost.py [PART OF A NAME]...   runs the tests that have one of these, or all
ACCEL, QEMU                    as in run.py
"""

import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from checks import require_native, require_whole
from harness import ACCEL, Skip, main, require, test
from lab import Failed, Lab, wait_until
from lab.basics import BUILD, run as remapctl
from lab.move import Move
from lab.vhost import Disk, Net

LINUX = {"guest": "linux", "memory": "256M", "accel": ACCEL,
         "options": {"rate": 20000, "share": 40}}


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


def start(lab, *devices, pager="required", backend="memfd"):
    """A VM that has written all of its disk once."""
    vm = lab.vm("vhost", backend=backend, devices=devices, **LINUX)
    vm.start(pager=pager)
    if any(device.word == "disk" for device in devices):
        wait_disk(vm, 1)
    return vm


def require_served(move, *names):
    """All of these had faults, QEMU too if it was left all pages, and no byte was copied from where the
    network had written it."""
    report = move.report("destination")
    counted = {f["name"]: f["faults"] for f in report["faulters"]}
    for name in names if move.precopy else ("qemu", *names):
        require(counted.get(name, 0) > 0, f"no fault of {name}: {counted}")
    pages = report["pages"]
    require(pages["copied_shared"] == 0, f"copied: {pages}")
    print(f"# faults: {counted}; pages with data: {pages['data']}, of shared "
          f"memory and copied: {pages['copied_shared']}", flush=True)


@test(program=("example_after_precopy", "storage_daemon"))
def disk(program):
    """Every block is right before, through and after the move."""
    daemon = program == "storage_daemon"
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk", daemon=daemon))
        move = vm.move(precopy=not daemon, pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


def stalls(vm, move):
    """How long the move took, and the longest that the guest waited."""
    slowest = {word: max(m["slowest_us"] for m in lines(vm, word)
                         if m.time > move.begun) for word in ("DISK", "NET")}
    return (f"post-copy {move.postcopy_seconds():.2f} s, stopped for "
            f"{move.downtime_seconds() * 1000:.0f} ms, longest wait of the "
            f"guest's memory {vm.guest.newest()['mark_us'] / 1000:.0f} ms, disk "
            f"{slowest['DISK'] / 1000:.0f} ms, network "
            f"{slowest['NET'] / 1000:.0f} ms")


@test
def two_devices_by_remapd_and_natively():
    """With the same devices, one after the other; QEMU alone serves the same
    back ends. The network's connection survives."""
    for pager in ("required", None):
        with Lab(link="1gbit") as lab:
            vm = start(lab, Disk(lab.directory / "disk"), Net(lab), pager=pager)
            wait_more(vm, "NET", "chunks", 10)
            move = vm.move(pager=pager)
            wait_disk(vm, 1)
            wait_more(vm, "NET", "chunks", 10)
            print(f"# {move.engine()}: {stalls(vm, move)}", flush=True)
            if pager:
                require_whole(vm, move)
                require_served(move, "disk", "net")
            else:
                require_native(vm, move)


@test
def disk_of_huge_pages():
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), backend="hugetlb")
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


def disk_faults(lab):
    """So far, of the migration that is running to host b."""
    listed = json.loads(remapctl(
        str(BUILD / "remapctl"), "--socket", str(lab.hosts[1].remapd.control),
        "--json", "list"))
    return sum(faulter["faults"] for session in listed["sessions"]
               for faulter in session["faulters"] if faulter["name"] == "disk")


@test
def memory_added_on_the_way():
    """The back end maps all of it anew, and what is new too."""
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"))
        move = Move(vm, pager="required")
        move.start()
        wait_until(lambda: disk_faults(lab), "the back end has faulted")
        before = disk_faults(lab)
        move.destination.qmp("object-add", id="ram1", size=128 << 20,
                             share=True, **{"qom-type": "memory-backend-memfd"})
        move.destination.qmp("device_add", driver="pc-dimm", id="dimm1",
                             memdev="ram1")
        wait_until(lambda: disk_faults(lab) > before, "it has faulted again")
        require(not move.completed(), "the move was over too soon")
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")
        said = re.findall(r"disk takes part, (\d+) regions",
                          lab.hosts[1].remapd.process.output())
        require(int(said[-1]) > int(said[0]), f"regions: {said}")


@test
def back_end_killed_on_the_way():
    """QEMU connects again as it always does, the new back end takes part, and
    nothing else is concerned."""
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"))
        move = Move(vm, pager="required")
        move.start()
        wait_until(lambda: disk_faults(lab), "the back end has faulted")
        back_end = move.destination.back_ends["disk"]
        back_end.kill()
        before = disk_faults(lab)
        back_end.start()
        wait_until(lambda: disk_faults(lab) > before, "the new one has faulted")
        require(not move.completed(), "the move was over too soon")
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def back_end_without_page_faults():
    """The migration is refused, by name, and the guest runs on."""
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text() != "0\n":
        raise Skip("vm.unprivileged_userfaultfd lets anybody have page faults")
    with Lab() as lab:
        device = Disk(lab.directory / "disk")
        vm = start(lab, device)
        device.nobody = True
        for directory in (lab.directory, lab.hosts[1].directory):
            directory.chmod(0o777)
        for pager in ("required", None):
            try:
                vm.move(pager=pager)
            except Failed as error:
                said = str(error)
            else:
                raise Failed("the migration completed")
            require("vhost-user backend 'disk' not capable of postcopy" in said,
                    said)
            require(not vm.machine.qmp.find("STOP"), "the guest was stopped")
            wait_disk(vm, 1)


if __name__ == "__main__":
    main(__doc__)
