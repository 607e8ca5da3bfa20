"""`python -m bench batches`: what the losses of public codebases cost as the batch grows from 1 to 4096.

The configurations are those of `lists` with another first dimension. torch.compile makes one program for all batch
sizes (dynamic=True), since a user with several sizes would not compile for each.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch

from bench.codebases.configurations import BY_NAME, Configuration
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.contest import COMPILE, EAGER, Setting
from bench.harness.statistics import fits
from bench.harness.suite import Suite
from bench.suites import lists

BATCHES = (1, 8, 64, 512, 4096)
NAMES = {
    "dcgan-d-logits": "DCGAN's D: one logit a sample",
    "cyclegan-d": "PatchGAN's D: 900 logits a sample",
    "hifigan-d": "HiFi-GAN's D: 750 logits a sample in 8 tensors",
    "real-esrgan-d": "Real-ESRGAN's U-Net D: 65,536 logits a sample",
}
RIGHT = "every fastgan result right, per element, against float64"
MOST = {"cpu": 2**24, "cuda": 2**28}  # logits a side
COLOURS = {EAGER: "#6b7280", lists.UNREAD: "#a16207"} | lists.COLOURS


def scaled(name: str, batch: int) -> Configuration:
    c = BY_NAME[name]
    shapes = tuple((batch, *shape[1:]) for shape in c.shapes)
    return dataclasses.replace(c, shapes=shapes, title=f"{NAMES[name].split(':')[0]}, batch {batch}")


@functools.cache
def program(name: str, device: str):
    return lists.program_of(scaled(name, 2), torch.zeros((), device=device), True)


def names(device: str, quick: bool) -> list[str]:
    """The cells that memory and time allow."""
    found = [(name, batch) for name in NAMES for batch in (BATCHES[:3] if quick else BATCHES)]
    return [f"{name} {batch}" for name, batch in found if scaled(name, batch).logits <= MOST[device]]


def parsed(name: str) -> dict:
    name, batch = name.split()
    return {"name": name, "batch": int(batch)}


def measure(setting: Setting, name: str) -> dict:
    which = parsed(name)
    return lists.measure(setting, scaled(**which), lambda like: program(which["name"], setting.device)) | which


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    what = "Forward and backward together, into the logits: median in microseconds, and speed-up over eager."
    lines = ["## Times", "", what]
    lead = {"loss": lambda cell, row: cell["name"], "batch": lambda cell, row: str(cell["batch"])} | report.CONTENDER
    speeds = report.speed_columns(kinds)
    columns = {}
    for kind in kinds:
        columns |= report.time_columns([kind]) | {f"{kind} vs eager": speeds[f"{kind} vs eager"]}
    lines += ["", *report.rows_table(results["cells"], lead, columns), "", "## As the batch grows", ""]
    lines += ["time = floor + batch × cost, by least squares of the relative error.", ""]
    found = [(name, c, kind, f) for kind in kinds for name, c, f in fits(results, "name", "batch", kind)]
    order = list(dict.fromkeys(cell["name"] for cell in results["cells"]))
    rows = []
    for name, contender, kind, fit in sorted(found, key=lambda each: order.index(each[0])):
        slope = "" if fit["slope"] is None else f"{fit['slope']:.2f}"
        numbers = f"{fit['floor_us']:.3g}", f"{fit['ns_a_logit']:.3g}", slope, f"{fit['worst']:.0%}"
        rows.append((name, contender, kind, *numbers))
    lines += report.table(["loss", "contender", "time", "floor µs", "ns a sample", "slope", "largest error"], rows)
    return lines + report.where_slower(results, where, lists.OURS)


def where(cell: dict) -> str:
    return f"{cell['name']}, batch {cell['batch']}"


def summary(results: dict) -> str:
    """The pages' table: speed-up over eager of the drop-in and of value_and_grad, by batch."""
    kind = report.kinds_of(results)[-1]
    batches = sorted({cell["batch"] for cell in results["cells"]})
    rows = []
    for name in dict.fromkeys(cell["name"] for cell in results["cells"]):
        shown = []
        for batch in batches:
            found = [judged.at(results, o, f"{kind}_speedup", name=name, batch=batch) for o in lists.OURS]
            shown.append(", ".join(f"{v['median']:.2f}×" for v in found if v))
        rows.append([NAMES.get(name, name), *shown])
    head = [f"{kind} speed, eager = 1: drop-in, value_and_grad", *(f"batch {b}" for b in batches)]
    return "\n".join(report.table(head, rows))


def picture(results: dict, path: Path) -> None:
    kinds, names = report.kinds_of(results), list(dict.fromkeys(cell["name"] for cell in results["cells"]))
    figure, axes = report.subplots(len(kinds), len(names), 3.7 * len(names) + 0.6, 3.3 * len(kinds) + 0.9)
    for line, kind in enumerate(kinds):
        for axis, name in zip(axes[line], names):
            for contender, colour in COLOURS.items():
                found = judged.rows(results, contender, f"{kind}_us", name=name)
                points = [(cell["batch"], row[f"{kind}_us"]) for cell, row in found]
                report.curve(axis, points, contender, colour, contender in lists.OURS)
            axis.set_xscale("log", base=2)
            report.tidy(axis, yscale="log", xlabel="batch")
            axis.set_title(NAMES.get(name, name), fontsize=9)
        axes[line][0].set_ylabel(f"{kind} time of forward + backward, µs")
    report.legend(figure, axes[0])
    report.titled(figure, "Losses as the batch grows", results)
    report.save(figure, path)


SUITE = Suite(
    name="batches",
    title="Losses as the batch grows",
    contenders=lists.CONTENDERS | {COMPILE: "the formula compiled once for all batch sizes (dynamic=True)"},
    names=names,
    measure=measure,
    promises=lambda results: [judged.all_right(results, lists.OURS, RIGHT)],
    tables=tables,
    summary=summary,
    pictures={"batches.png": picture},
    key=parsed,
    where=where,
    budgets=(0.2, 0.6, 0.6),
    time_limits=(240.0, 240.0),
)
