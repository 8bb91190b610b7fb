# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts: two network namespaces joined by a veth pair."""

import fcntl
import json
import os
import re
import signal

from .basics import Failed, Refused, Process, pid_alive, run

LINKS = "none, or a rate and perhaps a delay: 10gbit, 1gbit, 1gbit+1ms"
PREFIX = "remapd-"
DEVICE = "link0"
LOCK = "/run/remapd-lab.lock"
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"


class Host:
    def __init__(self, letter, address, directory):
        self.letter = letter
        self.address = address
        self.namespace = f"{PREFIX}{os.getpid()}-{directory.name[-6:]}-{letter}"
        self.directory = directory / letter
        self.directory.mkdir()
        self.port = 20000 # below those that a connection is given
        self.remapd = None

    def free_port(self):
        """A port for a migration; the namespace is all the lab's own."""
        self.port += 1
        return self.port

    def spawn(self, command, name):
        return Process(["ip", "netns", "exec", self.namespace, *command],
                       self.directory / f"{name}.log")

    def set_congestion(self, control):
        """Of connections to come. /proc/sys/net is that of who looks."""
        try:
            run("ip", "netns", "exec", self.namespace, "sh", "-c",
                f"echo {control} > {CONGESTION}")
        except Failed as error:
            raise Refused(
                f"congestion control {control} must be in "
                f"net.ipv4.tcp_allowed_congestion_control: {error}") from None

    def bytes_sent(self):
        link, = json.loads(run("ip", "-n", self.namespace, "-j", "-s", "link",
                               "show", "dev", DEVICE))
        return link["stats64"]["tx"]["bytes"]


def parse_link(link):
    """Returns the tc words of a LINK: rate and delay, each may be None."""
    if link == "none":
        return None, None
    match = re.fullmatch(r"(\d+)([gm])bit(?:\+(\d+(?:\.\d+)?[mu]s))?", link)
    if not match or not int(match[1]):
        raise Refused(f"LINK={link}: allowed are {LINKS}")
    return int(match[1]) * {"g": 10**9, "m": 10**6}[match[2]], match[3]


def shape(host, bits_per_second, delay):
    tc = ("tc", "-n", host.namespace, "qdisc", "add", "dev", DEVICE)
    # The bucket holds 10 ms, so that a slow timer does not lower the rate.
    burst = max(bits_per_second // 800, 1 << 17)
    try:
        run(*tc, "root", "handle", "1:", "tbf", "rate", str(bits_per_second),
            "burst", str(burst), "latency", "50ms")
    except Failed as error:
        raise Refused(f"LINK needs the kernel's tbf qdisc: {error}") from None
    if delay:
        try:
            run(*tc, "parent", "1:1", "netem", "delay", delay, "limit", "100000")
        except Failed as error:
            raise Refused("LINK with a delay needs the kernel's netem qdisc: "
                          f"{error}") from None


def unshape(host):
    run("tc", "-n", host.namespace, "qdisc", "delete", "dev", DEVICE, "root")


def remove_namespace(name):
    for pid in run("ip", "netns", "pids", name).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    run("ip", "netns", "delete", name)


def existing_namespaces():
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines()]


def sweep():
    """Removes the namespaces of labs whose process is gone."""
    with open(LOCK, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in existing_namespaces():
            owner = re.match(PREFIX + r"(\d+)-", name)
            if owner and not pid_alive(owner[1]):
                remove_namespace(name)


def connect(hosts, link):
    rate, delay = parse_link(link)
    first, second = hosts
    for host in hosts:
        run("ip", "netns", "add", host.namespace)
    run("ip", "link", "add", "name", DEVICE, "netns", first.namespace, "type",
        "veth", "peer", "name", DEVICE, "netns", second.namespace)
    for host in hosts:
        run("ip", "-n", host.namespace, "address", "add", f"{host.address}/30",
            "dev", DEVICE)
        for device in ("lo", DEVICE):
            run("ip", "-n", host.namespace, "link", "set", device, "up")
        if rate:
            shape(host, rate, delay)


def disconnect(hosts):
    existing = existing_namespaces()
    for host in hosts:
        if host.namespace in existing:
            remove_namespace(host.namespace)
