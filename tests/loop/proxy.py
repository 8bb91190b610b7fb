#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""proxy.py LISTEN-ADDRESS TO-ADDRESS PORT COMMAND-SOCKET

Stands between two remapd, for tests that spoil connections. Obeys words sent to
COMMAND-SOCKET, each answered with the number of connections it was done to:

  reset KIND, end KIND, stall KIND     KIND: control, urgent, bulk, all
  half KIND                            reset towards the source only
  refuse, admit                        whoever connects from now on
  mute, speak                          accept, and pass nothing on
  disorder, order                      pass them on later, each by another time

Of what is encrypted nobody sees of which kind it is: there the first connection
that is open counts as control, the next one as urgent, all others as bulk.
"""

import contextlib
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time

sys.path.append(os.environ["PROTOCOL"])
import control_pb2 as pb # pylint: disable=import-error,wrong-import-position

KINDS = ("control", "urgent", "bulk")
DISORDER = 0.5 # seconds at most
TLS_HANDSHAKE = b"\x16" # no message's length begins like this


class Connection:
    def __init__(self, proxy, source):
        self.proxy = proxy
        self.sockets = [source]
        self.passes = threading.Event()
        self.passes.set()
        self.kind = None
        self.halved = False # one end believes that it is there
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            hello = self.read_hello()
            if not self.proxy.speaks.is_set():
                self.kind = "mute"
                self.proxy.speaks.wait()
            time.sleep(random.uniform(0, self.proxy.disorder))
            destination = socket.create_connection(self.proxy.to)
            self.sockets.append(destination)
            for one in self.sockets:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            destination.sendall(hello)
            threading.Thread(target=self.pump, daemon=True,
                             args=(destination, self.sockets[0])).start()
            self.pump(self.sockets[0], destination)
        self.end()

    def read_hello(self):
        source = self.sockets[0]
        size = source.recv(4, socket.MSG_WAITALL)
        if size[:1] == TLS_HANDSHAKE:
            before = len(self.proxy.connections - {self})
            self.kind = KINDS[min(before, len(KINDS) - 1)]
            return size
        body = source.recv(struct.unpack(">I", size)[0], socket.MSG_WAITALL)
        self.kind = KINDS[pb.Message.FromString(body).hello.kind]
        return size + body

    def pump(self, here, there):
        with contextlib.suppress(OSError):
            while True:
                self.passes.wait()
                data = here.recv(1 << 18)
                if not data:
                    break
                self.passes.wait()
                there.sendall(data)
        self.end()

    def end(self):
        if self.halved:
            return
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.proxy.connections.discard(self)

    def reset(self):
        self.reset_these(self.sockets)

    def half(self):
        self.halved = True
        self.reset_these(self.sockets[:1])

    def reset_these(self, sockets):
        null = os.open("/dev/null", os.O_RDWR)
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                           struct.pack("ii", 1, 0))
            # Not closed: a thread may be about to use the number.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            os.dup2(null, one.fileno())
        os.close(null)
        self.proxy.connections.discard(self)

    def stall(self):
        self.passes.clear()


class Proxy:
    def __init__(self, address, to, port, commands):
        self.to = (to, int(port))
        self.connections = set()
        self.admits = True
        self.disorder = 0
        self.speaks = threading.Event()
        self.speaks.set()
        self.listener = socket.create_server((address, int(port)))
        self.commands = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.commands.bind(commands)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            source, _ = self.listener.accept()
            if self.admits:
                self.connections.add(Connection(self, source))
            else:
                source.close()

    def obey(self):
        while True:
            text, sender = self.commands.recvfrom(100)
            verb, kind = (text.decode() + " ").split(" ")[:2]
            done = 0
            if verb in ("refuse", "admit"):
                self.admits = verb == "admit"
            elif verb in ("disorder", "order"):
                self.disorder = DISORDER if verb == "disorder" else 0
            elif verb == "mute":
                self.speaks.clear()
            elif verb == "speak":
                self.speaks.set()
            else:
                for connection in list(self.connections):
                    if connection.kind == kind or kind == "all":
                        getattr(connection, verb)()
                        done += 1
            self.commands.sendto(str(done).encode(), sender)


if __name__ == "__main__":
    pathlib.Path(sys.argv[4]).unlink(missing_ok=True)
    Proxy(*sys.argv[1:]).obey()
