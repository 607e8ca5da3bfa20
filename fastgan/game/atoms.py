"""Discrete distributions: masses at finitely many points, in float64 on the CPU.

A tensor does not show whether it holds samples or probabilities. Probabilities of the points 0 to K - 1 are given as
`torch.distributions.Categorical(p)`. A tensor holds samples; one that could also hold probabilities is refused
(`refuse_probabilities`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, OneHotCategorical


class Atoms:
    """points: (K, d), all different. mass: (K,), adding up to one."""

    def __init__(self, name: str, points: Tensor, mass: Tensor):
        self.name, self.points, self.mass = name, points, mass

    @property
    def d(self) -> int:
        return self.points.shape[1]


def of_distribution(name: str, distribution: Distribution) -> Atoms:
    """The atoms of a distribution with float64 parameters. Raises ValueError if there are infinitely many."""
    if isinstance(distribution, OneHotCategorical):
        mass = distribution.probs.reshape(-1)
        return Atoms(name, torch.eye(len(mass), dtype=torch.float64), mass)
    if isinstance(distribution, Categorical):
        mass = distribution.probs.reshape(-1)
    elif isinstance(distribution, Bernoulli):
        p = distribution.probs.reshape(())
        mass = torch.stack([1 - p, p])
    elif isinstance(distribution, Binomial):
        n, p = int(distribution.total_count.reshape(())), distribution.probs.reshape(())
        k = torch.arange(n + 1, dtype=torch.float64, device="cpu")
        ways = torch.lgamma(k.new_tensor(n + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        mass = (ways + torch.xlogy(k, p) + torch.xlogy(n - k, 1 - p)).exp()
    else:
        raise ValueError(
            f"{name}: got {type(distribution).__name__}, which is discrete, expected one with a density, or a "
            "Categorical, OneHotCategorical, Bernoulli or Binomial"
        )
    return Atoms(name, torch.arange(len(mass), dtype=torch.float64, device="cpu")[:, None], mass)


def mass_at(side, x: Tensor) -> Tensor:
    """The mass of `side` at each of the points x (n, d), 0 without an atom there. side: Atoms, or N Samples of mass 1/N
    each."""
    count = len(side.points)
    _, index = torch.unique(torch.cat([side.points, x.detach()]), dim=0, return_inverse=True)
    mass = side.mass if isinstance(side, Atoms) else None
    table = torch.bincount(index[:count], mass, minlength=int(index.max()) + 1).double()
    return table[index[count:]] / (1 if mass is not None else count)


def shared_masses(t, g) -> tuple[Tensor, Tensor]:
    """The masses of both sides at every point where either has one."""
    points = torch.unique(torch.cat([t.points, g.points]), dim=0)
    return mass_at(t, points), mass_at(g, points)


def refuse_probabilities(name: str, values: Tensor) -> None:
    """Raises ValueError if a tensor (N,), or every row of a tensor (N, d), could be probabilities: several numbers >= 0
    that add up to one. A tensor (N, 1) is always accepted, and so are one-hot rows: samples of a OneHotCategorical."""
    rows = values.detach()[None] if values.dim() == 1 else values.detach()
    if not values.is_floating_point() or rows.dim() != 2 or not len(rows) or rows.shape[1] < 2:
        return
    tolerance = max(1e-3, 4 * torch.finfo(values.dtype).eps)
    rows = rows.double()
    if not ((rows >= 0).all() and ((rows.sum(1) - 1).abs() <= tolerance).all()):
        return
    if values.dim() == 2 and ((rows == 0) | (rows == 1)).all():
        return
    if values.dim() == 1:
        raise ValueError(
            f"{name}: got {len(values)} numbers that add up to 1; if they are probabilities, give "
            f"torch.distributions.Categorical(p), if they are samples, give them in shape ({len(values)}, 1)"
        )
    raise ValueError(
        f"{name}: got rows of {rows.shape[1]} numbers that add up to 1; if they are probabilities, give one row as "
        "torch.distributions.Categorical(p), if they are samples, leave out one number, which the others determine"
    )
