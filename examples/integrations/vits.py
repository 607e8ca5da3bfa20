"""VITS's training step (jaywalnut310/vits, ljs_base.json), restated as upstream has it and with fastgan.

    python -m examples.integrations.vits --steps 3 --width 0.125

Only lines marked `# fastgan:` change. The generator is the posterior encoder and the decoder, with a standard normal
prior. The text encoder, the flow and the durations, which D does not reach, are left out. Upstream's host reads the
start of each segment from a tensor; here the starts are Python numbers.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import fastgan
from fastgan.compat import vits

from . import main, select_pieces
from .audio import Mel, hums
from .hifigan_networks import MELS, Discriminator, Generator
from .vits_networks import FFT, Posterior, Scale

LR, BETAS, EPSILON, PERIODS = 2e-4, (0.8, 0.99), 1e-9, (2, 3, 5, 7, 11)
HOP, RATE, SEGMENT, HIDDEN = 256, 22050, 8192, 192


def judged(networks, real, fake):
    """Logits of both sides, one tensor for each discriminator, and feature maps of both, one list for each."""
    outputs = [(*network(real), *network(fake)) for network in networks]
    real_logits, real_maps, fake_logits, fake_maps = map(list, zip(*outputs))
    return real_logits, fake_logits, real_maps, fake_maps


def judged_at_once(networks, real, fake):
    """In D's step: one pass for both sides, so that each weight is normalised once."""
    both = [network(torch.cat((real, fake)))[0].chunk(2) for network in networks]  # fastgan: passes
    return *map(list, zip(*both)), None, None  # fastgan: passes


def judged_for_g(networks, real, fake):
    """In G's step: the real samples' maps and D's weights have no graph, and each weight is normalised once."""
    with parametrize.cached():  # fastgan: passes
        with torch.no_grad():  # fastgan: passes
            known = [network(real) for network in networks]  # fastgan: passes
        found = [network(fake) for network in networks]  # fastgan: passes
    return *([x[0] for x in y] for y in (known, found)), *([x[1] for x in y] for y in (known, found))  # fastgan: passes


def discriminator_loss(real_logits, fake_logits):
    pairs = [(((1 - r.float()) ** 2).mean(), (f.float() ** 2).mean()) for r, f in zip(real_logits, fake_logits)]
    return sum(r + f for r, f in pairs), [r.item() for r, _ in pairs], [f.item() for _, f in pairs]


def generator_loss(fake_logits):
    losses = [((1 - f.float()) ** 2).mean() for f in fake_logits]
    return sum(losses), losses


def feature_loss(real_maps, fake_maps):
    pairs = [(r.float().detach(), f.float()) for maps in zip(real_maps, fake_maps) for r, f in zip(*maps)]
    return 2 * sum((r - f).abs().mean() for r, f in pairs)


def gradient_norm(parameters, limit):
    """Upstream's limit is None: its clipping function only computes the norm for the log."""
    return sum(p.grad.norm(2).item() ** 2 for p in parameters if p.grad is not None) ** 0.5


UPSTREAM = {
    "losses": {
        "discriminator_loss": discriminator_loss,
        "generator_loss": generator_loss,
        "clip_grad_value_": gradient_norm,
    },
    "matching": {"feature_loss": feature_loss},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "passes": {"judged": judged, "judged_for_g": judged},
}
FASTGAN = {
    "losses": {
        "discriminator_loss": vits.discriminator_loss,  # fastgan: losses
        "generator_loss": vits.generator_loss,  # fastgan: losses
        "clip_grad_value_": vits.clip_grad_value_,  # fastgan: losses
    },
    "matching": {"feature_loss": vits.feature_loss},  # fastgan: matching
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "passes": {"judged": judged_at_once, "judged_for_g": judged_for_g},  # fastgan: passes
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels. frames: of an utterance. segment: samples of it that the decoder generates."""

    def __init__(self, use=(), width=1.0, batch=64, frames=400, segment=SEGMENT, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form, n, self.length = select_pieces(UPSTREAM, FASTGAN, use), max(1, round(HIDDEN * width)), segment // HOP
        nets = [Posterior(n), Generator(width, n)], [Scale(width), *(Discriminator(width, p) for p in PERIODS)]
        self.generator, self.discriminator = (nn.ModuleList(net).to(device, dtype) for net in nets)
        self.optim_g, self.optim_d = (
            torch.optim.AdamW(net.parameters(), LR, BETAS, EPSILON) for net in (self.generator, self.discriminator)
        )
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        self.mel, self.y = Mel(FFT, HOP, MELS, RATE).to(device, dtype), hums(batch, frames * HOP, RATE)
        self.y = self.y.to(device, dtype)
        self.spec, self.noise = self.mel.magnitude(self.y), torch.randn(50, batch, n, frames).to(device, dtype)
        self.starts, self.steps = torch.randint(frames - self.length + 1, (50, batch)).tolist(), 0

    def sliced(self, x, scale=1):
        parts = [row[:, i * scale : (i + self.length) * scale] for row, i in zip(x, self.starts[self.steps % 50])]
        return torch.stack(parts)

    def __call__(self):
        f, d = self.form, self.discriminator
        with self.cast():
            mean, log_deviation = self.generator[0](self.spec)
            z = mean + self.noise[self.steps % 50] * log_deviation.exp()
            fake, y = self.generator[1](self.sliced(z)), self.sliced(self.y, HOP)
            real_logits, fake_logits, _, _ = f.judged(d, y, fake.detach())
        loss_d = f.discriminator_loss(real_logits, fake_logits)[0]
        self.optim_d.zero_grad()
        loss_d.backward()
        f.clip_grad_value_(d.parameters(), None)
        self.optim_d.step()
        with self.cast():
            _, fake_logits, real_maps, fake_maps = f.judged_for_g(d, y, fake)
        loss_g = 45 * F.l1_loss(self.sliced(self.mel.of(self.spec)), self.mel(fake))
        mean, log_deviation = mean.to(loss_g.dtype), log_deviation.to(loss_g.dtype)
        loss_g = loss_g + (mean.square() / 2 + (2 * log_deviation).exp() / 2 - log_deviation - 0.5).mean() * len(
            mean[0]
        )
        loss_g = loss_g + f.feature_loss(real_maps, fake_maps) + f.generator_loss(fake_logits)[0]
        self.optim_g.zero_grad()
        f.backward(loss_g, self.generator)
        f.clip_grad_value_(self.generator.parameters(), None)
        self.optim_g.step()
        self.steps += 1
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1, frames=64)
