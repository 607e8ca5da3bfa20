"""`python -m bench training`: whole training steps of a DCGAN, images a second.

fastgan's trainer is compared with a common first training loop, pytorch/examples' DCGAN, and with the best that a
careful user can make of it. All train the same networks on the same images from the same weights and, if they draw as
often, with the same random numbers. A trainer whose losses differ from the loop's is an error in the table.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.codebases.dcgan import BETAS, LATENT, LR, Careful, Example
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.clock import Cuda, sample_rounds
from bench.harness.contest import Setting, one_line
from bench.harness.promises import Promise, at, at_least, times
from bench.harness.statistics import interval, ratio
from bench.harness.suite import Suite
from fastgan.networks import build
from fastgan.trainer import GANTrainer

EXAMPLE, CAREFUL = "the example's loop", "the same, by a careful user"
ALTERNATING, ONE_STAGE, MINIMAX = "trainer", "trainer, one-stage", "trainer, one-stage, minimax"
CONTENDERS = {
    EXAMPLE: "pytorch/examples' DCGAN: eager float32, BCE of sigmoids, D backward twice, `.item()` five times a step",
    CAREFUL: "the same arithmetic with fused Adam, BCE with logits, D frozen in G's step, nothing read, torch.compile; "
    "on a GPU also bfloat16 and channels_last",
    ALTERNATING: "GANTrainer(redraw=False): the example's arithmetic, float32",
    "trainer, new samples for G": "GANTrainer(): G's step draws samples of its own",
    "trainer, concatenated": "GANTrainer(redraw=False, concatenate=True): D sees both sides in one pass",
    ONE_STAGE: "GANTrainer(step='one-stage'): one pass through D for both players",
    MINIMAX: "the same with the minimax loss, which a D with batch normalisation asks for",
    "trainer, compiled": "GANTrainer(redraw=False, compile=True)",
    "trainer, captured": "GANTrainer(redraw=False): float32, the step in one CUDA graph",
    "trainer, bfloat16": "GANTrainer(redraw=False, precision='bfloat16', capture=False)",
    "trainer, bfloat16, captured": "GANTrainer(redraw=False): what a GPU gets by default",
    "trainer, bfloat16, captured, compiled": "GANTrainer(redraw=False, compile=True)",
    "trainer, bfloat16, captured, one-stage": "GANTrainer(step='one-stage')",
}
FASTEST = ("trainer, bfloat16, captured", "trainer, bfloat16, captured, compiled")
CURVES = "curves"


class Cell(NamedTuple):
    """norm: batch normalisation in D, as in the example."""

    name: str
    size: int
    batch: int
    width: int
    norm: bool = True

    @property
    def title(self) -> str:
        return f"{self.size}×{self.size}, batch {self.batch}{'' if self.norm else ', no norm in D'}"


def cells(device: str) -> dict[str, Cell]:
    """The most informative first, since a run may have no time for all of them."""
    shapes = [(64, 16, 64), (32, 64, 32)]
    if device == "cuda":
        shapes = [(64, n, 64) for n in (128, 16, 1024)] + [(128, 128, 64)] + [(64, n, 64) for n in (64, 256, 512)]
        shapes += [(128, 16, 64), (128, 64, 64), (128, 256, 64), (64, 32, 64), (128, 512, 64), (128, 1024, 64)]
    found = [
        Cell(f"{size}px-b{batch}{'' if norm else '-plain'}", size, batch, width, norm)
        for size, batch, width in shapes
        for norm in (True, False)
    ]
    return {cell.name: cell for cell in found}


Loop = Callable[[Tensor], tuple[Tensor, Tensor]]  # a batch of images -> (loss of D, loss of G)


def loops(cell: Cell, device: str, compiled: bool) -> dict[str, Callable[[], Loop]]:
    """The contenders of a cell, each from the same weights."""

    def networks() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        generator, _ = build((3, cell.size, cell.size), LATENT, cell.width, "dcgan-batchnorm")
        _, discriminator = build(
            (3, cell.size, cell.size), LATENT, cell.width, "dcgan-batchnorm" if cell.norm else "dcgan"
        )
        return generator.to(device), discriminator.to(device)

    def trainer(**options) -> Loop:
        settings = dict(latent_dim=LATENT, lr=LR, betas=BETAS, weight=1.0, r1=0.0, redraw=False, concatenate=False)
        gan = GANTrainer(*networks(), seed=0, **{**settings, **options})

        def step(real: Tensor) -> tuple[Tensor, Tensor]:
            values = gan.step(real)
            if options.get("capture", True) and device == "cuda" and gan.capture_reason:
                raise RuntimeError(f"not captured: {gan.capture_reason}")
            return values["loss_d"], values["loss_g"]

        step.generator = gan.generator
        return step

    plain = {"precision": "float32", "capture": False}
    one_stage = {"step": "one-stage", "concatenate": None, **({"objective": "minimax"} if cell.norm else {})}
    found: dict[str, Callable[[], Loop]] = {
        EXAMPLE: lambda: Example(*networks(), device),
        CAREFUL: lambda: Careful(*networks(), device, compiled),
        ALTERNATING: lambda: trainer(**plain),
        "trainer, new samples for G": lambda: trainer(**plain, redraw=True),
    }
    if not cell.norm:
        found["trainer, concatenated"] = lambda: trainer(**plain, concatenate=True)
    found[MINIMAX if cell.norm else ONE_STAGE] = lambda: trainer(**plain, **one_stage)
    if device == "cuda":
        found["trainer, captured"] = lambda: trainer(precision="float32")
        found["trainer, bfloat16"] = lambda: trainer(capture=False)
        found["trainer, bfloat16, captured"] = lambda: trainer()
        if compiled:
            found["trainer, bfloat16, captured, compiled"] = lambda: trainer(compile=True)
        found["trainer, bfloat16, captured, one-stage"] = lambda: trainer(**one_stage)
    elif compiled:
        found["trainer, compiled"] = lambda: trainer(**plain, compile=True)
    return found


def images(n: int, size: int, device: str, seed: int = 0) -> Tensor:
    """Discs of random colour, place and radius on random backgrounds, float32 (n, 3, size, size) in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    colours = torch.rand(2, n, 3, 1, 1, generator=random) * 2 - 1
    place, radius = torch.rand(2, n, 1, 1, generator=random), 0.1 + 0.3 * torch.rand(n, 1, 1, generator=random)
    axis = torch.linspace(0, 1, size)
    inside = torch.hypot(axis[:, None] - place[0], axis - place[1]) < radius
    return torch.where(inside[:, None], *colours).to(device)


class StepClock(Cuda):
    """wall: the time from step to step. host: until a step's call returns. device_us: all kernels, by the profiler."""

    kinds = ("host", "wall")

    def plan(self, call) -> dict[str, int]:
        wall = min(self.wall(call, 1) for _ in range(3))
        return {"wall": max(2, min(50, int(0.1 / wall)))}

    def sample(self, call, calls: dict[str, int]) -> dict[str, float]:
        return {"host": self.host(call, 1) * 1e6, "wall": self.wall(call, calls["wall"]) * 1e6}

    def wall(self, call, calls: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(calls):
            call(i)
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / calls

    def device_us(self, call) -> float:
        return sum(e.time_range.elapsed_us() for e in self.kernels(call))


def why_wrong(name: str, got: Sequence[tuple[float, float]], want: Sequence[tuple[float, float]]) -> str | None:
    """Compare the losses of a contender's first steps with the example's. A contender that draws other samples or
    updates in another order agrees only in D's first loss. bfloat16 has three digits, and Adam amplifies rounding."""
    first_only = "one-stage" in name or "new samples" in name
    pairs = [(got[0][0], want[0][0])] if first_only else list(zip(itertools.chain(*got), itertools.chain(*want)))
    exact = "bfloat16" not in name and name != CAREFUL
    for i, (a, b) in enumerate(pairs):
        later = torch.cuda.is_available() and i > 1  # cuDNN may choose another algorithm for another trainer
        if not abs(a - b) <= (0.05 if not exact else 1e-2 if later else 2e-3) * abs(b) + 1e-3:
            return f"loss {(i % 2 and 'of G') or 'of D'} in step {i // 2 + 1} is {a:.6g}, the example's is {b:.6g}"
    return None


def measure(setting: Setting, name: str) -> dict | None:
    """One cell, or the loss curves."""
    cuda = setting.device == "cuda"
    if name == CURVES:
        steps = (50 if setting.quick else 500) if cuda else (20 if setting.quick else 150)
        setting.results["curves"] = curves(setting.device, setting.compiled and cuda, steps)
        return None
    return cell(setting, (cells("cuda") | cells(setting.device))[name])


def cell(setting: Setting, c: Cell) -> dict:
    """Measure the first losses, then times in interleaved rounds, then launches and memory of a step."""
    device, quick = setting.device, setting.quick
    clock = StepClock(quick, setting.clock.capture) if device == "cuda" else setting.clock
    real = images(c.batch, c.size, device)
    rows, calls, want = {}, {}, []
    for name, make in loops(c, device, setting.compiled).items():
        row = rows[name] = {"contender": name}
        try:
            begin = time.perf_counter()
            loop = make()
            got = [tuple(loss.item() for loss in loop(real)) for _ in range(3)]
            row["first_steps_s"] = round(time.perf_counter() - begin, 2)
            row["losses"] = got
            want = want or got
            if wrong := why_wrong(name, got, want):
                row["error"] = f"wrong result, not timed: {wrong}"
            else:
                row["peak_bytes"] = clock.peak_bytes(lambda i, loop=loop: loop(real))
                calls[name] = lambda i, loop=loop: loop(real)
        except Exception as error:  # the row of a contender that cannot run here holds the error
            row["error"] = one_line(error)
    samples = sample_rounds(clock, calls, setting.budget_s, at_least=3 if quick else 7)
    kind = "wall" if device == "cuda" else "host"
    for name, kinds in samples.items():
        row = rows[name]
        row["step_us"], row["host_us"] = interval(kinds[kind]), interval(kinds["host"])
        row["images_per_s"] = c.batch * 1e6 / row["step_us"]["median"]
        for column, other in (("speedup", EXAMPLE), ("against_careful", CAREFUL)):
            if other in samples:
                row[column] = ratio(samples[other][kind], kinds[kind])
        row["launches"] = clock.launches(calls[name])
        if device == "cuda":
            row["device_us"] = clock.device_us(calls[name])
            row["busy"] = row["device_us"] / row["step_us"]["median"]
    return c._asdict() | {"title": c.title, "rows": list(rows.values())}


def curves(device: str, compiled: bool, steps: int) -> dict:
    """{contender: {"loss_d", "loss_g": a number for each step, "seconds": of all, "distance": of final samples}}.

    All use the same images and initial weights. D has no norm, so that every contender can run."""
    c = Cell("curves", 32, 32, 16, False) if device == "cpu" else Cell("curves", 64, 128, 64, False)
    data = images(2048, c.size, device)
    found = {}
    for name, make in loops(c, device, compiled).items():
        try:
            loop, random, losses = make(), torch.Generator().manual_seed(1), []
            rows = torch.randint(len(data), (steps, c.batch), generator=random).to(device)
            loop(data[rows[0]])  # compiles and captures
            begin = time.perf_counter()
            for batch_rows in rows:
                losses.append(torch.stack(loop(data[batch_rows])))
            numbers = torch.stack(losses).tolist()
        except Exception as error:
            found[name] = {"error": one_line(error)}
            continue
        seconds = time.perf_counter() - begin
        z = torch.randn(1024, LATENT, generator=torch.Generator().manual_seed(2)).to(device)
        with torch.no_grad():
            drawn = torch.cat([loop.generator(part).float() for part in z.split(c.batch)])
        finite = [[x if math.isfinite(x) else None for x in pair] for pair in numbers]
        found[name] = {
            "loss_d": [d for d, _ in finite], "loss_g": [g for _, g in finite], "seconds": round(seconds, 3),
            "distance": sliced_distance(drawn, data[:1024]),
        }  # fmt: skip
    return found


def sliced_distance(a: Tensor, b: Tensor, directions: int = 256) -> float:
    """Mean Wasserstein-1 distance of the two samples' projections on random directions (Rabin et al. 2011)."""
    random = torch.Generator().manual_seed(3)
    w = torch.randn(a[0].numel(), directions, generator=random).to(a.device)
    w /= w.norm(dim=0)
    x, y = ((s.flatten(1) @ w).sort(0).values for s in (a, b))
    value = (x - y).abs().mean().item()
    return value if math.isfinite(value) else -1.0


HOW_TO_READ = """\
*step*: median (quartiles) in microseconds from step to step, over interleaved rounds. A speed-up is a ratio of medians
in this run, with its 95 % interval. *peak* is the most that a step holds beyond weights and optimizer. The trainer also
averages G's weights over the steps and counts D's errors; the loops do neither. """
ON_A_GPU = """\
*host*: until the call returns. *device*: all kernels of a step, by the profiler; *busy* is their share of the step."""
ON_A_CPU = "*launches*: operators that touch elements and call no other operator."


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    cuda = results["device_type"] == "cuda"
    lead = {"networks": lambda cell, row: cell["title"]} | report.CONTENDER
    columns = {"images/s": lambda cell, row: f"{row['images_per_s']:,.0f}"} | report.time_columns(["step"])
    if cuda:
        columns |= report.time_columns(["host"])
        columns["device µs"] = lambda cell, row: report.microseconds(row["device_us"])
        columns["busy"] = lambda cell, row: f"{row['busy']:.0%}"
    columns["vs the example"] = lambda cell, row: times(row.get("speedup"))
    columns["vs a careful user"] = lambda cell, row: times(row.get("against_careful"))
    columns["launches"] = lambda cell, row: str(row["launches"])
    columns["peak"] = lambda cell, row: report.bytes_of(row["peak_bytes"])
    lines = ["## Times", "", HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU), ""]
    lines += report.rows_table(results["cells"], lead, columns)
    if not results["curves"]:
        return lines
    rows = []
    for name, curve in results["curves"].items():
        if "error" in curve:
            rows.append((name, curve["error"], *[""] * 4))
        else:
            ends = [_end(curve[key]) for key in ("loss_d", "loss_g")]
            rows.append((name, len(curve["loss_d"]), curve["seconds"], f"{curve['distance']:.3f}", *ends))
    lines += ["", "## Losses and samples after training", ""]
    lines += report.table(["contender", "steps", "seconds", "distance", "last D", "last G"], rows)
    lines += ["", "*distance*: the sliced Wasserstein distance of 1024 generated to 1024 real images. *last*: mean"]
    return [*lines, "loss over the last tenth of the steps. The curves are in training.png."]


def _end(losses: Sequence[float | None]) -> str:
    last = [x for x in losses[-max(1, len(losses) // 10) :] if x is not None]
    return f"{sum(last) / len(last):.3f}" if last else "not finite"


def summary(results: dict) -> str:
    """The pages' table: images per second, a line for each cell."""
    names = [EXAMPLE, CAREFUL, ALTERNATING, ONE_STAGE, MINIMAX, *FASTEST]
    shown = [name for name in names if any(True for _ in judged.rows(results, name))]
    rows = []
    for cell in results["cells"]:
        found = {row["contender"]: f"{row['images_per_s']:,.0f}" for row in cell["rows"] if "step_us" in row}
        rows.append([cell["title"], *(found.get(name, "") for name in shown)])
    return "\n".join(report.table(["images/s", *shown], rows))


def promises(results: dict) -> list[Promise]:
    """In the first cell with the example's own networks; for one-stage also in the first whose D has no norm."""

    def of(name: str, column: str, norm: bool = True):
        return at(results, name, column, norm=norm)

    if results["device_type"] == "cpu":
        return [
            at_least("trainer ≥ 1.1× the example's loop, same arithmetic", of(ALTERNATING, "speedup"), 1.1),
            at_least("one-stage ≥ 1.3× the example's loop (no norm in D)", of(ONE_STAGE, "speedup", False), 1.3),
            at_least("one-stage ≥ 1.3× the example's loop (norm in D, minimax)", of(MINIMAX, "speedup"), 1.3),
        ]
    best = max((n for n in FASTEST if of(n, "images_per_s")), key=lambda n: of(n, "images_per_s"), default=FASTEST[0])
    busy = of(best, "busy")
    return [
        at_least(f"{best} ≥ 3× the example's loop, batch 128", of(best, "speedup"), 3.0),
        at_least(f"{best} ≥ 1.5× a careful user's, batch 128", of(best, "against_careful"), 1.5),
        judged.promise(
            "GPU busy ≥ 95 % of a captured step",
            *(("", None) if busy is None else (f"{busy:.0%}", busy >= 0.95)),
        ),
    ]


def picture(results: dict, path: Path) -> None:
    """Speed against the example's loop, and the losses of all contenders over the steps."""
    from matplotlib import pyplot

    shown, cells = 3 if results["curves"] else 1, results["cells"]
    figure, axes = report.subplots(1, shown, 17 if shown == 3 else 9, 1.3 * max(len(cells), 3) + 1.5)
    speeds, *losses = axes[0]
    colours = dict(zip(CONTENDERS, pyplot.get_cmap("tab20").colors))
    timed = {row["contender"] for cell in cells for row in cell["rows"] if "step_us" in row} - {EXAMPLE}
    shades = {name: colours[name] for name in CONTENDERS if name in timed}
    report.speed_bars(speeds, cells, shades, "speedup", "steps a second, the example's loop = 1")
    for axis, key, title in zip(losses, ("loss_d", "loss_g"), ("D's loss", "G's loss")):
        for name, curve in results["curves"].items():
            if "error" not in curve:
                values = [math.nan if x is None else x for x in curve[key]]
                window = max(1, len(values) // 30)  # one step's loss is noise
                mean = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
                axis.plot(range(window, len(values) + 1), mean, color=colours[name], label=name)
        report.tidy(axis, title=title, xlabel="step", ylabel="nats")
    report.legend(figure, axes[0], 5)
    report.titled(figure, "Training a DCGAN", results)
    report.save(figure, path)


def names(device: str, quick: bool) -> list[str]:
    first, *rest = cells(device)
    return [first, CURVES, *(rest[:1] if quick else rest)]


SUITE = Suite(
    name="training",
    title="Training steps of a DCGAN",
    contenders=CONTENDERS,
    names=names,
    known=lambda device: [*(cells(device) | cells("cuda")), CURVES],
    measure=measure,
    promises=promises,
    tables=tables,
    summary=summary,
    pictures={"training.png": picture},
    extras=lambda setting: {"curves": {}},
    budgets=(3.0, 20.0, 20.0),
    must_finish=True,  # most of a cell's time goes to compiling
)
