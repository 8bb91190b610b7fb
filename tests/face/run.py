#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What operators see: remapctl, --help, the manual pages.

tests/face/run.py [PART OF A NAME...]; prints TAP.
"""

import ast
import contextlib
import fcntl
import html.parser
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import urllib.error
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(TOP / "tests"), str(TOP / "tests/vm")]

# pylint: disable=wrong-import-position
from harness import Skip, require, run, test
from lab import wait_until
from lab.basics import Process, stop_on_signals

BUILD = pathlib.Path(os.environ.get("BUILD_DIR", TOP / "build"))
REMAPD, REMAPCTL = BUILD / "remapd", BUILD / "remapctl"
GUESTLESS = BUILD / "tests/guestless"
DOCS = TOP / "docs"
REMAPD_DOMAIN = TOP / "libvirt/remapd-domain"
COMMANDS = {"remapctl": REMAPCTL, "remapd-domain": REMAPD_DOMAIN}
PAGES = sorted(DOCS.glob("*.[1-8]"))
DONE, REFUSED, USAGE, NO_DAEMON = range(4)
NOBODY = 65534
ERROR = 40
GATE_BYTES = 1 << 20
WIDTH = 60


def call(*command):
    return subprocess.run([str(part) for part in command], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          check=False, timeout=60)


def expect(code, *command):
    """Runs a command that must end with `code`, and says why if not 0."""
    done = call(*command)
    require(done.returncode == code, f"{' '.join(map(str, command))} ended "
            f"with {done.returncode}, not {code}: {done.stdout}{done.stderr}")
    if code != DONE:
        require(len(done.stderr.strip().splitlines()) >= 1,
                f"{command}: ended with {code} and did not say why")
    return done.stdout if code == DONE else done.stderr


# ---- help and manual pages ----

def help_options(program):
    """Each option with its default, or None."""
    found = {}
    for line in expect(DONE, program, "--help").splitlines():
        option = re.match(r"  --([a-z-]+)(?:=\S+)?  ?", line)
        if option:
            default = re.search(r" \[(\S+|\[::\]:\d+)\]$", line)
            found[option[1]] = default[1] if default else None
    return found


def manual_items(page, macro):
    """Each item of a list, with the text that follows it; lists within an
    item belong to it."""
    found, name, depth = {}, None, 0
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith(".Bl"):
            depth += 1
        elif line.startswith(".El"):
            depth -= 1
        item = re.match(rf"\.It {macro}([a-z-]+)", line)
        if item and depth == 1:
            name = item[1]
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return found


def same(what, ours, theirs):
    require(ours == theirs, f"{what}: only --help has "
            f"{sorted(ours - theirs)}, only the manual {sorted(theirs - ours)}")


def commands_of(program):
    return set(re.findall(r"(?m)^  ([a-z]+) ", expect(DONE, program, "--help")))


def check_defaults(options, texts):
    for name, default in options.items():
        if default:
            require(default in texts[name], f"--{name}: the manual does not "
                    f"give the default {default}")


@test
def help_of_remapd_agrees_with_its_manual():
    options = help_options(REMAPD)
    texts = {**manual_items("remapd.8", "Fl -"),
             **manual_items("remapd.conf.5", "Cm ")}
    require(len(options) > 10, f"--help has only {sorted(options)}")
    same("remapd", set(options), set(texts))
    check_defaults(options, texts)


@test(name=("remapctl", "remapd-domain"))
def help_and_manual_agree_on_options_and_commands_of(name):
    program = COMMANDS[name]
    options = help_options(program)
    texts = manual_items(f"{name}.1", "Fl -")
    same(f"options of {name}", set(options), set(texts))
    check_defaults(options, texts)
    commands = commands_of(program)
    require(len(commands) >= 5, f"--help has only {commands}")
    same(f"commands of {name}", commands, set(manual_items(f"{name}.1", "Cm ")))


@test
def defaults_of_the_hook_agree_with_its_manual_and_file():
    texts = manual_items("remapd-hook.7", "Cm ")
    lines = re.findall(r"^#([a-z]+) = (\S+)$",
                       (TOP / "libvirt/hook.conf").read_text(), re.MULTILINE)
    code = re.search(r"DEFAULTS = (\{.*?\})", REMAPD_DOMAIN.read_text(),
                     re.DOTALL)
    require(dict(lines) == ast.literal_eval(code[1]), f"{lines}, {code[1]}")
    same("options of the hook", {name for name, _ in lines}, set(texts))
    for name, default in lines:
        require(default in texts[name], f"{name}: the manual has no {default}")


@test
def every_option_of_the_manual_can_stand_in_the_file():
    options = help_options(REMAPD)
    names = manual_items("remapd.conf.5", "Cm ")
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory, "remapd.conf")
        file.write_text("# a comment\n\n; another\n" + "".join(
            f"{name} = {options[name] or ''}\n" for name in names))
        expect(DONE, REMAPD, f"--config={file}", "--probe")
        file.write_text("listen = [::]:1\nlistening = [::]:1\n")
        error = expect(1, REMAPD, f"--config={file}", "--probe")
        require("line 2" in error and "listening" in error, error)


@test
def the_manual_names_every_allowed_value():
    texts = manual_items("remapd.conf.5", "Cm ")
    checked = 0
    for name, text in texts.items():
        if "DIR" in text or name in ("handoff", "control", "group", "listen",
                                     "advertise", "report-dir", "metrics",
                                     "tcp-congestion") or \
                name.startswith("tls-"):
            continue
        error = expect(1, REMAPD, "--config=/dev/null", f"--{name}=nonsense",
                       "--probe")
        allowed = re.search(r"one of: (.*)|from (\d+ to \d+)", error)
        require(allowed, f"--{name}=nonsense: {error}")
        for value in re.findall(r"[a-z]+|\d+", allowed[1] or allowed[2]):
            require(value == "to" or re.search(rf"\b{value}\b", text),
                    f"{name}: the manual does not name {value}")
        checked += 1
    require(checked >= 6, f"only {checked} options were checked")


@test
def manual_pages_are_well_formed():
    linters = [command for command in
               (["mandoc", "-Tlint", "-Wwarning"],
                ["groff", "-ww", "-mdoc", "-Tascii", "-z"])
               if shutil.which(command[0])]
    if not linters:
        raise Skip("neither mandoc nor groff is installed")
    for command in linters:
        for page in PAGES:
            done = call(*command, page)
            require(not done.returncode and not done.stderr and
                    not done.stdout, done.stdout + done.stderr)


# ---- a daemon ----

class Daemon:
    def __init__(self, directory, name, *options):
        self.directory = directory / name
        self.directory.mkdir()
        self.handoff = self.directory / "handoff"
        self.control = self.directory / "control"
        self.process = Process(
            [REMAPD, "--config=/dev/null", f"--handoff={self.handoff}",
             f"--control={self.control}", f"--report-dir={self.directory}",
             *options], self.directory / "log")
        wait_until(lambda: self.process.check_alive() or
                   "ready" in self.process.output(), "remapd is ready")

    def ctl(self, *arguments, code=DONE):
        return expect(code, REMAPCTL, f"--socket={self.control}", *arguments)

    def sessions(self):
        return json.loads(self.ctl("--json", "list"))["sessions"]

    def qemu(self, name):
        """A session of a destination: as far as HELLO brings it."""
        qemu = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        qemu.settimeout(30)
        qemu.connect(str(self.handoff))
        qemu.send(struct.pack(">IHHIIQ64s64s", 0x524d5048, 3, 1, 2, os.getpid(),
                              1 << 30, name.encode(), b"127.0.0.1"))
        wait_until(lambda: any(s["name"] for s in self.sessions()),
                   "the session is there")
        return qemu


@contextlib.contextmanager
def scene():
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="remapd-"))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(0o755)

        def daemon(name, *options):
            made = Daemon(directory, name, *options)
            stack.callback(made.process.close)
            return made
        yield stack, daemon


@test
def status_and_list():
    with scene() as (stack, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        require("sessions   0" in one.ctl("status"), "no sessions at first")
        require(len(one.ctl("list").splitlines()) == 1, "only a heading")
        stack.enter_context(one.qemu("evil\033[2J\nguest"))
        session = one.sessions()[0]
        lines = one.ctl("list").splitlines()
        require(len(lines) == 2 and "\033" not in lines[1], repr(lines))
        for text in (session["session"][:8], "evil?[2J?guest", "destination",
                     "waiting"):
            require(text in lines[1], f"{text} is not in {lines[1]}")
        status = json.loads(one.ctl("--json", "status"))
        require(status["sessions"] == 1 and
                status["pid"] == one.process.pid, str(status))


@test
def cancel_ends_a_session_and_tells_its_qemu():
    with scene() as (stack, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        qemu = stack.enter_context(one.qemu("guest"))
        one.ctl("cancel", "ffffffffffffffffffffffffffffffff", code=REFUSED)
        one.ctl("cancel", "not an id", code=USAGE)
        require(len(one.sessions()) == 1, "the session is still there")
        one.ctl("cancel", one.sessions()[0]["session"][:6])
        require(not one.sessions(), "the session has ended")
        kinds = {}
        while packet := qemu.recv(4096):
            kinds[struct.unpack(">IHH", packet[:8])[2]] = packet[8:]
        require(b"cancelled by the operator" in kinds.get(ERROR, b""),
                str(kinds))


@test
def wrong_usage():
    for arguments in ([], ["frobnicate"], ["--frobnicate", "list"], ["cancel"],
                      ["list", "more"], ["--interval=0", "watch"],
                      ["--interval=soon", "watch"]):
        expect(USAGE, REMAPCTL, *arguments)


@test
def no_daemon():
    with scene() as (stack, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        one.process.child.kill()
        one.process.child.wait()
        for command in ("status", "list", "watch"):
            error = one.ctl(command, code=NO_DAEMON)
            require("Start it" in error, error)
        mute = stack.enter_context(socket.socket(socket.AF_UNIX))
        mute.bind(str(one.directory / "mute"))
        mute.listen()
        error = expect(NO_DAEMON, REMAPCTL,
                       f"--socket={one.directory / 'mute'}", "list")
        require("no answer" in error, error)


@test
def a_user_without_rights_is_told_what_to_do():
    if os.geteuid():
        raise Skip("only root can become another user")
    with scene() as (_, daemon), tempfile.TemporaryDirectory() as open_to_all:
        one = daemon("one", "--listen=127.0.0.1:0")
        # The tree may lie where only root gets to.
        os.chmod(open_to_all, 0o755)
        remapctl = shutil.copy(REMAPCTL, open_to_all)
        done = subprocess.run(
            [remapctl, f"--socket={one.control}", "list"], text=True,
            capture_output=True, check=False, timeout=60, user=NOBODY,
            group=NOBODY, extra_groups=[])
        require(done.returncode == NO_DAEMON and "group" in done.stderr,
                f"{done.returncode}: {done.stdout}{done.stderr}")


@test
def reports_that_are_none():
    with tempfile.NamedTemporaryFile("w") as file:
        expect(REFUSED, REMAPCTL, "report", file.name)
        file.write('{"other": 1}')
        file.flush()
        expect(REFUSED, REMAPCTL, "report", file.name)
    expect(REFUSED, REMAPCTL, "report", file.name)


# ---- a migration ----

class Gate:
    """Relays 127.0.0.2 to 127.0.0.1. A connection waits once it has carried
    GATE_BYTES, until the gate opens: so a migration lasts as long as a test
    looks at it."""

    def __init__(self):
        self.opened = threading.Event()
        self.listener = socket.create_server(("127.0.0.2", 0))
        self.port = self.listener.getsockname()[1]

    def start(self):
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.relay, args=pair,
                                     daemon=True).start()

    def relay(self, near, far):
        carried = 0
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                carried += len(data)
                if carried > GATE_BYTES:
                    self.opened.wait()
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def close(self):
        self.opened.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@contextlib.contextmanager
def migration(*options):
    """Two daemons, the destination with more options, and 64 MiB on their way between them until the gate
    opens."""
    with scene() as (stack, daemon):
        gate = Gate()
        stack.callback(gate.close)
        source = daemon("source", "--listen=127.0.0.1:0")
        destination = daemon("destination", f"--listen=127.0.0.1:{gate.port}",
                             "--advertise=127.0.0.2", *options)
        gate.start()

        def begin(name="guestless"):
            guest = Process([GUESTLESS, "--name", name, "--source", source.handoff,
                             "--destination", destination.handoff, "--mib",
                             "64"], destination.directory / "guestless")
            stack.callback(guest.close)
            return guest
        yield source, destination, gate, begin


def state(daemon):
    sessions = daemon.sessions()
    return sessions[0]["state"] if sessions else None


def finish(gate, guest):
    gate.opened.set()
    guest.child.wait(60)
    require(guest.child.returncode == 0, guest.output())


@test
def a_guest_that_has_left_is_not_cancelled():
    with migration() as (source, destination, gate, begin):
        guest = begin()
        for side in (source, destination):
            wait_until(lambda side=side: state(side) == "active", "active")
            error = side.ctl("cancel", side.sessions()[0]["session"],
                             code=REFUSED)
            require("lose" in error, error)
        finish(gate, guest)


@test
def watch_and_report():
    with migration() as (source, destination, gate, begin):
        watchers = [Process([REMAPCTL, f"--socket={side.control}", "--wait",
                             "--interval=0.1", *options, "watch"],
                            side.directory / f"watch{len(options)}")
                    for side in (source, destination)
                    for options in ([], ["--json"])]
        guest = begin()
        for watcher in watchers:
            wait_until(lambda watcher=watcher: "active" in watcher.output() and
                       "64" in watcher.output(), "watch shows the migration")
        finish(gate, guest)
        for watcher in watchers:
            watcher.child.wait(30)
            require(watcher.child.returncode == DONE, watcher.output())
        line = watchers[2].output().splitlines()[-1]
        require(re.search(r"of 64 MiB.* faults, p50.*p99.*; ended", line), line)
        for document in watchers[3].output().splitlines():
            require(json.loads(document)["sessions"], document)
        for side, role in ((source, "source"), (destination, "destination")):
            files = wait_until(
                lambda side=side: list(side.directory.glob("*.json")),
                "the report is written")
            text = expect(DONE, REMAPCTL, "report", files[0])
            for part in (role, "complete", "16384 (64.0 MiB)", "guestless",
                         "0  not placed"):
                require(part in text, f"{part} is not in {text}")
            report = json.loads(files[0].read_text())
            require(json.loads(expect(DONE, REMAPCTL, "--json", "report",
                                      files[0])) == report,
                    "--json is the file")
            require(role == "destination" or "huge pages" not in text, text)
            report["huge_pages"] = {"whole": 31, "pieces": 1}
            files[0].write_text(json.dumps(report))
            text = expect(DONE, REMAPCTL, "report", files[0])
            require("huge pages     31 came whole, 1 in pieces\n" in text, text)


@test
def watch_tells_of_a_pause():
    with migration() as (source, destination, _, begin):
        guest = begin()
        wait_until(lambda: state(destination) == "active", "active")
        watcher = Process([REMAPCTL, f"--socket={destination.control}",
                           "--interval=0.1", "watch"],
                          destination.directory / "watch")
        wait_until(lambda: "active" in watcher.output(), "watch shows it")
        # It must not end while it is looked at.
        guest.child.send_signal(signal.SIGSTOP)
        source.process.child.kill()
        wait_until(lambda: state(destination) == "paused", "paused")
        line = wait_until(lambda: re.search(r".* paused: .*", watcher.output()),
                          "watch shows the pause")[0]
        reason = destination.sessions()[0]["error"]
        require(reason and line.endswith(f": {reason}") and "left" not in line,
                f"{line}: {reason}")
        guest.child.kill()
        watcher.child.wait(30)
        require(watcher.child.returncode == REFUSED and
                "without being complete" in watcher.output(), watcher.output())


@test
def watch_renews_its_lines_on_a_terminal():
    with scene() as (stack, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        guests = [one.qemu("a" * 63), one.qemu("b")]
        main, terminal = pty.openpty()
        stack.callback(os.close, main)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ,
                    struct.pack("4H", 24, WIDTH, 0, 0))
        with subprocess.Popen([REMAPCTL, f"--socket={one.control}",
                               "--interval=0.1", "watch"],
                              stdin=subprocess.DEVNULL, stdout=terminal,
                              stderr=terminal) as watcher:
            stack.callback(watcher.kill)
            os.close(terminal)
            text = ""
            while text.count("\033[3A") < 3:
                text += os.read(main, 4096).decode()
            for guest in guests:
                guest.close()
            with contextlib.suppress(OSError): # how a terminal ends
                while data := os.read(main, 4096):
                    text += data.decode()
            require(watcher.wait(30) == DONE, text)
        drawn = text.split("\033[3A")[0].splitlines()
        require(len(drawn) == 3 and "2 migrations" in drawn[0] and all(len(line) <= WIDTH for line in drawn),
                repr(drawn))
        require(text.count("ended") == 2, repr(text[-400:]))


@test
def watch_is_a_live_screen_in_a_terminal():
    """In a real one, tmux's: what stands there, not what was written."""
    if not shutil.which("tmux"):
        raise Skip("tmux is not installed")
    with migration() as (_, destination, gate, begin):
        def tmux(*words):
            return call("tmux", "-f", "/dev/null", "-S",
                        destination.directory / "tmux", *words).stdout
        guest = begin()
        wait_until(lambda: state(destination) == "active", "active")
        tmux("new-session", "-d", "-x", "90", "-y", "20",
             f"LC_ALL=C.UTF-8 {REMAPCTL} --socket={destination.control} "
             "--interval=0.1 watch; sleep 60")
        try:
            screen = wait_until(
                lambda: (text := tmux("capture-pane", "-p")) and
                re.search(r"\[#*\.+\] +\d+ % [▁▂▃▄▅▆▇█]{5}", text) and text,
                "the screen shows a bar")
            lines = screen.rstrip().splitlines()
            require(len(lines) == 3 and "1 migration" in lines[0] and
                    re.search("guestless destination active: .* MiB", lines[1]),
                    screen)
            tmux("resize-window", "-x", "50", "-y", "20")
            wait_until(lambda: all(
                len(line) <= 50 for line in
                tmux("capture-pane", "-p").splitlines()), "it is narrow")
            finish(gate, guest)
            wait_until(lambda: "; ended" in "".join(
                tmux("capture-pane", "-p").splitlines()), "it says the end")
        finally:
            tmux("kill-server")


# ---- a page for a browser ----

class Page(html.parser.HTMLParser):
    """Checks that every element is closed, and keeps curves and text."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.curves, self.text, self.names = [], [], "", set()
        self.feed(text)
        self.close()
        require(not self.open, f"never closed: {self.open}")

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        for name, value in attrs:
            require(not re.search("https?:", value or ""),
                    f"{tag} {name}={value}: it must need nothing besides")
        if tag == "path":
            self.curves.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        require(self.open and self.open.pop() == tag, f"</{tag}> of nothing")

    def handle_data(self, data):
        self.text += data


@test
def report_as_a_page():
    with migration() as (_, destination, gate, begin):
        guest = begin("<b>&\"'")
        wait_until(lambda: state(destination) == "active", "active")
        identity = destination.sessions()[0]["session"]
        destination.ctl("report", identity, code=REFUSED)
        finish(gate, guest)
        wait_until(lambda: not destination.sessions(), "the session has ended")
        report = json.loads(destination.ctl("--json", "report", identity[:8]))
        samples = report["samples"]
        require(2 <= len(samples) <= 256 and
                all(a[0] <= b[0] and a[1] >= b[1]
                    for a, b in zip(samples, samples[1:])) and
                samples[-1][1] == 0, str(samples))
        count = report["fault_latency_us"]["count"]
        require(sum(sample[2] for sample in samples) == count > 0,
                f"{count} faults, but {samples}")
        require(max(sample[4] for sample in samples) ==
                report["fault_latency_us"]["max"], f"{report}")
        text = destination.ctl("--html", "report", identity)
        page = Page(text)
        require("b" not in page.names and "<b>&\"'" in page.text, text)
        for part in (identity, "Progress", "Fault latency", "Guest stall",
                     "Huge pages", "64.0 MiB"):
            require(part in page.text, f"{part} is not on the page")
        curves = [c for c in page.curves if c["class"] in ("one", "two")]
        # Latency has nothing to show where no fault was answered.
        faulted = sum(sample[2] > 0 for sample in samples)
        points = [len(samples), faulted, faulted, len(samples)]
        require([c["d"].count("L" if n != 1 and n != 2 else "H")
                 for n, c in enumerate(curves)] == points and all(
            "nan" not in c["d"] and "inf" not in c["d"] for c in curves),
            f"{points}: {curves}")
        require("samples" not in json.loads(
            destination.ctl("--json", "list"))["ended"][-1],
            "a list is short")


# ---- metrics ----

def scrape(port, path="/metrics", data=None):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data,
                                timeout=30) as answer:
        return answer.read().decode()


def metric(text, series):
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    require(found, f"{series} is not in {text}")
    return float(found[1])


def check_metrics(text):
    done = subprocess.run([os.environ["PROMTOOL"], "check", "metrics"],
                          input=text, text=True, capture_output=True,
                          check=False, timeout=60)
    require(not done.returncode and not done.stderr and not done.stdout,
            done.stdout + done.stderr + text)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@test
def metrics_of_a_migration():
    port = free_port()
    with migration(f"--metrics=127.0.0.1:{port}") as (_, destination, gate,
                                                      begin):
        check_metrics(scrape(port))
        guest = begin('a"b\\c')
        wait_until(lambda: state(destination) == "active", "active")
        text = scrape(port)
        check_metrics(text)
        identity = destination.sessions()[0]["session"]
        name = (f'{{session="{identity}",role="destination",'
                'guest="a\\"b\\\\c"}')
        require(metric(text, "remapd_session_bytes" + name) == 64 << 20, text)
        require(0 < metric(text, "remapd_session_left_bytes" + name)
                <= 64 << 20, text)
        running = 'remapd_sessions{role="destination",state="active"}'
        require(metric(text, running) == 1, text)
        finish(gate, guest)
        wait_until(lambda: not destination.sessions(), "the session has ended")
        text = scrape(port)
        check_metrics(text)
        require(metric(text, running) == 0 and metric(
            text, 'remapd_sessions_ended_total{role="destination",'
                  'state="complete"}') == 1, text)
        require(sum(metric(text, 'remapd_pages_total{role="destination",'
                                 f'content="{content}"}}')
                    for content in ("zero", "data")) >= 16384, text)
        latency = "remapd_fault_latency_seconds"
        counts = [float(count) for count in
                  re.findall(rf"^{latency}_bucket.* (\d+)$", text,
                             re.MULTILINE)]
        require(counts == sorted(counts) and
                counts[-1] == metric(text, f"{latency}_count") > 0 and
                metric(text, f"{latency}_sum") > 0, text)
        require(f"{identity}" not in text, "it is gone")


@test
def metrics_answers_nothing_else():
    port = free_port()
    with scene() as (_, daemon):
        one = daemon("one", "--listen=127.0.0.1:0",
                     f"--metrics=127.0.0.1:{port}")
        for path, data in (("/", None), ("/metrics", b"x"), ("/status", None)):
            try:
                scrape(port, path, data)
            except urllib.error.HTTPError as error:
                require(error.code in (404, 405, 413, 501), str(error))
            else:
                require(False, f"{path} was answered")
        # Whoever connects and says nothing, or too much, holds nothing up.
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                mute = socket.create_connection(("127.0.0.1", port))
                stack.callback(mute.close)
                with contextlib.suppress(OSError):
                    mute.sendall(b"GET /metrics HTTP/1.1\r\nX: "
                                 + b"x" * 8192)
            check_metrics(scrape(port))
        one.process.check_alive()
        error = expect(1, REMAPD, "--config=/dev/null", "--metrics=nowhere",
                       f"--handoff={one.directory}/h",
                       f"--control={one.directory}/c", "--listen=127.0.0.1:0")
        require("ADDRESS:PORT" in error, error)


# ---- reloading ----

@test
def hangup_reloads_the_log_level():
    with scene() as (_, daemon), tempfile.NamedTemporaryFile("w") as file:
        one = daemon("one", f"--config={file.name}", "--listen=127.0.0.1:0")

        def reload(text, says):
            file.seek(0)
            file.truncate()
            file.write(text)
            file.flush()
            one.process.child.send_signal(signal.SIGHUP)
            wait_until(lambda: says in one.process.output(), says)
        reload("log-level = debug\n", "reloaded: log-level is debug")
        reload("max-sessions = 3\n", "the change of max-sessions waits")
        reload("nonsense = 3\n", "not reloaded: ")
        one.ctl("status")


# ---- completion ----

def completed(line, directory):
    """What bash offers behind the last word of `line`."""
    script = """
        . /usr/share/bash-completion/bash_completion
        . "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        eval "COMP_WORDS=($(sed 's/=/ = /g' <<< "$2"))"
        [[ $2 == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        compopt() { :; }
        name=${COMP_WORDS[0]} function=$(complete -p "$name")
        function=${function#*-F }
        "${function%% *}" "$name" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", TOP / "completion" / line.split()[0],
         line],
        text=True, capture_output=True, check=True, timeout=60, cwd=directory,
        env={**os.environ, "PATH": f"{BUILD}:{os.environ['PATH']}"})
    return set(done.stdout.splitlines()) - {""}


def options_of(program):
    return set(re.findall(r"(?m)^  (--[a-z-]+=?)",
                          expect(DONE, program, "--help")))


@test
def completion_offers_what_help_names():
    with scene() as (stack, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        stack.enter_context(one.qemu("guest"))
        there = one.directory
        for name, program in COMMANDS.items():
            same("commands", completed(f"{name} ", there), commands_of(program))
            same("options", completed(f"{name} --", there), options_of(program))
        same("options", completed("remapd --", there), options_of(REMAPD))
        identity = one.sessions()[0]["session"][:8]
        for command in ("watch", "cancel"):
            same("ids", completed(f"remapctl --socket={one.control} {command} ",
                                  there), {identity})
        same("files", completed("remapctl report lo", there), {"log"})


@test
def watch_with_nothing_to_watch():
    with scene() as (_, daemon):
        one = daemon("one", "--listen=127.0.0.1:0")
        require("no migration" in one.ctl("watch"), "says so")
        one.ctl("watch", "abc", code=REFUSED)


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(run(sys.argv[1:]))
