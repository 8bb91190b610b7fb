# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a migration, and when: all of it drawn from a seed."""

import dataclasses
import random

# Where a process of guestless stops for it, or how much is placed by then.
BEFORE = ("greeted", "joined", "prepared")
HELD = (*BEFORE, "attaching", "complete")
PLACED = {"early": (0.02, 0.3), "middle": (0.3, 0.7), "late": (0.7, 0.95)}
STAGES = (*BEFORE, "attaching", *PLACED, "paused", "complete")

CHANNELS = ("control", "urgent", "bulk", "all")
SIDES = ("source", "destination", "both")

LINK = "200mbit" # so that a migration takes a second

# Each with its weight, what it is done to, and whether it lasts.
FAULTS = {
    "link cut": (3, None, True),
    "one way cut": (2, SIDES[:2], True),
    "reset": (3, CHANNELS, False),
    "closed": (2, CHANNELS, False),
    "stall": (2, CHANNELS, False),
    "half open": (2, CHANNELS, False),
    "refused": (1, None, True),
    "mute": (1, None, True),
    "disorder": (2, None, True),
    "SIGKILL": (4, SIDES, True),
    "SIGTERM": (2, SIDES, True),
    "SIGSTOP": (3, SIDES, True),
    "userfaultfd": (1, None, False), # cannot be waited for any more
    "QEMU stopped": (2, SIDES[:2], True),
    "QEMU killed": (1, SIDES[:2], False),
}
PROXIED = ("reset", "closed", "stall", "half open", "refused", "mute",
           "disorder")
DAEMONS = ("SIGKILL", "SIGTERM", "SIGSTOP")

KINDS = {"anon": ("copy", "auto"), "thp": ("copy", "auto"),
         "memfd": ("auto",), "mixed": ("auto",)}


# One run of so many is a VM's; things happen to it after the switchover only,
# and QEMU knows no signal that spoils its userfaultfd.
VM_EVERY = 50
VM_KINDS = {"anon": ("copy", "auto"), "thp": ("copy", "auto"),
            "memfd": ("auto",)}


@dataclasses.dataclass
class Fault:
    what: str
    to: str
    stage: str
    share: float  # placed, for the stages that are a share
    seconds: float
    inside: bool  # it begins while the one before it lasts, if it can
    begun: float = 0

    def __str__(self):
        to = f" {self.to}" if self.to else ""
        lasts = f" {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.what}{to}{lasts} when {self.stage}" + (
            ", inside" if self.inside else "")


@dataclasses.dataclass
class Plan:
    seed: int
    number: int
    kind: str
    engine: str
    vm: bool
    proxied: bool
    tls: bool
    link: str
    migrations: list # options of each
    faults: list

    def __str__(self):
        what = "; ".join(map(str, self.faults))
        return (f"RUN={self.number} SEED={self.seed}: "
                f"{len(self.migrations)} {self.kind}{' VM' if self.vm else ''} "
                f"by {self.engine}{' in TLS' if self.tls else ''}: {what}")


def draw_fault(rng, stages, names):
    what = rng.choices(names, [FAULTS[name][0] for name in names])[0]
    _, to, lasts = FAULTS[what]
    stage = rng.choice(stages)
    seconds = 0.0
    if lasts:
        # Mostly too short for a peer to be missed, sometimes long enough.
        seconds = rng.choice((rng.uniform(0, 0.5), rng.uniform(0.5, 1.5),
                              rng.uniform(2, 3.5)))
    return Fault(what, rng.choice(to) if to else "", stage,
                 rng.uniform(*PLACED[stage]) if stage in PLACED else 0,
                 round(seconds, 2), False)


def draw_faults(rng, vm, proxied):
    names = [name for name in FAULTS
             if (proxied or name not in PROXIED) and
             not (vm and name == "userfaultfd")]
    stages = list(PLACED) if vm else [s for s in STAGES if s != "paused"]
    first = draw_fault(rng, stages, names)
    faults = [first]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        if faults[-1].what == "QEMU killed":
            break # nothing is worth being done any more
        # One process stops for the tester once only.
        later = [s for s in STAGES[STAGES.index(faults[-1].stage):]
                 if s not in HELD]
        if not later:
            break
        fault = draw_fault(rng, later, names)
        fault.inside = bool(faults[-1].seconds) and rng.random() < 0.4
        faults.append(fault)
    return faults


def draw(seed, number, engine=None, link=LINK):
    """`engine`: for the memory of which kernel and daemon have a choice."""
    rng = random.Random(f"{seed}/{number}")
    vm = number % VM_EVERY == VM_EVERY - 1
    kinds = VM_KINDS if vm else KINDS
    kind = rng.choice(list(kinds))
    drawn = rng.choice(kinds[kind])
    if not engine or len(kinds[kind]) == 1:
        engine = drawn
    proxied = not vm and rng.random() < 0.5
    many = 1 if vm else rng.choice((1, 1, 1, 1, 2, 4))
    migrations = []
    for _ in range(many):
        options = {"kind": kind, "seed": rng.randrange(1 << 30),
                   "mib": rng.randrange(8, 33) // many + 4,
                   "threads": rng.randrange(1, 3),
                   "zero": rng.choice((0, 5, 30)),
                   "left": rng.choice((100, 100, 60)),
                   "blocks": rng.choice((1, 2, 3))}
        if rng.random() < 0.3:
            options["odd"] = True
        migrations.append(options)
    faults = draw_faults(rng, vm, proxied)
    if faults[0].stage in HELD:
        migrations[0]["hold"] = faults[0].stage
    return Plan(seed, number, kind, engine, vm, proxied, rng.random() < 0.5,
                link, migrations, faults)
