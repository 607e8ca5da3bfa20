"""What `fastgan.inspect_step` returns."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

KINDS = {
    "wait": "the host waits for the device",
    "gradients": "gradients that nothing uses",
    "branch": "a backward pass that nothing uses",
    "graph": "a graph without a backward pass",
    "loss": "a loss that fastgan can replace",
    "copy": "a copy from the host",
}


@dataclass(frozen=True)
class Finding:
    """kind: a key of `KINDS`. cost: it costs time or memory in every step; else it is a note. file, line: the user's.
    count: how often a step. share: its share of the step's floating-point operations, None if not counted."""

    kind: str
    cost: bool
    file: str
    line: int
    what: str
    advice: str
    count: int = 1
    share: float | None = None

    def __str__(self) -> str:
        times = f" × {self.count}" if self.count > 1 else ""
        share = f", {self.share:.1%} of the step's FLOPs" if self.share else ""
        note = "" if self.cost else "note: "
        head = f"{shortened(self.file)}:{self.line}: {note}{KINDS[self.kind]}: {self.what}{times}{share}"
        return f"{head}\n    {self.advice}"


@dataclass(frozen=True)
class StepReport:
    """The report on a step: `print` it, or get a dict for JSON with `to_dict()`.

    findings: costs first, then notes; by file and line. operators: the number that compute, in a step. flops: of its
    matrix multiplications, convolutions and attention, forward and backward. capture: what prevents a CUDA graph of the
    step; empty if nothing was seen. accelerated: the step used a GPU."""

    findings: tuple[Finding, ...]
    operators: int
    flops: int
    capture: tuple[str, ...]
    accelerated: bool

    @property
    def costs(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.cost)

    def to_dict(self) -> dict:
        return {**asdict(self), "findings": [asdict(f) for f in self.findings], "capture": list(self.capture)}

    def __str__(self) -> str:
        notes = len(self.findings) - len(self.costs)
        found = f"{len(self.costs) or 'no'} finding{'s' * (len(self.costs) != 1)}"
        lines = [f"{found}, {notes or 'no'} note{'s' * (notes != 1)}"]
        lines += map(str, self.findings)
        lines.append(f"a step has {self.operators:,} operators and {self.flops / 1e9:,.3f} GFLOP")
        lines.append(f"what prevents a CUDA graph of it: {'; '.join(self.capture) or 'nothing seen'}")
        if not self.accelerated and any(f.kind in ("wait", "copy") for f in self.findings):
            lines.append("it ran on a CPU, where nothing waits: these are the waits and copies it would have on a GPU")
        return "\n".join(lines)


def shortened(file: str) -> str:
    """The path relative to the current directory, if it lies below."""
    here = os.getcwd() + os.sep
    return file.removeprefix(here)
