"""Samples of a generator. The same seed draws the same z on every device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastgan.checks import whole
from fastgan.training import checks, feed


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
    """`count` samples in parts of `batch`. z is drawn on the CPU, so that it is the same on every device. What the
    generator draws inside, such as StyleGAN's noise, depends on the seed too, and does not affect the training's random
    state. labels: int64 (count,) if there are `classes`; None: 0, 1, ..., classes - 1, 0, 1, ..."""
    count, batch = whole("count", count), whole("batch", batch)
    _, random = checks.device_and_random("cpu", seed)
    if labels is not None:
        if classes is None:
            raise ValueError("labels: got a tensor, expected None: the generator is told no labels")
        feed.check_labels("labels", labels, count)
        feed.check_range("labels", labels, classes)
    elif classes is not None:
        labels = torch.arange(count) % classes
    like = next(generator.parameters())
    z = torch.randn(count, latent_dim, generator=random, dtype=torch.float32, device="cpu")
    for i, part in enumerate(z.split(batch)):
        told = () if labels is None else (labels[i * batch : (i + 1) * batch].to(like.device),)
        with _drawing_from(random, like.device):
            samples = generator(part.to(like.device, like.dtype), *told)
        yield samples


@contextlib.contextmanager
def _drawing_from(random: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's default generators, of the CPU and of the device, with the next number of `random`, and restore
    their states at the end."""
    seed = int(torch.randint(2**62, (), generator=random, device="cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield
