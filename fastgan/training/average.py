"""The average of a generator over its steps, which is what samples are drawn from."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastgan.training.look import copied

STATISTICS = ("mean", "var", "std")  # how the names of buffers end that are averaged as weights are


class Average:
    """`network` is the generator with averaged weights. `update` reads nothing back from the device."""

    def __init__(self, generator: nn.Module):
        self.network = copied("generator", generator).eval().requires_grad_(False)
        self.averaged, self.copied = [], []  # (average, its source), by what becomes of them
        for average, source in zip(self.network.parameters(), generator.parameters()):
            (self.averaged if average.is_floating_point() else self.copied).append((average, source))
        for (name, average), source in zip(self.network.named_buffers(), generator.buffers()):
            # A batch norm's statistics belong to the weights: averaged alike. Of what other buffers hold, such as a
            # singular vector of spectral normalisation, which has length 1, an average would be no such thing.
            statistic = average.is_floating_point() and name.endswith(STATISTICS)
            (self.averaged if statistic else self.copied).append((average, source))

    @torch.no_grad()
    def update(self, t: int, decay: float) -> None:
        """After step t, counted from 0. torch's AveragedModel counts in a tensor and reads it: one host sync a step."""
        update = get_ema_multi_avg_fn(min(decay, (t + 1) / (t + 10)))
        update(*map(list, zip(*self.averaged)), None)
        for average, source in self.copied:
            average.copy_(source)
