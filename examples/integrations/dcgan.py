"""The training step of PyTorch's DCGAN example (pytorch/examples, dcgan/main.py), restated as upstream has it and with
fastgan.

    python -m examples.integrations.dcgan --steps 3 --width 0.25

Only lines marked `# fastgan:` change. Upstream's D ends in a sigmoid; fastgan's losses read the logits before it.
"""

import torch
import torch.nn.functional as F
from torch import nn

import fastgan

from . import main, select_pieces

LATENT, LR, BETAS = 100, 2e-4, (0.5, 0.999)


def networks(width):
    """For 64 × 64 pixels. Next to the images they have 64 channels (as upstream) times `width`, at 4 × 4 eight times
    as many."""
    n = max(1, round(64 * width))
    g, d = [], []
    for i, (a, b) in enumerate(((LATENT, 8 * n), (8 * n, 4 * n), (4 * n, 2 * n), (2 * n, n))):
        up = nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False)
        g += [up, nn.BatchNorm2d(b), nn.ReLU(True)]
    for a, b in ((3, n), (n, 2 * n), (2 * n, 4 * n), (4 * n, 8 * n)):
        norm = [nn.BatchNorm2d(b)] if a > 3 else []
        d += [nn.Conv2d(a, b, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2, True)]
    g += [nn.ConvTranspose2d(n, 3, 4, 2, 1, bias=False), nn.Tanh()]
    d += [nn.Conv2d(8 * n, 1, 4, 1, 0, bias=False), nn.Flatten(0)]
    for layer in (*g, *d):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return nn.Sequential(*g), nn.Sequential(*d)


def bce(logits, label):
    """Upstream's loss, after the sigmoid that ends its D; in float32, as autocast requires."""
    return F.binary_cross_entropy(logits.to(label.dtype).sigmoid(), label)


def learn_d(d, real, fake):
    """Compute gradients of D's loss, with a backward pass for each side. Returns the loss and the numbers that upstream
    prints."""
    label = torch.ones_like(real[:, 0, 0, 0])
    with d.cast():
        output = d(real)
    real_loss = bce(output, label)
    real_loss.backward()
    seen = output.detach().sigmoid().mean()
    with d.cast():
        output = d(fake)
    fake_loss = bce(output, torch.zeros_like(label))
    fake_loss.backward()
    return real_loss + fake_loss, [seen, output.detach().sigmoid().mean()]


def loss_of_g(logits):
    return bce(logits, torch.ones_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32)))


def learn_d_fused(d, real, fake):
    with d.cast():
        real_logits, fake_logits = d(real), d(fake)  # fastgan: losses
    loss = fastgan.discriminator_loss(real_logits, fake_logits)  # fastgan: losses
    loss.backward()  # fastgan: losses
    return loss, [x.detach().sigmoid().mean() for x in (real_logits, fake_logits)]  # fastgan: losses


UPSTREAM = {
    "losses": {"learn_d": learn_d, "loss_of_g": loss_of_g, "log": lambda *numbers: [x.item() for x in numbers]},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
}
FASTGAN = {
    "losses": {
        "learn_d": learn_d_fused,
        "loss_of_g": fastgan.generator_loss,  # fastgan: losses
        "log": lambda *numbers: numbers,  # fastgan: losses
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels."""

    def __init__(self, use=(), width=1.0, batch=64, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form, self.batch = select_pieces(UPSTREAM, FASTGAN, use), batch
        self.generator, self.discriminator = (net.to(device, dtype) for net in networks(width))
        pair = (self.discriminator.parameters(), self.generator.parameters())
        self.optim_d, self.optim_g = (torch.optim.Adam(p, LR, BETAS) for p in pair)
        self.cast = self.discriminator.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        left, right = torch.rand(2, batch, 3, 1, 1) * 2 - 1  # each picture: two colours and an edge between
        edge = torch.arange(64) < torch.randint(8, 56, (batch, 1, 64, 1))
        self.real = torch.where(edge, left, right).to(device, dtype)
        self.z = torch.randn(50, batch, LATENT, 1, 1).to(device, dtype)
        self.steps = 0

    def __call__(self):
        f = self.form
        self.discriminator.zero_grad()
        with self.cast():
            fake = self.generator(self.z[self.steps % 50])
        loss_d, seen = f.learn_d(self.discriminator, self.real, fake.detach())
        self.optim_d.step()
        self.generator.zero_grad()
        with self.cast():
            logits = self.discriminator(fake)
        loss_g = f.loss_of_g(logits)
        f.backward(loss_g, self.generator)
        self.optim_g.step()
        f.log(loss_d, loss_g, *seen, logits.detach().sigmoid().mean())
        self.steps += 1
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, ("losses", "generator_backward"), batch=4)
