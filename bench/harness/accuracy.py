"""How far a result may be from float64, per element, with no absolute tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
LOSS_SCALE = 2.0**15  # the loss scale of float16 training, which keeps a gradient divided by n from underflowing

Verdict = tuple[str | None, float]  # None, or what is wrong; the worst relative error of a gradient
Bound = Callable[[Tensor, torch.dtype], Tensor]  # sizes of exact gradients, dtype of the result -> allowed errors


def loss_scale(dtype: str, device: str) -> tuple[float, Tensor | None]:
    """The loss scale of a dtype, as a number and as a tensor; the tensor is None if the dtype needs no scale."""
    return (LOSS_SCALE, torch.tensor(LOSS_SCALE, device=device)) if dtype == "float16" else (1.0, None)


def ulp(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbouring numbers of `dtype` at `size` (float64, positive); subnormals included."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(size.clamp_min(info.smallest_normal)).exponent - 1
    return torch.ldexp(torch.full_like(size, info.eps), exponent)


def bound_of_ours(size: Tensor, dtype: torch.dtype) -> Tensor:
    """The bound for fastgan: half a unit in the last place plus 5e-6 (2e-13 in float64) of the element."""
    return size * (2e-13 if dtype == torch.float64 else 5e-6) + 0.51 * ulp(size, dtype)


def wrong_loss(loss: float, exact: float, allowed: float) -> str | None:
    return None if abs(loss - exact) <= allowed * abs(exact) else f"loss {loss:.9g}, float64 gives {exact:.9g}"


def wrong_gradient(what: str, got: Tensor | None, like: Tensor, exact: Tensor, bound: Bound) -> Verdict:
    if got is None or got.shape != like.shape or got.dtype != like.dtype:
        return f"gradient at {what}: expected {like.dtype} of shape {tuple(like.shape)}", float("inf")
    error, size = (got.double() - exact).abs_(), exact.abs()
    worst = (error / size).nan_to_num(nan=0.0).max().item() if size.numel() else 0.0
    wrong = ~(error <= bound(size, like.dtype))
    if wrong.any():
        i = int(wrong.flatten().nonzero()[0])
        found, wanted = got.flatten()[i].item(), exact.flatten()[i].item()
        return f"gradient at {what}, element {i}: {found:.9g}, float64 gives {wanted:.9g}", worst
    return None, worst


def wrong_gradients(
    what: str, got: Sequence[Tensor | None], like: Sequence[Tensor], exact: Sequence[Tensor], bound: Bound
) -> Verdict:
    """The first wrong gradient, and the worst error up to it."""
    if len(got) != len(like):
        return f"{len(got)} gradients for {len(like)} tensors", float("inf")
    worst = 0.0
    for k, each in enumerate(zip(got, like, exact)):
        wrong, error = wrong_gradient(f"{what} {k}", *each, bound)
        worst = max(worst, error)
        if wrong:
            return wrong, worst
    return None, worst
