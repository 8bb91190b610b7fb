#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""remapd under libvirt: domains move between two real libvirtd, each on a host
of its own, with the hook on both.

run.py [PART OF A NAME]...   runs the tests that have one of these, or all
LIBVIRT=DIR                  another libvirt, its packages unpacked there
"""

import contextlib
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from xml.etree.ElementTree import canonicalize

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]),
                str(pathlib.Path(__file__).resolve().parents[1] / "vm")]

# pylint: disable=wrong-import-position
from harness import Skip, require, run, test
from lab import Failed, wait_until
from lab.basics import TOP, stop_on_signals
from lab.daemon import Remapd
from virt import DEV, PATH, SLOW, USER, VirtLab

AFTER_PRECOPY = "--postcopy-after-precopy"
ON = "<remapd:pager xmlns:remapd='urn:remapd:domain:1' mode='on'/>"
LAB = None


@contextlib.contextmanager
def domain(name, mode=None, start=True, **config):
    """A domain at the first host; `mode` is what remapd-domain is told before
    it starts."""
    for libvirt in LAB.libvirts:
        libvirt.configure()
        libvirt.syslog()
    the_domain = LAB.domain(name, **config)
    try:
        if mode:
            the_domain.mode(mode)
        if start:
            the_domain.start()
        yield the_domain
    except Failed as error:
        raise Failed(f"{error}\n{the_domain.logs()}") from None
    finally:
        the_domain.close()


@contextlib.contextmanager
def no_remapd(host):
    host.remapd.close()
    try:
        yield
    finally:
        LAB.start_remapd(host)


def require_in(part, text):
    require(part in text, f"`{part}` is not in: {text}")


def require_moved(vm):
    """It runs at one host only, and is whole."""
    require(vm.state(vm.here) == "running", f"here: {vm.state(vm.here)}")
    require(vm.state(vm.there) in ("none", "shut off"),
            f"there: {vm.state(vm.there)}")
    vm.verify()


def require_carried(vm):
    """remapd carried it, all of it."""
    for role in ("source", "destination"):
        report = vm.report(role)
        require(report["state"] == "complete" and not report["error"] and
                not report["pages"]["left"], f"{role}: {report}")
        require(report["pages"]["total"] > 1000, f"{role}: {report['pages']}")
    require_moved(vm)


def require_stays(vm):
    require(vm.state(vm.here) == "running", f"here: {vm.state(vm.here)}")
    require(vm.state(vm.there) == "none", f"there: {vm.state(vm.there)}")
    vm.verify()


# ---- moving ----

@test(case=("anon_direct", "anon_p2p", "memfd_p2p", "hugepages_direct"))
def moves(case):
    memory, way = case.split("_")
    with domain(f"moves-{case}", "required", memory=memory) as vm:
        require_confined(vm)
        vm.migrate(AFTER_PRECOPY, *(["--p2p"] if way == "p2p" else []))
        require_confined(vm)
        require_carried(vm)


def require_confined(vm):
    """Its QEMU is no root's and under seccomp, as libvirt runs it."""
    status = pathlib.Path(f"/proc/{vm.pid()}/status").read_text()
    uid = re.search(r"(?m)^Uid:\s+(\d+)", status)[1]
    require(uid == str(pwd.getpwnam(USER).pw_uid), f"QEMU is user {uid}'s")
    require(re.search(r"(?m)^Seccomp:\s+2$", status), "QEMU has no seccomp")


@test
def moves_there_and_back():
    """With the configuration too: the way back finds it."""
    keep = (AFTER_PRECOPY, "--persistent", "--undefinesource")
    with domain("back", "on") as vm:
        vm.migrate(*keep)
        require_carried(vm)
        require(vm.state(vm.there) == "none", "the source knows it still")
        vm.migrate("--p2p", *keep)
        require_carried(vm)
        require(vm.here is LAB.libvirts[0], "it did not come back")


@test
def switches_when_told():
    """virsh migrate-postcopy, with domjobinfo before and after."""
    with domain("told", "required") as vm:
        process = vm.begin(bandwidth=SLOW)
        wait_until(lambda: re.search(r"Memory processed: +[1-9]",
                                     vm.here.virsh("domjobinfo", vm.name)),
                   "domjobinfo shows pre-copy", 60, 0.1)
        vm.here.virsh("migrate-postcopy", vm.name)
        vm.end(process)
        require_carried(vm)
        done = vm.there.virsh("domjobinfo", vm.name, "--completed")
        require(re.search(r"Job type: +Completed", done) and
                re.search(r"Total downtime: +\d", done), done)


@test
def switches_when_time_is_up():
    with domain("timeout", "required") as vm:
        # It counts from before libvirt has started the destination's QEMU,
        # and virsh does not try twice.
        vm.migrate("--timeout", "10", "--timeout-postcopy",
                   bandwidth=SLOW)
        require_carried(vm)


@test
def aborted_before_the_switchover_runs_on():
    with domain("aborted", "required") as vm:
        process = vm.begin(bandwidth=SLOW)
        wait_until(lambda: re.search(r"Memory processed: +[1-9]",
                                     vm.here.virsh("domjobinfo", vm.name)),
                   "domjobinfo shows pre-copy", 60, 0.1)
        vm.here.virsh("domjobabort", vm.name)
        wait_until(lambda: not process.alive(), "virsh ends", 60)
        require(process.child.returncode, "the migration succeeded")
        require_in("canceled by client", process.output())
        require_stays(vm)
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


# ---- the hook ----

def hooked(libvirt, name, operation, xml, code=0):
    """What the hook of a host makes of XML, and what it says."""
    done = libvirt.call("/etc/libvirt/hooks/qemu.d/remapd", name, operation,
                        "begin", "-", stdin=xml)
    require(done.returncode == code, f"{operation}: the hook ended with "
            f"{done.returncode}: {done.stderr}")
    return done.stdout, done.stderr


def shown(vm):
    return vm.here.virsh("dumpxml", "--inactive", "--migratable", vm.name)


def pagers(xml):
    return re.findall(r"migration-pager,[^'\"]*", xml)


@test
def hook_gives_an_incoming_domain_this_hosts_qemu_and_remapd():
    other = "<other:thing xmlns:other='urn:other'>a &lt; b</other:thing>"
    with domain("given", start=False, metadata=ON + other) as vm:
        before = shown(vm)
        require(not pagers(before), "it has a pager already")
        after, said = hooked(vm.there, vm.name, "migrate", before)
        require(not said, said)
        require_in(f"<emulator>{vm.there.emulator}</emulator>", after)
        require(pagers(after) == ["migration-pager,id=pager0,path="
                f"{vm.there.host.directory}/handoff,required=off"], after)
        for kept in ('<other:thing xmlns:other="urn:other">a &lt; b</', ON):
            require_in(kept.replace("'", '"'), after)
        again, _ = hooked(vm.there, vm.name, "migrate", after)
        require(canonicalize(again) == canonicalize(after), f"twice, it makes of {after}: {again}")


@test
def hook_leaves_alone_what_it_is_not_asked_for():
    with domain("alone", start=False) as vm:
        xml = shown(vm)
        for default, found in (("auto", 0), ("off", 0), ("on", 1),
                               ("required", 1)):
            vm.there.configure(default=default)
            after, said = hooked(vm.there, vm.name, "migrate", xml)
            require(len(pagers(after)) == found and bool(after) == bool(found)
                    and not said, f"{default}: {after}{said}")
        # The domain's own word counts more than the host's.
        own = xml.replace("<metadata/>", "").replace(
            "</uuid>", "</uuid><metadata>" + ON.replace("'on'", "'off'")
            + "</metadata>")
        require(hooked(vm.there, vm.name, "migrate", own) == ("", ""),
                "it opted out")
        arm = xml.replace("arch='x86_64'", "arch='aarch64'")
        _, said = hooked(vm.there, vm.name, "migrate", arm, code=1)
        require_in("x86-64 only", said)
        for operation in ("start", "started", "stopped", "release",
                          "reconnect", "attach"):
            require(hooked(vm.there, vm.name, operation, xml) == ("", ""),
                    f"{operation}: it did something")


@test
def hook_takes_the_pager_from_who_opts_out():
    with domain("optout", "required", start=False) as vm:
        vm.mode("off")
        require(not pagers(shown(vm)), shown(vm))
        vm.mode("on")
        xml = shown(vm).replace('mode="on"', 'mode="off"')
        after, _ = hooked(vm.there, vm.name, "migrate", xml)
        require(after and not pagers(after), after)


@test
def hook_refuses_what_it_cannot_read():
    with domain("unread", start=False, metadata=ON) as vm:
        xml = shown(vm)
        for wrong, reason in (
                ("", "no XML"), (xml[:200], "no XML"),
                ("<network><name>x</name></network>", "<network>"),
                ("<domain/>", "without a <name>"),
                (xml.replace('mode="on"', 'mode="maybe"'), "mode='maybe'")):
            _, said = hooked(vm.there, vm.name, "migrate", wrong, code=1)
            require_in(reason, said)
            require(len(said.splitlines()) == 1, said)
        vm.there.configure(defualt="on")
        _, said = hooked(vm.there, vm.name, "migrate", xml, code=1)
        require_in("hook.conf: defualt", said)
        vm.there.configure(default="yes")
        _, said = hooked(vm.there, vm.name, "migrate", xml, code=1)
        require_in("auto, off, on, required", said)


@test
def hook_that_fails_stops_the_migration_with_its_words():
    with domain("wrong", "on") as vm:
        vm.here.virsh("metadata", vm.name, "--live", "--uri",
                      "urn:remapd:domain:1", "--key", "remapd", "--set",
                      "<pager mode='maybe'/>")
        said = vm.refused(AFTER_PRECOPY)
        require_in("Hook script execution failed", said)
        require_in("mode='maybe'", said)
        require_stays(vm)


@test
def hook_run_twice_is_as_once():
    with domain("twice", "required") as vm:
        hooks = vm.there.host.directory / "etc/libvirt/hooks"
        copies = [hooks / "qemu", hooks / "qemu.d/again"]
        try:
            for copy in copies:
                shutil.copy(hooks / "qemu.d/remapd", copy)
            vm.migrate(AFTER_PRECOPY)
        finally:
            for copy in copies:
                copy.unlink(missing_ok=True)
        found = pagers(vm.here.virsh("dumpxml", vm.name))
        require(len(found) == 1, f"it has {found}")
        require_carried(vm)


@test
def hook_and_tool_do_not_know_a_domain_that_is_not_there():
    """The hook has all it needs in the XML; the tool says what virsh says."""
    here, there = LAB.libvirts
    there.configure()
    xml = "<domain type='kvm'><name>nobody</name><os><type arch='x86_64'>" \
          f"hvm</type></os><metadata>{ON}</metadata><devices/></domain>"
    after, _ = hooked(there, "nobody", "migrate", xml)
    require(len(pagers(after)) == 1, after)
    done = here.call("remapd-domain", "on", "nobody")
    require(done.returncode == 1 and "nobody" in done.stderr and
            len(done.stderr.splitlines()) <= 2, done.stderr)


# ---- without a daemon ----

@test
def without_a_daemon_moves_natively_and_says_so():
    with domain("native", "on") as vm:
        there = vm.there
        with no_remapd(there.host):
            vm.migrate(AFTER_PRECOPY)
            require_in("arrives without remapd: no remapd answers at",
                       there.syslog())
            require_in("native post-copy is used", vm.qemu_log(there))
            require_moved(vm)
        # It has its pager: the next migration is remapd's again.
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


@test
def without_a_daemon_required_is_refused_before_it_begins():
    with domain("refused", "required") as vm:
        with no_remapd(vm.there.host):
            said = vm.refused(AFTER_PRECOPY)
        for place in said, vm.there.syslog():
            require_in("may not migrate without remapd (required): no remapd "
                       "answers at", place)
        require_stays(vm)


@test
def without_a_daemon_at_the_source_required_fails_before_the_stop():
    with domain("sourceless", "required") as vm:
        with no_remapd(vm.here.host):
            said = vm.refused(AFTER_PRECOPY)
        require_in("The required migration-pager fails", said)
        require_stays(vm)


@test
def without_the_group_qemu_is_told_that_it_has_no_right():
    with domain("group", "on") as vm:
        there = vm.there
        with no_remapd(there.host):
            there.host.remapd = Remapd(there.host)
            vm.migrate(AFTER_PRECOPY)
            there.host.remapd.close()
        require_in("Permission denied", vm.qemu_log(there))
        require_moved(vm)


@test
def apparmor_takes_the_lines_of_the_project():
    parser = shutil.which("apparmor_parser", path=PATH)
    if not parser:
        raise Skip("apparmor_parser is not installed")
    with tempfile.TemporaryDirectory() as directory:
        base = pathlib.Path(directory, "apparmor.d")
        shutil.copytree("/etc/apparmor.d", base, symlinks=True)
        shutil.copytree(TOP / "libvirt/apparmor", base / "remapd.d",
                        dirs_exist_ok=True)
        for local in ("abstractions/libvirt-qemu", "usr.sbin.libvirtd"):
            name = pathlib.Path(local).name
            (base / "local" / local).write_text(
                f"include if exists <remapd.d/{name}>\n")
        template = (base / "libvirt/TEMPLATE.qemu").read_text()
        (base / "domain").write_text(template.replace("LIBVIRT_TEMPLATE",
                                                      "libvirt-domain"))
        for profile in ("domain", "usr.sbin.libvirtd"):
            for action, found in (("--preprocess", "/usr/lib/remapd/qemu-"),
                                  ("--skip-kernel-load", "")):
                done = subprocess.run(
                    [parser, "--skip-cache", "--base", base, action,
                     base / profile], text=True, capture_output=True,
                    check=False)
                require(done.returncode == 0 and found in done.stdout,
                        f"{profile}: {done.stderr}")


# ---- domains that run already ----

@test
def running_domain_gets_its_pager():
    with domain("running") as vm:
        require_in("with a migration-pager from now on", vm.mode("required"))
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)
        require(len(pagers(vm.here.virsh("dumpxml", vm.name))) == 1,
                "its XML has no pager")
        require_in("without a migration-pager from now on", vm.mode("off"))
        vm.migrate(AFTER_PRECOPY)
        require_moved(vm)
        require(not pagers(vm.here.virsh("dumpxml", vm.name)),
                "its XML has a pager")


@test
def saved_domain_gets_its_pager_when_it_is_restored():
    with domain("saved", metadata=ON) as vm:
        vm.here.virsh("managedsave", vm.name)
        vm.here.virsh("start", vm.name)
        vm.listen(vm.here)
        require(len(pagers(vm.here.virsh("dumpxml", vm.name))) == 1,
                "its XML has no pager")
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


def main():
    global LAB # pylint: disable=global-statement
    if any(word in ("-h", "--help") for word in sys.argv):
        print(__doc__)
        return 0
    reason = lacking()
    if reason:
        print(f"1..1\nok 1 - libvirt # SKIP {reason}")
        return 0
    with VirtLab(daemon_options=("--group", USER)) as LAB:
        return run(sys.argv[1:])


def lacking():
    """What this machine lacks for two libvirtd, or None."""
    for program in ("libvirtd", "virtlogd", "virsh"):
        if not shutil.which(program, path=PATH):
            return f"{program} is not installed"
    tried = subprocess.run(["unshare", "--mount", "--uts", "sh", "-ec", DEV],
                           text=True, capture_output=True, check=False)
    if tried.returncode:
        return "no namespace with a /dev and userfaultfd in it: " \
               + tried.stderr.strip().replace("\n", "; ")
    return None


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
