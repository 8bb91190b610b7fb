#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""confined.py DIR [PART OF A NAME]...: domains that move between two VMs with
Debian's kernel, AppArmor, systemd and libvirt and the packages of DIR, all
installed and set up as remapd-hook(7) says; prints TAP.

What confines a QEMU is switched on and seen to be: its own AppArmor profile,
seccomp, its user, yama. Each right that the project asks for is taken away
once, to see that it is what the migration lives by.
"""

import base64
import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests/vm")]

# pylint: disable=wrong-import-position
from boot import CANNOT, HERE, root
from harness import require, run, show, test
from lab import pki
from lab.basics import (BUILD, Failed, Process, Refused, stop_on_signals,
                        wait_until)
from lab.guest import Guest
from lab.machine import (ACCELERATORS, FIRMWARE, KERNEL, check_accelerator,
                         find_qemu)

DEBS = sorted(pathlib.Path(sys.argv[1]).resolve().glob("*.deb"))
SECONDS = 600 # a host boots within; all in it is emulated twice
QEMU = "/usr/lib/remapd/qemu-system-x86_64"
LINES = "/etc/apparmor.d/remapd.d"
PROFILE = "/etc/apparmor.d/usr.sbin.libvirtd"
CONNECT = "/run/remapd/qemu.sock"
DEVICE = "/dev/userfaultfd"
HOSTS = []

# A shell for the test on ttyS1: a line in is a script, a line out its result.
SHELL = r"""#!/bin/bash
exec < /dev/ttyS1 > /dev/ttyS1
stty raw -echo
word() { sed -n "s/.*\<test\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
for module in $(cat /test/modules/order); do insmod /test/modules/$module; done
hostname "host-$(word letter)"
ip address add "192.0.2.$(word number)/24" dev eth0
ip link set eth0 up
echo READY
while read -r line; do
    base64 -d <<< "$line" > /run/script
    timeout 280 bash /run/script > /run/said 2>&1 < /dev/null
    echo "$? $(base64 -w 0 /run/said)"
done
"""
UNIT = """[Unit]
After=libvirtd.service apparmor.service remapd.service
Wants=libvirtd-tcp.socket
[Service]
ExecStart=/bin/bash /test/shell
"""
LIBVIRTD_CONF = 'listen_tcp = 1\nauth_tcp = "none"\n'
# What remapd-hook(7) asks the operator for, and the sandbox for certain.
QEMU_CONF = """security_driver = "apparmor"
seccomp_sandbox = 1
cgroup_device_acl = [
    "/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom",
    "/dev/ptmx", "/dev/userfaultfd"
]
"""
DOMAIN = """<domain type='qemu'>
  <name>confined</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/var/lib/libvirt/images/tiny.elf</kernel></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/lib/remapd/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='dev'><source path='/dev/ttyS0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
START = ("virsh -q define /domain.xml && remapd-domain required confined && "
         "virsh -q start confined")


def install_certificates(directory, tree):
    """One for both hosts, where libvirt has its own."""
    authority = pki.Authority(directory)
    names = [f"host-{letter}" for letter in "ab"] + ["192.0.2.1", "192.0.2.2"]
    cert, key = authority.issue("hosts", names)
    place = tree / "etc/pki"
    (place / "CA").mkdir(parents=True, exist_ok=True)
    (place / "libvirt/private").mkdir(parents=True, exist_ok=True)
    shutil.copy(authority.file, place / "CA/cacert.pem")
    for role in "server", "client":
        shutil.copy(cert, place / f"libvirt/{role}cert.pem")
        shutil.copy(key, place / f"libvirt/private/{role}key.pem")


def make_image(directory):
    tree = directory / "root"
    root("new", tree)
    root("install", tree, *DEBS, "libvirt-daemon-system", "libvirt-clients",
         "apparmor", "iproute2")
    # From here on a systemd runs.
    (tree / "usr/sbin/policy-rc.d").unlink()
    test_files = tree / "test"
    test_files.mkdir()
    (test_files / "shell").write_text(SHELL)
    modules = subprocess.run(["make", "-s", "--no-print-directory", "-C", TOP,
                              "guest-modules"],
                             check=True, capture_output=True, text=True)
    shutil.copytree(modules.stdout.strip(), test_files / "modules")
    images = tree / "var/lib/libvirt/images"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUILD / "guest/tiny.elf", images)
    etc = tree / "etc"
    with open(etc / "hosts", "a", encoding="ascii") as hosts:
        hosts.write("192.0.2.1 host-a\n192.0.2.2 host-b\n")
    for name, text in (("libvirtd", LIBVIRTD_CONF), ("qemu", QEMU_CONF)):
        with open(etc / f"libvirt/{name}.conf", "a", encoding="ascii") as conf:
            conf.write(text)
    install_certificates(directory, tree)
    (tree / "domain.xml").write_text(DOMAIN)
    units = etc / "systemd/system"
    (units / "shell.service").write_text(UNIT)
    (units / "multi-user.target.wants/shell.service").symlink_to(
        "../shell.service")
    (etc / "systemd/journald.conf").write_text(
        "[Journal]\nStorage=volatile\nRateLimitBurst=0\n")
    root("cpio", tree, directory / "initramfs")
    shutil.rmtree(tree)
    return directory / "initramfs"


class Host:
    """One of the VMs."""

    def __init__(self, directory, image, number):
        self.letter = "ab"[number - 1]
        self.uri = f"qemu+tcp://host-{self.letter}/system"
        self.place = directory / self.letter
        wire = directory / "wire"
        accel = "tcg" if check_accelerator("kvm") else "kvm"
        ports = []
        for port, what in enumerate(("guest", "shell")):
            ports += ["-chardev", f"socket,id={what},path={self.place}.{what},"
                      "server=on,wait=off", "-device",
                      f"isa-serial,chardev={what},index={port}"]
        self.machine = Process(
            [find_qemu(), *(word for path in FIRMWARE for word in ("-L", path)),
             "-nodefaults", "-no-user-config", "-no-reboot", "-display",
             "none", *ACCELERATORS[accel], "-machine", "pc", "-m", "3G",
             "-uuid", f"00000000-0000-4000-8000-00000000000{number}",
             "-kernel", BUILD / "guest/vmlinuz", "-initrd", image,
             # The guest's own port is left to it: the console is another's.
             "-append", f"console=ttyS2 rdinit=/lib/systemd/systemd {KERNEL} "
             "net.ifnames=0 systemd.show_status=0 quiet "
             f"test.letter={self.letter} test.number={number}", *ports,
             "-chardev", f"file,id=console,path={self.place}.console",
             "-device", "isa-serial,chardev=console,index=2",
             "-netdev", f"stream,id=wire,server={'on' if number == 1 else 'off'}"
             f",addr.type=unix,addr.path={wire}", "-device",
             f"virtio-net-pci,netdev=wire,mac=52:54:00:00:00:0{number}"],
            f"{self.place}.qemu")
        wait_until(pathlib.Path(f"{self.place}.shell").exists, "QEMU runs", 60)
        if number == 1:
            wait_until(wire.exists, "QEMU listens", 60)
        self.shell = socket.socket(socket.AF_UNIX)
        self.shell.connect(f"{self.place}.shell")
        self.answers = self.shell.makefile("r")

    def wait(self):
        self.shell.settimeout(SECONDS)
        try:
            for line in self.answers:
                if line.strip().endswith("READY"):
                    return
        except TimeoutError:
            pass
        console = pathlib.Path(f"{self.place}.console").read_text(
            errors="replace")
        raise Failed(f"host {self.letter} does not come up: "
                     f"{self.machine.output()}{console[-3000:]}")

    def call(self, script):
        """Runs a script there; returns how it ended and what it said."""
        self.shell.sendall(base64.b64encode(script.encode()) + b"\n")
        code, _, said = self.answers.readline().strip().partition(" ")
        return int(code), base64.b64decode(said).decode(errors="replace")

    def __call__(self, script):
        """Runs one that must succeed; returns what it said."""
        code, said = self.call(script)
        require(code == 0, f"host {self.letter}: `{script}` ended with {code}: "
                f"{said}")
        return said.strip()

    def denied(self):
        """What AppArmor has refused since the last time."""
        return self("journalctl -q --sync; journalctl -q -k -o cat "
                    "--cursor-file=/run/denied | grep DENIED || true")

    def close(self):
        self.machine.close()


class Domain:
    """The domain, at the first host, until the end of a `with`."""

    def __enter__(self):
        self.here, self.there = HOSTS
        for host in HOSTS:
            host.denied()
        self.guest = Guest()
        self.ports = {host: self.guest.listen(f"{host.place}.guest")
                      for host in HOSTS}
        self.here(START)
        self.guest.wait_word(["READY"], 200)
        self.guest.wait_lines(2, 100)
        return self

    def __exit__(self, kind, error, _):
        if kind and not issubclass(kind, Exception):
            return # on a signal; the hosts end with it
        if kind is Failed:
            error.args = (f"{error}\n{self.logs()}",)
        for host in HOSTS:
            host("virsh -q destroy confined; virsh -q undefine confined; true")
        for port in self.ports.values():
            port.close()

    def logs(self):
        return "".join(f"host {host.letter}:\n" + host(
            "tail -n 15 /var/log/libvirt/qemu/confined.log; for of in "
            "'-u remapd' '-u libvirtd' '-t remapd-hook'; do "
            "journalctl -q -n 15 -o cat $of; done; journalctl -q -k -o "
            "cat | grep DENIED | tail -n 10") + "\n" for host in HOSTS)

    def migrate(self):
        """Returns how virsh ended and what it said."""
        # Pre-copy alone is not to get there while one page is dirty.
        code, said = self.here.call(
            "virsh -q migrate-setmaxdowntime confined 1\n"
            "virsh -q qemu-monitor-command confined '{\"execute\": "
            "\"migrate-set-parameters\", \"arguments\": "
            "{\"avail-switchover-bandwidth\": 1000000}}' > /dev/null\n"
            "virsh -q migrate --live --postcopy --postcopy-after-precopy "
            f"--bandwidth 64 confined {self.there.uri}")
        if not code:
            self.here, self.there = self.there, self.here
        return code, said

    def confinement(self):
        """{what confines its QEMU: how}"""
        text = self.here(
            "pid=$(cat /run/libvirt/qemu/confined.pid)\n"
            "echo profile $(cat /proc/$pid/attr/current)\n"
            "echo uid $(stat -c %U /proc/$pid)\n"
            "echo seccomp $(sed -n 's/Seccomp:\t//p' /proc/$pid/status)\n"
            "echo sandbox $(tr '\\0' '\\n' < /proc/$pid/cmdline |"
            " grep -A1 -x -- -sandbox | tail -1)")
        return dict(line.split(" ", 1) for line in text.splitlines())

    def verify(self):
        self.guest.wait_lines(2, 100)
        answer = self.guest.command(self.ports[self.here], "verify",
                                    ["VERIFIED", "WRONG"], 200)
        require(answer.word == "VERIFIED", answer.text)

    def require_confined(self):
        found = self.confinement()
        require(re.fullmatch(r"libvirt-[0-9a-f-]{36} \(enforce\)",
                             found["profile"]) and found["seccomp"] == "2" and
                found["uid"] == "libvirt-qemu" and
                found["sandbox"].startswith("on,"), str(found))
        return found

    def require_stays(self):
        require(self.here("virsh -q domstate confined") == "running",
                "it does not run")
        require(self.there.call("virsh -q domstate confined")[0],
                "the destination has it")
        self.verify()


@contextlib.contextmanager
def without(host, file, line):
    """That host without one of the project's lines for AppArmor."""
    host(f"cp {LINES}/{file} /run/saved && grep -vF '{line} ' /run/saved > "
         f"{LINES}/{file} && ! cmp -s /run/saved {LINES}/{file}"
         f" && apparmor_parser -r {PROFILE}")
    try:
        yield
    finally:
        host(f"cp /run/saved {LINES}/{file} && apparmor_parser -r {PROFILE}")


@test
def libvirtd_is_confined_and_so_is_who_it_starts():
    for host in HOSTS:
        profile = host("cat /proc/$(pidof libvirtd)/attr/current")
        require(profile == "libvirtd (enforce)", profile)
        require(host("cat /proc/sys/vm/unprivileged_userfaultfd") == "0",
                "userfaultfd is anybody's, whatever the device's rights")
        require(host(f"stat -c '%G %a' {DEVICE}") == "remapd-qemu 660", DEVICE)
        show(f"host {host.letter}", host("uname -r; aa-status --verbose | "
             "grep -A3 -E 'profiles are in enforce|processes are in enforce'"))


@test
def a_confined_domain_moves_there_and_back():
    with Domain() as vm:
        for way in "there", "back":
            source = vm.here
            before = vm.require_confined()
            code, said = vm.migrate()
            require(code == 0, said)
            require(vm.require_confined() == before, "it is confined otherwise")
            vm.verify()
            for host, role in (source, "source"), (vm.here, "destination"):
                report = host(f"cat $(ls -t /var/log/remapd/*-{role}.json |"
                              " head -1)")
                require('"complete"' in report, report)
            show(f"{way}: the QEMU that arrived",
                 "\n".join(f"{k}: {v}" for k, v in before.items()))
        for host in HOSTS:
            denied = host.denied()
            show(f"denied at host {host.letter}", denied or "nothing")
            require("remapd" not in denied and "userfaultfd" not in denied,
                    denied)


@test
def without_libvirtds_line_it_cannot_start_the_program():
    with without(HOSTS[0], "usr.sbin.libvirtd", QEMU):
        HOSTS[0].denied()
        code, said = HOSTS[0].call(
            "rm -rf /var/cache/libvirt/qemu/*; systemctl restart libvirtd; "
            + START)
        denied = HOSTS[0].denied()
        HOSTS[0]("virsh -q undefine confined; true")
    HOSTS[0]("rm -rf /var/cache/libvirt/qemu/*; systemctl restart libvirtd")
    show("virsh", said)
    show("denied", denied)
    require(code and QEMU in denied, f"it started: {said}")


@test
def without_the_programs_line_no_domain_starts():
    with without(HOSTS[0], "libvirt-qemu", QEMU):
        HOSTS[0].denied()
        code, said = HOSTS[0].call(START)
        denied = HOSTS[0].denied()
        HOSTS[0]("virsh -q destroy confined; virsh -q undefine confined; true")
    show("virsh", said)
    show("denied", denied)
    require(code and QEMU in denied, f"it started: {said}")


@test
def without_the_devices_line_no_postcopy_arrives():
    with Domain() as vm, without(vm.there, "libvirt-qemu", DEVICE):
        code, said = vm.migrate()
        denied = HOSTS[1].denied()
        show("virsh", said)
        show("denied", denied)
        require(code and DEVICE in denied, f"it moved: {said}")
        vm.require_stays()


@test
def without_the_sockets_line_it_depends_on_the_kernel():
    """Only a kernel that mediates UNIX sockets finely looks at the path that
    one is connected to; Debian's do not."""
    fine, _ = HOSTS[1].call("find /sys/kernel/security/apparmor/features "
                            "-name '*unix' | grep .")
    with Domain() as vm, without(vm.there, "libvirt-qemu", CONNECT):
        code, said = vm.migrate()
        show("AppArmor here", "knows UNIX sockets" if fine == 0 else
             "does not look at who connects to a UNIX socket")
        show("virsh", said or "moved")
        if fine == 0:
            require(code and CONNECT in vm.there.denied(), said)
        else:
            require(code == 0, said)


@test
def with_ptrace_scope_2_it_moves_and_with_3_it_stays():
    """3 cannot be taken back: the last test."""
    with Domain() as vm:
        vm.here("echo 2 > /proc/sys/kernel/yama/ptrace_scope")
        code, said = vm.migrate()
        require(code == 0, said)
        vm.verify()
    with Domain() as vm:
        vm.here("echo 3 > /proc/sys/kernel/yama/ptrace_scope")
        code, said = vm.migrate()
        show("virsh, with ptrace_scope 3 at the source", said)
        require(code and "migration-pager" in said, said)
        vm.require_stays()


def main():
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix="remapd-confined-")))
        try:
            image = make_image(directory)
            for number in 1, 2:
                HOSTS.append(Host(directory, image, number))
                stack.callback(HOSTS[-1].close)
            for host in HOSTS:
                host.wait()
        except Refused as reason:
            print(f"ok 1 - confined # SKIP {reason}")
            return 0
        except Failed as error:
            print("not ok - the hosts")
            print("".join(f"# {line}\n" for line in str(error).splitlines()))
            return 1
        return run(sys.argv[2:])


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
