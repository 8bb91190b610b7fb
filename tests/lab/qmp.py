# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP: commands in order, events kept with QEMU's own time stamps."""

import json
import socket
import threading

from .basics import PATIENCE, Failed


class QmpError(Failed):
    pass


class Event:
    def __init__(self, message):
        stamp = message["timestamp"]
        self.name = message["event"]
        self.data = message.get("data", {})
        self.time = stamp["seconds"] + stamp["microseconds"] / 1e6

    def __repr__(self):
        return f"{self.name} {self.data}"


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rb")
        self.changed = threading.Condition()
        self.command_lock = threading.Lock()
        self.events = []
        self.answers = []
        self.open = True
        json.loads(self.stream.readline())
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self("qmp_capabilities")

    def _read(self):
        try:
            for line in self.stream:
                message = json.loads(line)
                with self.changed:
                    if "event" in message:
                        self.events.append(Event(message))
                    else:
                        self.answers.append(message)
                    self.changed.notify_all()
        except (OSError, ValueError):
            pass
        with self.changed:
            self.open = False
            self.changed.notify_all()

    def __call__(self, command, **arguments):
        """Runs one command; an underscore in a name stands for a hyphen."""
        arguments = {key.replace("_", "-"): value
                     for key, value in arguments.items()}
        request = {"execute": command, "arguments": arguments}
        with self.command_lock:
            try:
                self.socket.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise Failed(f"{command}: QEMU is gone: {error}") from None
            with self.changed:
                self.changed.wait_for(lambda: self.answers or not self.open,
                                      60 * PATIENCE)
                if not self.answers:
                    raise Failed(f"{command}: QEMU gave no answer")
                answer = self.answers.pop(0)
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, command):
        return self("human-monitor-command", command_line=command)

    def forget(self):
        """What has happened so far is found no more."""
        with self.changed:
            self.events.clear()

    def find(self, name, **data):
        """The newest event of this name that has these data, or None."""
        for event in self.events[::-1]:
            if event.name == name and data.items() <= event.data.items():
                return event
        return None

    def wait(self, name, seconds=60, **data):
        seconds *= PATIENCE
        with self.changed:
            self.changed.wait_for(
                lambda: self.find(name, **data) or not self.open, seconds)
            event = self.find(name, **data)
        if not event:
            raise Failed(f"no event {name} {data} within {seconds:g} s; "
                         f"seen: {self.events}")
        return event

    def close(self):
        self.socket.close()
