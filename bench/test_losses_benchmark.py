"""The contenders under pytest-benchmark: `python -m pytest bench --benchmark-only --benchmark-enable`.

Every call is synchronised, so on a GPU a time is launch and work together. `python -m bench losses` is the finer tool:
interleaved rounds, host and device apart, ratios with intervals.
"""

from __future__ import annotations

import pytest
import torch

from bench.suites.contenders import CONTENDERS, DTYPES, LOSS_SCALE, draw, why_wrong

pytest.importorskip("pytest_benchmark")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [128, 2**18, 2**22]
HERE = [c for c in CONTENDERS if c.on in (None, DEVICE)]


@pytest.mark.parametrize("contender", HERE, ids=lambda c: c.name.replace(" ", "-"))
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_discriminator_loss_and_gradients(benchmark, dtype, n, contender):
    benchmark.group = f"{dtype}, 2 × {n} logits, {DEVICE}"
    scale_value = LOSS_SCALE if dtype == "float16" else 1.0
    scale = torch.tensor(scale_value, device=DEVICE) if dtype == "float16" else None
    real, fake = draw(n, DTYPES[dtype], DEVICE, torch.Generator(device=DEVICE).manual_seed(n))
    step = contender.make(scale)

    def call():
        result = step(real, fake)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    for _ in range(3):  # compilation and first allocations
        result = call()
    wrong, _ = why_wrong(result, real, fake, scale_value, contender.ours)
    assert wrong is None, wrong
    benchmark(call)
