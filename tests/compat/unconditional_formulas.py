"""The losses of unconditional GANs, restated in eager PyTorch."""

import torch
import torch.nn.functional as F

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TWO = [(16, 1), (16, 1)]
TWO_ROUNDINGS = {torch.float16: 2**-10, torch.bfloat16: 2**-7}  # a sum of two gradients: of the logit, and of the shift


def sp(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def bce(x, y):
    return (1 - y) * sp(x) + y * sp(-x)


def hinge(x):
    return F.relu(1 - x).mean()


def cross_entropies(own, other):
    """The N x N form of half the dual contrastive loss: classify each logit against all of the other side."""
    rows = [torch.cat((x.reshape(1), other.flatten())) for x in own.flatten()]
    return F.cross_entropy(torch.stack(rows), torch.zeros(own.numel(), dtype=torch.long))


def dual(a, b):
    return cross_entropies(a, b) + cross_entropies(-b, -a)
