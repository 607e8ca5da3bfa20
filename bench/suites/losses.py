"""`python -m bench losses`: the discriminator loss with its gradients, by every contender, dtype and size."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.harness import environment
from bench.harness.clock import interval, machine, poison, ratio, sample_rounds
from bench.harness.limits import limits
from bench.harness.progress import progress
from bench.harness.promises import losses as promises  # noqa: F401  part of a suite
from bench.suites.contenders import CONTENDERS, DTYPES, LOSS_SCALE, Contender, draw, why_wrong

SIZES = [1, 16, 128, 2**10, 2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24]  # logits a side
MORE = [2**26, 2**28]  # on a GPU
FEWER = {"cpu": [128, 2**12, 2**16, 2**18, 2**22], "cuda": [128, 2**12, 2**16, 2**20, 2**24, 2**26]}  # of other dtypes
QUICK_SIZES = [128, 2**18]
GRAPH_UP_TO = 2**16
COPY = "copy"
COMPILE = "torch.compile"
REPLAYED = ("eager, CUDA graph", "reduce-overhead")  # graphs already: the profiler counts what they launch


def cells(device: str, quick: bool) -> list[tuple[str, int]]:
    """(dtype, logits a side) of a run, the dtype that most people train with first."""
    if quick:
        return [(dtype, n) for dtype in DTYPES for n in QUICK_SIZES]
    full = SIZES + MORE * (device == "cuda")
    return [(dtype, n) for dtype in DTYPES for n in (full if dtype == "float32" else FEWER[device])]


def run(
    device: str,
    only: Sequence[str] | None = None,
    *,
    quick: bool = False,
    budget_s: float | None = None,
    limit_s: float | None = None,
    compiled: bool = True,
    commit: str | None = None,
    out: Path | None = None,
    contenders: Sequence[Contender] = CONTENDERS,
) -> dict:
    """The results, as they stand in losses.json. `out` is written after every cell, so that a stopped run is kept.
    only: cells, each as "float32 4096"; by default those of `cells`."""
    wanted = cells(device, quick) if only is None else [(x.split()[0], int(x.split()[1])) for x in only]
    if budget_s is None:
        budget_s = 0.3 if quick else 1.0 if device == "cuda" else 3.0
    if limit_s is None:
        limit_s = 400.0 if device == "cuda" else 540.0
    contenders = [c for c in contenders if c.on in (None, device)]
    begin = time.perf_counter()
    results = {
        "suite": "losses",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": {c.name: c.what for c in contenders} | {COPY: "a copy of as many bytes, into memory at hand"},
        "limits": limits(machine(device, quick), quick),
        "cells": [],
        "skipped": [],
    }
    bar = progress(wanted, "losses")
    for dtype, n in bar:
        why = _too_large(device, dtype, n)
        if time.perf_counter() - begin > limit_s:
            why = f"the run's limit of {limit_s:g} s was reached"
        if why:
            results["skipped"].append({"dtype": dtype, "n": n, "why": why})
            continue
        bar.set_postfix_str(f"{dtype} {n}")
        results["cells"].append(cell(device, dtype, n, contenders, quick, budget_s, compiled))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    if out is not None:
        environment.write_json(out, results)
    return results


def _too_large(device: str, dtype: str, n: int) -> str | None:
    """What eager holds at once, and what the gate holds in float64, against the memory that is free."""
    needed = n * (14 * DTYPES[dtype].itemsize + 80)
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{needed / 1e9:.0f} GB of memory needed, {free / 1e9:.0f} GB free" if needed > free else None


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
        if contender.compiled and not compiled:
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
            calls.pop(contender.name, None)
            row["error"] = _one_line(error)
    for row in rows.values():
        if not torch.isfinite(torch.tensor(row.get("worst_relative_error", 0.0))):
            row["worst_relative_error"] = None
    calls[COPY] = _copy(n, torch_dtype, device, sets)
    rows[COPY] = {"contender": COPY}

    samples = sample_rounds(host, calls, budget_s, at_least=5 if quick else 9)
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
        row["launches"] = len(host.kernels(calls[name])) if name in REPLAYED else host.launches(calls[name])
        row["peak_bytes"] = host.peak_bytes(calls[name])
        if device == "cuda" and n <= GRAPH_UP_TO and name not in REPLAYED:
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


# The table, the pictures and the rows for README, drawn from a results file alone.


def write(results: dict, folder: Path) -> list[Path]:
    from bench.harness import report

    return report.write(results, folder)


def markdown(results: dict) -> str:
    from bench.harness import report

    return report.markdown(results)


def summary(results: dict) -> str:
    from bench.harness import report

    return report.summary(results)
