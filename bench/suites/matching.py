"""`python -m bench matching`: feature matching over the maps of real discriminators, and what a gradient penalty costs.

`eager` is a codebase's own formula; the others can replace it. Each runs forward and backward, with gradients at the
maps of generated data. Real maps require no gradient, except in the "attached" configuration. The second table comes
from `penalties`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from bench.codebases.matching import BY_NAME, Configuration, Lists
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.accuracy import DTYPES, bound_of_ours, loss_scale, ulp, wrong_gradients, wrong_loss
from bench.harness.contest import COMPILE, COPY, EAGER, Setting, checked, timed
from bench.harness.promises import at, at_least, percent
from bench.harness.statistics import ratio
from bench.harness.suite import Suite
from bench.suites import penalties

FOREACH, DROP_IN, SIGNS, MAPS, DIRECT = "foreach", "drop-in", "signs", "maps", "value_and_grad"
CONTENDERS = {
    EAGER: "the codebase's formula in PyTorch, as it is written there",
    FOREACH: "the same with `torch._foreach_sub` and `_foreach_abs` over all maps at once",
    COMPILE: "eager, compiled in the default mode",
    DROP_IN: "the member of fastgan.compat that takes its place",
    SIGNS: 'fastgan.feature_matching_loss(..., save="signs"), the default: it saves a byte an element and no map',
    MAPS: 'fastgan.feature_matching_loss(..., save="maps"): its backward pass reads both maps again',
    DIRECT: "fastgan.feature_matching_value_and_grad: loss and gradients in one call, no autograd",
    COPY: "a copy of as many bytes as value_and_grad has to move, for scale",
}
OURS = (DROP_IN, SIGNS, MAPS, DIRECT)
QUICK, PENALTIES = ("hifigan", "spade"), "penalties"
COLOURS = {FOREACH: "#a16207", COMPILE: "#2563eb", DROP_IN: "#e11d74", SIGNS: "#059669"} | {
    MAPS: "#0891b2",
    DIRECT: "#7c3aed",
}


@dataclass(frozen=True)
class Batch:
    """leaves: the maps that require gradients, those of generated data first. used: the maps in the loss, by side."""

    fake: Lists
    real: Lists
    leaves: list[Tensor]
    used: tuple[list[Tensor], list[Tensor]]


def draw(configuration: Configuration, device: str, quick: bool, generator: torch.Generator) -> Batch:
    """Maps like the outputs of a leaky ReLU: N(0, 1), with negative values times 0.1."""
    dtype = DTYPES[configuration.dtype]

    def tensor(shape: tuple[int, ...]) -> Tensor:
        return F.leaky_relu(torch.randn(shape, generator=generator, device=device), 0.1).to(dtype)

    shapes = configuration.shapes(device, quick)
    return batch_of(configuration, *([[tensor(shape) for shape in maps] for maps in shapes] for _ in range(2)))


def batch_of(configuration: Configuration, fake: Lists, real: Lists) -> Batch:
    cut = -1 if configuration.options.get("exclude_last") else None
    used = [x for maps in fake for x in maps[:cut]], [x for maps in real for x in maps[:cut]]
    leaves = [x.requires_grad_() for x in (*used[0], *(used[1] if configuration.attached else ()))]
    return Batch(fake, real, leaves, used)


Step = Callable[[Batch], tuple[Tensor, Sequence[Tensor]]]


def _forward_backward(loss_of: Callable[[Lists, Lists], Tensor], scale: Tensor | None) -> Step:
    def step(batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        loss = loss_of(batch.fake, batch.real)
        return loss, torch.autograd.grad(loss, batch.leaves, scale)

    return step


def steps(c: Configuration, batch: Batch, scale: Tensor | None) -> dict[str, Callable[[], Step]]:
    """The function that makes each contender of the configuration."""
    cut, weights = c.options.get("exclude_last"), weights_of(c, batch)

    def foreach(fake: Lists, real: Lists) -> Tensor:
        a, b = ([x for maps in lists for x in (maps[:-1] if cut else maps)] for lists in (fake, real))
        if a[0].dtype == torch.float16:
            a, b = [x.float() for x in a], [x.float() for x in b]
        gaps = torch._foreach_abs(torch._foreach_sub(a, b))
        return sum(weight * gap.mean() for weight, gap in zip(weights, gaps))

    def compiled() -> Step:
        torch._dynamo.reset()  # compile a specialised program for each configuration
        return _forward_backward(torch.compile(c.eager), scale)

    def direct() -> Step:
        options = {key: value for key, value in c.options.items() if key != "detach_real"}

        def step(batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
            out = fastgan.feature_matching_value_and_grad(batch.fake, batch.real, **options, grad_scale=scale)
            return out.loss, out.grads

        return step

    def saving(what: str) -> Callable[[Lists, Lists], Tensor]:
        return lambda fake, real: fastgan.feature_matching_loss(fake, real, **c.options, save=what)

    steps = {
        EAGER: lambda: _forward_backward(c.eager, scale),
        FOREACH: lambda: _forward_backward(foreach, scale),
        COMPILE: compiled,
        DROP_IN: lambda: _forward_backward(c.drop_in, scale),
        SIGNS: lambda: _forward_backward(saving("signs"), scale),
        MAPS: lambda: _forward_backward(saving("maps"), scale),
    }
    return steps if c.attached else steps | {DIRECT: direct}  # value_and_grad has no gradients of real maps


def weights_of(c: Configuration, batch: Batch) -> list[float]:
    """w_k of each map that is used."""
    cut, weights = c.options.get("exclude_last", False), []
    for maps in batch.fake:
        count = len(maps) - cut
        share = 1.0 / count if c.options.get("reduce_layers") == "mean" else 1.0
        share /= len(batch.fake) if c.options.get("reduce_discriminators") == "mean" else 1
        weights += [c.options.get("weights", 1.0) * share] * count
    return weights


def why_wrong(result, batch: Batch, weights: Sequence[float], scale: float, ours: bool) -> tuple[str | None, float]:
    """(None or what is wrong, the worst relative error of a gradient): against sum_k w_k mean |fake_k - real_k| and its
    gradient in float64, map by map, per element. Ours must be right to half a unit in the last place plus 5e-6, others
    to 4 eps."""
    loss, grads = result
    eps, means = torch.finfo(batch.leaves[0].dtype).eps, []

    def exact() -> Iterator[Tensor]:
        """One map at a time, since all maps in float64 would not fit into memory."""
        for sign, _ in zip((1, -1), range(len(batch.leaves) // len(weights))):
            for weight, x, y in zip(weights, *batch.used):
                gap = x.detach().double() - y.detach().double()
                if sign == 1:
                    means.append(weight * gap.abs().mean().item())
                yield gap.sign_().mul_(sign * weight * scale / gap.numel())

    def bound_of_eager(size: Tensor, dtype: torch.dtype) -> Tensor:
        return size * (4 * eps) + ulp(size, dtype)

    wrong, worst = wrong_gradients("map", grads, batch.leaves, exact(), bound_of_ours if ours else bound_of_eager)
    return wrong or wrong_loss(loss.item(), sum(means), 5e-6 if ours else 1e-5), worst


def measure(setting: Setting, name: str) -> dict | None:
    """One configuration, or the penalties."""
    if name == PENALTIES:
        setting.results["penalties"] = penalties.measure(setting)
        return None
    return cell(setting, BY_NAME[name])


def cell(setting: Setting, c: Configuration) -> dict:
    device, dtype, last = setting.device, DTYPES[c.dtype], setting.clock.kinds[-1]
    scale_value, scale = loss_scale(c.dtype, device)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    batch = draw(c, device, setting.quick, generator)
    weights, elements = weights_of(c, batch), sum(x.numel() for x in batch.used[0])

    def wrong(name: str, result) -> tuple[str | None, float]:
        return why_wrong(result, batch, weights, scale_value, name in OURS)

    rows, calls = checked(setting, steps(c, batch, scale), [(batch,)], wrong, batch.leaves[:3])
    source = torch.ones(elements * 3 // 2, dtype=dtype, device=device)
    target = torch.empty_like(source)
    calls[COPY] = lambda _: target.copy_(source)
    samples = timed(setting, rows, calls)
    # bytes that must move per element: maps read, signs written and read, gradients written
    size, written = dtype.itemsize, 1 + c.attached
    moved = {SIGNS: (2 + written) * size + 2, DIRECT: (2 + written) * size, COPY: 3 * size}
    moved |= {DROP_IN: moved[SIGNS], MAPS: (4 + written) * size}
    for name in samples:
        if name in moved:
            row = rows[name]
            row["bytes"] = moved[name] * elements
            row["bytes_per_s"] = row["bytes"] / (row[f"{last}_us"]["median"] * 1e-6)
            if name in OURS:
                of_copy = ratio(samples[COPY][last], samples[name][last])
                row["share_of_copy"] = {key: value * moved[name] / moved[COPY] for key, value in of_copy.items()}
    found = {"name": c.name, "title": c.title, "notes": c.notes, "dtype": c.dtype, "n": elements}
    found |= {"shapes": [[list(x.shape) for x in maps] for maps in batch.fake], "pairs": len(batch.used[0])}
    return found | {"rows": list(rows.values())}


def promises(results: dict) -> list[judged.Promise]:
    maps, kind = dict(name="hifigan"), report.kinds_of(results)[-1]
    if kind == "device":
        of_copy = at(results, DIRECT, "share_of_copy", **maps)
        launched = [row["launches"] for _, row in judged.rows(results, DROP_IN, "launches", **maps)]
        rows = [
            at_least("value_and_grad ≥ 85% of copy bandwidth, HiFi-GAN's maps", of_copy, 0.85, percent),
            at_least("drop-in ≥ 4× eager, HiFi-GAN's maps", at(results, DROP_IN, "device_speedup", **maps), 4.0),
            at_least(
                "drop-in ≥ 1.3× torch.compile, HiFi-GAN's maps",
                *(at(results, DROP_IN, "device_against_compile", **maps), 1.3),
            ),
            judged.counted("drop-in: at most 8 launches forward and backward, HiFi-GAN's maps", launched, range(9)),
        ]
    else:
        rows = [at_least("drop-in ≥ 2× eager, HiFi-GAN's maps", at(results, DROP_IN, "host_speedup", **maps), 2.0)]
    for contender in (DROP_IN, SIGNS):
        never = f"{contender} never slower than eager, any list of maps"
        rows.append(judged.never_slower(never, results, contender, f"{kind}_speedup", lambda cell: cell["name"]))
    right = "every fastgan result right, per element, against float64"
    return [*rows, judged.all_right(results, OURS, right)]


HOW_TO_READ = """\
Forward and backward together: median (quartiles) in microseconds, over interleaved rounds. A speed-up is a ratio of
medians in this run, with its 95 % interval; below 1 the contender is slower. *GB/s* counts the bytes that must move:
both maps, two bytes and the gradient for drop-in and signs; both maps twice and the gradient for maps; both maps and
the gradient for value_and_grad. *of copy* is this rate relative to that of a copy in the same rounds. *peak* is the
most that one call holds at once, outputs included. """
ON_A_GPU = "*host* is the time to enqueue, *device* is between two events, *launches* is what the profiler counted."
ON_A_CPU = "*launches* counts operators that touch elements and call no other operator, and compiled graphs."


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    lines = ["## Feature matching", "", HOW_TO_READ + (ON_A_GPU if results["device_type"] == "cuda" else ON_A_CPU), ""]
    lead = {"maps": lambda cell, row: cell["title"]} | report.CONTENDER
    columns = (
        report.time_columns(kinds)
        | report.speed_columns(kinds)
        | {
            "GB/s": lambda cell, row: f"{row['bytes_per_s'] / 1e9:.3g}" if "bytes_per_s" in row else "",
            "of copy": lambda cell, row: percent(row.get("share_of_copy")),
        }
    )
    lines += report.rows_table(results["cells"], lead, columns | report.count_columns())
    lines += report.where_slower(results, lambda cell: cell["title"], OURS)
    head = ["name", "codebase", "pairs", "elements a side", "dtype", "what it is"]
    rows = [(c["name"], c["title"], c["pairs"], f"{c['n']:,}", c["dtype"], c["notes"]) for c in results["cells"]]
    lines += ["", "## Configurations", "", *report.table(head, rows)]
    return lines + (penalties.tables(results["penalties"], kinds) if results["penalties"] else [])


def picture(results: dict, path: Path) -> None:
    """Speed-up over eager by configuration; below, what a penalty costs."""
    kind, cells = report.kinds_of(results)[-1], results["cells"]
    costs = [row for row in (results["penalties"] or {"rows": []})["rows"] if f"{kind}_cost" in row]
    heights = [0.75 * max(len(cells), 1) + 0.6, *[0.34 * len(costs) + 0.6] * bool(costs)]
    figure, axes = report.subplots(len(heights), 1, 9.5, sum(heights) + 1.6, height_ratios=heights)
    report.speed_bars(axes[0][0], cells, COLOURS, f"{kind}_speedup", f"speed-up over eager, {kind} time")
    if costs:
        penalties.bars(axes[1][0], costs, kind)
    report.legend(figure, [axes[0][0]])
    report.titled(figure, f"Feature matching{', and the cost of a gradient penalty' * bool(costs)}", results)
    report.save(figure, path)


def names(device: str, quick: bool) -> list[str]:
    """The cells with promises come first, since the time limit may end the run."""
    first, *rest = BY_NAME
    return [*QUICK, PENALTIES] if quick else [first, PENALTIES, *rest]


SUITE = Suite(
    name="matching",
    title="Feature matching and gradient penalties",
    contenders=CONTENDERS,
    names=names,
    measure=measure,
    promises=promises,
    tables=tables,
    pictures={"matching.png": picture},
    extras=lambda setting: {"penalties": None},
    budgets=(0.3, 6.0, 2.0),
    time_limits=(300.0, 300.0),
)
