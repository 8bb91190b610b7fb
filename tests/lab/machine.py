# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU on one host."""

import functools
import os
import pathlib
import re
import tempfile

from .basics import TOP, Failed, Process, Refused, run, wait_until
from .guest import GUESTS, MARKER
from .memory import (BACKENDS, huge_bytes, huge_granules, mapped_elsewhere,
                     thp_of)
from .qmp import Qmp
from .vhost import BackEnd

ACCELERATORS = {"tcg": ["-accel", "tcg,thread=multi"],
                "kvm": ["-accel", "kvm", "-cpu", "host"]}
FIRMWARE = ["/usr/share/seabios", "/usr/share/qemu"]
# On a busy host the timer may be too late for the check of it.
KERNEL = "no_timer_check panic=-1"


@functools.cache
def find_qemu():
    """$QEMU, or what the project has built; one for the whole run."""
    path = os.environ.get("QEMU") or run(
        "make", "-s", "--no-print-directory", "-C", str(TOP), "qemu-bin").strip()
    if not os.access(path, os.X_OK):
        raise Refused(f"{path} is not there: run `make qemu`")
    return path


def check_accelerator(accel):
    """Returns None, or why QEMU runs no guest with it. Only a guest that says
    something proves it: /dev/kvm may be there and not work."""
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm"
    with tempfile.TemporaryDirectory() as directory:
        serial = pathlib.Path(directory, "serial")
        config = Config("probe", guest="tiny", memory=64 << 20, accel=accel)
        probe = Process(config.command(find_qemu()) +
                        ["-serial", f"file:{serial}"],
                        pathlib.Path(directory, "log"))

        def speaks():
            probe.check_alive()
            return serial.exists() and MARKER in serial.read_text()
        try:
            wait_until(speaks, f"a probe guest under {accel} speaks", 15)
        except Failed as error:
            return str(error)
        finally:
            probe.close()
    return None


class Config:
    """What a VM is, on whichever host it runs."""

    def __init__(self, name, guest="linux", vcpus=1, memory=1 << 30,
                 backend="thp", accel="tcg", options=None, devices=(),
                 arguments=(), directory=None):
        if accel not in ACCELERATORS:
            raise Refused(f"ACCEL={accel}: allowed are "
                          f"{', '.join(ACCELERATORS)}")
        if guest == "tiny" and vcpus != 1:
            raise Refused("the tiny guest has one vCPU")
        self.name = name
        self.guest = guest
        self.vcpus = vcpus
        self.memory = memory
        self.backend = backend
        self.memory_object = BACKENDS[backend].format(directory=directory)
        self.accel = accel
        self.options = options or {}
        self.devices = devices
        self.arguments = arguments # of QEMU's, beside what is said here

    def command(self, qemu):
        append = " ".join(f"remapd.{key}={value}"
                          for key, value in self.options.items())
        append += "".join(f" remapd.{device.word}" for device in self.devices)
        if self.guest != "tiny":
            append = f"console=ttyS0 quiet {KERNEL} {append}"
        return [
            qemu, *(word for path in FIRMWARE for word in ("-L", path)),
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-name", f"guest={self.name}", *ACCELERATORS[self.accel],
            "-object", f"{self.memory_object},id=ram0,size={self.memory}",
            "-machine", "pc,memory-backend=ram0", "-m",
            f"size={self.memory}B,slots=1,maxmem={2 * self.memory}B",
            "-smp", str(self.vcpus), *GUESTS[self.guest], "-append", append,
            *self.arguments]


class Machine:
    """A QEMU process. `pager` is None, "on" or "required"; with `incoming` it
    waits for a migration, with `stopped` it does not run the guest."""

    def __init__(self, host, config, guest, qemu, pager=None, incoming=False,
                 stopped=False):
        self.host = host
        self.config = config
        place = host.directory / f"{config.name}-{host.free_port()}"
        sockets = {name: f"{place}.{name}" for name in ("qmp", "serial")}
        command = config.command(qemu)
        for name, path in sockets.items():
            command += ["-chardev", f"socket,id={name},path={path},"
                                    "server=on,wait=off"]
        command += ["-mon", "chardev=qmp,mode=control", "-serial",
                    "chardev:serial"]
        if pager:
            command += ["-object", f"migration-pager,id=pager0,path="
                                   f"{host.directory / 'handoff'},required="
                                   f"{'on' if pager == 'required' else 'off'}"]
        if incoming:
            command += ["-incoming", "defer"]
        if stopped:
            command += ["-S"]
        self.back_ends = {
            device.word: BackEnd(host, device, pathlib.Path(qemu).parent, place)
            for device in config.devices}
        for back_end in self.back_ends.values():
            command += back_end.arguments
        with thp_of(config.backend):
            self.process = host.spawn(command, place.name)
        self.pid = self.process.pid
        wait_until(lambda: self._listening(sockets), "QEMU listens")
        self.qmp = Qmp(sockets["qmp"])
        self.serial = guest.listen(sockets["serial"])

    def _listening(self, sockets):
        self.process.check_alive()
        return all(pathlib.Path(path).exists() for path in sockets.values())

    def check_alive(self):
        self.process.check_alive()

    def status(self):
        return self.qmp("query-status")["status"]

    def blocks(self):
        """The RAM blocks: {name: (hva, length)}."""
        blocks = {name: (int(hva, 16), int(used, 16))
                  for name, used, hva in re.findall(
                      r"^\s*(\S+)\s+\d+ .iB\s+0x\w+\s+(0x\w+)\s+0x\w+\s+"
                      r"(0x\w+)\s+r[ow]", self.qmp.human("info ramblock"),
                      re.MULTILINE)}
        if not blocks:
            raise Failed("QEMU names no RAM block")
        return blocks

    def huge_bytes(self):
        """Guest memory that this QEMU has in huge pages."""
        return huge_bytes(self.pid, [self.blocks()["ram0"]])

    def huge_bytes_of(self, back_end):
        """Guest memory that this back end has in huge pages."""
        pid = self.back_ends[back_end].process.pid
        return huge_bytes(pid, mapped_elsewhere(
            self.pid, self.blocks()["ram0"][0], pid))

    def close(self):
        self.process.close()
        for back_end in self.back_ends.values():
            back_end.close()

    def huge_granules(self):
        """By number: those with memory, those that are the page of zeros."""
        return huge_granules(self.pid, *self.blocks()["ram0"])

    def vcpu_seconds(self):
        """The CPU time that the guest itself has had."""
        return sum(self.process.cpu_seconds(cpu["thread-id"])
                   for cpu in self.qmp("query-cpus-fast"))
