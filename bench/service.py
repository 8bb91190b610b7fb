# SPDX-License-Identifier: GPL-2.0-or-later
"""A real program in the guest, memcached, and a client outside that asks it
through the move and measures its own waiting."""

import contextlib
import ctypes
import os
import random
import socket
import threading
import time

from lab import Failed, wait_until
from lab.basics import run
from lab.hosts import PREFIX

CLONE_NEWNET = 0x40000000
GUEST, CLIENT, PORT = "10.1.0.2", "10.1.0.1", 11211 # as in tests/guest/init
VALUE_BYTES = 64 << 10
ASK_SECONDS = 60

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(namespace):
    """This thread's sockets are made in there."""
    with open("/proc/thread-self/ns/net", encoding="ascii") as here, \
            open(f"/run/netns/{namespace}", encoding="ascii") as there:
        if _libc.setns(there.fileno(), CLONE_NEWNET):
            raise Failed(f"setns: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            _libc.setns(here.fileno(), CLONE_NEWNET)


class Network:
    """A third namespace, the client's, with a cable to a bridge on each host;
    the guest's card is on the bridge of the host that it runs on."""

    def __init__(self, lab):
        self.hosts = lab.hosts
        self.namespace = f"{PREFIX}{os.getpid()}-{lab.directory.name[-6:]}-c"
        run("ip", "netns", "add", self.namespace)
        lab.stack.callback(run, "ip", "netns", "delete", self.namespace)
        self.ip("link", "add", "bridge0", "type", "bridge")
        self.ip("address", "add", f"{CLIENT}/24", "dev", "bridge0")
        self.ip("link", "set", "bridge0", "up")
        for host in self.hosts:
            self.cable(host)

    def ip(self, *words, namespace=None):
        run("ip", "-n", namespace or self.namespace, *words)

    def cable(self, host):
        there = {"namespace": host.namespace}
        name = f"host-{host.letter}"
        self.ip("link", "add", name, "type", "veth", "peer", "name", "client",
                "netns", host.namespace)
        self.ip("link", "add", "bridge0", "type", "bridge", **there)
        self.ip("tuntap", "add", "card0", "mode", "tap", **there)
        self.ip("link", "set", name, "master", "bridge0", "up")
        for device in ("client", "card0"):
            self.ip("link", "set", device, "master", "bridge0", "up", **there)
        self.ip("link", "set", "bridge0", "up", **there)

    @staticmethod
    def card():
        """What QEMU is told, on either host."""
        return ["-netdev", "tap,id=card,ifname=card0,script=no,downscript=no",
                "-device", "virtio-net-pci,netdev=card,romfile="]


class Client:
    """One connection that must live through the move. Every value that comes
    is checked; each answer's time is kept."""

    def __init__(self, network, mebibytes, seed=1):
        self.keys = mebibytes * (1 << 20) // VALUE_BYTES
        self.random = random.Random(seed)
        with inside(network.namespace):
            self.socket = wait_until(self._connect, "memcached answers", 60, 1)
        self.socket.settimeout(ASK_SECONDS)
        self.stream = self.socket.makefile("rb")
        self.waits = [] # when it was asked, seconds until the answer
        self.error = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._ask_on, daemon=True)

    @staticmethod
    def _connect():
        try:
            return socket.create_connection((GUEST, PORT), 2)
        except OSError:
            return None

    @staticmethod
    def value(key):
        return (b"%08d" % key) * (VALUE_BYTES // 8)

    def fill(self):
        for key in range(self.keys):
            self.socket.sendall(b"set %d 0 0 %d\r\n%b\r\n" % (
                key, VALUE_BYTES, self.value(key)))
            if self.stream.readline() != b"STORED\r\n":
                raise Failed(f"memcached does not store value {key}")

    def ask(self, key):
        self.socket.sendall(b"get %d\r\n" % key)
        head = self.stream.readline()
        if head != b"VALUE %d 0 %d\r\n" % (key, VALUE_BYTES):
            raise Failed(f"memcached answers {head!r} for {key}")
        body = self.stream.read(VALUE_BYTES + 7)
        if body != self.value(key) + b"\r\nEND\r\n":
            raise Failed(f"memcached has a wrong value for {key}")

    def _ask_on(self):
        try:
            while not self.over.is_set():
                start = time.time()
                self.ask(self.random.randrange(self.keys))
                self.waits.append((start, time.time() - start))
        except (Failed, OSError) as error:
            self.error = error

    def begin(self):
        self.thread.start()

    def end(self):
        self.over.set()
        self.thread.join(ASK_SECONDS + 5)
        self.socket.close()
        if self.error:
            raise Failed(f"the client: {self.error}")

    def figures(self, moment):
        """Of the second before the switchover and of the two after it."""
        before = sorted(wait for start, wait in self.waits
                        if moment - 1 <= start < moment)
        after = sorted(wait for start, wait in self.waits
                       if start + wait > moment and start < moment + 2)
        if not before or not after:
            raise Failed("the client has no answers around the switchover")
        return {"client_p50_ms_before": 1000 * before[len(before) // 2],
                "client_p50_ms": 1000 * after[len(after) // 2],
                "client_p99_ms": 1000 * after[len(after) * 99 // 100],
                "client_longest_gap_ms": 1000 * after[-1],
                "client_answers_in_two_seconds": len(after)}
