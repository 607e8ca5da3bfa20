"""The one place where a kernel is launched, and the short way to launch it again.

`kernel[grid](...)` binds, specialises and looks up its arguments at every call, in 20 us of Python. It returns the
compiled kernel, and `compiled[grid](...)` launches that one in a quarter of the time. That is sound as long as the
arguments specialise alike, which the caller's key and the alignment of the caller's own tensors say (what the allocator
returned is aligned). The handle's call is a private interface of Triton: it is used on the versions on which a test
compares what the driver is given by both ways. Elsewhere each launch takes the ordinary way. FASTGAN_CACHED_LAUNCH=0
or 1 decides.
"""

from __future__ import annotations

import os

import torch
import triton
from torch import Tensor

from .numerics import widen

INTERPRETED = not isinstance(widen, triton.JITFunction)  # TRITON_INTERPRET=1: kernels run on CPU tensors

# Not on AMD: there Triton also specialises on how large a tensor's storage is, which no key here says.
TESTED = ("3.3.", "3.4.", "3.5.", "3.6.", "3.7.", "3.8.", "3.9.")  # tests/test_launcher.py passes on them
_CACHED = {"0": False, "1": True}.get(
    os.environ.get("FASTGAN_CACHED_LAUNCH", ""), triton.__version__.startswith(TESTED) and not torch.version.hip
)
_compiled: dict = {}
_launches = 0


def launch_count() -> int:
    """How many kernels this process has launched so far."""
    return _launches


def launch(
    kernel, programs: int, device: torch.device, args: tuple, constants: dict, options: dict, key: tuple, given: tuple
) -> None:
    """kernel[programs](*args, **constants, **options) on `device`, on its current stream.

    args: the kernel's arguments up to its constants, in order; constants: its constexpr arguments, in order.
    options: num_warps, maxnreg.
    key: all that the arguments' types depend on. given: the caller's tensors among them, which may be misaligned.
    """
    global _launches
    _launches += 1
    if device.type != "cuda":
        kernel[(programs,)](*args, **constants, **options)
    elif device.index == torch.cuda.current_device():
        _launch_on_current(kernel, programs, device, args, constants, options, key, given)
    else:
        with torch.cuda.device(device):
            _launch_on_current(kernel, programs, device, args, constants, options, key, given)


def cache_key(kernel, device: torch.device, key: tuple, given: tuple[Tensor, ...]) -> tuple:
    """Launches of one key run the same compiled kernel; those at multiples of 16 have one of their own."""
    return (kernel, device.index, key, *[x.data_ptr() & 15 == 0 for x in given])


def _launch_on_current(kernel, programs, device, args, constants, options, key, given) -> None:
    key = cache_key(kernel, device, key, given)
    compiled = _compiled.get(key)
    if compiled is not None:
        compiled[(programs, 1, 1)](*args, *constants.values())
        return
    if torch.version.hip:
        options = {name: value for name, value in options.items() if name != "maxnreg"}  # of NVIDIA's compiler alone
    compiled = kernel[(programs,)](*args, **constants, **options, enable_fp_fusion=True)
    if _CACHED:
        _compiled[key] = compiled
