"""`python -m bench checks`: checks that need a CUDA device. Each is a row, pass or fail."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import fastgan
from bench.codebases.shapes import HIFIGAN
from bench.harness import environment, report
from bench.harness.accuracy import DTYPES
from bench.harness.clock import Cuda
from bench.harness.graph_nodes import kernel_nodes
from bench.harness.overheads import measure_overheads
from bench.harness.statistics import interval
from bench.suites.contenders import draw
from fastgan.compat import hifigan

N = 100_003
COPIED = 2**30  # bytes
RERUNS = 10_000
GRAD_OUTPUT_FILL = 1  # autograd starts a backward pass with a grad_output of one, which a separate kernel fills in


class Call(NamedTuple):
    """draw: (dtype, seed) -> inputs. run: inputs -> results. kernels: the number of kernels that it launches. kept: the
    bytes for each element of a gradient that are held from the forward to the backward pass."""

    draw: Callable[[torch.dtype, int], list[Tensor]]
    run: Callable[[list[Tensor]], Sequence[Tensor]]
    kernels: int
    kept: int = 0


def _generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cuda").manual_seed(seed)


def two_sides(dtype: torch.dtype, seed: int) -> list[Tensor]:
    return list(draw(N, dtype, "cuda", _generator(seed)))


def hifigan_logits(dtype: torch.dtype, seed: int) -> list[Tensor]:
    """The logits of HiFi-GAN's eight discriminators, real data first: sixteen tensors."""
    random = _generator(seed)
    pairs = [draw(math.prod(shape), dtype, "cuda", random) for shape in HIFIGAN]
    return [real for real, _ in pairs] + [fake for _, fake in pairs]


def points(dtype: torch.dtype, seed: int) -> list[Tensor]:
    random = _generator(seed)
    return [torch.randn(1000, 64, generator=random, device="cuda").to(dtype).requires_grad_() for _ in range(2)]


def value_and_grad(tensors: list[Tensor]) -> Sequence[Tensor]:
    out = fastgan.discriminator_value_and_grad(*tensors)
    return out.loss, out.terms, *out.grads


def drop_in(tensors: list[Tensor]) -> Sequence[Tensor]:
    loss = fastgan.discriminator_loss(*tensors)
    return loss, *torch.autograd.grad(loss, tensors)


def drop_in_of_lists(tensors: list[Tensor]) -> Sequence[Tensor]:
    loss, *_ = hifigan.discriminator_loss(tensors[:8], tensors[8:])
    return loss, *torch.autograd.grad(loss, tensors)


def feature_matching(tensors: list[Tensor]) -> Sequence[Tensor]:
    loss = fastgan.feature_matching_loss(tensors[8:], [x.detach() for x in tensors[:8]])
    return loss, *torch.autograd.grad(loss, tensors[8:])


def feature_matching_by_signs(tensors: list[Tensor]) -> Sequence[Tensor]:
    loss = fastgan.feature_matching_loss(tensors[8:], [x.detach() for x in tensors[:8]], save="signs")
    return loss, *torch.autograd.grad(loss, tensors[8:])


def mmd(tensors: list[Tensor]) -> Sequence[Tensor]:
    out = fastgan.mmd_value_and_grad(tensors[0], tensors[1].detach(), (4.0, 8.0))
    return out.loss, out.grad


CALLS: dict[str, Call] = {
    "value_and_grad": Call(two_sides, value_and_grad, 1),
    "drop-in": Call(two_sides, drop_in, 2 + GRAD_OUTPUT_FILL),
    "HiFi-GAN's drop-in": Call(hifigan_logits, drop_in_of_lists, 2 + GRAD_OUTPUT_FILL),
    "feature matching": Call(hifigan_logits, feature_matching, 2 + GRAD_OUTPUT_FILL),
    "feature matching, signs": Call(hifigan_logits, feature_matching_by_signs, 2 + GRAD_OUTPUT_FILL, kept=1),
    "MMD": Call(points, mmd, 1),
}


def launches_as_graph_nodes(call: Call, tensors: list[Tensor]) -> str | None:
    nodes = kernel_nodes(lambda: call.run(tensors))
    return None if sum(nodes.values()) == call.kernels else f"{nodes}, expected {call.kernels} kernels and nothing else"


def launches_by_the_profiler(call: Call, tensors: list[Tensor]) -> str | None:
    counted = Cuda(quick=True).launches(lambda _: call.run(tensors))
    return None if counted == call.kernels else f"{counted} launches, expected {call.kernels}"


def no_synchronisation(call: Call, tensors: list[Tensor]) -> str | None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.run(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def graph_replay(call: Call, tensors: list[Tensor]) -> str | None:
    """A graph captured with one batch and replayed with another gives eager's results, bit for bit."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call.run(tensors)
    for seed in range(1, 6):
        with torch.no_grad():
            for static, fresh in zip(tensors, call.draw(tensors[0].dtype, seed)):
                static.copy_(fresh)
        graph.replay()
        if any(not torch.equal(one, other) for one, other in zip(captured, call.run(tensors))):
            return f"replay {seed} differs from eager"
    return None


def allocates_outputs_only(call: Call, tensors: list[Tensor]) -> str | None:
    """Counts the bytes requested from the allocator, which hands out larger blocks. Copies of scalars and rows of
    statistics are allowed; an allocation of the size of an input is not."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    out = call.run(tensors)
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    outputs = sum(x.untyped_storage().nbytes() for x in {x.untyped_storage().data_ptr(): x for x in out}.values())
    allowed = outputs + call.kept * sum(x.numel() for x in out[1:]) + min(x.nbytes for x in tensors) // 2
    return None if peak <= allowed else f"{peak} bytes requested, the results have {outputs}"


def same_bits(call: Call, tensors: list[Tensor]) -> str | None:
    """The comparisons stay on the device; only float32 runs thousands of times."""
    first = [x.clone() for x in call.run(tensors)]
    differs = torch.zeros((), dtype=torch.bool, device="cuda")
    reruns = RERUNS if tensors[0].dtype == torch.float32 else RERUNS // 100
    for _ in range(reruns // (1 if call.kernels == 1 else 10)):
        for one, other in zip(first, call.run(tensors)):
            differs |= (one != other).any()
    return "differs from run to run" if differs.item() else None


CHECKS = (
    launches_as_graph_nodes,
    launches_by_the_profiler,
    no_synchronisation,
    graph_replay,
    allocates_outputs_only,
    same_bits,
)


def _first_call(name: str, dtype: str) -> None:
    call = CALLS[name]
    call.run(call.draw(DTYPES[dtype], 0))
    torch.cuda.synchronize()


def _first_cell(suite: str, name: str) -> None:
    """Run the launches of a headline cell, with small shapes, since a kernel's code does not depend on them."""
    from bench.codebases.matching import BY_NAME
    from bench.suites import matching, mmd

    if suite == "mmd":
        n, d = mmd.cells("cuda")[name]
        batch, makers = mmd.draw(n, d, "cuda", _generator(0)), mmd.steps("cuda", d)
    else:
        maps = matching.draw(BY_NAME[name], "cuda", True, _generator(0))
        batch, makers = (maps,), matching.steps(BY_NAME[name], maps, None)
    for contender in mmd.OURS if suite == "mmd" else matching.OURS:
        makers[contender]()(*batch)
    torch.cuda.synchronize()


def compile_all() -> None:
    """Compile the kernels of all checks and headlines in several processes; Triton caches them on disk."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(14, os.cpu_count() or 1), mp_context=context) as pool:
        made = [pool.submit(_first_cell, "mmd", "16384 x 64"), pool.submit(_first_cell, "matching", "hifigan")]
        made += [pool.submit(_first_call, name, dtype) for name in CALLS for dtype in DTYPES]
        for task in concurrent.futures.as_completed(made):
            if error := task.exception():  # the check will meet it again, and report it
                print(f"compiling: {type(error).__name__}: {error}")


def measure_machine(clock: Cuda) -> dict:
    """Bounds on every time here: a copy, in bytes read and written per second, and calls that do no work."""
    source = torch.ones(COPIED // 4, device="cuda")
    target = torch.empty_like(source)
    call = lambda _: target.copy_(source)  # noqa: E731
    times = [clock.sample(call, {"host": 1, "device": 5})["device"] for _ in range(9)]
    return {
        "copy_bytes_per_s": 2 * COPIED / interval(times)["median"] * 1e6,
        "limits": measure_overheads(clock, quick=True),
    }


def run(out: Path | None, commit: str | None) -> int:
    """Run the checks and print the table; out/checks.json is written after every check."""
    if not torch.cuda.is_available():
        print("python -m bench checks: needs a CUDA device", file=sys.stderr)
        return 2
    results = {
        "environment": environment.describe("cuda", commit),
        "machine": measure_machine(Cuda(quick=True)),
        "rows": [],
    }
    if out is not None:
        environment.write_json(out / "checks.json", results)
    compile_all()
    for check in CHECKS:
        for name, call in CALLS.items():
            for dtype, torch_dtype in DTYPES.items():
                try:
                    tensors = call.draw(torch_dtype, 0)
                    for _ in range(2):
                        call.run(tensors)
                    wrong = check(call, tensors)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                results["rows"].append({"check": check.__name__, "call": name, "dtype": dtype, "wrong": wrong})
        if out is not None:
            environment.write_json(out / "checks.json", results)
    print(markdown(results))
    return 1 if any(row["wrong"] for row in results["rows"]) else 0


def markdown(results: dict) -> str:
    """A line for each check and call; what is wrong, by dtype."""
    copied = results["machine"]["copy_bytes_per_s"] / 1e12
    env = results["environment"]
    lines = [f"# Checks that need a GPU, on {env['device']}", "", report.made_on(env)]
    lines += [f"A copy moves {copied:.2f} TB/s, bytes read and written.", ""]
    found: dict[tuple[str, str], list[str]] = {}
    for row in results["rows"]:
        wrong = found.setdefault((row["check"].replace("_", " "), row["call"]), [])
        wrong += [f"{row['dtype']}: {row['wrong']}"] if row["wrong"] else []
    lines += report.table(["check", "call", ""], [(*key, "; ".join(wrong) or "pass") for key, wrong in found.items()])
    return "\n".join(lines) + "\n"
