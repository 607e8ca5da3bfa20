"""The game played: a generator trained on a named target, with a discriminator or directly, and watched.

What is measured beside the losses is what the theory speaks of: D's expected error, how far p_g is from p_t, and with
it the error that the best D would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import models
from fastgan.formulas.objectives import find
from fastgan.game.evaluation import is_dead, mode_statistics, two_sample_test
from fastgan.game.targets import Target, target
from fastgan.losses.adversarial import discriminator_loss
from fastgan.training.trainer import GANTrainer

# Measured on the four targets, see the README: non-saturating with R1, or a relativistic pairing with R1 and R2.
PENALTIES = {"relativistic": (0.1, 0.1), "absolute_error": (0.1, 0.1), "mmd": (0.0, 0.0)}
R1_ALONE = (0.1, 0.0)
STEPS = {"gaussian": 3_500, "mixture": 3_500, "ring": 10_000, "grid": 10_000}
OWN = {"grid": {"latent_dim": 2}}  # as many as the samples have: with 8 numbers the grid takes 12,000 steps
# At one pace the modes of p_g swing about those of p_t: a TV of 0.03 or 0.13 by the seed. A faster D damps them.
OWN_ADVERSARIAL = {"mixture": {"steps": 7_000, "batch": 512, "width": 64, "lr": 4e-3, "pace": 0.2}}
# Of D's loss at the equilibrium, and what to weigh its two sides with for it.
LOSS_AT_EQUILIBRIUM = {
    "minimax": (0.5, math.log(2)),
    "nonsaturating": (0.5, math.log(2)),
    "relativistic": (1.0, math.log(2)),
    "absolute_error": (1.0, 0.5),
    "hinge": (0.5, 1.0),
    "least_squares": (0.5, 0.25),
}
FRAMES = 30
WATCHED = 2**14  # samples a measurement while training
MEASURED = 50_000  # at the end
SHOWN = {1: 20_000, 2: 2_000}  # in a picture, by dimension: a histogram of few is ragged


class Settings(NamedTuple):
    """All that a run is made of. seconds: stop there even where `steps` are not done; the learning rate falls to zero
    along a cosine over whichever is reached first. pace: G's learning rate over D's. bandwidths: of MMD, in units of
    the target's scale."""

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
    """A moment of the training, for the pictures. points: (N, d) of the averaged generator. d: D(x) on `grid_points`,
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
    """The recipe of a target and an objective, with what is `given` (and is not None) in its place."""
    objective = objective or "nonsaturating"
    r1, r2 = PENALTIES.get(objective, R1_ALONE)
    recipe = {"steps": STEPS[pair], "r1": r1, "r2": r2, "bandwidths": bandwidths_for(target(pair)), **OWN.get(pair, {})}
    if objective != "mmd":
        recipe.pop("bandwidths")
    if objective == "nonsaturating":
        recipe |= OWN_ADVERSARIAL.get(pair, {})
    return Settings(pair, objective, **recipe | {name: value for name, value in given.items() if value is not None})


def bandwidths_for(goal: Target) -> tuple[float, ...]:
    """From the width of a mode to the size of the whole, a factor of 2 between."""
    count = max(1, math.ceil(math.log2(1 / goal.std)) + 1)
    return tuple(round(goal.std * 2.0**i, 6) for i in range(count + 1))


def make_trainer(settings: Settings) -> GANTrainer:
    torch.manual_seed(settings.seed)  # of the networks' first weights
    d = target(settings.pair).d
    with torch.device("cpu"):  # and not where torch's default is
        pair = models.build((d,), settings.latent_dim, settings.width)
    generator, discriminator = (network.float() for network in pair)
    names = ("latent_dim", "objective", "lr", "seed", "device")
    options = {name: getattr(settings, name) for name in names} | {"betas": (0.0, 0.99), "ema_decay": 0.999}
    options |= {"r1": settings.r1, "r2": settings.r2, "bandwidths": settings.bandwidths or None}
    return GANTrainer(generator, None if settings.objective == "mmd" else discriminator, **options)


def play(
    settings: Settings, on_step: Callable[[int], None] = lambda step: None, stop: Callable[[], bool] = lambda: False
) -> Played:
    """Train, and measure at `FRAMES` moments that lie the closer the earlier they are.

    on_step: called after each step. stop: asked before each; True ends the training, at the earliest after one step,
    and what there is is measured.
    Raises FloatingPointError where the training diverges."""
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

    average: of the averaged generator, which sampling uses, and not the one that D plays against."""
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
    real, fake = logits(trainer, x_t, x_g)
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


def logits(trainer: GANTrainer, x_t: Tensor, x_g: Tensor) -> tuple[Tensor, Tensor]:
    """D's, of both sides. Those of a relativistic pairing mean something up to a constant only: centred."""
    real, fake = trainer.discriminator(x_t)[:, 0], trainer.discriminator(x_g)[:, 0]
    middle = (real.mean() + fake.mean()) / 2 if relativistic(trainer) else 0.0
    return real - middle, fake - middle


def relativistic(trainer: GANTrainer) -> bool:
    return trainer.discriminator is not None and find(trainer.objective).relation is not None


@torch.no_grad()
def frame(trainer: GANTrainer, goal: Target, random: torch.Generator) -> Frame:
    points = generated(trainer, SHOWN[goal.d], random, average=True)
    if trainer.discriminator is None:
        return Frame(trainer.step_number, points.cpu(), None)
    x = grid_points(goal).to(trainer.device)
    middle = 0.0
    if relativistic(trainer):
        middle = sum(trainer.discriminator(side).mean() for side in (points, goal.draw(len(points), random))) / 2
    return Frame(trainer.step_number, points.cpu(), (trainer.discriminator(x)[:, 0] - middle).sigmoid().cpu())


def grid_axis(goal: Target) -> Tensor:
    """Where pictures look: three standard deviations beyond the outermost modes, and more in one dimension."""
    reach = goal.modes.abs().max().item() + (4 if goal.d == 1 else 12) * goal.std
    return torch.linspace(-reach, reach, 241 if goal.d == 1 else 121, device="cpu", dtype=torch.float32)


def grid_points(goal: Target) -> Tensor:
    axis = grid_axis(goal)
    return axis[:, None] if goal.d == 1 else torch.cartesian_prod(axis, axis)
