# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user devices: a process beside each QEMU that has the guest's memory
mapped too."""

import contextlib
import os
import pathlib
import socket
import struct
import threading

from .basics import wait_until

UDP_PORT = 5555


# Of the vhost-user protocol.
SET_MEM_TABLE, ADVISE, LISTEN, END, ADD_MEM_REG = 5, 28, 29, 30, 37
HEADER = struct.Struct("=III") # request, flags, bytes of the payload
REPLY = 1 << 2
MAX_FDS = 64


class Disk:
    """The guest's disk, one file for both hosts. The back end is QEMU's example
    program, or its storage daemon; as `nobody` it has no userfaultfd."""

    word = "disk"
    tamper = None # see Relay; at the destination

    def __init__(self, path, size=512 << 10, daemon=False, nobody=False):
        self.path = path
        self.daemon = daemon
        self.nobody = nobody
        with open(path, "wb") as file:
            file.truncate(size)
        path.chmod(0o666)

    def command(self, _host, tools, socket):
        prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup",
                  "--clear-groups"] if self.nobody else []
        if self.daemon:
            return [*prefix, tools / "storage-daemon/qemu-storage-daemon",
                    "--blockdev", f"file,node-name=disk,filename={self.path},"
                                  "cache.direct=on,locking=off",
                    "--export", "vhost-user-blk,id=disk,node-name=disk,"
                                f"writable=on,addr.type=unix,addr.path={socket}"]
        return [*prefix, tools / "contrib/vhost-user-blk/vhost-user-blk",
                "-s", socket, "-b", self.path]

    @staticmethod
    def device(chardev):
        return ["-device", f"vhost-user-blk-pci,chardev={chardev}"]


class Net:
    """The guest's network card. Its back end speaks UDP with a switch on the
    lab's first host, on which 10.0.2.100 echoes what comes to port 7. There is
    a cable to each host, so that the guest keeps its address."""

    word = "net"
    tamper = None

    def __init__(self, lab):
        first = lab.hosts[0]
        command = [lab.qemu, "-M", "none", "-display", "none", "-nodefaults",
                   "-netdev", "user,id=echo,restrict=on,"
                              "guestfwd=tcp:10.0.2.100:7-cmd:cat",
                   "-netdev", "hubport,id=port,hubid=0,netdev=echo"]
        self.remote = {}
        for host in lab.hosts:
            here = f"{first.address}:{first.free_port()}"
            command += ["-netdev", f"socket,id={host.letter},localaddr={here},"
                                   f"udp={host.address}:{UDP_PORT}",
                        "-netdev", f"hubport,id=port-{host.letter},hubid=0,"
                                   f"netdev={host.letter}"]
            self.remote[host.letter] = here
        lab.close_at_end(first.spawn(command, "switch"))

    def command(self, host, tools, socket):
        return [tools / "tests/vhost-user-bridge", "-u", socket, "-l",
                f"{host.address}:{UDP_PORT}", "-r", self.remote[host.letter]]

    @staticmethod
    def device(chardev):
        return ["-netdev", f"vhost-user,id=net,chardev={chardev}",
                "-device", "virtio-net-pci,netdev=net,romfile="]


class Relay:
    """Between QEMU and a back end: `tamper(request, reply, payload, fds)` sees
    each message, and may change the last two."""

    def __init__(self, path, real, tamper):
        self.real = str(real)
        self.tamper = tamper
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                qemu = self.listener.accept()[0]
            except OSError:
                return
            back_end = socket.socket(socket.AF_UNIX)
            try:
                # A QEMU that has left again would end the back end.
                if not qemu.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError
                back_end.connect(self.real)
            except OSError: # nobody there: QEMU tries again
                qemu.close()
                continue
            for ends in ((qemu, back_end), (back_end, qemu)):
                threading.Thread(target=self._carry, args=ends,
                                 daemon=True).start()

    def _carry(self, source, target):
        with contextlib.suppress(OSError):
            while self._carry_one(source, target):
                pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _carry_one(self, source, target):
        header, fds, _, _ = socket.recv_fds(source, HEADER.size, MAX_FDS)
        if len(header) < HEADER.size:
            return False
        request, flags, size = HEADER.unpack(header)
        payload = bytearray()
        while len(payload) < size:
            payload += source.recv(size - len(payload))
        self.tamper(request, bool(flags & REPLY), payload, fds)
        socket.send_fds(target, [header + payload], fds)
        for fd in fds:
            os.close(fd)
        return True

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class BackEnd:
    """The process of one device on one host, and what QEMU is told of it."""

    def __init__(self, host, device, tools, place):
        self.host = host
        self.name = device.word
        self.socket = pathlib.Path(f"{place}.{self.name}")
        path, self.relay = self.socket, None
        if device.tamper and host.letter == "b":
            self.socket = pathlib.Path(f"{place}.{self.name}.real")
            self.relay = Relay(path, self.socket, device.tamper)
        self.command = device.command(host, tools, self.socket)
        self.arguments = [
            "-chardev", f"socket,id={self.name},path={path},"
                        "reconnect-ms=100", *device.device(self.name)]
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        self.process = self.host.spawn(self.command, self.socket.name)
        wait_until(self._listening, f"back end {self.name} listens")

    def _listening(self):
        self.process.check_alive()
        return self.socket.exists()

    def kill(self):
        self.process.child.kill()
        self.process.child.wait()

    def close(self):
        if self.relay:
            self.relay.close()
        self.process.close()
