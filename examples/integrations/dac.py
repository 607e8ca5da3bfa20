"""The Descript Audio Codec's training step (descriptinc/descript-audio-codec, scripts/train.py and conf/base.yml),
restated as upstream has it and with fastgan.

    python -m examples.integrations.dac --steps 3 --width 0.125

Only lines marked `# fastgan:` change. Upstream's `GANLoss` runs D itself: `fastgan.compat.dac` has the whole class, and
this file its parts as functions. Losses that upstream computes only for its log are left out. Upstream's tracker reads
every number of the log at each step.
"""

import math

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_, parametrize

import fastgan

from . import main, select_pieces
from .audio import Mel, hums
from .dac_networks import CODEBOOKS, Discriminator, Generator

LR, BETAS, RATE = 1e-4, (0.8, 0.99), 44100
MELS = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}  # window: bands
WEIGHTS = {"mel": 15.0, "matching": 2.0, "adversarial": 1.0, "columns": 0.25, "codes": 1.0}


def judged(d, fake, real):
    """For each side, one list for each discriminator: its feature maps and, last, its logits."""
    return d(fake), d(real)


def judged_at_once(d, fake, real):
    """In D's step: one pass for both sides, so that each weight is normalised once."""
    both = [[x.chunk(2) for x in maps] for maps in d(torch.cat((fake, real)))]  # fastgan: passes
    return tuple([[x[side] for x in maps] for maps in both] for side in (0, 1))  # fastgan: passes


def judged_for_g(d, fake, real):
    """In G's step: the real samples' maps and D's weights have no graph, and each weight is normalised once."""
    with parametrize.cached(), torch.no_grad():  # fastgan: passes
        known = d(real)  # fastgan: passes
        with torch.enable_grad():  # fastgan: passes
            return d(fake), known  # fastgan: passes


def discriminator_loss(real, fake):
    return sum((f[-1] ** 2).mean() + ((1 - r[-1]) ** 2).mean() for f, r in zip(fake, real))


def generator_loss(fake):
    return sum(((1 - maps[-1]) ** 2).mean() for maps in fake)


def feature_loss(fake, real):
    return sum(F.l1_loss(a, b.detach()) for maps in zip(fake, real) for a, b in list(zip(*maps))[:-1])


UPSTREAM = {
    "losses": {
        "discriminator_loss": discriminator_loss,
        "generator_loss": generator_loss,
        "log": lambda numbers: {name: x.item() for name, x in numbers.items()},
    },
    "matching": {"feature_loss": feature_loss},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "passes": {"judged": judged, "judged_for_g": judged},
}
FASTGAN = {
    "losses": {
        "discriminator_loss": lambda r, f: fastgan.discriminator_loss(r, f, "least_squares"),  # fastgan: losses
        "generator_loss": lambda fake: fastgan.generator_loss(fake, "least_squares"),  # fastgan: losses
        "log": lambda numbers: {name: x.detach() for name, x in numbers.items()},  # fastgan: losses
    },
    "matching": {
        "feature_loss": lambda f, r: fastgan.feature_matching_loss(f, r, exclude_last=True),  # fastgan: matching
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "passes": {"judged": judged_at_once, "judged_for_g": judged_for_g},  # fastgan: passes
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels. samples: a multiple of 512, the encoder's stride; upstream pads 0.38 s to it."""

    def __init__(self, use=(), width=1.0, batch=72, samples=16896, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form = select_pieces(UPSTREAM, FASTGAN, use)
        self.generator, self.discriminator = (net(width).to(device, dtype) for net in (Generator, Discriminator))
        self.optim_g, self.optim_d = (
            torch.optim.AdamW(net.parameters(), LR, BETAS) for net in (self.generator, self.discriminator)
        )
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        self.y = hums(batch, samples, RATE).to(device, dtype)
        self.mels = [Mel(fft, fft // 4, mels, RATE).to(device, dtype) for fft, mels in MELS.items()]
        kept = torch.full((50, batch), CODEBOOKS)  # half of the samples use a random number of codebooks
        kept[:, : batch // 2] = torch.randint(1, CODEBOOKS + 1, (50, batch // 2))
        self.kept, self.steps = kept.to(device), 0

    def __call__(self):
        f, d, y = self.form, self.discriminator, self.y
        with self.cast():
            fake, of_columns, of_codes = self.generator(y, self.kept[self.steps % 50])
            of_fake, of_real = f.judged(d, fake.detach(), y)
            loss_d = f.discriminator_loss(of_real, of_fake)
        self.optim_d.zero_grad()
        loss_d.backward()
        norm_d = clip_grad_norm_(d.parameters(), 10.0)
        self.optim_d.step()
        with self.cast():
            of_fake, of_real = f.judged_for_g(d, fake, y)
            losses = {"matching": f.feature_loss(of_fake, of_real), "adversarial": f.generator_loss(of_fake)}
        losses["mel"] = sum(F.l1_loss(mel(fake), mel(y)) for mel in self.mels) / math.log(10)
        losses |= {"columns": of_columns, "codes": of_codes}
        loss_g = sum(weight * losses[name] for name, weight in WEIGHTS.items())
        self.optim_g.zero_grad()
        f.backward(loss_g, self.generator)
        norm_g = clip_grad_norm_(self.generator.parameters(), 1e3)
        self.optim_g.step()
        self.log = f.log(losses | {"disc": loss_d, "loss": loss_g, "grad_norm_d": norm_d, "grad_norm": norm_g})
        self.steps += 1
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1)
