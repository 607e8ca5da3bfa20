"""R3GAN's training step (brownvc/R3GAN, the CIFAR-10 preset), restated as upstream has it and with fastgan.

    python -m examples.integrations.r3gan --steps 3 --width 0.0625

Only lines marked `# fastgan:` change. Upstream freezes the network that does not learn, so G's step computes no unused
gradients. Resampling here is PyTorch's bilinear one; upstream uses its own filter, [1, 2, 1].
"""

import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.compat import r3gan

from . import main, select_pieces

NOISE, WIDTH, GROUPS, STAGES, BLOCKS = 64, 768, 96, 4, 2
LR, BETAS, GAMMA = 2e-4, (0.0, 0.9), 0.05  # at the start of upstream's schedules
GAIN = 2**0.5 / (1 + 0.2**2) ** 0.5  # of the leaky ReLU


class Activation(nn.Module):
    """A bias and a leaky ReLU."""

    def __init__(self, n):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x):
        return F.leaky_relu(x + self.bias[:, None, None], 0.2)


class Block(nn.Module):
    """x + 1 × 1, grouped 3 × 3 and 1 × 1 convolutions with 2 n channels in between; the last one starts at 0."""

    def __init__(self, n, groups):
        super().__init__()
        shapes = ((n, 2 * n, 1, 1), (2 * n, 2 * n, 3, groups), (2 * n, n, 1, 1))  # in, out, kernel, groups
        convs = [nn.Conv2d(a, b, k, padding=k // 2, groups=g, bias=False) for a, b, k, g in shapes]
        for conv, gain in zip(convs, (*[GAIN * (STAGES * BLOCKS) ** -0.25] * 2, 0.0)):
            nn.init.normal_(conv.weight, 0.0, gain / conv.weight[0].numel() ** 0.5)
        self.layers = nn.Sequential(convs[0], Activation(2 * n), convs[1], Activation(2 * n), convs[2])

    def forward(self, x):
        return x + self.layers(x)


class Basis(nn.Module):
    """(N, 64) -> (N, n, 4, 4): a learned picture for each channel, weighted by a linear function of z."""

    def __init__(self, n):
        super().__init__()
        self.pictures, self.weigh = nn.Parameter(torch.randn(n, 4, 4)), nn.Linear(NOISE, n, bias=False)

    def forward(self, z):
        return self.pictures * self.weigh(z)[:, :, None, None]


def networks(width):
    """G: z -> 32 × 32 pixels in four stages of two blocks; D: the reverse. width: a factor on channels."""
    groups = max(1, round(GROUPS * width))
    n = groups * WIDTH // GROUPS

    def stages(factor):
        blocks = [[Block(n, groups) for _ in range(BLOCKS)] for _ in range(STAGES)]
        return [
            layer
            for i, pair in enumerate(blocks)
            for layer in (*pair, *([nn.Upsample(scale_factor=factor, mode="bilinear")] if i < STAGES - 1 else []))
        ]

    end = [nn.Conv2d(n, n, 4, groups=n, bias=False), nn.Flatten(), nn.Linear(n, 1, bias=False), nn.Flatten(0)]
    generator = nn.Sequential(Basis(n), *stages(2.0), nn.Conv2d(n, 3, 1, bias=False))
    return generator, nn.Sequential(nn.Conv2d(3, n, 1, bias=False), *stages(0.5), *end)


def penalty(samples, logits):
    """|d logit / d sample|^2 of each sample."""
    (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return slope.square().sum((1, 2, 3))


UPSTREAM = {
    "losses": {
        "discriminator_loss": lambda real, fake: F.softplus(fake - real).mean(),
        "generator_loss": lambda real, fake: F.softplus(real - fake).mean(),
    },
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
}
FASTGAN = {
    "losses": {
        "discriminator_loss": r3gan.discriminator_loss,  # fastgan: losses
        "generator_loss": r3gan.generator_loss,  # fastgan: losses
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan."""

    def __init__(self, use=(), width=1.0, batch=512, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form = select_pieces(UPSTREAM, FASTGAN, use)
        self.generator, self.discriminator = (net.to(device, dtype) for net in networks(width))
        pair = (self.discriminator.parameters(), self.generator.parameters())
        self.optim_d, self.optim_g = (torch.optim.Adam(p, LR, BETAS) for p in pair)
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        left, right = torch.rand(2, batch, 3, 1, 1) * 2 - 1  # each picture: two colours and an edge between
        self.real = torch.where(torch.arange(32) < torch.randint(4, 28, (batch, 1, 32, 1)), left, right).to(
            device, dtype
        )
        self.z = torch.randn(50, batch, NOISE).to(device, dtype)
        self.steps = 0

    def learns(self, of_d):
        self.discriminator.requires_grad_(of_d)
        self.generator.requires_grad_(not of_d)

    def __call__(self):
        f, z = self.form, self.z[self.steps % 50]
        self.learns(of_d=True)
        self.optim_d.zero_grad()
        with self.cast():
            real, fake = (x.detach().requires_grad_() for x in (self.real, self.generator(z)))
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        loss_d = f.discriminator_loss(real_logits, fake_logits)
        penalties = penalty(real, real_logits) + penalty(fake, fake_logits)
        (loss_d + GAMMA / 2 * penalties.mean()).backward()
        self.optim_d.step()
        self.learns(of_d=False)
        self.optim_g.zero_grad()
        with self.cast():
            fake_logits, real_logits = self.discriminator(self.generator(z)), self.discriminator(self.real)
        loss_g = f.generator_loss(real_logits, fake_logits)
        f.backward(loss_g, self.generator)
        self.optim_g.step()
        self.steps += 1
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, ("losses", "generator_backward"), batch=4)
