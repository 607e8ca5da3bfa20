"""`python -m bench tune`: what the kernels' block sizes and numbers of programs are chosen by, on the GPU at hand.

Each problem is timed with several launch plans, interleaved, beside the plan that the package has. Nothing is changed:
the table says which plan is the fastest here, and by how much.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

import fastgan
from bench.harness import environment
from bench.harness.accuracy import DTYPES
from bench.harness.clock import Cuda, sample_rounds
from bench.harness.report import made_on, microseconds
from bench.harness.statistics import interval
from bench.suites.contenders import draw

ADVERSARIAL = importlib.import_module("fastgan.kernels.adversarial")  # the package's function has the module's name
MMD = importlib.import_module("fastgan.kernels.mmd")


class Launch(NamedTuple):
    """per: programs on a multiprocessor; 0: one program does it all. ahead: the next tile is read before this one is
    computed."""

    block: int
    warps: int
    registers: int
    per: int
    ahead: bool = False

    def __str__(self) -> str:
        programs = f"{self.per} programs a multiprocessor" if self.per else "one program"
        ahead = ", a tile ahead" if self.ahead else ""
        return f"block {self.block}, {self.warps} warps, {self.registers} registers, {programs}{ahead}"


class Tile(NamedTuple):
    rows: int
    columns: int
    warps: int

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.columns} columns, {self.warps} warps"


LARGE = (
    *(Launch(1024, 4, 64, 7, True), Launch(1024, 4, 72, 7, True), Launch(1024, 4, 80, 6, True)),
    *(Launch(512, 4, 64, 7, True), Launch(2048, 8, 64, 3, True), Launch(2048, 4, 96, 5, True)),
    *(Launch(2048, 4, 96, 5), Launch(4096, 4, 128, 4)),
)
SMALL = (Launch(4096, 8, 128, 0), Launch(2048, 8, 255, 0), Launch(1024, 4, 128, 5))
MIDDLE = (Launch(512, 4, 96, 5), Launch(1024, 4, 96, 5))
TILES = (Tile(128, 64, 8), Tile(128, 32, 8), Tile(128, 16, 8), Tile(64, 32, 4))


@contextmanager
def replaced(module, plan: Callable) -> Iterator[None]:
    with mock.patch.object(module, "plan", plan):
        yield


def two_sides(launch: Launch) -> Callable:
    """A plan of `kernels.adversarial` for two sides of one size."""

    def plan(sizes: Sequence[int], dtype: torch.dtype, processors: int, streams: int = 1):
        shape = dict(SINGLE=not launch.per, BLOCK=launch.block, AHEAD=launch.ahead)
        options = dict(num_warps=launch.warps, maxnreg=launch.registers)
        tiles = math.ceil(sizes[0] / launch.block)
        programs = max(1, min(tiles, ADVERSARIAL.MAX_PROGRAMS // 2, launch.per * processors // 2))
        return shape, options, (programs, 2 * programs) if launch.per else (1, 1)

    return plan


def tiles(tile: Tile) -> Callable:
    """A plan of `kernels.mmd` with these tiles."""
    own = MMD.plan

    def plan(*arguments):
        shape, options = own(*arguments)
        return shape | dict(BI=tile.rows, BJ=tile.columns), options | dict(num_warps=tile.warps)

    return plan


class Problem(NamedTuple):
    """graph: timed inside a CUDA graph, where the host plays no part."""

    module: object
    make: Callable[[], Callable[[int], object]]
    plans: dict[str, Callable]
    graph: bool = False


def discriminator(dtype: str, n: int) -> Callable[[], Callable[[int], object]]:
    def make() -> Callable[[int], object]:
        generator = torch.Generator(device="cuda").manual_seed(0)
        real, fake = (x.detach() for x in draw(n, DTYPES[dtype], "cuda", generator))
        return lambda _: fastgan.discriminator_value_and_grad(real, fake)

    return make


def two_samples(n: int, d: int) -> Callable[[], Callable[[int], object]]:
    def make() -> Callable[[int], object]:
        from bench.suites import mmd

        fake, real = mmd.draw(n, d, "cuda", torch.Generator(device="cuda").manual_seed(0))
        return lambda _: fastgan.mmd_value_and_grad(fake.detach(), real, mmd.bandwidths(d))

    return make


def problems(quick: bool) -> dict[str, Problem]:
    def adversarial(dtype: str, n: int, launches: Sequence[Launch], graph: bool = False) -> Problem:
        plans = {str(launch): two_sides(launch) for launch in launches}
        return Problem(ADVERSARIAL, discriminator(dtype, n), plans, graph)

    large = 2**20 if quick else 2**26
    points = 1024 if quick else 16384
    return {
        f"float32 {large}": adversarial("float32", large, LARGE),
        f"bfloat16 {large}": adversarial("bfloat16", large, LARGE),
        "float32 4096": adversarial("float32", 4096, SMALL, graph=True),
        f"mmd {points} x 64": Problem(MMD, two_samples(points, 64), {str(tile): tiles(tile) for tile in TILES}),
        "float32 65536": adversarial("float32", 65536, MIDDLE, graph=True),
        "float32 128": adversarial("float32", 128, (Launch(512, 4, 255, 0), Launch(1024, 4, 255, 0)), graph=True),
    }


def timed(problem: Problem, host: Cuda) -> list[dict]:
    """A row a plan: microseconds on the device, or why there are none."""
    call, rows, calls = problem.make(), [], {}
    for name, plan in {"as it is": problem.module.plan, **problem.plans}.items():

        def planned(i: int, plan=plan):
            with replaced(problem.module, plan):
                return call(i)

        row = {"plan": name}
        rows.append(row)
        try:
            planned(0)
            torch.cuda.synchronize()
            if problem.graph:
                row["graph_us"] = host.graph(planned)
            else:
                calls[name] = planned
        except Exception as error:  # too many registers, say
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    samples = sample_rounds(host, calls, 1.5, at_least=5) if calls else {}
    for row in rows:
        if row["plan"] in samples:
            row["device_us"] = interval(samples[row["plan"]]["device"])
    return rows


def run(only: list[str] | None, out: Path | None, commit: str | None, quick: bool) -> int:
    if not torch.cuda.is_available():
        print("python -m bench tune: needs a CUDA device", file=sys.stderr)
        return 2
    known = problems(quick)
    for name in only or ():
        if name not in known:
            raise ValueError(f"problem {name!r}: expected one of {', '.join(known)}")
    host = Cuda(quick=True)
    results = {"environment": environment.describe("cuda", commit), "problems": {}}
    for name, problem in known.items():
        if not only or name in only:
            results["problems"][name] = timed(problem, host)
            if out is not None:
                environment.write_json(out / "tune.json", results)
    print(markdown(results))
    return 0


def markdown(results: dict) -> str:
    """The plans of each problem, the fastest first."""
    env = results["environment"]
    lines = [f"# Launch plans on {env['device']}", "", made_on(env), "", "| problem | plan | µs |", "|---|---|---|"]
    for name, rows in results["problems"].items():
        for row in sorted(rows, key=lambda row: _time(row) or math.inf):
            time = _time(row)
            lines.append(f"| {name} | {row['plan']} | {microseconds(time) if time else row['error']} |")
    return "\n".join(lines) + "\n"


def _time(row: dict) -> float | None:
    return row["graph_us"] if "graph_us" in row else row.get("device_us", {}).get("median")
