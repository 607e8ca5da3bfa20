"""Builds of the kernels of StyleGAN's operators, for `machine_code`. Promises:

bias_act
  tensors move 128 bits at a time              NVIDIA, all but the bias and the partial sums
  nothing spills                               float32, bfloat16, float16
  each tensor is read once and written once    every launch: x, or g and x or y, or those and h
  an atomic counter that orders memory         if several programs share a channel and its sum is needed
upfirdn2d, which filtered_lrelu also launches twice if its filters are not vectors
  images move 128 bits at a time               channels_last, NVIDIA
  nothing spills                               every launch
filtered_lrelu
  nothing spills                               every launch
  nothing is between the filters in memory     every launch: no argument is larger than x and y, no row of it in
                                               shared memory
  each image is read once, and its halo        NVIDIA: the accesses of a step, an element a lane, counted in the loop;
                                               halos add at most 60 % to the elements read, and nothing to those written
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.checks.disassembly import widths
from bench.checks.launches import Launch, recorded
from bench.harness.accuracy import DTYPES
from fastgan.formulas.upfirdn2d import output_size, padding_of_gradient

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
        arguments, options = dict(zip(launch.kernel.arg_names, launch.arguments)), launch.options
        row["reads"] = sum(arguments[name] is not None for name in ("x", "g", "d"))
        row["writes"] = sum(arguments[name] is not None for name in ("out", "curved"))
        row |= {"block": f"{options['BR']} x {options['BI']}", "ticket": options["SPLIT"], "odd": options["UNIT"] == 1}
        row["accesses"] = options["BR"] * options["BI"] // row["threads"] * DTYPES[row["dtype"]].itemsize // 16
        walk = max(tiles or [[]], key=lambda body: len(widths(body, stores=True)), default=[])
        loads, stores = (None, None) if tiles is None else (widths(walk), widths(walk, stores=True))
        return row | {"loads": loads, "stores": stores}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        nvidia = row["loads"] is not None
        for kind, tensors in (("loads", row["reads"]), ("stores", row["writes"])) if nvidia else ():
            full = [128] * (row["accesses"] * tensors)  # partial tiles have separate code
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


@dataclass(frozen=True)
class FilteredLrelu:
    """taps: of both filters. padding: in front and behind, along both axes."""

    name: str
    shape: tuple[int, int, int, int]
    up: int
    down: int
    taps: tuple[int, int]
    padding: tuple[int, int]
    backward: bool = False
    dtypes: tuple[str, ...] = ("float16",)

    kernel = "filtered_lrelu"

    def settings(self) -> tuple[tuple, tuple]:
        first = ((self.up,) * 2, (1, 1), self.padding * 2, False, float(self.up**2))
        return first, ((1, 1), (self.down,) * 2, (0, 0, 0, 0), False, 1.0)

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) between the filters, and of y."""
        first, second = self.settings()
        between = output_size(self.shape[2:], self.taps[:1] * 2, *first[:3])
        return between, output_size(between, self.taps[1:] * 2, *second[:3])

    def launch(self, dtype: str, target: str) -> Launch:
        x, fu, fd = torch.empty(self.shape, dtype=DTYPES[dtype]), *[torch.ones(taps) for taps in self.taps]
        b = torch.empty(self.shape[1], dtype=x.dtype)
        (first, second), (between, size) = self.settings(), self.sizes()
        activation = 2.0**0.5, 0.2, 256.0

        def transposed(settings: tuple, size: tuple, taps: int) -> tuple:
            up, down, padding, flip, gain = settings
            return down, up, padding_of_gradient(size, (taps, taps), up, down, padding), not flip, gain

        def call(kernels) -> None:
            if self.backward:
                settings = transposed(second, between, self.taps[1]), transposed(first, self.shape[2:], self.taps[0])
                g = torch.empty(*self.shape[:2], *size, dtype=x.dtype)
                kernels.filtered_slopes(g, x, b, fd, fu, fu, *settings, first, *activation)
            else:
                kernels.filtered_lrelu(x, b, fu, fd, first, second, *activation)

        return recorded("filtered_lrelu", call, target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        arguments, options = dict(zip(launch.kernel.arg_names, launch.arguments)), launch.options
        images = [arguments[name] for name in ("v", "x", "y") if arguments[name] is not None]
        row |= {"block": f"{options['BP']} x {options['BX']} x {options['W']}", "images": len(images)}
        row["largest"] = max(t.numel() for t in launch.arguments if isinstance(t, torch.Tensor))
        row["ends"] = math.prod(self.shape[:2]) * max(math.prod(self.shape[2:]), math.prod(self.sizes()[1]))
        row["between"] = 4 * options["BP"] * options["BX"] * options["W"]  # bytes of a program's row
        row["reads"] = []
        for image, up, taps, of in zip(images[:-1], ("U", "UG"), ("TAPS1", "TAPSG"), ("", "gate_")):
            width, left, above = options["W"] // options[up], arguments[of + "left"], arguments[of + "above"]
            begins = [left + group * (options["BX"] - options["LOST"]) * width for group in range(arguments["groups"])]
            columns = inside(begins, options["BX"] * width, image.shape[3])
            begins = [above + k * arguments["rows"] * options["D"] // options[up] for k in range(arguments["strips"])]
            count = (arguments["steps"] * options["PERIOD"] + options[taps]) // options[up]
            row["reads"].append(columns * inside(begins, count, image.shape[2]) / math.prod(image.shape[2:]))
        a_step = [options["W"] // options[up] * options["PERIOD"] // options[up] for up in ("U", "UG")]
        row["loads_expected"] = sum(a_step[: len(images) - 1])
        row["stores_expected"] = options["W"] // options["D"] * options["PERIOD"] // options["D"]
        if tiles is None:
            return row | dict.fromkeys(("loads", "stores", "instructions"))
        body = max(tiles, key=len, default=[])
        row |= {"loads": len(widths(body)), "stores": len(widths(body, stores=True))}
        return row | {"instructions": len(body) / (options["W"] * options["PERIOD"])}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        if row["spills"]:
            yield f"{row['spills']} spills"
        if row["shared"] >= row["between"]:
            yield f"{row['shared']} bytes of shared memory, a row between the filters has {row['between']}"
        if row["largest"] > row["ends"]:
            yield f"an argument of {row['largest']} elements, x and y have at most {row['ends']}"
        for kind in ("loads", "stores"):
            if row[kind] is not None and row[kind] != row[f"{kind}_expected"]:
                yield f"{row[kind]} {kind} a step, expected {row[f'{kind}_expected']}"
        if max(row["reads"]) > 1.6:
            yield f"an image is read {max(row['reads']):.2f} times"

    @staticmethod
    def columns(row: dict) -> dict:
        each = "" if row["instructions"] is None else f"{row['instructions']:.0f}"
        return {"reads": ", ".join(f"{times:.2f}" for times in row["reads"]), "instr/element between": each}


def inside(begins: Sequence[int], count: int, size: int) -> int:
    """How many of the `count` pixels after each begin lie in [0, size)."""
    return sum(max(0, min(begin + count, size) - max(begin, 0)) for begin in begins)


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
    FilteredLrelu("up 2, down 2, 12 taps", (16, 256, 150, 150), 2, 2, (12, 12), (9, 8), dtypes=("float32", "float16")),
    FilteredLrelu("up 2, down 2, 12 taps, backward", (16, 256, 150, 150), 2, 2, (12, 12), (9, 8), True),
    FilteredLrelu("up 4, down 2, 24 and 12 taps", (16, 256, 86, 86), 4, 2, (24, 12), (-7, -10)),
    FilteredLrelu("up 4, down 2, 24 and 12 taps, backward", (16, 256, 86, 86), 4, 2, (24, 12), (-7, -10), True),
)
