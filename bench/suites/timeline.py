"""`python -m bench timeline`: where one training step spends its time, as the profiler sees it.

One step of `GANTrainer` with the DCGAN of the command line, after warm-up steps, uncaptured. A span is an event that no
other event contains: an operator, a node of the backward pass, a step of an optimizer; `loss` is the call that gives
the loss and its gradients, all of its operators together. The profiler adds its own time to every operator, so small
ones look larger than they are; images a second are in the training suite.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

from bench.harness import environment, report

STEPS = {"DCGAN, 32 pixels, batch 64": (32, 64), "DCGAN, 64 pixels, batch 128": (64, 128)}
CATEGORIES = {  # name: (parts of an event's name, colour); the first that fits
    "loss": (("fastgan loss", "adversarial_kernel"), "#e11d74"),
    "optimizer": (("Optimizer.", "_fused_adam", "adam"), "#7c3aed"),
    "convolution": (("conv", "Conv", "cudnn", "gemm"), "#2563eb"),
    "matrix product": (("addmm", "mm", "linear", "Linear"), "#0d9488"),
    "normalisation": (("norm", "Norm"), "#a16207"),
    "activation": (("relu", "Relu", "tanh", "Tanh", "elu", "sigmoid"), "#65a30d"),
    "other": (("",), "#9ca3af"),
}


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
    """The results, as they stand in timeline.json. only: names of steps, of `STEPS`. A step is profiled once: there is
    nothing for budget_s and compiled to change."""
    names = list(only or STEPS) if not quick and device == "cuda" else list(only or list(STEPS)[:1])
    if unknown := set(names) - set(STEPS):
        raise ValueError(f"step {sorted(unknown)[0]!r}: expected one of {', '.join(STEPS)}")
    begin = time.perf_counter()
    results = {
        "suite": "timeline",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": {},
        "cells": [],
        "skipped": [],
    }
    for name in names:
        if limit_s is not None and time.perf_counter() - begin > limit_s:
            results["skipped"].append({"name": name, "why": f"the run's limit of {limit_s:g} s was reached"})
            continue
        results["cells"].append(profiled(name, device))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    return results


def profiled(name: str, device: str) -> dict:
    import fastgan
    from fastgan.networks import Discriminator, Generator

    size, batch = STEPS[name]
    torch.manual_seed(0)
    networks = Generator(size, 1, 64), Discriminator(size, 1)
    options = {"capture": False} if "capture" in inspect.signature(fastgan.GANTrainer).parameters else {}
    trainer = fastgan.GANTrainer(*networks, latent_dim=64, device=device, **options)
    data = torch.rand(batch, 1, size, size, device=device) * 2 - 1
    cuda = device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    for _ in range(3):
        trainer.step(data)
    for _ in range(2):  # the first profile of a process may start late
        with _named_losses(), torch.profiler.profile(activities=activities) as profile:
            trainer.step(data)
            if cuda:
                torch.cuda.synchronize()
    events = profile.events()
    first = min(e.time_range.start for e in events)
    lanes = {"host": [], "device": []}
    for event in events:
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device and event.is_user_annotation:  # the span of its kernels, which are events themselves
            continue
        if (on_device or event.cpu_parent is None) and event.time_range.end > event.time_range.start:
            span = [category(event.name), round(event.time_range.start - first, 1), round(_length(event), 1)]
            lanes["device" if on_device else "host"].append(span)
    lanes = {lane: sorted(spans, key=lambda span: span[1]) for lane, spans in lanes.items() if spans}
    return {"name": name, "batch": batch, "lanes": lanes, "rows": []}


def _length(event) -> float:
    return event.time_range.end - event.time_range.start


def category(name: str) -> str:
    return next(category for category, (parts, _) in CATEGORIES.items() if any(part in name for part in parts))


@contextlib.contextmanager
def _named_losses() -> Iterator[None]:
    """The calls of fastgan's training modules that give a loss and its gradients, as one span each."""

    def named(function):
        @functools.wraps(function)
        def call(*arguments, **options):
            with torch.profiler.record_function("fastgan loss"):
                return function(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for module in [m for name, m in sys.modules.items() if name.startswith("fastgan.")]:
            for name in ("discriminator_value_and_grad", "generator_value_and_grad"):
                function = vars(module).get(name)
                if callable(function) and function.__module__ != module.__name__:
                    stack.enter_context(mock.patch.object(module, name, named(function)))
        yield


def totals(spans: Sequence[Sequence]) -> dict[str, float]:
    """{category: microseconds}."""
    found = dict.fromkeys(CATEGORIES, 0.0)
    for name, _, length in spans:
        found[name] += length
    return found


def promises(results: dict) -> list[tuple[str, str, str]]:
    return []  # a picture of a step, not a promise


def write(results: dict, folder: Path) -> list[Path]:
    """timeline.md and timeline.png beside timeline.json."""
    return environment.write_drawn("timeline", results, folder, markdown, picture)


def markdown(results: dict) -> str:
    env = results["environment"]
    lines = [f"# One training step on {env['device']}", "", f"{env['date']}, torch {env['torch']}, `{env['command']}`."]
    lines += ["", " ".join(__doc__.split("\n\n")[1].split()), "", summary(results)]
    return "\n".join(lines) + "\n"


def summary(results: dict) -> str:
    lines = [f"| step | lane | {' | '.join(CATEGORIES)} | spans | from first to last |"]
    lines.append("|---|---|" + "---|" * (len(CATEGORIES) + 2))
    for cell in results["cells"]:
        for lane, spans in cell["lanes"].items():
            sums = totals(spans)
            busy = sum(sums.values()) or 1.0
            shares = " | ".join(f"{value / busy:.2%}" for value in sums.values())
            wall = max(s[1] + s[2] for s in spans) - min(s[1] for s in spans)
            lines.append(f"| {cell['name']} | {lane} | {shares} | {len(spans)} | {wall / 1e3:.2f} ms |")
    return "\n".join(lines)


def picture(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lanes = [(cell["name"], lane, spans) for cell in results["cells"] for lane, spans in cell["lanes"].items()]
    figure, axes = plt.subplots(len(lanes) or 1, 1, figsize=(11, 2.9 * (len(lanes) or 1) + 0.6), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, (name, lane, spans) in zip(axes[:, 0], lanes):
        sums = totals(spans)
        busy = sum(sums.values()) or 1.0
        for line, (kind, (_, colour)) in enumerate(CATEGORIES.items()):
            mine = [(start / 1e3, length / 1e3) for found, start, length in spans if found == kind]
            axis.broken_barh(mine, (line - 0.38, 0.76), color=colour, linewidth=0.7)  # the shortest are seen
        labels = [f"{kind}  {sums[kind] / busy:.2%}" for kind in CATEGORIES]
        axis.set_yticks(range(len(CATEGORIES)), labels, fontsize=8)
        axis.set_ylim(len(CATEGORIES) - 0.4, -0.6)
        axis.grid(True, axis="x", color="#e5e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel(f"ms since the step began, {lane}")
        axis.set_title(name, fontsize=9)
    figure.suptitle(f"One training step, as the profiler sees it, on {results['environment']['device']}", fontsize=10)
    report.save(figure, path)
