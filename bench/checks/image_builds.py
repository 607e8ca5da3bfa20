"""Builds of the image kernels, for `machine_code`. Promises on NVIDIA are for the loops over full tiles:

augment
  the sum for the contrast reads 128 bits     every build
  results are written 128 bits at a time      NCHW with planes of a multiple of 128 bits; channels_last with such pixels
  pixels are read 128 bits at a time          channels_last with pixels of 128 bits; else a shift may misalign them
  nothing spills                              every build, on AMD too
  a counter that orders memory                if several programs share a sample
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.checks.disassembly import widths
from bench.checks.launches import Launch, recorded
from bench.harness.accuracy import DTYPES


@dataclass(frozen=True)
class Images:
    name: str
    shape: tuple[int, int, int, int]
    form: str = "map"
    last: bool = False
    dtypes: tuple[str, ...] = ("float32",)

    kernel = "augment"

    def launch(self, dtype: str, target: str) -> Launch:
        n, layout = self.shape[0], torch.channels_last if self.last else torch.contiguous_format
        x = torch.empty(self.shape, dtype=DTYPES[dtype], memory_format=layout)
        whole = [torch.zeros(n, 2, dtype=torch.int32) for _ in range(3)]
        parameters = [torch.ones(n), torch.ones(n), torch.ones(n), *whole, torch.zeros(n, dtype=torch.bool)]
        return recorded("augment", lambda kernels: kernels.augment(x, *parameters, self.form), target)

    def row(self, launch: Launch, row: dict, tiles: list[list[str]] | None) -> dict:
        row |= {"block": f"{launch.options['CHANNELS']} x {launch.options['BLOCK']}"}
        row["shared_sums"] = launch.options["PARTS"] > 1
        pixel = self.shape[1] * DTYPES[row["dtype"]].itemsize
        row["wide_pixels"] = self.last and pixel % 16 == 0
        row["wide_stores"] = row["wide_pixels"] or not self.last
        if tiles is None:
            return row | {"sums": None, "loads": None, "stores": None}
        writing = [body for body in tiles if widths(body, stores=True)]
        adding = [body for body in tiles if body not in writing and len(widths(body)) > 1]  # with one load: the wait
        found = {"sums": (adding, False), "loads": (writing, False), "stores": (writing, True)}
        return row | {key: [w for body in of for w in widths(body, stores)] for key, (of, stores) in found.items()}

    @staticmethod
    def broken(row: dict) -> Iterator[str]:
        if row["spills"]:
            yield f"{row['spills']} spills"
        nvidia = row["sums"] is not None
        ordered = any("acq_rel" in atomic for atomic in row["atomics"]) if nvidia else bool(row["atomics"])
        if ordered != row["shared_sums"]:
            yield f"atomics: {row['atomics']}"
        if not nvidia:
            return
        for key, promised in (("sums", True), ("loads", row["wide_pixels"]), ("stores", row["wide_stores"])):
            if promised and min(row[key], default=0) < 128:
                yield f"{key} of {row[key]} bits"

    @staticmethod
    def columns(row: dict) -> dict:
        def counted(found: Sequence[int] | None) -> str:
            return ", ".join(f"{found.count(w)} × {w}" for w in dict.fromkeys(found)) if found else ""

        return {key: counted(row[key]) for key in ("sums", "loads", "stores")}
