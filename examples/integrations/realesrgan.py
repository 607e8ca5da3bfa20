"""Real-ESRGAN's training step (xinntao/Real-ESRGAN, train_realesrgan_x4plus.yml), restated as upstream has it and with
fastgan.

    python -m examples.integrations.realesrgan --steps 3 --width 0.125

Only lines marked `# fastgan:` change. Upstream freezes D in G's step. Upstream's degradations are left out: here the
small pictures are averages over 4 x 4 pixels.
"""

import copy

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

import fastgan
from fastgan.compat import basicsr

from . import main, select_pieces
from .realesrgan_networks import Discriminator, Generator, Perceptual

LR, BETAS, GAN_WEIGHT, DECAY, BLOCKS = 1e-4, (0.9, 0.99), 0.1, 0.999, 23


def gan_loss(logits, target_is_real, is_disc=False):
    """The cross-entropy with logits, weighted by GAN_WEIGHT in G's step."""
    loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(target_is_real)))
    return loss if is_disc else GAN_WEIGHT * loss


def average(means, generator):
    sources = dict(generator.named_parameters())
    for name, mean in means.named_parameters():
        mean.mul_(DECAY).add_(sources[name], alpha=1 - DECAY)


def averaged(means, generator):
    move = get_ema_multi_avg_fn(DECAY)  # fastgan: average
    move(list(means.parameters()), list(generator.parameters()), None)  # fastgan: average


UPSTREAM = {
    "losses": {"gan_loss": gan_loss, "log": lambda numbers: {k: x.mean().item() for k, x in numbers.items()}},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "average": {"average": average},
}
FASTGAN = {
    "losses": {
        "gan_loss": basicsr.GANLoss("vanilla", loss_weight=GAN_WEIGHT),  # fastgan: losses
        "log": lambda numbers: {k: x.detach() for k, x in numbers.items()},  # fastgan: losses
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "average": {"average": averaged},  # fastgan: average
}


class Step:
    """A call does a step of G and a step of D on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels. batch: on each GPU. pixels: of a large picture's side. blocks: of the generator."""

    def __init__(self, use=(), width=1.0, batch=12, pixels=256, blocks=BLOCKS, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form = select_pieces(UPSTREAM, FASTGAN, use)
        nets = (Generator(width, blocks), Discriminator(width), Perceptual(width).requires_grad_(False))
        self.generator, self.discriminator, self.perceptual = (net.to(device, dtype) for net in nets)
        self.means = copy.deepcopy(self.generator).requires_grad_(False)
        pair = (self.discriminator.parameters(), self.generator.parameters())
        self.optim_d, self.optim_g = (torch.optim.Adam(p, LR, BETAS) for p in pair)
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        left, right = torch.rand(2, batch, 3, 1, 1)  # each picture: two colours and an edge between
        edge = torch.arange(pixels) < torch.randint(pixels // 8, pixels, (batch, 1, pixels, 1))
        self.real = torch.where(edge, left, right).to(device, dtype)
        self.small = F.avg_pool2d(self.real, 4)

    def __call__(self):
        f, d, real = self.form, self.discriminator, self.real
        d.requires_grad_(False)
        self.optim_g.zero_grad()
        with self.cast():
            fake = self.generator(self.small)
            numbers = {"l_g_pix": F.l1_loss(fake, real), "l_g_percep": self.perceptual(fake, real)}
            numbers["l_g_gan"] = f.gan_loss(d(fake), True)
        loss_g = sum(numbers.values())
        f.backward(loss_g, self.generator)
        self.optim_g.step()
        d.requires_grad_(True)
        self.optim_d.zero_grad()
        for side, images in (("real", real), ("fake", fake.detach().clone())):
            with self.cast():
                logits = d(images)
            numbers[f"l_d_{side}"] = f.gan_loss(logits, side == "real", is_disc=True)
            numbers[f"out_d_{side}"] = logits.detach().mean()
            numbers[f"l_d_{side}"].backward()
        self.optim_d.step()
        with torch.no_grad():
            f.average(self.means, self.generator)
        self.log = f.log(numbers)
        return (numbers["l_d_real"] + numbers["l_d_fake"]).detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1, pixels=32, blocks=2)
