"""The only place that launches kernels, with a shorter path for a kernel that is compiled already.

`kernel[grid](...)` binds, specialises and looks up its arguments at every call, in 20 us of Python. It returns the
compiled kernel. `compiled[grid]` is a function that launches it in a fifth of the time: the short path. It is correct
if Triton would specialise the new arguments in the same way. The plan's key and the alignment of the caller's tensors
decide that (a new tensor from the allocator is aligned). Calling a compiled kernel is a private interface of Triton.
So the short path is used only on versions for which a test compares what the driver gets on both paths.
FASTGAN_CACHED_LAUNCH=0 or 1 switches it off or on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .numerics import widen

INTERPRETED = not isinstance(widen, triton.JITFunction)  # TRITON_INTERPRET=1: kernels run on CPU tensors

# Not on AMD: there Triton also specialises on the size of a tensor's storage, which is in no key here.
TESTED = ("3.3.", "3.4.", "3.5.", "3.6.", "3.7.", "3.8.", "3.9.")  # tests/kernels/test_launcher.py passes on them
CACHED = {"0": False, "1": True}.get(
    os.environ.get("FASTGAN_CACHED_LAUNCH", ""), triton.__version__.startswith(TESTED) and not torch.version.hip
)
compiled_kernels: dict = {}  # by `cache_key`
_launches = 0


class Plan:
    """Everything a launch needs except its tensors: the other kernel arguments and the compile options.

    numbers: arguments that are no tensors, in order. constants: constexpr arguments, in order. options: num_warps,
    maxnreg. key: everything that the types of the arguments depend on, except alignment.
    """

    __slots__ = ("constant_args", "constants", "device", "kernel", "key", "launchers", "numbers", "options", "programs")

    def __init__(
        self, kernel, programs: int, device: torch.device, numbers: tuple, constants: dict, options: dict, key: tuple
    ):
        self.kernel, self.programs, self.device, self.numbers = kernel, programs, device, numbers
        self.constants, self.options, self.key = constants, options, key
        self.constant_args = tuple(constants.values())
        self.launchers: dict = {}  # {alignment: the compiled kernel's `compiled[grid]`}


def launch_count() -> int:
    """How many kernels this process has launched so far."""
    return _launches


def launch(plan: Plan, args: tuple, tensors: Sequence[Tensor]) -> None:
    """Launch the plan's kernel on its device, on the current stream.

    args: the kernel's arguments before its constants, in order. tensors: those among them that may be misaligned, which
    are the caller's.
    """
    global _launches
    _launches += 1
    if plan.device.type != "cuda":
        plan.kernel[(plan.programs,)](*args, **plan.constants, **plan.options)
    elif plan.device.index != torch.cuda.current_device():
        with torch.cuda.device(plan.device):
            _launch_on_current(plan, args, tensors)
    else:
        _launch_on_current(plan, args, tensors)


def alignment(tensors: Sequence[Tensor]) -> bool | tuple[bool, ...]:
    """True if all tensors begin at multiples of 16 bytes, else whether each one does."""
    addresses = 0
    for x in tensors:
        addresses |= x.data_ptr()
    return not addresses & 15 or tuple([not x.data_ptr() & 15 for x in tensors])


def cache_key(plan: Plan, tensors: Sequence[Tensor]) -> tuple:
    """The key of `compiled_kernels`: launches with equal keys run the same compiled kernel."""
    return plan.kernel, plan.device.index, plan.key, alignment(tensors)


def _launch_on_current(plan: Plan, args: tuple, tensors: Sequence[Tensor]) -> None:
    aligned = alignment(tensors)
    launcher = plan.launchers.get(aligned)
    if launcher is not None:
        launcher(*args, *plan.constant_args)
        return
    key = cache_key(plan, tensors)
    compiled = compiled_kernels.get(key)
    if compiled is None:
        options = plan.options
        if torch.version.hip:
            options = {name: value for name, value in options.items() if name != "maxnreg"}  # only NVIDIA has it
        compiled = plan.kernel[(plan.programs,)](*args, **plan.constants, **options, enable_fp_fusion=True)
    else:
        compiled[(plan.programs, 1, 1)](*args, *plan.constant_args)
    if CACHED:
        compiled_kernels[key] = compiled
        plan.launchers[aligned] = compiled[(plan.programs, 1, 1)]
