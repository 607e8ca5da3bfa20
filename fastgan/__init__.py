"""Fused adversarial losses for PyTorch: loss, statistics and gradients of both sides in one launch.

    loss = fastgan.discriminator_loss(real_logits, fake_logits)          # a drop-in; autograd follows
    out = fastgan.discriminator_value_and_grad(real_logits, fake_logits)  # out.loss, out.grads, out.stats

CUDA tensors run on Triton kernels, others on a closed form in PyTorch; FASTGAN_BACKEND=triton|torch overrides.
"""

from fastgan import losses, reference
from fastgan.functional import (
    discriminator_loss,
    discriminator_value_and_grad,
    generator_loss,
    generator_value_and_grad,
)
from fastgan.values import Statistics, ValueAndGrad

__version__ = "0.1.0"
__all__ = [
    "GANTrainer",
    "Statistics",
    "ValueAndGrad",
    "discriminator_loss",
    "discriminator_value_and_grad",
    "generator_loss",
    "generator_value_and_grad",
    "losses",
    "reference",
]


def __getattr__(name: str):
    if name == "GANTrainer":  # training comes with it only where it is asked for
        from fastgan.trainer import GANTrainer

        return GANTrainer
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
