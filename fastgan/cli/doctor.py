"""`fastgan doctor`: what this machine has, which backend runs on it, and whether its numbers are right."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import sys
from itertools import product

import torch
from torch import Tensor

import fastgan
from fastgan import compat, reference
from fastgan.checks import said
from fastgan.cli import steps
from fastgan.cli.errors import FAILED, OK, Refused, refusing
from fastgan.operators.dispatch import backend_for

SIZES = (1, 2, 31, 257, 4_096, 100_003)  # logits a side
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # float64 is what the reference is computed in
# Without the relativistic averages: subtracting an average can cancel digits, so that an element has no error bound.
OBJECTIVES = tuple(name for name, objective in fastgan.objectives().items() if objective.relation != "average")

# Largest relative error allowed, in units of the rounding step (eps) of the result's dtype. A loss is the mean of up to
# 10^5 terms, returned in float32; a gradient is one term, rounded once.
LOSS_STEPS, GRADIENT_STEPS = 32, 16


def run_doctor(args: argparse.Namespace) -> int:
    if args.step is not None:
        return steps.inspect(args)
    if args.json:
        raise Refused("--json: is for --step module:function")
    with refusing(), contextlib.suppress(RuntimeError):  # RuntimeError: the backend fails here, which examine() reports
        backend_for(torch.device("cpu"))
    return OK if examine() else FAILED


def examine() -> bool:
    """Print the report and return whether the self-test passed on every device."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    print(f"fastgan {fastgan.__version__}, python {platform.python_version()}, {machine}")
    print(f"torch {torch.__version__}, triton {_version('triton')}")
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        print(f"CUDA {torch.version.cuda}")
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            devices.append(torch.device("cuda", i))
            print(f"cuda:{i}: {p.name}, compute capability {p.major}.{p.minor}, {p.total_memory / 2**30:.0f} GiB")
            print(f"  training: {_training(devices[-1])}")
    else:
        print(f"no CUDA device ({'this torch was built without CUDA' if torch.version.cuda is None else 'none found'})")
    for package, what in _EXTRAS:
        print(f"{package} {_version(package)}: {what}")
    known = "; ".join(
        f"{place}: fastgan.patch({name!r})" for name, place in compat.importable([os.getcwd(), *sys.path])
    )
    print(f"codebases that fastgan.patch knows, in this folder or installed: {known or 'none'}")
    results = [_examine_device(device) for device in devices]  # a list: all devices, also after one that fails
    passed = all(results)
    if passed and len(devices) == 1 and _version("triton") != "not installed" and backend_for(devices[0]) == "torch":
        print("the Triton kernel can be checked here, slowly, through its interpreter:")
        print("  TRITON_INTERPRET=1 FASTGAN_BACKEND=triton fastgan doctor")
    print("all well" if passed else "FAILED: do not train with this installation")
    return passed


def _training(device: torch.device) -> str:
    """Which precision and whether CUDA graphs work on a GPU; a small graph is captured and replayed to find out."""
    bfloat16 = torch.cuda.get_device_capability(device)[0] >= 8
    precision = "bfloat16 by default" if bfloat16 else "float32 by default, no fast bfloat16"
    try:
        with torch.cuda.device(device):
            x, graph = torch.ones(8, device=device), torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                y = x * 2
            graph.replay()
            works = bool((y == 2).all())
    except RuntimeError as error:
        return f"{precision}, CUDA graphs cannot be captured ({said(error)})"
    return f"{precision}, {'the step in one CUDA graph' if works else 'CUDA graphs replay wrongly: --no-capture'}"


# Optional packages, and what they add.
_EXTRAS = (
    ("torchmetrics", "FID and KID with --inception (extra metrics)"),
    ("datasets", "data from .parquet files and the Hugging Face hub (extra hub)"),
    ("onnxscript", "fastgan export --format onnx (extra export)"),
    ("huggingface_hub", "trained generators to and from the Hugging Face hub (extra export)"),
)


def _examine_device(device: torch.device) -> bool:
    try:
        print(f"{device}: losses are computed by {_BACKEND_NAMES[backend_for(device)]}")
        interpreted = backend_for(device) == "triton" and device.type != "cuda"  # much slower: no largest size
        passed = True
        for dtype in DTYPES:
            loss, gradient = self_test(device, dtype, SIZES[:-1] if interpreted else SIZES)
            fits = loss <= LOSS_STEPS * torch.finfo(torch.float32).eps
            fits &= gradient <= GRADIENT_STEPS * torch.finfo(dtype).eps
            passed &= fits
            name = str(dtype).removeprefix("torch.")
            print(f"  {name:8}  worst relative error: loss {loss:.1e}, gradient {gradient:.1e}  {_verdict(fits)}")
    except Exception as error:  # a compiler or a driver may raise anything, and the doctor reports it
        print(f"  {type(error).__name__}: {said(error)}  {_verdict(False)}")
        return False
    return passed


def self_test(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = SIZES) -> tuple[float, float]:
    """The worst relative error of a loss, and of an element of a gradient, against the reference in float64.

    It tests value_and_grad, and loss followed by backward. Logits are N(0, 4), seeded, with a different number on each
    side; the reference gets them after they are rounded to `dtype`. If a number underflows in `dtype`, its error is
    relative to the smallest normal number of `dtype`.
    """
    random = torch.Generator().manual_seed(0)
    worst_loss = worst_gradient = 0.0
    for n in sizes:
        real = (2 * torch.randn(n, generator=random, dtype=torch.float64)).to(dtype)
        unequal = (2 * torch.randn(n + n // 3, generator=random, dtype=torch.float64)).to(dtype)
        for objective, options, side in product(OBJECTIVES, ({}, {"weight": 0.5}), ("discriminator", "generator")):
            compares = fastgan.objectives()[objective].relation is not None
            fake = unequal[:n] if compares else unequal
            logits = (real, fake) if side == "discriminator" else (fake,)
            seen = {"real_logits": real} if side == "generator" and compares else {}
            exact = getattr(reference, f"{side}_value_and_grad")(
                *(x.double() for x in logits), objective, **options, **{k: x.double() for k, x in seen.items()}
            )
            here = [x.to(device, copy=True) for x in logits]
            seen_here = {k: x.to(device) for k, x in seen.items()}
            out = getattr(fastgan, f"{side}_value_and_grad")(*here, objective, **options, **seen_here)
            for x in here:
                x.requires_grad_()
            loss = getattr(fastgan, f"{side}_loss")(*here, objective, **options, **seen_here)
            loss.backward()
            # if positive and negative logits can cancel, the error is relative to the sum of their sizes
            size = exact.loss.abs().clamp(min=_summed(logits) if objective in _SIGNED else 0.0)
            worst_loss = max(worst_loss, *((v.cpu() - exact.loss).abs().div(size).item() for v in (out.loss, loss)))
            gradients = [*zip(out.grads, exact.grads), *zip((x.grad for x in here), exact.grads)]
            worst_gradient = max(worst_gradient, *(_error(g, e, dtype) for g, e in gradients))
    return worst_loss, worst_gradient


_SIGNED = ("wasserstein", "hinge")


def _summed(logits: tuple[Tensor, ...]) -> float:
    return sum(x.double().abs().mean().item() for x in logits)


def _error(value: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The largest |value - exact| / |exact| of all elements; infinite if a value is not a number."""
    value, smallest = value.detach().cpu().double(), torch.finfo(dtype).tiny
    error = ((value - exact).abs() / exact.abs().clamp(min=smallest)).max().item()
    return error if error == error else float("inf")


_BACKEND_NAMES = {"triton": "the Triton kernel (triton)", "torch": "the closed form in PyTorch (torch)"}


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
