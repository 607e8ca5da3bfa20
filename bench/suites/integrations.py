"""`python -m bench integrations`: training steps of public codebases, as upstream has them and with fastgan.

The steps are those of `examples/integrations/`, restated with upstream's shapes and settings. All forms start from the
same weights and see the same batch; some use only one piece of fastgan. A form whose losses differ from upstream's is
an error in the table. On a CPU the networks are narrower and the batch is smaller than upstream's.
"""

from __future__ import annotations

import importlib
import itertools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.harness import promises as judged
from bench.harness import report
from bench.harness.clock import WITHOUT_WORK, sample_rounds, waits
from bench.harness.contest import Setting, one_line
from bench.harness.environment import ROOT
from bench.harness.promises import Promise, at, at_least, times
from bench.harness.statistics import interval, ratio
from bench.harness.suite import Suite
from bench.suites.training import StepClock
from fastgan.inspection import inspect_step

UPSTREAM, ALL = "as upstream", "all of them"
FORMS = {
    UPSTREAM: (),
    "losses": ("losses",),
    "losses, matching": ("losses", "matching"),
    "generator_backward": ("generator_backward",),
    "layers": ("layers",),
    "average": ("average",),
    "passes": ("passes",),
    ALL: ("losses", "matching", "generator_backward", "layers", "average", "passes"),
}
CONTENDERS = {
    UPSTREAM: "upstream's step with its own losses and all of its `.item()` calls",
    "losses": "fastgan's adversarial losses in place of upstream's",
    "losses, matching": "feature matching as well",
    "generator_backward": "upstream's losses; `fastgan.generator_backward(loss, generator)` for `loss.backward()` of G",
    "layers": "StyleGAN's bias_act and upfirdn2d of `fastgan.layers`",
    "average": "G's moving average in a few operators of `torch.optim.swa_utils`, in place of a loop over weights",
    "passes": "without redundant passes through D and computations of its weights: see the example",
    ALL: "every piece of the example",
}
GAIN, GAINERS = 1.15, 4  # a speed-up that is worth the changed lines, and in how many codebases it is promised
CLOSE = 10  # the first steps, in which the two curves must agree


class Cell(NamedTuple):
    """module: in examples/integrations. settings: arguments of its Step. steps: the length of the loss curves."""

    name: str
    title: str
    module: str
    settings: dict[str, Any]
    steps: int = 50

    @property
    def forms(self) -> dict[str, tuple[str, ...]]:
        """The forms that differ from the forms before them; for example, not every step has matching."""
        known = importlib.import_module(f"examples.integrations.{self.module}").FASTGAN
        found: dict[str, tuple[str, ...]] = {}
        for name, use in FORMS.items():
            pieces = tuple(piece for piece in use if piece in known)
            if pieces not in found.values():
                found[name] = pieces
        return found


WIDE, NARROW = "hifigan-full-d", "hifigan"


def cells(device: str) -> dict[str, Cell]:
    """The most informative first, since a run may have no time for all of them."""
    if device == "cuda":
        bf16 = {"device": "cuda", "bf16": True}
        found = [
            Cell(NARROW, "HiFi-GAN V1, batch 16", "hifigan", bf16),
            Cell("dcgan", "PyTorch's DCGAN example, batch 64", "dcgan", bf16),
            Cell("r3gan", "R3GAN, CIFAR-10, batch 64", "r3gan", {"batch": 64, **bf16}),
            Cell("stylegan2", "StyleGAN2-ADA, CIFAR-10, batch 64", "stylegan2", bf16),
            Cell("vits", "VITS, batch 64", "vits", bf16),
            Cell("llamagen", "LlamaGen's VQ-16, batch 8", "llamagen", {"batch": 8, **bf16}),
            Cell("realesrgan", "Real-ESRGAN, batch 4", "realesrgan", {"batch": 4, **bf16}),
            Cell("styletts2", "StyleTTS2's decoder, batch 16", "styletts2", bf16),
            Cell("dac", "Descript Audio Codec, batch 16", "dac", {"batch": 16, **bf16}),
        ]
    else:
        small, vq = {"width": 0.125, "batch": 16}, {"width": 0.125, "batch": 1, "pixels": 128}
        voice = {"width": 0.25, "batch": 1, "samples": 12000}
        codec = {"width": 0.25, "batch": 1, "samples": 8192}
        full = {"width": 1.0, "width_g": 0.125, "batch": 1}
        found = [
            Cell(NARROW, "HiFi-GAN V1, 1/4 of all channels, batch 1", "hifigan", {"width": 0.25, "batch": 1}),
            Cell(WIDE, "HiFi-GAN V1, 1/8 of G's channels, all of D's, batch 1", "hifigan", full, CLOSE),
            Cell("dcgan", "PyTorch's DCGAN example, batch 16", "dcgan", {"batch": 16}),
            Cell("r3gan", "R3GAN, CIFAR-10, 1/8 of all channels, batch 8", "r3gan", {"width": 0.125, "batch": 8}),
            Cell("stylegan2", "StyleGAN2-ADA, CIFAR-10, 1/8 of all channels, batch 16", "stylegan2", small),
            Cell("vits", "VITS, 1/4 of all channels, batch 1", "vits", {"width": 0.25, "batch": 1}),
            Cell("llamagen", "LlamaGen's VQ-16, 1/8 of all channels, 128 pixels, batch 1", "llamagen", vq),
            Cell("realesrgan", "Real-ESRGAN, 1/8 of all channels, 128 pixels, batch 1", "realesrgan", vq),
            Cell("styletts2", "StyleTTS2's decoder, 1/4 of all channels, batch 1", "styletts2", voice),
            Cell("dac", "Descript Audio Codec, 1/4 of all channels, batch 1", "dac", codec),
        ]
    return {cell.name: cell for cell in found}


def make_step(cell: Cell, use: Sequence[str]) -> Callable[[], tuple[Tensor, Tensor]]:
    """The step with these pieces of fastgan."""
    return importlib.import_module(f"examples.integrations.{cell.module}").Step(use, **cell.settings)


def changed_lines(module: str, use: Sequence[str]) -> int:
    """The number of lines in the example that are marked as changed for these pieces."""
    text = (ROOT / "examples" / "integrations" / f"{module}.py").read_text(encoding="utf-8")
    return sum(text.count(f"# fastgan: {piece}\n") for piece in use)


class CallCounter(TorchDispatchMode):
    """operators: the calls of operators that touch elements; an operator of fastgan or over a list of tensors is one.

    reads: the reads of tensors on the host, which would synchronise on a GPU. Not counted: the optimizer's, whose step
    count is on the host, and those in fastgan's CPU formulas, which a GPU replaces by kernels."""

    def __init__(self):
        super().__init__()
        self.operators = self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        self.operators += name not in WITHOUT_WORK
        if name == "aten::_local_scalar_dense":
            files = [Path(frame.filename).parts for frame in traceback.extract_stack(limit=30)]
            known = (("torch", "optim"), ("fastgan", "cpu"))
            self.reads += not any(part in known for file in files for part in itertools.pairwise(file))
        return function(*args, **(kwargs or {}))


def largest_gap(got: Sequence[tuple[float, float]], want: Sequence[tuple[float, float]]) -> float:
    """The largest relative difference of two runs' losses; infinite if a loss is not finite."""
    pairs = [(a, b) for one, other in zip(got, want) for a, b in zip(one, other)]
    found = [abs(a - b) / max(abs(b), 1e-12) for a, b in pairs]
    return max(found) if all(map(math.isfinite, found)) else math.inf


def measure(setting: Setting, name: str) -> dict:
    return cell(setting, (cells("cuda") | cells(setting.device))[name])


def cell(setting: Setting, c: Cell) -> dict:
    """Measure the first losses, then times in interleaved rounds, then calls and memory of a step, then the curves."""
    cuda, quick = setting.device == "cuda", setting.quick
    clock = StepClock(quick, setting.clock.capture) if cuda else setting.clock
    allowed = 0.05 if c.settings.get("bf16") else 1e-3
    rows, steps, calls, want = {}, {}, {}, []
    for name, use in c.forms.items():
        row = rows[name] = {"contender": name, "lines": changed_lines(c.module, use)}
        try:
            step = make_step(c, use)
            got = row["losses"] = [tuple(x.item() for x in step()) for _ in range(2 if quick else 3)]
            want = want or got
            if (worst := largest_gap(got, want)) > allowed:
                row["error"] = f"wrong result, not timed: a loss is {worst:.1e} off upstream's"
            else:
                steps[name], calls[name] = step, lambda i, step=step: step()
        except Exception as error:  # the row of a form that cannot run here holds the error
            row["error"] = one_line(error)
    samples = sample_rounds(clock, calls, setting.budget_s, at_least=3 if quick else 7)
    kind = "wall" if cuda else "host"
    for name, kinds in samples.items():
        row, call = rows[name], calls.pop(name)
        row["step_us"], row["host_us"] = interval(kinds[kind]), interval(kinds["host"])
        if UPSTREAM in samples:
            row["speedup"] = ratio(samples[UPSTREAM][kind], kinds[kind])
        steps[name].steps = 1  # the same step for every form, without the lazy penalties of step 0
        with CallCounter() as counter:
            call(0)
        steps[name].steps = 1
        row["operators"], row["waits"] = counter.operators, waits(call) if cuda else counter.reads
        row["flops"] = inspect_step(call, 0).flops
        row["peak_bytes"] = clock.peak_bytes(call) if cuda else None
        if "flops" in rows[UPSTREAM]:
            row["flops_saved"] = 1 - row["flops"] / rows[UPSTREAM]["flops"]
        del call, steps[name]  # frees its networks: the next steps need the memory
    shapes = {"name": c.name, "title": c.title, "module": c.module}
    shapes["settings"] = {k: v for k, v in c.settings.items() if isinstance(v, (int, float))}
    return shapes | {"rows": list(rows.values()), "curves": curves(c, 3 if quick else c.steps)}


def curves(c: Cell, steps: int) -> dict:
    """{form: {"loss_d", "loss_g": a number for each step, "seconds"}} of the two forms; or {"error"}."""
    found = {}
    for name in (UPSTREAM, ALL):
        try:
            step, begin = make_step(c, c.forms[name]), time.perf_counter()
            losses = torch.stack([torch.stack(step()) for _ in range(steps)]).float().tolist()
        except Exception as error:
            return {"error": one_line(error)}
        finite = [[x if math.isfinite(x) else None for x in pair] for pair in losses]
        found[name] = {"loss_d": [d for d, _ in finite], "loss_g": [g for _, g in finite]}
        found[name]["seconds"] = round(time.perf_counter() - begin, 3)
    return found


def loss_gap(cell: dict, steps: int | None = None) -> float | None:
    """The largest relative difference of the two forms' losses, in the first `steps` steps or in all."""
    if ALL not in cell["curves"]:
        return None
    both = [[*zip(*(cell["curves"][name][key][:steps] for key in ("loss_d", "loss_g")))] for name in (ALL, UPSTREAM)]
    numbers = [[tuple(math.nan if x is None else x for x in pair) for pair in run] for run in both]
    return largest_gap(*numbers)


HOW_TO_READ = """\
*step*: median (quartiles) over interleaved rounds. A speed-up is a ratio of medians in this run, with its 95 %
interval. *operators*: the number of calls that touch elements. *waits*: how often the host waits for the GPU; on a CPU,
how often the step reads a tensor on the host, which would wait on a GPU. *FLOPs saved*: the share of all matrix
products and convolutions that the step does without: in G's step, those for gradients of D's weights and of the real
branch. *lines*: the lines of the example that change. *peak*, on a GPU: the most that a step holds beyond weights and
optimizer."""


def ranked(results: dict) -> list[dict]:
    """Cells by the speed-up of all pieces together, the largest first."""

    def gain(cell: dict) -> float:
        return max(
            (row["speedup"]["median"] for row in cell["rows"] if row["contender"] == ALL and "speedup" in row),
            default=0,
        )

    return sorted(results["cells"], key=gain, reverse=True)


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    lead = {"step of": lambda cell, row: cell["title"]} | {"fastgan's": report.CONTENDER["contender"]}
    columns = {"step ms": lambda cell, row: "{median:,.1f} ({q1:,.1f}–{q3:,.1f})".format(**milliseconds(row))}
    columns["vs upstream"] = lambda cell, row: times(row.get("speedup"))
    columns["FLOPs"] = lambda cell, row: f"{row['flops']:.3g}"
    columns["FLOPs saved"] = lambda cell, row: f"{row['flops_saved']:.1%}" if "flops_saved" in row else ""
    columns |= {key: lambda cell, row, key=key: str(row[key]) for key in ("operators", "waits", "lines")}
    if results["device_type"] == "cuda":
        columns["peak"] = lambda cell, row: report.bytes_of(row["peak_bytes"])
    lines = ["## Steps", "", HOW_TO_READ, "", *report.rows_table(ranked(results), lead, columns)]
    rows = []
    for cell in ranked(results):
        found = cell["curves"]
        ends = [f"{found[ALL][key][-1]:.5g}" for key in ("loss_d", "loss_g")] if ALL in found else [found["error"], ""]
        steps = len(found[ALL]["loss_d"]) if ALL in found else 0
        rows.append([cell["title"], steps, *(number(loss_gap(cell, n)) for n in (CLOSE, None)), *ends])
    lines += ["", "## The two forms' losses", "", "The largest relative difference of the losses:", ""]
    lines += report.table(["step of", "steps", f"the first {CLOSE}", "all steps", "last D", "last G"], rows)
    return [
        *lines,
        "",
        "Float32 sums in another order differ in their last digits, and Adam amplifies this when it divides by small "
        "numbers.",
    ]


def measured(results: dict) -> list[str]:
    """The forms other than upstream's that were measured."""
    found = {row["contender"] for cell in results["cells"] for row in cell["rows"]}
    return [name for name in FORMS if name in found and name != UPSTREAM]


def milliseconds(row: dict) -> dict[str, float]:
    return {key: row["step_us"][key] / 1e3 for key in ("median", "q1", "q3")}


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def summary(results: dict) -> str:
    """The pages' table: a line for each codebase, the largest speed-up first."""
    forms = measured(results)
    head = ["speed of a step, upstream = 1", "upstream ms", *forms]
    head += ["FLOPs saved", "waits", "lines", "losses differ by"]
    lines = []
    for cell in ranked(results):
        rows = {row["contender"]: row for row in cell["rows"] if "step_us" in row}
        if UPSTREAM not in rows:
            continue
        first, last = rows[UPSTREAM], rows.get(ALL, {})
        speeds = [f"{rows[name]['speedup']['median']:.2f}×" if name in rows else "" for name in forms]
        saved = f"{last['flops_saved']:.1%}" if last else ""
        waits = f"{first['waits']} → {last['waits']}" if last else ""
        ends = [saved, waits, last.get("lines", ""), number(loss_gap(cell, CLOSE))]
        lines.append([cell["title"], f"{milliseconds(first)['median']:,.0f}", *speeds, *ends])
    return "\n".join(report.table(head, lines))


def sentence(results: dict) -> str:
    """The sentence about HiFi-GAN in README; "" if it was not measured."""
    whole, quarter = (
        {row["contender"]: row for _, row in _rows(results, n) if "step_us" in row} for n in (WIDE, NARROW)
    )
    rows = whole if ALL in whole else quarter
    told = (UPSTREAM, "losses, matching", "generator_backward", ALL)
    if not rows.keys() >= {*told}:
        return ""
    a, b, c, d = (f"{rows[name]['step_us']['median'] / 1e6:.2f} s" for name in told)
    alone, gain = (rows[name]["speedup"]["median"] for name in told[2:])
    size = "a generator of 64" if rows is whole else "a quarter of its"
    text = f"HiFi-GAN V1 with {size} channels, batch 1, on {results['environment']['device']}: {a} a step unchanged, "
    text += f"{b} with these losses and matching, {c} ({alone:.2f}×) with `generator_backward` alone, {d} "
    text += f"({gain:.2f}×) with all of them and without redundant passes through D or computations of its weights"
    more = rows is whole and ALL in quarter
    return text + (f"; with all channels at a quarter {quarter[ALL]['speedup']['median']:.2f}×." if more else ".")


def _rows(results: dict, cell: str):
    return ((found, row) for found in results["cells"] if found["name"] == cell for row in found["rows"])


def promises(results: dict) -> list[Promise]:
    speeds = [(row["speedup"]["median"], cell["name"]) for cell, row in judged.rows(results, ALL, "speedup")]
    read = [row["waits"] for _, row in judged.rows(results, ALL, "waits")]
    found = [judged.worst("no step slower than upstream's by more than 2 %", speeds, lambda v: v >= 0.98)]
    gains: dict[str, float] = {}
    for cell, row in judged.rows(results, ALL, "speedup"):
        gains[cell["module"]] = max(row["speedup"]["median"], gains.get(cell["module"], 0.0))
    fast = [module for module, gain in gains.items() if gain >= GAIN]
    text = f"{len(fast)} of {len(gains)}: {', '.join(fast)}" if gains else ""
    found.append(judged.promise(f"≥ {GAIN}× in {GAINERS} codebases", text, len(fast) >= GAINERS if gains else None))
    if results["device_type"] == "cpu":
        saved = at(results, ALL, "speedup", name=WIDE)
        found.insert(0, at_least("HiFi-GAN's full discriminators ≥ 1.35×", saved, 1.35))
        gaps = [(gap, cell["name"]) for cell in results["cells"] if (gap := loss_gap(cell, CLOSE)) is not None]
        what = f"losses of the first {CLOSE} steps within 1e-3 of upstream's"
        text = "" if not gaps else f"{max(gaps)[0]:.1e} at worst ({max(gaps)[1]})"
        found.append(judged.promise(what, text, max(gaps)[0] <= 1e-3 if gaps else None))
    found.append(judged.counted("with all pieces, no read of a tensor on the host", read, {0}))
    return [*found, judged.all_right(results, list(FORMS)[1:], "every form has upstream's losses", "forms")]


def picture(results: dict, path: Path) -> None:
    """Speed against upstream's step, and the losses of both forms of each codebase over the steps."""
    found = ranked(results)
    columns = min(max(len(found), 1), 4)
    lines = 2 * math.ceil(max(len(found), 1) / columns)
    figure, axes = report.subplots(lines, columns + 2, 4.5 * (columns + 2), max(7, 3 * lines))
    grid = axes[0][0].get_gridspec()
    for axis in axes[:, :2].flat:
        axis.remove()
    speeds = figure.add_subplot(grid[:, :2])
    colours = dict(zip(list(FORMS)[1:], ("#93c5fd", "#3b82f6", "#f59e0b", "#a78bfa", "#94a3b8", "#ef4444", "#15803d")))
    colours = {name: colours[name] for name in measured(results)}
    report.speed_bars(speeds, found, colours, "speedup", "steps a second, upstream = 1")
    names = [cell["title"].replace(", ", "\n") for cell in found]
    speeds.set_yticks(range(len(found)), names, fontsize=8)
    pairs = [pair for i in range(0, lines, 2) for pair in axes[i : i + 2, 2:].T]  # D's losses above G's
    for axis in [axis for pair in pairs[len(found) :] for axis in pair]:
        axis.remove()
    for cell, pair in zip(found, pairs):
        for axis, key, player in zip(pair, ("loss_d", "loss_g"), "DG"):
            for name, style in (
                (UPSTREAM, dict(color="#111827", linewidth=3, alpha=0.35)),
                (ALL, dict(color="#15803d")),
            ):
                if ALL in cell["curves"]:
                    values = [math.nan if x is None else x for x in cell["curves"][name][key]]
                    axis.plot(range(1, len(values) + 1), values, label=f"losses, {name}", **style)
            title = f"{cell['title'].split(',')[0]} ({cell['name']})" if key == "loss_d" else ""
            report.tidy(axis, title=title, xlabel="step" if key == "loss_g" else "", ylabel=f"{player}'s loss")
    report.legend(figure, [speeds, pairs[0][0]], 2 * (columns + 2))
    report.titled(figure, "Training steps of public codebases, with fastgan in them", results)
    report.save(figure, path)


SUITE = Suite(
    name="integrations",
    title="Training steps of public codebases",
    contenders=CONTENDERS,
    names=lambda device, quick: list(cells(device))[: 1 if quick else None],
    known=lambda device: list(cells(device)),
    measure=measure,
    promises=promises,
    tables=tables,
    summary=summary,
    sentence=sentence,
    pictures={"integrations.png": picture},
    budgets=(0.5, 30.0, 20.0),
    time_limits=(1800.0, 400.0),
    must_finish=True,
)
