"""The kernel of feature matching that saves signs, for GPUs that are not here: part of `python -m bench machine-code`.

Promises, for every launch, as those of `bench.checks.machine_code`:
  maps are read and gradients written 128 bits at a time    full tiles, NVIDIA
  signs are read and written 64 bits at a time or more      full tiles, NVIDIA
  nothing spills                                            float32, bfloat16, float16
  a ticket that orders memory, in the forward launch alone  every launch
"""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import re
from collections.abc import Iterator, Sequence
from unittest import mock

import torch

from bench.checks.machine_code import (
    HIFIGAN_MAPS,
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

ONE = (2**22 + 3,)  # no size known to be a multiple of anything
CALLS = (  # name, sizes, forward?, dtypes
    ("signs forward, a pair of 2^22 + 3", ONE, True, tuple(DTYPES)),
    ("signs backward, a pair of 2^22 + 3", ONE, False, tuple(DTYPES)),
    ("signs forward, 54 pairs of maps", HIFIGAN_MAPS, True, ("float32", "bfloat16")),
    ("signs backward, 54 pairs of maps", HIFIGAN_MAPS, False, ("float32", "bfloat16")),
)


def recorded(name: str, sizes: Sequence[int], forward: bool, dtype: str, target: str) -> Launch:
    """What `fastgan.kernels.matching_signs` or `matching_gradient` would launch on such a GPU."""
    module = importlib.import_module("fastgan.kernels.matching")
    launching = importlib.import_module("fastgan.kernels.launch")
    real_launch, found = module.launch, []

    def launch(kernel, programs, device, *rest, **named):
        recorder = _Recorder()
        real_launch(recorder, programs, torch.device("cuda", 0), *rest, **named)
        key = (*named["key"], *[x.data_ptr() % 16 == 0 for x in named["given"]])
        found.extend(Launch(name, dtype, kernel, *launched, key) for launched in recorder.launches)

    with (
        mock.patch.object(module, "launch", launch),
        mock.patch.object(module, "processors", lambda _: MULTIPROCESSORS[target]),
        mock.patch.object(launching, "_compiled", {}),
        mock.patch("torch.cuda.current_device", lambda: 0),
    ):
        weights = (2.0,) * len(sizes)
        if forward:
            fakes, reals = ([torch.empty(n, dtype=DTYPES[dtype]) for n in sizes] for _ in range(2))
            module.matching_signs(fakes, reals, weights)
        else:
            signs = [torch.empty(n, dtype=torch.int8) for n in sizes]
            module.matching_gradient(signs, weights, DTYPES[dtype], torch.ones(()), True, True)
    if len(found) != 1:
        raise Broken(f"{name}: {len(found)} launches, expected 1")
    return found[0]


def measure(name: str, sizes: Sequence[int], forward: bool, dtype: str, target: str) -> dict:
    launch = recorded(name, sizes, forward, dtype, target)
    binary = compiled(launch, target)
    row = {
        "launch": name,
        "dtype": dtype,
        "target": target,
        "forward": forward,
        "block": launch.options["BLOCK"],
        "threads": binary.metadata.num_warps * TARGETS[target].warp_size,
        "programs": launch.grid[0],
    }
    row |= (_nvidia if TARGETS[target].backend == "cuda" else _amd)(binary)
    row["broken"] = list(broken(row))
    return row


def _nvidia(binary) -> dict:
    code, labels, usage = instructions(binary.asm["cubin"])
    bodies = [[_opcode(i) for i in body] for body in loops(code, labels)]
    bodies = [body for body in bodies if any(op.startswith("LDG") for op in body)]
    accesses = {}
    for kind in ("LDG", "STG"):
        ops = [op for body in bodies for op in body if op.startswith(kind)]
        accesses[kind] = sorted((_width(op) for op in ops), reverse=True)
    return {
        "registers": int(re.search(r"\bREG:(\d+)", usage)[1]),
        "spills": sum(_opcode(i).split(".")[0] in ("LDL", "STL") for i in code),
        "atomics": sorted(set(re.findall(r"atom\.[\w.:]+", binary.asm["ptx"]))),
        "loads": accesses["LDG"],
        "stores": accesses["STG"],
        "instructions": sum(map(len, bodies)),
    }


def _width(opcode: str) -> int:
    """Bits that an access moves."""
    found = re.search(r"\.(128|64|U16|S16|U8|S8|16|8)\b", opcode)
    return int(found[1].strip("US")) if found else 32


def _amd(binary) -> dict:
    text = binary.asm["amdgcn"]
    return {
        "registers": int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1]),
        "spills": int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1]),
        "atomics": sorted(set(re.findall(r"(?:global|buffer|flat)_atomic_\w+", text))),
        "loads": None,
        "stores": None,
        "instructions": None,
    }


def broken(row: dict) -> Iterator[str]:
    """The promises that this row breaks, one sentence each."""
    if row["loads"] is not None:
        if not row["loads"]:
            yield "no tile loop found"
        maps, signs = ("loads", "stores") if row["forward"] else ("stores", "loads")
        if any(width < 128 for width in row[maps]) or not row[maps]:
            yield f"maps: {maps} of {row[maps]} bits"
        if any(width < 64 for width in row[signs]) or not row[signs]:
            yield f"signs: {signs} of {row[signs]} bits"
    if row["dtype"] != "float64" and row["spills"]:
        yield f"{row['spills']} spills"
    ordered = bool(row["atomics"]) and (row["loads"] is None or any("acq_rel" in atomic for atomic in row["atomics"]))
    if ordered != row["forward"]:
        yield f"atomics: {row['atomics']}"


def table(rows: Sequence[dict]) -> str:
    head = ("launch", "dtype", "target", "BLOCK/threads", "registers", "spills", "loads", "stores", "")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (
            *(row["launch"], row["dtype"], row["target"], f"{row['block']}/{row['threads']}"),
            *(row["registers"], row["spills"], _counted(row["loads"]), _counted(row["stores"])),
            "; ".join(row["broken"]) or "kept",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _counted(widths: Sequence[int] | None) -> str:
    """'8 × 128, 1 × 64'."""
    return ", ".join(f"{widths.count(w)} × {w}" for w in dict.fromkeys(widths)) if widths else ""


def _builds(target: str, call: tuple) -> list[dict]:
    *what, dtypes = call
    return [measure(*what, dtype, target) for dtype in dtypes]


def rows(targets: Sequence[str], jobs: int) -> list[dict]:
    """One row a build, on `jobs` processes."""
    work = [(target, call) for target in targets for call in CALLS]
    if jobs == 1:
        return [row for item in progress(work, "machine code, signs") for row in _builds(*item)]
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_builds, *item) for item in work]
        return [row for future in progress(futures, "machine code, signs") for row in future.result()]
