"""A drop-in against a codebase's own formula, restated in eager PyTorch and evaluated in float64.

`check(ours, theirs, *arguments)` calls both on copies of the arguments. It requires the same structure, values and
gradients, per element with atol=0; and the same gradients in a second backward pass through the retained graph, with a
grad_output that is not 1.
"""

from __future__ import annotations

import torch
from oracle import LOSS_RTOL, assert_close
from torch import Tensor

SCALE = 3.7  # a loss weight times a GradScaler's scale, say


def tensors(of) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(of, Tensor):
        return [of]
    if isinstance(of, dict):
        of = of.values()
    return [t for item in of for t in tensors(item)] if isinstance(of, (list, tuple, type({}.values()))) else []


def copied(of, dtype=None, device="cpu"):
    """Copy the structure with new leaves, of `dtype` if given; floating tensors keep `requires_grad`."""
    if isinstance(of, Tensor):
        copy = of.detach().to(device, copy=True, memory_format=torch.preserve_format)
        if of.is_floating_point():
            copy = (copy if dtype is None else copy.to(dtype)).requires_grad_(of.requires_grad)
        return copy
    if isinstance(of, (list, tuple)):
        return type(of)(copied(item, dtype, device) for item in of)
    return of


def shaped(shapes, dtype=torch.float32, seed: int = 0, spread: float = 2.0, device="cpu"):
    """Logits in the structure of `shapes`: a shape (a tuple of ints), or a list of such structures."""
    generator = torch.Generator().manual_seed(seed)

    def make(shape):
        if isinstance(shape, list):
            return [make(s) for s in shape]
        x = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(dtype).to(device).requires_grad_()

    return make(shapes)


def structure(of):
    """Types and shapes of a result: tensors by shape, numbers as 0-d tensors (nothing of ours calls `.item()`)."""
    if isinstance(of, Tensor):
        return tuple(of.shape)
    if isinstance(of, (int, float)):
        return ()
    if isinstance(of, (list, tuple)):
        return type(of).__name__, [structure(item) for item in of]
    if isinstance(of, dict):
        return "dict", {key: structure(value) for key, value in of.items()}
    return type(of).__name__


def flat(of) -> list[Tensor]:
    """The numbers of a result as tensors."""
    if isinstance(of, (int, float)):
        return [torch.tensor(of, dtype=torch.float64)]
    if isinstance(of, (list, tuple, dict)):
        return [t for item in (of.values() if isinstance(of, dict) else of) for t in flat(item)]
    return [of]


def check(
    ours,
    theirs,
    *arguments,
    rtol: float | None = None,
    grad_rtol: float | None = None,
    same_dtype: bool = False,
    float32: bool = False,
):
    """rtol, grad_rtol: relative tolerances of results and gradients, the library's promises by default. If there is a
    GPU, `ours` is checked on it as well; the exact result is computed on the CPU.

    Results must be float64 for float64 arguments and float32 for others. `same_dtype`: the dtype of the arguments.
    `float32`: float32, rounded once from float64 if the arguments are float64."""
    for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        if isinstance(ours, torch.nn.Module):
            ours.to(device)
        _check(ours, theirs, arguments, rtol, grad_rtol, same_dtype, float32, device)
    if isinstance(ours, torch.nn.Module):
        ours.cpu()


def _check(ours, theirs, arguments, rtol, grad_rtol, same_dtype, float32, device):
    mine, exact = copied(arguments, device=device), copied(arguments, torch.float64)
    dtype = next(t.dtype for t in tensors(mine) if t.is_floating_point())
    got, want = ours(*mine), theirs(*exact)
    assert structure(got) == structure(want), f"{structure(got)} is not {structure(want)}"
    got, want = flat(got), flat(want)
    assert all(g.device.type == device for g in got)
    wide = dtype == torch.float64
    out = dtype if same_dtype else torch.float64 if wide and not float32 else torch.float32
    if float32 and wide:
        rtol = torch.finfo(torch.float32).eps
    for g, w in zip(got, want):
        assert_close(g, w, out, LOSS_RTOL[dtype] if rtol is None else rtol)
    inputs = [(a, b) for a, b in zip(tensors(mine), tensors(exact)) if a.requires_grad]
    if not inputs:
        return
    for root, (g, w) in enumerate(zip(got, want)):
        assert g.requires_grad == w.requires_grad or not w.requires_grad, f"result {root} should carry a gradient"
        if not (g.requires_grad and w.requires_grad):
            continue
        leaves, exact_leaves = [a for a, _ in inputs], [b for _, b in inputs]
        for scale in (1.0, SCALE):  # the second is another backward pass through the same node
            scale = torch.tensor(scale, dtype=g.dtype).item()  # the same rounded number for both
            seeds = torch.full_like(g, scale), torch.full_like(w, scale)
            found = torch.autograd.grad(g, leaves, seeds[0], retain_graph=True, allow_unused=True)
            right = torch.autograd.grad(w, exact_leaves, seeds[1], retain_graph=True, allow_unused=True)
            for leaf, f, r in zip(leaves, found, right):
                r = torch.zeros_like(leaf, dtype=torch.float64) if r is None else r
                f = torch.zeros_like(leaf) if f is None else f
                assert_close(f, r, dtype, grad_rtol)


def adaptive_weight(loss_of, reconstruction_of, last_layer: Tensor, x: Tensor) -> Tensor:
    """taming-transformers' weight of the adversarial loss: two gradients at the last layer, of one graph."""
    output = x @ last_layer
    adversarial, reconstruction = loss_of(output), reconstruction_of(output)
    a = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    b = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    weight = (a.norm() / (b.norm() + 1e-4)).clamp(0.0, 1e4).detach()
    (reconstruction + weight * adversarial).backward()
    return weight
