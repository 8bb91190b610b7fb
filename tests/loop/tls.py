#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Encryption between two remapd, and who is refused.

tls.py [PART OF A NAME]...   runs the tests that have one of these, or all
"""

import contextlib
import datetime
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

# pylint: disable=import-error,wildcard-import,unused-wildcard-import
from pair import (Failed, LoopbackHost, Migration, Pair, SANITIZED, huge_pages,
                  own_network, require, run, wait_until)
from wire import *
from harness import Skip, run as run_tests, test
from lab import hosts as lab_hosts, pki
from lab.basics import stop_on_signals
from lab.daemon import PORT, Remapd, refusal

DAY = datetime.timedelta(days=1)
SOURCE_HOST, DESTINATION_HOST = "127.0.0.1", "127.0.0.2"
CIPHER = re.compile("TLS_")
COMPLAINT = re.compile(r"remapd: (?:error|warning): (.*)")
DIRECTORY = pathlib.Path(tempfile.mkdtemp(prefix="remapd-pki-"))
CA, OTHER_CA = (pki.Authority(DIRECTORY, each) for each in ("lab", "other"))
GOOD = {host: CA.issue(f"good-{host}", [host])
        for host in (SOURCE_HOST, DESTINATION_HOST)}
EXPIRED = {"begin": -2 * DAY, "end": -DAY}
NOT_YET = {"begin": DAY, "end": 2 * DAY}


class TlsPair(Pair):
    """Two remapd on loopback that encrypt, each with options of its own."""

    def __init__(self, source=(), destination=()):
        super().__init__("loopback")
        self.own = {SOURCE_HOST: source, DESTINATION_HOST: destination}

    def start_daemon(self, host):
        good = GOOD[host.address]
        host.remapd = Remapd(host, (
            "--tls", "on", *pki.options(CA.file, good, good),
            *self.own[host.address]))
        self.stack.callback(host.remapd.close)

    def complaints(self):
        """What each side has to complain of, both waited for."""
        def both():
            found = [COMPLAINT.findall(host.remapd.process.output())
                     for host in self.hosts]
            return found if all(found) else None
        return wait_until(both, f"a line on both sides; {self.tail()}", PATIENCE)

    def join(self):
        """A ticket from the one to the other, as QEMUs carry it; returns what
        the source's QEMU is told."""
        with contextlib.closing(Qemu(self.hosts[0].remapd)) as source, \
                contextlib.closing(Qemu(self.hosts[1].remapd)) as destination:
            source.hello(SOURCE, address="")
            destination.hello(DESTINATION, address=DESTINATION_HOST)
            source.send(TICKET, destination.expect(TICKET))
            answer = source.recv()
            return answer and answer[0]


def ask_refused(pair, source, destination):
    """The source is refused, or refuses; both say so, in one line each."""
    require(pair.join() == ERROR, f"the source has joined; {pair.tail()}")
    said = pair.complaints()
    for side, lines, wanted in zip(("source", "destination"), said,
                                   (source, destination)):
        print(f"#   {side + ':':12} {lines[0]}")
        require(len(lines) == 1 and re.search(wanted, lines[0]),
                f"{side}: {lines}, wanted /{wanted}/")


# Whose certificate it is, what is wrong with it, what either side says.
CERTIFICATES = {
    "client_expired": (
        SOURCE_HOST, lambda: CA.issue("old", [SOURCE_HOST], **EXPIRED),
        "refuses this host's certificate: certificate expired",
        "certificate is refused: certificate has expired"),
    "client_not_yet_valid": (
        SOURCE_HOST, lambda: CA.issue("young", [SOURCE_HOST], **NOT_YET),
        "refuses this host's certificate: bad certificate",
        "certificate is refused: certificate is not yet valid"),
    "client_of_another_ca": (
        SOURCE_HOST, lambda: OTHER_CA.issue("alien", [SOURCE_HOST]),
        "refuses this host's certificate: unknown CA",
        "certificate is refused: unable to get local issuer"),
    "client_by_a_servers": (
        SOURCE_HOST, lambda: CA.issue("s-only", [SOURCE_HOST], ["server"]),
        "refuses this host's certificate: unsupported certificate",
        "certificate is refused: un(suitable|supported) certificate purpose"),
    "server_expired": (
        DESTINATION_HOST, lambda: CA.issue("old", [DESTINATION_HOST], **EXPIRED),
        "certificate is refused: certificate has expired",
        "refuses this host's certificate: certificate expired"),
    "server_not_yet_valid": (
        DESTINATION_HOST, lambda: CA.issue("young", [DESTINATION_HOST], **NOT_YET),
        "certificate is refused: certificate is not yet valid",
        "refuses this host's certificate: bad certificate"),
    "server_of_another_ca": (
        DESTINATION_HOST, lambda: OTHER_CA.issue("alien", [DESTINATION_HOST]),
        "certificate is refused: unable to get local issuer",
        "refuses this host's certificate: unknown CA"),
    "server_by_a_clients": (
        DESTINATION_HOST, lambda: CA.issue("c-only", [DESTINATION_HOST], ["client"]),
        "certificate is refused: un(suitable|supported) certificate purpose",
        "refuses this host's certificate: unsupported certificate"),
}


@test(case=CERTIFICATES)
def certificate(case):
    """A certificate that does not do; migrations are as before afterwards."""
    host, issue, source, destination = CERTIFICATES[case]
    files = issue()
    bad = pki.options(CA.file, files, files)
    with TlsPair(**{"source" if host == SOURCE_HOST else "destination":
                    bad}) as pair:
        ask_refused(pair, source, destination)


@test
def client_that_is_not_allowed():
    with TlsPair(destination=("--tls-allow", "10.1.1.1,somebody")) as pair:
        ask_refused(pair, "refuses this host's certificate: bad certificate",
                    "certificate is refused: tls-allow names nobody in it")
    with TlsPair(destination=("--tls-allow", f"somebody, {SOURCE_HOST}")) as pair:
        require(pair.join() == JOINED, pair.tail())


@test
def server_is_known_by_the_tickets_name():
    """Its certificate has no address, as libvirt's often have none."""
    named = CA.issue("named", ["b.example"])
    with TlsPair(destination=pki.options(CA.file, named, named)) as pair:
        require(pair.join() == JOINED, pair.tail())


@test
def another_host_answers():
    """One with a good certificate of its own stands where the ticket's host
    should: a packet filter or a router has been told so."""
    elsewhere = CA.issue("elsewhere", ["192.0.2.7", "c.example"])
    with TlsPair() as pair:
        host = LoopbackHost("127.0.0.3", pair.directory)
        host.remapd = Remapd(host, (
            "--tls", "on", *pki.options(CA.file, elsewhere, elsewhere)))
        pair.stack.callback(host.remapd.close)
        with contextlib.closing(Qemu(pair.hosts[0].remapd)) as source, \
                contextlib.closing(Qemu(pair.hosts[1].remapd)) as destination:
            source.hello(SOURCE, address="")
            destination.hello(DESTINATION, address=DESTINATION_HOST)
            body = destination.expect(TICKET)
            size, = struct.unpack(">H", body[:2])
            ticket = pb.Ticket.FromString(body[2:2 + size])
            ticket.address[:] = ["127.0.0.3"]
            packed = ticket.SerializeToString()
            source.send(TICKET, (struct.pack(">H", len(packed)) + packed)
                        .ljust(len(body), b"\0"))
            source.expect(ERROR)
        pair.hosts[1] = host
        for side, lines, wanted in zip(
                ("source", "destination"), pair.complaints(),
                ("it is for another host than 127.0.0.3 or good-127.0.0.2",
                 "refuses this host's certificate: bad certificate")):
            print(f"#   {side + ':':12} {lines[0]}")
            require(re.search(wanted, lines[0]), f"{lines}")


@test
def clear_source():
    with TlsPair(source=("--tls", "off")) as pair:
        ask_refused(pair, "one side speaks TLS, the other does not",
                    "one side speaks TLS, the other does not")


@test
def clear_destination():
    with TlsPair(destination=("--tls", "off")) as pair:
        ask_refused(pair, "one side speaks TLS, the other does not",
                    "one side speaks TLS, the other does not")


def python_client(version=None, certificate=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CA.file)
    if version:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def connect(context):
    connection = socket.create_connection((DESTINATION_HOST, PORT), PATIENCE)
    return context.wrap_socket(connection, server_hostname=DESTINATION_HOST)


@test(case=("no_certificate", "tls_1_2"))
def client(case):
    """What no remapd does, but others may."""
    says, context, answer = {
        "no_certificate": ("has shown no certificate", python_client(),
                           "CERTIFICATE_REQUIRED"),
        "tls_1_2": ("does not speak TLS 1.3", python_client(
            ssl.TLSVersion.TLSv1_2, GOOD[SOURCE_HOST]), "PROTOCOL_VERSION"),
    }[case]
    with TlsPair() as pair:
        try:
            with connect(context) as connection:
                connection.recv(1)
            raise Failed("it was let in")
        except ssl.SSLError as error:
            require(answer in str(error), f"the client sees {error}")
            print(f"#   client:      {error}")
        found = wait_until(lambda: COMPLAINT.findall(
            pair.hosts[1].remapd.process.output()), "a line", PATIENCE)
        print(f"#   destination: {found[0]}")
        require(len(found) == 1 and says in found[0], f"{found}")
        pair.migrate(mib=4)


@test
def server_of_tls_1_2():
    """The source meets one that would have it speak an older version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*GOOD[DESTINATION_HOST])
    seen = []

    def serve(listener):
        try:
            context.wrap_socket(listener.accept()[0], server_side=True)
        except ssl.SSLError as error:
            seen.append(str(error))
    with TlsPair() as pair, socket.create_server(("127.0.0.4", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with contextlib.closing(Qemu(pair.hosts[0].remapd)) as source:
            source.hello(SOURCE, address="")
            ticket = pb.Ticket(version=WIRE_VERSION, session=b"s" * 16,
                               secret=b"t" * 32, address=["127.0.0.4"],
                               port=listener.getsockname()[1])
            packed = ticket.SerializeToString()
            source.send(TICKET, struct.pack(">H", len(packed)) +
                        packed.ljust(384, b"\0"))
            text = source.expect(ERROR)
        thread.join()
    print(f"#   source:      {text.rstrip(bytes(1)).decode()}")
    print(f"#   server:      {seen[0]}")
    require(b"does not speak TLS 1.3" in text, f"{text}")


@test(half=(False, True))
def silent_in_the_handshake(half):
    with TlsPair() as pair:
        with socket.create_connection((DESTINATION_HOST, PORT)) as connection:
            if half:
                connection.sendall(client_hello()[:100])
            began = time.monotonic()
            connection.settimeout(PATIENCE)
            require(connection.recv(1) == b"", "it speaks")
            took = time.monotonic() - began
        require(took > 4, f"dropped after {took:.1f} s")
        found = COMPLAINT.findall(pair.hosts[1].remapd.process.output())
        print(f"#   destination: {found[0]} (after {took:.1f} s)")
        require(len(found) == 1 and "no hello in time" in found[0], f"{found}")
        pair.migrate(mib=4)


def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = python_client().wrap_bio(incoming, outgoing,
                                   server_hostname=DESTINATION_HOST)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@test
def a_thousand_silent_in_the_handshake():
    """A migration is not kept from it, and nothing stays of them."""
    with TlsPair() as pair, contextlib.ExitStack() as stack:
        pair.migrate(mib=4)
        process, begun = pair.hosts[1].remapd.process, client_hello()
        before = process.descriptors()
        for number in range(1000):
            stranger = stack.enter_context(
                socket.create_connection((DESTINATION_HOST, PORT)))
            with contextlib.suppress(OSError): # it may be one too many
                stranger.sendall(begun[:100] if number % 2 else begun)
        print(f"#   destination: {process.descriptors()} descriptors, {before} before")
        pair.migrate(mib=4)
        wait_until(lambda: process.descriptors() <= before, "all are dropped")


# What follows a good hello, and what both sides then know.
UNRULY = {
    "many_changes_of_cipher": (b"\x14\3\3\0\1\1" * 50000, "ccs message"),
    "many_empty_records": (b"\x17\3\3\0\0" * 50000, "bad record"),
    "an_unasked_handshake": (b"\x16\3\3\x40\0" + bytes(1 << 17), "record"),
}


@test(case=UNRULY)
def unruly_client(case):
    data, says = UNRULY[case]
    with TlsPair() as pair:
        with socket.create_connection((DESTINATION_HOST, PORT)) as client:
            with contextlib.suppress(OSError): # dropped before it is all said
                client.sendall(client_hello() + data)
            wait_until(lambda: COMPLAINT.search(
                pair.hosts[1].remapd.process.output()), "a line")
        found = COMPLAINT.findall(pair.hosts[1].remapd.process.output())
        print(f"#   destination: {found[0]}")
        require(len(found) == 1 and says in found[0], f"{found}")
        pair.migrate(mib=4)


@test
def certificate_of_many_names():
    """It is refused by its size, and takes no memory that stays."""
    with TlsPair() as pair:
        files = CA.issue("many", [f"host{i}.example" for i in range(9000)])
        with contextlib.suppress(OSError), \
                connect(python_client(None, files)) as client:
            client.recv(1)
        wait_until(lambda: "excessive message size" in
                   pair.hosts[1].remapd.process.output(), "it is refused")
        pair.migrate(mib=4)


class TlsPeer(Peer):
    """As a source whose certificate is good."""

    @classmethod
    def connect(cls, host):
        return cls(connect(python_client(None, GOOD[SOURCE_HOST])))


class ToTls(ToDestination):
    def peer(self):
        return self.enter_context(contextlib.closing(TlsPeer.connect(self.host)))


# What is wrong with a ticket; what both sides say.
TICKETS = {
    "wrong": "the ticket is wrong",
    "used": "the ticket has been used",
    "of_another_session": "the ticket is wrong",
    "of_no_session": "there is no such session",
    "stale": "the ticket is too old",
}


@test(case=TICKETS)
def ticket(case):
    """A good certificate is not enough."""
    if case == "stale" and SANITIZED:
        raise Skip("a minute that shows a sanitizer nothing new")
    with TlsPair() as pair:
        host = pair.hosts[1]
        session = pair.stack.enter_context(ToTls(host))
        secret, number = session.ticket.secret, session.ticket.session
        if case == "wrong":
            secret = bytes([secret[0] ^ 1]) + secret[1:]
        elif case == "used":
            session.hello()
        elif case == "of_another_session":
            number = pair.stack.enter_context(ToTls(host)).ticket.session
        elif case == "of_no_session":
            number = b"?" * 16
        elif case == "stale":
            time.sleep(61)
        peer = session.peer()
        peer.hello(number, secret)
        reason = peer.expect("abort").reason
        found = COMPLAINT.findall(host.remapd.process.output())
        print(f"#   source:      {reason}")
        print(f"#   destination: {found[0]}")
        require(reason == TICKETS[case], reason)
        require(len(found) == 1 and found[0].endswith(reason), f"{found}")


class Listener:
    """Sees everything that passes loopback."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                    socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20) # RCVBUFFORCE
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.5)
        self.frames = self.bytes = 0
        self.thread = threading.Thread(target=self.run)
        self.ended = False
        self.thread.start()

    def run(self):
        while True:
            try:
                packet = self.socket.recv(1 << 16)
            except TimeoutError: # all has been seen, or nothing was said yet
                if self.ended:
                    return
                continue
            self.bytes += len(packet)
            self.frames += packet.count(b"RMPF")

    def close(self):
        self.ended = True
        self.thread.join()
        self.socket.close()
        return self.frames, self.bytes


@test(tls=("on", "off"))
def the_wire(tls):
    """No frame can be seen on it, or many."""
    listener = Listener()
    with TlsPair(*[("--tls", tls)] * 2) as pair:
        pair.migrate(mib=16, kind="anon", zero=0)
    frames, nbytes = listener.close()
    print(f"# tls {tls}: {frames} headers of frames in {nbytes} bytes")
    require(nbytes > 16 << 20, "nothing was seen")
    require((frames == 0) == (tls == "on"), f"{frames} frames seen")


@test(kind=("anon", "memfd", "hugetlb"))
def migrations(kind):
    """Every byte is right, and both sides say how it was encrypted."""
    pool = huge_pages(64 << 20) if kind == "hugetlb" else contextlib.nullcontext()
    with pool, TlsPair(*[("--urgent-channels", "2", "--bulk-channels", "3")] * 2) as pair:
        moved = pair.migrate(mib=32, kind=kind)
        ciphers = [moved.report(role)["cipher"]
                   for role in ("source", "destination")]
    print(f"# {kind}: {ciphers}")
    require(all(CIPHER.match(each) for each in ciphers), f"{ciphers}")


def namespaces(options, link="none"):
    """Two hosts; `options` as a function of their addresses."""
    class Hosts(Pair):
        def start_daemon(self, host):
            host.remapd = Remapd(host, options(host.address))
            self.stack.callback(host.remapd.close)
    return Hosts(link)


@test
def a_fresh_install():
    """tls = auto, and no certificates: nobody is let in, both ends say why;
    on loopback nothing is needed. Certificates that come count at once."""
    directory = DIRECTORY / "fresh"

    def files(address):
        own = directory / address
        own.mkdir(parents=True, exist_ok=True)
        return [(own / f"{role}.pem", own / f"{role}.key")
                for role in ("server", "client")]

    def options(address):
        return ("--tls", "auto", *pki.options(directory / "ca.pem", *files(address)))
    with namespaces(options) as pair:
        for host in pair.hosts:
            found = COMPLAINT.findall(host.remapd.process.output())
            print(f"#   {host.letter}: {found[0]}")
            require(len(found) == 1 and "ca.pem: No such file" in found[0],
                    f"{found}")
        process = Migration(pair, mib=4).process
        process.child.wait(PATIENCE)
        for host in pair.hosts[:1]:
            require("this host has no certificates" in
                    host.remapd.process.output(), host.remapd.process.output())
        shutil.copy(CA.file, directory / "ca.pem")
        for host in pair.hosts:
            for role in files(host.address):
                for file, source in zip(role, CA.issue("new", [host.address])):
                    shutil.copy(source, file)
            os.kill(host.remapd.process.pid, signal.SIGHUP)
            wait_until(lambda host=host: "certificates have been read" in
                       host.remapd.process.output(), "reloaded", PATIENCE)
        moved = pair.migrate(mib=4)
        require(CIPHER.match(moved.report("source")["cipher"]), "in the clear")


@test
def asked_for_and_not_there():
    """tls = on without a certificate: it does not start."""
    said = refusal("--tls", "on", "--tls-ca", DIRECTORY / "nowhere.pem")
    print(f"#   {said.strip()}")
    require("nowhere.pem: No such file" in said, said)


def replace(files, others):
    for file, other in zip(files, others):
        temporary = file.with_suffix(".new")
        shutil.copy(other, temporary)
        temporary.rename(file)


def reload(host, says):
    mark = len(host.remapd.process.output())
    os.kill(host.remapd.process.pid, signal.SIGHUP)
    wait_until(lambda: says in host.remapd.process.output()[mark:],
               says, PATIENCE)


@test
def new_certificates():
    """What a reload brings counts for new connections, those that come back
    after a pause among them; and touches none that is there."""
    mine = CA.issue("mine", ["10.0.0.2"])
    good, bad = (CA.issue(each, ["10.0.0.2"], **dates)
                 for each, dates in (("first", {}), ("second", EXPIRED)))
    replace(mine, good)

    def options(address):
        files = mine if address == "10.0.0.2" else CA.issue("a", [address])
        return ("--tls", "on", *pki.options(CA.file, files, files),
                "--peer-timeout", "2", "--reconnect-interval", "1")
    with namespaces(options, "100mbit") as pair:
        source, destination = pair.hosts
        going = Migration(pair, mib=40, kind="anon", zero=0)
        wait_until(lambda: "active" in source.remapd.process.output(),
                   "it is active", PATIENCE)
        replace(mine, bad)
        reload(destination, "certificates have been read")
        mine[1].write_text("no key\n")
        reload(destination, "certificates stay as they were")
        replace(mine, bad)
        time.sleep(1)
        require("paused" not in source.remapd.process.output(),
                "a reload has cut a connection")
        for way in ("down", "up"):
            for host in pair.hosts:
                run("ip", "-n", host.namespace, "link", "set",
                    lab_hosts.DEVICE, way)
            if way == "down":
                wait_until(lambda: "paused" in source.remapd.process.output(),
                           "it pauses", PATIENCE)
        wait_until(lambda: "certificate has expired" in
                   source.remapd.process.output() or
                   "certificate expired" in destination.remapd.process.output(),
                   f"the new one is refused; {pair.tail()}", PATIENCE)
        replace(mine, good)
        reload(destination, "certificates have been read")
        going.finish()
        require(going.report("source")["pauses"] == 1, "pauses")
        for line in COMPLAINT.findall(destination.remapd.process.output())[:3]:
            print(f"#   destination: {line}")


@test(side=("source", "destination"))
def daemon_killed(side):
    """The next one comes back encrypted, and knows as whom: of the
    destination's certificate only the name is right, which the ticket said."""
    def options(address):
        names = ["b.example"] if address == "10.0.0.2" else [address]
        files = CA.issue(f"of-{address}", names)
        return ("--tls", "on", *pki.options(CA.file, files, files))
    with namespaces(options, "100mbit") as pair:
        going = Migration(pair, mib=24, kind="anon", zero=0)
        wait_until(lambda: all("active" in host.remapd.process.output()
                               for host in pair.hosts), "it is active", PATIENCE)
        pair.restart(pair.hosts[("source", "destination").index(side)])
        going.finish()
        reports = [going.report(role) for role in ("source", "destination")]
        require(all(CIPHER.match(each["cipher"]) for each in reports),
                f"{[each['cipher'] for each in reports]}")
        require(any(each["pauses"] for each in reports), "nothing was lost")


if __name__ == "__main__":
    stop_on_signals()
    own_network()
    try:
        sys.exit(run_tests(sys.argv[1:]))
    finally:
        shutil.rmtree(DIRECTORY)
