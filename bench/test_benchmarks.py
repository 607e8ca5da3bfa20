"""Contenders under pytest-benchmark: `python -m pytest bench --benchmark-only --benchmark-enable`.

Every call is synchronised, so on a GPU a time includes launch and work. Every contender passes its suite's gate first.
`python -m bench` is more precise: interleaved rounds, separate host and device times, ratios with intervals.
"""

from __future__ import annotations

import pytest
import torch

import fastgan
from bench.codebases.configurations import BY_NAME
from bench.harness.accuracy import DTYPES, loss_scale
from bench.suites import contenders, lists
from fastgan.networks import Discriminator, Generator

pytest.importorskip("pytest_benchmark")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HERE = [c for c in contenders.CONTENDERS if c.on in (None, DEVICE)]
NAMES = ("hifigan-d", "spade-d", "real-esrgan-d", "dcgan-d-logits", "cyclegan-d")
CASES = [(name, contender) for name in NAMES for contender in lists.steps(BY_NAME[name], torch.zeros(()), None)]


def timed(benchmark, group: str, call, why_wrong) -> None:
    def synchronised():
        result = call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark.group = f"{group}, {DEVICE}"
    for _ in range(3):  # compilation and first allocations
        result = synchronised()
    wrong, _ = why_wrong(result)
    assert wrong is None, wrong
    benchmark(synchronised)


@pytest.mark.parametrize("contender", HERE, ids=lambda c: c.name.replace(" ", "-"))
@pytest.mark.parametrize("n", [128, 2**18, 2**22])
@pytest.mark.parametrize("dtype", DTYPES)
def test_discriminator_loss_and_gradients(benchmark, dtype, n, contender):
    number, scale = loss_scale(dtype, DEVICE)
    sides = contenders.draw(n, DTYPES[dtype], DEVICE, torch.Generator(device=DEVICE).manual_seed(n))
    step = contender.make(scale)
    gate = lambda result: contenders.why_wrong(result, *sides, number, contender.ours)  # noqa: E731
    timed(benchmark, f"{dtype}, 2 × {n} logits", lambda: step(*sides), gate)


@pytest.mark.parametrize(("name", "contender"), CASES)
def test_losses_of_codebases(benchmark, name, contender):
    c = BY_NAME[name]
    number, scale = loss_scale(c.dtype, DEVICE)
    batch = lists.draw(c, DEVICE, torch.Generator(device=DEVICE).manual_seed(0))
    step, exact = lists.steps(c, batch.tensors[0], scale)[contender](), lists.exact(c, batch, number)
    gate = lambda result: lists.why_wrong(result, batch, exact, contender in lists.OURS)  # noqa: E731
    timed(benchmark, c.title, lambda: step(batch), gate)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("objective", ["nonsaturating", "hinge", "relativistic"])
def test_training_step(benchmark, size, objective):
    torch.manual_seed(0)
    networks = Generator(size, 1, 64, width=32), Discriminator(size, 1, width=32)
    trainer = fastgan.GANTrainer(*networks, latent_dim=64, objective=objective, device=DEVICE)
    data = torch.rand(64, 1, size, size, device=DEVICE) * 2 - 1
    gate = lambda losses: (None if all(x.isfinite() for x in losses.values()) else "not finite", 0.0)  # noqa: E731
    timed(benchmark, f"DCGAN, {size} pixels, batch 64", lambda: trainer.step(data), gate)
