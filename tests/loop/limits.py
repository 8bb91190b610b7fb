# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever takes as much as he can get: hostile.py runs these tests too. The
limits are those of docs/operating.md."""

import collections
import contextlib
import os
import socket
import struct
import subprocess
import threading
import time

# pylint: disable=import-error,wildcard-import,unused-wildcard-import
from arena import ARENA
from pair import (LoopbackHost, Migration, few_descriptors, require,
                  wait_until)
from wire import *
from harness import test
from lab.daemon import PORT, Remapd


def ask(line, close_early=False):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect(str(ARENA.destination.remapd.control))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(line)
            if close_early:
                return b""
            answer = b""
            while part := client.recv(1 << 16):
                answer += part
            return answer
    return b""


@test
def two_hundred_idle_connections():
    """They go by themselves, or stay without harm; migrations go on."""
    def connect(family, kind, address):
        client = socket.socket(family, kind)
        client.connect(address)
        return client
    host = ARENA.destination
    idle = []
    with ARENA.bystanders():
        for _ in range(200):
            idle.append(connect(socket.AF_UNIX, socket.SOCK_SEQPACKET,
                                str(host.remapd.handoff)))
            idle.append(connect(socket.AF_UNIX, socket.SOCK_STREAM,
                                str(host.remapd.control)))
        with ARENA.bystanders():
            require(b'"version"' in ask(b"status\n"), "status")
        for client in idle:
            client.close()
    wait_until(lambda: ARENA.quiet(host), "descriptors", PATIENCE)


@test
def two_hundred_idle_peers():
    """A session that has begun is not disturbed, nor is its own source
    locked out for longer than a hello may take."""
    host = ARENA.destination
    with ToDestination(host) as session:
        session.active()
        idle = [Peer.connect(host) for _ in range(200)]
        session.bulk.frame(ZERO, 0, session.memory.length)
        session.control.expect("complete")
        for peer in idle:
            require(peer.recv() is None or peer.recv() is None,
                    "an idle connection stays")
            peer.close()
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)
    wait_until(lambda: ARENA.quiet(host), "descriptors", PATIENCE)
    ARENA.pair.migrate(mib=4)


@test
def greedy_host_locks_nobody_out():
    """All places of those who have said no hello are one host's, all the
    while; others' migrations go on."""
    host = ARENA.destination
    ended = threading.Event()
    address = (host.address, PORT)
    idle = collections.deque()

    def greed():
        while not ended.is_set():
            idle.append(socket.create_connection(
                address, source_address=("127.0.0.9", 0)))
            if len(idle) > 300:
                idle.popleft().close()
    mark = len(host.remapd.process.output())
    thread = threading.Thread(target=greed)
    thread.start()
    try:
        wait_until(lambda: "too many connections without a hello" in
                   host.remapd.process.output()[mark:], "all places taken",
                   PATIENCE)
        for _ in range(5):
            ARENA.pair.migrate(mib=4)
    finally:
        ended.set()
        thread.join()
        for each in idle:
            each.close()
    wait_until(lambda: ARENA.quiet(host), "descriptors", PATIENCE)


@test
def sessions_beyond_the_limit():
    """The next QEMU is told why; there is room again when one has left."""
    host = LoopbackHost("127.0.0.3", ARENA.pair.directory)
    host.remapd = Remapd(host, ("--max-sessions", "2"))

    def hello():
        qemu = Qemu(host.remapd)
        qemu.send(HELLO, struct.pack(">IIQ64s64s", DESTINATION, os.getpid(),
                                     PAGE, b"limits", b"127.0.0.3"))
        return qemu
    with contextlib.closing(host.remapd):
        first, second, third = hello(), hello(), hello()
        for qemu in (first, second):
            qemu.expect(WELCOME)
        kind, text = third.recv()
        require(kind == ERROR and b"max-sessions" in text, f"{kind} {text}")
        first.close()

        def room():
            qemu = hello()
            kind, _ = qemu.recv()
            qemu.close()
            return kind == WELCOME
        wait_until(room, "there is room again", PATIENCE, every=0.1)
        for qemu in (second, third):
            qemu.close()


@test(kind=("control", "handoff", "peer"))
def descriptors_run_out(kind):
    """It says so now and then, instead of trying for ever; who is there
    already is served, and all is well once there are descriptors again."""
    host = ARENA.destination
    process = host.remapd.process
    mark = len(process.output())

    def lines():
        return process.output()[mark:].count("no connection can be accepted")
    with ToDestination(host) as session:
        session.active()
        with contextlib.ExitStack() as stack, few_descriptors(process, 4):
            begin = time.monotonic()
            for _ in range(20):
                if kind == "peer":
                    stack.enter_context(socket.create_connection(
                        (host.address, PORT)))
                else:
                    client = stack.enter_context(socket.socket(
                        socket.AF_UNIX, socket.SOCK_STREAM if kind == "control"
                        else socket.SOCK_SEQPACKET))
                    client.connect(str(getattr(host.remapd, kind)))
            wait_until(lambda: lines() >= 2, "two lines in the log", PATIENCE)
            most = 2 + time.monotonic() - begin
            require(lines() <= most, f"{lines()} lines, {most:.0f} s")
            session.bulk.frame(ZERO, 0, session.memory.length)
            session.control.expect("complete")
        session.qemu.send(DETACH)
        session.qemu.expect(DETACHED)
    wait_until(lambda: ARENA.quiet(host), "descriptors", PATIENCE)
    ARENA.pair.migrate(mib=4)


@test(role=("source", "destination"))
def a_migration_finds_few_descriptors(role):
    """None, one, two and so on until it has enough: each ends with a reason, or
    goes on as soon as there are more."""
    host = getattr(ARENA, role)
    process = host.remapd.process
    refused = 0
    for spare in range(64):
        wait_until(lambda: ARENA.quiet(host), "descriptors", PATIENCE)
        mark = len(process.output())
        with few_descriptors(process, spare), \
             contextlib.suppress(subprocess.TimeoutExpired):
            migration = Migration(ARENA.pair, mib=4)
            migration.process.child.wait(1.5)
        code = migration.process.child.wait(3 * PATIENCE)
        ARENA.pair.check_daemon(host)
        enough = "open files" not in process.output()[mark:]
        require(not (enough and code), f"{spare} left: "
                f"{migration.process.output().strip()}")
        refused += code != 0
        if enough:
            break
    require(enough and refused, f"{spare} were enough, {refused} refused")
    ARENA.pair.migrate(mib=4)
