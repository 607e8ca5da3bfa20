"""The norm of all gradients, and clipping by norm or by value, without a device synchronisation.

Code that sums `p.grad.norm().item()` over parameters synchronises once for each: 114 times a step in VITS, for a number
that is only logged. Here a few operators process all gradients of a device and dtype at once (`torch._foreach_norm`)
and return a 0-d tensor on the device. Only reading its value synchronises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fastgan.losses.arguments import number

_HALF = (torch.float16, torch.bfloat16)


@torch.no_grad()
def gradient_norm(parameters: Tensor | Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """( sum_p sum_i |p.grad[i]|^norm_type )^(1 / norm_type), the norm of all gradients as one vector.

    Args:
        parameters: a tensor or an iterable of them, of any dtypes and devices; those without a gradient are left out.
        norm_type: a number > 0; `math.inf` for the largest absolute value.

    Returns:
        0-d tensor on the first gradient's device, float32 for half-precision gradients, which would overflow at 65,504;
        0 if there are no gradients. Not differentiable. NaN and infinite gradients make it NaN or infinite.

    Raises:
        TypeError, ValueError: not tensors, sparse gradients, a norm_type that is not a number > 0.
    """
    return _norm(_gradients(parameters), norm_type)


@torch.no_grad()
def clip_gradient_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale gradients in place by min(1, max_norm / (norm + 1e-6)) and return the norm before scaling (Pascanu et al.
    2013, algorithm 1): `torch.nn.utils.clip_grad_norm_` with a norm that does not overflow in half precision.

    Args:
        max_norm: a number >= 0.

    Other arguments, result and errors as in `gradient_norm`. If the norm is NaN or infinite, the gradients become NaN
    or 0, as in PyTorch; the host does not check.
    """
    number("max_norm", max_norm)  # not a tensor: PyTorch would synchronise to read it
    if not max_norm >= 0:
        raise ValueError(f"max_norm: got {max_norm}, expected a number >= 0")
    parameters = _listed(parameters)
    norm = _norm(_gradients(parameters), norm_type)
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def clip_gradient_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float | None, norm_type: float = 2.0
) -> Tensor:
    """Clamp gradients in place to [-clip_value, clip_value] and return the norm before clamping. With clip_value=None
    nothing is clamped: it is `gradient_norm`.

    Args:
        clip_value: a number >= 0, or None.

    Other arguments, result and errors as in `gradient_norm`.
    """
    if clip_value is not None:
        number("clip_value", clip_value)
        if not clip_value >= 0:
            raise ValueError(f"clip_value: got {clip_value}, expected a number >= 0, or None")
    parameters = _listed(parameters)
    grads = _gradients(parameters)
    norm = _norm(grads, norm_type)
    if grads and clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, clip_value)
    return norm


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    if isinstance(parameters, (str, bytes)) or not isinstance(parameters, Iterable):
        raise TypeError(f"parameters: got {type(parameters).__name__}, expected a torch.Tensor or an iterable of them")
    parameters = list(parameters)
    for i, p in enumerate(parameters):
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters[{i}]: got {type(p).__name__}, expected a torch.Tensor")
    return parameters


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    grads = []
    for i, p in enumerate(_listed(parameters)):
        if p.grad is not None:
            if p.grad.layout is not torch.strided:
                raise ValueError(f"parameters[{i}]: got a {p.grad.layout} gradient, expected a dense one")
            grads.append(p.grad)
    return grads


def _norm(grads: list[Tensor], norm_type: float) -> Tensor:
    number("norm_type", norm_type)
    if not norm_type > 0 or math.isnan(norm_type):
        raise ValueError(f"norm_type: got {norm_type}, expected a number > 0")
    half = [g for g in grads if g.dtype in _HALF]
    if not half:
        return torch.nn.utils.get_total_norm(grads, norm_type)
    norms: list[Tensor] = []
    for device in dict.fromkeys(g.device for g in half):
        here = [g for g in half if g.device == device]
        norms += torch._foreach_norm(here, norm_type, dtype=torch.float32)
    if len(half) < len(grads):
        norms.append(torch.nn.utils.get_total_norm([g for g in grads if g.dtype not in _HALF], norm_type))
    all_norms = torch.stack(
        [norm.to(grads[0].device, torch.promote_types(norm.dtype, torch.float32)) for norm in norms]
    )
    return torch.linalg.vector_norm(all_norms, norm_type)
