"""The same losses in plain eager PyTorch, as a GAN author writes them.

The oracle of the tests, the baseline of the benchmarks, and the shortest definition of what the fused functions return.
Signatures are those of `fastgan`'s functions of the same name; nothing here is written for speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.values import ValueAndGrad

_bce = nn.BCEWithLogitsLoss()


def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Tensor:
    """weight * (mean BCE(real, real_label) + mean BCE(fake, fake_label)); each side averaged by itself."""
    _check_objective(objective)
    loss_real = _bce(real_logits, torch.full_like(real_logits, real_label))
    loss_fake = _bce(fake_logits, torch.full_like(fake_logits, fake_label))
    return weight * (loss_real + loss_fake)


def generator_loss(
    fake_logits: Tensor,
    objective: str = "nonsaturating",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Tensor:
    """nonsaturating: weight * mean BCE(fake, real_label). minimax: -weight * mean BCE(fake, fake_label), saturating."""
    _check_objective(objective)
    if objective == "nonsaturating":
        return weight * _bce(fake_logits, torch.full_like(fake_logits, real_label))
    return -weight * _bce(fake_logits, torch.full_like(fake_logits, fake_label))


def discriminator_value_and_grad(
    real_logits: Tensor,
    fake_logits: Tensor,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`discriminator_loss`, its two sides, and what backward leaves at the logits, times `grad_scale`."""
    _check_objective(objective)
    real, fake = real_logits.detach().requires_grad_(), fake_logits.detach().requires_grad_()
    loss_real = weight * _bce(real, torch.full_like(real, real_label))
    loss_fake = weight * _bce(fake, torch.full_like(fake, fake_label))
    return _value_and_grad([(real, loss_real, real >= 0), (fake, loss_fake, fake < 0)], grad_scale, n_real=1)


def generator_value_and_grad(
    fake_logits: Tensor,
    objective: str = "nonsaturating",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`generator_loss` and what backward leaves at the logits, times `grad_scale`."""
    fake = fake_logits.detach().requires_grad_()
    loss = generator_loss(fake, objective, weight=weight, real_label=real_label, fake_label=fake_label)
    return _value_and_grad([(fake, loss, fake < 0)], grad_scale, n_real=0)


def _value_and_grad(
    sides: list[tuple[Tensor, Tensor, Tensor]], grad_scale: Tensor | float | None, n_real: int
) -> ValueAndGrad:
    """sides: (logits, their loss, where D is right)."""
    loss = sum(side_loss for _, side_loss, _ in sides)
    grads = torch.autograd.grad(loss if grad_scale is None else loss * grad_scale, [x for x, _, _ in sides])
    with torch.no_grad():
        rows = [
            torch.stack([side_loss, x.mean(), torch.where(x.mean().isnan(), torch.nan, right.to(x.dtype).mean())])
            for x, side_loss, right in sides
        ]
    return ValueAndGrad(loss.detach(), torch.stack(rows), grads, n_real)


def _check_objective(objective: str) -> None:
    if objective not in ("minimax", "nonsaturating"):
        raise ValueError(f"objective: got {objective!r}, expected 'minimax' or 'nonsaturating'")
