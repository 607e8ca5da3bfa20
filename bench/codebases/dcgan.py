"""The training loop of pytorch/examples' DCGAN, restated, and what a careful user makes of it. No fastgan here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT, LR, BETAS = 100, 2e-4, (0.5, 0.999)


class Example:
    """Called with a batch of images; returns the losses of D and of G, detached."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, device: str):
        self.generator, self.discriminator = generator, nn.Sequential(discriminator, nn.Sigmoid())
        self.criterion, self.device = nn.BCELoss(), device
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=LR, betas=BETAS)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=LR, betas=BETAS)
        self.random = torch.Generator(device).manual_seed(0)

    def __call__(self, real: Tensor) -> tuple[Tensor, Tensor]:
        n = len(real)
        self.discriminator.zero_grad()
        label = torch.full((n,), 1.0, device=self.device)
        output = self.discriminator(real).view(-1)
        loss_real = self.criterion(output, label)
        loss_real.backward()
        seen = [output.mean().item()]
        fake = self.generator(torch.randn(n, LATENT, generator=self.random, device=self.device))
        label.fill_(0.0)
        output = self.discriminator(fake.detach()).view(-1)
        loss_fake = self.criterion(output, label)
        loss_fake.backward()
        seen.append(output.mean().item())
        loss_d = loss_real + loss_fake
        self.optimizer_d.step()
        self.generator.zero_grad()
        label.fill_(1.0)
        output = self.discriminator(fake).view(-1)
        loss_g = self.criterion(output, label)
        loss_g.backward()
        seen.append(output.mean().item())
        self.optimizer_g.step()
        seen += [loss_d.item(), loss_g.item()]
        return loss_d.detach(), loss_g.detach()


class Careful:
    """The same loop, made as fast as plain PyTorch allows."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, device: str, compiled: bool):
        self.cuda, self.device = device == "cuda", device
        compile = torch.compile if compiled else lambda network: network
        if self.cuda:
            generator, discriminator = (m.to(memory_format=torch.channels_last) for m in (generator, discriminator))
        self.parameters_d = list(discriminator.parameters())
        self.generator, self.discriminator = compile(generator), compile(discriminator)
        adam = dict(lr=LR, betas=BETAS, fused=True)
        self.optimizer_d = torch.optim.Adam(self.parameters_d, **adam)
        self.optimizer_g = torch.optim.Adam(generator.parameters(), **adam)
        self.random = torch.Generator(device).manual_seed(0)
        self.ones = self.zeros = None

    def __call__(self, real: Tensor) -> tuple[Tensor, Tensor]:
        n = len(real)
        if self.ones is None or len(self.ones) != n:
            self.ones, self.zeros = torch.ones(n, 1, device=self.device), torch.zeros(n, 1, device=self.device)
        if self.cuda:
            real = real.contiguous(memory_format=torch.channels_last)
        bce = F.binary_cross_entropy_with_logits
        z = torch.randn(n, LATENT, generator=self.random, device=self.device)
        for p in self.parameters_d:
            p.requires_grad_(True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda):
            fake = self.generator(z)
            loss_d = bce(self.discriminator(real), self.ones) + bce(self.discriminator(fake.detach()), self.zeros)
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()
        for p in self.parameters_d:
            p.requires_grad_(False)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda):
            loss_g = bce(self.discriminator(fake), self.ones)
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        return loss_d.detach(), loss_g.detach()
