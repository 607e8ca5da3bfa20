"""The losses as functions: check the arguments, name the terms, run them."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from fastgan import operators
from fastgan.objectives import discriminator_terms, generator_terms
from fastgan.values import ValueAndGrad

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Tensor:
    """The discriminator's sigmoid cross-entropy; one launch forward, one backward, nothing saved but the logits.

        L = weight * ( mean_i bce(r_i, real_label) + mean_j bce(f_j, fake_label) ),   bce(x, y) = softplus(x) - y x

    With the labels 1 and 0 that is mean softplus(-r) + mean softplus(f), the negative of what D maximises in eq. 1 of
    Goodfellow et al. (2014). Each side is averaged by itself, so unequal batches count as equal proportions;
    `weight=0.5` gives the average over both, ln 2 where D cannot tell the sides apart.

    Args:
        real_logits, fake_logits: D's outputs before the sigmoid; float16, bfloat16, float32 or float64, one dtype and
            one device, any shapes. Dense layouts (channels_last) are read in place, others through a copy.
        objective: "minimax" or "nonsaturating"; they differ in the generator's loss only.
        weight: multiplies the loss.
        real_label, fake_label: target probabilities in [0, 1]; other than 1 and 0 they are label smoothing, one-sided
            (Salimans et al. 2016, section 3.4) or two-sided.

    Returns:
        0-d tensor, float32 (float64 for float64 logits), in nats; differentiable in both logits, twice and more with
        `create_graph=True`. An empty side makes it NaN, as `mean` does. NaN and infinite logits give what
        `BCEWithLogitsLoss` gives.

    Raises:
        TypeError: an argument of the wrong type, or logits of another dtype.
        ValueError: an unknown objective, a label outside [0, 1], logits of two devices or dtypes, a sparse tensor.
    """
    _check_logits(real_logits=real_logits, fake_logits=fake_logits)
    _check_numbers(weight, real_label, fake_label)
    criterion, labels, weights = discriminator_terms(objective, weight, real_label, fake_label)
    return operators.value((real_logits, fake_logits), labels, weights, criterion)


def generator_loss(
    fake_logits: Tensor,
    objective: str = "nonsaturating",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
) -> Tensor:
    """The generator's loss at D's logits of generated data; one launch forward, one backward.

        nonsaturating:         L =  weight * mean_j bce(f_j, real_label)    = weight * mean softplus(-f)
        minimax (saturating):  L = -weight * mean_j bce(f_j, fake_label)    = -weight * mean softplus(f)

    at the default labels: Goodfellow et al. (2014), section 3 and eq. 1. Arguments, result and errors are those of
    `discriminator_loss`.
    """
    _check_logits(fake_logits=fake_logits)
    _check_numbers(weight, real_label, fake_label)
    criterion, labels, weights = generator_terms(objective, weight, real_label, fake_label)
    return operators.value((fake_logits,), labels, weights, criterion)


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
    """`discriminator_loss`, its parts, its gradients at the logits and D's accuracy, in one launch and no autograd.

        dL/dr_i = weight / N (sigmoid(r_i) - real_label)        dL/df_j = weight / M (sigmoid(f_j) - fake_label)

    Each logit is read once and each gradient written once. Continue the backward pass with

        out = fastgan.discriminator_value_and_grad(real_logits, fake_logits)
        torch.autograd.backward([real_logits, fake_logits], out.grads)

    Args:
        grad_scale: multiplies the gradients, not the loss: a loss weight times a GradScaler's scale, say. A number, or
            a floating tensor of one element on the logits' device (nothing is read back to the host). Applied in
            float32 (float64 for float64 logits), before a gradient is rounded to the logits' dtype.

    The other arguments and the errors are those of `discriminator_loss`.

    Returns:
        `ValueAndGrad`: loss, loss_real, loss_fake, grads = (grad_real, grad_fake), and stats (mean logits, accuracies,
        D's expected error). Detached from the logits' graph.

    Raises also:
        RuntimeError: under a `torch.func` transform or forward-mode AD, where `discriminator_loss` is the one to use.
    """
    _check_logits(real_logits=real_logits, fake_logits=fake_logits)
    _check_numbers(weight, real_label, fake_label)
    criterion, labels, weights = discriminator_terms(objective, weight, real_label, fake_label)
    return _value_and_grad((real_logits, fake_logits), labels, weights, criterion, 1, grad_scale)


def generator_value_and_grad(
    fake_logits: Tensor,
    objective: str = "nonsaturating",
    *,
    weight: float = 1.0,
    real_label: float = 1.0,
    fake_label: float = 0.0,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`generator_loss`, its gradient at the logits and D's accuracy on them, in one launch and no autograd.

        nonsaturating: dL/df_j = weight / M (sigmoid(f_j) - real_label)
        minimax:       dL/df_j = -weight / M (sigmoid(f_j) - fake_label)

    Arguments, result and errors are those of `discriminator_value_and_grad`; grads = (grad_fake,).
    """
    _check_logits(fake_logits=fake_logits)
    _check_numbers(weight, real_label, fake_label)
    criterion, labels, weights = generator_terms(objective, weight, real_label, fake_label)
    return _value_and_grad((fake_logits,), labels, weights, criterion, 0, grad_scale)


def _value_and_grad(logits, labels, weights, criterion, n_real, grad_scale) -> ValueAndGrad:
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError(
            "value_and_grad: its result carries no derivative, and a torch.func transform or forward-mode AD is "
            "active; use discriminator_loss or generator_loss there"
        )
    scale, factor = None, 1.0
    if isinstance(grad_scale, Tensor):
        if grad_scale.numel() != 1 or not grad_scale.is_floating_point():
            raise ValueError(
                f"grad_scale: got a {grad_scale.dtype} tensor of shape {tuple(grad_scale.shape)}, "
                "expected a number or a floating tensor of one element"
            )
        if grad_scale.device != logits[0].device:
            raise ValueError(f"grad_scale: got a tensor on {grad_scale.device}, expected {logits[0].device}")
        scale = grad_scale.detach()
    elif grad_scale is not None:
        _check_number("grad_scale", grad_scale)
        factor = float(grad_scale)
    loss, terms, grads = operators.value_and_gradient(logits, labels, weights, criterion, n_real, scale, factor)
    return ValueAndGrad(loss, terms, tuple(grads), n_real)


def _check_logits(**logits: Tensor) -> None:
    first_name = first = None
    for name, x in logits.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: got {type(x).__name__}, expected a torch.Tensor")
        if x.dtype not in _DTYPES:
            raise TypeError(f"{name}: got {x.dtype}, expected float16, bfloat16, float32 or float64 logits")
        if x.layout is not torch.strided:
            raise ValueError(f"{name}: got a {x.layout} tensor, expected a dense one")
        if first is None:
            first_name, first = name, x
        elif x.dtype != first.dtype:
            raise ValueError(f"{name}: got {x.dtype}, expected {first.dtype}, the dtype of {first_name}")
        elif x.device != first.device:
            raise ValueError(f"{name}: got a tensor on {x.device}, expected {first.device}, the device of {first_name}")


def _check_numbers(weight: float, real_label: float, fake_label: float) -> None:
    if weight.__class__ is not float:
        _check_number("weight", weight)
    for name, label in (("real_label", real_label), ("fake_label", fake_label)):
        if label.__class__ is not float:
            _check_number(name, label)
        if not 0.0 <= label <= 1.0:
            raise ValueError(f"{name}: got {label}, expected a probability in [0, 1]")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
