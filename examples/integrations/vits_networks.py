"""VITS's networks (jaywalnut310/vits, models.py) that are not HiFi-GAN's, restated. width: a factor on all channels."""

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .hifigan_networks import Discriminator

FFT, LAYERS = 1024, 16
SCALE = ((16, 15, 1, 1), (64, 41, 4, 4), (256, 41, 4, 16), (1024, 41, 4, 64), (1024, 41, 4, 256), (1024, 5, 1, 1))


class Scale(Discriminator):
    """A discriminator of the waveform itself. SCALE has channels, kernel, stride and groups of its layers."""

    def __init__(self, width):
        nn.Module.__init__(self)
        self.period, self.iterates, n = 0, False, [1, *(max(1, round(layer[0] * width)) for layer in SCALE)]
        groups = [max(1, round(layer[3] * width)) for layer in SCALE]
        layers = [nn.Conv1d(n[i], n[i + 1], k, s, k // 2, 1, groups[i]) for i, (_, k, s, _) in enumerate(SCALE)]
        self.layers = nn.ModuleList(map(weight_norm, [*layers, nn.Conv1d(n[-1], 1, 3, 1, 1)]))


class Posterior(nn.Module):
    """(N, 513, T) -> mean and log deviation of the latent variables, (N, n, T) each."""

    def __init__(self, n):
        super().__init__()
        self.before, self.after = nn.Conv1d(FFT // 2 + 1, n, 1), nn.Conv1d(n, 2 * n, 1)
        self.gates = nn.ModuleList(weight_norm(nn.Conv1d(n, 2 * n, 5, padding=2)) for _ in range(LAYERS))
        self.mixers = nn.ModuleList(weight_norm(nn.Conv1d(n, 2 * n, 1)) for _ in range(LAYERS))

    def forward(self, x):
        x, out = self.before(x), 0
        for gate, mixer in zip(self.gates, self.mixers):
            a, b = gate(x).chunk(2, 1)
            rest, skipped = mixer(a.tanh() * b.sigmoid()).chunk(2, 1)
            x, out = x + rest, out + skipped
        return self.after(out).chunk(2, 1)
