"""StyleTTS2's adversarial step (yl4579/StyleTTS2, train_second.py), restated as upstream has it and with fastgan.

    python -m examples.integrations.styletts2 --steps 3 --width 0.125

Only lines marked `# fastgan:` change. The generator is HiFi-GAN's decoder, from a mel spectrogram. Text, durations,
pitch, style and the speech language model are left out.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import fastgan
from fastgan.compat import hifigan

from . import main, select_pieces
from .audio import Mel, hums
from .hifigan_networks import MELS, Discriminator, Generator, scaled
from .vits import judged

LR, BETAS, PERIODS, RATE, HOP, TAU, MEL_WEIGHT = 1e-4, (0.0, 0.99), (2, 3, 5, 7, 11), 24000, 300, 0.04, 5.0
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # spectra: length, hop, window


class Spectrum(nn.Module):
    """(N, 1, T) -> logits and feature maps, from the magnitudes of the short-time spectrum."""

    window: torch.Tensor

    def __init__(self, width, fft, hop, window):
        super().__init__()
        self.fft, self.hop, n = fft, hop, scaled(32, width)
        self.register_buffer("window", torch.hann_window(window))
        layers = [nn.Conv2d(n if i else 1, n, (3, 9), (1, 2 if i else 1), (1, 4)) for i in range(4)]
        layers += [nn.Conv2d(n, n, 3, 1, 1), nn.Conv2d(n, 1, 3, 1, 1)]
        self.layers = nn.ModuleList(map(weight_norm, layers))

    def forward(self, x):
        wave = x.squeeze(1).to(self.window.dtype)
        x = torch.stft(wave, self.fft, self.hop, len(self.window), self.window, return_complex=True)
        x, (*hidden, last) = x.abs().mT.unsqueeze(1), self.layers
        maps = [x := F.leaky_relu(layer(x), 0.1) for layer in hidden]
        maps.append(last(x))
        return maps[-1].flatten(1), maps


def judged_for_g(networks, real, fake):
    """In G's step: D's weights have no graph, and each is normalised once. Real logits and maps have no graph either:
    upstream computes gradients through them for weights of D, which do not learn in this step."""
    with parametrize.cached(), torch.no_grad():  # fastgan: passes
        known = [network(real) for network in networks]  # fastgan: passes
        with torch.enable_grad():  # fastgan: passes
            found = [network(fake) for network in networks]  # fastgan: passes
    return *([x[0] for x in y] for y in (known, found)), *([x[1] for x in y] for y in (known, found))  # fastgan: passes


def discriminator_loss(real_logits, fake_logits):
    pairs = [(((1 - r) ** 2).mean(), (f**2).mean()) for r, f in zip(real_logits, fake_logits)]
    return sum(r + f for r, f in pairs), [(r.item(), f.item()) for r, f in pairs]


def generator_loss(fake_logits):
    losses = [((1 - f) ** 2).mean() for f in fake_logits]
    return sum(losses), losses


def feature_loss(real_maps, fake_maps):
    return 2 * sum((r - f).abs().mean() for maps in zip(real_maps, fake_maps) for r, f in zip(*maps))


def relative_loss(logits, others):
    """Truncated pointwise relativistic least squares, of differences below their median. The host reads the mask."""
    gaps = [a - b for a, b in zip(logits, others)]
    losses = [((gap - gap.median()) ** 2)[gap < gap.median()].mean() for gap in gaps]
    return sum(TAU - F.relu(TAU - loss) for loss in losses)


def relative_loss_on_device(logits, others):
    gaps = [a - b for a, b in zip(logits, others)]
    found = []
    for away in (gap - gap.median() for gap in gaps):
        below = away < 0  # fastgan: losses
        found.append((away**2 * below).sum() / below.sum())  # fastgan: losses
    return sum(TAU - F.relu(TAU - loss) for loss in found)


UPSTREAM = {
    "losses": {"of_d": discriminator_loss, "of_g": generator_loss, "relative_loss": relative_loss},
    "matching": {"feature_loss": feature_loss},
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "passes": {"judged_for_g": judged},
}
FASTGAN = {
    "losses": {
        "of_d": hifigan.discriminator_loss,  # fastgan: losses
        "of_g": hifigan.generator_loss,  # fastgan: losses
        "relative_loss": relative_loss_on_device,  # fastgan: losses
    },
    "matching": {"feature_loss": hifigan.feature_loss},  # fastgan: matching
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "passes": {"judged_for_g": judged_for_g},  # fastgan: passes
}


class Step:
    """A call does a step of D and a step of G on a fixed batch and returns their losses. use: pieces by fastgan."""

    def __init__(self, use=(), width=1.0, batch=16, samples=24000, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form = select_pieces(UPSTREAM, FASTGAN, use)
        nets = [Discriminator(width, p) for p in PERIODS], [Spectrum(width, *shape) for shape in RESOLUTIONS]
        self.mpd, self.msd = (nn.ModuleList(net).to(device, dtype) for net in nets)
        self.generator = Generator(width, strides=(10, 5, 3, 2)).to(device, dtype)
        of_d = [*self.mpd.parameters(), *self.msd.parameters()]
        self.optim_g, self.optim_d = (torch.optim.AdamW(p, LR, BETAS) for p in (self.generator.parameters(), of_d))
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        self.mels = [Mel(fft, hop, MELS, RATE).to(device, dtype) for fft, hop, _ in RESOLUTIONS]
        self.y = hums(batch, samples, RATE).to(device, dtype)
        self.mel = Mel(2048, HOP, MELS, RATE).to(device, dtype)(self.y)

    def __call__(self):
        f, y = self.form, self.y
        self.optim_d.zero_grad()
        with self.cast():
            fake = self.generator(self.mel)
            loss_d = fake.new_zeros(())
            for networks in (self.mpd, self.msd):
                real_logits, fake_logits, _, _ = judged(networks, y, fake.detach())
                loss_d = loss_d + f.of_d(real_logits, fake_logits)[0] + f.relative_loss(real_logits, fake_logits)
        loss_d.backward()
        self.optim_d.step()
        self.optim_g.zero_grad()
        spectra = [(mel(fake), mel(y)) for mel in self.mels]
        away = torch.stack([(a - b).abs().sum() / b.abs().sum() for a, b in spectra])
        loss_g = MEL_WEIGHT * away.mean()
        with self.cast():
            for networks in (self.mpd, self.msd):
                real_logits, logits, real_maps, maps = f.judged_for_g(networks, y, fake)
                loss_g = loss_g + f.feature_loss(real_maps, maps) + f.of_g(logits)[0]
                loss_g = loss_g + f.relative_loss(logits, real_logits)
        f.backward(loss_g, self.generator)
        self.optim_g.step()
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1)
