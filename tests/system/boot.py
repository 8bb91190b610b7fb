#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""boot.py PACKAGE: boots a Debian with the package remapd in a VM, where
`inside` looks at its units under systemd; prints its TAP."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))

# pylint: disable=wrong-import-position
from lab.basics import Failed, Process, Refused, stop_on_signals
from lab.machine import (ACCELERATORS, FIRMWARE, KERNEL, check_accelerator,
                         find_qemu)

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", TOP / "build"))
CANNOT = 3
SECONDS = 1500
UNIT = """[Unit]
After=remapd.service
[Service]
Type=oneshot
ExecStart=/test/inside
StandardInput=null
StandardOutput=file:/dev/ttyS1
ExecStopPost=/bin/systemctl --force --force poweroff
"""
USERS = """u qemu - - /test /bin/sh
m qemu remapd-qemu
u operator - - /test /bin/sh
m operator remapd
"""


def root(*arguments):
    done = subprocess.run([HERE / "root", *arguments], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == CANNOT:
        raise Refused(done.stdout.strip())
    if done.returncode:
        raise Failed(f"root {arguments[0]}: {done.stdout[-2000:]}")


def make_image(directory, package):
    tree = directory / "root"
    root("new", tree)
    root("install", tree, package)
    # From here on a systemd runs.
    (tree / "usr/sbin/policy-rc.d").unlink()
    test = tree / "test"
    test.mkdir()
    for file in (HERE / "inside", BUILD / "tests/guestless"):
        shutil.copy(file, test)
    shutil.copy(package, test / "remapd.deb")
    test.chmod(0o777)
    units = tree / "etc/systemd/system"
    (units / "inside.service").write_text(UNIT)
    # Here a call that the sandbox shuts out ends the daemon, and a test fails.
    (units / "remapd.service.d").mkdir()
    (units / "remapd.service.d/strict.conf").write_text(
        "[Service]\nSystemCallErrorNumber=kill\n")
    wants = units / "multi-user.target.wants"
    (wants / "inside.service").symlink_to("../inside.service")
    (tree / "usr/lib/sysusers.d/test.conf").write_text(USERS)
    # The journal is read at the end: none of it may go.
    (tree / "etc/systemd/journald.conf").write_text(
        "[Journal]\nStorage=volatile\nRateLimitBurst=0\n")
    root("cpio", tree, directory / "initramfs")
    shutil.rmtree(tree)
    return directory / "initramfs"


def boot(directory, image):
    accel = "tcg" if check_accelerator("kvm") else "kvm"
    tap = directory / "tap"
    tap.touch()
    machine = Process(
        [find_qemu(), *(word for path in FIRMWARE for word in ("-L", path)),
         "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
         *ACCELERATORS[accel], "-machine", "pc", "-m", "2G", "-smp", "2",
         "-kernel", BUILD / "guest/vmlinuz", "-initrd", image,
         "-append", f"console=ttyS0 rdinit=/lib/systemd/systemd {KERNEL} "
                    "systemd.show_status=1 quiet",
         "-serial", f"file:{directory}/console", "-serial", f"file:{tap}"],
        directory / "qemu")
    deadline = time.monotonic() + SECONDS
    whole = ""
    try:
        with open(tap, encoding="utf-8", errors="replace") as file:
            while "# END" not in whole:
                alive = machine.alive()
                text = file.read()
                whole += text
                print(text, end="", flush=True)
                if not text and (not alive or time.monotonic() > deadline):
                    console = (directory / "console").read_text(
                        errors="replace")
                    raise Failed("the VM did not come to the end: "
                                 f"{machine.output()}{console[-3000:]}")
                time.sleep(0.1)
    finally:
        machine.close()


def main():
    with tempfile.TemporaryDirectory(prefix="remapd-system-") as name:
        directory = pathlib.Path(name)
        try:
            boot(directory, make_image(directory, sys.argv[1]))
        except Refused as reason:
            print(f"ok 1 - systemd # SKIP {reason}")
        except Failed as error:
            print("not ok - the VM")
            print("".join(f"# {line}\n" for line in str(error).splitlines()))
            return 1
    return 0


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
