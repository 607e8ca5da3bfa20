"""`python -m bench machine-code`: the kernels compiled for GPUs that are not here, and what the machine code says.

The launcher is called as a training step calls it, with `launch` replaced by a recorder, so that the arguments, block
sizes and warps are those it would really launch with. Each recorded launch is compiled ahead of time for sm_80, sm_90,
sm_100 and gfx942 and disassembled with what the Triton wheel brings. No GPU is needed.

Promises, for every launch:
  loads and stores of full tiles are 128 bits wide    every target and dtype; on gfx942, whose warps have twice the
                                                      threads, where a thread has 16 bytes of a tile
  nothing spills in the tile loop                     float32, bfloat16, float16
  at most 26 instructions a logit in the tile loop    float32 on sm_90, launches of many programs;
  at most 24                                          bfloat16 and float16, which read half as much in the same time
"""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton._utils import find_paths_if, get_iterable_path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from bench.harness import environment
from bench.harness.progress import progress
from bench.suites.contenders import DTYPES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
MOST_INSTRUCTIONS = {"float32": 26, "bfloat16": 24, "float16": 24}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Call:
    """What is asked of the launcher. sizes: logits of each side, a number or one a discriminator."""

    name: str
    sizes: int | tuple[int, ...]
    value: bool
    gradient: bool
    scaled: bool
    criterion: str = "sigmoid_cross_entropy"
    pairs: bool = False


_PERIODS = ((2, 1366, 456, 152, 51), (3, 911, 304, 102, 34), (5, 547, 183, 61, 21), (7, 391, 131, 44, 15))
_PERIODS += ((11, 249, 83, 28, 10),)
_SCALES = ((8192, 4096, 2048, 512, 128), (4097, 2049, 1025, 257, 65), (2049, 1025, 513, 129, 33))
HIFIGAN_MAPS = tuple(  # batch 16, segments of 8192
    16 * n
    for sizes in (
        *((32 * a * p, 128 * b * p, 512 * c * p, 1024 * d * p, 1024 * d * p, d * p) for p, a, b, c, d in _PERIODS),
        *((128 * a, 128 * b, 256 * c, 512 * d, *(1024 * e,) * 3, e) for a, b, c, d, e in _SCALES),
    )
    for n in sizes
)
HIFIGAN = tuple(16 * n for n in (102, 102, 105, 105, 110, 128, 65, 33))
CALLS = (
    Call("value_and_grad, 2 × 128", 128, True, True, False),
    Call("value_and_grad, 2 × 4096, scaled", 4096, True, True, True),
    Call("value_and_grad, 2 × 4194307", 2**22 + 3, True, True, False),  # no size known to be a multiple of anything
    Call("drop-in forward, 2 × 2^22", 2**22, True, False, False),
    Call("drop-in backward, 2 × 2^22", 2**22, False, True, True),
    Call("HiFi-GAN's list, 2 × 8 tensors, least squares", HIFIGAN, True, True, False, "least_squares"),
    Call("relativistic pairs, 2^22", 2**22, True, True, False, pairs=True),
    Call("feature matching, 54 pairs of maps", HIFIGAN_MAPS, True, True, False, "absolute", pairs=True),
)

LEFT_OUT = {  # slow to compile, and of few promises
    *[("float64", CALLS[i].name) for i in (1, 3, 5, 6, 7)],
    *[("float16", CALLS[i].name) for i in (5, 6, 7)],
}


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments and options that the launcher gave it."""

    name: str
    dtype: str
    kernel: object
    grid: tuple
    arguments: tuple
    options: dict
    key: tuple  # what the launcher thinks the binary depends on


class Broken(Exception):
    """The machine code could not be made or read."""


class _Recorder:
    """Stands in for a kernel: keeps what it would have been launched with."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid: tuple):
        return lambda *arguments, **options: self.launches.append((grid, arguments, options))


def recorded(call: Call, dtype: str, target: str) -> Launch:
    """What `fastgan.kernels.adversarial` would launch for this call on such a GPU."""
    module = importlib.import_module("fastgan.kernels.adversarial")
    launching = importlib.import_module("fastgan.kernels.launch")
    real_launch, found = module.launch, []

    def launch(kernel, programs, device, *rest, **named):
        recorder = _Recorder()
        real_launch(recorder, programs, torch.device("cuda", 0), *rest, **named)
        key = (*named["key"], *[x.data_ptr() % 16 == 0 for x in named["given"]])
        found.extend(Launch(call.name, dtype, kernel, *launched, key) for launched in recorder.launches)

    sizes = (call.sizes,) if isinstance(call.sizes, int) else call.sizes
    real, fake = ([torch.empty(n, dtype=DTYPES[dtype]) for n in sizes] for _ in range(2))
    logits = real if call.pairs else [*real, *fake]
    scale = torch.ones((), dtype=torch.float32) if call.scaled else None
    with (
        mock.patch.object(module, "launch", launch),
        mock.patch.object(module, "processors", lambda _: MULTIPROCESSORS[target]),
        mock.patch.object(launching, "_compiled", {}),
        mock.patch("torch.cuda.current_device", lambda: 0),
    ):
        module.adversarial(
            logits, (1.0,) * len(logits), (1.0,) * len(logits), call.criterion, len(real),
            value=call.value, statistics=call.value and call.gradient, gradient=call.gradient,
            partners=fake if call.pairs else (), partner_gradient=call.pairs and call.gradient, scale=scale,
        )  # fmt: skip
    if len(found) != 1:
        raise Broken(f"{call.name}: {len(found)} launches, expected 1")
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


def _tool(name: str, *arguments: str) -> str:
    try:
        return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Broken(f"{name} of the triton wheel did not run: {error}") from error


def instructions(cubin: bytes) -> tuple[list[str], dict[str, int], str]:
    """(instructions in order, {label: index of the instruction after it}, resource usage)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = _tool("nvdisasm", "-c", "-ndf", file.name) or _tool("cuobjdump", "-sass", file.name)
        usage = _tool("cuobjdump", "-res-usage", file.name)
    found, labels = [], {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_?\w+):", line):
            labels[label[1]] = len(found)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            found.append(instruction[1])
    if not found:
        raise Broken("nvdisasm listed no instructions")
    return found, labels, usage


def _opcode(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def loops(code: list[str], labels: dict[str, int]) -> Iterator[list[str]]:
    """Bodies of the innermost loops."""
    spans = []
    for i, instruction in enumerate(code):
        if (branch := re.search(r"\bBRA\b.*`\((\.L_\w+)\)", instruction)) and branch[1] in labels:
            begin = labels[branch[1]]
            if begin < i - 1:  # `begin == i` is the trap after EXIT
                spans.append((begin, i + 1))
    for span in spans:
        if not any(span[0] <= other[0] and other[1] <= span[1] and other != span for other in spans):
            yield code[span[0] : span[1]]


def nvidia(launch: Launch, binary) -> dict:
    code, labels, usage = instructions(binary.asm["cubin"])
    itemsize = DTYPES[launch.dtype].itemsize
    row = {
        key: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for key, name in (("registers", "REG"), ("stack", "STACK"))
    }
    opcodes = [_opcode(i) for i in code]
    row["spills"] = sum(op.split(".")[0] in ("LDL", "STL") for op in opcodes)
    row["code"] = len(code)
    row["atomics"] = sorted(set(re.findall(r"atom\.[\w.:]+", binary.asm["ptx"])))
    row["tile_loops"] = []
    for body in loops(code, labels):
        opcodes = [_opcode(i) for i in body]
        loads = [op for op in opcodes if op.startswith("LDG")]
        stores = [op for op in opcodes if op.startswith("STG")]
        if not loads:
            continue
        wide = sum(".128" in op for op in loads)
        logits = wide * 16 // itemsize
        row["tile_loops"].append(
            {
                "loads_128": wide,
                "loads_narrow": len(loads) - wide,
                "stores_128": sum(".128" in op for op in stores),
                "stores_narrow": sum(".128" not in op for op in stores),
                "instructions": len(body),
                "spills": sum(op.split(".")[0] in ("LDL", "STL") for op in opcodes),
                "special_function": sum(op.startswith("MUFU") for op in opcodes),
                "instructions_a_logit": len(body) / (logits or 1),
            }
        )
    return row


def amd(launch: Launch, binary) -> dict:
    text = binary.asm["amdgcn"]
    names = {"registers": "vgpr_count", "stack": "private_segment_fixed_size", "spills": "vgpr_spill_count"}
    row = {key: int(re.search(rf"\.{name}:\s+(\d+)", text)[1]) for key, name in names.items()}
    row["code"] = len(re.findall(r"^\s+[svgb]\w*_\w+", text, re.M))
    row["atomics"] = sorted(set(re.findall(r"(?:global|buffer|flat)_atomic_\w+", text)))
    count = {
        f"{kind}_128": len(re.findall(rf"(?:global|buffer|flat)_{kind[:-1]}_dwordx4\b", text))
        for kind in ("loads", "stores")
    }
    row["tile_loops"] = [count | {"loads_narrow": None, "stores_narrow": None, "instructions_a_logit": None}]
    return row


def measure(launch: Launch, target: str) -> dict:
    binary = compiled(launch, target)
    row = {
        "launch": launch.name,
        "dtype": launch.dtype,
        "target": target,
        "programs": launch.grid[0],
        "threads": binary.metadata.num_warps * TARGETS[target].warp_size,
        "block": launch.options["BLOCK"],
        "gradient": launch.arguments[launch.kernel.arg_names.index("grads")] is not None,
    }
    row |= (nvidia if TARGETS[target].backend == "cuda" else amd)(launch, binary)
    row["broken"] = list(broken(row))
    return row


def broken(row: dict) -> Iterator[str]:
    """The promises that this row breaks, one sentence each."""
    double = row["dtype"] == "float64"
    wide = row["target"] != "gfx942" or row["block"] // row["threads"] * DTYPES[row["dtype"]].itemsize >= 16
    if not row["tile_loops"]:
        yield "no tile loop found"
    for loop in row["tile_loops"]:
        if wide and (not loop["loads_128"] or loop["loads_narrow"]):
            yield f"loads: {loop['loads_128']} of 128 bits, {loop['loads_narrow'] or 0} narrower"
        if (
            (wide or row["target"] != "gfx942")
            and row["gradient"]
            and (not loop["stores_128"] or loop["stores_narrow"])
        ):
            yield f"stores: {loop['stores_128']} of 128 bits, {loop['stores_narrow'] or 0} narrower"
        if not double and loop.get("spills"):
            yield f"{loop['spills']} spills in the tile loop"
        if _counts(row) and loop["instructions_a_logit"] > (most := MOST_INSTRUCTIONS[row["dtype"]]):
            yield f"{loop['instructions_a_logit']:.1f} instructions a logit, at most {most}"
    if not double and row["target"] == "gfx942" and row["spills"]:  # the compiler says how many, and not where
        yield f"{row['spills']} spills"


def _counts(row: dict) -> bool:
    """Whether the number of instructions a logit is promised."""
    return row["target"] == "sm_90" and row["dtype"] != "float64" and row["programs"] > 1


def most_instructions(rows: list[dict]) -> dict[str, float]:
    """The most instructions a logit of each dtype that has a promise."""
    found: dict[str, float] = {}
    for row in filter(_counts, rows):
        for tile in row["tile_loops"]:
            found[row["dtype"]] = max(found.get(row["dtype"], 0.0), tile["instructions_a_logit"])
    return found


def table(rows: list[dict]) -> str:
    head = (
        "launch",
        "dtype",
        "target",
        "BLOCK/threads",
        "registers",
        "stack",
        "spills",
        "128-bit ld/st",
        "instr/logit",
        "",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        tiles = row["tile_loops"]
        wide = ", ".join(f"{loop['loads_128']}/{loop['stores_128']}" for loop in tiles)
        each = [loop["instructions_a_logit"] for loop in tiles if loop["instructions_a_logit"] is not None]
        cells = (
            *(row["launch"], row["dtype"], row["target"], f"{row['block']}/{row['threads']}"),
            *(row["registers"], row["stack"], row["spills"], wide, f"{max(each):.1f}" if each else ""),
            "; ".join(row["broken"]) or "kept",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _builds(target: str, dtype: str) -> list[dict]:
    calls = [call for call in CALLS if (dtype, call.name) not in LEFT_OUT]
    return [measure(recorded(call, dtype, target), target) for call in calls]


def rows(targets: Sequence[str], jobs: int) -> list[dict]:
    """One row a build. Triton compiles on one thread, so `jobs` processes share the work."""
    work = [(target, dtype) for target in targets for dtype in DTYPES]
    jobs = min(jobs, len(work))
    if jobs == 1:
        return [row for item in progress(work, "machine code") for row in _builds(*item)]
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_builds, *item) for item in work]
        return [row for future in progress(futures, "machine code") for row in future.result()]


def run(targets: str | None, path: Path | None, jobs: int | None = None) -> int:
    from bench.checks import machine_code_matching, machine_code_mmd

    chosen = targets.split(",") if targets else list(TARGETS)
    if unknown := [name for name in chosen if name not in TARGETS]:
        print(
            f"python -m bench machine-code: target {unknown[0]!r}: expected one of {', '.join(TARGETS)}",
            file=sys.stderr,
        )
        return 2
    found = rows(chosen, jobs or os.cpu_count() or 1)
    of_mmd = machine_code_mmd.rows(chosen, jobs or os.cpu_count() or 1)
    of_signs = machine_code_matching.rows(chosen, jobs or os.cpu_count() or 1)
    failed = [row for row in (*found, *of_mmd, *of_signs) if row["broken"]]
    if path is not None:
        header = environment.describe("cpu")
        environment.write_json(
            path,
            {
                "environment": header,
                "rows": found,
                "broken": sum(map(bool, (row["broken"] for row in found))),
                "mmd": of_mmd,
                "signs": of_signs,
            },
        )
    print(f"{table(found)}\n\n{machine_code_mmd.table(of_mmd)}\n\n{machine_code_matching.table(of_signs)}")
    for dtype, most in most_instructions(found).items():
        print(f"\nsm_90, {dtype}: at most {most:.1f} instructions a logit, {MOST_INSTRUCTIONS[dtype]} promised")
    builds = len(found) + len(of_mmd) + len(of_signs)
    print(f"{builds - len(failed)} of {builds} builds keep every promise")
    return 1 if failed else 0
