"""A workload for a profiler or memory checker: `python -m bench.workload {small,large}`. Needs a CUDA device.

small: every path of the launcher, for a memory or race checker. large: the bandwidth-bound kernel, for a profiler.
"""

from __future__ import annotations

import sys

import torch

import fastgan
from bench.harness.accuracy import DTYPES
from bench.suites.contenders import draw

SIDES = ((1, 1), (33, 1000), (4096, 4096), (5000, 12345), (200_001, 99_999))


def small() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    for dtype in DTYPES.values():
        for n_real, n_fake in SIDES:
            real, fake = draw(n_real, dtype, "cuda", generator)[0], draw(n_fake, dtype, "cuda", generator)[1]
            out = fastgan.discriminator_value_and_grad(real, fake)
            loss = fastgan.discriminator_loss(real, fake)
            grads = torch.autograd.grad(loss, (real, fake))
            for one, other in zip((out.loss, *out.grads), (loss, *grads)):
                torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-2, atol=0)
        (2 * fastgan.generator_loss(fake)).backward()
    torch.cuda.synchronize()


def large() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        real, fake = draw(2**26, dtype, "cuda", generator)
        for _ in range(3):
            fastgan.discriminator_value_and_grad(real, fake)
    torch.cuda.synchronize()


if __name__ == "__main__":
    {"small": small, "large": large}[sys.argv[1]]()
    print("done")
