"""HiFi-GAN V1's training step (jik876/hifi-gan, config_v1.json), restated as upstream has it and with fastgan.

    python -m examples.integrations.hifigan --steps 3 --width 0.125

Only lines marked `# fastgan:` change. Each function of FASTGAN replaces the one of the same name in UPSTREAM.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import fastgan
from fastgan.compat import hifigan

from . import main, select_pieces
from .audio import Mel, hums
from .hifigan_networks import MELS, Discriminator, Generator

LR, BETAS, PERIODS = 2e-4, (0.8, 0.99), (2, 3, 5, 7, 11)
FFT, HOP, RATE = 1024, 256, 22050


def pairs(networks, real, fake):
    """Yield each network with its inputs. Discriminators of scales get the waves at the full, half and quarter rate."""
    for i, network in enumerate(networks):
        if i and not network.period:
            real, fake = (F.avg_pool1d(x, 4, 2, 2) for x in (real, fake))
        yield network, real, fake


def judged(networks, real, fake):
    """Logits of both sides, one tensor for each discriminator, and feature maps of both, one list for each."""
    outputs = [(*network(r), *network(f)) for network, r, f in pairs(networks, real, fake)]
    real_logits, real_maps, fake_logits, fake_maps = map(list, zip(*outputs))
    return real_logits, fake_logits, real_maps, fake_maps


def judged_at_once(networks, real, fake):
    """In D's step: one pass for both sides, so that each weight is normalised once. Two passes with a spectral norm,
    which does an iteration in each."""
    found = []  # fastgan: passes
    for network, r, f in pairs(networks, real, fake):  # fastgan: passes
        parts = (r, f) if network.iterates else (torch.cat((r, f)),)  # fastgan: passes
        logits = [network(x)[0] for x in parts]  # fastgan: passes
        found.append(logits if network.iterates else logits[0].chunk(2))  # fastgan: passes
    return *map(list, zip(*found)), None, None  # fastgan: passes


def judged_for_g(networks, real, fake):
    """In G's step: the real samples' maps and D's weights have no graph, and each weight is normalised once."""
    found = []  # fastgan: passes
    for network, r, f in pairs(networks, real, fake):  # fastgan: passes
        with nullcontext() if network.iterates else parametrize.cached(), torch.no_grad():  # fastgan: passes
            known = network(r)  # fastgan: passes
            with torch.enable_grad():  # fastgan: passes
                found.append((*known, *network(f)))  # fastgan: passes
    real_logits, real_maps, fake_logits, fake_maps = map(list, zip(*found))
    return real_logits, fake_logits, real_maps, fake_maps


def discriminator_loss(real_logits, fake_logits):
    pairs = [(((1 - r) ** 2).mean(), (f**2).mean()) for r, f in zip(real_logits, fake_logits)]
    return sum(r + f for r, f in pairs), [(r.item(), f.item()) for r, f in pairs]


def generator_loss(fake_logits):
    losses = [((1 - f) ** 2).mean() for f in fake_logits]
    return sum(losses), losses


def feature_loss(real_maps, fake_maps):
    return 2 * sum((r - f).abs().mean() for maps in zip(real_maps, fake_maps) for r, f in zip(*maps))


UPSTREAM = {
    "losses": {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss},
    "matching": {"feature_loss": feature_loss},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "passes": {"judged": judged, "judged_for_g": judged},
}
FASTGAN = {
    "losses": {
        "discriminator_loss": hifigan.discriminator_loss,  # fastgan: losses
        "generator_loss": hifigan.generator_loss,  # fastgan: losses
    },
    "matching": {"feature_loss": hifigan.feature_loss},  # fastgan: matching
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "passes": {"judged": judged_at_once, "judged_for_g": judged_for_g},  # fastgan: passes
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels. width_g: a different factor for the generator."""

    def __init__(self, use=(), width=1.0, batch=16, samples=8192, device="cpu", dtype=None, bf16=False, width_g=None):
        torch.manual_seed(1234)
        self.form = select_pieces(UPSTREAM, FASTGAN, use)
        mpd = [Discriminator(width, period) for period in PERIODS]
        msd = [Discriminator(width, norm=norm) for norm in (spectral_norm, weight_norm, weight_norm)]
        nets = [Generator(width_g or width), nn.ModuleList(mpd), nn.ModuleList(msd)]
        self.generator, self.mpd, self.msd = (net.to(device, dtype) for net in nets)
        of_d = [*self.msd.parameters(), *self.mpd.parameters()]
        self.optim_g, self.optim_d = (torch.optim.AdamW(p, LR, BETAS) for p in (self.generator.parameters(), of_d))
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        self.spectrogram = Mel(FFT, HOP, MELS, RATE).to(device, dtype)
        self.y = hums(batch, samples, RATE).to(device, dtype)
        self.mel = self.spectrogram(self.y)

    def __call__(self):
        f, y = self.form, self.y
        with self.cast():
            fake = self.generator(self.mel)
        fake_mel = self.spectrogram(fake)
        self.optim_d.zero_grad()
        with self.cast():
            loss_d = sum(f.discriminator_loss(*f.judged(d, y, fake.detach())[:2])[0] for d in (self.mpd, self.msd))
        loss_d.backward()
        self.optim_d.step()
        self.optim_g.zero_grad()
        loss_g = 45 * F.l1_loss(self.mel, fake_mel)
        with self.cast():
            for discriminators in (self.mpd, self.msd):
                _, logits, real_maps, maps = f.judged_for_g(discriminators, y, fake)
                loss_g = loss_g + f.feature_loss(real_maps, maps) + f.generator_loss(logits)[0]
        f.backward(loss_g, self.generator)
        self.optim_g.step()
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1)
