"""The same losses in plain eager PyTorch, as a GAN author writes them.

The oracle of the tests, the baseline of the benchmarks, and the shortest definition of what the fused functions return.
Signatures are those of `fastgan`'s functions of the same name, without some options that only reduce or weigh; the code
is not written for speed. r and f are D's logits of real and of generated data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.formulas.objectives import unknown
from fastgan.formulas.results import ValueAndGrad

_bce = nn.BCEWithLogitsLoss()
_mse = nn.MSELoss()


def _cross_entropy(x, label):
    return _bce(x, label.to(x.dtype).expand_as(x) if isinstance(label, Tensor) else torch.full_like(x, label))


def _absolute_error(x, label):
    """The expected error |sigmoid(x) - Y|, if Y is 1 with probability `label` and else 0."""
    return ((1 - label) * torch.sigmoid(x) + label * torch.sigmoid(-x)).mean()


def _least_squares(x, label):
    return _mse(x, label.to(x.dtype).expand_as(x) if isinstance(label, Tensor) else torch.full_like(x, label))


def _hinge(x, label):
    return F.relu(1 - x).mean() if label else F.relu(1 + x).mean()


def _wasserstein(x, label):
    return -x.mean() if label else x.mean()


# A player's loss is a list of parts, (logits, their loss, whether they are real), computed from r, f and the labels.


def _two_sides(phi: Callable, weight: float = 1.0) -> Callable:
    return lambda r, f, real, fake: [(r, weight * phi(r, real), True), (f, weight * phi(f, fake), False)]


def _as_real(phi: Callable) -> Callable:
    return lambda r, f, real, fake: [(f, phi(f, real), False)]


def _against_fake(phi: Callable, weight: float = 1.0) -> Callable:
    return lambda r, f, real, fake: [(f, -weight * phi(f, fake), False)]


def _average(phi: Callable) -> Callable:
    return lambda r, f, real, fake: _two_sides(phi)(r - f.mean(), f - r.mean(), real, fake)


def _against_average(phi: Callable) -> Callable:
    return lambda r, f, real, fake: _average(phi)(r, f, fake, real)


def _contrast(r, f, real, fake):
    r, f = r - f.flatten().logsumexp(0), f + (-r).flatten().logsumexp(0)
    return _two_sides(_cross_entropy)(r, f, real, fake)


def _contrast_swapped(r, f, real, fake):
    r, f = r + (-f).flatten().logsumexp(0), f - r.flatten().logsumexp(0)
    return _two_sides(_cross_entropy)(r, f, fake, real)


def _pairs(r, f, real, fake):
    return [(r - f, _cross_entropy(r - f, real), True)]


def _pairs_swapped(r, f, real, fake):
    return [(f - r, _cross_entropy(f - r, real), False)]


# name: (D's loss, G's loss, the labels of real and generated data)
LOSSES: dict[str, tuple[Callable, Callable, tuple[float, float]]] = {
    "minimax": (_two_sides(_cross_entropy), _against_fake(_cross_entropy), (1.0, 0.0)),
    "nonsaturating": (_two_sides(_cross_entropy), _as_real(_cross_entropy), (1.0, 0.0)),
    "absolute_error": (_two_sides(_absolute_error, 0.5), _against_fake(_absolute_error, 0.5), (1.0, 0.0)),
    "least_squares": (_two_sides(_least_squares), _as_real(_least_squares), (1.0, 0.0)),
    "hinge": (_two_sides(_hinge), _as_real(_wasserstein), (1.0, 0.0)),
    "clamped_hinge": (_two_sides(_hinge), _as_real(_hinge), (1.0, 0.0)),
    "wasserstein": (_two_sides(_wasserstein), _as_real(_wasserstein), (1.0, 0.0)),
    "relativistic": (_pairs, _pairs_swapped, (1.0, 0.0)),
    "relativistic_average": (_average(_cross_entropy), _against_average(_cross_entropy), (1.0, 0.0)),
    "relativistic_average_least_squares": (_average(_least_squares), _against_average(_least_squares), (1.0, -1.0)),
    "relativistic_average_hinge": (_average(_hinge), _against_average(_hinge), (1.0, 0.0)),
    "dual_contrastive": (_contrast, _contrast_swapped, (1.0, 0.0)),
}


def discriminator_loss(
    real_logits: Tensor | Sequence,
    fake_logits: Tensor | Sequence,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: float | Tensor | None = None,
    fake_label: float | Tensor | None = None,
    reduce_discriminators: str = "sum",
) -> Tensor:
    """weight * (mean phi(real, real_label) + mean phi(fake, fake_label)); each side has its own mean."""
    parts = _parts(0, real_logits, fake_logits, objective, real_label, fake_label)
    count = len(_tensors(fake_logits)) if reduce_discriminators == "mean" else 1
    return weight * (sum(loss for _, loss, _ in parts) / count)


def generator_loss(
    fake_logits: Tensor | Sequence,
    objective: str = "nonsaturating",
    *,
    real_logits: Tensor | Sequence | None = None,
    weight: float = 1.0,
    real_label: float | Tensor | None = None,
    fake_label: float | Tensor | None = None,
    reduce_discriminators: str = "sum",
) -> Tensor:
    """nonsaturating: weight * mean BCE(fake, real_label). minimax: -weight * mean BCE(fake, fake_label), saturating."""
    parts = _parts(1, real_logits, fake_logits, objective, real_label, fake_label)
    count = len(_tensors(fake_logits)) if reduce_discriminators == "mean" else 1
    return weight * (sum(loss for _, loss, _ in parts) / count)


def discriminator_value_and_grad(
    real_logits: Tensor | Sequence,
    fake_logits: Tensor | Sequence,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: float | Tensor | None = None,
    fake_label: float | Tensor | None = None,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`discriminator_loss`, its parts, and the gradients of the logits, times `grad_scale`."""
    real, fake = ([x.detach().requires_grad_() for x in _tensors(xs)] for xs in (real_logits, fake_logits))
    parts = _parts(0, real, fake, objective, real_label, fake_label)
    return _value_and_grad(parts, weight, [*real, *fake], len(real), grad_scale, not isinstance(real_logits, Tensor))


def generator_value_and_grad(
    fake_logits: Tensor | Sequence,
    objective: str = "nonsaturating",
    *,
    real_logits: Tensor | Sequence | None = None,
    weight: float = 1.0,
    real_label: float | Tensor | None = None,
    fake_label: float | Tensor | None = None,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`generator_loss` and the gradients of the logits of generated data, times `grad_scale`."""
    fake = [x.detach().requires_grad_() for x in _tensors(fake_logits)]
    real = None if real_logits is None else [x.detach() for x in _tensors(real_logits)]
    parts = _parts(1, real, fake, objective, real_label, fake_label)
    return _value_and_grad(parts, weight, fake, 0, grad_scale, not isinstance(fake_logits, Tensor))


def _parts(player: int, real_logits, fake_logits, objective: str, real_label, fake_label) -> list:
    """(logits, loss, of real data?) over all discriminators, real data first."""
    if objective not in LOSSES:
        raise ValueError(unknown(objective, LOSSES))
    of_discriminator, of_generator, defaults = LOSSES[objective]
    formula = of_generator if player else of_discriminator
    labels = [default if given is None else given for given, default in zip((real_label, fake_label), defaults)]
    fake = _tensors(fake_logits)
    real = fake if real_logits is None else _tensors(real_logits)
    parts = [part for r, f in zip(real, fake) for part in formula(r, f, *labels)]
    return sorted(parts, key=lambda part: not part[2])


def _tensors(logits: Tensor | Sequence) -> list[Tensor]:
    if isinstance(logits, Tensor):
        return [logits]
    return [x[-1] if isinstance(x, (list, tuple)) else x for x in logits]


def _sum(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _value_and_grad(parts, weight, leaves, real_grads: int, grad_scale, listed: bool) -> ValueAndGrad:
    loss = weight * sum(part for _, part, _ in parts)
    grads = torch.autograd.grad(loss if grad_scale is None else loss * grad_scale, leaves)
    rows = []
    with torch.no_grad():
        for x, part, is_real in parts:
            correct = (x >= 0) if is_real else (x < 0)
            accuracy = torch.where(x.mean().isnan(), torch.nan, correct.to(x.dtype).mean())
            rows.append(torch.stack([weight * part, x.mean(), accuracy]))
    n_real = sum(is_real for _, _, is_real in parts)
    return ValueAndGrad(loss.detach(), torch.stack(rows), grads, n_real, listed, real_grads)


def feature_matching_loss(
    fake_maps: Tensor | Sequence,
    real_maps: Tensor | Sequence,
    weights: Sequence[float] | None = None,
    p: int = 1,
    *,
    detach_real: bool = True,
) -> Tensor:
    """sum_k w_k mean |fake_k - real_k|^p over all maps of all discriminators."""
    fake, real = ([maps] if isinstance(maps, Tensor) else maps for maps in (fake_maps, real_maps))
    fake, real = (
        [x for layers in maps for x in (layers if isinstance(layers, (list, tuple)) else [layers])]
        for maps in (fake, real)
    )
    losses = []
    for a, b, weight in zip(fake, real, weights or [1.0] * len(fake)):
        b = b.detach() if detach_real else b
        losses.append(weight * (F.l1_loss(a, b) if p == 1 else F.mse_loss(a, b)))
    return _sum(losses)


def mmd_loss(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    *,
    kernel: str = "gaussian",
    alpha: float = 1.0,
    unbiased: bool = False,
    weight: float = 1.0,
) -> Tensor:
    """weight * (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), by three matrices of all pairs."""

    def k(a: Tensor, b: Tensor) -> Tensor:
        distances = torch.cdist(a, b)
        if kernel == "energy":
            return -distances
        squares = distances.square()
        if kernel == "gaussian":
            return _sum([torch.exp(-squares / (2 * s**2)) for s in bandwidths])
        return _sum([(1 + squares / (2 * alpha * s**2)) ** -alpha for s in bandwidths])

    def within(a: Tensor) -> Tensor:
        pairs = k(a, a)
        n = len(a)
        return (pairs.sum() - pairs.diagonal().sum()) / (n * (n - 1)) if unbiased else pairs.mean()

    return weight * (within(x) + within(y) - 2 * k(x, y).mean())
