#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vhost-user devices: their back ends fault on the guest's memory too.

vhost.py [PART OF A NAME]...   runs the tests that have one of these, or all
ACCEL, QEMU                    as in run.py
"""

import ctypes
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from checks import require_native, require_whole
from harness import (ACCEL, Skip, lines, main, require, test, wait_disk,
                     wait_more)
from lab import Failed, Lab, vhost, wait_until
from lab.basics import BUILD, run as remapctl
from lab.hosts import unshape
from lab.move import Move
from lab.qmp import QmpError
from lab.vhost import Disk, Net

LINUX = {"guest": "linux", "memory": "256M", "accel": ACCEL,
         "options": {"rate": 20000, "share": 40}}


def start(lab, *devices, pager="required", backend="memfd", name="vhost",
          arguments=(), **different):
    """A VM that has written all of its disk once."""
    vm = lab.vm(name, backend=backend, devices=devices, arguments=arguments,
                **{**LINUX, **different})
    vm.start(pager=pager)
    if any(device.word == "disk" for device in devices):
        wait_disk(vm, 1)
    return vm


def require_served(move, *names):
    """All of these had faults, QEMU too if it was left all pages, and no byte
    was copied from where the network had written it."""
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


FIGURES = ("post-copy", "stopped", "memory", "disk", "echo", "tcp",
           "of it the other end's", "sent again")


def figures(vm, move):
    """ms: how long the move took, how long nothing ran, and the longest that
    each part of the guest waited; of the TCP connection also how much of that
    was the other end's wait, and how often the guest sent again meanwhile."""
    slowest = [max((m for m in lines(vm, word) if m.time > move.begun),
                   key=lambda m: m["slowest_us"])
               for word in ("DISK", "PING", "NET")]
    return [move.postcopy_seconds() * 1000, move.downtime_seconds() * 1000,
            vm.guest.newest()["mark_us"] / 1000,
            *(m["slowest_us"] / 1000 for m in slowest),
            slowest[-1]["theirs_us"] / 1000, slowest[-1]["resent"]]


def two_devices_moved(pager):
    """The network's connection survives."""
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), Net(lab), pager=pager)
        wait_more(vm, "NET", "chunks", 10)
        move = vm.move(pager=pager)
        wait_disk(vm, 1)
        wait_more(vm, "NET", "chunks", 10)
        wait_more(vm, "PING", "answers", 10)
        row = figures(vm, move)
        if pager:
            require_whole(vm, move)
            require_served(move, "disk", "net")
        else:
            require_native(vm, move)
    return row


@test
def two_devices_by_remapd_and_natively():
    """With the same devices, taking turns; QEMU alone serves the same back
    ends. ROUNDS=3 and more to compare."""
    rows = {"remapd": [], "native": []}
    for _ in range(int(os.environ.get("ROUNDS", "1"))):
        rows["remapd"].append(two_devices_moved("required"))
        rows["native"].append(two_devices_moved(None))
    for way, rounds in rows.items():
        print(f"# {way}, median of {len(rounds)}, ms: " + ", ".join(
            f"{name} {statistics.median(values):.0f} "
            f"({' '.join(f'{value:.0f}' for value in values)})"
            for name, values in zip(FIGURES, zip(*rounds))), flush=True)


@test(backend=("hugetlb", "tmpfs"))
def disk_of_huge_pages(backend):
    """The back end has them huge again, too."""
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), backend=backend)
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")
        total = vm.config.memory
        # Of hugetlb who has not touched a page has not mapped it.
        share = {"hugetlb": 0.5, "tmpfs": 0.98}[backend]

        def huge():
            return [vm.machine.huge_bytes(), vm.machine.huge_bytes_of("disk")]
        wait_until(lambda: min(huge()) >= share * total,
                   "QEMU and the back end have huge pages", 30, 0.2)
        print("# of {} MiB huge pages are {} MiB in QEMU, {} MiB in the back "
              "end".format(total >> 20, *(n >> 20 for n in huge())), flush=True)


@test(backend=("memfd", "tmpfs"))
def disk_and_memory_of_an_odd_size(backend):
    """No whole number of huge pages."""
    with Lab(link="1gbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), backend=backend,
                   memory="274728K")
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


# ---- what changes on the way ----

def faults_of(lab, name):
    """So far, of the migration that is running to host b."""
    listed = json.loads(remapctl(
        str(BUILD / "remapctl"), "--socket", str(lab.hosts[1].remapd.control),
        "--json", "list"))
    return sum(faulter["faults"] for session in listed["sessions"]
               for faulter in session["faulters"] if faulter["name"] == name)


def under_way(lab, **options):
    """A move in which the disk's back end has faulted already."""
    vm = start(lab, Disk(lab.directory / "disk"), **options)
    move = Move(vm, pager="required")
    move.start()
    wait_faults(lab, "disk")
    return move


def wait_faults(lab, name):
    """Until there are more of them than now."""
    before = faults_of(lab, name)
    wait_until(lambda: faults_of(lab, name) > before, f"{name} faults")


def require_goes_on(move, *names):
    """The page plane was not done yet, gets there, and all is right."""
    require(not move.completed(), "the move was over too soon")
    move.wait()
    wait_disk(move.vm, 2)
    require_whole(move.vm, move)
    require_served(move, *names)


def regions_of(lab, name):
    """How many the destination's remapd was told of, each time."""
    return [int(count) for count in re.findall(
        rf"back end {name} (?:takes part|has gone), (\d+) regions",
        lab.hosts[1].remapd.process.output())]


def add_memory(machine, name):
    machine.qmp("object-add", id=f"ram-{name}", size=128 << 20, share=True,
                **{"qom-type": "memory-backend-memfd"})
    machine.qmp("device_add", driver="pc-dimm", id=name, memdev=f"ram-{name}")


@test
def memory_added_and_removed_on_the_way():
    """The back end maps all of it anew, each time, and what is new too."""
    with Lab(link="10mbit") as lab:
        move = under_way(lab)
        add_memory(move.destination, "dimm")
        move.destination.qmp.wait("ACPI_DEVICE_OST") # the guest has it
        move.destination.qmp("device_del", id="dimm")
        move.destination.qmp.wait("DEVICE_DELETED", device="dimm")
        for host in lab.hosts:
            unshape(host)
        require_goes_on(move, "disk")
        said = regions_of(lab, "disk")
        require(max(said) > said[0] and said[-1] == said[0], f"regions: {said}")
        print(f"# regions of the disk: {said}", flush=True)


@test
def memory_added_and_removed_while_the_back_end_is_away():
    """It comes back to another layout than it has left."""
    with Lab(link="10mbit") as lab:
        move = under_way(lab)
        machine, back_end = move.destination, move.destination.back_ends["disk"]
        back_end.kill()
        add_memory(machine, "dimm")
        machine.qmp.wait("ACPI_DEVICE_OST")
        back_end.start()
        wait_faults(lab, "disk")
        back_end.kill()
        machine.qmp("device_del", id="dimm")
        machine.qmp.wait("DEVICE_DELETED", device="dimm")
        back_end.start()
        wait_faults(lab, "disk")
        for host in lab.hosts:
            unshape(host)
        require_goes_on(move, "disk")
        said = regions_of(lab, "disk")
        took = [count for count in said if count]
        require(max(took) > took[0] and took[-1] == took[0], f"regions: {said}")
        print(f"# regions of the disk: {said}", flush=True)


def begin_precopy(lab):
    """A VM with a disk, amid pre-copy."""
    vm = start(lab, Disk(lab.directory / "disk"))
    move = Move(vm, precopy=True, pager="required")
    move.prepare()
    vm.mark()
    move.begin()
    move.wait_round(1)
    wait_until(lambda: move.information()["ram"]["transferred"] > 1 << 20,
               "pre-copy")
    return vm, move


@test
def memory_added_at_the_destination_in_precopy():
    """Nobody brings pages for it, so nobody waits for any."""
    with Lab(link="200mbit") as lab:
        vm, move = begin_precopy(lab)
        add_memory(move.destination, "dimm")
        move.switch()
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")
        print(f"# regions of the disk: {regions_of(lab, 'disk')}", flush=True)


DIMM = ("-object", "memory-backend-memfd,id=ram-{0},size={2},share=on",
        "-device", "pc-dimm,id={0},memdev=ram-{0},addr={1:#x}")


def dimms(*numbers, size="128M"):
    """QEMU's arguments for these, each at its own address."""
    return ("-m", "slots=2") + tuple(
        word.format(f"dimm{number}", (4 << 30) + (128 << 20) * number, size)
        for number in numbers for word in DIMM)


def dimm_of_huge_pages():
    return tuple(word.replace("share=on", "share=on,hugetlb=on,hugetlbsize=2M")
                 for word in dimms(0))


DIFFERENT = {"not_there": (dimms, 'Unknown ramblock "ram-dimm0"'),
             "smaller": (lambda: dimms(0, size="64M"),
                         "Size mismatch: ram-dimm0"),
             "larger": (lambda: dimms(0, size="256M"),
                        "Size mismatch: ram-dimm0"),
             "of_huge_pages": (dimm_of_huge_pages,
                               "Postcopy needs matching RAM page sizes")}


@test(case=tuple(DIFFERENT))
def memory_that_is_different_at_the_destination(case):
    """QEMU refuses it before pre-copy begins, what is not there and what has
    another size by name."""
    arguments, says = DIFFERENT[case]
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), arguments=dimms(0))
        if case == "of_huge_pages":
            lab.huge_pages.reserve(128 << 20)
        vm.config.arguments = arguments()
        move = Move(vm, pager="required")
        move.prepare()
        vm.mark()
        move.begin()
        require_stays(vm, move.wait_refused(), says)


@test
def memory_that_only_the_destination_has():
    """Nothing is on its way for it."""
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), arguments=dimms())
        vm.config.arguments = dimms(0)
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def memory_that_came_in_another_order():
    """QEMU lists blocks of one size as they came."""
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), arguments=dimms(0, 1))
        vm.config.arguments = dimms(1, 0)
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def memory_removed_at_the_destination():
    """Of the memory that is on its way."""
    with Lab(link="10mbit") as lab:
        move = under_way(lab, arguments=dimms(0))
        move.destination.qmp("device_del", id="dimm0")
        move.destination.qmp.wait("DEVICE_DELETED", device="dimm0")
        move.destination.qmp("object-del", id="ram-dimm0")
        for host in lab.hosts:
            unshape(host)
        require_goes_on(move, "disk")


def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except QmpError as error:
        return str(error)
    raise Failed("QEMU has done it")


@test
def memory_that_qemu_lets_nobody_add_or_remove():
    """At the source, from the start of a migration to its end."""
    with Lab(link="200mbit") as lab:
        vm = start(lab, Disk(lab.directory / "disk"), arguments=(
            "-object", "memory-backend-memfd,id=ram1,size=128M,share=on",
            "-device", "pc-dimm,id=dimm,memdev=ram1"))
        move = Move(vm, pager="required")
        move.prepare()
        vm.mark()
        move.begin()
        for stage in ("pre-copy", "post-copy"):
            if stage == "post-copy":
                move.switch()
                wait_faults(lab, "disk")
            for said in (refusal(add_memory, vm.machine, stage),
                         refusal(vm.machine.qmp, "device_del", id="dimm")):
                require("not allowed while migrating" in said, said)
                print(f"# {stage}: {said}", flush=True)
        require_goes_on(move, "disk")


@test
def back_end_killed_on_the_way():
    """QEMU connects again as it always does, the new back end takes part, and
    nothing else is concerned."""
    with Lab(link="200mbit") as lab:
        move = under_way(lab)
        back_end = move.destination.back_ends["disk"]
        back_end.kill()
        back_end.start()
        wait_faults(lab, "disk")
        require_goes_on(move, "disk")
        print(f"# regions of the disk: {regions_of(lab, 'disk')}", flush=True)


def connected(machine, name):
    """Whether it is to the back end."""
    return any(chardev["label"] == name and
               not chardev["filename"].startswith("disconnected")
               for chardev in machine.qmp("query-chardev"))


@test
def back_end_restarted_in_precopy():
    """The one that has been told of post-copy is not the one that takes part."""
    with Lab(link="200mbit") as lab:
        vm, move = begin_precopy(lab)
        back_end = move.destination.back_ends["disk"]
        back_end.kill()
        wait_until(lambda: not connected(move.destination, "disk"),
                   "QEMU notices")
        back_end.start()
        wait_until(lambda: connected(move.destination, "disk"), "QEMU connects")
        move.switch()
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


def begin_with_a_kill(lab, request):
    """Begins to move a VM whose arriving disk's back end is killed when it is
    told that; the list that comes back is then no more empty."""
    device = Disk(lab.directory / "disk")
    killed = []

    def kill(said, reply, _payload, _fds):
        if said == request and not reply and not killed:
            killed.append(True)
            move.destination.back_ends["disk"].kill()
    vm = start(lab, device)
    device.tamper = kill
    move = Move(vm, pager="required")
    move.start()
    return vm, move, killed


@test
def back_end_killed_when_it_is_to_advise():
    """It has not said that it can take part: the guest stays."""
    with Lab(link="200mbit") as lab:
        vm, move, _ = begin_with_a_kill(lab, vhost.ADVISE)
        require_stays(vm, move.wait_refused(), "postcopy")


@test
def request_that_a_back_end_has_not_seen():
    """The guest has kicked, once; the next back end is there for it."""
    with Lab() as lab:
        vm = start(lab, Disk(lab.directory / "disk"))
        back_end = vm.machine.back_ends["disk"]
        os.kill(back_end.process.pid, signal.SIGSTOP)
        vm.wait_runs()
        back_end.kill()
        vm.wait_runs()
        back_end.start()
        wait_disk(vm, 1)


@test(message=("LISTEN", "ADD_MEM_REG", "END"))
def back_end_killed_at(message):
    """Just when it is told so, and another one comes."""
    with Lab(link="200mbit") as lab:
        vm, move, killed = begin_with_a_kill(lab, getattr(vhost, message))
        wait_until(lambda: killed, f"{message} is said", 120)
        move.destination.back_ends["disk"].start()
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")
        print("# " + next((line for line in
                           vm.machine.process.output().splitlines()
                           if "postcopy" in line or "vhost" in line),
                          "QEMU says nothing of it"), flush=True)


LATE_SECONDS = 3


@test(message=("ADVISE", "LISTEN", "ADD_MEM_REG", "END"))
def back_end_answers_late(message):
    """For as long QEMU waits, and then all goes on."""
    with Lab(link="200mbit") as lab:
        device = Disk(lab.directory / "disk")
        late = []

        def wait(request, reply, _payload, _fds):
            if request == getattr(vhost, message) and reply and not late:
                late.append(True)
                time.sleep(LATE_SECONDS)
        vm = start(lab, device)
        device.tamper = wait
        move = vm.move(pager="required")
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")
        require(late, f"nothing was answered to {message}")


@test
def back_end_never_answers():
    """Until it is killed: another one takes its place."""
    with Lab(link="200mbit") as lab:
        device = Disk(lab.directory / "disk")
        asked, killed = threading.Event(), threading.Event()

        def wait(request, reply, _payload, _fds):
            if request == vhost.LISTEN and reply and not asked.is_set():
                asked.set()
                killed.wait()
                raise ConnectionResetError
        vm = start(lab, device)
        device.tamper = wait
        move = Move(vm, pager="required")
        move.start()
        require(asked.wait(120), "it is not asked")
        time.sleep(LATE_SECONDS)
        require(not move.completed(), "nobody waits for it")
        back_end = move.destination.back_ends["disk"]
        back_end.kill()
        killed.set()
        back_end.start()
        move.wait()
        wait_disk(vm, 2)
        require_whole(vm, move)
        require_served(move, "disk")


@test
def two_guests_at_once():
    with Lab(link="1gbit") as lab:
        vms = [start(lab, Disk(lab.directory / f"disk{i}"), name=f"vm{i}")
               for i in range(2)]
        moves = [Move(vm, pager="required") for vm in vms]
        for move in moves:
            move.start()
        for move in moves:
            move.wait()
            wait_disk(move.vm, 2)
            require_whole(move.vm, move)
            require_served(move, "disk")


# ---- what back ends may not do ----

def require_stays(vm, said, says):
    """That is what was said, and the guest has never left its source."""
    line = next((line for line in said.splitlines() if says in line), None)
    require(line, said)
    require(not vm.machine.qmp.find("STOP"), "the guest was stopped")
    wait_disk(vm, 1)
    print(f"# {line.split('qemu-system-x86_64: ')[-1]}", flush=True)


@test
def back_end_without_page_faults():
    """Refused, by name."""
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text() != "0\n":
        raise Skip("vm.unprivileged_userfaultfd lets anybody have page faults")
    with Lab() as lab:
        device = Disk(lab.directory / "disk")
        vm = start(lab, device)
        device.nobody = True
        for directory in (lab.directory, lab.hosts[1].directory):
            directory.chmod(0o777)
        for pager in ("required", None):
            # At once, when the destination is told to expect post-copy.
            require_stays(vm, refusal(vm.move, pager=pager),
                          "vhost-user backend 'disk' not capable of postcopy")


def gives(descriptor):
    """A back end that answers ADVISE with this instead of a userfaultfd."""
    def tamper(request, reply, _payload, fds):
        if request == vhost.ADVISE and reply:
            for fd in fds:
                os.close(fd)
            fds[:] = descriptor()
    return tamper


@test
def back_end_whose_userfaultfd_is_none():
    """Refused, by name."""
    with Lab() as lab:
        device = Disk(lab.directory / "disk")
        vm = start(lab, device)
        for descriptor in (list, lambda: [os.eventfd(0)],
                           lambda: [os.open("/dev/null", os.O_RDWR)]):
            device.tamper = gives(descriptor)
            move = Move(vm, pager="required")
            move.start()
            require_stays(vm, move.wait_refused(),
                          "vhost-user backend 'disk' has no userfaultfd")


def foreign_userfaultfd():
    """This process's."""
    fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0xc018aa3f, struct.pack("=3Q", 0xaa, 0, 0)) # UFFDIO_API
    return [fd]


def stale_userfaultfd():
    """That of a process that has ended."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        socket.send_fds(theirs, [b"x"], foreign_userfaultfd())
        os._exit(0) # pylint: disable=protected-access
    with ours, theirs:
        fds = socket.recv_fds(ours, 1, 1)[1]
    os.wait()
    return fds


def maps_at(wrong):
    """A back end that says to have mapped each region elsewhere."""
    def tamper(request, reply, payload, _fds):
        if reply and request == vhost.ADD_MEM_REG and len(payload) == 40:
            right, = struct.unpack_from("=Q", payload, 24)
            struct.pack_into("=Q", payload, 24, wrong(right))
    return tamper


LIES = {"a_userfaultfd_of_another_process": gives(foreign_userfaultfd),
        "a_userfaultfd_of_an_ended_process": gives(stale_userfaultfd),
        "a_part_of_a_page": maps_at(lambda right: right + 1),
        "half_of_it": maps_at(lambda right: right + (128 << 20))}


@test(lie=tuple(LIES))
def back_end_tells(lie):
    """Its device does not start, which concerns nobody else, until it tells the
    truth."""
    with Lab(link="1gbit") as lab:
        device = Disk(lab.directory / "disk")
        vm = start(lab, device)
        lies = [LIES[lie]]
        device.tamper = lambda *message: [tell(*message) for tell in lies]
        move = vm.move(pager="required")
        lies.clear()
        vm.machine.back_ends["disk"].start() # it ends with its connection
        wait_disk(vm, 2)
        require_whole(vm, move)
        said = next(line for line in vm.machine.process.output().splitlines()
                    if "cannot register the memory of 'disk'" in line)
        print(f"# {said.split('qemu-system-x86_64: ')[-1]}", flush=True)


if __name__ == "__main__":
    main(__doc__)
