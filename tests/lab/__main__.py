#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""python3 -m lab: moves one VM and prints the figures as JSON.

From the top of the tree: PYTHONPATH=tests python3 -m lab --help
"""

import argparse
import json
import sys

from . import BACKENDS, LINKS, Failed, Lab, Refused
from .basics import stop_on_signals


def arguments():
    parser = argparse.ArgumentParser(prog="lab", description="Moves one VM "
                                     "between two hosts on this machine.")
    parser.add_argument("--guest", choices=("linux", "tiny"), default="tiny")
    parser.add_argument("--memory", default="256M")
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument("--backend", choices=BACKENDS, default="thp")
    parser.add_argument("--precopy", action="store_true",
                        help="one round of pre-copy first")
    parser.add_argument("--native", action="store_true",
                        help="by QEMU's own post-copy, without remapd")
    parser.add_argument("--preempt", action="store_true",
                        help="QEMU's own, with urgent pages on their channel")
    parser.add_argument("--link", default="none", help=LINKS)
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--option", action="append", default=[],
                        metavar="NAME=VALUE", help="for the guest's program: "
                        "seed, share, zero, writes, rate, pattern")
    parser.add_argument("--warm", action="store_true", help="have the host's "
                        "host provide the destination's memory beforehand")
    parser.add_argument("--timeline", action="store_true",
                        help="with the guest's work every 100 ms")
    return parser.parse_args()


def main():
    args = arguments()
    native = args.native or args.preempt
    pager = None if native else "on"
    with Lab(link=args.link, daemons="" if native else "ab") as lab:
        vm = lab.vm("lab", guest=args.guest, memory=args.memory,
                    vcpus=args.vcpus, backend=args.backend, accel=args.accel,
                    options=dict(o.split("=", 1) for o in args.option))
        vm.start(pager=pager)
        move = vm.move(precopy=args.precopy, pager=pager, warm=args.warm,
                       capabilities=["postcopy-preempt"] if args.preempt
                       else [])
        move.settle()
        vm.verify()
        figures = move.figures()
        if args.timeline:
            figures["timeline"] = move.timeline()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    stop_on_signals()
    try:
        main()
    except (Failed, Refused) as error:
        sys.exit(f"lab: {error}")
