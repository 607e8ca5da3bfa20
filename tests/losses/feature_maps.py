"""Random feature maps of discriminators, nested or in one list."""

import torch


def maps(shapes, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).to(device) for s in d] for d in shapes]


def flat(lists):
    return [x for d in lists for x in d]
