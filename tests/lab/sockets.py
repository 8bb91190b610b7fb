# SPDX-License-Identifier: GPL-2.0-or-later
"""Other processes' sockets."""

import ctypes
import os
import pathlib
import socket

from .basics import Failed

PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)


def sockets_of(pid):
    """Duplicates of all sockets among a process's descriptors."""
    pidfd = os.pidfd_open(pid)
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if not os.readlink(entry).startswith("socket:"):
            continue
        fd = _libc.syscall(PIDFD_GETFD, pidfd, int(entry.name), 0)
        if fd < 0:
            raise Failed(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        found.append(socket.socket(fileno=fd))
    os.close(pidfd)
    return found
