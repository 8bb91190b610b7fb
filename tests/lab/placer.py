# SPDX-License-Identifier: GPL-2.0-or-later
"""A remapd's ends of the placers' sockets, to say there what it never would."""

import errno
import socket
import struct

from .basics import Failed
from .sockets import sockets_of

COMMAND, ANSWER = struct.Struct(">IIQQQ64s"), struct.Struct(">IIQQ") # placer.h
PRIME, MOVE, RECEIVE = 1, 2, 3
SLOT_BYTES = 2 << 20
SECONDS = 10


def sockets(pid):
    """The placers' sockets among a process's descriptors, each a duplicate:
    nameless, where a hand-off's has the path that it was accepted at."""
    found = []
    for end in sockets_of(pid):
        if (end.family == socket.AF_UNIX and end.type == socket.SOCK_SEQPACKET
                and not end.getsockname()):
            end.settimeout(SECONDS)
            found.append(end)
        else:
            end.close()
    return found


def staging(machine):
    """The addresses of the first slots of a QEMU's stagings: huge pages that
    are neither forked nor dumped."""
    found, start = [], 0
    with open(f"/proc/{machine.pid}/smaps", encoding="ascii") as smaps:
        for line in smaps:
            word = line.split()
            if "-" in word[0] and ":" not in word[0]:
                start = int(word[0].split("-")[0], 16)
            elif word[0] == "VmFlags:" and {"dc", "dd", "hg"} <= set(word):
                found.append(start)
    return found


def tell(end, operation, staging, hva=0, length=SLOT_BYTES, lent=()):
    """Says one command, with the descriptors `lent`; returns the name of the
    error, or None, and the bytes that were done."""
    socket.send_fds(end, [COMMAND.pack(operation, 0, staging, hva, length,
                                       64 * b"\xff")], lent)
    answered, error, done, _ = ANSWER.unpack(end.recv(ANSWER.size))
    if answered != operation:
        raise Failed(f"command {operation} was answered as {answered}")
    return errno.errorcode.get(error), done
