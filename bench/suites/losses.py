"""`python -m bench losses`: the discriminator loss with its gradients, for every contender, dtype and size."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.harness import promises as judged
from bench.harness import report
from bench.harness.accuracy import DTYPES, loss_scale
from bench.harness.contest import COPY, REDUCED, Setting, checked, one_line, timed
from bench.harness.overheads import DESCRIPTIONS, measure_overheads
from bench.harness.promises import Promise, at, at_least, percent, size, times
from bench.harness.statistics import fits, ratio
from bench.harness.suite import Suite
from bench.suites.contenders import CONTENDERS, GRAPHED, OURS, Contender, draw, why_wrong

SIZES = [1, 16, 128, 2**10, 2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24]  # logits a side
MORE = [2**26, 2**28]  # on a GPU
FEWER = {"cpu": [128, 2**12, 2**16, 2**18, 2**22], "cuda": [128, 2**12, 2**16, 2**20, 2**24, 2**26]}  # of other dtypes
QUICK_SIZES = [128, 2**18]
GRAPH_UP_TO = 2**16
REPLAYED = (GRAPHED, REDUCED)  # already CUDA graphs, so the profiler counts their launches
WHAT_COPY = "a copy of as many bytes, into allocated memory"


def cells(device: str, quick: bool) -> list[tuple[str, int]]:
    """(dtype, logits a side) of each cell; float32, the most common dtype, comes first."""
    if quick:
        return [(dtype, n) for dtype in DTYPES for n in QUICK_SIZES]
    full = SIZES + MORE * (device == "cuda")
    return [(dtype, n) for dtype in DTYPES for n in (full if dtype == "float32" else FEWER[device])]


def parsed(name: str) -> dict:
    dtype, n = name.split()
    return {"dtype": dtype, "n": int(n)}


def too_large(device: str, name: str) -> str | None:
    """Compare the memory of eager, and of the gate in float64, with the free memory."""
    needed = parsed(name)["n"] * (14 * DTYPES[parsed(name)["dtype"]].itemsize + 80)
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{needed / 1e9:.0f} GB of memory needed, {free / 1e9:.0f} GB free" if needed > free else None


def measure(setting: Setting, name: str, contenders: Sequence[Contender] = CONTENDERS) -> dict:
    """One dtype and size."""
    clock, device, (dtype, n) = setting.clock, setting.device, parsed(name).values()
    scale_value, scale = loss_scale(dtype, device)
    moved = 2 * 2 * n * DTYPES[dtype].itemsize  # two sides, each read once and its gradient written once
    sets, cold = clock.buffers(moved)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    buffers = [draw(n, DTYPES[dtype], device, generator) for _ in range(sets)]
    here = {c.name: c for c in contenders if c.on in (None, device)}
    makers = {name: lambda c=c: c.make(scale) for name, c in here.items()}
    rows, calls = checked(
        *(setting, makers, buffers, lambda name, result: why_wrong(result, *buffers[0], scale_value, here[name].ours)),
        poisoned=buffers[0][:1],
    )
    pairs = [tuple(torch.randn(2 * n, device=device).to(DTYPES[dtype]) for _ in range(2)) for _ in range(sets)]
    calls[COPY] = lambda i: pairs[i % sets][0].copy_(pairs[i % sets][1])
    samples, moving = timed(setting, rows, calls), clock.kinds[-1]
    for name in samples:
        row = rows[name]
        row["bytes_per_s"] = moved / row[f"{moving}_us"]["median"] * 1e6
        row["share_of_copy"] = ratio(samples[COPY][moving], samples[name][moving])
        if name in REPLAYED:
            row["launches"] = len(clock.kernels(calls[name]))
        elif device == "cuda" and n <= GRAPH_UP_TO:
            try:
                row["graph_us"] = clock.graph(calls[name])
            except Exception as error:
                row["graph_error"] = one_line(error)
    return {"dtype": dtype, "n": n, "bytes": moved, "buffers": sets, "cold": cold, "rows": list(rows.values())}


def extras(setting: Setting) -> dict:
    here = {c.name: c.what for c in CONTENDERS if c.on in (None, setting.device)}
    return {"contenders": here | {COPY: WHAT_COPY}, "limits": measure_overheads(setting.clock, setting.quick)}


def where(cell: dict) -> str:
    return f"{cell['dtype']}, {size(cell['n'])}"


# Promises.


def promises(results: dict) -> list[Promise]:
    right = "every fastgan result right to half a unit in the last place + 5e-6, per element, against float64"
    found = _cuda(results) if results["device_type"] == "cuda" else _cpu(results)
    return [*found, judged.all_right(results, OURS, right, "cells")]


def _cpu(results: dict) -> list[Promise]:
    promised = [("value_and_grad", 128, 2.0), ("value_and_grad", 2**18, 2.5), ("value_and_grad", 2**22, 2.5)]
    promised += [("drop-in", 2**18, 1.8)]
    rows = [
        at_least(
            f"{name} ≥ {bound:g}× eager, float32, {size(n)} logits a side",
            at(results, name, "host_speedup", dtype="float32", n=n),
            bound,
        )
        for name, n, bound in promised
    ]
    never = "drop-in never slower than eager, any dtype and size"
    return [*rows, judged.never_slower(never, results, "drop-in", "host_speedup", where)]


def _cuda(results: dict) -> list[Promise]:
    big, direct = 2**26, "value_and_grad"
    rows = [
        at_least(
            f"value_and_grad ≥ {bound:.0%} of copy bandwidth, {dtype}, {size(big)} logits a side",
            *(at(results, direct, "share_of_copy", dtype=dtype, n=big), bound, percent),
        )
        for dtype, bound in (("float32", 0.9), ("bfloat16", 0.8))
    ]
    against = (("device_against_compile", "torch.compile", 1.4), ("device_speedup", "eager", 6))
    rows += [
        at_least(
            f"value_and_grad ≥ {bound:g}× {other} on the device, {dtype}, {size(big)} logits a side",
            *(at(results, direct, column, dtype=dtype, n=big), bound),
        )
        for dtype in ("float32", "bfloat16")
        for column, other, bound in against
    ]
    for column, other, bound in (("host_speedup", "eager", 2.0), ("host_against_compile", "torch.compile", 1.0)):
        small = [(c, row) for c, row in judged.rows(results, "drop-in", column) if c["n"] <= GRAPH_UP_TO]
        what = f"drop-in enqueued at least {bound:g}× as fast as {other}, up to 2^16 logits a side"
        found = [(row[column]["median"], where(c)) for c, row in small]
        rows.append(judged.worst(what, found, lambda v, bound=bound: v >= bound))
    found = [(row["graph_us"], where(cell)) for cell, row in judged.rows(results, direct, "graph_us")]
    what = "value_and_grad in a CUDA graph ≤ 4 µs, up to 2^16 logits a side"
    rows.append(judged.worst(what, found, lambda v: v <= 4, " µs", largest=True))
    for name, allowed, what in (
        ("value_and_grad", {1}, "value_and_grad: 1 kernel launch, by the profiler"),
        ("drop-in", {2, 3}, "drop-in: 2 kernel launches, and the fill with which autograd starts, by the profiler"),
    ):
        launched = [row["launches"] for _, row in judged.rows(results, name, "launches")]
        rows.append(judged.counted(what, launched, allowed))
    return rows


# Tables.

HOW_TO_READ = """\
Forward and backward together: median (quartiles) in microseconds, over interleaved rounds. *n* is logits a side; there
are two sides. A speed-up is a ratio of medians in this run, with its 95 % interval. *GB/s* counts the bytes that must
move: logits read once and gradients written once. *of copy* is this rate relative to that of a copy of as many bytes in
the same rounds. Float16 runs under a loss scale of 2^15. """
ON_A_GPU = """\
*host* is the time to enqueue; *device* is between two events, with everything enqueued before the first; *in a graph*
is a call's share of a CUDA graph of 32. *launches* counts what the profiler saw on the device. Inputs and outputs
rotate through more memory than the L2 cache holds, except at the sizes marked °."""
ON_A_CPU = """\
Buffers are not rotated, since in training a loss reads logits that the network has just written. *launches* counts
operators that touch elements and call no other operator, and compiled graphs. *peak* is the most that one call holds at
once, outputs included."""


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    cuda, moving = results["device_type"] == "cuda", kinds[-1]

    def in_a_graph(cell: dict, row: dict) -> str:
        return f"{row['graph_us']:.2f}" if "graph_us" in row else row.get("graph_error", "")

    def of_copy(cell: dict, row: dict) -> str:
        return "" if row["contender"] == COPY else percent(row["share_of_copy"])

    columns = report.time_columns(kinds) | {
        "vs eager": lambda cell, row: times(row.get(f"{moving}_speedup")),
        "GB/s": lambda cell, row: f"{row['bytes_per_s'] / 1e9:.3g}",
        "of copy": of_copy,
    }
    columns |= ({"in a graph µs": in_a_graph} if cuda else {}) | report.count_columns()
    n = {"n": lambda cell, row: size(cell["n"]) + ("°" if cuda and not cell["cold"] else "")}
    lines = [HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU)]
    for dtype in dict.fromkeys(cell["dtype"] for cell in results["cells"]):
        same = [cell for cell in results["cells"] if cell["dtype"] == dtype]
        lines += ["", f"## {dtype}", "", *report.rows_table(same, n | report.CONTENDER, columns)]
    lines += ["", "## Time by size", "", *scaling_table(results, kinds)]
    return lines + report.where_slower(results, where, OURS)


def scaling_table(results: dict, kinds: tuple[str, ...]) -> list[str]:
    rows = []
    for kind in kinds:
        for dtype, name, fit in fits(results, "dtype", "n", kind):
            even = "" if fit["even_at"] is None else f"{fit['even_at']:,.0f}"
            slope = "" if fit["slope"] is None else f"{fit['slope']:.2f}"
            numbers = f"{fit['floor_us']:.3g}", f"{fit['ns_a_logit']:.3g}", even, slope, f"{fit['worst']:.0%}"
            rows.append((dtype, name, kind, *numbers))
    lines = [
        "The fit is time = floor + n × cost, by least squares of the relative error. *equal at n* is the n at which",
        "both parts are equal. *slope*: of log time over log n, for n above four times that; 1 means in proportion.",
        "*largest error*: the largest relative distance of a time from the fit.",
        "",
        *report.table(
            ["dtype", "contender", "time", "floor µs", "ns a logit of n", "equal at n", "slope", "largest error"], rows
        ),
    ]
    if "limits" in results:
        least = [(name, overhead_text(row), DESCRIPTIONS[name]) for name, row in results["limits"].items()]
        lines += ["", *report.table(["call that does no work", "µs", ""], least)]
    return lines


def overhead_text(row: dict) -> str:
    if "graph_us" in row:
        return f"{row['graph_us']:.2f}"
    kinds = [kind for kind in ("host", "device") if f"{kind}_us" in row]
    found = [f"{kind} {report.microseconds(row[f'{kind}_us']['median'])}" for kind in kinds]
    return ", ".join(found) or row.get("error", "not measured")


def summary(results: dict) -> str:
    """The pages' table: microseconds in float32, the fastest of each size in bold."""
    kind, shown = report.kinds_of(results)[-1], (1, 128, *[4**k for k in range(5, 15)])
    cells = [c for c in results["cells"] if c["dtype"] == "float32" and c["n"] in shown]
    key = f"{kind}_us"
    found = [{row["contender"]: row[key]["median"] for row in c["rows"] if key in row} for c in cells]
    names = [name for name in results["contenders"] if any(name in times_us for times_us in found)]
    rows = []
    for cell, times_us in zip(cells, found):
        best = min((v for name, v in times_us.items() if name != COPY), default=None)
        texts = {name: report.microseconds(v) for name, v in times_us.items()}
        texts = {name: f"**{text}**" if times_us[name] == best else text for name, text in texts.items()}
        rows.append([size(cell["n"]), *(texts.get(name, "") for name in names)])
    lines = report.table([f"logits a side, float32, {kind} µs", *names], rows)
    compared = sum(1 for name in OURS for _ in judged.rows(results, name, f"{kind}_us")) * (1 + (kind == "device"))
    count = len(report.slower(results, str, OURS))
    said = f"Slower than the fastest peer in {count} of {compared} rows of all dtypes."
    fit = {name: found for dtype, name, found in fits(results, "dtype", "n", kind) if dtype == "float32"}
    if fitted := [name for name in OURS if name in fit]:
        numbers = [f"{n} {fit[n]['floor_us']:.3g} µs + {fit[n]['ns_a_logit']:.3g} ns a logit" for n in fitted]
        said += f" Fitted: {', '.join(numbers)}."
    if "limits" in results:
        said += (
            " An " + ", an ".join(f"{name} {overhead_text(row)}" for name, row in results["limits"].items()) + " µs."
        )
    return "\n".join([*lines, "", said])


# Pictures.

COLOURS = {
    "eager": "#6b7280", "eager softplus": "#a16207", "eager, CUDA graph": "#0d9488", "torch.compile": "#2563eb",
    "reduce-overhead": "#60a5fa", "drop-in": "#e11d74", "value_and_grad": "#7c3aed", "copy": "#9ca3af",
}  # fmt: skip


def picture(results: dict, path: Path) -> None:
    """Time, speed-up and share of copy bandwidth over the size, a column for each dtype."""
    kinds, dtypes = report.kinds_of(results), list(dict.fromkeys(cell["dtype"] for cell in results["cells"]))
    panels = {f"{kind}_us": f"{kind} time, µs" for kind in kinds} | {f"{kinds[-1]}_speedup": "speed-up over eager"}
    if len(kinds) > 1:
        panels["share_of_copy"] = "share of copy bandwidth"
    width = max(3.4 * len(dtypes) + 1.2, 11)  # at least as wide as title and legend
    sharing = dict(sharex="col", sharey="row")
    figure, axes = report.subplots(len(panels), len(dtypes), width, 2.9 * len(panels) + 1, **sharing)
    for column, dtype in enumerate(dtypes):
        for line, (key, label) in enumerate(panels.items()):
            axis, time = axes[line][column], key.endswith("_us")
            for name, colour in COLOURS.items():
                if time or name != COPY:
                    points = [(c["n"], row[key]) for c, row in judged.rows(results, name, key, dtype=dtype)]
                    report.curve(axis, points, name, colour, name in OURS, "--" if name == COPY else "-")
            axis.set_xscale("log", base=2)
            report.tidy(axis, title=dtype if line == 0 else "", ylabel="" if column else label)
            if time:
                axis.set_yscale("log")
            else:
                axis.axhline(1, color=report.INK, linewidth=0.8)
                axis.set_ylim(bottom=0)
        axes[-1][column].set_xlabel("logits a side")
    report.legend(figure, axes[0], 5)
    report.titled(figure, "Discriminator loss, forward + backward: median and 95 % interval", results)
    report.save(figure, path)


def scaling_picture(results: dict, path: Path) -> None:
    """Time over logits, both on logarithmic scales, with the fitted floor + n * cost and calls that do no work."""
    kinds = report.kinds_of(results)
    dtype = results["cells"][0]["dtype"] if results["cells"] else "float32"
    figure, axes = report.subplots(1, len(kinds), 7.6 * len(kinds), 5.4)
    for axis, kind in zip(axes[0], kinds):
        found = {name: fit for d, name, fit in fits(results, "dtype", "n", kind) if d == dtype}
        for name, colour in COLOURS.items():
            key, label, fit = f"{kind}_us", name, found.get(name)
            points = [(c["n"], row[key]) for c, row in judged.rows(results, name, key, dtype=dtype)]
            if fit:
                label += f": {fit['floor_us']:.3g} µs + {fit['ns_a_logit']:.3g} ns · n"
                label += "" if fit["slope"] is None else f", slope {fit['slope']:.2f}"
                n = sorted(n for n, _ in points)
                line = [fit["floor_us"] + fit["ns_a_logit"] * 1e-3 * x for x in n]
                axis.plot(n, line, color=colour, linewidth=0.9, linestyle=":")
            report.curve(axis, points, label, colour, name in OURS)
        for name, row in results.get("limits", {}).items():
            value = row.get("graph_us") if kind == "device" else row.get("host_us", {}).get("median")
            if value:
                axis.axhline(value, color="#9ca3af", linewidth=0.8, linestyle="--")
                axis.annotate(name, (0.01, value), xycoords=axis.get_yaxis_transform(), va="bottom", **report.SMALL)
        axis.set_xscale("log", base=2)
        report.tidy(axis, yscale="log", xlabel="n, logits a side", ylabel=f"{kind} time of forward + backward, µs")
        axis.legend(fontsize=7.5, frameon=False)
    report.titled(figure, f"Cost as the work grows, {dtype}; dotted: the fit", results)
    report.save(figure, path)


SUITE = Suite(
    name="losses",
    title="Discriminator loss and its gradients",
    contenders={},
    names=lambda device, quick: [f"{dtype} {n}" for dtype, n in cells(device, quick)],
    known=lambda device: None,
    measure=measure,
    promises=promises,
    tables=tables,
    summary=summary,
    pictures={"losses.png": picture, "growth.png": scaling_picture},
    extras=extras,
    key=parsed,
    where=where,
    why_not=too_large,
)
