"""`python -m bench layers`: the operators of StyleGAN's layers, as StyleGAN2 and StyleGAN3-T call them at 256 pixels.

A cell is a call and a pass: "forward"; "backward", which is forward and backward; or "R1", which is forward, the
gradient in x with `create_graph=True`, and the derivative of that gradient in grad_output. Eager is what an author
writes in PyTorch (`bench.codebases.stylegan`). NVIDIA's own operators are a contender if `torch_utils` can be imported,
from a checkout of stylegan3 on PYTHONPATH, with nvcc for its plugins.

On a CPU, which runs the fallback, calls have a batch of 1, an eighth of the channels, and float32.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import fastgan
from bench.codebases import stylegan
from bench.codebases.stylegan import LayerCall
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.accuracy import DTYPES
from bench.harness.contest import COMPILE, COPY, EAGER, Setting, checked, timed
from bench.harness.promises import percent
from bench.harness.statistics import ratio
from bench.harness.suite import Suite

OURS, NVIDIA = "fastgan", "NVIDIA's"
CONTENDERS = {
    EAGER: "the operator in plain PyTorch: adds, leaky ReLU, clamp, zeros put in, a convolution a channel",
    COMPILE: "the same, compiled for each call (dynamic=False); it refuses the double backward of R1",
    OURS: "fastgan.layers.bias_act, upfirdn2d, filtered_lrelu; so do the drop-ins of fastgan.compat",
    NVIDIA: "`torch_utils.ops` of the checkout on PYTHONPATH: its plugins on a GPU, its plain PyTorch on a CPU",
    COPY: "a copy of as many bytes as must be read and written",
}
PASSES = {"forward": 1, "backward": 2, "R1": 3}  # bytes moved, in units of the bytes of x and y; also launches
COLOURS = {COMPILE: "#2563eb", NVIDIA: "#65a30d", OURS: "#e11d74"}
CALLS = {call.name: call for call in (*stylegan.stylegan2_calls(), *stylegan.stylegan3_calls())}
HEADLINES = ("s2-lrelu-256", "s2-blur-up-256", "s2-skip-up-256", "s2-skip-down-256", "s3-12", "s3-10")
QUICK = ("s2-lrelu-16", "s2-skip-up-16", "s2-skip-down-16", "s3-3")
Apply = Callable[..., Tensor]  # (x, b) -> y; b is None if the call has no bias


def names(device: str, quick: bool) -> list[str]:
    """The cells with promises come first, since the time limit may end the run."""
    rest = [name for name in CALLS if name not in HEADLINES] if device == "cuda" else ["s2-mapping", "s3-8", "s3-3"]
    return [f"{name} {way}" for name in (QUICK if quick else (*HEADLINES, *rest)) for way in PASSES]


def known(device: str) -> list[str]:
    return [f"{name} {way}" for name in CALLS for way in PASSES]


def fitted(call: LayerCall, device: str) -> LayerCall:
    """The call, reduced if the device is a CPU."""
    if device == "cuda":
        return call
    n, c, *rest = call.shape
    shape = (1, max(c // 8, 1), *rest) if rest else (n, c)
    return dataclasses.replace(call, shape=shape, dtype="float32")


@dataclass(frozen=True)
class Batch:
    """The inputs of a pass. filters: float32. g: grad_output of y. h: of R1, grad_output of the gradient in x."""

    x: Tensor
    b: Tensor | None
    filters: tuple[Tensor, ...]
    g: Tensor
    h: Tensor


def draw(call: LayerCall, device: str, generator: torch.Generator) -> Batch:
    """Standard normal numbers, like the outputs of a layer with normalised weights."""

    def normal(shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(DTYPES[call.dtype])

    filters = tuple(f.to(device) for f in call.filters)
    x, b = normal(call.shape), normal(call.shape[1:2]) if call.biased else None
    y = torch.empty_like(x) if call.op == "bias_act" else eager(call)(x[:1], b, *filters)
    return Batch(x, b, filters, normal((len(x), *y.shape[1:])), normal(call.shape))


def eager(call: LayerCall) -> Apply:
    return _applied(getattr(stylegan, call.op), call, call.settings)


def ours(call: LayerCall) -> Apply:
    return _applied(getattr(fastgan.layers, call.op), call, _upstream_settings(call))


def nvidia(call: LayerCall) -> Apply:
    module = importlib.import_module(f"torch_utils.ops.{call.op}")
    return _applied(getattr(module, call.op), call, _upstream_settings(call))


def _upstream_settings(call: LayerCall) -> dict:
    """The call's settings as the keyword arguments of NVIDIA's operators and ours."""
    if call.op == "bias_act":
        return {"act": "lrelu"} | call.settings
    if call.op == "filtered_lrelu":
        return call.settings | {"padding": list(call.settings["padding"])}
    return call.settings


def _applied(function: Callable[..., Tensor], call: LayerCall, settings: dict) -> Apply:
    if call.op == "filtered_lrelu":
        return lambda x, b, fu, fd: function(x, fu, fd, b, **settings)
    return lambda x, b, *f: function(x, *(f or (b,)), **settings)


def derivatives(apply: Apply, way: str, batch: Batch) -> list[Tensor]:
    """The results of a pass. forward: y. backward: y and the gradients in x and b. R1: the gradient in x, and its
    derivative in g along h."""
    x, b, f = batch.x.detach(), batch.b, batch.filters
    if way == "forward":
        with torch.no_grad():
            return [apply(x, b, *f)]
    x.requires_grad_()
    if way == "R1":
        g = batch.g.detach().requires_grad_()
        (of_x,) = torch.autograd.grad(apply(x, b, *f), x, g, create_graph=True)
        return [of_x.detach(), *torch.autograd.grad(of_x, g, batch.h)]
    leaves = [x] if b is None else [x, b := b.detach().requires_grad_()]
    y = apply(x, b, *f)
    return [y.detach(), *torch.autograd.grad(y, leaves, batch.g)]


def _compiled(call: LayerCall) -> Apply:
    torch._dynamo.reset()
    return torch.compile(eager(call), dynamic=False)


def steps(call: LayerCall, way: str) -> dict[str, Callable[[], Callable]]:
    """The function that makes each contender."""

    def step(make: Callable[[LayerCall], Apply]) -> Callable[[Batch], list[Tensor]]:
        apply = make(call)
        return lambda batch: derivatives(apply, way, batch)

    def compiled() -> Callable[[Batch], list[Tensor]]:
        run = step(_compiled)

        def run_r1(batch: Batch) -> list[Tensor]:
            try:
                return run(batch)
            except RuntimeError as error:  # its message varies
                raise RuntimeError("torch.compile does not run a double backward") from error

        return run_r1 if way == "R1" else run

    found = {EAGER: lambda: step(eager), COMPILE: compiled, OURS: lambda: step(ours)}
    return found | ({NVIDIA: lambda: step(nvidia)} if importlib.util.find_spec("torch_utils") else {})


@dataclass(frozen=True)
class Expected:
    """A pass in float64. exact: the results. sizes: the same sums over absolute values. kinks: how far a result may be
    off because rounding may move an activation's input to the other side of 0, without and with half precision."""

    exact: list[Tensor]
    sizes: list[Tensor]
    kinks: dict[bool, list[Tensor]]


def expected(call: LayerCall, way: str, batch: Batch) -> Expected:
    """Computed one sample at a time, so that float64 does not need eight times the memory."""
    parts = [_expected(call, way, _sample(batch, i)) for i in range(len(batch.x))]
    sums = 2 if way == "backward" and call.biased else -1  # the place of the gradient in b, a sum over samples

    def joined(found: list[list[Tensor]]) -> list[Tensor]:
        return [sum(each) if k == sums else torch.cat(each) for k, each in enumerate(zip(*found))]

    kinks = {half: joined([part.kinks[half] for part in parts]) for half in (False, True)}
    return Expected(joined([part.exact for part in parts]), joined([part.sizes for part in parts]), kinks)


def _sample(batch: Batch, i: int) -> Batch:
    x, g, h = (t[i : i + 1].double() for t in (batch.x, batch.g, batch.h))
    return Batch(x, None if batch.b is None else batch.b.double(), tuple(f.double() for f in batch.filters), g, h)


def _expected(call: LayerCall, way: str, batch: Batch) -> Expected:
    positive = Batch(*[_absolute(t) for t in vars(batch).values()])
    exact, sizes = derivatives(eager(call), way, batch), derivatives(_linear(call), way, positive)
    kinks = {half: [torch.zeros_like(t) for t in exact] for half in (False, True)}
    if call.op == "filtered_lrelu" and way != "forward" and call.settings.get("slope", 0.2) != 1:
        first = dict(up=(call.settings["up"],) * 2, padding=call.settings["padding"], gain=call.settings["up"] ** 2)
        between, size = (stylegan.upfirdn2d(_biased(t), t.filters[0], **first) for t in (batch, positive))
        for half in (False, True):
            near = (between.abs() <= unit(call, half) * size).double() * 0.8
            kinks[half] = derivatives(_linear(call, near), way, positive)
            if way == "backward":
                kinks[half][0].zero_()  # the activation itself is continuous
    return Expected(exact, sizes, kinks)


def _absolute(value):
    return tuple(f.abs() for f in value) if isinstance(value, tuple) else None if value is None else value.abs()


def _biased(batch: Batch) -> Tensor:
    return batch.x if batch.b is None else batch.x + batch.b[:, None, None]


def _linear(call: LayerCall, slope: Tensor | float = 1.0) -> Apply:
    """The call with a linear activation: applied to absolute values, it gives the size of the sums."""
    if call.op == "bias_act":
        linear = dict(act="linear", gain=call.settings.get("gain", math.sqrt(2)))
        return lambda x, b: stylegan.bias_act(x, b, **linear)
    if call.op == "upfirdn2d":
        return eager(call)
    up, down, padding = (call.settings[key] for key in ("up", "down", "padding"))
    gain = call.settings.get("gain", math.sqrt(2)) * slope

    def apply(x: Tensor, b: Tensor, fu: Tensor, fd: Tensor) -> Tensor:
        u = stylegan.upfirdn2d(x + b[:, None, None], fu, (up, up), padding=padding, gain=float(up * up))
        return stylegan.upfirdn2d(u * gain, fd, down=(down, down))

    return apply


def unit(call: LayerCall, half: bool) -> float:
    """The allowed error, relative to the size of a result: of float32 sums, and of roundings to half precision. half:
    for eager, which rounds at every operator."""
    terms = 8 + sum(f.numel() * (3 - f.dim()) for f in call.filters)
    rounding = torch.finfo(DTYPES[call.dtype]).eps if call.dtype in ("float16", "bfloat16") else 0.0
    return terms * 2.0**-23 + (8 if half else 2) * rounding


def why_wrong(name: str, result: Sequence[Tensor], call: LayerCall, against: Expected) -> tuple[str | None, float]:
    """(None or what is wrong, the worst error in units of its size), element by element."""
    worst, half = 0.0, name != OURS and call.dtype == "float16"
    if len(result) != len(against.exact):
        return f"{len(result)} results, expected {len(against.exact)}", math.inf
    for k, (got, exact, size) in enumerate(zip(result, against.exact, against.sizes)):
        if got.shape != exact.shape or got.dtype != DTYPES[call.dtype]:
            return f"result {k}: {got.dtype} of shape {tuple(got.shape)}", math.inf
        error = (got.double() - exact).abs_()
        least = torch.finfo(got.dtype).tiny
        allowed = size * unit(call, half) + against.kinks[half][k] + least
        worst = max(worst, ((error - least).clamp_min(0) / size).nan_to_num(nan=0.0, posinf=0.0).max().item())
        if (bad := ~(error <= allowed)).any():
            i = int(bad.flatten().nonzero()[0])
            found, wanted = got.flatten()[i].item(), exact.flatten()[i].item()
            return f"result {k}, element {i}: {found:.9g}, float64 gives {wanted:.9g}", worst
    return None, worst


def measure(setting: Setting, name: str) -> dict:
    """One call, one pass. Convolutions are in float32 and not in TF32, as in StyleGAN's training."""
    called, way = name.rsplit(" ", 1)
    call, last = fitted(CALLS[called], setting.device), setting.clock.kinds[-1]
    generator = torch.Generator(device=setting.device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        batch = draw(call, setting.device, generator)
        against = expected(call, way, batch)

        def wrong(contender: str, result) -> tuple[str | None, float]:
            return why_wrong(contender, result, call, against)

        rows, calls = checked(setting, steps(call, way), [(batch,)], wrong, (batch.g, batch.x))
        moved = PASSES[way] * (batch.x.nbytes + batch.g.nbytes)
        source = torch.ones(moved // 2, dtype=torch.uint8, device=setting.device)
        target = torch.empty_like(source)
        calls[COPY] = lambda _: target.copy_(source)
        samples = timed(setting, rows, calls)
        for contender in samples:
            row = rows[contender]
            row["bytes_per_s"] = moved / (row[f"{last}_us"]["median"] * 1e-6)
            if contender != COPY:
                row["share_of_copy"] = ratio(samples[COPY][last], samples[contender][last])
    finally:
        torch.backends.cudnn.allow_tf32 = before
    found = {"name": name, "title": f"{call.title}, {way}", "call": call.name, "op": call.op, "pass": way}
    return found | {"dtype": call.dtype, "shape": list(call.shape), "bytes": moved, "rows": list(rows.values())}


def promises(results: dict) -> list[judged.Promise]:
    kind, rows = report.kinds_of(results)[-1], []
    for way, what in (("forward", "forward"), ("backward", "forward and backward"), ("R1", "R1's double backward")):
        found = [
            (row[f"{kind}_speedup"]["median"], cell["call"])
            for cell, row in judged.rows(results, OURS, f"{kind}_speedup", **{"pass": way})
        ]
        rows.append(judged.worst(f"never slower than eager, {what}, any call", found, lambda v: v >= 1))
    if kind == "device":
        for way, launches in PASSES.items():
            found = [
                row["launches"]
                for cell, row in judged.rows(results, OURS, "launches", **{"pass": way})
                if cell["op"] != "filtered_lrelu"
            ]
            what = f"bias_act and upfirdn2d, {way}: {launches} {'launches' if launches > 1 else 'launch'}"
            rows.append(judged.counted(what, found, {launches}))
        for name in ("s2-lrelu-256 forward", "s2-blur-up-256 forward"):
            share = judged.at(results, OURS, "share_of_copy", name=name)
            rows.append(judged.at_least(f"{name} ≥ 80% of copy bandwidth", share, 0.8, percent))
        for network, first in (("StyleGAN2", "s2"), ("StyleGAN3-T", "s3")):
            found = [_network_speedup(results, first, way) for way in PASSES]
            found = [(gain, way) for gain, way in zip(found, PASSES) if gain is not None]
            rows.append(judged.worst(f"all of {network}'s calls ≥ 2× eager, any pass", found, lambda v: v >= 2))
        found = [(ours / theirs, name) for name, ours, theirs in _pairs(results, NVIDIA)]
        rows.append(judged.worst("at most 1.2× NVIDIA's time, any call", found, lambda v: v <= 1.2, largest=True))
    right = "every fastgan result right against float64, per element, relative to its sum of absolute values"
    return [*rows, judged.all_right(results, (OURS,), right)]


def _pairs(results: dict, other: str) -> Iterator[tuple[str, float, float]]:
    """(cell, our time, the other's time) of each cell in which both were timed."""
    for cell in results["cells"]:
        times = {row["contender"]: row["device_us"]["median"] for row in cell["rows"] if "device_us" in row}
        if OURS in times and other in times:
            yield cell["name"], times[OURS], times[other]


def _network_speedup(results: dict, network: str, way: str) -> float | None:
    """The speed-up over eager of a network's calls, one after the other."""
    found = [pair for pair in _pairs(results, EAGER) if pair[0].startswith(network) and pair[0].endswith(way)]
    return sum(eager for *_, eager in found) / sum(ours for _, ours, _ in found) if found else None


HOW_TO_READ = """\
Median (quartiles) in microseconds, over interleaved rounds. *backward* is forward and backward together. *R1* is
forward, the gradient in x with `create_graph=True`, and the derivative of that gradient in grad_output. A speed-up is a
ratio of medians in this run, with its 95 % interval. *GB/s* counts what must be read and written: x and y in every
pass, their gradients too in *backward*, and as much again in *R1*. *of copy* is the speed relative to a copy of as many
bytes. *peak* is the most that one call holds at once, results included. *error* is the worst error of an element,
relative to the sum of the absolute values of its terms. """
ON_A_CPU = """\
A CPU runs the fallback,
with a batch of 1, an eighth of the channels, float32."""


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    lead = {"call": lambda cell, row: cell["call"], "pass": lambda cell, row: cell["pass"]} | report.CONTENDER
    columns = report.time_columns(kinds) | report.speed_columns(kinds)
    columns |= {
        "GB/s": lambda cell, row: f"{row['bytes_per_s'] / 1e9:.3g}",
        "of copy": lambda cell, row: percent(row.get("share_of_copy")),
    }
    lines = [HOW_TO_READ + ON_A_CPU * (results["device_type"] == "cpu"), ""]
    lines += report.rows_table(results["cells"], lead, columns | report.count_columns("error"))
    lines += report.where_slower(results, lambda cell: cell["name"], (OURS,))
    calls = {cell["call"]: cell for cell in results["cells"]}.values()
    rows = [(c["call"], CALLS[c["call"]].title, " × ".join(map(str, c["shape"])), c["dtype"]) for c in calls]
    return [*lines, "", "## Calls", "", *report.table(["call", "layer", "x", "dtype"], rows)]


def picture(results: dict, path: Path) -> None:
    """Speed-up over eager, forward and backward, by call."""
    kind, cells = report.kinds_of(results)[-1], [cell for cell in results["cells"] if cell["pass"] == "backward"]
    figure, axes = report.subplots(1, 1, 9.5, 0.45 * max(len(cells), 1) + 2.2)
    there = {row["contender"] for cell in cells for row in cell["rows"]}
    colours = {name: colour for name, colour in COLOURS.items() if name in there}
    report.speed_bars(axes[0][0], cells, colours, f"{kind}_speedup", f"speed-up over eager, {kind} time")
    report.legend(figure, axes[0])
    report.titled(figure, "StyleGAN's layers, forward + backward", results)
    report.save(figure, path)


SUITE = Suite(
    name="layers",
    title="StyleGAN's layers",
    contenders=CONTENDERS,
    names=names,
    known=known,
    measure=measure,
    promises=promises,
    tables=tables,
    pictures={"layers.png": picture},
    budgets=(0.1, 1.0, 0.3),
    cell="cell",
)
