"""The networks of the Descript Audio Codec (descriptinc/descript-audio-codec, dac/model and dac/nn), restated.

width: a factor on all channels; upstream's is 1. D's periods are HiFi-GAN's.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .hifigan_networks import Discriminator as Period
from .hifigan_networks import scaled

STRIDES, PERIODS, WINDOWS, EDGES = (2, 4, 8, 8), (2, 3, 5, 7, 11), (2048, 1024, 512), (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
CODEBOOKS, CODES, CODE_SIZE = 9, 1024, 8


def convolution(a, b, kernel, stride=1, dilation=1):
    return weight_norm(nn.Conv1d(a, b, kernel, stride, (kernel - stride + 1) // 2 * dilation, dilation))


class Snake(nn.Module):
    """x + sin(a x)^2 / a, with one learned `a` for each channel."""

    def __init__(self, n):
        super().__init__()
        self.a = nn.Parameter(torch.ones(1, n, 1))

    def forward(self, x):
        return x + (self.a + 1e-9).reciprocal() * (self.a * x).sin().square()


class Residual(nn.Sequential):
    def __init__(self, n, dilation):
        super().__init__(Snake(n), convolution(n, n, 7, 1, dilation), Snake(n), convolution(n, n, 1))

    def forward(self, x):
        return x + super().forward(x)


class Codebook(nn.Module):
    """(N, n, T) -> the nearest code of each column, and two losses for each sample: of columns, and of codes."""

    def __init__(self, n):
        super().__init__()
        self.before, self.after = convolution(n, CODE_SIZE, 1), convolution(CODE_SIZE, n, 1)
        self.codes = nn.Embedding(CODES, CODE_SIZE)

    def forward(self, x):
        x = self.before(x)
        rows = F.normalize(x.mT.flatten(0, 1))
        nearest = (rows @ F.normalize(self.codes.weight).T).argmax(1)
        code = self.codes(nearest).unflatten(0, (len(x), -1)).mT
        losses = [(a - b.detach()).square().mean((1, 2)) for a, b in ((x, code), (code, x))]
        return self.after(x + (code - x).detach()), *losses


class Generator(nn.Module):
    """(N, 1, T) -> (N, 1, T) after residual codebooks, and their two losses. kept: codebooks to use for each sample,
    (N,)."""

    def __init__(self, width):
        super().__init__()
        down, up = ([scaled(c << i if c == 64 else c >> i, width) for i in range(5)] for c in (64, 1536))
        layers: list[nn.Module] = [convolution(1, down[0], 7)]
        for i, stride in enumerate(STRIDES):
            layers += [*(Residual(down[i], d) for d in (1, 3, 9)), Snake(down[i])]
            layers += [weight_norm(nn.Conv1d(down[i], down[i + 1], 2 * stride, stride, stride // 2))]
        self.encoder = nn.Sequential(*layers, Snake(down[-1]), convolution(down[-1], down[-1], 3))
        self.codebooks = nn.ModuleList(Codebook(down[-1]) for _ in range(CODEBOOKS))
        layers = [convolution(down[-1], up[0], 7)]
        for i, stride in enumerate(reversed(STRIDES)):
            layers += [Snake(up[i])]
            layers += [weight_norm(nn.ConvTranspose1d(up[i], up[i + 1], 2 * stride, stride, stride // 2))]
            layers += [Residual(up[i + 1], d) for d in (1, 3, 9)]
        self.decoder = nn.Sequential(*layers, Snake(up[-1]), convolution(up[-1], 1, 7), nn.Tanh())

    def forward(self, x, kept):
        rest, total, of_columns, of_codes = self.encoder(x), 0, 0, 0
        for i, codebook in enumerate(self.codebooks):
            nearest, column, code = codebook(rest)
            mask = kept > i
            total, rest = total + nearest * mask[:, None, None], rest - nearest
            of_columns, of_codes = of_columns + (column * mask).mean(), of_codes + (code * mask).mean()
        return self.decoder(total), of_columns, of_codes


class Bands(nn.Module):
    """(N, 1, T) -> feature maps of a complex spectrum in five frequency bands; the last map is the logits."""

    window: torch.Tensor

    def __init__(self, width, fft):
        super().__init__()
        self.fft, n, bins = fft, scaled(32, width), fft // 2 + 1
        self.register_buffer("window", torch.hann_window(fft))
        self.edges = [(int(a * bins), int(b * bins)) for a, b in pairwise(EDGES)]
        layers: list[nn.Module] = []
        for _ in self.edges:
            layers += [nn.Conv2d(n if i else 2, n, (3, 9), (1, 2 if i else 1), (1, 4)) for i in range(4)]
            layers += [nn.Conv2d(n, n, 3, 1, 1)]
        self.stacks = nn.ModuleList(map(weight_norm, layers))  # five layers a band
        self.last = weight_norm(nn.Conv2d(n, 1, 3, 1, 1))

    def forward(self, x):
        hop, window = self.fft // 4, self.window
        x = F.pad(x, ((self.fft - hop) // 2,) * 2, "reflect").squeeze(1).to(window.dtype)
        x = torch.stft(x, self.fft, hop, window=window, center=False, return_complex=True)
        x, maps, ends = torch.view_as_real(x).permute(0, 3, 2, 1), [], []
        for i, (low, high) in enumerate(self.edges):
            band = x[..., low:high]
            for layer in self.stacks[5 * i : 5 * i + 5]:
                maps.append(band := F.leaky_relu(layer(band), 0.1))
            ends.append(band)
        return [*maps, self.last(torch.cat(ends, -1))]


class Discriminator(nn.Module):
    """(N, 1, T) -> one list for each discriminator: its feature maps and, last, its logits."""

    def __init__(self, width):
        super().__init__()
        self.periods = nn.ModuleList(Period(width, period) for period in PERIODS)
        self.bands = nn.ModuleList(Bands(width, fft) for fft in WINDOWS)

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        x = 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
        return [network(x)[1] for network in self.periods] + [network(x) for network in self.bands]
