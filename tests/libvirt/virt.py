# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirt on each of the lab's hosts, and domains that move between them.

Each host gets a mount and a UTS namespace besides its network: its own /etc,
/run and state of libvirt, so that nothing here meets a libvirt of the machine.
All of it lies below the lab's directory and goes with it.
"""

import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import uuid
from xml.sax.saxutils import escape, quoteattr

from lab import Failed, Lab, wait_until
from lab.basics import BUILD, TOP, Process
from lab.guest import Guest
from lab.machine import find_qemu

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = "libvirt-qemu"
# libvirt wants the emulator that a domain comes with to be there, whatever the
# hook makes of it: both hosts have both, and each has its own for the hook.
QEMUS = ("qemu-a", "qemu-b")
HUGE_MOUNT = "/run/huge"
GUEST_KERNEL = "/run/guest/tiny.elf"
STATE = {"/etc": "etc", "/run": "run", "/var/lib/libvirt": "lib",
         "/var/cache/libvirt": "cache", "/var/log/libvirt": "log"}

# A small /dev, in which QEMU's user may use userfaultfd, and the host's hook
# finds the test's log.
DEV = f"""
mount -t tmpfs -o mode=755 none /mnt
cp -a /dev/full /dev/null /dev/random /dev/tty /dev/urandom /dev/zero /mnt
cp -a /dev/userfaultfd /mnt
chgrp {USER} /mnt/userfaultfd
chmod 660 /mnt/userfaultfd
mkdir -m 1777 /mnt/shm
mkdir /mnt/pts
mount --bind /dev/pts /mnt/pts
while umount --recursive --lazy /dev 2>&1; do :; done
ln -s pts/ptmx /mnt/ptmx
ln -s /proc/self/fd /mnt/fd
ln -s /run/log.socket /mnt/log
mount --move /mnt /dev
"""

# $LIBVIRT is where another libvirt's packages were unpacked; the drivers of
# the installed one would not fit.
OVERLAY = """
mount -t overlay -o lowerdir=$LIBVIRT/usr:/usr none /usr
drivers=/usr/lib/$(uname -m)-linux-gnu/libvirt
mount --bind $LIBVIRT$drivers $drivers
""" if os.environ.get("LIBVIRT") else ""

LIBVIRTD_CONF = """
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
"""

QEMU_CONF = """
migration_host = "{address}"
hugetlbfs_mount = "{huge}"
remember_owner = 0
cgroup_device_acl = [
    "/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom",
    "/dev/ptmx", "/dev/userfaultfd"
]
"""

MEBIBYTES = 64
BANDWIDTH = 64 # MiB/s of pre-copy: a round takes a second
SLOW = 2 # a round takes half a minute

MEMORY = {
    "anon": "",
    "memfd": "<source type='memfd'/><access mode='shared'/>",
    "hugepages": "<hugepages/>",
}


class Libvirt:
    """The libvirt of one host."""

    def __init__(self, host, stack):
        self.host = host
        self.uri = f"qemu+tcp://{host.address}/system"
        self.emulator = f"/run/qemu-{host.letter}/qemu-system-x86_64"
        self._install()
        mounts = [DEV, OVERLAY] + [f"mount --bind {host.directory / name} {place}"
                  for place, name in STATE.items()]
        mounts += [f"mount --bind {pathlib.Path(find_qemu()).parent} "
                   f"/run/{name}" for name in QEMUS]
        mounts += [f"mount -t hugetlbfs none {HUGE_MOUNT}",
                   f"hostname host-{host.letter}", "touch /run/ready"]
        self.holder = host.spawn(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sh",
             "-ec", "\n".join(mounts + ["exec sleep infinity"])], "holder")
        stack.callback(self.holder.close)
        wait_until(lambda: self.holder.check_alive() or
                   self.inside("/run/ready").exists(), "the host is ready")
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(self.inside("/run/log.socket")))
        stack.callback(self.log.close)
        self.daemons = [self.spawn(["virtlogd"], "virtlogd"),
                        self.spawn(["libvirtd", "--listen"], "libvirtd")]
        for daemon in self.daemons:
            stack.callback(daemon.close)
        wait_until(self._ready, "libvirtd answers", 60, 0.1)

    def _install(self):
        directory = self.host.directory
        for name in STATE.values():
            (directory / name).mkdir()
        shutil.copytree("/etc", directory / "etc", symlinks=True,
                        dirs_exist_ok=True,
                        ignore=lambda place, _: ["libvirt", "remapd"]
                        if place == "/etc" else [])
        hook = directory / "etc/libvirt/hooks/qemu.d/remapd"
        hook.parent.mkdir(parents=True)
        shutil.copy(TOP / "libvirt/hook", hook)
        etc = directory / "etc"
        with open(etc / "hosts", "a", encoding="ascii") as file:
            file.write(f"\n{self.host.address} host-{self.host.letter}\n")
        (etc / "libvirt/libvirtd.conf").write_text(
            LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
        (etc / "libvirt/qemu.conf").write_text(
            QEMU_CONF.format(address=self.host.address, huge=HUGE_MOUNT))
        (etc / "remapd").mkdir()
        (etc / "remapd/remapd.conf").write_text(
            f"handoff = {directory / 'handoff'}\n")
        self.configure()
        for name in (*QEMUS, "guest", "serial", "huge"):
            (directory / "run" / name).mkdir()
        shutil.copy(BUILD / "guest/tiny.elf", directory / "run/guest")
        shutil.chown(directory / "run/serial", USER)

    def configure(self, **options):
        """Writes hook.conf."""
        options = {"emulator": self.emulator, **options}
        (self.host.directory / "etc/remapd/hook.conf").write_text(
            "".join(f"{name} = {value}\n" for name, value in options.items()))

    def inside(self, path):
        """Where a file below this host's /run is for the test."""
        return self.host.directory / path.lstrip("/")

    def enter(self, *command):
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--uts",
                "--net", "env", f"PATH={TOP}/libvirt:{PATH}",
                *map(str, command)]

    def spawn(self, command, name):
        return Process(self.enter(*command), self.host.directory / f"{name}.log")

    def call(self, *command, stdin=""):
        """Runs a command on this host and returns what came of it."""
        return subprocess.run(self.enter(*command), input=stdin, text=True,
                              capture_output=True, check=False, timeout=300)

    def virsh(self, *arguments):
        """virsh with a command that must succeed; returns what it printed."""
        done = self.call("virsh", "-q", *arguments)
        if done.returncode:
            raise Failed(f"virsh {' '.join(map(str, arguments))}: "
                         f"{done.stderr.strip()}")
        return done.stdout.strip()

    def syslog(self):
        """What was logged on this host since the last time."""
        lines = []
        while select.select([self.log], [], [], 0)[0]:
            lines.append(self.log.recv(65536).decode(errors="replace"))
        return "\n".join(lines)

    def _ready(self):
        for daemon in self.daemons:
            daemon.check_alive()
        return self.call("virsh", "-q", "uri").returncode == 0


class VirtLab(Lab):
    """`Lab`, whose hosts have a libvirt each."""

    def _build(self):
        super()._build()
        self.libvirts = []
        for directory in (self.directory, *(h.directory for h in self.hosts)):
            directory.chmod(0o755)
        for host in self.hosts:
            self.libvirts.append(Libvirt(host, self.stack))

    def domain(self, name, **config):
        return Domain(self, name, **config)


class Domain:
    """A domain that runs the tiny guest; `here` and `there` are the libvirts
    that have it and that have not."""

    def __init__(self, lab, name, memory="anon", metadata="", at=0):
        self.name = name
        self.here, self.there = lab.libvirts[at], lab.libvirts[1 - at]
        self.guest = Guest()
        self.serial = f"/run/serial/{name}"
        self.port = None
        if memory == "hugepages":
            # Both QEMUs' at once.
            lab.huge_pages.reserve(2 * MEBIBYTES << 20)
        self.define(f"""
<domain type='qemu'>
  <name>{escape(name)}</name>
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>{MEBIBYTES}</memory>
  <memoryBacking>{MEMORY[memory]}</memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{GUEST_KERNEL}</kernel>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{self.here.emulator}</emulator>
    <controller type='usb' model='none'/>
    <serial type='unix'>
      <source mode='bind' path={quoteattr(self.serial)}/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
""")

    def define(self, xml):
        self.here.inside("/run/domain.xml").write_text(xml)
        self.here.virsh("define", "/run/domain.xml")

    def mode(self, mode):
        """remapd-domain; returns what it said."""
        done = self.here.call("remapd-domain", mode, self.name)
        if done.returncode:
            raise Failed(f"remapd-domain {mode}: {done.stderr}")
        return done.stdout

    def start(self):
        # What it says while nobody listens is lost.
        self.here.virsh("start", "--paused", self.name)
        self.listen(self.here)
        self.here.virsh("resume", self.name)
        self.guest.wait_word(["READY"], 120)
        self.guest.wait_lines(3)

    def listen(self, libvirt):
        socket = libvirt.inside(self.serial)

        def connected():
            try:
                return self.guest.listen(socket)
            except (FileNotFoundError, ConnectionRefusedError):
                return None
        self.port = wait_until(connected, f"{socket} answers", 60)

    def begin(self, *options, bandwidth=BANDWIDTH):
        """Starts `virsh migrate --live --postcopy` and returns its process."""
        self.there.inside(self.serial).unlink(missing_ok=True)
        self.known_reports = {
            libvirt: libvirt.host.remapd.known_reports()
            for libvirt in (self.here, self.there)}
        # Pre-copy alone is not to get there while one page is dirty.
        self.here.virsh("migrate-setmaxdowntime", self.name, 1)
        self.here.virsh("qemu-monitor-command", self.name, json.dumps({
            "execute": "migrate-set-parameters",
            "arguments": {"avail-switchover-bandwidth": 10**6}}))
        log = f"migrate-{self.name}"
        (self.here.host.directory / f"{log}.log").unlink(missing_ok=True)
        return self.here.spawn(
            ["virsh", "-q", "migrate", "--live", "--postcopy", "--bandwidth",
             bandwidth, *options, self.name, self.there.uri],
            log)

    def resume(self):
        """Starts `virsh migrate --postcopy-resume` and returns its process."""
        return self.here.spawn(
            ["virsh", "-q", "migrate", "--live", "--postcopy",
             "--postcopy-resume", self.name, self.there.uri],
            f"resume-{self.name}")

    def wait_precopy(self):
        """Waits until a migration has begun to send."""
        wait_until(lambda: re.search(r"Memory processed: +[1-9]",
                                     self.here.virsh("domjobinfo", self.name)),
                   "domjobinfo shows pre-copy", 120, 0.1)

    def end(self, process):
        """Waits for the end of a migration that must succeed."""
        old = self.port
        try:
            wait_until(lambda: not process.alive() or
                       self.there.inside(self.serial).exists(),
                       "the destination has the domain", 300)
            # It may have ended already: then it must have succeeded.
            if process.alive() or not process.child.returncode:
                self.listen(self.there)
            wait_until(lambda: not process.alive(), "virsh ends", 180)
        finally:
            process.close()
        if process.child.returncode:
            self.port = old
            raise Failed(process.output().strip())
        self.here, self.there = self.there, self.here

    def migrate(self, *options, **how):
        self.end(self.begin(*options, **how))

    def refused(self, *options):
        """A migration that must fail; returns what virsh said."""
        try:
            self.migrate(*options)
        except Failed as error:
            return str(error)
        raise Failed("the migration succeeded")

    def state(self, libvirt):
        done = libvirt.call("virsh", "-q", "domstate", self.name)
        return done.stdout.strip() or "none"

    def verify(self):
        """The guest runs here, and all its pages are right."""
        self.guest.wait_lines(2)
        answer = self.guest.command(self.port, "verify", ["VERIFIED", "WRONG"],
                                    120)
        ready = next(m for m in self.guest.messages if m.word == "READY")
        if (answer.word == "WRONG" or self.guest.errors() or
                answer["pages"] != ready["pages"]):
            raise Failed(f"{self.name}: {answer.text}, {ready.text}")

    def report(self, role):
        libvirt = self.there if role == "source" else self.here
        return libvirt.host.remapd.report(role, self.name,
                                          self.known_reports[libvirt])

    def qemu_log(self, libvirt):
        return (libvirt.host.directory / f"log/qemu/{self.name}.log").read_text()

    def logs(self):
        """The ends of all logs that may say why it failed."""
        text = ""
        for host in (self.here.host, self.there.host):
            for log in (f"log/qemu/{self.name}.log", "remapd.log",
                        "libvirtd.log"):
                file = host.directory / log
                lines = file.read_text().splitlines() if file.exists() else []
                text += f"{host.letter}/{log}:\n" + "\n".join(lines[-8:]) + "\n"
        return text

    def pid(self):
        return int(self.here.inside(
            f"/run/libvirt/qemu/{self.name}.pid").read_text())

    def close(self):
        for libvirt in (self.here, self.there):
            libvirt.call("virsh", "-q", "destroy", self.name)
            libvirt.call("virsh", "-q", "undefine", "--managed-save", self.name)
