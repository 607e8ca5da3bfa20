"""`python -m bench machine-code`: compile the kernels for several GPUs, and check promises on the machine code.

Each launch is compiled ahead of time for sm_80, sm_90, sm_100 and gfx942 and disassembled with the tools in the Triton
wheel. No GPU is needed. Promises, by kernel (those on accesses are for full tiles):

adversarial
  loads and stores are 128 bits wide           every target and dtype; on gfx942, whose warps have twice the threads, if
                                               a thread has 16 bytes of a tile
  nothing spills in the tile loop              float32, bfloat16, float16
  at most 26 instructions a logit in the loop  float32 on sm_90, launches of many programs;
  at most 24                                   bfloat16 and float16, which read half as much in the same time
mmd
  tiles of points are read 128 bits at a time  products, sm_80 and sm_90
  nothing spills                               differences; in a loop over tiles also products, on NVIDIA
  matrix units compute the products            products
  shared memory suffices                       every launch
signs, of feature matching
  maps and gradients move 128 bits at a time   NVIDIA
  signs move 64 bits at a time or more         NVIDIA
  nothing spills                               float32, bfloat16, float16
  an atomic counter that orders memory         only in the forward launch
augment, bias_act, upfirdn2d, filtered_lrelu: see `image_builds` and `layer_builds`
"""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.checks import layer_builds
from bench.checks.disassembly import amd, is_product, nvidia, spills, widths
from bench.checks.image_builds import Images
from bench.checks.launches import TARGETS, Launch, compiled, recorded
from bench.checks.layer_builds import BiasAct, FilteredLrelu, Upfirdn2d
from bench.codebases import shapes
from bench.harness import environment, report
from bench.harness.accuracy import DTYPES
from bench.harness.progress import progress

MOST_INSTRUCTIONS = {"float32": 26, "bfloat16": 24, "float16": 24}
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}  # bytes that a program may use
HIFIGAN = tuple(map(math.prod, shapes.HIFIGAN))
HIFIGAN_MAPS = tuple(math.prod(shape) for maps in shapes.hifigan_maps(16, 8192) for shape in maps)
UNALIGNED = 2**22 + 3  # a size that Triton cannot specialise as a multiple of 16
FULL = tuple(DTYPES)


# The kernels: the launches, and the promises on their machine code.


@dataclass(frozen=True)
class Adversarial:
    """sizes: logits of each side, a number or one a discriminator."""

    name: str
    sizes: int | tuple[int, ...]
    value: bool
    gradient: bool
    scaled: bool
    criterion: str = "sigmoid_cross_entropy"
    pairs: bool = False
    dtypes: tuple[str, ...] = FULL

    kernel = "adversarial"

    def launch(self, dtype: str, target: str) -> Launch:
        sizes = (self.sizes,) if isinstance(self.sizes, int) else self.sizes
        real, fake = ([torch.empty(n, dtype=DTYPES[dtype]) for n in sizes] for _ in range(2))
        logits = real if self.pairs else [*real, *fake]
        scale = torch.ones((), dtype=torch.float32) if self.scaled else None

        def call(kernels) -> None:
            kernels.adversarial(
                logits, (1.0,) * len(logits), (1.0,) * len(logits), self.criterion, len(real),
                value=self.value, statistics=self.value and self.gradient, gradient=self.gradient,
                partners=fake if self.pairs else (), partner_gradient=self.pairs and self.gradient, scale=scale,
            )  # fmt: skip

        return recorded("adversarial", call, target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        row["block"] = launch.options["BLOCK"]
        row["gradient"] = launch.arguments[launch.kernel.arg_names.index("grads")] is not None
        if tiles is None:
            accesses = {f"{kind}_128": row.pop(f"{kind}_128") for kind in ("loads", "stores")}
            unknown = ("loads_narrow", "stores_narrow", "instructions_a_logit")
            return row | {"tile_loops": [accesses | dict.fromkeys(unknown)]}
        row["tile_loops"] = []
        for body in tiles:
            loads, stores = widths(body), widths(body, stores=True)
            wide, logits = loads.count(128), loads.count(128) * 16 // DTYPES[row["dtype"]].itemsize
            tile = {"loads_128": wide, "loads_narrow": len(loads) - wide}
            tile |= {"stores_128": stores.count(128), "stores_narrow": len(stores) - stores.count(128)}
            tile |= {"instructions": len(body), "spills": spills(body)}
            tile["special_function"] = sum(op.startswith("MUFU") for op in body)
            row["tile_loops"].append(tile | {"instructions_a_logit": len(body) / (logits or 1)})
        return row

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        nvidia, double = row["target"] != "gfx942", row["dtype"] == "float64"
        wide = nvidia or row["block"] // row["threads"] * DTYPES[row["dtype"]].itemsize >= 16
        if not row["tile_loops"]:
            yield "no tile loop found"
        for loop in row["tile_loops"]:
            for kind in ["loads"] + ["stores"] * row["gradient"]:
                if wide and (not loop[f"{kind}_128"] or loop[f"{kind}_narrow"]):
                    yield f"{kind}: {loop[f'{kind}_128']} of 128 bits, {loop[f'{kind}_narrow'] or 0} narrower"
            if not double and loop.get("spills"):
                yield f"{loop['spills']} spills in the tile loop"
            if is_counted(row) and loop["instructions_a_logit"] > (most := MOST_INSTRUCTIONS[row["dtype"]]):
                yield f"{loop['instructions_a_logit']:.1f} instructions a logit, at most {most}"
        if not double and not nvidia and row["spills"]:  # the compiler gives their number, not their place
            yield f"{row['spills']} spills"

    @staticmethod
    def columns(row: dict) -> dict:
        each = [tile["instructions_a_logit"] for tile in row["tile_loops"]]
        wide = ", ".join(f"{tile['loads_128']}/{tile['stores_128']}" for tile in row["tile_loops"])
        most = f"{max(each):.1f}" if each and None not in each else ""
        return {"stack": row["stack"], "128-bit ld/st": wide, "instr/logit": most}


@dataclass(frozen=True)
class Mmd:
    """points: of each side."""

    name: str
    points: int
    dimensions: int
    dtypes: tuple[str, ...] = ("float32",)
    value: bool = True
    gradient: bool = True
    precision: str = "fp32"

    kernel = "mmd"

    def launch(self, dtype: str, target: str) -> Launch:
        x, y = (torch.empty(self.points, self.dimensions, dtype=DTYPES[dtype]) for _ in range(2))
        powers, bandwidths = (False, True, True, False), (4.0, 2.0, 1.0, 0.5)
        options = dict(powers=powers, precision=self.precision, value=self.value, of_x=self.gradient)
        return recorded("mmd", lambda kernels: kernels.mmd(x, y, bandwidths, "gaussian", **options), target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        row["products"] = launch.options["DOT"] is not None
        row["block"] = f"{launch.options['BI']} x {launch.options['BJ']}"
        row["instructions"] = row["code"]
        if tiles is None:
            return row | {"spills_in_loops": None, "loads_narrow": None}
        # Only loops with products count: the fallback to differences reads one coordinate at a time.
        loads = [width for body in tiles if any(map(is_product, body)) for width in widths(body)]
        row |= {"loads_128": loads.count(128), "loads_narrow": len(loads) - loads.count(128)}
        return row | {"spills_in_loops": sum(map(spills, tiles))}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        if row["shared"] > SHARED[row["target"]]:
            yield f"{row['shared']} bytes of shared memory, {SHARED[row['target']]} available"
        if not row["products"]:
            if row["spills"]:
                yield f"{row['spills']} spills"
            return
        if row["target"] in ("sm_80", "sm_90") and (not row["loads_128"] or row["loads_narrow"]):
            yield f"loads: {row['loads_128']} of 128 bits, {row['loads_narrow']} narrower"
        if row["spills_in_loops"]:  # None on AMD, whose compiler does not give their place
            yield f"{row['spills_in_loops']} spills in loops"
        if not row["matrix"]:
            yield "no instruction of the matrix units"

    @staticmethod
    def columns(row: dict) -> dict:
        return {"in loops": row["spills_in_loops"]} | {key: row[key] for key in ("shared", "matrix", "instructions")}


@dataclass(frozen=True)
class Signs:
    """sizes: elements of the maps of one side."""

    name: str
    sizes: tuple[int, ...]
    forward: bool
    dtypes: tuple[str, ...] = FULL

    kernel = "signs"

    def launch(self, dtype: str, target: str) -> Launch:
        weights = (2.0,) * len(self.sizes)
        fakes, reals = ([torch.empty(n, dtype=DTYPES[dtype]) for n in self.sizes] for _ in range(2))
        signs = [torch.empty(n, dtype=torch.int8) for n in self.sizes]

        def call(kernels) -> None:
            if self.forward:
                kernels.matching_signs(fakes, reals, weights)
            else:
                kernels.matching_gradient(signs, weights, DTYPES[dtype], torch.ones(()), True, True)

        return recorded("matching", call, target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        row |= {"forward": self.forward, "block": launch.options["BLOCK"]}
        if tiles is None:
            return row | {"loads": None, "stores": None, "instructions": None}
        row["loads"] = sorted((w for body in tiles for w in widths(body)), reverse=True)
        row["stores"] = sorted((w for body in tiles for w in widths(body, stores=True)), reverse=True)
        return row | {"instructions": sum(map(len, tiles))}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        nvidia = row["loads"] is not None
        if nvidia:
            if not row["loads"]:
                yield "no tile loop found"
            maps, signs = ("loads", "stores") if row["forward"] else ("stores", "loads")
            for what, kind, least in (("maps", maps, 128), ("signs", signs, 64)):
                if min(row[kind], default=0) < least:
                    yield f"{what}: {kind} of {row[kind]} bits"
        if row["dtype"] != "float64" and row["spills"]:
            yield f"{row['spills']} spills"
        ordered = any("acq_rel" in atomic for atomic in row["atomics"]) if nvidia else bool(row["atomics"])
        if ordered != row["forward"]:
            yield f"atomics: {row['atomics']}"

    @staticmethod
    def columns(row: dict) -> dict:
        def counted(found: Sequence[int] | None) -> str:
            return ", ".join(f"{found.count(w)} × {w}" for w in dict.fromkeys(found)) if found else ""

        return {"loads": counted(row["loads"]), "stores": counted(row["stores"])}


# The other dtypes compile slowly and have few promises.
HALVES, WITHOUT_DOUBLE = ("float32", "bfloat16"), ("float32", "bfloat16", "float16")
CALLS = (
    Adversarial("value_and_grad, 2 × 128", 128, True, True, False),
    Adversarial("value_and_grad, 2 × 4096, scaled", 4096, True, True, True, dtypes=WITHOUT_DOUBLE),
    Adversarial(f"value_and_grad, 2 × {UNALIGNED}", UNALIGNED, True, True, False),
    Adversarial("drop-in forward, 2 × 2^22", 2**22, True, False, False, dtypes=WITHOUT_DOUBLE),
    Adversarial("drop-in backward, 2 × 2^22", 2**22, False, True, True),
    Adversarial(
        *("HiFi-GAN's list, 2 × 8 tensors, least squares", HIFIGAN, True, True, False, "least_squares"), dtypes=HALVES
    ),
    Adversarial("relativistic pairs, 2^22", 2**22, True, True, False, pairs=True, dtypes=HALVES),
    Adversarial(
        *("feature matching, 54 pairs of maps", HIFIGAN_MAPS, True, True, False, "absolute"), pairs=True, dtypes=HALVES
    ),
    Mmd("value_and_grad, 2 dimensions", 16384, 2, precision="exact"),
    Mmd("value_and_grad, 64 dimensions", 16384, 64, HALVES),
    Mmd("value_and_grad, 64 dimensions, tf32", 16384, 64, precision="tf32"),
    Mmd("drop-in backward, 256 dimensions", 16384, 256, ("bfloat16",), value=False),
    Mmd("value_and_grad, 256 dimensions", 16384, 256),
    Signs(f"signs forward, a pair of {UNALIGNED}", (UNALIGNED,), True),
    Signs(f"signs backward, a pair of {UNALIGNED}", (UNALIGNED,), False),
    Signs("signs forward, 54 pairs of maps", HIFIGAN_MAPS, True, HALVES),
    Signs("signs backward, 54 pairs of maps", HIFIGAN_MAPS, False, HALVES),
    Images("augmented, 16 × 3 × 256 × 256", (16, 3, 256, 256), dtypes=FULL),
    Images("augmented, 16 × 3 × 256 × 256, backward", (16, 3, 256, 256), "transpose", dtypes=HALVES),
    Images("augmented, 1024 × 3 × 64 × 64", (1024, 3, 64, 64), dtypes=HALVES),
    Images("augmented, 16 × 4 × 256 × 256, channels_last", (16, 4, 256, 256), last=True, dtypes=("float32",)),
    Images("augmented, 16 × 3 × 256 × 256, channels_last", (16, 3, 256, 256), last=True, dtypes=("bfloat16",)),
    *layer_builds.CALLS,
)
KERNELS = {
    "rows": Adversarial,
    "mmd": Mmd,
    "signs": Signs,
    "augment": Images,
    "bias_act": BiasAct,
    "upfirdn2d": Upfirdn2d,
    "filtered_lrelu": FilteredLrelu,
}


def measure(
    call: Adversarial | Mmd | Signs | Images | BiasAct | Upfirdn2d | FilteredLrelu, dtype: str, target: str
) -> dict:
    launch = call.launch(dtype, target)
    binary, size = compiled(launch, target), TARGETS[target].warp_size
    row = {"launch": call.name, "dtype": dtype, "target": target, "kernel": call.kernel, "programs": launch.grid[0]}
    row |= {"threads": binary.metadata.num_warps * size, "shared": binary.metadata.shared}
    found, tiles = (nvidia if TARGETS[target].backend == "cuda" else amd)(binary)
    row = call.row(launch, row | found, tiles)
    return row | {"broken": list(call.broken(row))}


def is_counted(row: dict) -> bool:
    """Whether there is a promise on the number of instructions per logit."""
    return row["target"] == "sm_90" and row["dtype"] != "float64" and row["programs"] > 1


def table(call: type, rows: Sequence[dict]) -> str:
    shared = {"launch": "launch", "dtype": "dtype", "target": "target", "registers": "registers", "spills": "spills"}
    found = [
        {head: row[key] for head, key in shared.items()}
        | {"block/threads": f"{row['block']}/{row['threads']}"}
        | call.columns(row)
        | {"": "; ".join(row["broken"]) or "kept"}
        for row in rows
    ]
    return "\n".join(report.table(list(found[0]), (row.values() for row in found)))


def builds(targets: Sequence[str]) -> list[tuple]:
    """(call, dtype, target) of every build."""
    return [(call, dtype, target) for target in targets for call in CALLS for dtype in call.dtypes]


def rows(work: Sequence[tuple], jobs: int) -> list[dict]:
    """One row a build. Triton compiles on one thread, so `jobs` processes share the work."""
    if jobs == 1:
        return [measure(*item) for item in progress(work, "machine code")]
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(work)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, *item) for item in work]
        return [future.result() for future in progress(futures, "machine code")]


def run(targets: str | None, path: Path | None, jobs: int | None = None) -> int:
    selected = targets.split(",") if targets else list(TARGETS)
    if unknown := [name for name in selected if name not in TARGETS]:
        raise ValueError(f"machine-code: target {unknown[0]!r}: expected one of {', '.join(TARGETS)}")
    found = rows(builds(selected), jobs or os.cpu_count() or 1)
    failed = sum(bool(row["broken"]) for row in found)
    by_kernel = {call: [row for row in found if row["kernel"] == call.kernel] for call in KERNELS.values()}
    if path is not None:
        named = dict(zip(KERNELS, by_kernel.values()))
        environment.write_json(path, {"environment": environment.describe("cpu"), "broken": failed} | named)
    print("\n\n".join(table(call, of_one) for call, of_one in by_kernel.items()))
    for dtype, promised in MOST_INSTRUCTIONS.items():
        counted = [row for row in by_kernel[Adversarial] if row["dtype"] == dtype and is_counted(row)]
        each = [tile["instructions_a_logit"] for row in counted for tile in row["tile_loops"]]
        if each:
            print(f"\nsm_90, {dtype}: at most {max(each):.1f} instructions a logit, {promised} promised")
    print(f"{len(found) - failed} of {len(found)} builds keep every promise")
    return 1 if failed else 0
