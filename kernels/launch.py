"""The one place where a kernel is launched, and the short way to launch it again.

`kernel[grid](...)` binds, specialises and looks up its arguments at every call, in 20 us of Python. It returns the
compiled kernel, and `compiled[grid]` is a function that launches that one in a fifth of the time. That is sound as long
as the arguments specialise alike, which the plan's key and the alignment of the caller's own tensors say (what the
allocator returned is aligned). The compiled kernel's call is a private interface of Triton: it is used on the versions
on which a test compares what the driver is given by both ways. On others each launch goes the ordinary way.
FASTGAN_CACHED_LAUNCH=0 or 1 decides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .numerics import widen

INTERPRETED = not isinstance(widen, triton.JITFunction)  # TRITON_INTERPRET=1: kernels run on CPU tensors

# Not on AMD: there Triton also specialises on how large a tensor's storage is, which no key here says.
TESTED = ("3.3.", "3.4.", "3.5.", "3.6.", "3.7.", "3.8.", "3.9.")  # tests/kernels/test_launcher.py passes on them
CACHED = {"0": False, "1": True}.get(
    os.environ.get("FASTGAN_CACHED_LAUNCH", ""), triton.__version__.startswith(TESTED) and not torch.version.hip
)
compiled_kernels: dict = {}  # of `cache_key`
_launches = 0


class Plan:
    """All of a launch but its tensors: what the kernel is given beside them, and how it runs.

    numbers: arguments that are no tensors, in order. constants: its constexpr arguments, in order. options: num_warps,
    maxnreg. key: all that the types of its arguments depend on, but alignment.
    """

    __slots__ = ("constants", "device", "kernel", "key", "last", "numbers", "options", "programs", "ways")

    def __init__(
        self, kernel, programs: int, device: torch.device, numbers: tuple, constants: dict, options: dict, key: tuple
    ):
        self.kernel, self.programs, self.device, self.numbers = kernel, programs, device, numbers
        self.constants, self.options, self.key = constants, options, key
        self.last = tuple(constants.values())
        self.ways: dict = {}  # {alignment: the short way to launch it}


def launch_count() -> int:
    """How many kernels this process has launched so far."""
    return _launches


def launch(plan: Plan, args: tuple, given: Sequence[Tensor]) -> None:
    """Launches the plan's kernel on its device, on the current stream.

    args: the kernel's arguments up to its constants, in order. given: the caller's tensors among them, which may be
    misaligned.
    """
    global _launches
    _launches += 1
    if plan.device.type != "cuda":
        plan.kernel[(plan.programs,)](*args, **plan.constants, **plan.options)
    elif plan.device.index != torch.cuda.current_device():
        with torch.cuda.device(plan.device):
            _launch_on_current(plan, args, given)
    else:
        _launch_on_current(plan, args, given)


def alignment(given: Sequence[Tensor]) -> bool | tuple[bool, ...]:
    """True if all tensors lie at multiples of 16 bytes, else which ones do."""
    addresses = 0
    for x in given:
        addresses |= x.data_ptr()
    return not addresses & 15 or tuple([not x.data_ptr() & 15 for x in given])


def cache_key(plan: Plan, given: Sequence[Tensor]) -> tuple:
    """Launches of one key run the same compiled kernel."""
    return plan.kernel, plan.device.index, plan.key, alignment(given)


def _launch_on_current(plan: Plan, args: tuple, given: Sequence[Tensor]) -> None:
    aligned = alignment(given)
    way = plan.ways.get(aligned)
    if way is not None:
        way(*args, *plan.last)
        return
    key = cache_key(plan, given)
    compiled = compiled_kernels.get(key)
    if compiled is None:
        options = plan.options
        if torch.version.hip:
            options = {name: value for name, value in options.items() if name != "maxnreg"}  # NVIDIA's compiler's alone
        compiled = plan.kernel[(plan.programs,)](*args, **plan.constants, **options, enable_fp_fusion=True)
    else:
        compiled[(plan.programs, 1, 1)](*args, *plan.last)
    if CACHED:
        compiled_kernels[key] = compiled
        plan.ways[aligned] = compiled[(plan.programs, 1, 1)]
