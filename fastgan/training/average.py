"""The average of a generator over its steps, which is what samples are drawn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastgan.training.look import copied

STATISTICS = ("mean", "var", "std")  # how the names of buffers end that are averaged as weights are
NARROW = (torch.float16, torch.bfloat16)


class Average:
    """`network` is the generator with averaged weights. `update` reads nothing back from the device.

    wide: averages in float32 of weights in half precision, which a thousandth of a difference would never move; None if
    there are no such weights."""

    def __init__(self, generator: nn.Module):
        self.network = copied("generator", generator).eval().requires_grad_(False)
        self.averaged: list[tuple[Tensor, Tensor]] = []  # (average, its source), by what becomes of them
        self.copied: list[tuple[Tensor, Tensor]] = []
        self.wide: nn.Module | None = None
        for average, source in zip(self.network.parameters(), generator.parameters()):
            self._add(average, source, average.is_floating_point())
        for (name, average), source in zip(self.network.named_buffers(), generator.buffers()):
            # A batch norm's statistics belong to the weights: averaged alike. Of what other buffers hold, such as a
            # singular vector of spectral normalisation, which has length 1, an average would be no such thing.
            self._add(average, source, average.is_floating_point() and name.endswith(STATISTICS))

    def _add(self, average: Tensor, source: Tensor, averaged: bool) -> None:
        if averaged and average.dtype in NARROW:
            self.wide = self.wide or nn.Module()
            number = str(len(self.averaged))
            self.wide.register_buffer(number, average.detach().float())
            self.averaged.append((self.wide.get_buffer(number), source))
            self.copied.append((average, self.wide.get_buffer(number)))
        else:
            (self.averaged if averaged else self.copied).append((average, source))

    @torch.no_grad()
    def update(self, t: int, decay: float) -> None:
        """After step t, counted from 0. torch's AveragedModel counts in a tensor and reads it: one host sync a step."""
        update = get_ema_multi_avg_fn(min(decay, (t + 1) / (t + 10)))
        update([average for average, _ in self.averaged], [source.to(a.dtype) for a, source in self.averaged], None)
        for average, source in self.copied:
            average.copy_(source)
