"""A training step under pytest-benchmark: `python -m pytest bench --benchmark-only --benchmark-enable`."""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan.networks import Discriminator, Generator

pytest.importorskip("pytest_benchmark")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("objective", ["nonsaturating", "hinge", "relativistic"])
def test_training_step(benchmark, size, objective):
    benchmark.group = f"DCGAN, {size} pixels, batch 64, {DEVICE}"
    torch.manual_seed(0)
    networks = Generator(size, 1, 64, width=32), Discriminator(size, 1, width=32)
    trainer = fastgan.GANTrainer(*networks, latent_dim=64, objective=objective, device=DEVICE)
    data = torch.rand(64, 1, size, size, device=DEVICE) * 2 - 1

    def call():
        losses = trainer.step(data)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return losses

    for _ in range(3):
        losses = call()
    assert all(value.isfinite() for value in losses.values())
    benchmark(call)
