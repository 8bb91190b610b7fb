# SPDX-License-Identifier: GPL-2.0-or-later
"""The three protocols, as a QEMU and as another remapd speak them, so that a
test can speak them wrongly."""

import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading

# pylint: disable=wrong-import-position
from pair import PROGRAMS, require

sys.path.append(str(PROGRAMS))
import control_pb2 as pb # pylint: disable=import-error

PAGE = 4096
HUGE = 2 << 20
PATIENCE = 20.0 # seconds; a sanitizer is slow

# proto/handoff.h
HANDOFF_VERSION = 3
(HELLO, TICKET, BLOCK, PREPARE, SWITCHOVER, ATTACH, DETACH, PLACER, FAULTER,
 REGION, RETURN, SPLICER) = range(1, 13)
(WELCOME, JOINED, PREPARED, ATTACHED, PROGRESS, COMPLETE, DETACHED, PAUSED,
 ERROR, RESUMED, KEEP) = range(32, 43)
SOURCE, DESTINATION = 1, 2
SHARED, WITH_FD = 1, 2

# proto/frame.h
REQUEST, DATA, ZERO, SPARSE, END = range(1, 6)
FRAME = struct.Struct(">IBBHQQII")
FRAME_MAGIC = 0x524d5046

WIRE_MAGIC = 0x524d5043
WIRE_VERSION = 2


class Qemu:
    """The hand-off socket."""

    def __init__(self, remapd):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(remapd.handoff))
        self.kept = None

    def raw(self, packet, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                      array.array("i", fds))] if fds else []
        self.socket.sendmsg([packet], ancillary)

    def send(self, kind, body=b"", fds=()):
        self.raw(struct.pack(">IHH", 0x524d5048, HANDOFF_VERSION, kind) + body,
                 fds)

    def recv(self):
        """(type, body), or None if remapd has closed the connection. What it
        wants kept is kept."""
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self.socket, PAGE, 1)
            except ConnectionResetError:
                return None
            if not packet:
                return None
            kind = struct.unpack(">IHH", packet[:8])[2]
            if kind != KEEP:
                return kind, packet[8:]
            self.kept, = fds

    def expect(self, wanted):
        while True:
            answer = self.recv()
            require(answer, f"closed, expected message {wanted}")
            if answer[0] == wanted:
                return answer[1]
            require(answer[0] == PROGRESS, f"expected message {wanted}, got "
                    f"{answer[0]}: {answer[1][:200]}")

    def hello(self, role, name="hostile", address="127.0.0.2", ram=1 << 20,
              kept=None):
        self.send(HELLO if kept is None else RETURN,
                  struct.pack(">IIQ64s64s", role, os.getpid(), ram,
                              name.encode(), address.encode()),
                  [] if kept is None else [kept])
        self.expect(WELCOME)

    def block(self, memory, index=0, idstr=b"ram", **changed):
        fields = {"index": index, "flags": memory.flags, "hva": memory.hva,
                  "length": memory.length, "page": PAGE, "offset": 0,
                  "idstr": idstr,
                  "fds": [memory.fd] if memory.fd is not None else [],
                  **changed}
        self.send(BLOCK, struct.pack(
            ">IIQQQQ256s", fields["index"], fields["flags"], fields["hva"],
            fields["length"], fields["page"], fields["offset"],
            fields["idstr"]), fields["fds"])

    def prepare(self, blocks=1):
        self.send(PREPARE, struct.pack(">I", blocks))

    def attach(self, uffd, blocks=1, features=1 << 10):
        self.send(ATTACH, struct.pack(">IQ", blocks, features),
                  [uffd] if uffd is not None else [])

    def faulter(self, back_end, regions):
        """`regions`: (offset, length) of each."""
        self.send(FAULTER, struct.pack(">III64s", 1, len(regions), 0,
                                       b"stranger"), [back_end.uffd])
        for offset, length in regions:
            self.send(REGION, struct.pack(">IIQQQQ", 1, 0, offset, length, PAGE,
                                          back_end.hva + offset))

    def close(self):
        self.socket.close()
        if self.kept is not None:
            os.close(self.kept)
            self.kept = None


class Memory:
    """What stands for a guest's memory."""

    API = 0xc018aa3f
    REGISTER = 0xc020aa00

    def __init__(self, pages, shared=False, mapped=None):
        """`mapped`: the file of shared memory that is there already."""
        self.length = pages * PAGE
        self.fd = mapped
        self.flags = 0
        if shared:
            self.fd = os.memfd_create("guest")
            os.ftruncate(self.fd, self.length)
        if self.fd is not None:
            self.flags = SHARED | WITH_FD
            self.map = mmap.mmap(self.fd, self.length)
        else:
            self.map = mmap.mmap(-1, self.length + HUGE,
                                 flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.skew = 0 if self.fd is not None else -base % HUGE
        self.hva = base + self.skew

    def uffd(self, flags=os.O_NONBLOCK, features=0):
        """A userfaultfd on all of it; features None: one that is not ready."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(323, os.O_CLOEXEC | flags)
        require(fd >= 0, f"userfaultfd: {os.strerror(ctypes.get_errno())}")
        if features is None:
            return fd
        fcntl.ioctl(fd, self.API, struct.pack("QQQ", 0xaa, features, 0))
        fcntl.ioctl(fd, self.REGISTER, struct.pack(
            "QQQQ", self.hva, self.length, 5 if self.fd is not None else 1, 0))
        return fd

    def touch(self, page):
        """Reads a byte in another thread, which waits for it."""
        thread = threading.Thread(daemon=True, target=ctypes.memmove, args=(
            ctypes.create_string_buffer(1), self.hva + page * PAGE, 1))
        thread.start()
        return thread

    def present(self, page):
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek((self.hva // PAGE + page) * 8)
            return pagemap.read(8)[7] >> 7 == 1

    def page(self, page):
        """The bytes of a page that is there: reading another would wait."""
        require(self.present(page), f"page {page} is not there")
        at = self.skew + page * PAGE
        return self.map[at:at + PAGE]

    def fill(self, page, byte):
        at = self.skew + page * PAGE
        self.map[at:at + PAGE] = byte * PAGE


class Peer:
    """A TCP connection to or from a remapd."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(PATIENCE)

    @classmethod
    def connect(cls, host):
        return cls(socket.create_connection((host.address, 7654), PATIENCE))

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, **body):
        packed = pb.Message(**body).SerializeToString()
        self.raw(struct.pack(">I", len(packed)) + packed)

    def read(self, count):
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not part:
                return None
            data += part
        return data

    def recv(self):
        """The next message but for KeepAlive; None at the end."""
        while True:
            size = self.read(4)
            packed = size and self.read(struct.unpack(">I", size)[0])
            if packed is None:
                return None
            message = pb.Message.FromString(packed)
            if message.WhichOneof("body") != "keep_alive":
                return message

    def expect(self, body):
        while True:
            message = self.recv()
            require(message, f"closed, expected {body}")
            if message.WhichOneof("body") == body:
                return getattr(message, body)
            require(message.WhichOneof("body") == "progress",
                    f"expected {body}, got {message}")

    def hello(self, session, secret, kind=pb.Hello.CONTROL, **changed):
        fields = {"magic": WIRE_MAGIC, "version": WIRE_VERSION, "kind": kind,
                  "session": session, "secret": secret, **changed}
        self.send(hello=pb.Hello(**fields))

    def frame(self, kind, offset=0, length=PAGE, payload=b"", **changed):
        """Payload may be bytes, or the number that the header claims."""
        fields = {"magic": FRAME_MAGIC, "kind": kind, "again": 0,
                  "block": 0, "offset": offset, "length": length,
                  "payload": len(payload), "wanted": 0, **changed}
        self.raw(FRAME.pack(*fields.values()) + payload)

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                   struct.pack("ii", 1, 0))
        self.socket.close()


class ToDestination(contextlib.ExitStack):
    """A session of a real destination: its QEMU is honest, unless the test
    makes it otherwise, and its source is the test's own."""

    def __init__(self, host, memory=None, present=()):
        super().__init__()
        self.host = host
        self.memory = memory or Memory(64)
        for page in present:
            self.memory.fill(page, b"\x11")
        self.present = present
        self.qemu = self.enter_context(contextlib.closing(
            Qemu(host.remapd)))
        self.qemu.hello(DESTINATION)
        size, = struct.unpack(">H", (body := self.qemu.expect(TICKET))[:2])
        self.ticket = pb.Ticket.FromString(body[2:2 + size])
        self.control = self.urgent = self.bulk = self.welcome = None

    def peer(self):
        return self.enter_context(contextlib.closing(Peer.connect(self.host)))

    def channel(self, kind, index=0):
        peer = self.peer()
        peer.hello(self.ticket.session, self.welcome.channel_key, kind,
                   index=index)
        peer.expect("welcome")
        return peer

    def hello(self):
        self.control = self.peer()
        self.control.hello(self.ticket.session, self.ticket.secret)
        self.welcome = self.control.expect("welcome")
        return self

    def joined(self):
        self.hello()
        self.urgent = self.channel(pb.Hello.URGENT)
        self.bulk = self.channel(pb.Hello.BULK)
        return self

    def send_block(self, **changed):
        fields = {"index": 0, "idstr": "ram", "length": self.memory.length,
                  "page_size": PAGE, "shared": self.memory.fd is not None,
                  **changed}
        self.control.send(block=pb.Block(**fields))

    def prepared(self, private_bytes=0):
        self.joined()
        self.send_block()
        self.control.send(prepare=pb.Prepare(blocks=1,
                                             private_bytes=private_bytes))
        # Staging is primed first, and that may take longer than silence may.
        while not select.select([self.control.socket], [], [], 0.5)[0]:
            self.control.send(keep_alive=pb.KeepAlive())
        self.control.expect("prepared")
        return self

    def attached(self, private_bytes=0):
        self.prepared(private_bytes)
        self.qemu.block(self.memory)
        uffd = self.memory.uffd()
        self.callback(os.close, uffd)
        self.qemu.attach(uffd)
        self.qemu.expect(ATTACHED)
        return self

    def active(self, private_bytes=0):
        self.attached(private_bytes)
        pages = self.memory.length // PAGE
        left = [page not in self.present for page in range(pages)]
        bits = sum(1 << page for page in range(pages) if left[page])
        self.control.send(left=pb.Left(
            block=0, first_page=0,
            pages=bits.to_bytes(-(-pages // 64) * 8, "little")))
        self.control.send(left_end=pb.LeftEnd(pages=sum(left)))
        self.control.expect("start")
        return self

    def complete(self):
        self.active()
        self.bulk.frame(ZERO, 0, self.memory.length)
        self.control.expect("complete")
        return self


class BackEnd:
    """Another process that has mapped the memory, with a userfaultfd of its
    own."""

    def __init__(self, memory, features=0):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            ours.close()
            self._live(memory, features, theirs)
        theirs.close()
        self.orders = ours
        answer, fds, _, _ = socket.recv_fds(ours, 8, 1)
        self.hva, = struct.unpack("=Q", answer)
        self.uffd, = fds

    @staticmethod
    def _live(memory, features, orders):
        """A number: the page that is touched; -1: it forks."""
        own = Memory(memory.length // PAGE, mapped=memory.fd)

        def touch(page):
            own.touch(page).join()
            with contextlib.suppress(OSError): # nobody asks any more
                orders.send(own.map[page * PAGE:page * PAGE + 1])
        socket.send_fds(orders, [struct.pack("=Q", own.hva)],
                        [own.uffd(features=features)])
        while order := orders.recv(4):
            page, = struct.unpack("=i", order)
            if page >= 0:
                threading.Thread(target=touch, args=(page,)).start()
            elif not os.fork():
                break
        os._exit(0) # pylint: disable=protected-access

    def order(self, page):
        self.orders.send(struct.pack("=i", page))

    def close(self):
        os.close(self.uffd)
        self.orders.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class FromSource(contextlib.ExitStack):
    """A session of a real source: its QEMU is honest, unless the test makes it
    otherwise, and its destination is the test's own."""

    KEY = b"k" * 32

    def __init__(self, host, memory=None):
        super().__init__()
        self.memory = memory or Memory(64)
        self.memory.fill(0, b"\x22")
        self.listener = self.enter_context(
            socket.create_server(("127.0.0.3", 0)))
        self.listener.settimeout(PATIENCE)
        self.session = os.urandom(16)
        self.secret = os.urandom(32)
        self.qemu = self.enter_context(contextlib.closing(
            Qemu(host.remapd)))
        self.qemu.hello(SOURCE)
        self.control = self.urgent = self.bulk = None

    def ticket(self, **changed):
        fields = {"version": WIRE_VERSION, "session": self.session,
                  "secret": self.secret, "address": ["127.0.0.3"],
                  "port": self.listener.getsockname()[1], **changed}
        self.raw_ticket(pb.Ticket(**fields).SerializeToString())

    def raw_ticket(self, packed, size=None):
        self.qemu.send(TICKET, struct.pack(
            ">H384s", len(packed) if size is None else size, packed))

    def accept(self):
        peer = Peer(self.enter_context(
            contextlib.closing(self.listener.accept()[0])))
        return peer, peer.expect("hello")

    def joining(self):
        self.ticket()
        self.control, hello = self.accept()
        require(hello.session == self.session and hello.secret == self.secret,
                "the ticket came changed")
        return self

    def send_welcome(self, **changed):
        fields = {"version": WIRE_VERSION, "channel_key": self.KEY,
                  "resume_key": self.KEY, "urgent": 1, "bulk": 1, **changed}
        self.control.send(welcome=pb.Welcome(**fields))

    def joined(self):
        self.joining()
        self.send_welcome()
        for _ in range(2):
            peer, hello = self.accept()
            require(hello.secret == self.KEY, "the channel's key came changed")
            peer.send(welcome=pb.Welcome(version=WIRE_VERSION))
            if hello.kind == pb.Hello.URGENT:
                self.urgent = peer
            else:
                self.bulk = peer
        self.qemu.expect(JOINED)
        return self

    def preparing(self):
        self.joined()
        self.qemu.block(self.memory)
        self.qemu.prepare()
        self.control.expect("block")
        self.private_bytes = self.control.expect("prepare").private_bytes
        return self

    def prepared(self):
        self.preparing()
        self.control.send(prepared=pb.Prepared(granule=[256 << 10]))
        self.qemu.expect(PREPARED)
        return self

    def switchover(self, bits=None):
        """`bits`: bytes of the bitmap of what is left; default: all pages."""
        fd = os.memfd_create("left")
        os.write(fd, bits if bits is not None
                 else b"\xff" * (self.memory.length // PAGE // 8))
        self.qemu.send(SWITCHOVER, struct.pack(">I", 1), [fd])
        os.close(fd)

    def switched(self):
        self.prepared()
        self.switchover()
        self.control.expect("left")
        self.control.expect("left_end")
        return self

    def active(self):
        self.switched()
        self.control.send(start=pb.Start())
        require(select.select([self.bulk.socket], [], [], PATIENCE)[0],
                "no page comes")
        return self

    def complete(self):
        self.active()
        self.control.send(complete=pb.Complete())
        self.qemu.expect(COMPLETE)
        return self
