#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the benchmark found: tables and plots from its rows.

report.py RUN TOP   puts what is in the directory RUN into the project at TOP:
                    docs/benchmark, and the table of its README.md"""

import json
import pathlib
import re
import shutil
import sys
import textwrap
from statistics import StatisticsError, median

import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "remapd" # the same rows, the same file
from matplotlib import pyplot # pylint: disable=wrong-import-position

NAMES = {"remapd": "remapd", "remapd-copy": "remapd, engine copy",
         "native": "QEMU alone", "preempt": "QEMU, postcopy-preempt"}
COLOURS = {"remapd": "#1b6ca8", "remapd-copy": "#7fb2d6",
           "native": "#c2571a", "preempt": "#e3a76f"}
CUBIC_CASE = "random, hosts with CUBIC" # whose own congestion control is not
LARGER_CASES = {gib: f"random, {gib} GiB" for gib in (2, 4)}
CUBIC_LINK = "none, CUBIC"
GUEST_LINE_SECONDS = 0.1 # WORK_LINE_MS of tests/guest/work.h
STEPS = ("prime", "fill", "place", "touch")
STEP_COLOURS = ("#b8c4cc", "#7fb2d6", "#c2571a", "#5d8a4a")


def drain(row):
    return row["postcopy_seconds"]


def asked(row):
    return row["asked_seconds"]


def rate(row):
    return row["rate_of_stream"]


def longest_stall(row):
    return row["guest_longest_stall_ms"]


def first_second(row):
    return row["guest_operations_first_second"]


def second_before(row):
    return row["guest_operations_per_second_before"]


def cpu(row):
    return sum(row["cpu_seconds"].values())


def cost(row):
    """CPU seconds beside what the guest itself used."""
    return cpu(row) - row["vcpu_seconds"]


def of_latency(name):
    return lambda row: row["fault_latency_us"][name]


def of_waits(name):
    return lambda row: row["guest_waits"][name]


# What is said of a move: name, how it is taken from a row, its form.
FIGURES = (
    ("time to drain, s", drain, "{:.2f}"),
    ("from the command to the end, s", asked, "{:.2f}"),
    ("rate, of a bare stream's", rate, "{:.2f}"),
    ("downtime, ms", lambda row: 1000 * row["downtime_seconds"], "{:.1f}"),
    ("guest's longest stall, ms", longest_stall, "{:.0f}"),
    ("guest's operations, first second", first_second, "{:,.0f}"),
    ("guest's operations a second before", second_before, "{:,.0f}"),
    ("guest's waits, number", of_waits("count"), "{:,.0f}"),
    ("guest's waits of 5 ms and more, number", of_waits("long"), "{:,.0f}"),
    ("guest's waits, p50, µs", of_waits("p50_us"), "{:.0f}"),
    ("guest's waits, p99, µs", of_waits("p99_us"), "{:.0f}"),
    ("fault p50, µs", of_latency("p50"), "{:.0f}"),
    ("fault p99, µs", of_latency("p99"), "{:.0f}"),
    ("CPU seconds, all processes", cpu, "{:.2f}"),
    ("CPU seconds, without the guest's own", cost, "{:.2f}"),
    ("peak memory of the daemons, MiB",
     lambda row: row["peak_bytes"] and row["peak_bytes"] / 2**20, "{:.0f}"),
    ("MiB on the wire", lambda row: row["bytes_on_wire"] / 2**20, "{:.0f}"),
    ("huge pages kept, %",
     lambda row: None if row["huge_kept"] is None else 100 * row["huge_kept"],
     "{:.1f}"),
)


def middle_cell(values, form):
    values = [value for value in values if value is not None]
    return form.format(median(values)) if values else "–"


def cell(values, form):
    """The median and, of several, from where to where they go."""
    values = [value for value in values if value is not None]
    text = middle_cell(values, form)
    if len(values) > 1:
        text += f" ({form.format(min(values))}–{form.format(max(values))})"
    return text


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |",
             "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def by(rows, key):
    """The rows of each value of a key, in their order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def ratio(ours, theirs, take):
    ours, theirs = ([take(row) for row in rows] for rows in (ours, theirs))
    if not ours or not theirs or None in ours + theirs or not median(theirs):
        return "–"
    return f"{median(ours) / median(theirs):.2f}"


def lacking_text(section):
    return ["", *(f"Not here: {what}, {why}."
                  for what, why in section["lacking"].items())]


def moves_text(section):
    lines = ["## Moves of a VM", "",
             "Medians, with the least and the most in brackets; the carriers "
             "took turns in one run. The ratio is remapd's to QEMU alone. The "
             "drain begins when the guest stops at the source; between the "
             "command to switch to post-copy and that, remapd has its huge "
             "pages made ready, and the guest still runs. How much it had "
             "done when it stopped is read from its memory there. A wait is an "
             "operation of the guest, a microsecond or few, that takes over "
             "50 µs until the drain has ended; a fault is what remapd itself "
             "measures, from hearing of it to the wake. CPU seconds are of the "
             "move and the second after its end, in which remapd makes huge "
             "pages again. The daemons' memory is without the staging of "
             "engine move, which is QEMU's. The bare stream is "
             "measured anew before each move, beside a process that spins. "
             "Just before a move the host is made to have free memory for all "
             "of it: a host that is a VM itself and has given memory back gets "
             "it again only slowly."]
    for case, rows in by(section["rows"], "case").items():
        carriers = by(rows, "carrier")
        runs = max(map(len, carriers.values()))
        lines += ["", f"### {case}: {rows[0]['memory']}, "
                  f"{runs} run{'s' if runs > 1 else ''} each", ""]
        lines += table(
            ["", *(NAMES[name] for name in carriers), "ratio"],
            [[name, *(cell(map(take, rows), form)
                      for rows in carriers.values()),
              ratio(carriers["remapd"], carriers.get("native"), take)]
             for name, take, form in FIGURES])
    lines += ["", *(f"Failed, and was done again: {move['case']}, "
                    f"{NAMES[move['carrier']]}: {move['why']}."
                    for move in section["failed"])]
    return lines + lacking_text(section)


def placement_text(section):
    lines = ["## Placement", "",
             "Microseconds for 2 MiB into the guest's process, without a "
             "network: `prime` gets staging, `fill` is the bytes' arrival, "
             "`place` the ioctls, `touch` the guest's reading of every page; "
             "`fault` is a touch of memory that is not there until it is; the "
             "page cache that CONTINUE maps was filled before. MOVE's staging "
             "is primed before the guest stops.", ""]
    rows = []
    for (method, threads, spinners), same in grouped(
            section["rows"], "method", "threads", "spinners"):
        rows.append([method, threads, spinners] + [
            cell([row[step] / 1000 for row in same], "{:.1f}")
            for step in (*STEPS, "fault")])
    lines += table(["method", "threads", "spinning", *STEPS, "fault"], rows)
    return lines + lacking_text(section)


def grouped(rows, *keys):
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups.items()


def floor_text(section):
    lines = ["## The floor", "",
             "Bare TCP on the same links, beside a process that spins: an "
             "answer of so many bytes to a request, p50 and p99 in "
             "microseconds, and one stream.", ""]
    sizes = ("4k", "64k", "2m")
    lines += table(
        ["link", *(f"{size} {p}" for size in sizes for p in ("p50", "p99")),
         "stream, MiB/s"],
        [[link, *(cell([row[f"{p}_us_{size}"] for row in rows], "{:.0f}")
                  for size in sizes for p in ("p50", "p99")),
          cell([row["mib_per_second"] for row in rows], "{:.0f}")]
         for link, rows in by(section["rows"], "link").items()])
    return lines + lacking_text(section)


def encryption_text(section):
    figures = (("MiB/s", "mib_per_second", "{:.0f}"),
               ("fault p50, us", "p50_us", "{:.0f}"),
               ("fault p99, us", "p99_us", "{:.0f}"),
               ("CPU of both daemons, s", "cpu_seconds", "{:.2f}"))
    groups = grouped(section["rows"], "kind", "tls")
    ciphers = {row["cipher"] for row in section["rows"]} - {""}
    return ["## Encryption", "",
            "512 MiB without a guest and without zero pages, between two "
            "network namespaces, in the clear and by TLS 1.3 "
            f"({', '.join(sorted(ciphers))}), taking turns. Encryption by the "
            "kernel (kTLS): "
            f"{section['kernel'] or 'offered by this one, and not used'}.",
            ""] + table(
        ["memory", "tls", *(title for title, *_ in figures)],
        [[*names, *(cell([row[key] for row in rows], form)
                    for _, key, form in figures)] for names, rows in groups])


def service_text(section):
    carriers = by(section["rows"], "carrier")
    figures = (("before: p50, ms", "client_p50_ms_before", "{:.1f}"),
               ("p50, ms", "client_p50_ms", "{:.1f}"),
               ("p99, ms", "client_p99_ms", "{:.0f}"),
               ("longest gap, ms", "client_longest_gap_ms", "{:.0f}"),
               ("answers", "client_answers_in_two_seconds", "{:,.0f}"),
               ("time to drain, s", "postcopy_seconds", "{:.2f}"))
    return ["## memcached in the guest", "",
            "A client outside asks for one random value of 64 KiB after the "
            "other on one connection, which lives on; its answers in the two "
            "seconds from the switchover on.", "", *table(
                ["", *(NAMES[name] for name in carriers)],
                [[name, *(cell([row[key] for row in rows], form)
                          for rows in carriers.values())]
                 for name, key, form in figures])]


def nanoseconds_a_page(row, key="seconds"):
    return 1e9 * row[key] / row["pages"]


def scale_text(section):
    lines = ["## Scale", "", "No guest, nine pages in ten zero, engine copy: "
             "the daemons' own cost, while so many threads touch pages at "
             "random, each of which is a fault until it is there. How many "
             "come to that is chance.", ""]
    lines += table(
        ["threads", "MiB", "ns a page", "CPU ns a page", "map, bytes a page"],
        [[threads, mib,
          cell([nanoseconds_a_page(row) for row in rows], "{:.0f}"),
          cell([nanoseconds_a_page(row, "cpu_seconds") for row in rows],
               "{:.0f}"),
          cell([row["map_bytes"] / row["pages"] for row in rows], "{:.3f}")]
         for (threads, mib), rows in sorted(
             grouped(section["sizes"], "threads", "mib"))])
    lines += ["", *table(
        ["migrations at once", "seconds", "ns a page", "CPU ns a page"],
        [[row["count"], f"{row['seconds']:.2f}",
          f"{nanoseconds_a_page(row):.0f}",
          f"{nanoseconds_a_page(row, 'cpu_seconds'):.0f}"]
         for row in section["at_once"]])]
    lines += ["", "A sparse guest, nothing but holes: what the daemons' own "
              "structures take.", "", *table(
                  ["GiB", "seconds", "ns a page", "destination's peak, MiB",
                   "source's peak, MiB", "map, bytes a page"],
                  [[row["mib"] >> 10, f"{row['seconds']:.1f}",
                    f"{nanoseconds_a_page(row):.0f}",
                    *(f"{row['peak_bytes'][role] / 2**20:.0f}"
                      for role in ("destination", "source")),
                    f"{row['map_bytes'] / row['pages']:.3f}"]
                   for row in section["sparse"]])]
    for threads, rows in by(section["sizes"], "threads").items():
        sizes = by(rows, "mib")
        largest, smallest = max(sizes), min(sizes)
        change = (median(map(nanoseconds_a_page, sizes[largest]))
                  / median(map(nanoseconds_a_page, sizes[smallest])))
        lines += ["", f"From {smallest} to {largest} MiB a page's time changes "
                  f"by a factor of {change:.2f}, {while_touched(threads)}."]
    return lines


def while_touched(threads):
    return "while a thread touches pages" if threads else "untouched"


# ---- goals ----

def middle(rows, take):
    return median(take(row) for row in rows)


def carriers_of(section, case):
    return by([row for row in section["rows"] if row["case"] == case],
              "carrier")


def against(carriers, ours, theirs, take, take_theirs=None):
    return (middle(carriers[ours], take)
            / middle(carriers[theirs], take_theirs or take))


# What is wanted of a case's moves: name, how it is taken from the rows of each
# carrier and of the bare link, a bound.
MOVE_GOALS = (
    ("time to drain, of QEMU's alone",
     lambda of, _: against(of, "remapd", "native", drain), "≤", 0.33),
    ("the same from the command on",
     lambda of, _: against(of, "remapd", "native", asked), "≤", 0.33),
    ("rate, of a bare stream's",
     lambda of, _: middle(of["remapd"], rate), "≥", 0.9),
    ("guest's work in the first second, of preempt's",
     lambda of, _: against(of, "remapd", "preempt", first_second), "≥", 20),
    ("fault p50, of a bare answer of 2 MiB",
     lambda of, bare: middle(of["remapd"], of_latency("p50"))
                      / middle(bare, lambda row: row["p50_us_2m"]), "≤", 1.5),
    ("fault p99, of the p99 of preempt's guest's waits",
     lambda of, _: against(of, "remapd", "preempt", of_latency("p99"),
                           of_waits("p99_us")), "≤", 0.2),
    ("guest's waits p99, of preempt's",
     lambda of, _: against(of, "remapd", "preempt", of_waits("p99_us")),
     "≤", 0.2),
    ("the same with engine copy",
     lambda of, _: against(of, "remapd-copy", "preempt", of_waits("p99_us")),
     "≤", 0.2),
    ("guest's waits of 5 ms and more, of preempt's",
     lambda of, _: against(of, "remapd", "preempt", of_waits("long")),
     "≤", 0.2),
    ("huge pages kept",
     lambda of, _: middle(of["remapd"], lambda row: row["huge_kept"]),
     "≥", 0.99),
    ("CPU without the guest's own, of QEMU's alone",
     lambda of, _: against(of, "remapd", "native", cost), "≤", 0.5),
)
# The cases that goals are for: its name, the bare link's, a title.
GOAL_CASES = (("random", "none", "1 GiB"),
              (CUBIC_CASE, CUBIC_LINK, "1 GiB, hosts with CUBIC"),
              *((case, "none", f"{gib} GiB")
                for gib, case in LARGER_CASES.items()),
              ("random, 10 Gb/s", "10gbit", "1 GiB, 10 Gb/s"))


def found_by(take, *rows):
    """None if nobody moved like that, or there is nothing to compare with."""
    try:
        return take(*rows)
    except (KeyError, StatisticsError, TypeError, ZeroDivisionError):
        return None


def goal_cell(take, sign, bound, carriers, bare):
    """What was found, and whether that is enough."""
    found = found_by(take, carriers, bare)
    if found is None:
        return "–"
    holds = found <= bound if sign == "≤" else found >= bound
    return f"{found:.2f} {'yes' if holds else '**no**'}"


def goals_text(result):
    lines = ["## Goals", "",
             "Each case against its own rivals and its own bare link; medians. "
             "remapd's connections have CUBIC everywhere; QEMU's, and those of "
             "the bare stream and the bare answer, have what the host gives: "
             f"{result['machine']['congestion']}, but in the column of CUBIC.",
             ""]
    if "moves" in result:
        bare = by(result.get("floor", {"rows": []})["rows"], "link")
        cases = [(carriers_of(result["moves"], case), bare.get(link, []), title)
                 for case, link, title in GOAL_CASES]
        cases = [case for case in cases if case[0]]
        lines += table(
            ["", "goal", *(title for *_, title in cases)],
            [[name, f"{sign} {bound}",
              *(goal_cell(take, sign, bound, carriers, link)
                for carriers, link, _ in cases)]
             for name, take, sign, bound in MOVE_GOALS])
        lines += ["", "Whoever carries, the guest's own speed bounds its work "
                  "in the first second. Without any move it would be, of "
                  "preempt's: " + ", ".join(
                      f"{title} {found_by(undisturbed, carriers) or 0:.1f}"
                      for carriers, _, title in cases) + "."]
    if "scale" in result:
        for threads, rows in by(result["scale"]["sizes"], "threads").items():
            lines += ["", flatness_text(threads, by(rows, "mib"))]
    return lines


def flatness_text(threads, sizes):
    costs = [middle(rows, lambda row: nanoseconds_a_page(row, "cpu_seconds"))
             for rows in sizes.values()]
    furthest = max(abs(cost - median(costs)) for cost in costs) / median(costs)
    return (f"CPU a page, {min(sizes)} to {max(sizes)} MiB, "
            f"{while_touched(threads)}: the furthest from the median is "
            f"{furthest:.2f} of it away, goal ≤ 0.1: "
            f"{'yes' if furthest <= 0.1 else '**no**'}.")


def undisturbed(carriers):
    """The guest's work in a second before the move, of preempt's in the first
    one after the switchover."""
    return against(carriers, "remapd", "preempt", second_before, first_second)


# ---- plots ----

def save(figure, output, name):
    for form in ("svg", "png"):
        figure.savefig(output / f"{name}.{form}", dpi=120, bbox_inches="tight",
                       metadata={"Date": None} if form == "svg" else None)
    pyplot.close(figure)


def work(timeline):
    """Operations a second, and the seconds between which they were: one more
    of these. Lines that came in one burst had waited in the guest's console:
    each goes back to when it was written. The switchover itself is at 0."""
    times = [point["seconds"] for point in timeline]
    for i in reversed(range(len(times) - 1)):
        if (0 not in times[i:i + 2]
                and times[i + 1] - times[i] < GUEST_LINE_SECONDS / 2):
            times[i] = times[i + 1] - GUEST_LINE_SECONDS
    steps = [(before, now, max(point["operations"], 1) / (now - before))
             for before, now, point in zip(times, times[1:], timeline[1:])
             if -0.3 < now <= 3 and now > before]
    edges = [max(before, -0.3) for before, _, _ in steps[:1]]
    return ([speed for _, _, speed in steps],
            edges + [now for _, now, _ in steps])


def plot_work(section, output):
    """The guest's work through the switchover, the middle run of each."""
    rows = [row for row in section["rows"]
            if row["case"] == section["rows"][0]["case"]]
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    for carrier, same in by(rows, "carrier").items():
        same.sort(key=lambda row: row["postcopy_seconds"])
        axes.stairs(*work(same[len(same) // 2]["timeline"]), baseline=None,
                    linewidth=1.6, label=NAMES[carrier], color=COLOURS[carrier])
    axes.set(xlabel="seconds from the switchover", yscale="log",
             ylabel="guest's operations a second",
             title=f"The guest's work through the move ({rows[0]['memory']}, "
                   "random writes)")
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    save(figure, output, "work")


def plot_moves(section, output):
    """Time to drain and longest stall, each case."""
    cases = by(section["rows"], "case")
    inches = 1.6 + 0.55 * len(cases)
    figure, both = pyplot.subplots(1, 2, figsize=(9, inches), sharey=True)
    for axes, (title, take) in zip(both, (
            ("time to drain, s", drain),
            ("guest's longest stall, ms", longest_stall))):
        for place, rows in enumerate(cases.values()):
            carriers = by(rows, "carrier")
            height = 0.8 / len(carriers)
            for i, (carrier, same) in enumerate(carriers.items()):
                values = [take(row) for row in same]
                middle = median(values)
                axes.barh(place + (i - (len(carriers) - 1) / 2) * height,
                          middle, height * 0.9, color=COLOURS[carrier],
                          xerr=[[middle - min(values)],
                                [max(values) - middle]],
                          error_kw={"linewidth": 0.8},
                          label=NAMES[carrier] if not place else None)
        axes.set(title=title, yticks=range(len(cases)), xlim=(0, None),
                 yticklabels=list(cases))
        axes.grid(axis="x", alpha=0.3)
    both[0].invert_yaxis()
    figure.legend(*both[1].get_legend_handles_labels(), ncols=4,
                  frameon=False, loc="lower center", fontsize="small")
    figure.subplots_adjust(bottom=0.75 / inches)
    save(figure, output, "moves")


def plot_placement(section, output):
    """One thread beside one that spins: the steps, one on the other."""
    rows = [row for row in section["rows"]
            if row["threads"] == 1 and row["spinners"] == 1]
    methods = by(rows, "method")
    figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.5 * len(methods)))
    for place, same in enumerate(methods.values()):
        left = 0
        for step, colour in zip(STEPS, STEP_COLOURS):
            width = median(row[step] for row in same) / 1000
            axes.barh(place, width, 0.7, left=left, color=colour,
                      label=step if not place else None)
            left += width
    axes.set(yticks=range(len(methods)), yticklabels=list(methods),
             xlabel="microseconds for 2 MiB",
             title="Placing 2 MiB in another process")
    axes.invert_yaxis()
    axes.legend(frameon=False)
    save(figure, output, "placement")


SECTIONS = {"moves": (moves_text, (("work", plot_work), ("moves", plot_moves))),
            "placement": (placement_text, (("placement", plot_placement),)),
            "service": (service_text, ()),
            "floor": (floor_text, ()), "scale": (scale_text, ()),
            "encryption": (encryption_text, ())}


def write(result, output):
    """report.md and the plots of the sections that were run."""
    machine = result["machine"]
    lines = ["# remapd's benchmark", "",
             f"{machine['date']}, commit {machine['commit']}, "
             f"{machine['remapd']}; {machine['cpus']} CPUs of "
             f"{machine['cpu']}, {machine['memory_gib']} GiB, Linux "
             f"{machine['kernel']}, congestion control "
             f"{machine['congestion']}; guests under "
             f"{machine['accelerator']}. "
             + ("A quick run: few rounds, one case." if result["quick"] else "")
             + " Made by `make bench`."]
    lines += ["", *goals_text(result)]
    for name, (text, plots) in SECTIONS.items():
        if name not in result:
            continue
        lines += ["", *text(result[name])]
        for plot, draw in plots:
            draw(result[name], output)
            lines += ["", f"![{plot}]({plot}.svg)"]
    pathlib.Path(output / "report.md").write_text("\n".join(lines) + "\n")


# ---- the README's ----

README_FIGURES = ("time to drain, s", "from the command to the end, s",
                  "guest's longest stall, ms",
                  "guest's waits of 5 ms and more, number",
                  "guest's operations, first second",
                  "CPU seconds, without the guest's own", "huge pages kept, %")


def readme_table(result, case):
    carriers = carriers_of(result["moves"], case)
    known = {name: (take, form) for name, take, form in FIGURES}
    return table(["", *(NAMES[name] for name in carriers)],
                 [[name, *(middle_cell(map(take, rows), form)
                           for rows in carriers.values())]
                  for name in README_FIGURES for take, form in [known[name]]])


def readme_text(result):
    """The first case in short, and the same between hosts with CUBIC."""
    machine = result["machine"]
    cases = by(result["moves"]["rows"], "case")
    first = next(iter(cases))
    rounds = max(row["round"] for row in cases[first]) + 1
    how = " QUICK=1" if result["quick"] else ""
    made = (f"{machine['cpus']} CPUs of {machine['cpu']}, Linux "
            f"{machine['kernel'].split('-')[0]}, guests under "
            f"{machine['accelerator']}; medians of {rounds}, taking turns, "
            f"by `make bench{how}` at {machine['commit']}. The hosts' own "
            f"congestion control is {machine['congestion']}:")
    lines = [*textwrap.wrap(made, 80), "", *readme_table(result, first)]
    if CUBIC_CASE in cases:
        lines += ["", "Between hosts whose own is CUBIC, as Linux has it:", "",
                  *readme_table(result, CUBIC_CASE)]
    return lines


def publish(run, top):
    """From the rows of a run, in its directory."""
    target = top / "docs/benchmark"
    target.mkdir(parents=True, exist_ok=True)
    result = json.loads((run / "report.json").read_text())
    write(result, run)
    for made in (run / "report.md", *run.glob("*.svg")):
        shutil.copy(made, target)
    readme = top / "README.md"
    text, count = re.subn(
        r"(<!-- make bench-publish -->\n).*?(<!-- -->\n)",
        lambda match: "\n".join([match[1], *readme_text(result), "", match[2]]),
        readme.read_text(), flags=re.DOTALL)
    if count != 1:
        sys.exit("report: README.md has no place for the table")
    readme.write_text(text)


if __name__ == "__main__":
    publish(*map(pathlib.Path, sys.argv[1:]))
