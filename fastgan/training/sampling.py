"""Samples of a generator, the same ones for the same seed on every device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastgan.checks import whole
from fastgan.training import feed


@torch.no_grad()
def generate(
    generator: nn.Module,
    latent_dim: int,
    count: int,
    seed: int,
    batch: int = 256,
    classes: int | None = None,
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """`count` samples in parts of `batch`. z is drawn on the CPU, so that it is the same on every device. labels: int64
    (count,) if there are `classes`, by default one class after the other."""
    count, batch = whole("count", count), whole("batch", batch)
    if labels is not None:
        if classes is None:
            raise ValueError("labels: got a tensor, expected None: the generator is told no labels")
        feed.check_labels("labels", labels, count)
    elif classes is not None:
        labels = torch.arange(count) % classes
    like = next(generator.parameters())
    random = torch.Generator("cpu").manual_seed(seed)
    z = torch.randn(count, latent_dim, generator=random, dtype=torch.float32, device="cpu")
    for i, part in enumerate(z.split(batch)):
        told = () if labels is None else (labels[i * batch : (i + 1) * batch].to(like.device),)
        yield generator(part.to(like.device, like.dtype), *told)
