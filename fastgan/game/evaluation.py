"""How far a trained pair of networks is from the equilibrium.

D's expected error is 1/2 if p_g = p_t, for every D. It is also 1/2 for a D that gives the same value everywhere,
whatever p_g is. So the error is reported with a distance, and a D without a gradient is reported as dead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.game.atoms import Atoms, refuse_probabilities
from fastgan.game.densities import Density, Side, Source, read_pair
from fastgan.game.theory import error_rate, expected_absolute_error, jensen_shannon, total_variation
from fastgan.losses.adversarial import discriminator_value_and_grad
from fastgan.models import mlp


class Equilibrium(NamedTuple):
    """error: D's expected absolute error (soft); error_rate: with D >= 1/2 taken as "true" (hard). bound: (1 - TV) / 2,
    the error of the best D for this p_g. total_variation, jensen_shannon: distances of p_g from p_t. dead: D gives the
    generator no gradient. reached: the equilibrium, within the tolerances. verdict: the result in words."""

    error: float
    error_rate: float
    bound: float
    total_variation: float
    jensen_shannon: float
    dead: bool
    reached: bool
    verdict: str


def equilibrium(
    p_t: Source,
    p_g: Source,
    discriminator: Callable[[Tensor], Tensor],
    *,
    logits: bool = False,
    error_tolerance: float = 0.01,
    tolerance: float = 0.06,
    support=None,
    bins: int | None = None,
) -> Equilibrium:
    """Is this the equilibrium: p_g = p_t, and D right one time in two?

    p_t, p_g, support, bins: as in `total_variation`. discriminator, logits: as in `expected_absolute_error`.
    error_tolerance: the largest |error - 1/2|. tolerance: the largest total variation; for samples it must be above the
        value that equal distributions show by chance, which `fastgan.game.theory` states.
    """
    options = {"support": support, "bins": bins}
    error = expected_absolute_error(p_t, p_g, discriminator, logits=logits, support=support)
    rate = error_rate(p_t, p_g, discriminator, logits=logits, support=support)
    tv, js = total_variation(p_t, p_g, **options), jensen_shannon(p_t, p_g, **options)
    sides = read_pair(p_t, p_g, support)
    discrete = any(isinstance(side, Atoms) for side in sides)
    dead = is_dead(discriminator, _some_points(sides), discrete=discrete)
    near_half, near = abs(error - 0.5) <= error_tolerance, tv <= tolerance
    if near and near_half:
        verdict = "equilibrium: p_g is p_t, and D cannot tell"
    elif near:
        verdict = f"p_g is p_t, but D has an error of {error:.3f} and not 1/2 on this data"
    elif dead:
        verdict = f"dead discriminator: it gives no gradient, and p_g is at a total variation of {tv:.3f} from p_t"
    elif near_half:
        best = f"the best D has an error of {(1 - tv) / 2:.3f}"
        verdict = f"D cannot tell, but could: p_g is at a total variation of {tv:.3f}, {best}"
    else:
        verdict = f"not reached: p_g is at a total variation of {tv:.3f} from p_t"
    return Equilibrium(error, rate, (1 - tv) / 2, tv, js, dead, near and near_half, verdict)


def is_dead(discriminator: Callable[[Tensor], Tensor], x: Tensor, *, discrete: bool = False) -> bool:
    """Whether D gives no gradient at any of the points x: its gradient there is exactly 0, or its values are equal up
    to rounding. A small spread of logits does not make it dead: D at the equilibrium has one of 1e-4 and still has a
    gradient. A piecewise constant D whose values have no graph, as the best D of the absolute error, is dead if its
    values are equal.

    discriminator: points (N, ...) -> logits, or probabilities. x is moved to the dtype and device of a module.
    discrete: generated points cannot move, so that D's gradient means nothing: D is dead if its values are equal.
    """
    like = next(discriminator.parameters(), None) if isinstance(discriminator, nn.Module) else None
    x = x.detach() if like is None else x.detach().to(like)
    with torch.enable_grad():
        x = x.requires_grad_()
        out = discriminator(x)
        sloped = out.requires_grad and not discrete
        slope = torch.autograd.grad(out.sum(), x, allow_unused=True)[0] if sloped else None
    flat = sloped and (slope is None or bool((slope == 0).all()))
    low, high = out.detach().aminmax()
    rounding = 4 * torch.finfo(out.dtype).eps * max(-low, high).clamp(max=torch.finfo(out.dtype).max)
    return flat or bool((low == high) | (high - low <= rounding))


def _some_points(sides: tuple[Side, Side]) -> Tensor:
    """Points (n, d) where the two sides have their mass."""
    points = [side.landmarks if isinstance(side, Density) else side.points for side in sides]
    return torch.cat(
        [p[:2048] for p in points if p is not None]
        or [torch.linspace(-3, 3, 256, dtype=torch.float64, device="cpu")[:, None]]
    )


# ---- modes ----------------------------------------------------------------------------------------------------------


class ModeStatistics(NamedTuple):
    """covered: the number of modes with at least a fifth of their share of the samples within `radius` standard
    deviations. total: the number of modes. total_variation: of the shares, each sample counted for its nearest mode.
    within: the share of samples within `radius` standard deviations of a mode. shares: the share of each mode."""

    covered: int
    total: int
    total_variation: float
    within: float
    shares: Tensor


def mode_statistics(
    samples: Tensor, modes: Tensor, std: float | Tensor, weights: Tensor | None = None, radius: float = 3.0
) -> ModeStatistics:
    """Which modes of a mixture of Gaussians the samples cover, and how evenly.

    samples: (N, d), or (N,) in one dimension. modes: (K, d) or (K,), their centres. std: their standard deviation, one
        or K. weights: their shares, equal by default.

    For N samples of the target itself the total variation is about sqrt(K / (2 pi N)): 0.009 for 25 modes and 50,000.
    Of a 2-D Gaussian 1.1 % lie beyond three standard deviations.

    Raises ValueError for empty sets, different dimensions, and numbers that are not finite or above 1e150.
    """
    x = samples.detach().double().reshape(len(samples), -1)
    centres = modes.detach().to(x).reshape(len(modes), -1)
    if not len(x) or not len(centres):
        raise ValueError(f"samples: got {len(x)} samples and {len(centres)} modes, expected at least one of each")
    if x.shape[1] != centres.shape[1]:
        raise ValueError(f"samples: got {x.shape[1]} numbers a sample, expected {centres.shape[1]}, as in modes")
    for name, points in (("samples", x), ("modes", centres)):
        if not (points.abs() <= 1e150).all():  # the squares of larger ones are infinite
            raise ValueError(f"{name}: got a number of size {points.abs().max():.3g}, expected at most 1e150")
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device).expand(len(centres))
    if not (std > 0).all():
        raise ValueError(f"std: got {std.min().item():.3g}, expected numbers > 0")
    k = len(centres)
    share = x.new_full((k,), 1 / k) if weights is None else weights.to(x) / weights.sum()
    near = torch.cdist(x, centres).min(1)
    inside = near.values <= radius * std[near.indices]
    count = torch.bincount(near.indices, minlength=k).double() / len(x)
    high_quality = torch.bincount(near.indices[inside], minlength=k).double() / len(x)
    return ModeStatistics(
        covered=int((high_quality >= share / 5).sum()),
        total=k,
        total_variation=((count - share).abs().sum() / 2).item(),
        within=inside.double().mean().item(),
        shares=count.float(),
    )


# ---- a fresh discriminator ------------------------------------------------------------------------------------------


class TwoSampleTest(NamedTuple):
    """error: of a fresh D on data that it was not trained on, 1/2 if it cannot tell. p_value: the probability of an
    error at least as small as this if D guesses."""

    error: float
    p_value: float


def two_sample_test(real: Tensor, fake: Tensor, *, steps: int = 500, batch: int = 256, seed: int = 0) -> TwoSampleTest:
    """Can a new discriminator tell the two sets apart? (Lopez-Paz and Oquab 2017)

    real, fake: (N, d) or (N,) each. Half of each trains a multi-layer perceptron of two layers of 64, with the fused
    cross-entropy, the other half tests it; 1 to 2 CPU seconds. It misses narrow modes: on a ring at a total variation
    of 0.23 a fresh D had an error of 0.5.
    """
    sides = []
    for name, points in (("real", real), ("fake", fake)):
        if points.dim() not in (1, 2) or len(points) < 4:
            raise ValueError(
                f"{name}: got shape {tuple(points.shape)}, expected (N,) or (N, d) with at least 4 samples"
            )
        if not points.isfinite().all():
            raise ValueError(f"{name}: got samples with NaN or infinity, expected finite ones")
        refuse_probabilities(name, points)
        sides.append(points.detach().double().cpu().reshape(len(points), -1))
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"fake: got {sides[1].shape[1]} numbers a sample, expected {sides[0].shape[1]}, as in real")
    pooled = torch.cat(sides)
    largest = pooled.abs().amax(0).clamp(min=torch.finfo(torch.float64).tiny)  # the square of 1e200 overflows
    sides, pooled = [side / largest for side in sides], pooled / largest
    sides = [((side - pooled.mean(0)) / pooled.std(0).clamp(min=1e-12)).float() for side in sides]
    random = torch.Generator("cpu").manual_seed(seed)
    sides = [side[torch.randperm(len(side), generator=random, device="cpu")] for side in sides]
    train, test = [s[: len(s) // 2] for s in sides], [s[len(s) // 2 :] for s in sides]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        d = mlp(pooled.shape[1], 1, width=64, depth=2).float()
    optimizer = torch.optim.Adam(d.parameters(), lr=2e-3, fused=True)
    for _ in range(steps):
        logits = [d(s[torch.randint(len(s), (batch,), generator=random, device="cpu")]) for s in train]
        optimizer.zero_grad()
        torch.autograd.backward(logits, [*discriminator_value_and_grad(*logits, weight=0.5).grads])
        optimizer.step()
    with torch.no_grad():
        wrong = [(d(test[0]) < 0).double(), (d(test[1]) >= 0).double()]
    error = (wrong[0].mean() + wrong[1].mean()).item() / 2
    spread = math.sqrt(0.25 * (1 / len(test[0]) + 1 / len(test[1]))) / 2
    return TwoSampleTest(error, 0.5 * math.erfc((0.5 - error) / spread / math.sqrt(2)))
