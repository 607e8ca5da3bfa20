"""`python -m bench mmd`: maximum mean discrepancy of two samples, forward and backward into the generated one.

A cell is a number of points a side and a dimension. Eager is what authors write, `torch.cdist`, a sum of Gaussians and
autograd: several matrices of all pairs. On a GPU a row also says what share of the machine's own matrix product the
arithmetic that must be done has reached.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import fastgan
from bench.harness import environment, report
from bench.harness import promises as judged
from bench.harness.clock import interval, machine, ratio, sample_rounds
from bench.harness.progress import progress
from bench.harness.promises import percent, times
from bench.suites.losses import COMPILE, _one_line

EAGER, DROP_IN, DIRECT, TF32, EXACT = (
    "eager",
    "drop-in",
    "value_and_grad",
    "value_and_grad, tf32",
    "value_and_grad, exact",
)
CONTENDERS = {
    EAGER: "torch.cdist, a sum of four Gaussians, autograd (fastgan.reference.mmd_loss)",
    COMPILE: "the same, compiled for each size (dynamic=False)",
    DROP_IN: "fastgan.mmd_loss and backward",
    DIRECT: "fastgan.mmd_value_and_grad: loss and gradient in one call, no autograd",
    TF32: 'the same with precision="tf32": one pass of the matrix units; on a GPU, beyond 4 dimensions',
    EXACT: 'the same with precision="exact": differences; on a GPU, beyond 4 dimensions',
}
OURS = (DROP_IN, DIRECT, TF32, EXACT)
POINTS, DIMENSIONS = (256, 1024, 4096), (2, 64)
COLOURS = {
    EAGER: "#6b7280",
    COMPILE: "#2563eb",
    DROP_IN: "#e11d74",
    DIRECT: "#7c3aed",
    TF32: "#0d9488",
    EXACT: "#a16207",
}
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (generated, real) -> (loss, gradient at the generated)


def cells(device: str, quick: bool = False) -> dict[str, tuple[int, int]]:
    """{name: (points a side, dimensions)}."""
    points = POINTS[:2] if quick else (*POINTS, 16384) if device == "cuda" else POINTS
    return {f"{n} x {d}": (n, d) for d in DIMENSIONS for n in points}


def bandwidths(d: int) -> tuple[float, ...]:
    """In units of the usual distance of two points of a standard normal."""
    return tuple(s * math.sqrt(d / 2) for s in (4.0, 2.0, 1.0, 0.5))


def draw(n: int, d: int, device: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    fake, real = (torch.randn(n, d, generator=generator, device=device) for _ in range(2))
    return fake.requires_grad_(), real + 0.5 / math.sqrt(d)


def _forward_backward(loss_function: Callable, d: int) -> Step:
    s = bandwidths(d)

    def step(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        loss = loss_function(fake, real, s)
        return loss, *torch.autograd.grad(loss, fake)

    return step


def _direct(d: int, precision: str = "fp32") -> Step:
    s = bandwidths(d)

    def step(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        out = fastgan.mmd_value_and_grad(fake, real, s, precision=precision)
        return out.loss, out.grad

    return step


def _compiled(d: int) -> Step:
    torch._dynamo.reset()
    return _forward_backward(torch.compile(fastgan.reference.mmd_loss, dynamic=False), d)


def steps(device: str, d: int) -> dict[str, Callable[[], Step]]:
    found = {
        EAGER: lambda: _forward_backward(fastgan.reference.mmd_loss, d),
        COMPILE: lambda: _compiled(d),
        DROP_IN: lambda: _forward_backward(fastgan.mmd_loss, d),
        DIRECT: lambda: _direct(d),
    }
    if device == "cuda" and d > fastgan.mmd.DIFFERENCES_UP_TO:
        found |= {TF32: lambda: _direct(d, "tf32"), EXACT: lambda: _direct(d, "exact")}
    return found


def exact(fake: Tensor, real: Tensor, s: Sequence[float], rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, its size, gradient at some rows, its size) in float64, a few rows at a time. The size is that of the sums
    whose difference a result is: of means of k, and of |c_ij| (|x_i| + |z_j|)."""
    x, y = fake.detach().double(), real.double()
    n, m = len(x), len(y)

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return sum(_kernel(squares(part, b), s)[0].sum() for part in a.split(256)) / (len(a) * len(b))

    xx, yy, xy = mean(x, x), mean(y, y), mean(x, y)
    grad = size = 0.0
    own = x[rows]
    for z, share in ((x, 4 / (n * n)), (y, -4 / (n * m))):
        c = share * _kernel(squares(own, z), s)[1]
        grad = grad + c.sum(1, keepdim=True) * own - c @ z
        size = (
            size + c.abs().sum(1, keepdim=True) * own.norm(dim=1, keepdim=True) + c.abs() @ z.norm(dim=1, keepdim=True)
        )
    return xx + yy - 2 * xy, xx + yy + 2 * xy, grad, size


def _kernel(D: Tensor, s: Sequence[float]) -> tuple[Tensor, Tensor]:
    parts = [(torch.exp(-D / (2 * b * b)), 2 * b * b) for b in s]
    return sum(k for k, _ in parts), sum(-k / r for k, r in parts)


def why_wrong(name: str, result, fake: Tensor, rows: Tensor, expected) -> tuple[str | None, float]:
    """(None, or what is wrong; the worst error of the gradient in units of its size). fastgan is held to 5e-6 of the
    size of the loss and of each gradient; one pass of tf32, and eager's distances, to 2^-8 and 1e-3 of it."""
    (loss, grad), (loss64, loss_size, grad64, grad_size) = result, expected
    allowed = {TF32: 2.0**-8, EAGER: 1e-3, COMPILE: 1e-3}.get(name, 5e-6)
    if grad is None or grad.shape != fake.shape or grad.dtype != fake.dtype:
        return f"gradient: not a {fake.dtype} tensor of the samples' shape", math.inf
    off = ((grad[rows].double() - grad64).abs() / grad_size).max().item()
    if not abs(loss.item() - loss64.item()) <= allowed * loss_size.item():
        return f"loss {loss.item():.9g}, float64 gives {loss64.item():.9g}", off
    if not off <= allowed:
        return f"gradient off by {off:.1e} of its size", off
    return None, off


def flops(n: int, m: int, d: int, differences: bool) -> float:
    """Additions and multiplications of distances and weighted sums that loss and gradient cannot do without, those of
    the kernel not counted: all pairs with a gradient, half of the pairs of the target without."""
    distance = 3 * d if differences else 2 * d
    return (n * n + n * m) * (distance + 2 * d) + m * m / 2 * distance


def products(device: str) -> dict[str, float]:
    """Operations a second of this machine's own product of two large matrices, in float32 and in tf32."""
    if device != "cuda":
        return {}
    a, b = (torch.randn(8192, 8192, device=device) for _ in range(2))
    found, before = {}, torch.backends.cuda.matmul.allow_tf32
    try:
        for name, allowed in (("fp32", False), ("tf32", True)):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            a @ b
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(5):
                a @ b
            end.record()
            torch.cuda.synchronize()
            found[name] = 5 * 2 * 8192**3 / (begin.elapsed_time(end) * 1e-3)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return found


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
    """The results, as they stand in mmd.json, which is written after every cell. only: names of `cells`."""
    known = cells("cuda")
    names = list(cells(device, quick)) if only is None else only
    if unknown := set(names) - set(known):
        raise ValueError(f"cell {sorted(unknown)[0]!r}: expected one of {', '.join(known)}")
    budget_s = budget_s or (0.3 if quick else 1.0 if device == "cuda" else 4.0)
    limit_s = limit_s or (400.0 if device == "cuda" else 540.0)
    results = {
        "suite": "mmd",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": CONTENDERS,
        "products": products(device),
        "cells": [],
        "skipped": [],
    }
    begin = time.perf_counter()
    bar = progress(names, "mmd")
    for name in bar:
        if time.perf_counter() - begin > limit_s:
            results["skipped"].append({"name": name, "why": f"the run's limit of {limit_s:g} s was reached"})
            continue
        bar.set_postfix_str(name)
        results["cells"].append(cell(device, *known[name], quick, budget_s, compiled, results["products"]))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    if out is not None:
        environment.write_json(out, results)
    return results


def cell(
    device: str, n: int, d: int, quick: bool, budget_s: float, compiled: bool = True, limits: dict | None = None
) -> dict:
    """One size: the gate, then times in interleaved rounds, then what each call launches and allocates."""
    host = machine(device, quick)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    fake, real = draw(n, d, device, generator)
    rows_ = torch.linspace(0, n - 1, 64, device=device).long().unique()
    expected = exact(fake, real, bandwidths(d), rows_)
    rows, calls = {}, {}
    for name, make in steps(device, d).items():
        row = rows[name] = {"contender": name}
        if name == COMPILE and not compiled:
            row["error"] = "left out with --no-compile"
            continue
        try:
            begin = time.perf_counter()
            step = make()
            result = step(fake, real)
            host.synchronize()
            row["first_call_s"] = round(time.perf_counter() - begin, 3)
            wrong, worst = why_wrong(name, result, fake, rows_, expected)
            del result
            row["worst_relative_error"] = worst if math.isfinite(worst) else None
            if wrong:
                row["error"] = f"wrong result, not timed: {wrong}"
            else:
                calls[name] = lambda i, step=step: step(fake, real)
                calls[name](0)
        except Exception as error:  # a contender that cannot run here, out of memory too, is a row that says so
            row["error"] = _one_line(error)

    samples = sample_rounds(host, calls, budget_s, at_least=3 if quick else 5)
    for name, kinds in samples.items():
        row = rows[name]
        for kind, values in kinds.items():
            row[f"{kind}_us"] = interval(values)
            if EAGER in samples:
                row[f"{kind}_speedup"] = ratio(samples[EAGER][kind], values)
            if name != COMPILE and COMPILE in samples:
                row[f"{kind}_against_compile"] = ratio(samples[COMPILE][kind], values)
        if limits and name in (DIRECT, TF32, EXACT):
            differences = d <= fastgan.mmd.DIFFERENCES_UP_TO or name == EXACT
            row["limit"] = "fp32" if differences else "tf32"
            reached = flops(n, n, d, differences) / row["device_us"]["median"] * 1e6
            row["share_of_limit"] = reached / limits[row["limit"]]
        row["launches"] = host.launches(calls[name])
        row["peak_bytes"] = host.peak_bytes(calls[name])
    return {"name": f"{n} x {d}", "n": n, "d": d, "dtype": "float32", "rows": list(rows.values())}


# The table, the promises and the picture. Every number in them comes from the file.

HOW_TO_READ = """\
Forward and backward together, into the generated points: median (quartiles) in microseconds, over interleaved rounds.
A speed-up is a ratio of medians in this run, with its 95 % interval. *peak* is the most that one call holds at a time;
one matrix of all pairs takes 4 N^2 bytes. *error* is the gradient's worst, in units of the sum that it is. """
ON_A_GPU = """\
*of limit* counts the additions and multiplications of distances and weighted sums, once each, against what this
machine's product of two 8192 x 8192 matrices does a second: in float32 for differences, in tf32 for products.
`value_and_grad` in float32 accuracy makes three passes of tf32, so that a third is the most it can reach."""


def promises(results: dict) -> list[judged.Promise]:
    by_name = {cell["name"]: {row["contender"]: row for row in cell["rows"]} for cell in results["cells"]}

    def column(cell: str, name: str, key: str):
        return by_name.get(cell, {}).get(name, {}).get(key)

    if results["device_type"] == "cuda":
        big, rows = "16384 x 64", []
        for key, other, bound in (("device_speedup", "eager", 5.0), ("device_against_compile", COMPILE, 2.0)):
            what = f"value_and_grad ≥ {bound:g}× {other}, 16,384 points, 64 dimensions"
            rows.append(judged._at_least(what, column(big, DIRECT, key), bound, times))
        counted = {row[DIRECT]["launches"] for row in by_name.values() if "launches" in row.get(DIRECT, {})}
        verdict = judged.UNMEASURED if not counted else "met" if counted == {1} else "not met"
        rows.append(("value_and_grad: 1 kernel launch, by the profiler", ", ".join(map(str, sorted(counted))), verdict))
    else:
        rows = [
            judged._at_least(
                f"{name} ≥ 2× eager, 4,096 points, {d} dimensions",
                column(f"4096 x {d}", name, "host_speedup"),
                2.0,
                times,
            )
            for name in (DROP_IN, DIRECT)
            for d in DIMENSIONS
        ]
    held = [
        (row["peak_bytes"] / (4 * cell["n"] ** 2), cell["name"])
        for cell in results["cells"]
        for row in cell["rows"]
        if row["contender"] in OURS and cell["n"] >= 4096 and "peak_bytes" in row
    ]
    what = "no N × N matrix: at most 1/5 of one is held, from 4,096 points on"
    rows.append(judged._worst(what, held, lambda v: v <= 0.2, " matrices", largest=True))
    return [*rows, _gate(results)]


def _gate(results: dict) -> judged.Promise:
    ours = [row for cell in results["cells"] for row in cell["rows"] if row["contender"] in OURS]
    failed = [row for row in ours if "error" in row]
    what = "every fastgan result right to 5e-6 of the sums it is made of (2^-8 for tf32), against float64"
    return what, f"{len(ours) - len(failed)} of {len(ours)} rows", "met" if ours and not failed else "not met"


def _kinds(results: dict) -> tuple[str, ...]:
    return ("host", "device") if results["device_type"] == "cuda" else ("host",)


def markdown(results: dict) -> str:
    cuda, kinds = results["device_type"] == "cuda", _kinds(results)
    lines = [*report.header("Maximum mean discrepancy", results, promises(results)), HOW_TO_READ + ON_A_GPU * cuda, ""]
    head = ["points", "dimensions", "contender", *(f"{kind} µs" for kind in kinds)]
    head += [f"{kind} vs {other}" for kind in kinds for other in ("eager", "compile")]
    head += ["of limit"] * cuda + ["launches", "peak", "error"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in results["cells"]:
        lines += [f"| {' | '.join(_line(cell, row, kinds, cuda, len(head)))} |" for row in cell["rows"]]
    for name, value in results["products"].items():
        lines += ["", f"Matrix product in {name}: {value / 1e12:.1f} Tflop/s."]
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['name']}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def _line(cell: dict, row: dict, kinds: tuple[str, ...], cuda: bool, width: int) -> list[str]:
    start = [str(cell["n"]), str(cell["d"]), row["contender"]]
    if f"{kinds[0]}_us" not in row:
        return [*start, row.get("error", "not timed"), *[""] * (width - 4)]
    out = [*start, *(report._time(row, kind) for kind in kinds)]
    for kind in kinds:
        for column in ("speedup", "against_compile"):
            value = row.get(f"{kind}_{column}")
            out.append("" if value is None else times(value))
    if cuda:
        share = row.get("share_of_limit")
        out.append(
            "" if share is None else f"{percent(dict(median=share, low=share, high=share)).split()[0]} {row['limit']}"
        )
    error = row.get("worst_relative_error")
    return [*out, str(row["launches"]), report._bytes(row["peak_bytes"]), "" if error is None else f"{error:.1e}"]


def write(results: dict, folder: Path) -> list[Path]:
    """mmd.md and mmd.png beside mmd.json."""
    return environment.write_drawn("mmd", results, folder, markdown, picture)


def picture(results: dict, path: Path) -> None:
    """Time by number of points, a panel for each dimension."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kind, env = _kinds(results)[-1], results["environment"]
    dimensions = sorted({cell["d"] for cell in results["cells"]}) or [0]
    figure, axes = plt.subplots(
        1, len(dimensions), figsize=(4.6 * len(dimensions), 4.2), squeeze=False, layout="constrained"
    )
    for axis, d in zip(axes[0], dimensions):
        for name, colour in COLOURS.items():
            points = [
                (cell["n"], row[f"{kind}_us"])
                for cell in results["cells"]
                for row in cell["rows"]
                if cell["d"] == d and row["contender"] == name and f"{kind}_us" in row
            ]
            if points:
                n, values = zip(*sorted(points, key=lambda point: point[0]))
                axis.plot(n, [v["median"] for v in values], marker="o", markersize=3, color=colour, label=name)
                low, high = ([v[key] for v in values] for key in ("low", "high"))
                axis.fill_between(n, low, high, color=colour, alpha=0.15, lw=0)
        axis.set(xscale="log", yscale="log", xlabel="points a side", title=f"{d} dimensions", ylabel=f"{kind} time, µs")
        sizes = sorted({cell["n"] for cell in results["cells"] if cell["d"] == d})
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
        axis.grid(True, color="#e5e7eb", linewidth=0.6)
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(
        f"Maximum mean discrepancy, forward + backward, on {env['device']}\n"
        f"torch {env['torch']}, commit {(env['commit'] or 'unknown')[:12]}, {env['date']}",
        fontsize=10,
    )
    report.save(figure, path)
