"""`python -m bench losses`: the discriminator loss with its gradients, by every contender, dtype and size."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import environment
from bench.contenders import CONTENDERS, DTYPES, LOSS_SCALE, Contender, draw, why_wrong
from bench.measure import interval, machine, poison, ratio, sample_rounds
from bench.progress import progress

SIZES = [1, 16, 128, 2**10, 2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24]
QUICK_SIZES = [128, 2**18]
GRAPH_UP_TO = 2**16
COPY = "copy"
COMPILE = "torch.compile"


def run(
    device: str,
    sizes: Sequence[int] | None = None,
    dtypes: Sequence[str] = tuple(DTYPES),
    *,
    quick: bool = False,
    budget_s: float | None = None,
    limit_s: float | None = None,
    compiled: bool = True,
    commit: str | None = None,
    out: Path | None = None,
    contenders: Sequence[Contender] = CONTENDERS,
) -> dict:
    """The results, as they stand in losses.json. `out` is written after every cell, so that a stopped run is kept."""
    if sizes is None:
        sizes = QUICK_SIZES if quick else SIZES + ([2**26] if device == "cuda" else [])
    if budget_s is None:
        budget_s = 0.3 if quick else 1.0 if device == "cuda" else 3.0
    if limit_s is None:
        limit_s = 400.0 if device == "cuda" else 540.0
    results = {
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": {c.name: c.what for c in contenders} | {COPY: "a copy of as many bytes, into memory at hand"},
        "cells": [],
        "skipped": [],
    }
    begin = time.perf_counter()
    bar = progress([(dtype, n) for dtype in dtypes for n in sizes], "losses")
    for dtype, n in bar:
        if limit_s is not None and time.perf_counter() - begin > limit_s:
            results["skipped"].append({"dtype": dtype, "n": n, "why": f"the run's limit of {limit_s:g} s was reached"})
            continue
        bar.set_postfix_str(f"{dtype} {n}")
        results["cells"].append(cell(device, dtype, n, contenders, quick, budget_s, compiled))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    if out is not None:
        environment.write_json(out, results)
    return results


def cell(
    device: str,
    dtype: str,
    n: int,
    contenders: Sequence[Contender],
    quick: bool,
    budget_s: float,
    compiled: bool = True,
) -> dict:
    """One dtype and size: the gate, then times in interleaved rounds, then what each call launches and allocates."""
    host, torch_dtype = machine(device, quick), DTYPES[dtype]
    scale_value = LOSS_SCALE if dtype == "float16" else 1.0
    scale = torch.tensor(scale_value, device=device) if dtype == "float16" else None
    moved = 2 * 2 * n * torch_dtype.itemsize  # two sides, each read once and its gradient written once
    sets, cold = host.buffers(moved)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    buffers = [draw(n, torch_dtype, device, generator) for _ in range(sets)]
    rows, calls = {c.name: {"contender": c.name} for c in contenders}, {}
    for contender in contenders:
        row = rows[contender.name]
        if contender.name == COMPILE and not compiled:
            row["error"] = "left out with --no-compile"
            continue
        try:
            begin = time.perf_counter()
            step = contender.make(scale)
            poison(device, (n,), torch_dtype)
            result = step(*buffers[0])
            host.synchronize()
            row["first_call_s"] = round(time.perf_counter() - begin, 3)
            wrong, row["worst_relative_error"] = why_wrong(result, *buffers[0], scale_value, contender.ours)
            del result
            if wrong:
                row["error"] = f"wrong result, not timed: {wrong}"
            else:
                calls[contender.name] = _rotating(step, buffers)
                for i in range(max(3, sets)):
                    calls[contender.name](i)
        except Exception as error:  # a contender that cannot run here is a row that says so
            row["error"] = _one_line(error)
    for row in rows.values():
        if not torch.isfinite(torch.tensor(row.get("worst_relative_error", 0.0))):
            row["worst_relative_error"] = None
    calls[COPY] = _copy(n, torch_dtype, device, sets)
    rows[COPY] = {"contender": COPY}

    collecting = gc.isenabled()
    gc.disable()
    try:
        samples = sample_rounds(host, calls, budget_s, at_least=5 if quick else 9)
    finally:
        if collecting:
            gc.enable()
    for name, kinds in samples.items():
        row = rows[name]
        for kind, values in kinds.items():
            row[f"{kind}_us"] = interval(values)
            if "eager" in samples and name != COPY:
                row[f"{kind}_speedup"] = ratio(samples["eager"][kind], values)
            if name not in (COMPILE, COPY) and COMPILE in samples:
                row[f"{kind}_against_compile"] = ratio(samples[COMPILE][kind], values)
        moving = host.kinds[-1]
        row["bytes_per_s"] = moved / row[f"{moving}_us"]["median"] * 1e6
        row["share_of_copy"] = ratio(samples[COPY][moving], kinds[moving])
        row["launches"] = host.launches(calls[name])
        row["peak_bytes"] = host.peak_bytes(calls[name])
        if device == "cuda" and n <= GRAPH_UP_TO:
            try:
                row["graph_us"] = host.graph(calls[name])
            except Exception as error:
                row["graph_error"] = _one_line(error)
    return {"dtype": dtype, "n": n, "bytes": moved, "buffers": sets, "cold": cold, "rows": list(rows.values())}


def _rotating(step, buffers):
    if len(buffers) == 1:
        real, fake = buffers[0]
        return lambda i: step(real, fake)
    kept = [None] * len(buffers)  # outputs live as long as their inputs, so that they rotate through memory too

    def call(i):
        k = i % len(buffers)
        kept[k] = step(*buffers[k])

    return call


def _copy(n: int, dtype: torch.dtype, device: str, sets: int):
    pairs = [(torch.empty(2 * n, dtype=dtype, device=device), torch.randn(2 * n, device=device).to(dtype))]
    pairs += [(torch.empty_like(pairs[0][0]), pairs[0][1].clone()) for _ in range(sets - 1)]
    return lambda i: pairs[i % sets][0].copy_(pairs[i % sets][1])


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]
