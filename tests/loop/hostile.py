#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A malicious QEMU, source, destination or neighbour against a real remapd.

hostile.py [PART OF A NAME]...   runs the tests that have one of these, or all

During every attack honest migrations run through the same two daemons, and
every byte of theirs is checked. Afterwards the attacked daemon has said in one
line what was wrong, still runs, and has no descriptor more than before.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import select
import socket
import struct
import sys
import threading
import time

# pylint: disable=import-error,wildcard-import,unused-wildcard-import
from arena import ARENA
from pair import Failed, Pair, own_network, require, wait_until
from wire import *
from wire import pb
from harness import Skip, run as run_tests, test
from lab.basics import run, stop_on_signals
from lab.daemon import find_remapd
from limits import ask

PEER_TIMEOUT = 3
NOBODY = 65534


def rows(table):
    """A test of each row: its name is the case."""
    return {"case": tuple(table)}


def at_stage(session, stage):
    return getattr(session, stage)() if stage else session


# ---- a malicious source, before it says who it is ----

def message(size, body):
    return lambda peer, _: peer.raw(struct.pack(">I", size) + body)


STRANGERS = {
    "wrong_magic": ("that was no hello", lambda peer, session: peer.hello(
        session.ticket.session, session.ticket.secret, magic=1)),
    "wrong_version": ("protocol version 9, this remapd speaks",
                      lambda peer, session: peer.hello(
                          session.ticket.session, session.ticket.secret,
                          version=9)),
    "no_hello": ("that was no hello",
                 lambda peer, _: peer.send(start=pb.Start())),
    "unknown_session": ("no such session", lambda peer, session: peer.hello(
        b"x" * 16, session.ticket.secret)),
    "short_session": ("no such session", lambda peer, session: peer.hello(
        session.ticket.session[:8], session.ticket.secret)),
    "wrong_ticket": ("the ticket is wrong", lambda peer, session: peer.hello(
        session.ticket.session, b"x" * 32)),
    "short_ticket": ("the ticket is wrong", lambda peer, session: peer.hello(
        session.ticket.session, session.ticket.secret[:31])),
    "no_ticket": ("the ticket is wrong", lambda peer, session: peer.hello(
        session.ticket.session, b"")),
    "channel_without_ticket": ("the channel has no right to join",
                               lambda peer, session: peer.hello(
                                   session.ticket.session, bytes(32),
                                   pb.Hello.BULK)),
    "empty_message": ("message of 0 bytes", message(0, b"")),
    "huge_message": ("message of 65537 bytes", message(65537, b"")),
    "largest_size": ("message of 4294967295 bytes", message(2**32 - 1, b"")),
    "garbage": ("cannot be decoded", message(16, b"\xff" * 16)),
    "half_a_message": ("closed within a message", lambda peer, _: (
        peer.raw(b"\0\0\0\x20half"), peer.close())),
    "half_a_size": ("closed within a message", lambda peer, _: (
        peer.raw(b"\0\0"), peer.close())),
    "nothing": ("no hello: connection closed",
                lambda peer, _: peer.close()),
    "silence": ("no hello in time", lambda peer, _: None),
    "http": ("message of 1195725856 bytes",
             lambda peer, _: peer.raw(b"GET / HTTP/1.1\r\n\r\n")),
}


@test(**rows(STRANGERS))
def stranger(case):
    says, act = STRANGERS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        mark = len(ARENA.destination.remapd.process.output())
        act(session.peer(), session)
        ARENA.wait_for_line(ARENA.destination, mark, says)
        # The session that it aimed at is untouched: the honest source comes.
        session.complete()
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)


@test
def ticket_used_twice():
    with ARENA.attack(ARENA.destination, "the ticket has been used"), \
            ToDestination(ARENA.destination) as session:
        session.active()
        second = session.peer()
        second.hello(session.ticket.session, session.ticket.secret)
        second.expect("abort")
        session.bulk.frame(ZERO, 0, session.memory.length)
        session.control.expect("complete")


@test
def ticket_used_again_after_its_session():
    with ARENA.attack(ARENA.destination, "no such session"), \
            ToDestination(ARENA.destination) as session:
        session.complete()
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)
        second = session.peer()
        second.hello(session.ticket.session, session.ticket.secret)
        second.expect("abort")


@test
def ticket_of_another_session():
    """Its secret is good, but for its own session."""
    with ARENA.attack(ARENA.destination, "the ticket is wrong"), \
            ToDestination(ARENA.destination) as session, \
            ToDestination(ARENA.destination) as other:
        stranger_peer = session.peer()
        stranger_peer.hello(session.ticket.session, other.ticket.secret)
        stranger_peer.expect("abort")
        for each in (session, other):
            each.complete()
            each.qemu.send(DETACH)
            each.qemu.expect(DETACHED)


@test
def two_sources_with_one_ticket():
    """The session is the first one's, and goes on; the other's QEMU is told,
    before it has stopped its guest. All but the QEMUs is real."""
    with ARENA.attack(ARENA.destination, "the ticket has been used"), \
            ToDestination(ARENA.destination) as session, \
            FromSource(ARENA.source) as first, \
            FromSource(ARENA.source) as second:
        ticket = session.ticket.SerializeToString()
        first.raw_ticket(ticket)
        first.qemu.expect(JOINED)
        second.raw_ticket(ticket)
        require(b"the ticket has been used" in second.qemu.expect(ERROR),
                "the second is not told")
        first.qemu.block(first.memory)
        first.qemu.prepare()
        first.qemu.expect(PREPARED)


@test
def ticket_in_no_log():
    """Neither it nor the channels' key is in the log or in a report."""
    with ToDestination(ARENA.destination) as session:
        session.complete()
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)
        secrets = (session.ticket.secret, session.welcome.channel_key)
    remapd = ARENA.destination.remapd
    require(all(len(secret) == 32 for secret in secrets), f"{secrets}")
    for file in (remapd.process.log, *remapd.reports.glob("*.json")):
        data = file.read_bytes()
        for secret in secrets:
            require(secret not in data and
                    secret.hex() not in data.decode(errors="replace").lower(),
                    f"{file} has a secret")


CHANNELS = {
    "wrong_key": ("the channel has no right to join",
                  {"secret": b"x" * 32}),
    "taken_index": ("no free bulk channel 0", {}),
    "index_too_large": ("no free bulk channel 1", {"index": 1}),
    "index_far_too_large": ("no free urgent channel 4294967295",
                            {"index": 2**32 - 1, "kind": pb.Hello.URGENT}),
}


@test(**rows(CHANNELS))
def channel(case):
    says, changed = CHANNELS[case]
    # The second line: the session, once we leave it.
    with ARENA.attack(ARENA.destination, says, lines=2), \
            ToDestination(ARENA.destination) as session:
        session.joined()
        peer = session.peer()
        fields = {"secret": session.welcome.channel_key,
                  "kind": pb.Hello.BULK, **changed}
        peer.hello(session.ticket.session, **fields)
        peer.expect("abort")


@test
def channel_that_speaks_too_early():
    with ARENA.attack(ARENA.destination, "spoke too early"), \
            ToDestination(ARENA.destination) as session:
        session.hello()
        peer = session.peer()
        hello = pb.Message(hello=pb.Hello(
            magic=WIRE_MAGIC, version=WIRE_VERSION, kind=pb.Hello.BULK,
            session=session.ticket.session,
            secret=session.welcome.channel_key)).SerializeToString()
        peer.raw(struct.pack(">I", len(hello)) + hello + b"early")
        session.qemu.expect(ERROR)


# ---- a malicious source, in every state ----

MESSAGES = {
    "hello": pb.Hello(magic=WIRE_MAGIC, version=WIRE_VERSION),
    "welcome": pb.Welcome(version=WIRE_VERSION, urgent=1, bulk=1,
                          channel_key=b"k" * 32),
    "block": pb.Block(index=1, idstr="more", length=4096, page_size=4096),
    "prepare": pb.Prepare(blocks=1),
    "prepared": pb.Prepared(granule=[256 << 10]),
    "left": pb.Left(block=0, first_page=0, run_pages=1),
    "left_end": pb.LeftEnd(pages=1),
    "start": pb.Start(),
    "progress": pb.Progress(),
    "complete": pb.Complete(),
    "resume": pb.Resume(),
    "resumed": pb.Resumed(granule=[256 << 10], left_known=True),
}
# Those that a source may send, by the destination's state.
SOURCE_MAY = {"joined": {"block"}, "prepared": {"left"}, "attached": {"left"},
              "active": set()}
SOURCE_TURNS = {f"{state}_{name}": (state, name) for state in SOURCE_MAY
                for name in MESSAGES if name not in SOURCE_MAY[state]}


@test(**rows(SOURCE_TURNS))
def source_out_of_turn(case):
    state, name = SOURCE_TURNS[case]
    says = "paused, " if state == "active" else "destination failed: "
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        at_stage(session, state)
        session.control.send(**{name: MESSAGES[name]})
        session.control.expect("pause" if state == "active" else "abort")
        kind, text = session.qemu.recv()
        require(kind == (PAUSED if state == "active" else ERROR) and
                text.strip(b"\0"), f"QEMU was told {kind} {text}")


@test
def source_adds_a_block_while_staging_is_primed():
    """The maps have their size by then."""
    with ARENA.attack(ARENA.destination, "block out of turn"), \
            ToDestination(ARENA.destination) as session:
        session.joined()
        session.send_block()
        session.control.send(prepare=pb.Prepare(blocks=1))
        session.control.send(block=pb.Block(
            index=1, idstr="more", length=64 << 40, page_size=4096))
        session.control.expect("abort")


@test(private=(1, 2**64 - 1))
def source_has(private):
    """What it says it has is but a hint."""
    with ARENA.attack(ARENA.destination, "connection closed"), \
            ToDestination(ARENA.destination) as session:
        session.prepared(private_bytes=private)


@test
def what_the_source_has_is_said():
    """No more than that is primed."""
    said, held = [], []
    for _ in range(2):
        with ARENA.attack(ARENA.source, "connection closed"), \
                FromSource(ARENA.source) as session:
            said.append(session.preparing().private_bytes)
        held.append(b"held" * (8 << 20))
    require(16 << 20 < said[1] - said[0] < 64 << 20,
            f"the source said to have {said} bytes, 32 MiB apart")


@test(**rows(MESSAGES))
def source_after_the_end(case):
    """Nothing that comes after completion can change it."""
    with ARENA.attack(ARENA.destination, None), \
            ToDestination(ARENA.destination) as session:
        session.complete()
        session.control.send(**{case: MESSAGES[case]})
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)
        require(session.memory.page(0) == bytes(PAGE), "page 0 is wrong")


def come_back(session, **changed):
    """A source that lost its connection says hello again."""
    peer = session.peer()
    fields = {"secret": session.welcome.resume_key, "attempt": 1, **changed}
    peer.hello(session.ticket.session, **fields)
    return peer


RETURNS = {
    "wrong_key": ("the resume key is wrong", {"secret": b"x" * 32}),
    "short_key": ("the resume key is wrong", {"secret": b"x" * 31}),
    "no_key": ("the resume key is wrong", {"secret": b""}),
    "ticket": ("the resume key is wrong", "ticket"),
    "old_attempt": ("the source has come back since", {"attempt": 1}),
}


@test(state=("active", "prepared"), **rows(RETURNS))
def source_comes_back_wrongly(state, case):
    """It is refused, and the right one goes on."""
    says, changed = RETURNS[case]
    with ARENA.attack(ARENA.destination, says, lines=2), \
            ToDestination(ARENA.destination) as session:
        at_stage(session, state)
        session.control.close()
        session.qemu.expect(PAUSED)
        if case == "old_attempt":
            come_back(session, attempt=1).expect("welcome")
        if changed == "ticket":
            changed = {"secret": session.ticket.secret}
        come_back(session, **changed).expect("abort")
        come_back(session, attempt=2).expect("welcome")


@test
def source_comes_back_too_early():
    with ARENA.attack(ARENA.destination, "nothing to come back to",
                      lines=2), ToDestination(ARENA.destination) as session:
        session.joined()
        come_back(session).expect("abort")


@test
def old_channels_join_no_more():
    """Those of the connection before, or of a try that was given up."""
    with ARENA.attack(ARENA.destination, "the channel has no right to join",
                      lines=2), ToDestination(ARENA.destination) as session:
        session.active()
        session.control.close()
        session.qemu.expect(PAUSED)
        come_back(session).expect("welcome")
        peer = session.peer()
        peer.hello(session.ticket.session, session.welcome.channel_key,
                   pb.Hello.BULK)
        peer.expect("abort")


@test(shared=(False, True))
def source_comes_back_and_goes_on(shared):
    """It is told what is missing: all but what has been placed."""
    with ARENA.attack(ARENA.destination, "paused"), \
            ToDestination(ARENA.destination, Memory(64, shared)) as session:
        session.active()
        session.bulk.frame(DATA, 0, PAGE, b"a" * PAGE)
        wait_until(lambda: session.memory.present(0), "page 0 is placed",
                   PATIENCE)
        # The source dies within a frame: that page has not come.
        session.bulk.raw(FRAME.pack(FRAME_MAGIC, DATA, 0, 0, PAGE, PAGE, PAGE,
                                    0) + b"half")
        session.control.close()
        session.qemu.expect(PAUSED)
        session.control = come_back(session)
        session.welcome = session.control.expect("welcome")
        session.urgent = session.channel(pb.Hello.URGENT)
        session.bulk = session.channel(pb.Hello.BULK)
        session.control.send(resume=pb.Resume())
        resumed = session.control.expect("resumed")
        require(resumed.left_known, "the destination has forgotten all")
        left = session.control.expect("left")
        bits = int.from_bytes(left.pages, "little")
        require(left.first_page == 0 and bits == 2**64 - 2 and
                session.control.expect("left_end").pages == 63,
                f"told is {left}")
        session.control.expect("start")
        session.qemu.expect(RESUMED)
        # What is placed stays, whatever the source says now.
        session.bulk.frame(DATA, 0, PAGE, b"x" * PAGE)
        session.bulk.frame(ZERO, PAGE, 63 * PAGE)
        session.control.expect("complete")
        require(session.memory.page(0) == b"a" * PAGE, "page 0 is wrong")


def vanish(control, way):
    """The peer of a control connection is no more, or no more itself."""
    if way == "half":
        control.raw(b"\0\0\1\0half")
    if way == "garbage":
        control.raw(b"\0\0\0\4\xff\xff\xff\xff")
    elif way != "silence":
        control.close(reset=way == "reset")


@test(state=("hello", "joined", "prepared", "attached", "active"),
      way=("end", "reset", "half", "garbage", "silence"))
def source_vanishes(state, way):
    says = {"end": "connection closed|connection lost",
            "reset": "reset by peer|connection lost",
            "half": "closed within a message|connection lost",
            "garbage": "cannot be decoded",
            "silence": f"silent for {PEER_TIMEOUT} s"}[way]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        at_stage(session, state)
        vanish(session.control, way)
        kind, _ = session.qemu.recv()
        # Prepared, it cannot know whether the guest has left the source.
        require(kind == (ERROR if state in ("hello", "joined") else PAUSED),
                f"QEMU was told {kind}")


@test(state=("prepared", "attached"))
def qemu_leaves_after_its_source_has(state):
    """Only one whose guest cannot have come has lost nothing."""
    says = "QEMU has left" + (" before it had the guest" if state == "prepared"
                              else ": if it has ended")
    with ARENA.attack(ARENA.destination, says, lines=2), \
            ToDestination(ARENA.destination) as session:
        at_stage(session, state)
        session.control.close()
        kind, _ = session.qemu.recv()
        require(kind == PAUSED, f"QEMU was told {kind}")


BLOCKS = {
    "out_of_order": ("block 7 out of order", {"index": 7}),
    "no_name": ("has no name", {"idstr": ""}),
    "name_too_long": ("too long a name", {"idstr": "x" * 300}),
    "no_length": ("not whole pages", {"length": 0}),
    "odd_length": ("not whole pages", {"length": 4097}),
    "odd_page_size": ("pages of 12288 bytes", {"page_size": 12288}),
    "no_page_size": ("pages of 0 bytes", {"page_size": 0}),
    "page_size_too_large": (r"pages of \d+ bytes", {"page_size": 1 << 40}),
    "too_large": ("too large", {"length": 1 << 60}),
    "largest": ("too large|not whole pages", {"length": 2**64 - 4096}),
}


@test(**rows(BLOCKS))
def source_block(case):
    says, changed = BLOCKS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        session.joined().send_block(**changed)
        session.control.expect("abort")


@test
def source_blocks_of_one_name():
    with ARENA.attack(ARENA.destination, "is named like"), \
            ToDestination(ARENA.destination) as session:
        session.joined().send_block()
        session.send_block(index=1)
        session.control.expect("abort")


@test
def source_blocks_without_end():
    with ARENA.attack(ARENA.destination, "too large"), \
            ToDestination(ARENA.destination) as session:
        session.joined()
        with contextlib.suppress(ConnectionError):
            for index in range(2000):
                session.send_block(index=index, idstr=str(index))
        session.qemu.expect(ERROR)


LEFT = {
    "unknown_block": ("outside of its block", {"block": 1, "run_pages": 1}),
    "first_page_unaligned": ("outside of its block", {"first_page": 1,
                                                      "run_pages": 1}),
    "first_page_beyond": ("outside of its block", {"first_page": 64,
                                                   "run_pages": 1}),
    "first_page_far_beyond": ("outside of its block",
                              {"first_page": 2**64 - 64, "run_pages": 64}),
    "run_too_long": ("outside of its block", {"run_pages": 65}),
    "run_far_too_long": ("outside of its block", {"run_pages": 2**64 - 1}),
    "bits_too_long": ("outside of its block", {"pages": b"\xff" * 16}),
    "bits_odd": ("outside of its block", {"pages": b"\xff" * 7}),
    "both": ("outside of its block", {"pages": b"\xff" * 8, "run_pages": 1}),
    "bits_behind_the_end": ("behind the end|outside of its block",
                            {"pages": b"\xff" * 8}),
}


@test(**rows(LEFT))
def source_left(case):
    says, changed = LEFT[case]
    memory = Memory(60 if case == "bits_behind_the_end" else 64)
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination, memory) as session:
        session.prepared()
        session.control.send(left=pb.Left(**changed))
        session.control.expect("abort")


@test(sum_said=(0, 3, 5, 2**64 - 1))
def source_left_sum(sum_said):
    with ARENA.attack(ARENA.destination, "another number of pages"), \
            ToDestination(ARENA.destination) as session:
        session.prepared()
        session.control.send(left=pb.Left(run_pages=4))
        session.control.send(left_end=pb.LeftEnd(pages=sum_said))
        session.control.expect("abort")


def masks(data, zero):
    return data.to_bytes(64, "little") + zero.to_bytes(64, "little")


FRAMES = {
    "wrong_magic": ("wrong magic 0x00000001", {"kind": ZERO, "magic": 1}),
    "unknown_kind": ("unknown kind 9", {"kind": 9}),
    "again_set": ("frame", {"kind": ZERO, "again": 1}),
    "wanted_set": ("wants page 1", {"kind": ZERO, "wanted": 1}),
    "unknown_block": ("ZERO frame for block 1, there are 1",
                      {"kind": ZERO, "block": 1}),
    "offset_beyond": ("at 262144 of block ram", {"kind": ZERO,
                                                 "offset": 64 * PAGE}),
    "offset_far_beyond": ("of block ram", {"kind": ZERO,
                                           "offset": 2**64 - PAGE}),
    "offset_unaligned": ("not whole pages", {"kind": ZERO, "offset": 1}),
    "length_beyond": ("of block ram", {"kind": ZERO, "offset": 63 * PAGE,
                                       "length": 2 * PAGE}),
    "length_wraps": ("of block ram", {"kind": ZERO, "offset": PAGE,
                                      "length": 2**64 - PAGE}),
    "no_length": ("for 0 bytes", {"kind": ZERO, "length": 0}),
    "odd_length": ("with a payload of|not whole pages",
                   {"kind": DATA, "length": 100, "payload": b"x" * 100}),
    "payload_missing": ("with a payload of 0", {"kind": DATA}),
    "payload_too_large": ("payload of 8192", {"kind": DATA,
                                              "payload": bytes(8192)}),
    "payload_of_zeros": ("payload of 4096", {"kind": ZERO,
                                             "payload": bytes(4096)}),
    "request": ("REQUEST frame from the source", {"kind": REQUEST}),
    "both_masks": ("masks that do not fit",
                   {"kind": SPARSE, "length": 2 * PAGE,
                    "payload": masks(1, 1) + bytes(PAGE)}),
    "masks_beyond": ("masks that do not fit",
                     {"kind": SPARSE, "length": 2 * PAGE,
                      "payload": masks(4, 0) + bytes(PAGE)}),
    "masks_without_bytes": ("masks that do not fit",
                            {"kind": SPARSE, "length": 2 * PAGE,
                             "payload": masks(3, 0) + bytes(PAGE)}),
    "masks_cut": ("payload of 127", {"kind": SPARSE, "length": 2 * PAGE,
                                     "payload": bytes(127)}),
}


@test(channel=("urgent", "bulk"), **rows(FRAMES))
def source_frame(channel, case):
    """No byte of the guest changes, and no page that is missing appears."""
    says, changed = FRAMES[case]
    with ARENA.attack(ARENA.destination, f"paused, .*{channel} channel 0: .*"
                      f"{says}"), \
            ToDestination(ARENA.destination, present=(5, 63)) as session:
        session.active()
        getattr(session, channel).frame(**changed)
        session.qemu.expect(PAUSED)
        for page in range(64):
            require(session.memory.present(page) == (page in (5, 63)),
                    f"page {page}")
        for page in (5, 63):
            require(session.memory.page(page) == b"\x11" * PAGE,
                    f"page {page} has changed")


CUTS = {
    "in_a_header": FRAME.pack(FRAME_MAGIC, DATA, 0, 0, 0, PAGE, PAGE, 0)[:20],
    "in_a_payload": FRAME.pack(FRAME_MAGIC, DATA, 0, 0, 0, PAGE, PAGE, 0)
                    + b"x" * 1000,
    "in_masks": FRAME.pack(FRAME_MAGIC, SPARSE, 0, 0, 0, PAGE, 128, 0)
                + b"x" * 100,
    "between_frames": b"",
}


@test(shared=(False, True), **rows(CUTS))
def source_frame_cut(shared, case):
    """Half a page is never shown, whether it is received in place or not."""
    says = "connection lost$" if case == "between_frames" else "within a frame"
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination, Memory(64, shared)) as session:
        session.active()
        session.bulk.raw(CUTS[case])
        session.bulk.close()
        session.qemu.expect(PAUSED)
        require(not any(map(session.memory.present, range(64))),
                "a page is there")


@test(shared=(False, True))
def source_sends_pages_twice(shared):
    """The guest keeps the first; a page that it had is never overwritten."""
    memory = Memory(64, shared)
    with ARENA.attack(ARENA.destination, None), \
            ToDestination(ARENA.destination, memory, present=(7,)) as session:
        session.active()
        for fill in (b"1", b"2"):
            session.bulk.frame(DATA, 0, 16 * PAGE, fill * 16 * PAGE)
        session.bulk.frame(ZERO, 0, 16 * PAGE)
        for fill in (b"3", b"4"):
            session.urgent.frame(SPARSE, 16 * PAGE, 8 * PAGE,
                                 masks(0x0f, 0xf0) + fill * 4 * PAGE)
        session.bulk.frame(DATA, 24 * PAGE, 40 * PAGE, b"5" * 40 * PAGE)
        session.control.expect("complete")
        for page in range(64):
            fill = (b"\x11" if page == 7 else b"1" if page < 16 else
                    b"3" if page < 20 else b"\0" if page < 24 else b"5")
            require(memory.page(page) == fill * PAGE, f"page {page}")
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)


# ---- a malicious destination ----

# Those that a destination may send, by the source's state.
DESTINATION_MAY = {
    "joining": {"welcome", "progress"}, "joined": {"progress"},
    "preparing": {"prepared", "progress"}, "prepared": {"progress"},
    "switched": {"start", "progress"}, "active": {"progress", "complete"}}
DESTINATION_TURNS = {
    f"{state}_{name}": (state, name) for state in DESTINATION_MAY
    for name in MESSAGES if name not in DESTINATION_MAY[state]}


@test(**rows(DESTINATION_TURNS))
def destination_out_of_turn(case):
    state, name = DESTINATION_TURNS[case]
    late = state in ("switched", "active")
    with ARENA.attack(ARENA.source, "paused, " if late else
                      "source failed: "), FromSource(ARENA.source) as session:
        at_stage(session, state)
        session.control.send(**{name: MESSAGES[name]})
        session.qemu.expect(PAUSED if late else ERROR)


@test(state=("joining", "joined", "preparing", "prepared", "switched",
             "active"),
      way=("end", "reset", "half", "garbage", "silence"))
def destination_vanishes(state, way):
    late = state in ("switched", "active")
    says = {"end": "connection closed|connection lost",
            "reset": "reset by peer|connection lost|sending: ",
            "half": "closed within a message|connection lost",
            "garbage": "cannot be decoded",
            "silence": f"silent for {PEER_TIMEOUT} s|in time"}[way]
    with ARENA.attack(ARENA.source, says), \
            FromSource(ARENA.source) as session:
        at_stage(session, state)
        vanish(session.control, way)
        session.qemu.expect(PAUSED if late else ERROR)


@test
def destination_never_welcomes_a_channel():
    with ARENA.attack(ARENA.source, "silent|in time"), \
            FromSource(ARENA.source) as session:
        session.joining().send_welcome()
        session.accept()
        session.accept()
        session.qemu.expect(ERROR)


WELCOMES = {
    "other_version": {"version": WIRE_VERSION + 1},
    "short_key": {"channel_key": b"k"},
    "long_key": {"channel_key": b"k" * 33}, "no_urgent": {"urgent": 0},
    "no_bulk": {"bulk": 0}, "too_many": {"urgent": 8, "bulk": 9},
    "far_too_many": {"urgent": 2**31, "bulk": 2**31},
}


@test(**rows(WELCOMES))
def destination_welcome(case):
    with ARENA.attack(ARENA.source, "welcome makes no sense|"
                      f"speaks version {WIRE_VERSION + 1}"), \
            FromSource(ARENA.source) as session:
        session.joining().send_welcome(**WELCOMES[case])
        session.qemu.expect(ERROR)


@test(granule=((), (4096, 4096), (2048,), (12288,), (4 << 20,), (0,)))
def destination_granule(granule):
    with ARENA.attack(ARENA.source, "block table makes no sense"), \
            FromSource(ARENA.source) as session:
        session.preparing()
        session.control.send(prepared=pb.Prepared(granule=granule))
        session.qemu.expect(ERROR)


REQUESTS = {case: FRAMES[case] for case in (
    "wrong_magic", "unknown_kind", "again_set")}
REQUESTS |= {
    "again_and_again": ("unknown kind 1", {"kind": REQUEST, "again": 2}),
    "unknown_block": ("frame for block 1, there are 1",
                      {"kind": REQUEST, "block": 1}),
    "offset_beyond": ("of block ram", {"kind": REQUEST,
                                       "offset": 64 * PAGE}),
    "length_beyond": ("of block ram", {"kind": REQUEST, "length": 1 << 40}),
    "unaligned": ("not whole pages", {"kind": REQUEST, "offset": 8}),
    "wanted_beyond": ("wants page 4294967295", {"kind": REQUEST,
                                                "wanted": 2**32 - 1}),
    "payload": ("with a payload of 4096", {"kind": REQUEST,
                                           "payload": bytes(4096)}),
    "data": ("frame of kind 2|DATA frame", {"kind": DATA,
                                            "payload": bytes(4096)}),
    "end": ("frame of kind 5|END frame", {"kind": END, "length": 0}),
}


@test(**rows(REQUESTS))
def destination_request(case):
    says, changed = REQUESTS[case]
    with ARENA.attack(ARENA.source, f"paused, .*urgent channel 0: .*{says}"), \
            FromSource(ARENA.source) as session:
        session.active().urgent.frame(**changed)
        session.qemu.expect(PAUSED)


@test
def destination_asks_again_and_again():
    """Each request has its answer, and the right one."""
    with ARENA.attack(ARENA.source, None), \
            FromSource(ARENA.source) as session:
        session.active()
        for _ in range(500):
            session.urgent.frame(REQUEST)
            header = FRAME.unpack(session.urgent.read(FRAME.size))
            require(header[1] == DATA and
                    session.urgent.read(header[6]) == b"\x22" * PAGE,
                    f"answer {header}")
        session.control.send(complete=pb.Complete())
        session.qemu.expect(COMPLETE)


@test
def destination_asks_for_what_bulk_has_sent():
    """The page that is waited for comes again: of a huge page only if it need
    not arrive whole."""
    huge = 512 * PAGE
    with ARENA.attack(ARENA.source, None), \
            FromSource(ARENA.source, Memory(512)) as session:
        session.memory.fill(7, b"\x33")
        session.active()
        kind = None
        while kind != END:
            _, kind, _, _, _, _, payload, _ = FRAME.unpack(
                session.bulk.read(FRAME.size))
            session.bulk.read(payload)
        session.urgent.frame(REQUEST, 0, huge, wanted=7)
        session.urgent.frame(REQUEST, 0, huge, wanted=7, again=1)
        session.urgent.frame(REQUEST, 4 * PAGE, 8 * PAGE, wanted=3)
        for _ in range(2):
            header = FRAME.unpack(session.urgent.read(FRAME.size))
            require(header[1:7] == (DATA, 0, 0, 7 * PAGE, PAGE, PAGE) and
                    session.urgent.read(PAGE) == b"\x33" * PAGE,
                    f"answer {header}")
        session.control.send(complete=pb.Complete())
        session.qemu.expect(COMPLETE)


@test
def destination_asks_and_does_not_read():
    """The source waits in its own thread only, and ends when it must."""
    with ARENA.attack(ARENA.source, "connection closed|connection lost|"
                      "sending: "), FromSource(ARENA.source) as session:
        session.active().urgent.socket.setblocking(False)
        request = FRAME.pack(FRAME_MAGIC, REQUEST, 0, 0, 0, 64 * PAGE, 0, 0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(200000):
                session.urgent.socket.send(request)
        session.control.close()
        session.qemu.expect(PAUSED)


# ---- a malicious QEMU ----

def handoff(magic=0x524d5048, version=HANDOFF_VERSION, kind=HELLO, body=b""):
    return struct.pack(">IHH", magic, version, kind) + body


HELLO_BODY = struct.pack(">IIQ64s64s", DESTINATION, 1, 1 << 20, b"x", b"")
PACKETS = {
    "wrong_magic": ("wrong magic 0x00000001", handoff(magic=1)),
    "wrong_version": ("hand-off version 7", handoff(version=7)),
    "unknown_type": ("unknown type", handoff(kind=99)),
    "answer_of_remapd": ("unknown type", handoff(kind=JOINED)),
    "too_short": ("shorter than its header", b"RMPH"),
    "body_too_short": ("wrong size", handoff(body=HELLO_BODY[:-1])),
    "body_too_long": ("wrong size", handoff(body=HELLO_BODY + b"x")),
    "far_too_long": ("too long|Message too long", handoff(body=bytes(60000))),
    "no_hello": ("must be HELLO", handoff(kind=DETACH)),
    "unknown_role": ("unknown role", handoff(
        body=struct.pack(">I", 3) + HELLO_BODY[4:])),
    "name_without_end": ("does not end", handoff(
        body=HELLO_BODY[:16] + b"x" * 64 + HELLO_BODY[80:])),
    "address_without_end": ("does not end", handoff(
        body=HELLO_BODY[:80] + b"x" * 64)),
    "text": ("wrong magic", b"status of everything\n"),
}


@test(**rows(PACKETS))
def qemu_packet(case):
    says, packet = PACKETS[case]
    with ARENA.attack(ARENA.destination, says):
        with contextlib.closing(Qemu(ARENA.destination.remapd)) as qemu:
            qemu.raw(packet)
            while qemu.recv():
                pass


@test(**rows({case: PACKETS[case] for case in (
    "wrong_magic", "wrong_version", "unknown_type", "too_short",
    "body_too_short", "far_too_long")}))
def qemu_packet_in_a_session(case):
    """The line names what was wrong, not only that QEMU has left."""
    says, packet = PACKETS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        session.prepared()
        session.qemu.raw(packet)
        while session.qemu.recv():
            pass


@test
def qemu_leaves_at_once():
    """Nobody is told: libvirt's hook looks whether somebody listens."""
    with ARENA.attack(ARENA.destination, None):
        Qemu(ARENA.destination.remapd).close()


@test
def qemu_hands_over_too_many_descriptors():
    """None of them stays open in the daemon."""
    with ARENA.attack(ARENA.destination, "Message too long|descriptors"):
        with contextlib.closing(Qemu(ARENA.destination.remapd)) as qemu:
            qemu.raw(handoff(body=HELLO_BODY), [0, 1])
            while qemu.recv():
                pass


@test
def qemu_hands_over_a_descriptor_with_nothing():
    """An empty packet, which looks like the end: it stays open nowhere."""
    with ARENA.attack(ARENA.destination, None):
        for _ in range(20):
            with contextlib.closing(Qemu(ARENA.destination.remapd)) as qemu:
                qemu.raw(b"", [0])
                require(not qemu.recv(), "it goes on")


@test
def qemu_hands_over_descriptors_that_nobody_wants():
    with ARENA.attack(ARENA.destination, None):
        with contextlib.closing(Qemu(ARENA.destination.remapd)) as qemu:
            qemu.raw(handoff(body=HELLO_BODY), [0])
            qemu.expect(WELCOME)


BODIES = {HELLO: HELLO_BODY, TICKET: bytes(386), BLOCK: bytes(296),
          PREPARE: struct.pack(">I", 1), SWITCHOVER: struct.pack(">I", 1),
          ATTACH: struct.pack(">IQ", 1, 0), DETACH: b"", PLACER: bytes(16),
          FAULTER: struct.pack(">III64s", 1, 1, 0, b"late"),
          REGION: struct.pack(">IIQQQQ", 1, 0, 0, PAGE, PAGE, PAGE),
          SPLICER: b""}
KINDS = {"hello": HELLO, "ticket": TICKET, "block": BLOCK, "prepare": PREPARE,
         "switchover": SWITCHOVER, "attach": ATTACH, "detach": DETACH,
         "placer": PLACER, "faulter": FAULTER, "region": REGION,
         "splicer": SPLICER}
SOURCE_STATES = (None, "joining", "joined", "preparing", "prepared",
                 "switched", "active")
DESTINATION_STATES = (None, "hello", "joined", "prepared", "attached",
                      "active")


@test(state=SOURCE_STATES, kind=tuple(KINDS))
def sources_qemu_out_of_turn(state, kind):
    """What a source's QEMU may send is made wrong by its content."""
    late = state in ("switched", "active")
    with ARENA.attack(ARENA.source, "paused, " if late else
                      "source failed: "), FromSource(ARENA.source) as session:
        at_stage(session, state)
        body = BODIES[KINDS[kind]]
        if kind == "block" and state != "joined": # good but for its turn
            body = struct.pack(">IIQQQQ256s", 0 if state in (None, "joining")
                               else 1, 0, 1 << 40, PAGE, PAGE, 0, b"late")
        if kind == "prepare" and state == "joined":
            body = struct.pack(">I", 5)
        session.qemu.send(KINDS[kind], body)
        session.qemu.expect(PAUSED if late else ERROR)


@test(state=DESTINATION_STATES, kind=tuple(KINDS))
def destinations_qemu_out_of_turn(state, kind):
    if kind == "detach" and state == "active":
        says = "detaches before every page is placed"
    else:
        says = "paused, " if state == "active" else "destination failed: "
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        at_stage(session, state)
        session.qemu.send(KINDS[kind], BODIES[KINDS[kind]])
        session.qemu.expect(PAUSED if state == "active" else ERROR)


def vanishes(host, says, session, state):
    """A QEMU leaves in a state. Before the switchover that is nobody's fault,
    but said."""
    mark = len(host.remapd.process.output())
    with ARENA.attack(host, says), session:
        at_stage(session, state)
        session.qemu.close()
        if session.control:
            while session.control.recv():
                pass
            if not says:
                wait_until(lambda: "QEMU left" in
                           host.remapd.process.output()[mark:], "it is said")


@test(state=SOURCE_STATES)
def sources_qemu_vanishes(state):
    says = "QEMU has left" if state in ("switched", "active") else None
    vanishes(ARENA.source, says, FromSource(ARENA.source), state)


@test(state=DESTINATION_STATES)
def destinations_qemu_vanishes(state):
    says = "QEMU has left" if state == "active" else None
    vanishes(ARENA.destination, says, ToDestination(ARENA.destination), state)


# ---- a malicious vhost-user back end, which shares its userfaultfd with us ----

def forks(back_end):
    """Whoever reads of it has a new userfaultfd, and must read of it."""
    back_end.order(-1)


def blocks(back_end):
    os.set_blocking(back_end.uffd, True)
    back_end.order(20) # which has it polled


def reads_itself(back_end):
    """Has the daemon see that there is something, and takes that away; which
    only a kernel that is slow at it lets it do for sure."""
    back_end.order(0)
    select.select([back_end.uffd], [], [], 0.05)
    time.sleep(0.02)
    with contextlib.suppress(BlockingIOError):
        os.preadv(back_end.uffd, [bytearray(32)], -1, os.RWF_NOWAIT)
    os.set_blocking(back_end.uffd, True)
    time.sleep(0.5)
    blocks(back_end)


UFFD_FEATURE_EVENT_FORK = 1 << 1
BACK_ENDS = {
    "forks": (UFFD_FEATURE_EVENT_FORK, "unexpected userfaultfd event 0x13",
              forks),
    "is_not_ready": (None, "cannot be waited for", lambda back_end: None),
    "blocks": (0, "cannot be waited for", blocks),
    "reads_itself": (0, "its page faults are not served", reads_itself),
}


def require_asked(session, *pages):
    """QEMU or a back end faults, and so these are asked for: each once."""
    wanted = set(pages)
    while wanted:
        _, kind, _, _, offset, length, _, at = FRAME.unpack(
            session.urgent.read(FRAME.size))
        require(kind == REQUEST and length, f"a frame of kind {kind}")
        page = offset // PAGE + at
        require(page in wanted, f"page {page} is asked for, not {wanted}")
        wanted.remove(page)


@test(case=tuple(BACK_ENDS))
def back_end(case):
    """Its own page faults may stay unheard, QEMU's are not."""
    features, says, act = BACK_ENDS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination, Memory(64, shared=True)) as \
            session:
        mark = len(ARENA.destination.remapd.process.output())
        session.active()
        stranger = session.enter_context(contextlib.closing(
            BackEnd(session.memory, features)))
        session.qemu.faulter(stranger, [(0, session.memory.length)])
        wait_until(lambda: "stranger takes part" in
                   ARENA.destination.remapd.process.output()[mark:],
                   "it is taken", PATIENCE)
        act(stranger)
        if says:
            ARENA.wait_for_line(ARENA.destination, mark, says)
        thread = session.memory.touch(40)
        while FRAME.unpack(session.urgent.read(FRAME.size))[4] < 32 * PAGE:
            pass # of the back end
        session.bulk.frame(ZERO, 0, session.memory.length)
        session.control.expect("complete")
        thread.join(PATIENCE)
        require(not thread.is_alive(), "QEMU waits")


@contextlib.contextmanager
def unharmed_by_a_back_end():
    """A session at the destination that is active, and a back end of its
    memory: nothing is complained of."""
    with ARENA.attack(ARENA.destination, None), \
            ToDestination(ARENA.destination, Memory(64, shared=True)) as \
            session:
        session.active()
        yield session, session.enter_context(contextlib.closing(
            BackEnd(session.memory)))


@test
def back_end_made_blocking_before():
    """It is heard all the same."""
    with unharmed_by_a_back_end() as (session, stranger):
        os.set_blocking(stranger.uffd, True)
        session.qemu.faulter(stranger, [(0, session.memory.length)])
        stranger.order(5)
        require_asked(session, 5)
        session.bulk.frame(ZERO, 0, session.memory.length)
        require(stranger.orders.recv(1) == b"\0", "not what came")
        session.control.expect("complete")


@test
def back_end_faults_where_nothing_is_known_yet():
    """Nobody waits for that, and it is heard once it is known."""
    with unharmed_by_a_back_end() as (session, stranger):
        session.qemu.faulter(stranger, [(0, 32 * PAGE)])
        stranger.order(50)
        thread = session.memory.touch(5)
        require_asked(session, 5)
        session.qemu.faulter(stranger, [(0, 64 * PAGE)])
        require_asked(session, 50)
        session.bulk.frame(ZERO, 0, session.memory.length)
        require(stranger.orders.recv(1) == b"\0", "not what came")
        thread.join(PATIENCE)
        require(not thread.is_alive(), "QEMU waits")
        session.control.expect("complete")


TICKETS = {
    "garbage": ("cannot be read", lambda s: s.raw_ticket(b"\xff" * 20)),
    "empty": ("cannot be read", lambda s: s.raw_ticket(b"")),
    "size_too_large": ("cannot be read", lambda s: s.raw_ticket(b"", 65535)),
    "other_version": ("version", lambda s: s.ticket(version=9)),
    "short_session": ("cannot be read", lambda s: s.ticket(session=b"x")),
    "no_address": ("0 addresses|address", lambda s: s.ticket(address=[])),
    "name_for_an_address": ("address", lambda s: s.ticket(
        address=["example"])),
    "port_too_large": ("address|port", lambda s: s.ticket(port=70000)),
    "nobody_there": ("refused", lambda s: s.ticket(port=1)),
}


@test(**rows(TICKETS))
def sources_qemu_ticket(case):
    says, act = TICKETS[case]
    with ARENA.attack(ARENA.source, says), \
            FromSource(ARENA.source) as session:
        act(session)
        session.qemu.expect(ERROR)


HANDED_BLOCKS = {
    "out_of_order": ("out of order", {"index": 3}),
    "no_name": ("has no name", {"idstr": b""}),
    "name_without_end": ("has no name", {"idstr": b"x" * 256}),
    "no_address": ("without memory", {"hva": 0}),
    "odd_address": ("not whole pages", {"hva": (1 << 40) + 1}),
    "no_length": ("not whole pages", {"length": 0}),
    "odd_length": ("not whole pages", {"length": 5000}),
    "wraps": ("not whole pages", {"hva": 2**64 - 4096, "length": 8192}),
    "too_large": ("too large", {"length": 1 << 60}),
    "odd_page_size": ("pages of 5000 bytes", {"page": 5000}),
    "no_descriptor": ("without memory", {"flags": SHARED | WITH_FD,
                                         "fds": []}),
}


@test(role=("source", "destination"), **rows(HANDED_BLOCKS))
def qemu_block(role, case):
    says, changed = HANDED_BLOCKS[case]
    if role == "source":
        host, session = ARENA.source, FromSource
    else:
        host, session = ARENA.destination, ToDestination
    with ARENA.attack(host, says), session(host) as session:
        session.joined()
        session.qemu.block(session.memory, **changed)
        session.qemu.expect(ERROR)


@test(shift=(-PAGE, 0, PAGE))
def qemu_blocks_that_overlap(shift):
    with ARENA.attack(ARENA.destination, "overlaps block ram"), \
            ToDestination(ARENA.destination) as session:
        session.qemu.block(session.memory)
        session.qemu.block(session.memory, index=1, idstr=b"more",
                           hva=session.memory.hva + shift)
        session.qemu.expect(ERROR)


@test
def tables_that_differ():
    with ARENA.attack(ARENA.destination, "block 0: the source has"), \
            ToDestination(ARENA.destination) as session:
        session.prepared()
        session.qemu.block(session.memory, idstr=b"other")
        uffd = session.memory.uffd()
        session.callback(os.close, uffd)
        session.qemu.attach(uffd)
        session.qemu.expect(ERROR)


def blocking_uffd(session):
    return session.memory.uffd(flags=0)


UFFDS = {
    "none": ("no userfaultfd", lambda session: None),
    "pipe": ("no userfaultfd", lambda session: os.pipe2(os.O_NONBLOCK)[0]),
    "null": ("no userfaultfd", lambda session: os.open(
        "/dev/null", os.O_RDONLY | os.O_NONBLOCK)),
    "memfd": ("userfaultfd", lambda session: os.memfd_create("x")),
    "blocking": ("userfaultfd that blocks", blocking_uffd),
}


@test(**rows(UFFDS))
def qemu_uffd(case):
    says, make = UFFDS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination) as session:
        session.prepared()
        session.qemu.block(session.memory)
        fd = make(session)
        if fd is not None:
            session.callback(os.close, fd)
        session.qemu.attach(fd)
        session.qemu.expect(ERROR)


@test
def qemu_uffd_of_other_memory():
    """Nothing can be placed there: the session pauses."""
    with ARENA.attack(ARENA.destination, "QEMU has left|placing"), \
            ToDestination(ARENA.destination) as session:
        other, real = Memory(64), session.memory.hva
        session.memory.hva = other.hva
        uffd = session.memory.uffd()
        session.callback(os.close, uffd)
        session.memory.hva = real
        session.memory.uffd = lambda: os.dup(uffd)
        session.active()
        session.bulk.frame(ZERO)
        session.qemu.expect(PAUSED)


def truncated_memfd(pages):
    def make():
        fd = os.memfd_create("short")
        os.ftruncate(fd, pages * PAGE)
        return fd
    return make


# By what a block's memory is: what the source and the destination say.
MEMFDS = {
    "short": (truncated_memfd(8), "reading block ram", "Bad address|placing"),
    "empty": (truncated_memfd(0), "reading block ram", "Bad address|placing"),
    "pipe": (lambda: os.pipe()[0], "no memfd", "no memfd"),
    "null": (lambda: os.open("/dev/null", os.O_RDWR), "no memfd", "no memfd"),
    "zero": (lambda: os.open("/dev/zero", os.O_RDWR), "no memfd", "no memfd"),
    "directory": (lambda: os.open("/", os.O_RDONLY), "no memfd", "no memfd"),
    "file": (lambda: os.open("/proc/self/exe", os.O_RDONLY), "no memfd",
             "no memfd"),
}


@test(**rows(MEMFDS))
def sources_qemu_memfd(case):
    """The memory is not what QEMU says."""
    make, says, _ = MEMFDS[case]
    with FromSource(ARENA.source) as session:
        fd = make()
        session.callback(os.close, fd)
        session.memory.flags, session.memory.fd = SHARED | WITH_FD, fd
        with ARENA.attack(ARENA.source, says), session, \
                contextlib.suppress(Failed, OSError):
            session.switched()
            session.control.send(start=pb.Start())
            session.qemu.expect(PAUSED)
        wait_until(lambda: ARENA.quiet(ARENA.source), "descriptors", PATIENCE)


@test(**rows(MEMFDS))
def destinations_qemu_memfd(case):
    make, _, says = MEMFDS[case]
    with ARENA.attack(ARENA.destination, says), \
            ToDestination(ARENA.destination,
                          Memory(64, shared=True)) as session:
        fd = make()
        session.callback(os.close, fd)
        session.callback(os.close, session.memory.fd)
        session.memory.fd = fd
        with contextlib.suppress(Failed, OSError): # it may end at any message
            session.active()
            session.bulk.frame(DATA, 0, 64 * PAGE, b"x" * 64 * PAGE)
            session.qemu.expect(PAUSED)


@test(length=(0, 1, 7))
def bitmap_too_short(length):
    with ARENA.attack(ARENA.source, "bitmap of what is left is too short"), \
            FromSource(ARENA.source) as session:
        session.prepared().switchover(bits=b"\xff" * length)
        session.qemu.expect(ERROR)


@test(which=("none", "pipe"))
def bitmap_that_is_none(which):
    with ARENA.attack(ARENA.source, "bitmap"), \
            FromSource(ARENA.source) as session:
        fds = [] if which == "none" else list(os.pipe()[:1])
        for fd in fds:
            session.callback(os.close, fd)
        session.prepared().qemu.send(SWITCHOVER, struct.pack(">I", 1), fds)
        session.qemu.expect(ERROR)


@test
def memory_that_never_answers():
    """A QEMU whose memory waits for ever must not stop the daemon."""
    with FromSource(ARENA.source) as session:
        uffd = session.memory.uffd() # nobody serves it
        session.callback(os.close, uffd)
        session.switched()
        with ARENA.bystanders():
            session.control.send(start=pb.Start())
            require(select.select([uffd], [], [], PATIENCE)[0],
                    "the source reads no page")
            session.control.close()
            with ARENA.bystanders():
                pass
    wait_until(lambda: ARENA.quiet(ARENA.source), "descriptors", PATIENCE)


def offer_placer(session, staging, slots, takes):
    """Returns QEMU's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session.callback(ours.close)
    session.qemu.send(PLACER, struct.pack(">QII", staging, slots, takes),
                      [theirs.fileno()])
    theirs.close()
    return ours


def mute_placers(session, takes):
    """QEMU offers placers, which answer nothing."""
    for _ in range(2):
        offer_placer(session, 1 << 40, 4, takes)


class Placer:
    """QEMU's, and honest; but it cannot use a socket that it is lent."""

    PRIME, MOVE = 1, 2
    SLOTS = 4
    UFFDIO_MOVE = 0xc028aa05

    def __init__(self, session):
        self.staging, self.guest = Memory(self.SLOTS * 512), session.memory
        for memory in (self.staging, self.guest):
            memory.map.madvise(mmap.MADV_HUGEPAGE)
        self.uffd = None
        self.make_uffd, self.guest.uffd = self.guest.uffd, self.keep_uffd
        self.socket = offer_placer(session, self.staging.hva, self.SLOTS, 0)
        threading.Thread(target=self.obey, daemon=True).start()

    def keep_uffd(self):
        self.uffd = self.make_uffd()
        return self.uffd

    def obey(self):
        with contextlib.suppress(OSError): # until the test is over
            while command := self.socket.recv(96):
                op, _, staging, hva, length = struct.unpack(">IIQQQ",
                                                            command[:32])
                error = {self.PRIME: 0, self.MOVE: 0}.get(op, errno.EBADF)
                if op == self.MOVE:
                    fcntl.ioctl(self.uffd, self.UFFDIO_MOVE, struct.pack(
                        "QQQQQ", hva, staging, length, 0, 0))
                self.socket.send(struct.pack(">IIQQ", op, error,
                                             0 if error else length, 0))


def require_pages_move_out():
    if "left empty: freed" not in run(find_remapd(), "--probe"):
        raise Skip("this kernel keeps page tables that are empty")


def asked(session):
    """The fields of the next request."""
    kind, again, _, offset, length, _, wanted = FRAME.unpack(
        session.urgent.read(FRAME.size))[1:]
    require(kind == REQUEST, f"asked with a frame of kind {kind}")
    return again, offset, length, offset // PAGE + wanted


@test(takes=(0, 1))
def asks_for_a_page_again(takes):
    """Only where a single page may come ahead of its huge page."""
    if takes:
        require_pages_move_out()
    with ToDestination(ARENA.destination, Memory(512)) as session:
        mute_placers(session, takes)
        session.active()
        thread = session.memory.touch(7)
        again, *request = asked(session)
        require(again == takes, f"asked for {request}, again {again}")
        session.bulk.frame(ZERO, 0, 512 * PAGE)
        thread.join()
    wait_until(lambda: ARENA.quiet(ARENA.destination), "descriptors", PATIENCE)


@test
def asks_for_another_page_of_a_huge_page():
    """One that has been asked for whole: it may lie in a queue of bulk's."""
    require_pages_move_out()
    with ToDestination(ARENA.destination, Memory(1024)) as session:
        mute_placers(session, 1)
        session.active()
        for page in range(127): # the next one is fetched whole, as a try
            thread = session.memory.touch(page)
            require(asked(session)[3] == page, "another page was asked for")
            session.urgent.frame(DATA, page * PAGE, PAGE, b"x" * PAGE)
            thread.join()
        threads = [session.memory.touch(600)]
        again, offset, length, wanted = asked(session)
        require((offset, length, wanted) == (512 * PAGE, 512 * PAGE, 600),
                f"asked for {length} bytes at {offset}")
        for page in (700, 1023):
            threads.append(session.memory.touch(page))
            again, offset, length, wanted = asked(session)
            require(again and length < 512 * PAGE and wanted == page,
                    f"asked for {length} bytes at {offset}, page {wanted}, "
                    f"again {again}")
        session.bulk.frame(ZERO, 127 * PAGE, (1024 - 127) * PAGE)
        for thread in threads:
            thread.join()
    wait_until(lambda: ARENA.quiet(ARENA.destination), "descriptors", PATIENCE)


@test
def page_comes_after_its_huge_page():
    """The huge page stays what it is, and nobody makes it one again."""
    remapd = ARENA.destination.remapd
    known = remapd.known_reports()
    with ToDestination(ARENA.destination, Memory(1024)) as session:
        for _ in range(2): # of the urgent channel, and of bulk
            Placer(session)
        session.active(private_bytes=1024 * PAGE)
        for first, pages in ((0, 512), (7, 1), (512, 512)):
            session.urgent.frame(DATA, first * PAGE, pages * PAGE,
                                 b"x" * pages * PAGE)
        session.control.expect("complete")
        session.qemu.close()
        report = remapd.report("destination", "hostile", known)
        require(report["huge_pages"] == {"whole": 2, "pieces": 0} and
                report["pages"]["duplicate"] == 1, f"{report}")
    wait_until(lambda: ARENA.quiet(ARENA.destination), "descriptors", PATIENCE)


@test
def placer_that_never_answers():
    """It costs the session its huge pages at the most."""
    with ToDestination(ARENA.destination, Memory(512)) as session:
        mute_placers(session, 0)
        with ARENA.bystanders():
            session.active()
            session.bulk.frame(DATA, 0, 512 * PAGE, b"x" * 512 * PAGE)
            with ARENA.bystanders():
                pass
        session.qemu.close()
        with ARENA.bystanders():
            pass
    wait_until(lambda: ARENA.quiet(ARENA.destination), "descriptors", PATIENCE)


# ---- neighbours ----

def as_nobody(action):
    """Runs `action` in a child of another user; its exit code."""
    child = os.fork()
    if not child:
        code = 99
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


SOCKETS = {"handoff": socket.SOCK_SEQPACKET, "control": socket.SOCK_STREAM}


def try_to_connect(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
            return 2 if client.recv(1) else 1
        except PermissionError:
            return 3
        except ConnectionResetError:
            return 1


@test(which=tuple(SOCKETS), opened=(False, True))
def client_without_rights(which, opened):
    """The socket's mode keeps others out; where it does not, remapd does."""
    path = getattr(ARENA.destination.remapd, which)
    directories = [path.parent, path.parent.parent]
    modes = [directory.stat().st_mode for directory in directories]
    for directory in directories:
        directory.chmod(0o755)
    mode = path.stat().st_mode & 0o777
    require(not mode & 0o007, f"{path} has mode {mode:o}")
    try:
        if opened:
            path.chmod(0o666)
        with ARENA.attack(ARENA.destination,
                          "has no right to connect" if opened else None):
            code = as_nobody(lambda: try_to_connect(path, SOCKETS[which]))
            require(code == (1 if opened else 3),
                    f"connecting as another user came to {code}")
    finally:
        path.chmod(mode)
        for directory, old in zip(directories, modes):
            directory.chmod(old)


CONTROL = {
    "unknown_word": (b"reboot\n", b"unknown request"),
    "empty_line": (b"\n", b"unknown request"),
    "cancel_nothing": (b"cancel \n", b"no session"),
    "cancel_unknown": (b"cancel ffff\n", b"no session"),
    "binary": (bytes(range(256)), b"unknown request|^$"),
    "zero_bytes": (b"status\0\0\n", b"sessions|unknown request"),
    "endless_line": (b"x" * (1 << 20), b"^$"),
    "half_a_line": (b"stat", b"^$"),
}


@test(**rows(CONTROL))
def control_garbage(case):
    line, wanted = CONTROL[case]
    with ARENA.attack(ARENA.destination, None):
        answer = ask(line)
        require(re.search(wanted, answer), f"answer {answer[:200]}")
        require(b'"version"' in ask(b"status\n"), "status does not answer")
        ask(b"list\n", close_early=True)


TICKET_LIFE_SECONDS = 60


@test
def ticket_too_old():
    born = time.monotonic()
    with ARENA.attack(ARENA.destination, "the ticket is too old"), \
            ToDestination(ARENA.destination) as session:
        wait_until(lambda: time.monotonic() - born > TICKET_LIFE_SECONDS + 1,
                   "age", TICKET_LIFE_SECONDS + 5, every=0.5)
        peer = session.peer()
        peer.hello(session.ticket.session, session.ticket.secret)
        peer.expect("abort")


def main():
    own_network()
    with Pair("loopback", ("--peer-timeout", str(PEER_TIMEOUT))) as pair:
        ARENA.begin(pair)
        return run_tests(sys.argv[1:])


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
