"""What fastgan's launchers would launch on a given GPU, without that GPU, and the binary that Triton makes of it.

A launcher is called as in a training step, with `launch` replaced by a recorder, so the arguments, block sizes and
warps are those of a real launch. In bench, only `recorded` and `tune`, which replaces plans, use the internals of the
launchers in `fastgan.kernels`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import triton
from triton._utils import find_paths_if, get_iterable_path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}


@dataclass(frozen=True)
class Launch:
    """A kernel with the launcher's arguments and options. key: what the launcher assumes the binary depends on."""

    kernel: object
    grid: tuple
    arguments: tuple
    options: dict
    key: tuple


class Broken(Exception):
    """The machine code could not be made or read."""


class Recorder:
    """Replaces a kernel and records its launches."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid: tuple):
        return lambda *arguments, **options: self.launches.append((grid, arguments, options))


def recorded(module: str, call: Callable, target: str) -> Launch:
    """The single launch of `call(fastgan.kernels.<module>)` on a GPU of this target."""
    kernels = importlib.import_module(f"fastgan.kernels.{module}")
    launching = importlib.import_module("fastgan.kernels.launch")
    real_launch, found = kernels.launch, []

    def launch(plan, args, given):
        kernel, device = plan.kernel, plan.device
        plan.kernel, plan.device = Recorder(), torch.device("cuda", 0)
        try:
            real_launch(plan, args, given)
            key = (*plan.key, launching.alignment(given))
            found.extend(Launch(kernel, *launched, key) for launched in plan.kernel.launches)
        finally:
            plan.kernel, plan.device = kernel, device

    with (
        mock.patch.object(kernels, "launch", launch),
        mock.patch.object(kernels, "processors", lambda _: MULTIPROCESSORS[target]),
        mock.patch.object(kernels, "plan", kernels.plan.__wrapped__),  # no plan of another target
        mock.patch.object(launching, "CACHED", False),
        mock.patch.object(torch.version, "hip", "any" if TARGETS[target].backend == "hip" else None),
        mock.patch("torch.cuda.current_device", lambda: 0),
    ):
        call(kernels)
    if len(found) != 1:
        raise Broken(f"{len(found)} launches, expected 1")
    return found[0]


def specialised(launch: Launch, target: str) -> tuple[dict, dict, dict, dict]:
    """(options, signature, constants, attributes) that Triton's just-in-time compiler makes of the arguments."""
    backend = make_backend(TARGETS[target])
    options = dict(launch.options)
    if TARGETS[target].backend == "hip":
        options.pop("maxnreg", None)
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialisation, _ = bind(*launch.arguments, **options)
    kinds = [kind for kind, _ in specialisation]
    keys = [None if kind == "constexpr" else key for kind, key in specialisation]
    values = list(bound.values())
    signature = dict(zip(launch.kernel.arg_names, kinds))
    constants = {at: get_iterable_path(values, at) for at in find_paths_if(kinds, lambda _, kind: kind == "constexpr")}
    found = find_paths_if(keys, lambda _, key: isinstance(key, str))
    attributes = {at: backend.parse_attr(get_iterable_path(keys, at)) for at in found}
    return backend.parse_options(options).__dict__, signature, constants, attributes


def compiled(launch: Launch, target: str):
    """The binary that this launch would run."""
    options, signature, constants, attributes = specialised(launch, target)
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=TARGETS[target], options=options)
