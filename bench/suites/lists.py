"""`python -m bench lists`: adversarial losses of public codebases, at the shapes of their own training.

`eager` is a codebase's own formula; the others can replace it. Each runs forward and backward, into the logits.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.codebases.adversarial import Loss, Parts
from bench.codebases.configurations import BY_NAME, Configuration
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.accuracy import DTYPES, bound_of_ours, loss_scale, ulp, wrong_gradients, wrong_loss
from bench.harness.clock import waits
from bench.harness.contest import COMPILE, EAGER, Setting, checked, timed
from bench.harness.promises import Promise, at, at_least
from bench.harness.suite import Suite

UNREAD, DROP_IN, DIRECT = "eager, nothing read", "drop-in", "value_and_grad"
CONTENDERS = {
    EAGER: "the codebase's formula in PyTorch, as it is written there, with its `.item()` calls",
    UNREAD: "the same without the `.item()` calls, whose results the codebase does not use",
    COMPILE: "the same without `.item()`, compiled in the default mode: both sides in one function, one backward pass",
    DROP_IN: "the member of fastgan.compat that takes its place, and backward",
    DIRECT: "fastgan's `*_value_and_grad`: loss and gradients in one call, no autograd",
}
OURS = (DROP_IN, DIRECT)
QUICK = ("hifigan-d", "spade-d", "dcgan-d")
COLOURS = {DROP_IN: "#e11d74", DIRECT: "#7c3aed", COMPILE: "#2563eb"}


@dataclass(frozen=True)
class Batch:
    """sides: the arguments of the loss. leaves: the tensors of each side that require gradients."""

    sides: tuple
    leaves: tuple[list[Tensor], ...]

    @property
    def tensors(self) -> list[Tensor]:
        return [x for leaves in self.leaves for x in leaves]


Step = Callable[[Batch], tuple[Sequence[Tensor], Sequence[Tensor]]]  # batch -> (losses of the parts, gradients)


def draw(configuration: Configuration, device: str, generator: torch.Generator) -> Batch:
    """N(1, 2²) on real, N(-1, 2²) on generated data. None is at the kink of a hinge, where conventions differ."""

    def tensor(shape: tuple[int, ...], shift: float) -> Tensor:
        x = torch.randn(shape, generator=generator, device=device).mul_(2).add_(shift)
        x = torch.where(x.abs() == 1, x * 1.5, x)
        return x.sigmoid() if configuration.probabilities else x

    shifts = {"both": (1.0, -1.0), "fake": (-1.0,), "batch": (-1.0, 1.0)}[configuration.sides]
    sides = [[tensor(shape, shift) for shape in configuration.shapes] for shift in shifts]
    if configuration.sides == "batch":
        sides = [[torch.cat(halves) for halves in zip(*sides)]]
    return batch_of(configuration, sides, DTYPES[configuration.dtype])


def batch_of(configuration: Configuration, sides: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> Batch:
    leaves = tuple([x.detach().to(dtype).requires_grad_() for x in side] for side in sides)
    held = {"tensor": lambda side: side[0], "list": list, "lists": lambda side: [[x] for x in side]}
    return Batch(tuple(held[configuration.holds](side) for side in leaves), leaves)


def forward_backward(parts: Parts, scale: Tensor | None) -> Step:
    def step(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        losses, grads = [], []
        for part, leaves in zip(parts, batch.leaves if len(parts) > 1 else (batch.tensors,)):
            loss = part(*batch.sides)
            losses.append(loss)
            grads += torch.autograd.grad(loss, leaves, scale)
        return losses, grads

    return step


def program_of(configuration: Configuration, like: Tensor, dynamic: bool | None = None) -> Loss:
    """Both sides in one compiled function."""
    torch._dynamo.reset()  # compile a specialised program for each configuration
    parts = (configuration.plain or configuration.eager)(like)

    def whole(*sides):
        return functools.reduce(operator.add, [part(*sides) for part in parts])

    return torch.compile(whole, dynamic=dynamic)


def steps(
    c: Configuration, like: Tensor, scale: Tensor | None, program: Callable[[Tensor], Loss] | None = None
) -> dict[str, Callable[[], Step]]:
    """The function that makes each contender of the configuration."""

    def direct() -> Step:
        def step(batch: Batch) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
            out = c.value_and_grad(*batch.sides, scale)
            return (out.loss,), out.grads

        return step

    found = {EAGER: lambda: forward_backward(c.eager(like), scale)}
    if c.plain is not None:
        found[UNREAD] = lambda: forward_backward(c.plain(like), scale)
    found[COMPILE] = lambda: forward_backward([program(like) if program else program_of(c, like)], scale)
    found[DROP_IN] = lambda: forward_backward(c.drop_in(like), scale)
    return found if c.value_and_grad is None else found | {DIRECT: direct}


def exact(configuration: Configuration, batch: Batch, scale: float) -> tuple[float, list[Tensor]]:
    """(loss, gradients) of the codebase's own formula in float64."""
    wide = batch_of(configuration, batch.leaves, torch.float64)
    like = wide.tensors[0]
    parts = (configuration.exact or configuration.plain or configuration.eager)(like)
    losses, grads = forward_backward(parts, like.new_tensor(scale))(wide)
    return sum(x.item() for x in losses), grads


def why_wrong(result, batch: Batch, expected: tuple[float, list[Tensor]], ours: bool) -> tuple[str | None, float]:
    """(None or what is wrong, the worst relative error of a gradient). Ours must be right to half a unit in the last
    place plus 5e-6, per element; others to 4 eps of a tensor's largest gradient."""
    losses, grads = result
    eps = torch.finfo(batch.tensors[0].dtype).eps
    if wrong := wrong_loss(sum(x.item() for x in losses), expected[0], 5e-6 if ours else max(4 * eps, 1e-5)):
        return wrong, float("inf")

    def bound_of_eager(size: Tensor, dtype: torch.dtype) -> Tensor:
        return (size + size.max()) * (4 * eps) + ulp(size, dtype)

    return wrong_gradients("tensor", grads, batch.tensors, expected[1], bound_of_ours if ours else bound_of_eager)


def measure(setting: Setting, c: Configuration, program: Callable[[Tensor], Loss] | None = None) -> dict:
    """One configuration. program: like -> an already compiled loss; by default a new one is compiled."""
    device, clock = setting.device, setting.clock
    scale_value, scale = loss_scale(c.dtype, device)
    both = 1 if c.sides == "fake" else 2
    moved = 2 * both * c.logits * DTYPES[c.dtype].itemsize  # each logit read once, its gradient written once
    sets, cold = clock.buffers(moved)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    batches = [draw(c, device, generator) for _ in range(sets)]
    expected = exact(c, batches[0], scale_value)
    makers = steps(c, batches[0].tensors[0], scale, program)

    def wrong(name: str, result) -> tuple[str | None, float]:
        return why_wrong(result, batches[0], expected, name in OURS)

    rows, calls = checked(setting, makers, [(batch,) for batch in batches], wrong, batches[0].tensors)
    for name in timed(setting, rows, calls):
        if device == "cuda":
            rows[name]["waits"] = waits(calls[name])
    cell = {"name": c.name, "title": c.title, "notes": c.notes, "dtype": c.dtype, "sides": c.sides, "n": c.logits}
    cell |= {"shapes": [list(shape) for shape in c.shapes], "bytes": moved, "buffers": sets, "cold": cold}
    return cell | {"rows": list(rows.values())}


def promises(results: dict) -> list[Promise]:
    """CPU speed, and on a GPU the launches of HiFi-GAN's D list."""
    right = "every fastgan result right to half a unit in the last place + 5e-6, per element, against float64"
    gate = judged.all_right(results, OURS, right, "cells")
    if results["device_type"] == "cuda":
        rows = []
        for name, allowed, what in (
            (DIRECT, {1}, "value_and_grad of HiFi-GAN's D list: 1 kernel launch, by the profiler"),
            (DROP_IN, {2, 3}, "drop-in for HiFi-GAN's D list: 2 kernel launches, and the fill that starts autograd"),
        ):
            launched = [row["launches"] for _, row in judged.rows(results, name, "launches", name="hifigan-d")]
            rows.append(judged.counted(what, launched, allowed))
        return [*rows, gate]
    rows = [
        at_least(f"drop-in ≥ 1.5× eager, {what}", at(results, DROP_IN, "host_speedup", name=name), 1.5)
        for name, what in (("hifigan-d", "HiFi-GAN's D list"), ("real-esrgan-d", "Real-ESRGAN's D"))
    ]
    never = "drop-in never slower than eager, any configuration"
    return [*rows, judged.never_slower(never, results, DROP_IN, "host_speedup", lambda cell: cell["name"]), gate]


HOW_TO_READ = """\
Forward and backward together, into the logits: median (quartiles) in microseconds, over interleaved rounds. A speed-up
is a ratio of medians in this run, with its 95 % interval; below 1 the contender is slower. """
ON_A_GPU = """\
*host* is the time until the call returns: the time to enqueue or, if the codebase waits for the device, to finish.
*waits* counts those waits, by `torch.cuda.set_sync_debug_mode`. *device* is between two events, with everything
enqueued before the first; it includes the gaps that waits leave. *launches* counts what the profiler saw on the device.
Inputs and outputs rotate through more memory than the L2 cache holds, or through 256 sets if these hold less."""
ON_A_CPU = """\
*launches* counts operators that touch elements and call no other operator, and compiled graphs. *peak* is the most that
one call holds at once, outputs included."""


def shapes_of(cell: dict) -> str:
    """'2 × (16, 102), (16, 105)'."""
    shapes = [f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})" for shape in cell["shapes"]]
    counts = {shape: shapes.count(shape) for shape in shapes}
    return ", ".join(shape if count == 1 else f"{count} × {shape}" for shape, count in counts.items())


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    cuda = results["device_type"] == "cuda"
    columns = report.time_columns(kinds) | report.speed_columns(kinds) | report.count_columns(waits=cuda)
    lead = {"configuration": lambda cell, row: cell["title"]} | report.CONTENDER
    lines = ["## Times", "", HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU), ""]
    lines += report.rows_table(results["cells"], lead, columns)
    lines += report.where_slower(results, lambda cell: cell["title"], OURS)
    rows = [
        (cell["name"], cell["title"], f"{cell['n']:,}: {shapes_of(cell)}", cell["dtype"], cell["notes"])
        for cell in results["cells"]
    ]
    head = ["name", "codebase and setting", "logits a side", "dtype", "what it is"]
    return [*lines, "", "## Configurations", "", *report.table(head, rows)]


def summary(results: dict) -> str:
    """The pages' table: speed relative to eager, a line for each configuration; below 1 is slower."""
    kind, names, rows = report.kinds_of(results)[-1], [COMPILE, DROP_IN, DIRECT], []
    for cell in results["cells"]:
        found = {row["contender"]: row for row in cell["rows"] if "error" not in row}
        eager = found.get(EAGER, {}).get(f"{kind}_us")
        speeds = [judged.times(found.get(name, {}).get(f"{kind}_speedup")) for name in names]
        rows.append([cell["title"], "" if eager is None else report.microseconds(eager["median"]), *speeds])
    return "\n".join(report.table([f"{kind} speed, eager = 1", "eager µs", *names], rows))


def picture(results: dict, path: Path) -> None:
    """Speed-up over eager by configuration, a panel for each kind of time."""
    kinds, cells = report.kinds_of(results), results["cells"]
    figure, axes = report.subplots(1, len(kinds), 3.6 + 5.6 * len(kinds), 0.58 * max(len(cells), 1) + 1.7, sharey=True)
    for axis, kind in zip(axes[0], kinds):
        report.speed_bars(axis, cells, COLOURS, f"{kind}_speedup", f"speed-up over eager, {kind} time")
    report.legend(figure, axes[0])
    report.titled(figure, "Adversarial losses of public codebases, forward + backward", results)
    report.save(figure, path)


SUITE = Suite(
    name="lists",
    title="Adversarial losses of public codebases",
    contenders=CONTENDERS,
    names=lambda device, quick: QUICK if quick else list(BY_NAME),
    measure=lambda setting, name: measure(setting, BY_NAME[name]),
    promises=promises,
    tables=tables,
    summary=summary,
    pictures={"lists.png": picture},
)
