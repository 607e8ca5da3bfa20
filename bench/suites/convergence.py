"""`python -m bench convergence`: training with fastgan reaches the same scores as training without.

Two forms train the same networks from the same weights on the same rows and latents in the same order: a loop in plain
PyTorch (`bench/codebases/plain.py`) and `GANTrainer`. Their losses of the first steps must agree in float64, so both
train the same thing. In float32, rounding errors grow with the steps: Adam moves a weight by about its learning rate
however small the gradient is, and rounding decides the sign of a gradient near 0. So the final scores are compared over
several seeds: the differences, paired by seed, against their interval.
"""

from __future__ import annotations

import base64
import math
import multiprocessing
import os
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.codebases.plain import Plain
from bench.harness import promises as judged
from bench.harness import report
from bench.harness.contest import Setting, one_line
from bench.harness.promises import Promise
from bench.harness.statistics import paired
from bench.harness.suite import Suite
from bench.suites import shapes64
from bench.suites.convergence_data import CLOSE, SCORES, Cell, Problem, cells, problem
from fastgan.data import to_uint8
from fastgan.models import build
from fastgan.training.trainer import ORDER, GANTrainer

PLAIN, FASTGAN = "plain PyTorch", "fastgan"
CONTENDERS = {
    PLAIN: "a loop of eager PyTorch: BCE with logits, R1 by `torch.autograd.grad(create_graph=True)`, fused Adam, the "
    "moving average of G",
    FASTGAN: "`GANTrainer` with the same settings",
}
SEEDS = 5
SAMPLE_SEED = 1_000  # added to the seed: samples are drawn from latents that training has not seen
ALLOWED = 1e-9  # relative difference of the losses of the first steps, in float64


class Run(NamedTuple):
    """losses: of D and of G, in the first steps. samples: of the averaged generator, on the CPU. seconds: the time of
    training and sampling."""

    losses: list[tuple[float, float]]
    samples: Tensor
    seconds: float


def networks(cell: Cell, samples: Tensor, seed: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator, with the same weights for both forms."""
    torch.manual_seed(seed)
    c = cell.config
    pair = build(tuple(samples.shape[1:]), c.latent_dim, c.width, c.networks)
    return pair[0].to(dtype), pair[1].to(dtype)


def train_plain(cell: Cell, samples: Tensor, device: str, seed: int, dtype: torch.dtype = torch.float32) -> Run:
    c, pair = cell.config, networks(cell, samples, seed, dtype)
    settings = {name: getattr(c, name) for name in ("latent_dim", "lr", "betas", "weight", "r1", "ema_decay")}
    begin = time.perf_counter()
    loop = Plain(*pair, **settings, seeds=(seed, (seed + ORDER) % 2**64), device=device)
    losses = loop.fit(samples, c.steps, c.batch, CLOSE)
    drawn = loop.sample(cell.count, SAMPLE_SEED + seed).cpu()
    return Run(losses, drawn, time.perf_counter() - begin)


def train_fastgan(cell: Cell, samples: Tensor, device: str, seed: int, dtype: torch.dtype = torch.float32) -> Run:
    c, pair = cell.config, networks(cell, samples, seed, dtype)
    samples = samples if samples.dtype == torch.uint8 else samples.to(dtype)
    config = replace(c, seed=seed, precision="float32", channels_last=False)
    begin = time.perf_counter()
    trainer = GANTrainer(*pair, device=device, **config.of_trainer())
    samples, losses = samples.to(trainer.device), []
    for _ in range(CLOSE):
        values = trainer.step(trainer.draw(samples, c.batch))
        losses.append((values["loss_d"].item(), values["loss_g"].item()))
    if c.steps > CLOSE:
        trainer.fit(samples, steps=c.steps - CLOSE, batch=c.batch, log_every=c.steps)
    drawn = trainer.sample(cell.count, SAMPLE_SEED + seed).cpu()
    return Run(losses, drawn, time.perf_counter() - begin)


FORMS: dict[str, Callable[..., Run]] = {PLAIN: train_plain, FASTGAN: train_fastgan}


def measure(setting: Setting, name: str) -> dict:
    """On a CPU, run as many processes as there are cores, one thread each, which is the fastest for small networks."""
    cell, seeds = cells(setting.quick)[name], range(1 if setting.quick else SEEDS)
    if setting.device == "cuda" or setting.quick:
        return train_all(cell, problem(cell, 1_000) if setting.quick else problem(cell), setting.device, seeds)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_start_worker, initargs=(cell,)) as pool:
        return cell_of(cell, seeds, list(pool.map(_train_in_worker, _runs(seeds))))


_worker_inputs: list = []  # in a process of the pool: the cell and its problem


def _start_worker(cell: Cell) -> None:
    torch.set_num_threads(1)
    _worker_inputs[:] = cell, problem(cell)


def _train_in_worker(run: tuple[int, str]) -> dict:
    return train_form(*_worker_inputs, "cpu", *run)


def _runs(seeds: Sequence[int]) -> list[tuple[int, str]]:
    """(seed, form) of each run."""
    return [(seed, name) for seed in seeds for name in FORMS]


def train_all(cell: Cell, data: Problem, device: str, seeds: Sequence[int]) -> dict:
    """Both forms with every seed, one after the other, in this process."""
    return cell_of(cell, seeds, [train_form(cell, data, device, *run) for run in _runs(seeds)])


def train_form(cell: Cell, data: Problem, device: str, seed: int, name: str) -> dict:
    """One run of a form, with its first steps repeated in float64: a row's entries for this seed, or the error."""
    first = cell._replace(config=replace(cell.config, steps=CLOSE), count=1)
    try:
        exact = FORMS[name](first, data.samples, device, seed, torch.float64).losses
        run = FORMS[name](cell, data.samples, device, seed)
        scores = data.score(run.samples.float())
    except Exception as error:  # the row of a form that fails holds the error
        return {"error": f"seed {seed}: {one_line(error)}"}
    shown = (to_uint8(run.samples) if run.samples.dim() == 4 else run.samples.float())[: cell.shown]
    entries = {"scores": {score: scores[score] for score in cell.scores}, "losses": run.losses, "exact": exact}
    return entries | {"seconds": round(run.seconds, 2), "shown": packed(shown)}


def cell_of(cell: Cell, seeds: Sequence[int], runs: Sequence[dict]) -> dict:
    """The cell as a results file holds it, from the results of `train_form` in the order of `_runs`."""
    rows = []
    for place, name in enumerate(FORMS):
        form_runs = runs[place :: len(FORMS)]
        good = [run for run in form_runs if "error" not in run]
        row = {"contender": name, "scores": {s: [run["scores"][s] for run in good] for s in cell.scores}}
        row |= {key: [run[key] for run in good] for key in ("losses", "exact", "seconds")}
        if len(good) < len(form_runs):
            row["error"] = next(run["error"] for run in form_runs if "error" in run)
        rows.append(row | ({"shown": form_runs[0]["shown"]} if "shown" in form_runs[0] else {}))
    c = cell.config
    keys = ("steps", "batch", "width", "latent_dim", "lr", "r1", "weight", "ema_decay")
    settings = {key: getattr(c, key) for key in keys} | {"betas": list(c.betas), "samples": cell.count}
    return {"name": cell.name, "title": cell.title, "seeds": [*seeds], "settings": settings, "rows": rows}


def packed(samples: Tensor) -> dict:
    """Samples as a results file holds them: compressed bytes in base 64."""
    array = samples.contiguous().numpy()
    data = base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "data": data}


def unpacked(stored: dict) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(stored["data"]))
    return np.frombuffer(raw, dtype=stored["dtype"]).reshape(stored["shape"])


# ---- what the numbers say -------------------------------------------------------------------------------------------


def finished_rows(cell: dict) -> tuple[dict, dict] | None:
    """The rows of plain PyTorch and of fastgan, if all runs of both finished."""
    rows = {row["contender"]: row for row in cell["rows"]}
    found = [rows.get(name, {"error": ""}) for name in (PLAIN, FASTGAN)]
    return None if any("error" in row for row in found) else (found[0], found[1])


def differences(cell: dict) -> dict[str, dict[str, float]]:
    """The mean difference of each score, fastgan's minus plain PyTorch's with the same seed, with Student's interval.
    The intervals of a cell hold together at 95 %: each of k scores at 1 - 0.05 / k (Bonferroni). Empty for one seed."""
    rows = finished_rows(cell)
    if rows is None or len(cell["seeds"]) < 2:
        return {}
    scores = [row["scores"] for row in rows]
    return {s: paired(scores[1][s], scores[0][s], 1 - 0.05 / len(scores[0])) for s in scores[0]}


def within_noise(score: str, difference: dict[str, float]) -> bool:
    """Whether the interval contains 0, or the difference is too small to matter."""
    return difference["low"] <= 0 <= difference["high"] or abs(difference["mean"]) <= SCORES[score].tolerance


def loss_gap(cell: dict, key: str = "exact") -> float | None:
    """The largest relative difference of the two forms' losses in the first steps of all seeds. key: "exact" for
    float64, "losses" for float32."""
    rows = finished_rows(cell)
    if rows is None:
        return None
    numbers = [np.array(row[key], dtype=float) for row in rows]  # null, for a loss that is not finite, becomes NaN
    if numbers[0].shape != numbers[1].shape:
        return math.inf
    worst = float((np.abs(numbers[1] - numbers[0]) / np.abs(numbers[0]).clip(1e-12)).max())
    return worst if math.isfinite(worst) else math.inf


def interval_of(score: str, difference: dict[str, float]) -> str:
    form = SCORES[score].form.replace(":", ":+")
    mean, low, high = (form.format(difference[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def promises(results: dict) -> list[Promise]:
    found = {cell["name"]: cell for cell in results["cells"]}
    promised = []
    for name in cells():
        cell = found.get(name, {"rows": [], "seeds": []})
        gaps, what = differences(cell), f"{name}: scores within noise over {len(cell['seeds']) or SEEDS} seeds"
        if not gaps:
            promised.append(judged.promise(what, "one seed has no interval" if finished_rows(cell) else "", None))
            continue
        good = {score: within_noise(score, difference) for score, difference in gaps.items()}
        far = max(gaps, key=lambda s: (not good[s], distance(s, gaps[s])))
        text = f"{sum(good.values())} of {len(good)}; furthest: {SCORES[far].label} {interval_of(far, gaps[far])}"
        promised.append(judged.promise(what, text, all(good.values())))
    loss_gaps = [(gap, cell["name"]) for cell in results["cells"] if (gap := loss_gap(cell)) is not None]
    what = f"losses of the first {CLOSE} steps, in float64, within {ALLOWED:g} of plain PyTorch's"
    text = f"{max(loss_gaps)[0]:.1e} at worst ({max(loss_gaps)[1]})" if loss_gaps else ""
    promised.append(judged.promise(what, text, max(loss_gaps)[0] <= ALLOWED if loss_gaps else None))
    return [*promised, judged.all_right(results, list(CONTENDERS), "every run finishes", "forms")]


def distance(score: str, difference: dict[str, float]) -> float:
    """The difference in half widths of the interval, or in tolerances if the tolerance is larger."""
    half = (difference["high"] - difference["low"]) / 2
    return abs(difference["mean"]) / max(half, SCORES[score].tolerance)


INTERVALS = """\
An interval is Student's, over the differences of the seeds: fastgan's score minus plain PyTorch's with the same seed.
All intervals of a data set hold together at 95 %."""
HOW_TO_READ = f"""\
Mean ± standard deviation over the seeds, of samples of the averaged generator. *within noise*: the interval of the
difference contains 0, or the difference is at most the tolerance of the score. The factors of shapes are read from each
picture. *precision*: the share of pictures that differ from the rendering of their factors by at most
{shapes64.RIGHT:g} of its norm. *recall*: the number of the {shapes64.CELLS} cells of factors that such pictures reach,
relative to the same number of real pictures."""


def tables(results: dict, kinds: tuple[str, ...]) -> list[str]:
    lines = ["## Final scores", "", HOW_TO_READ, "", *scores_table(results), ""]
    tolerances = ", ".join(f"{score.label} {score.tolerance:g}" for score in SCORES.values())
    lines += [f"Tolerances: {tolerances}.", "", "## Training", "", *training_table(results), ""]
    lines += [
        f"*losses differ by*: the largest relative difference, of D's and G's loss, in the first {CLOSE} steps of all "
        "seeds. *seconds*: the median time of a run and its samples, while other runs use the other cores; for "
        "information."
    ]
    per_seed = []
    for cell in results["cells"]:
        for row in cell["rows"]:
            for score, values in row["scores"].items():
                shown = [SCORES[score].form.format(value) for value in values]
                per_seed.append([cell["title"], SCORES[score].label, row["contender"], ", ".join(shown)])
    lines += ["", "## Each seed", "", *report.table(["data", "score", "form", "seed by seed"], per_seed)]
    return [*lines, "", "Samples of the first seed are in convergence.png."]


def scores_table(results: dict) -> list[str]:
    rows = []
    for cell in results["cells"]:
        gaps, found = differences(cell), {row["contender"]: row for row in cell["rows"]}
        for score in next(iter(found.values()))["scores"]:
            means = [mean_of(found[name], score) for name in FORMS]
            shown = interval_of(score, gaps[score]) if score in gaps else ""
            verdict = ("yes" if within_noise(score, gaps[score]) else "**no**") if score in gaps else ""
            rows.append([cell["title"], SCORES[score].label, *means, shown, verdict])
    return report.table(["data", "score", *FORMS, "difference [95 %]", "within noise"], rows)


def mean_of(row: dict, score: str) -> str:
    if "error" in row:
        return row["error"]
    values, form = row["scores"][score], SCORES[score].form
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread


def training_table(results: dict) -> list[str]:
    rows = []
    for cell in results["cells"]:
        s, gaps = cell["settings"], [loss_gap(cell, key) for key in ("exact", "losses")]
        seconds = [f"{statistics.median(row['seconds']):.1f}" if row["seconds"] else "" for row in cell["rows"]]
        shown = ["" if gap is None else f"{gap:.1e}" for gap in gaps]
        rows.append([cell["title"], f"{s['steps']:,}", s["batch"], len(cell["seeds"]), *shown, *seconds])
    head = ["data", "steps", "batch", "seeds", "losses differ by, float64", "float32"]
    head += [f"seconds, {name}" for name in FORMS]
    return report.table(head, rows)


def summary(results: dict) -> str:
    """The pages' tables."""
    return "\n".join([*scores_table(results), "", *training_table(results)])


# ---- the picture ----------------------------------------------------------------------------------------------------


def mosaic(images: np.ndarray) -> np.ndarray:
    """uint8 (k^2, C, H, W) -> (k H', k W', 3), with a white line between pictures."""
    side = math.isqrt(len(images))
    tiles = np.pad(images[: side**2], ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    _, channels, height, width = tiles.shape
    tiles = tiles.reshape(side, side, channels, height, width).transpose(0, 3, 1, 4, 2)
    whole = tiles.reshape(side * height, side * width, channels)[:-1, :-1]
    return np.broadcast_to(whole, (*whole.shape[:2], 3))


def picture(results: dict, path: Path) -> None:
    """Samples of both forms, one above the other, from the same latents, with the scores of that seed."""
    found = results["cells"]
    figure, axes = report.subplots(2, max(len(found), 1), 4.3 * max(len(found), 2), 11)
    for cell, pair in zip(found, axes.T):
        rows = {row["contender"]: row for row in cell["rows"]}
        for axis, name in zip(pair, FORMS):
            row = rows[name]
            if "shown" not in row:
                axis.set_axis_off()
                axis.set_title(f"{cell['title']}, {name}\n{row.get('error', '')}", fontsize=8, wrap=True)
                continue
            shown = unpacked(row["shown"])
            if shown.ndim == 4:
                axis.imshow(mosaic(shown), interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                of_axis = ""
            else:
                axis.scatter(*shown.T, s=3, color="#15803d" if name == FASTGAN else "#374151", linewidths=0)
                report.tidy(axis, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", ylabel="$x_2$")
                of_axis = "$x_1$\n"
            scores = [f"{SCORES[s].label} {SCORES[s].form.format(v[0])}" for s, v in row["scores"].items()]
            axis.set_title(f"{cell['title']}: {name}", fontsize=11)
            lines = [", ".join(scores[i : i + 3]) for i in range(0, len(scores), 3)]
            axis.set_xlabel(of_axis + "\n".join(lines), fontsize=8.5)
    report.titled(figure, "Where training ends, in plain PyTorch and with fastgan: samples of one seed", results)
    report.save(figure, path)


SUITE = Suite(
    name="convergence",
    title="Where training ends",
    contenders=CONTENDERS,
    names=lambda device, quick: list(cells(quick)),
    measure=measure,
    promises=promises,
    tables=tables,
    summary=summary,
    pictures={"convergence.png": picture},
    time_limits=(1500.0, 1500.0),
    cell="data set",
    must_finish=True,
    intervals=INTERVALS,
)
