# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: its hosts, its daemons, its VMs, and the end of all of them."""

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile

from . import hosts
from .basics import Failed, bytes_of, pid_alive, run
from .daemon import Remapd
from .guest import Guest
from .hosts import Host
from .machine import Config, Machine, find_qemu
from .memory import HugePages, check_backend
from .move import Move

ADDRESSES = ("10.0.0.1", "10.0.0.2")
DIRECTORY = "remapd-lab-"


def sweep():
    """Removes what labs have left whose process was killed."""
    hosts.sweep()
    HugePages.sweep()
    for directory in pathlib.Path(tempfile.gettempdir()).glob(DIRECTORY + "*"):
        if not pid_alive(directory.name.split("-")[-2]):
            if os.path.ismount(directory / "tmpfs"):
                run("umount", str(directory / "tmpfs"))
            shutil.rmtree(directory, ignore_errors=True)


class Lab:
    """`daemons` says which hosts, by letter, get a remapd; `tls`, "on" or
    "off", whether they encrypt, None: as everywhere else; `congestion`, the
    congestion control that hosts have, None: this machine's."""

    def __init__(self, link="none", daemons="ab", qemu=None,
                 daemon_options=(), tls=None, congestion=None):
        self.link = link
        self.congestion = congestion
        self.qemu = qemu or find_qemu()
        self.daemons = daemons
        self.daemon_options = daemon_options
        self.tls = tls
        self.stack = contextlib.ExitStack()
        self.hosts = []

    def __enter__(self):
        sweep()
        with self.stack:
            self._build()
            self.stack = self.stack.pop_all()
        return self

    def _build(self):
        # Short, for a socket's path has at most 107 bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(
            prefix=f"{DIRECTORY}{os.getpid()}-"))
        self.stack.callback(shutil.rmtree, self.directory)
        self.hosts = [Host(letter, address, self.directory)
                      for letter, address in zip("ab", ADDRESSES)]
        self.stack.callback(hosts.disconnect, self.hosts)
        hosts.connect(self.hosts, self.link)
        if self.congestion:
            for host in self.hosts:
                host.set_congestion(self.congestion)
        self.huge_pages = HugePages()
        self.stack.callback(self.huge_pages.give_back)
        for host in self.hosts:
            if host.letter in self.daemons:
                self.start_remapd(host)

    def __exit__(self, kind, *_):
        if kind and issubclass(kind, Failed):
            self.show_logs()
        # A second ^C waits until all is cleaned up after the first.
        old = signal.pthread_sigmask(signal.SIG_BLOCK,
                                     {signal.SIGINT, signal.SIGTERM})
        try:
            self.stack.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def show_logs(self, lines=20):
        """The end of what each process said, for whoever asks what failed."""
        for log in sorted(self.directory.rglob("*.log")):
            name = log.relative_to(self.directory).with_suffix("")
            said = log.read_text(errors="replace").splitlines()
            print("".join(f"# {name}: {line[:300]}\n"
                          for line in said[-lines:]), end="", flush=True)

    def start_remapd(self, host):
        host.remapd = Remapd(host, self.daemon_options, tls=self.tls)
        self.stack.callback(host.remapd.close)

    def vm(self, name, host=0, memory="1G", backend="thp", **config):
        check_backend(backend)
        if backend == "tmpfs":
            self.mount_tmpfs()
        config = Config(name, memory=bytes_of(memory), backend=backend,
                        directory=self.directory, **config)
        return Vm(self, config, self.hosts[host])

    def mount_tmpfs(self):
        place = self.directory / "tmpfs"
        if not place.exists():
            place.mkdir()
            run("mount", "-t", "tmpfs", "-o", "huge=advise", "remapd-lab",
                str(place))
            self.stack.callback(run, "umount", str(place))

    def close_at_end(self, thing):
        self.stack.callback(thing.close)
        return thing


class Vm:
    """One VM: its guest, and the QEMU that has it now."""

    def __init__(self, lab, config, host):
        self.lab = lab
        self.config = config
        self.host = host
        self.guest = Guest()
        self.machine = None
        if config.backend == "hugetlb":
            # The source's memory and the destination's, at the same time.
            lab.huge_pages.reserve(2 * config.memory)

    def launch(self, host, **options):
        return self.lab.close_at_end(
            Machine(host, self.config, self.guest, self.lab.qemu, **options))

    def start(self, pager="on", wait=True):
        """Boots the guest; its memory is full of its pattern afterwards."""
        self.machine = self.launch(self.host, pager=pager)
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=240):
        self.guest.wait_word(["READY"], seconds,
                             alive=self.machine.check_alive)
        self.guest.wait_lines(3, alive=self.machine.check_alive)

    def move(self, **options):
        """Moves the VM to the other host and returns the finished Move."""
        move = Move(self, **options)
        move.start()
        move.wait()
        return move

    def other_host(self):
        return next(host for host in self.lab.hosts if host is not self.host)

    def arrived(self, machine):
        """The VM now runs there; the old QEMU goes."""
        self.machine.close()
        self.machine, self.host = machine, machine.host

    def command(self, text, words, seconds=240):
        return self.guest.command(self.machine.serial, text, words, seconds,
                                  self.machine.check_alive)

    def mark(self):
        """The guest's longest gap is counted anew from here."""
        self.command("mark", ["MARKED"])

    def verify(self):
        """Has the guest check all its pages; returns how many, and how many of
        them are zero."""
        answer = self.command("verify", ["VERIFIED", "WRONG"])
        if answer.word == "WRONG" or self.guest.errors():
            bad = [m.text for m in self.guest.messages if m.word == "BAD"]
            raise Failed(f"{self.config.name}: {answer.text}; {bad[:3]}")
        return answer["pages"], answer["zero"]

    def wait_runs(self, lines=2):
        """Waits until the guest has done work and said so."""
        before = self.guest.newest()
        self.guest.wait(lambda _: self.guest.newest()["ops"] > before["ops"],
                        "more work", 60, self.machine.check_alive)
        self.guest.wait_lines(lines, alive=self.machine.check_alive)
