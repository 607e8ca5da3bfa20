"""stylegan2-ada-pytorch's training step (NVlabs, the CIFAR-10 preset), restated as upstream has it and with fastgan.

    python -m examples.integrations.stylegan2 --steps 3 --width 0.0625

Only lines marked `# fastgan:` change. Upstream freezes the network that does not learn, and generates samples for D
without a graph. R1 is computed every 16 steps; the preset has no path length penalty. Augmentation is left out.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import fastgan
from fastgan.compat import stylegan

from . import main, select_pieces
from .stylegan2_networks import Discriminator, Generator

LR, BETA, GAMMA, EVERY, EVERY_G, HALF_LIFE = 2.5e-3, 0.99, 0.01, 16, 4, 500_000


def bias_act(x, b, act="linear", clamp=None):
    """As upstream computes it without its CUDA extension, for example on a CPU."""
    x = x + b.reshape(1, -1, *[1] * (x.dim() - 2))
    x = F.leaky_relu(x, 0.2) * 2**0.5 if act == "lrelu" else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(x, taps, up=1, padding=0, gain=1):
    """Zeros between the pixels, padding, a filter of 4 × 4 taps; also as upstream without its extension."""
    channels, (height, width) = x.shape[1], x.shape[2:]
    if up > 1:
        x = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(-1, channels, height * up, width * up)
    x = F.pad(x, padding if isinstance(padding, tuple) else (padding,) * 4)
    return F.conv2d(x, (taps.to(x.dtype).flip(0, 1) * gain).expand(channels, 1, -1, -1), groups=channels)


def average(means, generator, decay):
    for mean, p in zip(means.parameters(), generator.parameters()):
        mean.copy_(p.lerp(mean, decay))
    for mean, buffer in zip(means.buffers(), generator.buffers()):
        mean.copy_(buffer)


def averaged(means, generator, decay):
    move = get_ema_multi_avg_fn(decay)  # fastgan: average
    move(list(means.parameters()), list(generator.parameters()), None)  # fastgan: average
    for mean, buffer in zip(means.buffers(), generator.buffers()):
        mean.copy_(buffer)


def penalty(discriminator, real, gamma):
    """R1's value; upstream adds 0 times the logits, so that every weight has a gradient."""
    real = real.detach().requires_grad_()
    logits = discriminator(real)
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return (logits * 0 + slope.square().sum((1, 2, 3)) * (gamma / 2)).mean()


UPSTREAM = {
    "layers": {"bias_act": bias_act, "upfirdn2d": upfirdn2d},
    "losses": {
        "loss_of_g": lambda fake: F.softplus(-fake).mean(),
        "loss_of_fake": lambda fake: F.softplus(fake).mean(),
        "loss_of_real": lambda real: F.softplus(-real).mean(),
    },
    "generator_backward": {"backward": lambda loss, network: loss.backward()},
    "average": {"average": average},
}
FASTGAN = {
    "layers": {
        "bias_act": fastgan.layers.bias_act,  # fastgan: layers
        "upfirdn2d": fastgan.layers.upfirdn2d,  # fastgan: layers
    },
    "losses": {
        "loss_of_g": stylegan.generator_loss,  # fastgan: losses
        "loss_of_fake": lambda fake: stylegan.discriminator_fake_term(fake).mean(),  # fastgan: losses
        "loss_of_real": lambda real: stylegan.discriminator_real_term(real).mean(),  # fastgan: losses
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "average": {"average": averaged},  # fastgan: average
}


class Step:
    """A call does a step of G and a step of D, every 16th call also R1, and returns their losses. use: pieces by
    fastgan."""

    def __init__(self, use=(), width=1.0, batch=64, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        f = self.form = select_pieces(UPSTREAM, FASTGAN, use)
        f.taps = fastgan.layers.setup_filter([1, 3, 3, 1], device)
        n, random = max(1, round(512 * width)), torch.Generator(device).manual_seed(1)
        self.draw = lambda *shape: torch.randn(shape, generator=random, device=device).to(dtype)
        self.generator = Generator(f, self.draw, n).to(device, dtype).requires_grad_(False)
        self.discriminator = Discriminator(f, n).to(device, dtype).requires_grad_(False)
        self.means, self.n, self.batch, self.steps = copy.deepcopy(self.generator).eval(), n, batch, 0
        rates = ((self.generator, EVERY_G / (EVERY_G + 1)), (self.discriminator, EVERY / (EVERY + 1)))
        self.optim_g, self.optim_d = (
            torch.optim.Adam(network.parameters(), LR * rate, (0.0, BETA**rate)) for network, rate in rates
        )
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        left, right = torch.rand(2, batch, 3, 1, 1) * 2 - 1  # each picture: two colours and an edge between
        edge = torch.arange(32) < torch.randint(4, 28, (batch, 1, 32, 1))
        self.real = torch.where(edge, left, right).to(device, dtype)

    def phase(self, network: nn.Module, optimizer, *losses):
        """Accumulate the gradients of the losses for this network, and do its optimizer's step."""
        optimizer.zero_grad()
        network.requires_grad_(True)
        values = []
        for loss in losses:
            with self.cast():
                value = loss()
            self.form.backward(value, network)
            values.append(value.detach())
        network.requires_grad_(False)
        for grad in (p.grad for p in network.parameters() if p.grad is not None):
            torch.nan_to_num(grad, 0.0, 1e5, -1e5, out=grad)
        optimizer.step()
        return sum(values)

    def __call__(self):
        f, g, d = self.form, self.generator, self.discriminator
        loss_g = self.phase(g, self.optim_g, lambda: f.loss_of_g(d(g(self.draw(self.batch, self.n)))))
        of_fake = lambda: f.loss_of_fake(d(g(self.draw(self.batch, self.n))))  # noqa: E731
        loss_d = self.phase(d, self.optim_d, of_fake, lambda: f.loss_of_real(d(self.real)))
        if self.steps % EVERY == 0:
            self.phase(d, self.optim_d, lambda: penalty(d, self.real, GAMMA) * EVERY)
        with torch.no_grad():
            f.average(self.means, g, 0.5 ** (self.batch / HALF_LIFE))
        self.steps += 1
        return loss_d, loss_g


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=4)
