"""Integrals over boxes of one or two dimensions: Gauss-Legendre rules on cells, which are halved until they are exact.

Kinks (|p_t - p_g| where the densities cross) and jumps (the edges of a uniform density) need no special treatment: the
cells next to them become geometrically smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

NODES = {1: 10, 2: 8}  # a side of a cell
TOLERANCE = {1: 1e-12, 2: 1e-8}  # of one cell
LEVELS = {1: 32, 2: 20}  # how often a cell can be halved
MOST_CELLS = 2**18
_POINTS = 2**14  # evaluated at a time
_PROBE = 1e-7  # distance of the probes from a cell's corners, relative to its sides


def integrate(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, float]:
    """The integrals of `f` over the cells [low, high], and an estimate of the error of their sum.

    f: (n, d) float64 points -> (n, k) values. low, high: (cells, d) with d 1 or 2. Returns ((cells, k), error).

    A cell is done if its rule and the sum over its halves (in 2-D its quarters) differ by less than `TOLERANCE`, and if
    the rule's polynomial predicts `f` near the cell's corners: no rule sees a jump between a side and the outermost
    node. The result uses the sum, the better of the two. Jumps of a 2-D integrand leave an error of about 1e-5, kinks
    one of 1e-7.
    """
    d = low.shape[1]
    root = torch.arange(len(low), device=low.device)
    whole, _ = _rule(f, low, high)
    total, error, evaluated = torch.zeros_like(whole), 0.0, len(low)
    for level in range(LEVELS[d] + 1):
        child_low, child_high = _children(low, high)
        parts, unseen = (each.view(len(low), 2**d, -1) for each in _rule(f, child_low, child_high))
        difference = (parts.sum(1) - whole).abs().amax(1)
        evaluated += len(child_low)
        exact = ~(difference > TOLERANCE[d]) & ~(unseen.amax((1, 2)) > TOLERANCE[d])
        done = torch.ones_like(exact) if level == LEVELS[d] or evaluated > MOST_CELLS else exact
        total.index_add_(0, root[done], parts[done].sum(1))
        error += difference[done].sum().item()
        if done.all():
            break
        open_cells = ~done
        low, high = (side.view(len(low), 2**d, d)[open_cells].flatten(0, 1) for side in (child_low, child_high))
        whole, root = parts[open_cells].flatten(0, 1), root[open_cells].repeat_interleave(2**d)
    return total, error


def boxes(edges: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The corners (low, high), (cells, d) each, of the cells between the `edges` of each dimension; the last dimension
    varies fastest."""
    low = torch.cartesian_prod(*(edge[:-1] for edge in edges)).reshape(-1, len(edges))
    high = torch.cartesian_prod(*(edge[1:] for edge in edges)).reshape(-1, len(edges))
    return low, high


def _rule(f, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The integrals (cells, k), and the error (cells, k) that a jump beyond the outermost nodes may cause."""
    points, weights, predict, margin = _nodes(low.shape[1])
    nodes, values, unseen = len(weights), [], []
    for a, b in zip(low.split(_POINTS // len(points)), high.split(_POINTS // len(points))):
        size = b - a
        x = a[:, None] + size[:, None] * points  # (cells, nodes and probes, d)
        y = f(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        volume = size.prod(1, keepdim=True)
        values.append((y[:, :nodes] * weights[:, None]).sum(1) * volume)
        jump = (predict @ y[:, :nodes] - y[:, nodes:]).abs().nan_to_num(0.0, posinf=0.0)  # a pole is no jump
        unseen.append(jump.amax(1) * volume * margin)
    return torch.cat(values), torch.cat(unseen)


@cache
def _nodes(d: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """For the unit box: nodes and probes (n + 2^d, d), weights (n,), the matrix (2^d, n) that predicts values at the
    probes from values at the nodes, and the share of a side that lies beyond the outermost node."""
    x, w = np.polynomial.legendre.leggauss(NODES[d])
    x, w, probes = (x + 1) / 2, w / 2, [_PROBE, 1 - _PROBE]
    lagrange = [[np.prod([(p - b) / (a - b) for b in x if b != a]) for a in x] for p in probes]

    def every(one) -> Tensor:
        return torch.tensor(list(product(one, repeat=d)), dtype=torch.float64, device="cpu")

    predict = torch.stack([torch.tensor(list(product(*rows)), dtype=torch.float64, device="cpu").prod(1)
                           for rows in product(lagrange, repeat=d)])  # fmt: skip
    return torch.cat([every(x), every(probes)]), every(w).prod(1), predict, float(x[0])


def _children(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    d, middle = low.shape[1], (low + high) / 2
    upper = torch.tensor(list(product((False, True), repeat=d)), device=low.device)  # (2^d, d)
    child_low = torch.where(upper, middle[:, None], low[:, None])
    child_high = torch.where(upper, high[:, None], middle[:, None])
    return child_low.flatten(0, 1), child_high.flatten(0, 1)
