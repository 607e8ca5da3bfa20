"""The one place where a kernel is launched."""

from __future__ import annotations

import torch
from triton import knobs

INTERPRETED = knobs.runtime.interpret  # TRITON_INTERPRET=1 when this package was imported: kernels run on CPU tensors

_launches = 0


def launch_count() -> int:
    """How many kernels this process has launched so far."""
    return _launches


def launch(kernel, programs: int, device: torch.device, args: tuple, options: dict) -> None:
    """kernel[programs](*args, **options) on `device`, on its current stream."""
    global _launches
    _launches += 1
    if device.type == "cuda":
        if torch.version.hip:
            options.pop("maxnreg", None)  # an option of NVIDIA's compiler alone
        with torch.cuda.device(device):
            kernel[(programs,)](*args, enable_fp_fusion=True, **options)
    else:
        kernel[(programs,)](*args, **options)
