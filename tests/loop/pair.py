# SPDX-License-Identifier: GPL-2.0-or-later
"""Two remapd, and migrations without a guest between them."""

import contextlib
import ctypes
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "vm")]

# pylint: disable=wrong-import-position
from harness import require
from lab import Failed, wait_until
from lab import hosts as lab_hosts
from lab.basics import PATIENCE, Process, run
from lab.daemon import PORT, Remapd
from lab.memory import HugePages

BUILD = pathlib.Path(os.environ.get("BUILD_DIR", TESTS.parent / "build"))
PROGRAMS = BUILD / "tests"
SANITIZED = "san" in BUILD.name
SANITIZER = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error:|"
                       r"LeakSanitizer")
CLONE_NEWNET = 0x40000000
NAMES = itertools.count()


def own_network():
    """From here on this process has a loopback of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise Failed(f"unshare: {os.strerror(ctypes.get_errno())}")
    run("ip", "link", "set", "lo", "up")


@contextlib.contextmanager
def few_descriptors(process, spare):
    """The process can open so many more; with "open files" it says why not."""
    old = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir(f"/proc/{process.pid}/fd")))
    free = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(free, spare, None))
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, old[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, old)


class LoopbackHost:
    """A host that shares this process's network with others."""

    def __init__(self, address, directory):
        self.address = address
        self.directory = directory / address
        self.directory.mkdir()

    def spawn(self, command, name):
        return Process(command, self.directory / f"{name}.log")


class Migration:
    """One run of guestless."""

    def __init__(self, pair, **options):
        self.pair = pair
        self.name = f"loop{next(NAMES)}"
        source, destination = pair.hosts
        command = [PROGRAMS / "guestless", "--name", self.name,
                   "--address", destination.address,
                   "--source", source.remapd.handoff,
                   "--destination", destination.remapd.handoff]
        for key, value in options.items():
            command.append(f"--{key}")
            if value is not True:
                command.append(str(value))
        self.log = pair.directory / f"{self.name}.log"
        self.process = Process(command, self.log)
        self.figures = None

    def finish(self, seconds=180):
        """Waits for the end; every byte must have been right."""
        seconds *= PATIENCE
        try:
            code = self.process.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.close()
            raise Failed(f"guestless: no end within {seconds:g} s; "
                         f"{self.pair.tail()}") from None
        text = self.process.output().strip()
        require(code == 0, f"guestless: {text}; {self.pair.tail()}")
        self.figures = json.loads(text)
        require(self.figures["wrong"] == 0, text)
        return self

    def report(self, role):
        host = self.pair.hosts[0 if role == "source" else 1]
        return host.remapd.report(role, self.name, ())


class Pair:
    """`link`: "loopback", or of two namespaces: "none", "10gbit", …; `tls`: "on"
    or "off", None: as everywhere else."""

    def __init__(self, link="none", options=(), tls=None):
        self.link = link
        self.tls = tls
        self.options = options
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with self.stack:
            # Short, for a socket's path has at most 107 bytes.
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="remapd-"))
            self.stack.callback(shutil.rmtree, self.directory)
            if self.link == "loopback":
                self.hosts = [LoopbackHost(address, self.directory)
                              for address in ("127.0.0.1", "127.0.0.2")]
            else:
                self.hosts = [lab_hosts.Host(letter, address, self.directory)
                              for letter, address in
                              (("a", "10.0.0.1"), ("b", "10.0.0.2"))]
                self.stack.callback(lab_hosts.disconnect, self.hosts)
                lab_hosts.connect(self.hosts, self.link)
            for host in self.hosts:
                self.start_daemon(host)
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, error, *_):
        try:
            if error is None:
                self.end_daemons()
        finally:
            self.stack.close()

    def end_daemons(self):
        """They end when they are told to, and no sanitizer found anything."""
        for host in self.hosts:
            if host.remapd.process.child.returncode == 0:
                continue # ended already
            self.check_daemon(host)
            host.remapd.process.close(patience=30)
            code = host.remapd.process.child.returncode
            require(code == 0, f"remapd ended with {code}: {self.tail()}")
            self.check_log(host)

    def restart(self, host, how=signal.SIGKILL, **other):
        """Ends a remapd, and starts another in its place."""
        self.end_daemon(host, how)
        self.start_daemon(host, **other)

    def end_daemon(self, host, how=signal.SIGKILL):
        process = host.remapd.process
        self.check_log(host)
        os.kill(process.pid, how)
        os.kill(process.pid, signal.SIGCONT) # were it stopped
        process.child.wait()

    def start_daemon(self, host, **other):
        host.remapd = Remapd(host, self.options, tls=self.tls, **other)
        self.stack.callback(host.remapd.close)

    def check_daemon(self, host):
        host.remapd.process.check_alive()
        self.check_log(host)

    @staticmethod
    def check_log(host):
        text = host.remapd.process.output()
        found = SANITIZER.search(text)
        if found:
            raise Failed(text[found.start():][:4000])

    def tail(self):
        return "\n".join(f"remapd {host.address}: {line}"
                         for host in self.hosts for line in
                         host.remapd.process.output().splitlines()[-12:])

    def migrate(self, **options):
        return Migration(self, **options).finish()


class ProxiedPair(Pair):
    """The source reaches the destination through proxy.py."""

    ADDRESS = "10.0.1.3"

    def __init__(self, link, options, tls=None):
        super().__init__(link, (*options, "--advertise", self.ADDRESS), tls)

    def __enter__(self):
        super().__enter__()
        host = self.hosts[1]
        try:
            run("ip", "-n", host.namespace, "address", "add",
                f"{self.ADDRESS}/32", "dev", lab_hosts.DEVICE)
            self.route()
            self.path = self.directory / "proxy"
            os.environ["PROTOCOL"] = str(PROGRAMS)
            self.proxy = host.spawn(
                [sys.executable, TESTS / "loop/proxy.py", self.ADDRESS,
                 host.address, PORT, self.path], "proxy")
            self.stack.callback(self.proxy.close)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.bind(str(self.directory / "tester"))
            self.socket.settimeout(10)
            wait_until(self.ready, "the proxy is ready")
        except BaseException:
            self.stack.close()
            raise
        return self

    def route(self):
        run("ip", "-n", self.hosts[0].namespace, "route", "replace",
            self.ADDRESS, "via", self.hosts[1].address)

    def ready(self):
        self.proxy.check_alive()
        return self.path.exists()

    def tell(self, text):
        self.socket.sendto(text.encode(), str(self.path))
        return int(self.socket.recv(100))


@contextlib.contextmanager
def huge_pages(nbytes):
    pool = HugePages()
    pool.reserve(nbytes)
    try:
        yield
    finally:
        pool.give_back()


__all__ = ["BUILD", "Failed", "Migration", "PROGRAMS", "Pair", "Process",
           "ProxiedPair", "SANITIZED", "huge_pages", "own_network", "require",
           "run", "wait_until"]
