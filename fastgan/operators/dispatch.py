"""Pick the backend for a tensor, decide whether a call must use the registered operator, and apply a `Function`.

Only this file picks a backend, and only this file of the package uses private interfaces of PyTorch. They tell whether
a transform of `torch.func`, a dispatch mode or forward-mode differentiation is active. If a PyTorch lacks one, the file
assumes the answer that is always right, which costs some microseconds a call.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan import cpu

BACKENDS = ("triton", "torch")
forced_backend = os.environ.get("FASTGAN_BACKEND") or None  # read once: a look into the environment costs 2 us a call

is_compiling = torch.compiler.is_compiling
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transforms = getattr(torch._C, "_are_functorch_transforms_active", None)
_PLAIN = (Tensor, torch.nn.Parameter)


@functools.cache
def triton_kernels() -> ModuleType | None:
    """`fastgan.kernels`, imported when first needed: Triton takes longer to import than the rest of this package. None
    if Triton is not installed."""
    try:
        from fastgan import kernels
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        return None
    return kernels


def backend_for(device: torch.device) -> str:
    """'triton' or 'torch': which backend runs for tensors on `device`.

    CUDA tensors use the Triton kernels and others `fastgan.cpu`, unless the environment variable FASTGAN_BACKEND said
    otherwise when fastgan was imported. Triton runs on CPU tensors only if TRITON_INTERPRET=1 was set before Triton was
    imported.
    """
    backend = forced_backend or ("triton" if device.type == "cuda" and triton_kernels() else "torch")
    if backend not in BACKENDS:
        raise ValueError(f"FASTGAN_BACKEND: got {backend!r}, expected 'triton' or 'torch'")
    if backend == "triton":
        kernels = triton_kernels()
        if kernels is None:
            raise RuntimeError("FASTGAN_BACKEND: got 'triton', but Triton is not installed")
        if device.type != "cuda" and not kernels.INTERPRETED:
            raise RuntimeError(
                f"FASTGAN_BACKEND: got 'triton' for tensors on {device.type}, expected CUDA tensors, "
                "or TRITON_INTERPRET=1 in the environment of a new process"
            )
    return backend


def on_cpu(device: torch.device) -> bool:
    """Whether `device` is a CPU and `fastgan.cpu` runs there."""
    return device.type == "cpu" and (forced_backend is None or backend_for(device) == "torch")


def backend(device: torch.device) -> ModuleType:
    """`fastgan.kernels` or `fastgan.cpu`, which have the same functions."""
    if device.type == "cpu" and forced_backend is None:
        return cpu
    kernels = triton_kernels() if backend_for(device) == "triton" else None
    return kernels or cpu


def transforms_active() -> bool:
    """Whether a transform of `torch.func` is active."""
    return _transforms is not None and _transforms()


def derivative_expected() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is active."""
    return transforms_active() or getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


def needs_operator(tensors: Sequence[Tensor]) -> bool:
    """Whether a call must use the registered operator: for a compiler, a dispatch mode, a transform, a tensor subclass
    or a meta tensor. Else the implementation is called directly, which saves the dispatcher's time."""
    if is_compiling() or _dispatch_modes() or _transforms is None or _transforms():
        return True
    return any([type(x) not in _PLAIN or x.is_meta for x in tensors])  # noqa: C419 (a generator costs twice as much)


def applied(function: type[Function], settings: tuple, tensors: Sequence[Tensor]):
    """`function.apply(*settings, *tensors)`, also in three cases that it refuses: under `torch.compile`, no tensor that
    requires a gradient, or the same tensor twice; and inference-mode tensors, which it could not save."""
    if is_compiling():
        if transforms_active():
            raise NotImplementedError("torch.func inside torch.compile: fastgan's losses have no derivative there")
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in tensors):
            return function.forward(*settings, *tensors)
        once: list[Tensor] = []
        for x in tensors:
            once.append(x.view_as(x) if any(x is other for other in once) else x)
        return function.apply(*settings, *once)
    if _transforms is None or _transforms():
        return function.apply(*settings, *tensors)
    if torch.is_grad_enabled() and any([x.is_inference() for x in tensors]):  # noqa: C419
        tensors = [x.clone() if x.is_inference() else x for x in tensors]
    # What `Function.apply` does if no transform is active, without its 12 us of signature binding.
    return super(Function, function).apply(*settings, *tensors)  # type: ignore[misc]  # missing in torch's stubs
