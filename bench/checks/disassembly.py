"""Read the machine code of an ahead-of-time build of a kernel, for NVIDIA's and AMD's GPUs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import triton

from bench.checks.launches import Broken

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


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


def opcode(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def loops(code: list[str], labels: dict[str, int]) -> Iterator[list[str]]:
    """The opcodes of the innermost loops that load."""
    spans = []
    for i, instruction in enumerate(code):
        if (branch := re.search(r"\bBRA\b.*`\((\.L_\w+)\)", instruction)) and branch[1] in labels:
            begin = labels[branch[1]]
            if begin < i - 1:  # `begin == i` is the trap after EXIT
                spans.append((begin, i + 1))
    for span in spans:
        if not any(span[0] <= other[0] and other[1] <= span[1] and other != span for other in spans):
            body = [opcode(i) for i in code[span[0] : span[1]]]
            if any(map(is_load, body)):
                yield body


def is_load(op: str) -> bool:
    return op.startswith("LDG") and not op.startswith("LDGDEPBAR")


def is_product(op: str) -> bool:
    return re.match(r"HMMA|HGMMA|UTC\w*MMA", op) is not None


def spills(opcodes: Sequence[str]) -> int:
    return sum(op.split(".")[0] in ("LDL", "STL") for op in opcodes)


def widths(body: Sequence[str], stores: bool = False) -> list[int]:
    """The bits that each access to global memory moves, the widest first."""
    found = [
        re.search(r"\.(128|64|U16|S16|U8|S8|16|8)\b", op) for op in body if (op[:3] == "STG" if stores else is_load(op))
    ]
    return sorted((int(width[1].strip("US")) if width else 32 for width in found), reverse=True)


def nvidia(binary) -> tuple[dict, list[list[str]]]:
    """(the entries that the rows of all kernels share, the tile loops)."""
    code, labels, usage = instructions(binary.asm["cubin"])
    row = {key: int(re.search(rf"\b{at}:(\d+)", usage)[1]) for key, at in (("registers", "REG"), ("stack", "STACK"))}
    opcodes = [opcode(i) for i in code]
    atomics = sorted(set(re.findall(r"atom\.[\w.:]+", binary.asm["ptx"])))
    row |= {"spills": spills(opcodes), "code": len(code), "atomics": atomics, "matrix": sum(map(is_product, opcodes))}
    return row, list(loops(code, labels))


def amd(binary) -> tuple[dict, None]:
    text = binary.asm["amdgcn"]
    names = {"registers": "vgpr_count", "stack": "private_segment_fixed_size", "spills": "vgpr_spill_count"}
    row = {key: int(re.search(rf"\.{name}:\s+(\d+)", text)[1]) for key, name in names.items()}
    row["code"] = len(re.findall(r"^\s+[svgb]\w*_\w+", text, re.M))
    row["atomics"] = sorted(set(re.findall(r"(?:global|buffer|flat)_atomic_\w+", text)))
    row["matrix"] = len(re.findall(r"\bv_mfma", text))
    for kind in ("load", "store"):
        row[f"{kind}s_128"] = len(re.findall(rf"(?:global|buffer|flat)_{kind}_dwordx4\b", text))
    return row, None
