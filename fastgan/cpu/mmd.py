"""Maximum mean discrepancy in blocks of pairs that stay in cache, in place: see `kernels.mmd`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.formulas.mmd import DIFFERENCES_UP_TO, MMDSettings
from fastgan.formulas.terms import widen

_ROWS, _COLUMNS = 256, 512  # pairs of a block: its few buffers stay in cache


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float],
    kernel: str,
    *,
    alpha: float = 1.0,
    powers: tuple[bool, ...] = (),
    unbiased: bool = False,
    target: bool = True,
    weight: float = 1.0,
    precision: str = "exact",
    value: bool = True,
    of_x: bool = False,
    of_y: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(L, means, gradient at x, gradient at y); the arguments and results of `kernels.mmd`."""
    settings = MMDSettings(kernel, tuple(bandwidths), alpha, unbiased, target, weight, precision)
    p, q = (widen(s.detach()).contiguous() for s in (x, y))
    (n, d), m = p.shape, len(q)
    blocks = _Blocks(settings, powers, d, p, value, of_x or of_y)
    middle = torch.cat((p.mean(0, keepdim=True), q.mean(0, keepdim=True))).mean(0)
    if not blocks.differences:
        blocks.set_floor(max((s - middle).square().sum(1).max().item() for s in (p, q)))
    a, b = _Sample(p, middle, blocks), _Sample(q, middle, blocks)
    del p, q  # copies of x and y, if those are not float32 or float64
    zero = a.points.new_zeros((), dtype=torch.float64)
    xx = xy = yy = zero
    with torch.no_grad():
        if value or of_x:
            xx = blocks.within(a, m / (n - settings.unbiased), of_x)
        xy = blocks.across(a, b, of_x, of_y)
        if settings.target and (value or of_y):
            yy = blocks.within(b, n / (m - settings.unbiased), of_y)
    rate = 4 * settings.weight * factor / (n * m)
    share = rate if scale is None else rate * scale.to(a.points.dtype)
    grad_x = a.gradient().mul_(share).to(x.dtype) if of_x else None
    grad_y = b.gradient().mul_(share).to(y.dtype) if of_y else None
    if not value:
        return None, None, grad_x, grad_y
    xx, xy, yy = xx / settings.pairs(n), xy / (n * m), yy / settings.pairs(m) if settings.target else zero
    loss = settings.weight * (xx - 2 * xy + yy)
    means = torch.stack((xx, xy, yy))
    return loss.to(a.points.dtype), means.to(a.points.dtype), grad_x, grad_y


class _Sample:
    """Points, and a sum at each: with differences the gradient, with products sum_j w_ij (b_j, 1)."""

    def __init__(self, points: Tensor, middle: Tensor, blocks: _Blocks):
        self.differences = blocks.differences
        self.columns = points.T.contiguous()  # (d, n): each coordinate is contiguous
        if self.differences:
            self.points = points
            self.sums = torch.zeros_like(self.columns)
        else:  # left @ right.T is `blocks.rate` times a squared distance
            centred, ones, d = points - middle, points.new_ones((len(points), 1)), points.shape[1]
            squares = centred.square().sum(1, keepdim=True)
            self.right = torch.cat((centred, ones, squares), 1)
            self.left = torch.cat((centred, squares, ones), 1).mul_(blocks.rate)
            self.left[:, :d].mul_(-2.0)
            self.points, self.with_one = self.right[:, :d], self.right[:, : d + 1]
            self.sums = torch.zeros_like(self.with_one, memory_format=torch.contiguous_format)

    def gradient(self) -> Tensor:
        if self.differences:
            return self.sums.T.contiguous()
        return (self.sums[:, -1:] * self.points).sub_(self.sums[:, :-1])

    def add_difference(self, k: int, rows: slice, sums: Tensor, ratio: float) -> None:
        """Add ratio * sums to coordinate k of the gradient of some points."""
        if self.differences:
            self.sums[k, rows].add_(sums, alpha=ratio)
        else:
            self.sums[rows, k].sub_(sums, alpha=ratio)


class _Blocks:
    """Walk over the pairs of two samples in blocks; add up the kernel values, and the sums of each `_Sample`."""

    def __init__(self, settings: MMDSettings, powers: tuple[bool, ...], d: int, like: Tensor, value: bool, slope: bool):
        self.settings, self.value, self.slope = settings, value, slope
        self.differences, self.powers = settings.differences(d), powers
        kernels = {"gaussian": self._gaussian, "rational_quadratic": self._rational, "energy": self._energy}
        self.kernel = kernels[settings.kernel]
        a = 1.0 if settings.kernel == "gaussian" else settings.alpha
        self.rates = [1 / (2 * a * s * s) for s in settings.bandwidths]
        self.rate = -self.rates[0] if settings.kernel == "gaussian" else 1.0  # what `distances` multiplies by
        kept = d if self.differences and d <= DIFFERENCES_UP_TO else 1
        self.scratch = [like.new_empty(_ROWS * _COLUMNS) for _ in range(4 + kept)]
        self.floor = 0.0

    def set_floor(self, largest: float) -> None:
        """Set `floor`, the smallest squared distance for products, from the largest one to the middle, R^2. If that is
        NaN or too large, choose differences.

        By products a squared distance D is off by up to 8 eps (2 R)^2 = 2^-19 R^2, and a kernel of bandwidth s by that
        divided by 2 s^2 + D: at most 2^-7 if D >= `floor`. A block with a smaller D uses differences."""
        narrowest = min(self.settings.bandwidths, default=0.0)
        self.floor = max(0.0, largest * 2**-12 - 2 * narrowest**2)
        self.differences = not largest < 1e36  # or NaN

    def within(self, a: _Sample, ratio: float, gradient: bool) -> Tensor:
        """Sum of k over the pairs within a sample; each pair of blocks is computed once."""
        squares, others = [], []
        n = len(a.points)
        for begin in range(0, n, _ROWS):
            rows = slice(begin, min(begin + _ROWS, n))
            squares.append(self._block(a, rows, a, rows, ratio, gradient, False, diagonal=True))
            for column in range(rows.stop, n, _COLUMNS):
                columns = slice(column, min(column + _COLUMNS, n))
                others.append(self._block(a, rows, a, columns, ratio, gradient, gradient))
        return self._total(squares) + 2 * self._total(others)

    def across(self, a: _Sample, b: _Sample, of_a: bool, of_b: bool) -> Tensor:
        sums = []
        for begin in range(0, len(a.points), _ROWS):
            rows = slice(begin, min(begin + _ROWS, len(a.points)))
            for column in range(0, len(b.points), _COLUMNS):
                columns = slice(column, min(column + _COLUMNS, len(b.points)))
                sums.append(self._block(a, rows, b, columns, -1.0, of_a, of_b))
        return self._total(sums)

    def _total(self, sums: list[Tensor]) -> Any:
        """Their sum in float64, a 0-d tensor; the number 0.0 if there are none or no value is requested."""
        return torch.stack(sums).sum(dtype=torch.float64) if self.value and sums else 0.0

    def _block(self, a, rows: slice, b, columns: slice, ratio: float, of_a: bool, of_b: bool, diagonal: bool = False):
        """Sum of k over the block; add ratio times the weights to the sums of its rows, its columns, or both."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        D, E, F, W, *apart = [buffer[: shape[0] * shape[1]].view(shape) for buffer in self.scratch]
        differences = self._distances(a, rows, b, columns, D, E, apart, diagonal)
        slope = of_a or of_b
        total = self.kernel(D, E, F, W, slope, diagonal and self.settings.unbiased)
        if slope and differences:
            self._differences(a, rows, b, columns, W, E, apart, ratio, of_a, of_b)
        elif slope:
            if of_a:
                a.sums[rows].addmm_(W, b.with_one[columns], alpha=ratio)
            if of_b:
                b.sums[columns].addmm_(W.T, a.with_one[rows], alpha=ratio)
        return total

    def _distances(self, a, rows, b, columns, D, E, apart, diagonal: bool) -> bool:
        """Fill D with rate |a_i - b_j|^2; return whether by differences, which up to 4 dimensions stay in `apart`."""
        if not self.differences:
            torch.mm(a.left[rows], b.right[columns].T, out=D)
            if diagonal and self.floor:  # a point's distance to itself does not count
                D.fill_diagonal_(self.rate * math.inf)
            nearest = (D.max() if self.rate < 0 else D.min()) / self.rate if self.floor else 0.0
            if nearest >= self.floor:
                D.clamp_(max=0.0) if self.rate < 0 else D.clamp_(min=0.0)
                if diagonal:
                    D.fill_diagonal_(0.0)
                return False
        for k, (p, q) in enumerate(zip(a.columns, b.columns)):
            t = apart[k] if len(apart) > k else apart[0]
            torch.sub(p[rows, None], q[columns], out=t)
            if k == 0:
                torch.mul(t, t, out=D)
            else:
                D.addcmul_(t, t)
        if self.rate != 1.0:
            D.mul_(self.rate)
        return True

    def _differences(self, a, rows, b, columns, W, E, apart, ratio, of_a, of_b) -> None:
        for k, (p, q) in enumerate(zip(a.columns, b.columns)):
            kept = len(apart) == len(a.columns)
            t = apart[k] if kept else torch.sub(p[rows, None], q[columns], out=apart[0])
            torch.mul(W, t, out=E)
            if of_a:
                a.add_difference(k, rows, E.sum(1), ratio)
            if of_b:
                b.add_difference(k, columns, E.sum(0), -ratio)

    # (D, two buffers, W, whether to fill W with K', whether the diagonal counts as 0) -> sum of k

    def _gaussian(self, D, E, F, W, slope, hollow):
        if hollow:
            D.fill_diagonal_(-math.inf)
        total = 0.0
        for b, rate in enumerate(self.rates):
            if self.powers[b]:
                E.square_().square_()
            else:
                torch.exp(D if b == 0 else torch.mul(D, rate / self.rates[0], out=E), out=E)
            if self.value:
                total = total + E.sum()
            if slope:
                torch.mul(E, -rate, out=W) if b == 0 else W.add_(E, alpha=-rate)
        return total

    def _rational(self, D, E, F, W, slope, hollow):
        total, a = 0.0, self.settings.alpha
        for b, rate in enumerate(self.rates):
            torch.mul(D, rate, out=E).add_(1.0)
            torch.reciprocal(E, out=F) if a == 1.0 else torch.pow(E, -a, out=F)
            if hollow:
                F.fill_diagonal_(0.0)
            if self.value:
                total = total + F.sum()
            if slope:
                E = torch.div(F, E, out=E)
                torch.mul(E, -a * rate, out=W) if b == 0 else W.add_(E, alpha=-a * rate)
        return total

    def _energy(self, D, E, F, W, slope, hollow):
        torch.sqrt(D, out=E)
        total = -E.sum() if self.value else 0.0
        if slope:
            torch.reciprocal(E, out=W).mul_(-0.5).masked_fill_(D == 0, 0.0)
        return total
