"""Train a generator on a named target, with a discriminator or directly by MMD, and measure it.

Beside the losses it measures the values of the theory: D's expected error, the distance of p_g from p_t, and the error
of the best D for this p_g.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan.formulas.objectives import find
from fastgan.game.evaluation import is_dead, mode_statistics, two_sample_test
from fastgan.game.targets import Target, target
from fastgan.losses.adversarial import discriminator_loss
from fastgan.training.trainer import GANTrainer

# Weights of R1 and R2, measured on the four targets: see the README.
PENALTIES = {"relativistic": (0.1, 0.1), "absolute_error": (0.1, 0.1), "mmd": (0.0, 0.0)}
DEFAULT_PENALTIES = (0.1, 0.0)
STEPS = {"gaussian": 3_500, "mixture": 3_500, "ring": 10_000, "grid": 10_000}
SETTINGS_OF = {"grid": {"latent_dim": 2}}  # the samples' dimension: with 8 numbers the grid takes 12,000 steps
# For the non-saturating loss. With equal learning rates the modes of p_g oscillate about those of p_t: a TV of 0.03 or
# 0.13 by the seed. A faster D damps this.
SETTINGS_OF_NONSATURATING = {"mixture": {"steps": 7_000, "batch": 512, "width": 64, "lr": 4e-3, "pace": 0.2}}
# The weight of D's loss on each side, and the loss at the equilibrium with that weight.
LOSS_AT_EQUILIBRIUM = {
    "minimax": (0.5, math.log(2)),
    "nonsaturating": (0.5, math.log(2)),
    "relativistic": (1.0, math.log(2)),
    "absolute_error": (1.0, 0.5),
    "hinge": (0.5, 1.0),
    "least_squares": (0.5, 0.25),
}
FRAMES = 30
WATCHED = 2**14  # samples of a measurement during training
MEASURED = 50_000  # samples of the measurement at the end
SHOWN = {1: 20_000, 2: 2_000}  # samples in a picture, by dimension: a histogram needs many


class Settings(NamedTuple):
    """All settings of a run. seconds: a time limit; training ends at `steps` or `seconds`, whichever comes first, and
    the learning rate falls to zero along a cosine until then. pace: G's learning rate divided by D's. bandwidths: of
    MMD, in units of the target's scale."""

    pair: str
    objective: str = "nonsaturating"
    steps: int = 10_000
    seconds: float | None = None
    batch: int = 256
    lr: float = 2e-3
    pace: float = 1.0
    r1: float = 0.1
    r2: float = 0.0
    bandwidths: tuple[float, ...] = ()
    latent_dim: int = 8
    width: int = 128
    seed: int = 0
    device: str = "cpu"


class Frame(NamedTuple):
    """A snapshot of the training for the pictures. points: (N, d), by the averaged generator. d: D(x) on `grid_points`,
    or None without a D."""

    step: int
    points: Tensor
    d: Tensor | None


class Played(NamedTuple):
    settings: Settings
    target: Target
    trainer: GANTrainer
    history: list[dict]
    frames: list[Frame]
    final: dict
    stopped: bool


def settings_for(pair: str, objective: str | None = None, **given) -> Settings:
    """The recipe for a target and an objective. Settings that are `given` and not None replace the recipe's."""
    objective = objective or "nonsaturating"
    r1, r2 = PENALTIES.get(objective, DEFAULT_PENALTIES)
    recipe: dict[str, Any] = {"steps": STEPS[pair], "r1": r1, "r2": r2, **SETTINGS_OF.get(pair, {})}
    if objective == "mmd":
        recipe["bandwidths"] = bandwidths_for(target(pair))
    if objective == "nonsaturating":
        recipe |= SETTINGS_OF_NONSATURATING.get(pair, {})
    return Settings(pair, objective, **recipe | {name: value for name, value in given.items() if value is not None})


def bandwidths_for(goal: Target) -> tuple[float, ...]:
    """MMD's bandwidths: from the width of a mode to the scale of the target, each twice the one before."""
    count = max(1, math.ceil(math.log2(1 / goal.std)) + 1)
    return tuple(round(goal.std * 2.0**i, 6) for i in range(count + 1))


def make_trainer(settings: Settings) -> GANTrainer:
    torch.manual_seed(settings.seed)  # for the networks' initial weights
    d = target(settings.pair).d
    with torch.device("cpu"):  # whatever torch's default device is
        pair = models.build((d,), settings.latent_dim, settings.width)
    generator, discriminator = (network.float() for network in pair)
    names = ("latent_dim", "objective", "lr", "seed", "device")
    options = {name: getattr(settings, name) for name in names} | {"betas": (0.0, 0.99), "ema_decay": 0.999}
    options |= {"r1": settings.r1, "r2": settings.r2, "bandwidths": settings.bandwidths or None}
    return GANTrainer(generator, None if settings.objective == "mmd" else discriminator, **options)


def play(
    settings: Settings, on_step: Callable[[int], None] = lambda step: None, stop: Callable[[], bool] = lambda: False
) -> Played:
    """Train, and measure at `FRAMES` moments, which are denser at the start.

    on_step: called after each step. stop: called before each step; if it returns True, training ends, at the earliest
    after one step, and the networks are measured as they are then.
    Raises FloatingPointError if the training diverges."""
    goal, trainer = target(settings.pair), make_trainer(settings)
    data = torch.Generator(trainer.device).manual_seed(settings.seed + 1)
    watch = torch.Generator(trainer.device).manual_seed(settings.seed + 2)
    history: list[dict] = []
    frames: list[Frame] = []
    started, progress, stopped = time.monotonic(), 0.0, False
    while progress < 1:
        if stop() and frames:
            stopped = True
            break
        lr = settings.lr * ((1 + math.cos(math.pi * progress)) / 2)
        trainer.set_learning_rate(lr, settings.pace * lr)
        trainer.step(goal.draw(settings.batch, data))
        on_step(trainer.step_number)
        elapsed = time.monotonic() - started
        progress = max(trainer.step_number / settings.steps, elapsed / settings.seconds if settings.seconds else 0.0)
        if progress >= min(1.0, (len(frames) / (FRAMES - 1)) ** 2):
            history.append(measure(trainer, goal, watch, WATCHED, average=True) | {"seconds": round(elapsed, 2)})
            frames.append(frame(trainer, goal, watch))
    final = final_measures(trainer, goal, watch) | {"seconds": round(time.monotonic() - started, 2)}
    return Played(settings, goal, trainer, history, frames, final, stopped)


# ---- what is measured -----------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(trainer: GANTrainer, goal: Target, random: torch.Generator, count: int, average: bool = False) -> dict:
    """D's errors on `count` new samples a side, the distance of p_g from p_t, and the bound (1 - TV) / 2 that it sets.

    average: measure the averaged generator, which sampling uses, and not the one that D trains against."""
    x_t, x_g = goal.draw(count, random), generated(trainer, count, random, average)
    if not x_g.isfinite().all():
        raise FloatingPointError(f"training diverged at step {trainer.step_number}: G gives NaN or infinity")
    tv, js = goal.divergences(x_g)
    modes = mode_statistics(x_g, goal.modes.to(x_g.device), goal.std, goal.weights)
    found = {
        "step": trainer.step_number,
        "total_variation": tv,
        "bound": (1 - tv) / 2,
        "jensen_shannon": js,
        "modes": modes.covered,
        "modes_tv": modes.total_variation,
        "within_3_std": modes.within,
    }
    if trainer.discriminator is None:
        return found
    real, fake = logits(trainer.discriminator, trainer.objective, x_t, x_g)
    weight, _ = LOSS_AT_EQUILIBRIUM.get(trainer.objective, (1.0, None))
    return found | {
        "error": (real.neg().sigmoid().mean() + fake.sigmoid().mean()).item() / 2,
        "error_rate": ((real < 0).double().mean() + (fake >= 0).double().mean()).item() / 2,
        "loss_d": discriminator_loss(real, fake, trainer.objective, weight=weight).item(),
    }


def final_measures(trainer: GANTrainer, goal: Target, random: torch.Generator) -> dict:
    """`measure` of the averaged generator, a fresh discriminator's error, and whether D is dead."""
    found = measure(trainer, goal, random, MEASURED, average=True)
    x_t = goal.draw(8_000, random)
    with torch.no_grad():
        x_g = generated(trainer, 8_000, random, average=True)
    found["fresh_error"] = two_sample_test(x_t, x_g).error
    if trainer.discriminator is not None:
        found["dead"] = is_dead(trainer.discriminator, torch.cat([x_t[:1000], x_g[:1000]]))
    return found


def generated(trainer: GANTrainer, count: int, random: torch.Generator, average: bool = False) -> Tensor:
    network = trainer.ema if average else trainer.generator
    return network(torch.randn(count, trainer.latent_dim, generator=random, device=trainer.device, dtype=trainer.dtype))


def logits(discriminator: nn.Module, objective: str, x_t: Tensor, x_g: Tensor) -> tuple[Tensor, Tensor]:
    """D's logits of both sides. A relativistic D determines its logits only up to a constant, so these are centred."""
    real, fake = discriminator(x_t)[:, 0], discriminator(x_g)[:, 0]
    middle = (real.mean() + fake.mean()) / 2 if relativistic(objective) else 0.0
    return real - middle, fake - middle


def relativistic(objective: str) -> bool:
    return find(objective).relation is not None


@torch.no_grad()
def frame(trainer: GANTrainer, goal: Target, random: torch.Generator) -> Frame:
    points = generated(trainer, SHOWN[goal.d], random, average=True)
    if trainer.discriminator is None:
        return Frame(trainer.step_number, points.cpu(), None)
    x = grid_points(goal).to(trainer.device)
    middle = 0.0
    if relativistic(trainer.objective):
        middle = sum(trainer.discriminator(side).mean() for side in (points, goal.draw(len(points), random))) / 2
    return Frame(trainer.step_number, points.cpu(), (trainer.discriminator(x)[:, 0] - middle).sigmoid().cpu())


def grid_axis(goal: Target) -> Tensor:
    """The axis of the pictures: `std` times 4 in one dimension, times 12 in two, beyond the outermost modes."""
    reach = goal.modes.abs().max().item() + (4 if goal.d == 1 else 12) * goal.std
    return torch.linspace(-reach, reach, 241 if goal.d == 1 else 121, device="cpu", dtype=torch.float32)


def grid_points(goal: Target) -> Tensor:
    axis = grid_axis(goal)
    return axis[:, None] if goal.d == 1 else torch.cartesian_prod(axis, axis)
