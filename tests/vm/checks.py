# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of a VM that has been moved."""

from harness import require

# What may place the pages of each kind of memory.
ENGINES = {"anon": ("copy", "move", "remap"), "thp": ("copy", "move", "remap"),
           "memfd": ("continue",), "tmpfs": ("continue",),
           "hugetlb": ("copy", "continue")}


def require_whole(vm, move):
    """remapd carried it all, and the guest is as it was and works."""
    for side, machine in (("source", move.source),
                          ("destination", move.destination)):
        statuses = [e["status"] for e in move.pager_events(machine)]
        require("completed" in statuses and "native" not in statuses,
                f"{side}: MIGRATION_PAGER said {statuses}")
    engine = move.engine()
    require(engine in ENGINES[vm.config.backend],
            f"engine {engine} for {vm.config.backend}")
    for role in ("source", "destination"):
        report = move.report(role)
        require(report["error"] in (None, ""), f"{role}: {report['error']}")
        require(report["pages"]["left"] == 0, f"{role}: {report['pages']}")
    if not move.precopy:
        total = move.report("destination")["pages"]["total"]
        require(total * 4096 >= vm.config.memory * 0.95,
                f"only {total} pages were left to post-copy")
    require_guest_whole(vm)


def require_guest_whole(vm):
    """Whoever carried it: the guest saw no wrong page and goes on."""
    ready = next(m for m in vm.guest.messages if m.word == "READY")
    vm.wait_runs()
    pages, zero = vm.verify()
    require(pages == ready["pages"], f"{pages} of {ready['pages']} verified")
    require(zero > pages // 20, f"only {zero} pages are zero")
    require(vm.guest.newest()["id"] == ready["id"], "another guest answers")


def require_native(vm, move):
    """QEMU carried it by itself, and each side that has a pager says so."""
    require(move.engine() == "native", "remapd carried it")
    for machine in (move.source, move.destination):
        events = move.pager_events(machine)
        if events:
            last = events[-1]
            require(last["status"] == "native" and last.get("reason"),
                    f"the last of MIGRATION_PAGER was {last}")
    require_guest_whole(vm)
