#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vhost-user devices: their back ends fault on the guest's memory too.

vhost.py [PART OF A NAME]...   runs the tests that have one of these, or all
ACCEL, QEMU                    as in run.py
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from checks import require_native, require_whole
from harness import ACCEL, main, require, test
from lab import Lab
from lab.vhost import Disk, Net

LINUX = {"guest": "linux", "memory": "256M", "accel": ACCEL,
         "options": {"rate": 20000, "share": 50}}


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


@test(program=("example", "storage-daemon"), precopy=(0, 1))
def disk(program, precopy):
    """Every block is right before, through and after the move."""
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk",
                             daemon=program == "storage-daemon"))
        move = vm.move(precopy=bool(precopy), pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def natively():
    """QEMU alone serves the same back ends."""
    with Lab(link="1gbit", daemons="") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), pager=None)
        move = vm.move(pager=None)
        wait_disk(vm, 2)
        require_native(vm, move)


@test
def disk_of_huge_pages():
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), backend="hugetlb")
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def disk_and_network():
    """Two devices; the connection survives."""
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), Net(lab))
        wait_more(vm, "NET", "chunks", 10)
        move = vm.move(pager="required")
        wait_disk(vm, 1)
        wait_more(vm, "NET", "chunks", 10)
        require_whole(vm, move)
        require_served(move, "disk", "net")


if __name__ == "__main__":
    main(__doc__)
