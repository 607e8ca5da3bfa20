"""Random logits of both sides."""

import torch


def sides(shapes, dtype, device, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [(spread * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype).to(device) for s in shapes]
        for _ in range(2)
    ]
