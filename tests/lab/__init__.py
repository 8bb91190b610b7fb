# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts on one machine, and VMs that move between them.

    with Lab(link="10gbit") as lab:
        vm = lab.vm("demo", memory="1G", backend="thp")
        vm.start()
        move = vm.move(precopy=False)
        vm.verify()

A host is a network namespace with a remapd of its own, and a veth pair joins
the two. Leaving the `with` ends every process and takes every namespace, huge
page and file back; what a killed lab left behind, the next one removes.
"""

from .basics import Failed, Refused, wait_until
from .hosts import LINKS
from .lab import Lab
from .memory import BACKENDS

__all__ = ["BACKENDS", "Failed", "LINKS", "Lab", "Refused", "wait_until"]
