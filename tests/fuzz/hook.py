#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""hook.py [RUNS]: libvirt's hook on domains whose XML is damaged at random.

It is Python, so no libFuzzer: a domain with everything in it that the hook
looks at is changed by a few random edits, from SEED=NUMBER, and the functions
that the hook calls are called. They may refuse, with a reason; else what comes
out is XML of a domain with what was asked for. Prints TAP.
"""

import importlib.machinery
import importlib.util
import os
import pathlib
import random
import sys

HOOK = pathlib.Path(__file__).resolve().parents[2] / "libvirt/remapd-domain"
PAGER = {"path": "/run/a,b", "id": "pager0", "required": True}
SEEDS = [b"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>guest</name><metadata><remapd:pager xmlns:remapd='urn:remapd:domain:1'
mode='required'/></metadata><os><type arch='x86_64'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
<qemu:commandline><qemu:arg value='-object'/>
<qemu:arg value='migration-pager,id=pager0,path=/a,required=on'/>
</qemu:commandline></domain>""",
         b"<domain><name>a&amp;b</name></domain>",
         b"<domain type='qemu'><name/><metadata/><devices/></domain>"]
PIECES = [b"<", b">", b"/", b"&", b"&amp;", b"'", b"<name>", b"</name>",
          b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<![CDATA[x]]>",
          b"<!-- -->", b"\xff\xfe", b"\0", b"mode='on'", b"mode='off'",
          b"<devices/>", b"<qemu:arg value='-object'/>", b"xmlns:qemu='x'",
          b"<?xml version='1.1' encoding='UTF-16'?>", "é".encode()]


def load_hook():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("remapd_domain", str(HOOK))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("remapd_domain", loader))
    loader.exec_module(module)
    return module


def damage(generator, text):
    """A few random edits: cut, double, swap in a piece, change a byte."""
    text = bytearray(text)
    for _ in range(generator.randint(0, 4)):
        at = generator.randint(0, len(text))
        end = min(len(text), at + generator.randint(0, 30))
        kind = generator.randrange(4)
        if kind == 0:
            del text[at:end]
        elif kind == 1:
            text[at:at] = text[at:end]
        elif kind == 2:
            text[at:at] = generator.choice(PIECES)
        elif at < len(text):
            text[at] = generator.randrange(256)
    return bytes(text)


def try_one(hook, xml):
    """Returns whether the hook refused it."""
    try:
        domain = hook.Domain(xml)
        mode = domain.mode()
    except hook.Refused as reason:
        assert str(reason)
        return True
    assert mode is None or mode in hook.MODES, mode
    domain.suits()
    domain.requires_pager()
    domain.remove_pager()
    assert not domain.has_pager()
    domain.set_emulator("/emulator")
    try:
        domain.set_pager(PAGER)
    except hook.Refused:
        return True
    domain.set_mode("on")
    again = hook.Domain(domain.xml().encode())
    assert again.has_pager() and again.requires_pager()
    assert again.mode() == "on" and again.name == domain.name
    return False


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
    seed = int(os.environ.get("SEED", 1))
    generator = random.Random(seed)
    hook = load_hook()
    refused = 0
    for _ in range(runs):
        xml = damage(generator, generator.choice(SEEDS))
        try:
            refused += try_one(hook, xml)
        except Exception as error: # pylint: disable=broad-except
            print(f"not ok - hook: {type(error).__name__}: {error}\n# SEED="
                  f"{seed}: {xml!r}")
            return 1
    print(f"ok - hook # SEED={seed}: {runs} domains, {refused} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
