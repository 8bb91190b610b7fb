# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest says on its serial port (tests/guest/work.h), on whichever
host it runs."""

import re
import selectors
import socket
import threading
import time

from .basics import BUILD, PATIENCE, Failed

MARKER = "REMAPD-GUEST "

# name: how QEMU boots it
GUESTS = {
    "linux": ["-kernel", BUILD / "guest/vmlinuz", "-initrd",
              BUILD / "guest/initramfs"],
    "memcached": ["-kernel", BUILD / "guest/vmlinuz", "-initrd",
                  BUILD / "guest/initramfs-memcached"],
    "tiny": ["-kernel", BUILD / "guest/tiny.elf"],
}


class Message:
    """One line: when it came, its word, its numbers."""

    def __init__(self, text):
        self.time = time.time()
        self.text = text
        self.word = text.split(" ", 1)[0]
        self.numbers = {key: int(value) for key, value
                        in re.findall(r"(\w+)=(\d+)(?= |$)", text)}

    def __getitem__(self, key):
        return self.numbers[key]


class Guest:
    """Listens on the serial ports of one VM, one after the other, as one
    stream: a line may begin on one host and end on the next."""

    def __init__(self):
        self.changed = threading.Condition()
        self.messages = []
        self.other = []
        self.rest = b""
        self.ports = []
        self.selector = selectors.DefaultSelector()
        threading.Thread(target=self._read, daemon=True).start()

    def listen(self, path):
        """Listens to one more serial port and returns its socket."""
        port = socket.socket(socket.AF_UNIX)
        port.connect(str(path))
        self.ports.append(port)
        self.selector.register(port, selectors.EVENT_READ, len(self.ports))
        return port

    def _read(self):
        # The half of a line from an older port comes before the other half.
        while True:
            ready = self.selector.select(0.2)
            for key, _ in sorted(ready, key=lambda pair: pair[0].data):
                self._receive(key.fileobj)

    def _receive(self, port):
        try:
            data = port.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(port)
        with self.changed:
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace").strip("\r"))
            self.changed.notify_all()

    def _take(self, line):
        at = line.find(MARKER)
        if at < 0:
            self.other.append(line)
            return
        message = Message(line[at + len(MARKER):])
        keys = {"LINE": 7, "READY": 6, "VERIFIED": 3, "WRONG": 3}
        if len(message.numbers) < keys.get(message.word, 0):
            self.other.append(line)
        else:
            self.messages.append(message)

    def wait(self, condition, what, seconds, alive=lambda: None):
        """Waits for `condition` to return something of the messages."""
        seconds *= PATIENCE
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                result = condition(self.messages)
                if result:
                    return result
                failed = [m.text for m in self.messages if m.word == "FAILED"]
                if failed or time.monotonic() > deadline:
                    raise Failed(f"guest: {what} not within {seconds:g} s; "
                                 + (failed or [self.tail()])[0])
                alive()
                self.changed.wait(0.2)

    def tail(self):
        return f"last heard: {[m.text for m in self.messages[-2:]]} " \
               f"{self.other[-2:]}"

    def wait_word(self, words, seconds, since=0, alive=lambda: None):
        """The first message from number `since` on with one of the words."""
        return self.wait(
            lambda heard: next((m for m in heard[since:] if m.word in words),
                               None), " or ".join(words), seconds, alive)

    def wait_lines(self, count, seconds=30, alive=lambda: None):
        """Waits for so many lines more."""
        since = len(self.messages)
        self.wait(lambda heard: sum(m.word == "LINE" for m in heard[since:])
                  >= count, f"{count} lines", seconds, alive)

    def command(self, port, text, words, seconds, alive=lambda: None):
        since = len(self.messages)
        port.sendall(text.encode() + b"\n")
        return self.wait_word(words, seconds, since, alive)

    def lines(self):
        return [m for m in self.messages if m.word == "LINE"]

    def newest(self):
        return self.lines()[-1]

    def errors(self):
        lines = self.lines()
        return (lines[-1]["errors"] if lines else 0) + sum(
            m.word == "WRONG" for m in self.messages)

    def operations_in(self, machine):
        """How many operations were done when this machine stopped the guest,
        from the counters in its memory; None where they are not to be had: it
        was not ready, or another program was running."""
        ready = next((m for m in self.messages if m.word == "READY"), None)
        if not ready:
            return None
        def number_at(address):
            said = machine.qmp.human(f"x /1dg {address}")
            number = re.fullmatch(r"[0-9a-f]+:\s+(\d+)\s*", said)
            return number and int(number[1])
        if number_at(ready["at"]) != ready["id"]:
            return None
        return sum(number_at(ready["counter"] + thread * ready["stride"])
                   for thread in range(ready["threads"]))
