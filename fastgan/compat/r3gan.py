"""R3GAN (brownvc): `R3GAN/Trainer.py`.

    from R3GAN.Trainer import AdversarialTraining  ->  from fastgan.compat.r3gan import AdversarialTraining

in `training/loss.py`. The relativistic pairing is one launch forward and one backward; R1 and R2 use PyTorch's
autograd. `generator_loss` and `discriminator_loss` are only the pairing, for code with another loop; upstream has them
inline, so their names are ours. Signatures are from commit 19a7ddf (January 2025). Difference: half-precision logits
give float32 losses (upstream: half).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan.compat._logits import check
from fastgan.formulas.terms import Terms, widen
from fastgan.losses import adversarial

UPSTREAM = {"R3GAN.Trainer": ("AdversarialTraining",)}


def generator_loss(real_logits: Tensor, fake_logits: Tensor, reduction: str = "mean") -> Tensor:
    """mean softplus(-(f - r)), 0-d; with reduction="none" the loss of each pair, not fused, as upstream.

    real_logits, fake_logits: of one shape, (batch,) upstream. Each gets a gradient if it requires one.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two shapes, dtypes or devices.
    """
    _check_pairs(real_logits, fake_logits)
    return _pairs(fake_logits, real_logits, reduction)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, reduction: str = "mean") -> Tensor:
    """mean softplus(-(r - f)), 0-d. Otherwise as `generator_loss`."""
    _check_pairs(real_logits, fake_logits)
    return _pairs(real_logits, fake_logits, reduction)


class AdversarialTraining:
    """One step's losses and backward passes of G and of D, which are called as G(noise, conditions) and
    D(samples, conditions); D returns one logit for each sample, (batch,)."""

    def __init__(self, Generator: Callable[..., Tensor], Discriminator: Callable[..., Tensor]):
        self.Generator = Generator
        self.Discriminator = Discriminator

    @staticmethod
    def ZeroCenteredGradientPenalty(Samples: Tensor, Critics: Tensor) -> Tensor:
        """|d sum(Critics) / d Samples|^2 of each sample, (batch,), differentiable; Samples is (batch, c, h, w)."""
        (gradient,) = torch.autograd.grad(Critics.sum(), Samples, create_graph=True)
        return gradient.square().sum([1, 2, 3])

    def AccumulateGeneratorGradients(
        self,
        Noise: Tensor,
        RealSamples: Tensor,
        Conditions,
        Scale: float = 1,
        Preprocessor: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> list[Tensor]:
        """Add the gradients of Scale mean softplus(-(f - r)) to the parameters that require grad.

        Returns [losses, f - r], for each sample and detached. Preprocessor is applied to D's input.
        """
        fake = self.Discriminator(Preprocessor(self.Generator(Noise, Conditions)), Conditions)
        real = self.Discriminator(Preprocessor(RealSamples.detach()), Conditions)
        (Scale * generator_loss(real, fake)).backward()
        return _reported(fake, real)

    def AccumulateDiscriminatorGradients(
        self,
        Noise: Tensor,
        RealSamples: Tensor,
        Conditions,
        Gamma: float,
        Scale: float = 1,
        Preprocessor: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> list[Tensor]:
        """Add the gradients of Scale mean (softplus(-(r - f)) + Gamma / 2 (R1 + R2)) to D's parameters.

        R1 and R2 are the `ZeroCenteredGradientPenalty` of the real and of the generated samples. Returns
        [losses, r - f, R1, R2], for each sample and detached. G runs without gradients (upstream builds its graph and
        drops it).
        """
        real_samples = RealSamples.detach().requires_grad_(True)
        with torch.no_grad():
            fake_samples = self.Generator(Noise, Conditions)
        fake_samples = fake_samples.detach().requires_grad_(True)
        real = self.Discriminator(Preprocessor(real_samples), Conditions)
        fake = self.Discriminator(Preprocessor(fake_samples), Conditions)
        penalties = [
            self.ZeroCenteredGradientPenalty(samples, logits)
            for samples, logits in ((real_samples, real), (fake_samples, fake))
        ]
        penalty = (Gamma / 2) * (penalties[0] + penalties[1]).mean()
        (Scale * (discriminator_loss(real, fake) + penalty)).backward()
        return [*_reported(real, fake), *(x.detach() for x in penalties)]


def _pairs(own: Tensor, other: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return adversarial.loss_of(Terms((own,), (1.0,), (1.0,), "softplus", 1, (other,)))
    return adversarial.criterion_loss(widen(own) - widen(other), 1.0, "softplus", reduction=reduction)


def _reported(own: Tensor, other: Tensor) -> list[Tensor]:
    difference = own.detach() - other.detach()
    return [adversarial.criterion_loss(difference, 1.0, "softplus", reduction="none"), difference]


def _check_pairs(real_logits: Tensor, fake_logits: Tensor) -> None:
    check(real_logits=real_logits, fake_logits=fake_logits)
    if real_logits.shape != fake_logits.shape:
        shapes = tuple(fake_logits.shape), tuple(real_logits.shape)
        raise ValueError(f"fake_logits: got shape {shapes[0]}, expected {shapes[1]}: real and generated logits pair up")
