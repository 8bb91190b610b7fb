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
from difflib import unified_diff
from xml.etree.ElementTree import canonicalize

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]),
                str(pathlib.Path(__file__).resolve().parents[1] / "vm")]

# pylint: disable=wrong-import-position
from harness import Skip, require, run, show, test
from lab import Failed, wait_until
from lab.basics import TOP, stop_on_signals
from lab.daemon import Remapd
from lab.hosts import shape, unshape
from virt import DEV, PATH, SLOW, USER, VirtLab

# A hook that keeps what it is given and what it answers.
RECORDING = """#!/bin/bash -e
set -o pipefail
if [ "$2" = migrate ]
then tee /run/hook.in | remapd-domain hook "$@" | tee /run/hook.out
else remapd-domain hook "$@"
fi
"""
AFTER_PRECOPY = "--postcopy-after-precopy"
ON = "<remapd:pager xmlns:remapd='urn:remapd:domain:1' mode='on'/>"
SLOW_LINK = 40_000_000 # bits a second: post-copy takes 12 seconds
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
        report = vm.report("source")
        spliced = report["pages"]["spliced"]
        print(f"# cipher {report['cipher'] or 'none'}, {spliced} of "
              f"{report['pages']['data']} pages spliced")
        require(not spliced if report["cipher"] else
                spliced or memory != "anon", f"{report['pages']}")


def require_confined(vm):
    """Its QEMU is no root's and under seccomp, as libvirt runs it."""
    status = pathlib.Path(f"/proc/{vm.pid()}/status").read_text()
    uid = re.search(r"(?m)^Uid:\s+(\d+)", status)[1]
    require(uid == str(pwd.getpwnam(USER).pw_uid), f"QEMU is user {uid}'s")
    require(re.search(r"(?m)^Seccomp:\s+2$", status), "QEMU has no seccomp")


@test
def the_hook_changes_what_libvirt_starts():
    """What libvirt gave the hook and got from it, in a real migration."""
    with domain("seen", metadata=ON) as vm:
        there = vm.there
        hook = there.host.directory / "etc/libvirt/hooks/qemu.d/remapd"
        saved = hook.read_text()
        try:
            hook.write_text(RECORDING)
            vm.migrate(AFTER_PRECOPY)
        finally:
            hook.write_text(saved)
        before, after = (there.inside(f"/run/hook.{end}").read_text()
                         for end in ("in", "out"))
        require(not pagers(before) and len(pagers(after)) == 1, after)
        require(len(pagers(vm.here.virsh("dumpxml", vm.name))) == 1,
                "libvirt took something else")
        show("before the hook", before)
        show("after the hook", after)
        show("what it changed", "\n".join(unified_diff(
            *(canonicalize(text).splitlines() for text in (before, after)),
            "before", "after", lineterm="")))
        require_moved(vm)


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
        vm.wait_precopy()
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
        vm.wait_precopy()
        vm.here.virsh("domjobabort", vm.name)
        wait_until(lambda: not process.alive(), "virsh ends", 60)
        require(process.child.returncode, "the migration succeeded")
        require_in("canceled by client", process.output())
        require_stays(vm)
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


@test
def cannot_be_aborted_after_the_switchover():
    with domain("late", "required") as vm, in_postcopy(vm) as process:
        done = vm.here.call("virsh", "domjobabort", vm.name)
        require(done.returncode, "it was aborted")
        show("virsh domjobabort", done.stderr.strip())
        vm.end(process)
        require_carried(vm)


@test(when=("at_once", "all_there"))
def postcopy_resumed(when):
    """QEMU's own stream is broken: libvirt says so on both sides, the pages go
    on, and virsh migrate --postcopy-resume brings it to its end."""
    with domain(f"resumed-{when}", "required") as vm, \
            in_postcopy(vm) as process:
        vm.here.virsh("domjobabort", "--postcopy", vm.name)
        wait_until(lambda: not process.alive(), "virsh ends", 60)
        require(process.child.returncode, "the migration succeeded")
        show("virsh migrate", process.output())
        for libvirt, wanted in ((vm.here, "paused (post-copy failed)"),
                                (vm.there, "running (post-copy failed)")):
            state = libvirt.virsh("domstate", "--reason", vm.name)
            require(state == wanted, state)
        if when == "all_there":
            log = vm.there.host.remapd.process
            wait_until(lambda: log.output().rstrip().endswith(
                "destination complete"), "every page is there", 60)
        vm.end(vm.resume())
        require_carried(vm)


@test
def two_domains_cross():
    with domain("east", "required") as east, \
            domain("west", "required", at=1) as west:
        processes = [(vm, vm.begin(AFTER_PRECOPY)) for vm in (east, west)]
        for vm, process in processes:
            vm.end(process)
        for vm in east, west:
            require_carried(vm)


@test
def moves_with_the_oddest_name_and_metadata():
    """libvirt allows them: all that XML, a shell or a list can trip over."""
    other = ("<o:a xmlns:o='urn:o' v='1&#10;2&#9;3&quot;&lt;'><!-- -o- -->"
             "<![CDATA[<domain> & ]]><emulator>/no</emulator></o:a>"
             "<name xmlns='urn:p'>x&#13;y</name>"
             "<big xmlns='urn:q'>" + "<e a='b'>c</e>" * 20000 + "</big>"
             "<pager xmlns='urn:remapd:domain:1' mode='off'/>")
    with domain("b 'c\" $d;*&<e>, f=%s ü漢", "required",
                metadata=other) as vm:
        def metadata():
            xml = vm.here.virsh("dumpxml", "--inactive", vm.name)
            return canonicalize(re.search("(?s)<metadata>.*</metadata>",
                                          xml)[0], strip_text=True)
        before = metadata()
        require("required" in before and len(before) > 200000, before[-900:])
        vm.migrate(AFTER_PRECOPY, "--persistent")
        require_carried(vm)
        require(metadata() == before, "its metadata has changed")


@test
def tool_and_completion_take_any_name():
    names = ("-dash", "a b", "--help")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(domain(name, "on", start=False))
        here = LAB.libvirts[0]
        for name in names:
            done = here.call("remapd-domain", "show", name)
            require_in("mode on, with", done.stdout + done.stderr)
        done = here.call("bash", "-c", f"""
            . {TOP}/completion/remapd-domain
            COMP_LINE='remapd-domain show ' COMP_WORDS=(remapd-domain show '')
            COMP_CWORD=2
            _remapd_domain
            printf '%s\\n' "${{COMPREPLY[@]}}" """)
        require(set(done.stdout.splitlines()) == set(names), done.stdout)


# ---- remapd restarted ----

@contextlib.contextmanager
def in_postcopy(vm):
    """A migration that has switched over and waits for a slow link."""
    log = vm.there.host.remapd.process
    said = len(log.output())
    with contextlib.ExitStack() as stack:
        for libvirt in vm.here, vm.there:
            shape(libvirt.host, SLOW_LINK, None)
            stack.callback(unshape, libvirt.host)
        process = vm.begin()
        vm.wait_precopy()
        vm.here.virsh("migrate-postcopy", vm.name)
        wait_until(lambda: "pages to come" in log.output()[said:],
                   "post-copy begins", 120)
        yield process


@test(case=("source", "destination"))
def remapd_restarted_after_the_switchover_carries_on(case):
    with domain(f"restarted-{case}", "required") as vm, \
            in_postcopy(vm) as process:
        with no_remapd((vm.here if case == "source" else vm.there).host):
            require(process.alive(), process.output())
        vm.end(process)
        require_carried(vm)


@test(case=("on", "required"))
def remapd_restarted_before_the_switchover(case):
    """That migration is QEMU's own, or does not happen; the next is ours."""
    with domain(f"early-{case}", case) as vm:
        process = vm.begin(bandwidth=SLOW)
        vm.wait_precopy()
        with no_remapd(vm.there.host):
            pass
        if case == "required":
            wait_until(lambda: not process.alive(), "virsh ends", 120)
            require(process.child.returncode, "the migration succeeded")
            show("virsh", process.output())
            require_stays(vm)
        else:
            vm.here.virsh("migrate-postcopy", vm.name)
            vm.end(process)
            require_in("native post-copy is used", vm.qemu_log(vm.here))
            require_moved(vm)
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
                (xml.replace("</metadata>", ON.replace("'on'", "'off'") +
                             "</metadata>"), "several <remapd:pager>"),
                (xml.replace('mode="on"', 'mode="maybe"'), "mode='maybe'")):
            _, said = hooked(vm.there, vm.name, "migrate", wrong, code=1)
            require_in(reason, said)
            require(len(said.splitlines()) == 1, said)
            show(f"the hook, {reason}", said)
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
        show("wrong XML: virsh", said)
        show("wrong XML: the destination's syslog", vm.there.syslog())
        require_stays(vm)


@test
def hook_that_is_killed_stops_the_migration():
    """As the kernel may do when memory runs out."""
    with domain("killed", "required") as vm:
        hook = vm.there.host.directory / "etc/libvirt/hooks/qemu.d/remapd"
        saved = hook.read_text()
        try:
            hook.write_text("#!/bin/sh\n[ \"$2\" != migrate ] || kill -KILL $$\n")
            said = vm.refused(AFTER_PRECOPY)
        finally:
            hook.write_text(saved)
        require_in("Hook script execution failed", said)
        show("the hook killed: virsh", said)
        require_stays(vm)
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


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
        show("the hook three times: the domain's XML has", "\n".join(found))
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
    show("unknown domain: remapd-domain", done.stderr)
    done = here.call("virsh", "migrate", "--live", "nobody", there.uri)
    show("unknown domain: virsh migrate", done.stderr)
    show("unknown domain: what the hook adds", pagers(after)[0])


# ---- without a daemon ----

@test
def without_a_daemon_moves_natively_and_says_so():
    with domain("native", "on") as vm:
        there = vm.there
        with no_remapd(there.host):
            vm.migrate(AFTER_PRECOPY)
            logged, qemu = there.syslog(), vm.qemu_log(there)
            require_in("arrives without remapd: no remapd answers at", logged)
            require_in("native post-copy is used", qemu)
            show("no daemon, mode on: the destination's syslog", logged)
            show("no daemon, mode on: its QEMU's log", "\n".join(
                line for line in qemu.splitlines() if "native" in line))
            require_moved(vm)
        # It has its pager: the next migration is remapd's again.
        vm.migrate(AFTER_PRECOPY)
        require_carried(vm)


@test
def without_a_daemon_required_is_refused_before_it_begins():
    with domain("refused", "required") as vm:
        with no_remapd(vm.there.host):
            said = vm.refused(AFTER_PRECOPY)
        places = {"virsh": said, "the destination's syslog": vm.there.syslog()}
        for place, text in places.items():
            require_in("may not migrate without remapd (required): no remapd "
                       "answers at", text)
            show(f"no daemon, required: {place}", text)
        require_stays(vm)


@test
def without_a_daemon_at_the_source_required_fails_before_the_stop():
    with domain("sourceless", "required") as vm:
        with no_remapd(vm.here.host):
            said = vm.refused(AFTER_PRECOPY)
        # libvirt prefers what the destination's QEMU says, if that ends first.
        reason = "The required migration-pager fails"
        require(reason in said or "load of migration failed" in said, said)
        require_in(reason, vm.qemu_log(vm.here))
        show("no daemon at the source, required: virsh", said)
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
