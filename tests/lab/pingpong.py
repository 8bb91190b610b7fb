# SPDX-License-Identifier: GPL-2.0-or-later
"""Bare TCP between two hosts: what a link can do without remapd."""

import contextlib
import json
import subprocess
import sys

from .basics import Failed, wait_until


@contextlib.contextmanager
def spinning():
    """A process that stands in for a busy guest."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            yield
        finally:
            child.kill()


class PingPong:
    """The program pingpong, serving on one host and asking on another.
    A context manager: it serves inside."""

    PORT = "7700"

    def __init__(self, program, server, client):
        self.program = program
        self.server = server
        self.client = client
        self.serving = None

    def spawn(self, host, mode, *more):
        return host.spawn([self.program, mode, self.server.address, self.PORT,
                           *more], f"pingpong-{mode}")

    def __enter__(self):
        self.serving = self.spawn(self.server, "serve")
        wait_until(lambda: "ready" in self.serving.output(), "pingpong")
        return self

    def __exit__(self, *_):
        self.serving.close()

    def ask(self, mode, *more):
        """What one run of the client measured."""
        program = self.spawn(self.client, mode, *more)
        try:
            if program.child.wait(120):
                raise Failed(f"pingpong {mode}: {program.output()}")
            return json.loads(program.output().splitlines()[-1])
        finally:
            program.close()

    def ping(self, size, seconds=0.5):
        """Answers of @size bytes to short requests: microseconds."""
        return self.ask("ping", str(seconds), str(size))

    def stream(self, seconds):
        """One stream: MiB a second."""
        return self.ask("stream", str(seconds))

    @contextlib.contextmanager
    def streaming(self):
        """A stream without end inside."""
        stream = self.spawn(self.client, "stream")
        try:
            yield
        finally:
            stream.close()
