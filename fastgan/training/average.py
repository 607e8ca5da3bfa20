"""The exponential moving average of a generator's weights, which draws the samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastgan.training.network_checks import copied

STATISTICS = ("mean", "var", "std")  # buffers whose names end so are averaged like weights
NARROW = (torch.float16, torch.bfloat16)


class Average:
    """`network` is the generator with averaged weights. `update` does not synchronise with the host.

    wide: float32 averages of half-precision weights, because adding a thousandth of a difference would round to no
    change in half precision; None if there are no such weights."""

    def __init__(self, generator: nn.Module):
        self.network = copied("generator", generator).eval().requires_grad_(False)
        self.averaged: list[tuple[Tensor, Tensor]] = []  # (average, source)
        self.copied: list[tuple[Tensor, Tensor]] = []  # (copy, source)
        self.wide: nn.Module | None = None
        for average, source in zip(self.network.parameters(), generator.parameters()):
            self._add(average, source, average.is_floating_point())
        for (name, buffer), source_buffer in zip(self.network.named_buffers(), generator.buffers()):
            # Statistics of batch normalisation belong to the weights and are averaged too. Other buffers may not be
            # averaged: a mean of spectral normalisation's singular vectors, for example, would not have length 1.
            self._add(buffer, source_buffer, buffer.is_floating_point() and name.endswith(STATISTICS))

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
        """Update the average after step t, counted from 0. torch's AveragedModel would synchronise with the host at
        each step, because its step count is a tensor that it reads."""
        update = get_ema_multi_avg_fn(min(decay, (t + 1) / (t + 10)))
        update([average for average, _ in self.averaged], [source.to(a.dtype) for a, source in self.averaged], None)
        for average, source in self.copied:
            average.copy_(source)
