"""`python -m bench mmd`: maximum mean discrepancy of two samples, forward and backward into the generated one.

A cell is a number of points a side and a dimension. Eager is what authors write: `torch.cdist`, a sum of Gaussians and
autograd, with several matrices of all pairs. On a GPU a row also gives the rate of the necessary arithmetic, as a share
of the rate of a matrix product on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import fastgan
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.contest import COMPILE, EAGER, Setting, checked, timed
from bench.harness.promises import at, at_least
from bench.harness.suite import Suite

DROP_IN, DIRECT = "drop-in", "value_and_grad"
TF32, EXACT = "value_and_grad, tf32", "value_and_grad, exact"
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
    """Multiples of (d / 2)^(1/2), half the typical distance of two points of a standard normal distribution."""
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


def direct(d: int, precision: str = "fp32") -> Step:
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
        DIRECT: lambda: direct(d),
    }
    if device == "cuda" and d > fastgan.mmd.DIFFERENCES_UP_TO:
        found |= {TF32: lambda: direct(d, "tf32"), EXACT: lambda: direct(d, "exact")}
    return found


def exact(fake: Tensor, real: Tensor, s: Sequence[float], rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, its size, gradient at some rows, its size) in float64, a few rows at a time. A result is a difference of
    sums, and its size is what these add up to: the means of k, or |c_ij| (|x_i| + |z_j|)."""
    x, y = fake.detach().double(), real.double()
    n, m = len(x), len(y)

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return sum(_kernel(squares(part, b), s)[0].sum() for part in a.split(256)) / (len(a) * len(b))

    xx, yy, xy = mean(x, x), mean(y, y), mean(x, y)
    grad = size = 0.0
    part = x[rows]
    for z, share in ((x, 4 / (n * n)), (y, -4 / (n * m))):
        c = share * _kernel(squares(part, z), s)[1]
        grad = grad + c.sum(1, keepdim=True) * part - c @ z
        size = size + c.abs().sum(1, keepdim=True) * part.norm(dim=1, keepdim=True)
        size = size + c.abs() @ z.norm(dim=1, keepdim=True)
    return xx + yy - 2 * xy, xx + yy + 2 * xy, grad, size


def _kernel(D: Tensor, s: Sequence[float]) -> tuple[Tensor, Tensor]:
    parts = [(torch.exp(-D / (2 * b * b)), 2 * b * b) for b in s]
    return sum(k for k, _ in parts), sum(-k / r for k, r in parts)


def why_wrong(name: str, result, fake: Tensor, rows: Tensor, expected) -> tuple[str | None, float]:
    """(None or what is wrong, the worst error of the gradient in units of its size). fastgan must be right to 5e-6 of
    the size of the loss and of each gradient; one pass of tf32 to 2^-8 of it, and eager's distances to 1e-3."""
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
    """The additions and multiplications in distances and weighted sums that loss and gradient need, without those of
    the kernel: all pairs that have a gradient, and half of the target's pairs."""
    distance = 3 * d if differences else 2 * d
    return (n * n + n * m) * (distance + 2 * d) + m * m / 2 * distance


def products(device: str) -> dict[str, float]:
    """Operations per second of PyTorch's product of two large matrices here, in float32 and in tf32."""
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


def measure(setting: Setting, name: str) -> dict:
    """One size."""
    device, (n, d), limits = setting.device, cells("cuda")[name], setting.results.get("products")
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    fake, real = draw(n, d, device, generator)
    checks = torch.linspace(0, n - 1, 64, device=device).long().unique()
    expected = exact(fake, real, bandwidths(d), checks)

    def wrong(name: str, result) -> tuple[str | None, float]:
        return why_wrong(name, result, fake, checks, expected)

    rows, calls = checked(setting, steps(device, d), [(fake, real)], wrong)
    for name in timed(setting, rows, calls, (3, 5)):
        if limits and name in (DIRECT, TF32, EXACT):
            row, differences = rows[name], d <= fastgan.mmd.DIFFERENCES_UP_TO or name == EXACT
            row["limit"] = "fp32" if differences else "tf32"
            reached = flops(n, n, d, differences) / row["device_us"]["median"] * 1e6
            row["share_of_limit"] = reached / limits[row["limit"]]
    return {"name": f"{n} x {d}", "n": n, "d": d, "dtype": "float32", "rows": list(rows.values())}


def promises(results: dict) -> list[judged.Promise]:
    if results["device_type"] == "cuda":
        rows = []
        for key, other, bound in (("device_speedup", "eager", 5.0), ("device_against_compile", COMPILE, 2.0)):
            what = f"value_and_grad ≥ {bound:g}× {other}, 16,384 points, 64 dimensions"
            rows.append(at_least(what, at(results, DIRECT, key, name="16384 x 64"), bound))
        launched = [row["launches"] for _, row in judged.rows(results, DIRECT, "launches")]
        rows.append(judged.counted("value_and_grad: 1 kernel launch, by the profiler", launched, {1}))
    else:
        rows = [
            at_least(
                f"{name} ≥ 2× eager, 4,096 points, {d} dimensions",
                *(at(results, name, "host_speedup", name=f"4096 x {d}"), 2.0),
            )
            for name in (DROP_IN, DIRECT)
            for d in DIMENSIONS
        ]
    held = [
        (row["peak_bytes"] / (4 * cell["n"] ** 2), cell["name"])
        for name in OURS
        for cell, row in judged.rows(results, name, "peak_bytes")
        if cell["n"] >= 4096
    ]
    what = "no N × N matrix: a call holds at most 1/5 of one, from 4,096 points on"
    rows.append(judged.worst(what, held, lambda v: v <= 0.2, " matrices", largest=True))
    right = "every fastgan result right to 5e-6 of the sums behind it (2^-8 for tf32), against float64"
    return [*rows, judged.all_right(results, OURS, right)]


HOW_TO_READ = """\
Forward and backward together, into the generated points: median (quartiles) in microseconds, over interleaved rounds.
A speed-up is a ratio of medians in this run, with its 95 % interval. *peak* is the most that one call holds at once;
one matrix of all pairs has 4 N^2 bytes. *error* is the gradient's worst error, relative to the size of the sums
behind it. """
ON_A_GPU = """\
*of limit* is the rate of the additions and multiplications in distances and weighted sums, once each, relative to the
rate of a product of two 8192 x 8192 matrices on this machine: in float32 for differences, in tf32 for products.
`value_and_grad` in float32 accuracy makes three passes of tf32, so it can reach at most a third."""


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    cuda = results["device_type"] == "cuda"

    def of_limit(cell: dict, row: dict) -> str:
        return f"{row['share_of_limit']:.0%} {row['limit']}" if "share_of_limit" in row else ""

    lead = {"points": lambda cell, row: str(cell["n"]), "dimensions": lambda cell, row: str(cell["d"])}
    columns = report.time_columns(kinds) | report.speed_columns(kinds) | ({"of limit": of_limit} if cuda else {})
    columns |= report.count_columns("error")
    lines = [HOW_TO_READ + ON_A_GPU * cuda, "", *report.rows_table(results["cells"], lead | report.CONTENDER, columns)]
    for name, value in results["products"].items():
        lines += ["", f"Matrix product in {name}: {value / 1e12:.1f} Tflop/s."]
    return lines


def picture(results: dict, path: Path) -> None:
    """Time by number of points, a panel for each dimension."""
    kind, dimensions = report.kinds_of(results)[-1], sorted({cell["d"] for cell in results["cells"]}) or [0]
    figure, axes = report.subplots(1, len(dimensions), 4.6 * len(dimensions), 4.6)
    for axis, d in zip(axes[0], dimensions):
        for name, colour in COLOURS.items():
            points = [(c["n"], row[f"{kind}_us"]) for c, row in judged.rows(results, name, f"{kind}_us", d=d)]
            report.curve(axis, points, name, colour, name in OURS)
        axis.set(xscale="log", yscale="log")
        report.tidy(axis, xlabel="points a side", title=f"{d} dimensions", ylabel=f"{kind} time, µs")
        sizes = sorted({cell["n"] for cell in results["cells"] if cell["d"] == d})
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
    report.legend(figure, axes[0], 4)
    report.titled(figure, "Maximum mean discrepancy, forward + backward", results)
    report.save(figure, path)


SUITE = Suite(
    name="mmd",
    title="Maximum mean discrepancy",
    contenders=CONTENDERS,
    names=lambda device, quick: list(cells(device, quick)),
    known=lambda device: list(cells("cuda")),
    measure=measure,
    promises=promises,
    tables=tables,
    pictures={"mmd.png": picture},
    extras=lambda setting: {"products": products(setting.device)},
    budgets=(0.3, 4.0, 1.0),
    cell="cell",
)
