"""The named targets of `fastgan game`: one Gaussian and two in one dimension, a ring of 8 and a grid of 25 in two."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

NAMES = ("gaussian", "mixture", "ring", "grid")


class Target(NamedTuple):
    """A mixture of Gaussians with the same standard deviation, normalised to zero mean and unit scale (the root mean
    square over all coordinates). modes: (K, d); weights: (K,)."""

    name: str
    modes: Tensor
    std: float
    weights: Tensor

    @property
    def d(self) -> int:
        return self.modes.shape[1]

    @property
    def distribution(self) -> Distribution:
        """In float64; for d = 1 a distribution of scalars."""
        mixture = Categorical(self.weights.double())
        modes = self.modes.double()
        if self.d == 1:
            return MixtureSameFamily(mixture, Normal(modes[:, 0], self.std))
        return MixtureSameFamily(mixture, Independent(Normal(modes, self.std), 1))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n samples, (n, d) float32 on the generator's device."""
        device = generator.device
        which = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.d, generator=generator, device=device, dtype=torch.float32)
        return self.modes.to(device)[which] + self.std * noise

    def cells(self, x: Tensor, count: int = 32) -> Tensor:
        """The index of the cell of each point (N, d). Each mode has `count` cells, each with a share weight / count of
        p_t: in one dimension intervals between quantiles, in two dimensions 4 distances from the mode times `count` / 4
        directions. Points more than 5 standard deviations from every mode are in the last cell, K `count`, which has no
        mass of p_t."""
        x = x.detach().double().cpu()
        offset = x[:, None] - self.modes.double()
        nearest = offset.square().sum(2).argmin(1)
        offset = offset[torch.arange(len(x), device="cpu"), nearest] / self.std
        if self.d == 1:
            inner = (torch.special.ndtr(offset[:, 0]) * count).long()
        else:
            ring = ((1 - (-offset.square().sum(1) / 2).exp()) * 4).long().clamp(max=3)
            turn = torch.atan2(offset[:, 1], offset[:, 0]) / (2 * math.pi) + 0.5
            inner = ring * (count // 4) + (turn * (count // 4)).long().clamp(max=count // 4 - 1)
        far = offset.square().sum(1) > 5**2
        return torch.where(far, len(self.modes) * count, nearest * count + inner.clamp(max=count - 1))

    def divergences(self, x: Tensor, count: int = 32) -> tuple[float, float]:
        """(TV, JSD) between p_t and the distribution of the points, over the cells; differences inside a cell are not
        seen. For N points of the target itself TV is about sqrt(cells / (2 pi N))."""
        cells = len(self.modes) * count
        p_g = torch.bincount(self.cells(x, count), minlength=cells + 1).double() / len(x)
        p_t = torch.cat(
            [
                (self.weights.double() / count).repeat_interleave(count),
                x.new_zeros(1, dtype=torch.float64, device="cpu"),
            ]
        )
        m = ((p_t + p_g) / 2).clamp(min=1e-300)
        js = (torch.xlogy(p_t, p_t / m) + torch.xlogy(p_g, p_g / m)).sum() / 2
        return ((p_t - p_g).abs().sum() / 2).item(), max(js.item(), 0.0)


def target(name: str) -> Target:
    """gaussian: one Gaussian. mixture: 0.4 N(-2, 0.5^2) + 0.6 N(2, 0.5^2). ring: 8 of std 0.02 on the unit circle.
    grid: 25 of std 0.05, spaced by 2. Then shifted and scaled to zero mean and unit scale."""
    if name == "gaussian":
        return _normalised(name, [[0.0]], 1.0)
    if name == "mixture":
        return _normalised(name, [[-2.0], [2.0]], 0.5, [0.4, 0.6])
    if name == "ring":
        angle = torch.arange(8, device="cpu", dtype=torch.float32) * (2 * math.pi / 8)
        return _normalised(name, torch.stack([angle.cos(), angle.sin()], 1), 0.02)
    if name == "grid":
        side = torch.linspace(-4, 4, 5, device="cpu", dtype=torch.float32)
        return _normalised(name, torch.cartesian_prod(side, side), 0.05)
    raise ValueError(f"PAIR: got {name!r}, expected one of {', '.join(NAMES)}")


def _normalised(name: str, modes: Tensor | list, std: float, weights: list | None = None) -> Target:
    """The target of zero mean and unit scale, on the CPU and in float32 whatever torch's defaults are."""
    modes = torch.as_tensor(modes, dtype=torch.float32, device="cpu")
    shares = torch.as_tensor(weights or [1 / len(modes)] * len(modes), dtype=torch.float32, device="cpu")
    modes = modes - shares @ modes
    scale = math.sqrt((shares @ modes.square()).mean().item() + std**2)
    return Target(name, modes / scale, std / scale, shares)
