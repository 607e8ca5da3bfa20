"""`python -m bench batches`: what the losses of public codebases cost as the batch grows from 1 to 4096.

The configurations are those of `lists` with another first dimension. torch.compile makes one program for every batch
size (dynamic=True), since compiling once a size is not what a user of several sizes does.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.harness import environment, growth, report
from bench.harness.progress import progress
from bench.harness.promises import all_right, times
from bench.suites import lists

BATCHES = (1, 8, 64, 512, 4096)
NAMES = {
    "dcgan-d-logits": "DCGAN's D: one logit a sample",
    "cyclegan-d": "PatchGAN's D: 900 logits a sample",
    "hifigan-d": "HiFi-GAN's D: 750 logits a sample in 8 tensors",
    "real-esrgan-d": "Real-ESRGAN's U-Net D: 65,536 logits a sample",
}
MOST = {"cpu": 2**24, "cuda": 2**28}  # logits a side


def cells(device: str, quick: bool) -> list[tuple[str, int]]:
    """(configuration, batch), as far as memory and time go."""
    found = [(name, batch) for name in NAMES for batch in (BATCHES[:3] if quick else BATCHES)]
    return [(name, batch) for name, batch in found if scaled(name, batch).logits <= MOST[device]]


def scaled(name: str, batch: int) -> lists.Configuration:
    c = next(c for c in lists.CONFIGURATIONS if c.name == name)
    shapes = tuple((batch, *shape[1:]) for shape in c.shapes)
    return dataclasses.replace(c, shapes=shapes, title=f"{NAMES[name].split(':')[0]}, batch {batch}")


def run(
    device: str,
    only: Sequence[str] | None = None,
    *,
    quick: bool = False,
    budget_s: float | None = None,
    limit_s: float | None = None,
    compiled: bool = True,
    commit: str | None = None,
    out: Path | None = None,
) -> dict:
    """The results, as they stand in batches.json. only: names of configurations, of `NAMES`."""
    unknown = set(only or ()) - set(NAMES)
    if unknown:
        raise ValueError(f"configuration {sorted(unknown)[0]!r}: expected one of {', '.join(NAMES)}")
    budget_s = budget_s or (0.2 if quick else 0.6)
    limit_s = limit_s or 240.0
    results = {
        "suite": "batches",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": lists.CONTENDERS
        | {lists.COMPILE: "the formula compiled once for every batch size (dynamic=True)"},
        "cells": [],
        "skipped": [],
    }
    program = functools.cache(
        lambda name, device: lists.program_of(scaled(name, 2), torch.zeros((), device=device), True)
    )
    begin = time.perf_counter()
    bar = progress([c for c in cells(device, quick) if only is None or c[0] in only], "batches")
    for name, batch in bar:
        if time.perf_counter() - begin > limit_s:
            why = f"the run's limit of {limit_s:g} s was reached"
            results["skipped"].append({"name": name, "batch": batch, "why": why})
            continue
        bar.set_postfix_str(f"{name} {batch}")
        cell = lists.cell(
            device, scaled(name, batch), quick, budget_s, compiled, lambda like, name=name: program(name, device)
        )
        results["cells"].append({"name": name, "batch": batch} | cell)
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    if out is not None:
        environment.write_json(out, results)
    return results


def promises(results: dict) -> list[tuple[str, str, str]]:
    return [all_right(results, lists.OURS)]


# The table and the picture.


def write(results: dict, folder: Path) -> list[Path]:
    """batches.md and batches.png beside batches.json."""
    return environment.write_drawn("batches", results, folder, markdown, picture)


def _kinds(results: dict) -> tuple[str, ...]:
    return ("host", "device") if results["device_type"] == "cuda" else ("host",)


def fits(results: dict, name: str, kind: str) -> dict[str, dict]:
    """{contender: fit over the batch} of a configuration."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for cell in results["cells"]:
        for row in cell["rows"]:
            if cell["name"] == name and f"{kind}_us" in row and "error" not in row:
                curves.setdefault(row["contender"], []).append((cell["batch"], row[f"{kind}_us"]["median"]))
    return {c: found for c, points in curves.items() if (found := growth.fit(*zip(*sorted(points))))}


def markdown(results: dict) -> str:
    kinds = _kinds(results)
    lines = [*report.header("Losses as the batch grows", results, promises(results)), "## Times", ""]
    lines += ["Forward and backward together, into the logits: median in microseconds, and speed against eager.", ""]
    lines += [f"| loss | batch | contender | {' | '.join(f'{k} µs | {k} vs eager' for k in kinds)} |"]
    lines += ["|---|---|---|" + "---|---|" * len(kinds)]
    for cell in results["cells"]:
        for row in cell["rows"]:
            if "error" in row:
                shown = [row["error"], *[""] * (2 * len(kinds) - 1)]
            else:
                shown = []
                for kind in kinds:
                    speed = row.get(f"{kind}_speedup")
                    shown += [report._time(row, kind), "" if speed is None else times(speed)]
            lines.append(f"| {cell['name']} | {cell['batch']} | {row['contender']} | {' | '.join(shown)} |")
    lines += [
        "",
        "## As the batch grows",
        "",
        "time = floor + batch × cost, by least squares of the relative error.",
        "",
    ]
    lines += [
        "| loss | contender | time | floor µs | ns a sample | slope | farthest point |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(cell["name"] for cell in results["cells"]):
        for kind in kinds:
            for contender, fit in fits(results, name, kind).items():
                slope = "" if fit["slope"] is None else f"{fit['slope']:.2f}"
                lines.append(
                    f"| {name} | {contender} | {kind} | {fit['floor_us']:.3g} | {fit['ns_a_logit']:.3g} | {slope} "
                    f"| {fit['worst']:.0%} |"
                )
    lines += ["", "## Where fastgan is the slower one", ""]
    lines += report.slower(results, lambda c: f"{c['name']}, batch {c['batch']}", lists.OURS) or [
        "Nowhere in this run."
    ]
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['name']}, batch {skipped['batch']}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def summary(results: dict) -> str:
    """README's table: speed against eager of the drop-in and of value_and_grad, over the batch."""
    kind = _kinds(results)[-1]
    batches = sorted({cell["batch"] for cell in results["cells"]})
    names = list(dict.fromkeys(cell["name"] for cell in results["cells"]))
    head = " | ".join(f"batch {b}" for b in batches)
    lines = [f"| {kind} speed, eager = 1: drop-in, value_and_grad | {head} |", "|---|" + "---|" * len(batches)]
    for name in names:
        shown = []
        for batch in batches:
            rows = [r for c in results["cells"] if (c["name"], c["batch"]) == (name, batch) for r in c["rows"]]
            found = {row["contender"]: row.get(f"{kind}_speedup") for row in rows}
            shown.append(", ".join(f"{v['median']:.2f}×" for o in lists.OURS if (v := found.get(o))))
        lines.append(f"| {NAMES.get(name, name)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def picture(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = _kinds(results)
    names = list(dict.fromkeys(cell["name"] for cell in results["cells"]))
    figure, axes = plt.subplots(
        len(kinds),
        len(names),
        figsize=(3.7 * len(names) + 0.6, 3.3 * len(kinds) + 0.9),
        squeeze=False,
        layout="constrained",
    )
    colours = {lists.EAGER: "#6b7280", lists.UNREAD: "#a16207"} | lists.COLOURS
    for line, kind in enumerate(kinds):
        for axis, name in zip(axes[line], names):
            for contender, colour in colours.items():
                points = sorted(
                    (cell["batch"], row[f"{kind}_us"])
                    for cell in results["cells"]
                    for row in cell["rows"]
                    if cell["name"] == name and row["contender"] == contender and f"{kind}_us" in row
                )
                if points:
                    x, values = zip(*points)
                    width = 2 if contender in lists.OURS else 1.1
                    axis.plot(x, [v["median"] for v in values], "o-", ms=3, lw=width, color=colour, label=contender)
                    low, high = [v["low"] for v in values], [v["high"] for v in values]
                    axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(True, color="#e5e7eb", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(NAMES.get(name, name), fontsize=9)
            axis.set_xlabel("batch")
        axes[line][0].set_ylabel(f"{kind} time of forward + backward, µs")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles) or 1, frameon=False)
    figure.suptitle(f"Losses as the batch grows, on {results['environment']['device']}", fontsize=10)
    report.save(figure, path)
