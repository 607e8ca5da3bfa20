"""Builds of the kernels of StyleGAN's operators, for `machine_code`. Promises:

bias_act
  tensors move 128 bits at a time              NVIDIA, all but the bias and the partial sums
  nothing spills                               float32, bfloat16, float16
  each tensor is read once and written once    every launch: x, or g and x or y, or those and h
  a ticket that orders memory                  if several programs share a channel and its sum is asked for
upfirdn2d, which is also the two launches of filtered_lrelu
  images move 128 bits at a time               channels_last, NVIDIA
  nothing spills                               every launch
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.checks.disassembly import widths
from bench.checks.launches import Launch, recorded
from bench.harness.accuracy import DTYPES

LAYER = (16, 64, 64, 64)
FULL, HALVES, HALF = tuple(DTYPES), ("float32", "bfloat16"), ("float16",)


@dataclass(frozen=True)
class BiasAct:
    """order: 0 for the value, 1 for the gradient, 2 for the second derivative."""

    name: str
    shape: tuple[int, ...]
    act: str
    order: int
    biased: bool = True
    channels_last: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")

    kernel = "bias_act"

    def launch(self, dtype: str, target: str) -> Launch:
        x, g, h = (torch.empty(self.shape, dtype=DTYPES[dtype]) for _ in range(3))
        if self.channels_last:
            x, g, h = (t.contiguous(memory_format=torch.channels_last) for t in (x, g, h))
        b = torch.empty(self.shape[1], dtype=x.dtype) if self.biased else None
        from_y = self.act in ("relu", "lrelu")
        settings = (1, self.act, 0.2, math.sqrt(2), 256.0)

        def call(kernels) -> None:
            if self.order == 0:
                kernels.bias_act(x, b, *settings)
            elif self.order == 1:
                kernels.bias_act_gradient(g, x, None if from_y else b, *settings, from_y, True, self.biased)
            else:
                kernels.bias_act_second(h, b, g, x, b, *settings, True, True, self.biased)

        return recorded("bias_act", call, target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        given, options = dict(zip(launch.kernel.arg_names, launch.arguments)), launch.options
        row["reads"] = sum(given[name] is not None for name in ("x", "g", "d"))
        row["writes"] = sum(given[name] is not None for name in ("out", "curved"))
        row |= {"block": f"{options['BR']} x {options['BI']}", "ticket": options["SPLIT"], "odd": options["UNIT"] == 1}
        row["accesses"] = options["BR"] * options["BI"] // row["threads"] * DTYPES[row["dtype"]].itemsize // 16
        walk = max(tiles or [[]], key=lambda body: len(widths(body, stores=True)), default=[])
        loads, stores = (None, None) if tiles is None else (widths(walk), widths(walk, stores=True))
        return row | {"loads": loads, "stores": stores}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        nvidia = row["loads"] is not None
        for kind, tensors in (("loads", row["reads"]), ("stores", row["writes"])) if nvidia else ():
            full = [128] * (row["accesses"] * tensors)  # tiles that stick out have code of their own
            if row[kind] != 2 * full and not (row["odd"] and row[kind][: len(full)] == full):
                yield f"{kind} of {row[kind]} bits, expected 2 × {len(full)} of 128"
        if row["dtype"] != "float64" and row["spills"]:
            yield f"{row['spills']} spills"
        ordered = any("acq_rel" in atomic for atomic in row["atomics"]) if nvidia else bool(row["atomics"])
        if ordered != row["ticket"]:
            yield f"atomics: {row['atomics']}"

    @staticmethod
    def columns(row: dict) -> dict:
        return {kind: f"{len(row[kind])} × {row[kind][-1]}" if row[kind] else "" for kind in ("loads", "stores")}


@dataclass(frozen=True)
class Upfirdn2d:
    """taps: (rows, columns), or (taps,) of a separable filter. padding: in front and behind, along both axes."""

    name: str
    shape: tuple[int, int, int, int]
    taps: tuple[int, ...]
    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (1, 1)
    last: bool = False
    activated: bool = False
    dtypes: tuple[str, ...] = ("float32", "float16")

    kernel = "upfirdn2d"

    def launch(self, dtype: str, target: str) -> Launch:
        layout = torch.channels_last if self.last else torch.contiguous_format
        x, f = torch.empty(self.shape, dtype=DTYPES[dtype], memory_format=layout), torch.ones(self.taps)
        settings = ((self.up,) * 2, (self.down,) * 2, self.padding * 2, False, 1.0)

        def call(kernels) -> None:
            if self.activated:
                kernels.activated(x, f, settings, 2.0**0.5, 0.2, 256.0)
            else:
                kernels.upfirdn2d(x, f, *settings)

        return recorded("upfirdn2d", call, target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        row |= {"last": self.last, "block": f"{launch.options['BP']} x {launch.options['BX']}"}
        row["taps"] = launch.options["FW"] * launch.options["FH"]  # each is a read of 32 bits
        if tiles is None:
            return row | {"loads": None, "stores": None}
        row["loads"] = sorted((w for body in tiles for w in widths(body)), reverse=True)
        return row | {"stores": sorted((w for body in tiles for w in widths(body, stores=True)), reverse=True)}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        if row["spills"]:
            yield f"{row['spills']} spills"
        if row["loads"] is None:
            return
        if not row["loads"]:
            yield "no loop over rows found"
        wide = row["loads"].count(128)
        if row["last"] and (not wide or len(row["loads"]) - wide > row["taps"]):
            yield f"loads: {wide} of 128 bits, {len(row['loads']) - wide} narrower, {row['taps']} are taps"
        if row["last"] and min(row["stores"], default=128) < 128:
            yield f"stores of {row['stores']} bits"

    columns = BiasAct.columns


CALLS = (
    BiasAct("lrelu, 64 × 64", LAYER, "lrelu", 0, dtypes=FULL),
    BiasAct("lrelu backward, 64 × 64", LAYER, "lrelu", 1, dtypes=FULL),
    BiasAct("lrelu backward, channels last", LAYER, "lrelu", 1, channels_last=True),
    BiasAct("lrelu, no bias, odd", (15, 63, 63, 65), "lrelu", 0, biased=False),
    BiasAct("swish backward, 64 × 64", LAYER, "swish", 1, dtypes=HALVES),
    BiasAct("swish second, 64 × 64", LAYER, "swish", 2, dtypes=HALVES),
    BiasAct("tanh second, 64 × 64", LAYER, "tanh", 2, dtypes=("float64",)),
    Upfirdn2d("blur, 513 × 513", (16, 64, 513, 513), (4, 4)),
    Upfirdn2d("up 2, 4 × 4 taps", (16, 128, 128, 128), (4, 4), up=2, padding=(2, 1)),
    Upfirdn2d("down 2, 4 × 4 taps", (16, 64, 256, 256), (4, 4), down=2, dtypes=FULL),
    Upfirdn2d("up 2, 12 taps", (16, 256, 64, 64), (12,), up=2, padding=(6, 5), dtypes=HALF),
    Upfirdn2d("up 2, 12 taps, leaky ReLU", (16, 256, 64, 64), (12,), 2, padding=(6, 5), activated=True, dtypes=HALF),
    Upfirdn2d("down 2, 12 taps", (16, 256, 128, 128), (12,), down=2, padding=(5, 5), dtypes=HALF),
    Upfirdn2d("down 4, 24 taps", (16, 256, 128, 128), (24,), down=4, padding=(10, 10), dtypes=HALF),
    Upfirdn2d("blur, channels_last", (16, 64, 513, 513), (4, 4), last=True),
    Upfirdn2d("down 2, channels_last", (16, 64, 256, 256), (4, 4), down=2, last=True, dtypes=HALF),
    Upfirdn2d("up 2, 12 taps, channels_last", (16, 64, 256, 256), (12,), up=2, padding=(6, 5), last=True, dtypes=HALF),
)
