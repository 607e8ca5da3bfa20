"""`python -m bench timeline`: where one training step spends its time, as the profiler sees it.

One step of `GANTrainer` with the DCGAN of the command line, after warm-up steps, uncaptured. A span is an event that no
other event contains: an operator, a node of the backward pass, a step of an optimizer. `loss` is the call that returns
the loss and its gradients, with all of its operators. The profiler adds its own time to every operator, so small
operators look slower than they are; the training suite measures images per second.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

import fastgan
from bench.harness import report
from bench.harness.contest import Setting
from bench.harness.suite import Suite
from fastgan.networks import Discriminator, Generator

STEPS = {"DCGAN, 32 pixels, batch 64": (32, 64), "DCGAN, 64 pixels, batch 128": (64, 128)}
CATEGORIES = {  # name: (parts of an event's name, colour); the first match counts
    "loss": (("fastgan loss", "adversarial_kernel"), "#e11d74"),
    "optimizer": (("Optimizer.", "_fused_adam", "adam"), "#7c3aed"),
    "convolution": (("conv", "Conv", "cudnn", "gemm"), "#2563eb"),
    "matrix product": (("addmm", "mm", "linear", "Linear"), "#0d9488"),
    "normalisation": (("norm", "Norm"), "#a16207"),
    "activation": (("relu", "Relu", "tanh", "Tanh", "elu", "sigmoid"), "#65a30d"),
    "other": (("",), "#9ca3af"),
}


def measure(setting: Setting, name: str) -> dict:
    """A step is profiled once: no budget changes it."""
    device, (size, batch) = setting.device, STEPS[name]
    torch.manual_seed(0)
    networks = Generator(size, 1, 64), Discriminator(size, 1)
    trainer = fastgan.GANTrainer(*networks, latent_dim=64, device=device, capture=False)
    data = torch.rand(batch, 1, size, size, device=device) * 2 - 1
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * (device == "cuda")
    for _ in range(3):
        trainer.step(data)
    for _ in range(2):  # the first profile of a process may start late
        with _named_losses(), torch.profiler.profile(activities=activities) as profile:
            trainer.step(data)
            setting.clock.synchronize()
    events = profile.events()
    first = min(e.time_range.start for e in events)
    lanes = {"host": [], "device": []}
    for event in events:
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device and event.is_user_annotation:  # covers kernels that are events themselves
            continue
        if (on_device or event.cpu_parent is None) and event.time_range.end > event.time_range.start:
            start, length = event.time_range.start - first, event.time_range.elapsed_us()
            lanes["device" if on_device else "host"].append([category(event.name), round(start, 1), round(length, 1)])
    lanes = {lane: sorted(spans, key=lambda span: span[1]) for lane, spans in lanes.items() if spans}
    return {"name": name, "batch": batch, "lanes": lanes, "rows": []}


def category(name: str) -> str:
    return next(category for category, (parts, _) in CATEGORIES.items() if any(part in name for part in parts))


@contextlib.contextmanager
def _named_losses() -> Iterator[None]:
    """Record each call in fastgan's modules that returns a loss and its gradients as one span."""

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


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    return [" ".join(__doc__.split("\n\n")[1].split()), "", summary(results)]


def summary(results: dict) -> str:
    rows = []
    for cell in results["cells"]:
        for lane, spans in cell["lanes"].items():
            sums = totals(spans)
            busy = sum(sums.values()) or 1.0
            wall = max(s[1] + s[2] for s in spans) - min(s[1] for s in spans)
            shares = (f"{value / busy:.2%}" for value in sums.values())
            rows.append((cell["name"], lane, *shares, len(spans), f"{wall / 1e3:.2f} ms"))
    return "\n".join(report.table(["step", "lane", *CATEGORIES, "spans", "from first to last"], rows))


def picture(results: dict, path: Path) -> None:
    lanes = [(cell["name"], lane, spans) for cell in results["cells"] for lane, spans in cell["lanes"].items()]
    figure, axes = report.subplots(len(lanes) or 1, 1, 11, 2.9 * (len(lanes) or 1) + 0.6)
    for axis, (name, lane, spans) in zip(axes[:, 0], lanes):
        sums = totals(spans)
        busy = sum(sums.values()) or 1.0
        for line, (kind, (_, colour)) in enumerate(CATEGORIES.items()):
            mine = [(start / 1e3, length / 1e3) for found, start, length in spans if found == kind]
            axis.broken_barh(mine, (line - 0.38, 0.76), color=colour, linewidth=0.7)  # the shortest are seen
        labels = [f"{kind}  {sums[kind] / busy:.2%}" for kind in CATEGORIES]
        axis.set_yticks(range(len(CATEGORIES)), labels, fontsize=8)
        axis.set_ylim(len(CATEGORIES) - 0.4, -0.6)
        report.tidy(axis, "x", xlabel=f"ms since the step began, {lane}", title=name)
    report.titled(figure, "One training step, as the profiler sees it", results)
    report.save(figure, path)


SUITE = Suite(
    name="timeline",
    title="One training step",
    contenders={},
    names=lambda device, quick: list(STEPS) if device == "cuda" and not quick else list(STEPS)[:1],
    known=lambda device: list(STEPS),
    measure=measure,
    promises=lambda results: [],  # a picture of a step, not a promise
    tables=tables,
    summary=summary,
    pictures={"timeline.png": picture},
    cell="step",
)
