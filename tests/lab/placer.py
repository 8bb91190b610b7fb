# SPDX-License-Identifier: GPL-2.0-or-later
"""A remapd's ends of the placers' sockets, to say there what it never would."""

import ctypes
import errno
import os
import pathlib
import socket
import struct

from .basics import Failed

PIDFD_GETFD = 438
COMMAND, ANSWER = struct.Struct(">IIQQ"), struct.Struct(">IIQ") # placer.h
PRIME, MOVE = 1, 2
SLOT_BYTES = 2 << 20
SECONDS = 10

_libc = ctypes.CDLL(None, use_errno=True)


def sockets(pid):
    """The placers' sockets among a process's descriptors, each a duplicate:
    nameless, where a hand-off's has the path that it was accepted at."""
    pidfd = os.pidfd_open(pid)
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if not os.readlink(entry).startswith("socket:"):
            continue
        fd = _libc.syscall(PIDFD_GETFD, pidfd, int(entry.name), 0)
        if fd < 0:
            raise Failed(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        end = socket.socket(fileno=fd)
        if (end.family == socket.AF_UNIX and end.type == socket.SOCK_SEQPACKET
                and not end.getsockname()):
            end.settimeout(SECONDS)
            found.append(end)
        else:
            end.close()
    os.close(pidfd)
    return found


def tell(end, operation, slot=0, hva=0, length=SLOT_BYTES):
    """Says one command; returns the name of the error, or None, and the bytes
    that were done."""
    end.send(COMMAND.pack(operation, slot, hva, length))
    answered, error, done = ANSWER.unpack(end.recv(ANSWER.size))
    if answered != operation:
        raise Failed(f"command {operation} was answered as {answered}")
    return errno.errorcode.get(error), done
