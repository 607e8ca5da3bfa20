"""`python -m bench tune`: times from which the kernels' block sizes and numbers of programs are chosen, on this GPU.

Each problem is timed with several launch plans, interleaved with the package's own plan. Nothing is changed: the table
says which plan is the fastest here, and by how much.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

import fastgan
from bench.harness import environment, report
from bench.harness.accuracy import DTYPES
from bench.harness.clock import Call, Cuda, sample_rounds
from bench.harness.contest import one_line
from bench.harness.statistics import interval
from bench.suites import contenders, mmd

ADVERSARIAL = importlib.import_module("fastgan.kernels.adversarial")  # the package's function has the module's name
MMD = importlib.import_module("fastgan.kernels.mmd")


class Launch(NamedTuple):
    """A plan of `kernels.adversarial` for two sides of one size. per_processor: programs on each multiprocessor, or 0
    for a single program. ahead: the next tile is read before this one is computed."""

    block: int
    warps: int
    registers: int
    per_processor: int
    ahead: bool = False

    def __str__(self) -> str:
        programs = f"{self.per_processor} programs a multiprocessor" if self.per_processor else "one program"
        ahead = ", a tile ahead" if self.ahead else ""
        return f"block {self.block}, {self.warps} warps, {self.registers} registers, {programs}{ahead}"

    def blocks(self, sizes: Sequence[int], dtype: torch.dtype, processors: int, streams: int = 1):
        shape = dict(SINGLE=not self.per_processor, BLOCK=self.block, AHEAD=self.ahead)
        options = dict(num_warps=self.warps, maxnreg=self.registers)
        tiles = math.ceil(sizes[0] / self.block)
        programs = max(1, min(tiles, ADVERSARIAL.MAX_PROGRAMS // 2, self.per_processor * processors // 2))
        return shape, options, (programs, 2 * programs) if self.per_processor else (1, 1)


class Tile(NamedTuple):
    """A plan of `kernels.mmd` with these tiles. package_blocks: the package's function, which gives the rest."""

    rows: int
    columns: int
    warps: int
    package_blocks: Callable = MMD.blocks

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.columns} columns, {self.warps} warps"

    def blocks(self, *arguments):
        shape, options = self.package_blocks(*arguments)
        return shape | dict(BI=self.rows, BJ=self.columns), options | dict(num_warps=self.warps)


LARGE = (
    *(Launch(1024, 4, 64, 7, True), Launch(1024, 4, 72, 7, True), Launch(1024, 4, 80, 6, True)),
    *(Launch(512, 4, 64, 7, True), Launch(2048, 8, 64, 3, True), Launch(2048, 4, 96, 5, True)),
    *(Launch(2048, 4, 96, 5), Launch(4096, 4, 128, 4)),
)
SMALL = (Launch(4096, 8, 128, 0), Launch(2048, 8, 255, 0), Launch(1024, 4, 128, 5))
MIDDLE = (Launch(512, 4, 96, 5), Launch(1024, 4, 96, 5))
SMALLEST = (Launch(512, 4, 255, 0), Launch(1024, 4, 255, 0))
TILES = (Tile(128, 64, 8), Tile(128, 32, 8), Tile(128, 16, 8), Tile(64, 32, 4))


class Problem(NamedTuple):
    """graph: timed inside a CUDA graph, which excludes host time."""

    module: object
    make: Callable[[], Call]
    plans: Sequence[Launch | Tile]
    graph: bool = False


def problems(quick: bool) -> dict[str, Problem]:
    def adversarial(dtype: str, n: int, launches: Sequence[Launch], graph: bool = False) -> Problem:
        def make() -> Call:
            random = torch.Generator(device="cuda").manual_seed(0)
            real, fake = (x.detach() for x in contenders.draw(n, DTYPES[dtype], "cuda", random))
            return lambda _: fastgan.discriminator_value_and_grad(real, fake)

        return Problem(ADVERSARIAL, make, launches, graph)

    def two_samples(n: int, d: int) -> Problem:
        def make() -> Call:
            fake, real = mmd.draw(n, d, "cuda", torch.Generator(device="cuda").manual_seed(0))
            return lambda _: fastgan.mmd_value_and_grad(fake.detach(), real, mmd.bandwidths(d))

        return Problem(MMD, make, TILES)

    large, points = (2**20, 1024) if quick else (2**26, 16384)
    return {
        f"float32 {large}": adversarial("float32", large, LARGE),
        f"bfloat16 {large}": adversarial("bfloat16", large, LARGE),
        "float32 4096": adversarial("float32", 4096, SMALL, graph=True),
        f"mmd {points} x 64": two_samples(points, 64),
        "float32 65536": adversarial("float32", 65536, MIDDLE, graph=True),
        "float32 128": adversarial("float32", 128, SMALLEST, graph=True),
    }


def timed(problem: Problem, clock: Cuda) -> list[dict]:
    """A row for each plan: microseconds on the device, or the error."""
    call, rows, calls = problem.make(), {}, {}
    module = problem.module
    for name, blocks in {"as it is": module.blocks, **{str(p): p.blocks for p in problem.plans}}.items():
        plan = functools.cache(module.plan.__wrapped__)  # a separate cache of plans for each `blocks`

        def planned(i: int, blocks=blocks, plan=plan):
            with mock.patch.object(module, "blocks", blocks), mock.patch.object(module, "plan", plan):
                return call(i)

        row = rows[name] = {"plan": name}
        try:
            planned(0)
            torch.cuda.synchronize()
            if problem.graph:
                row["graph_us"] = clock.graph(planned)
            else:
                calls[name] = planned
        except Exception as error:  # too many registers, say
            row["error"] = one_line(error)
    for name, kinds in (sample_rounds(clock, calls, 1.5, at_least=5) if calls else {}).items():
        rows[name]["device_us"] = interval(kinds["device"])
    return list(rows.values())


def run(only: list[str] | None, out: Path | None, commit: str | None, quick: bool) -> int:
    if not torch.cuda.is_available():
        print("python -m bench tune: needs a CUDA device", file=sys.stderr)
        return 2
    known, clock = problems(quick), Cuda(quick=True)
    for name in only or ():
        if name not in known:
            raise ValueError(f"problem {name!r}: expected one of {', '.join(known)}")
    results = {"environment": environment.describe("cuda", commit), "problems": {}}
    for name in only or known:
        results["problems"][name] = timed(known[name], clock)
        if out is not None:
            environment.write_json(out / "tune.json", results)
    print(markdown(results))
    return 0


def markdown(results: dict) -> str:
    """The plans of each problem, the fastest first."""

    def time_of(row: dict) -> float | None:
        return row["graph_us"] if "graph_us" in row else row.get("device_us", {}).get("median")

    rows = []
    for name, plans in results["problems"].items():
        for row in sorted(plans, key=lambda row: time_of(row) or math.inf):
            rows.append((name, row["plan"], report.microseconds(time_of(row)) if time_of(row) else row["error"]))
    env = results["environment"]
    lines = [f"# Launch plans on {env['device']}", "", report.made_on(env), ""]
    return "\n".join([*lines, *report.table(["problem", "plan", "µs"], rows)]) + "\n"
