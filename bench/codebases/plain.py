"""A GAN's training in plain PyTorch, as a careful user writes it. No fastgan here."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STATISTICS = ("mean", "var")  # ends of the names of batch normalisation's buffers that are averaged like weights


class Plain:
    """Train with cross-entropy and the non-saturating loss of G (Goodfellow et al. 2014, section 3), R1 on real samples
    (Mescheder et al. 2018, eq. 9), Adam, and G's moving average:

        L_D = weight * (mean softplus(-D(x)) + mean softplus(D(G(z)))) + r1 / 2 * mean |grad_x D(x)|^2
        L_G = mean softplus(-D(G(z')))

    where softplus(-l) is the cross-entropy of the logit l with label 1, and softplus(l) that with label 0. The average
    has decay min(ema_decay, (t + 1) / (t + 10)) after step t.

    generator: z (N, latent_dim) -> samples. discriminator: samples -> logits (N, 1). seeds: of z and of the rows.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        latent_dim: int,
        lr: float,
        betas: tuple[float, float],
        weight: float,
        r1: float,
        ema_decay: float,
        seeds: tuple[int, int],
        device: str,
    ):
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.latent_dim, self.weight, self.r1, self.ema_decay = latent_dim, weight, r1, ema_decay
        self.device, self.dtype = device, next(generator.parameters()).dtype
        self.random, self.order = (torch.Generator(device).manual_seed(seed) for seed in seeds)
        adam = dict(lr=lr, betas=betas, fused=True)
        self.optimizer_g = torch.optim.Adam(generator.parameters(), **adam)
        self.optimizer_d = torch.optim.Adam(discriminator.parameters(), **adam)
        self.ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.steps = 0

    def fit(self, samples: Tensor, steps: int, batch: int, keep: int) -> list[tuple[float, float]]:
        """Train on rows drawn with replacement, of floats or of uint8 images, which become -1..1. Returns the losses of
        D (without the penalty) and of G in the first `keep` steps."""
        samples, losses = samples.to(self.device), []
        for i in range(steps):
            rows = torch.randint(len(samples), (batch,), generator=self.order, device=self.device)
            real = samples[rows]
            if real.dtype == torch.uint8:
                real = real.float() / 127.5 - 1
            found = self.step(real.to(self.dtype))
            if i < keep:
                losses.append((found[0].item(), found[1].item()))
        return losses

    def step(self, real: Tensor) -> tuple[Tensor, Tensor]:
        bce = F.binary_cross_entropy_with_logits
        # D
        with torch.no_grad():
            fake = self.generator(self.latent(len(real)))
        real.requires_grad_(True)
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        ones, zeros = torch.ones_like(real_logits), torch.zeros_like(fake_logits)
        loss_d = self.weight * (bce(real_logits, ones) + bce(fake_logits, zeros))
        (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        penalty = self.r1 / 2 * slope.square().sum() / len(real)
        self.optimizer_d.zero_grad()
        (loss_d + penalty).backward()
        self.optimizer_d.step()
        # G
        self.discriminator.requires_grad_(False)
        loss_g = bce(self.discriminator(self.generator(self.latent(len(real)))), ones)
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        self.discriminator.requires_grad_(True)
        self.average()
        return loss_d.detach(), loss_g.detach()

    def latent(self, n: int) -> Tensor:
        return torch.randn(n, self.latent_dim, generator=self.random, device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def average(self) -> None:
        decay = min(self.ema_decay, (self.steps + 1) / (self.steps + 10))
        for average, weight in zip(self.ema.parameters(), self.generator.parameters()):
            average.lerp_(weight, 1 - decay)
        for (name, average), buffer in zip(self.ema.named_buffers(), self.generator.buffers()):
            if name.endswith(STATISTICS):
                average.lerp_(buffer, 1 - decay)
            else:
                average.copy_(buffer)
        self.steps += 1

    @torch.no_grad()
    def sample(self, count: int, seed: int, batch: int = 256) -> Tensor:
        """(count, ...) samples of the averaged generator; z is drawn on the CPU."""
        z = torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))
        return torch.cat([self.ema(part.to(self.device, self.dtype)) for part in z.split(batch)])
