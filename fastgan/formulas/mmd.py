"""Maximum mean discrepancy: the settings of a loss, and its second derivative."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

DIFFERENCES_UP_TO = 4  # dimensions: there, differences cost no more than products
_CUBE = 1 << 20  # numbers of a block of the second derivative: rows x columns x dimensions


class MMDSettings(NamedTuple):
    """All arguments of a loss except its samples. bandwidths: in falling order; none for the energy distance."""

    kernel: str
    bandwidths: tuple[float, ...]
    alpha: float
    unbiased: bool
    target: bool
    weight: float
    precision: str

    def differences(self, d: int) -> bool:
        return self.precision == "exact" or (self.precision == "fp32" and d <= DIFFERENCES_UP_TO)

    def pairs(self, n: int) -> int:
        """How many pairs count within a sample of n."""
        return n * (n - self.unbiased)

    def powers(self) -> tuple[bool, ...]:
        """Which Gaussians are computed as the fourth power of the one before, whose bandwidth is twice as large: at
        most two in a row, since each power multiplies the relative error by four."""
        powers: list[bool] = []
        if self.kernel == "gaussian":
            for b, s in enumerate(self.bandwidths):
                powers.append(b > 0 and 2 * s == self.bandwidths[b - 1] and powers[-2:] != [True, True])
        return tuple(powers)


def second_order(x: Tensor, y: Tensor, v: Tensor, u: Tensor, settings: MMDSettings) -> tuple[Tensor, Tensor, Tensor]:
    """(P, dP/dx, dP/dy) of P = v . dL/dx + u . dL/dy, with operators that autograd differentiates.

    P = sum_ij c_ij K'(D_ij) (a_i - b_j) . (v_i - u_j), so that dP/da_i is the sum over j of
    c_ij ( 2 K'' (a_i - b_j) . (v_i - u_j) (a_i - b_j) + K' (v_i - u_j) ), and dP/db_j is minus the sum over i.
    """
    (n, d), m = x.shape, len(y)
    samples, moves = (x, y), (v, u)
    terms = [(2 / settings.pairs(n), 0, 0), (-4 / (n * m), 0, 1)]
    if settings.target:
        terms.append((2 / settings.pairs(m), 1, 1))
    along: Any = 0.0
    grads = [torch.zeros_like(x), torch.zeros_like(y)]
    for share, i, j in terms:
        (a, va), (b, vb) = (samples[i], moves[i]), (samples[j], moves[j])
        rows, parts = max(1, _CUBE // (len(b) * d)), []
        for begin in range(0, len(a), rows):
            apart = a[begin : begin + rows, None] - b
            moving = va[begin : begin + rows, None] - vb
            first, second = derivatives(apart.square().sum(-1), settings)
            dots = (apart * moving).sum(-1)
            along = along + settings.weight * share * (first * dots).sum()
            pull = (2 * second * dots)[..., None] * apart + first[..., None] * moving
            parts.append(settings.weight * share * pull.sum(1))
            grads[j] = grads[j] - settings.weight * share * pull.sum(0)
        grads[i] = grads[i] + torch.cat(parts)
    return along, grads[0], grads[1]


def derivatives(D: Tensor, settings: MMDSettings) -> tuple[Tensor, Tensor]:
    """(K', K'') at squared distances."""
    if settings.kernel == "energy":
        apart = D > 0
        inverse = torch.where(apart, torch.where(apart, D, 1.0).rsqrt(), torch.where(D == 0, 0.0, D * torch.nan))
        return -0.5 * inverse, 0.25 * inverse**3
    first: Any = 0.0
    second: Any = 0.0
    for s in settings.bandwidths:
        rate, a = 1 / (2 * s * s), settings.alpha
        if settings.kernel == "gaussian":
            k = torch.exp(-rate * D)
            first, second = first - rate * k, second + rate * rate * k
        else:
            base = 1 + (rate / a) * D
            first = first - rate * base ** (-a - 1)
            second = second + (rate * rate * (a + 1) / a) * base ** (-a - 2)
    return first, second
