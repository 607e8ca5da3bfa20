"""The criteria in PyTorch: a scalar loss phi(x, y) of a logit x and its label y, its slope and its curvature in x.

The Triton form of each, with its source, is in `kernels/criteria.py`; a new criterion is a function there and three
lines here. These serve tensors that no kernel runs on, second derivatives, `vmap` and losses that are not reduced.

If a criterion distinguishes only real and generated data, s = 2 y - 1: 1 for the label 1, -1 for the label 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Label = float | Tensor
_EPS = 1e-8


class Criterion(NamedTuple):
    """value, slope, curvature: (logits, label) -> a tensor of the logits' shape.

    labels: what a label may be. "probability": a number in [0, 1]; "side": 1 (real) or 0 (generated); "number": any.
    """

    value: Callable[[Tensor, Label], Tensor]
    slope: Callable[[Tensor, Label], Tensor]
    curvature: Callable[[Tensor, Label], Tensor]
    labels: str
    formula: str


def _sign(y: Label) -> Label:
    return 2.0 * y - 1.0


def _cross_entropy_with_logits(x: Tensor, y: Label) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, _as_tensor(x, y), reduction="none")


def _as_tensor(x: Tensor, y: Label) -> Tensor:
    return y.to(x.dtype).expand_as(x) if isinstance(y, Tensor) else torch.full_like(x, y)


def _sigmoid_minus(x: Tensor, y: Label) -> Tensor:
    """sigmoid(x) - y, without cancellation for labels 0 and 1."""
    if isinstance(y, Tensor):
        return torch.where(y >= 0.5, (1.0 - y) - torch.sigmoid(-x), torch.sigmoid(x) - y)
    return (1.0 - y) - torch.sigmoid(-x) if y >= 0.5 else torch.sigmoid(x) - y


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def _hinge_gap(x: Tensor, y: Label) -> Tensor:
    if isinstance(y, Tensor) or y not in (0.0, 1.0):
        return 1.0 - _sign(y) * x
    return 1.0 - x if y else 1.0 + x


def _hinge_slope(x: Tensor, y: Label, knee: float, of_nan: bool) -> Tensor:
    """-s where 1 - s x is positive, -knee s where it is 0, 0 elsewhere; for NaN -s if `of_nan`, else 0."""
    gap = _hinge_gap(x, y)
    inside = (gap > 0) | gap.isnan() if of_nan else gap > 0
    share = inside.to(x.dtype)
    if knee:
        share = share + knee * (gap == 0).to(x.dtype)
    return share * -_sign(y)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.05)


def _leaky_slope(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, 0.05))


def _eps_slope(x: Tensor) -> Tensor:
    return -_sigmoid_slope(x) / (torch.sigmoid(x) + _EPS)


def _eps_curvature(x: Tensor) -> Tensor:
    p, p1 = torch.sigmoid(x), _sigmoid_slope(x)
    return -p1 * (torch.sigmoid(-x) - p) / (p + _EPS) + (p1 / (p + _EPS)) ** 2


def _probability_floor(p: Tensor) -> Tensor:
    return (p * (1.0 - p)).clamp(min=1e-12)


def _zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _hinge(positive: Callable[[Tensor], Tensor], knee: float, of_nan: bool) -> Criterion:
    """positive: max(gap, 0) by the operator whose derivative at 0 is `knee`."""
    return Criterion(
        lambda x, y: positive(_hinge_gap(x, y)),
        lambda x, y: _hinge_slope(x, y, knee, of_nan),
        lambda x, y: _zero(x),
        labels="side",
        formula="relu(1 - s x)",
    )


def _clamp_slope_at_zero() -> float:
    """The slope of `clamp(min=0)` at 0 in the installed PyTorch: 1 up to 2.13, 0 from 2.14 on."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros((), device="cpu", requires_grad=True)
        node: Any = x.clamp(min=0).grad_fn  # called directly: autograd's engine would start threads
        return node(torch.ones((), device="cpu")).item()


CRITERIA = {
    "sigmoid_cross_entropy": Criterion(
        _cross_entropy_with_logits,
        _sigmoid_minus,
        lambda x, y: _sigmoid_slope(x),
        labels="probability",
        formula="softplus(x) - y x",
    ),
    "softplus": Criterion(
        lambda x, y: F.softplus(-_sign(y) * x, 1.0, 50.0),
        _sigmoid_minus,
        lambda x, y: _sigmoid_slope(x),
        labels="side",
        formula="softplus(-s x)",
    ),
    "absolute_error": Criterion(
        lambda x, y: (1.0 - y) * torch.sigmoid(x) + y * torch.sigmoid(-x),
        lambda x, y: (1.0 - 2.0 * y) * _sigmoid_slope(x),
        lambda x, y: (1.0 - 2.0 * y) * _sigmoid_slope(x) * (torch.sigmoid(-x) - torch.sigmoid(x)),
        labels="probability",
        formula="(1 - y) sigmoid(x) + y sigmoid(-x), which is |sigmoid(x) - y| for the labels 0 and 1",
    ),
    "least_squares": Criterion(
        lambda x, y: (x - y) ** 2,
        lambda x, y: 2.0 * (x - y),
        lambda x, y: torch.full_like(x, 2.0),
        labels="number",
        formula="(x - y)^2",
    ),
    "hinge": _hinge(_relu, knee=0.0, of_nan=True),
    "hinge_clamp": _hinge(lambda gap: gap.clamp(min=0), knee=_clamp_slope_at_zero(), of_nan=False),
    "hinge_min": _hinge(lambda gap: -torch.minimum(-gap, torch.zeros_like(gap)), knee=0.5, of_nan=True),
    "wasserstein": Criterion(
        lambda x, y: -_sign(y) * x,
        lambda x, y: _zero(x) - _sign(y),
        lambda x, y: _zero(x),
        labels="side",
        formula="-s x",
    ),
    "squared_hinge": Criterion(
        lambda x, y: _relu(-_sign(y) * x) ** 2,
        lambda x, y: -2.0 * _sign(y) * _relu(-_sign(y) * x),
        lambda x, y: 2.0 * (-_sign(y) * x > 0).to(x.dtype),
        labels="side",
        formula="relu(-s x)^2",
    ),
    "absolute": Criterion(
        lambda x, y: (x - y).abs(),
        lambda x, y: torch.sign(x - y),
        lambda x, y: _zero(x),
        labels="number",
        formula="|x - y|",
    ),
    "leaky_least_squares": Criterion(
        lambda x, y: (_leaky(x) - y) ** 2,
        lambda x, y: 2.0 * (_leaky(x) - y) * _leaky_slope(x),
        lambda x, y: 2.0 * _leaky_slope(x) ** 2,
        labels="number",
        formula="(leaky_relu(x, 0.05) - y)^2",
    ),
    "tanh_hinge": Criterion(
        lambda x, y: 2.0 * torch.sigmoid(-2.0 * _sign(y) * x),
        lambda x, y: -4.0 * _sign(y) * _sigmoid_slope(2.0 * x),
        lambda x, y: -8.0 * _sign(y) * _sigmoid_slope(2.0 * x) * (torch.sigmoid(-2.0 * x) - torch.sigmoid(2.0 * x)),
        labels="side",
        formula="relu(1 - s tanh(x))",
    ),
    "log_sigmoid_with_eps": Criterion(
        lambda x, y: -torch.log(torch.sigmoid(x) + _EPS),
        lambda x, y: _eps_slope(x),
        lambda x, y: _eps_curvature(x),
        labels="probability",
        formula="-log(sigmoid(x) + 1e-8)",
    ),
    "cross_entropy": Criterion(
        lambda p, y: F.binary_cross_entropy(p, _as_tensor(p, y), reduction="none"),
        lambda p, y: (p - y) / _probability_floor(p),
        lambda p, y: (y / p**2) + (1.0 - y) / (1.0 - p) ** 2,
        labels="probability",
        formula="-(y log p + (1 - y) log(1 - p)) of a probability p",
    ),
}


def find(criterion: str) -> Criterion:
    try:
        return CRITERIA[criterion]
    except (KeyError, TypeError):
        raise ValueError(f"criterion: got {criterion!r}, expected one of {', '.join(map(repr, CRITERIA))}") from None
