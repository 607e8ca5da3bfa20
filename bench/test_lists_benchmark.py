"""Losses of public codebases under pytest-benchmark: `python -m pytest bench --benchmark-only --benchmark-enable`.

Every call is synchronised and passes the gate of `python -m bench lists` first.
"""

from __future__ import annotations

import pytest
import torch

from bench.suites import lists
from bench.suites.contenders import DTYPES, LOSS_SCALE

pytest.importorskip("pytest_benchmark")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("hifigan-d", "spade-d", "real-esrgan-d", "dcgan-d-logits", "cyclegan-d")
CASES = [
    (c, contender)
    for c in lists.CONFIGURATIONS
    if c.name in NAMES
    for contender in lists._steps(c, torch.zeros(()), None)
]


@pytest.mark.parametrize(
    ("configuration", "contender"), CASES, ids=[f"{c.name}-{name.replace(' ', '-')}" for c, name in CASES]
)
def test_losses_of_codebases(benchmark, configuration, contender):
    c = configuration
    benchmark.group = f"{c.title}, {DEVICE}"
    half = DTYPES[c.dtype] == torch.float16
    scale = torch.tensor(LOSS_SCALE, device=DEVICE) if half else None
    batch = lists.draw(c, DEVICE, torch.Generator(device=DEVICE).manual_seed(0))
    step = lists._steps(c, batch.tensors[0], scale)[contender]()

    def call():
        result = step(batch)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    for _ in range(3):  # compilation and first allocations
        result = call()
    expected = lists.exact(c, batch, LOSS_SCALE if half else 1.0)
    wrong, _ = lists.why_wrong(result, batch, expected, contender in lists.OURS)
    assert wrong is None, wrong
    benchmark(call)
