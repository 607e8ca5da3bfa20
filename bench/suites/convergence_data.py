"""The data sets, settings and scores of `python -m bench convergence`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from bench.suites import shapes64
from fastgan.data import load
from fastgan.evaluation import judge, label_of, mode_scores
from fastgan.training import recipes
from fastgan.training.config import RunConfig

CLOSE = 10  # the first steps, in which the two forms' losses must agree


class Score(NamedTuple):
    """tolerance: a difference of means that is too small to matter. form: the format of a value."""

    label: str
    tolerance: float
    form: str = "{:.3f}"


SCORES = {name: Score(label_of(name), 0.01) for name in ("coverage", "precision", "recall", "tv")}
SCORES["high_quality"] = Score("share within 3 std", 0.01)
SCORES["modes"] = Score("modes", 0.2, "{:.1f}")  # one mode in one of five seeds
SCORES["fd_digits_cnn"] = Score(label_of("fd_digits_cnn"), 0.01)


class Cell(NamedTuple):
    """config: a fastgan recipe's, with the steps that this suite has time for. scores: keys of `SCORES`. count: how
    many samples are scored. shown: how many are in the picture."""

    name: str
    title: str
    config: RunConfig
    scores: tuple[str, ...]
    count: int
    shown: int


class Problem(NamedTuple):
    """samples: to train on, uint8 images or float32 points. score: generated samples on the CPU -> scores by name."""

    samples: Tensor
    score: Callable[[Tensor], dict[str, float]]


def cells(quick: bool = False) -> dict[str, Cell]:
    """The most informative first, since a run may have no time for all of them."""
    points, point_scores = recipes.find(None, None), ("modes", "high_quality", "tv")
    digit_scores = ("coverage", "precision", "recall", "fd_digits_cnn")
    digits = replace(recipes.find(None, 8), steps=1_500)
    shapes = replace(recipes.find(None, 64), steps=3_000, batch=16, width=8, lr=2e-3)  # the recipe's are a GPU's
    found = [
        Cell("digits", "digits, 8×8", digits, digit_scores, 500, 64),
        Cell("ring", "ring, 8 Gaussians", replace(points, steps=3_000), point_scores, 10_000, 1_000),
        Cell("shapes", "shapes, 64×64", shapes, ("precision", "recall"), 2_000, 25),
        Cell("grid", "grid, 25 Gaussians", replace(points, steps=8_000), point_scores, 10_000, 1_000),
    ]
    if quick:
        found = [c._replace(config=replace(c.config, steps=2 * CLOSE), count=min(c.count, 500)) for c in found]
    return {cell.name: cell for cell in found}


def problem(cell: Cell, pictures: int = 20_000) -> Problem:
    """digits: scored by `fastgan.evaluation.digits_report` against held-out digits. ring, grid: by `mode_scores`.
    shapes: by `shapes64.scores`. pictures: the number of shapes."""
    if cell.name == "shapes":
        samples = shapes64.render(shapes64.draw_factors(pictures))
        real = shapes64.read(samples[: cell.count])
        return Problem(samples, lambda generated: shapes64.scores(real, shapes64.read(generated)))
    data = load(cell.name)
    if data.is_images:
        return Problem(data.samples, judge(data))
    return Problem(data.samples, lambda generated: mode_scores(data.modes, data.mode_std, generated))
