"""The kernel of the maximum mean discrepancy, for GPUs that are not here: part of `python -m bench machine-code`.

Promises, for every launch:
  tiles of points are read 128 bits at a time                                 products, sm_80 and sm_90
  nothing spills                                                              differences
  nothing spills in a loop over tiles                                         products, sm_80, sm_90 and sm_100
  products are taken by matrix units                                          products
  shared memory suffices                                                      every launch
"""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch

from bench.checks.machine_code import (
    MULTIPROCESSORS,
    TARGETS,
    Broken,
    Launch,
    _opcode,
    _Recorder,
    compiled,
    instructions,
    loops,
)
from bench.harness.progress import progress
from bench.suites.contenders import DTYPES

SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}  # bytes a program may have


@dataclass(frozen=True)
class Call:
    """What is asked of the launcher, of as many points a side."""

    name: str
    points: int
    dimensions: int
    dtype: str = "float32"
    value: bool = True
    gradient: bool = True
    precision: str = "fp32"


CALLS = (
    Call("value_and_grad, 2 dimensions", 16384, 2, precision="exact"),
    Call("value_and_grad, 64 dimensions", 16384, 64),
    Call("value_and_grad, 64 dimensions, tf32", 16384, 64, precision="tf32"),
    Call("drop-in backward, 256 dimensions", 16384, 256, "bfloat16", value=False),
    Call("value_and_grad, 64 dimensions", 16384, 64, "bfloat16"),
    Call("value_and_grad, 256 dimensions", 16384, 256),
)


def recorded(call: Call, target: str) -> Launch:
    """What `fastgan.kernels.mmd` would launch for this call on such a GPU."""
    module = importlib.import_module("fastgan.kernels.mmd")
    launching = importlib.import_module("fastgan.kernels.launch")
    real_launch, found = module.launch, []

    def launch(kernel, programs, device, *rest, **named):
        recorder = _Recorder()
        real_launch(recorder, programs, torch.device("cuda", 0), *rest, **named)
        key = (*named["key"], *[x.data_ptr() % 16 == 0 for x in named["given"]])
        found.extend(Launch(call.name, call.dtype, kernel, *launched, key) for launched in recorder.launches)

    x, y = (torch.empty(call.points, call.dimensions, dtype=DTYPES[call.dtype]) for _ in range(2))
    hip = "any" if TARGETS[target].backend == "hip" else None
    with (
        mock.patch.object(module, "launch", launch),
        mock.patch.object(module, "processors", lambda _: MULTIPROCESSORS[target]),
        mock.patch.object(launching, "_compiled", {}),
        mock.patch.object(torch.version, "hip", hip),
        mock.patch("torch.cuda.current_device", lambda: 0),
    ):
        module.mmd(
            *(x, y, (4.0, 2.0, 1.0, 0.5), "gaussian"),
            powers=(False, True, True, False),
            precision=call.precision,
            value=call.value,
            of_x=call.gradient,
        )
    if len(found) != 1:
        raise Broken(f"{call.name}: {len(found)} launches, expected 1")
    return found[0]


def measure(call: Call, target: str) -> dict:
    launch = recorded(call, target)
    binary = compiled(launch, target)
    row = {
        "launch": call.name,
        "dtype": call.dtype,
        "target": target,
        "products": launch.options["DOT"] is not None,
        "block": f"{launch.options['BI']} x {launch.options['BJ']}",
        "shared": binary.metadata.shared,
    }
    row |= (_nvidia if TARGETS[target].backend == "cuda" else _amd)(binary)
    row["broken"] = list(broken(row))
    return row


def _nvidia(binary) -> dict:
    code, labels, usage = instructions(binary.asm["cubin"])
    opcodes = [_opcode(i) for i in code]
    tiles = [[_opcode(i) for i in body] for body in loops(code, labels)]
    tiles = [body for body in tiles if any(_is_load(op) for op in body)]
    # Differences, which products fall back to, read a coordinate at a time.
    loads = [op for body in tiles if any(map(_is_product, body)) for op in body if _is_load(op)]
    return {
        "registers": int(re.search(r"\bREG:(\d+)", usage)[1]),
        "spills": _spills(opcodes),
        "spills_in_loops": sum(_spills(body) for body in tiles),
        "loads_128": sum(".128" in op for op in loads),
        "loads_narrow": sum(".128" not in op for op in loads),
        "matrix": sum(map(_is_product, opcodes)),
        "instructions": len(code),
    }


def _is_load(opcode: str) -> bool:
    return opcode.startswith("LDG") and not opcode.startswith("LDGDEPBAR")


def _is_product(opcode: str) -> bool:
    return re.match(r"HMMA|HGMMA|UTC\w*MMA", opcode) is not None


def _spills(opcodes: Sequence[str]) -> int:
    return sum(op.split(".")[0] in ("LDL", "STL") for op in opcodes)


def _amd(binary) -> dict:
    text = binary.asm["amdgcn"]
    spills = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1])
    return {
        "registers": int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1]),
        "spills": spills,
        "spills_in_loops": None,
        "loads_128": len(re.findall(r"(?:global|buffer|flat)_load_dwordx4\b", text)),
        "loads_narrow": None,
        "matrix": len(re.findall(r"\bv_mfma", text)),
        "instructions": len(re.findall(r"^\s+[svgb]\w*_\w+", text, re.M)),
    }


def broken(row: dict) -> Iterator[str]:
    """The promises that this row breaks, one sentence each."""
    if row["shared"] > SHARED[row["target"]]:
        yield f"{row['shared']} bytes of shared memory, {SHARED[row['target']]} are there"
    if not row["products"]:
        if row["spills"]:
            yield f"{row['spills']} spills"
        return
    if row["target"] in ("sm_80", "sm_90") and (not row["loads_128"] or row["loads_narrow"]):
        yield f"loads: {row['loads_128']} of 128 bits, {row['loads_narrow']} narrower"
    if row["spills_in_loops"]:  # None on AMD, whose compiler does not say where
        yield f"{row['spills_in_loops']} spills in loops"
    if not row["matrix"]:
        yield "no instruction of the matrix units"


def table(rows: list[dict]) -> str:
    head = (
        "launch",
        "dtype",
        "target",
        "block",
        "registers",
        "spills",
        "in loops",
        "shared",
        "matrix",
        "instructions",
        "",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        keys = ("launch", "dtype", "target", "block", "registers", "spills", "spills_in_loops", "shared", "matrix")
        cells = [row[key] for key in (*keys, "instructions")]
        lines.append(f"| {' | '.join(map(str, [*cells, '; '.join(row['broken']) or 'kept']))} |")
    return "\n".join(lines)


def rows(targets: Sequence[str], jobs: int) -> list[dict]:
    """One row a build, by `jobs` processes."""
    work = [(call, target) for target in targets for call in CALLS]
    if jobs == 1:
        return [measure(*item) for item in progress(work, "machine code, mmd")]
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(work)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, *item) for item in work]
        return [future.result() for future in progress(futures, "machine code, mmd")]
