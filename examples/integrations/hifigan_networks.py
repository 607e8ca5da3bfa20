"""HiFi-GAN V1's networks (jik876/hifi-gan, models.py), restated: the generator, discriminators of periods and scales.

width: a factor on all channels; upstream's is 1.
"""

import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

MELS = 80
START = ((128, 15, 1, 1), (128, 41, 2, 4), (256, 41, 2, 16), (512, 41, 4, 16))  # channels, kernel, stride, groups
SCALE = (*START, (1024, 41, 4, 16), (1024, 41, 1, 16), (1024, 5, 1, 1))


def scaled(channels, width, multiple=1):
    return max(multiple, round(channels * width / multiple) * multiple)


class ResidualBlock(nn.Module):
    def __init__(self, n, kernel):
        super().__init__()
        pairs = [[nn.Conv1d(n, n, kernel, 1, kernel // 2 * d, d) for d in (gap, 1)] for gap in (1, 3, 5)]
        self.first, self.second = (nn.ModuleList(map(weight_norm, convs)) for convs in zip(*pairs))

    def forward(self, x):
        for first, second in zip(self.first, self.second):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Generator(nn.Module):
    """(N, inputs, T / 256) -> (N, 1, T). strides: of the upsampling layers; their kernels are twice as long."""

    def __init__(self, width, inputs=MELS, strides=(8, 8, 2, 2)):
        super().__init__()
        n = [scaled(512 >> i, width) for i in range(5)]
        pads = [(s // 2 + s % 2, s % 2) for s in strides]
        ups = [nn.ConvTranspose1d(n[i], n[i + 1], 2 * s, s, *pads[i]) for i, s in enumerate(strides)]
        self.before, self.after = (weight_norm(nn.Conv1d(a, b, 7, 1, 3)) for a, b in ((inputs, n[0]), (n[4], 1)))
        self.ups = nn.ModuleList(map(weight_norm, ups))
        self.blocks = nn.ModuleList(ResidualBlock(m, k) for m in n[1:] for k in (3, 7, 11))

    def forward(self, x):
        x = self.before(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            first, second, third = (block(x) for block in self.blocks[3 * i : 3 * i + 3])
            x = (first + second + third) / 3
        return self.after(F.leaky_relu(x)).tanh()


class Discriminator(nn.Module):
    """(N, 1, T) -> logits (N, n), feature maps: six for a period, eight for a scale (period 0).

    iterates: it has a spectral norm, which changes in each pass by a step of its power iteration."""

    def __init__(self, width, period=0, norm=weight_norm):
        super().__init__()
        self.period, self.iterates = period, norm is not weight_norm
        n = [1, *(scaled(c, width) for c in (32, 128, 512, 1024, 1024))]
        layers: list[nn.Module] = [nn.Conv2d(n[i], n[i + 1], (5, 1), (1 if i == 4 else 3, 1), (2, 0)) for i in range(5)]
        layers = [*layers, nn.Conv2d(n[-1], 1, (3, 1), 1, (1, 0))]
        if not period:
            n = [1, *(scaled(layer[0], width, 16) for layer in SCALE)]
            layers = [nn.Conv1d(n[i], n[i + 1], k, s, k // 2, 1, g) for i, (_, k, s, g) in enumerate(SCALE)]
            layers = [*layers, nn.Conv1d(n[-1], 1, 3, 1, 1)]
        self.layers = nn.ModuleList(map(norm, layers))

    def forward(self, x):
        if self.period:
            x = F.pad(x, (0, -x.shape[-1] % self.period), "reflect").unflatten(-1, (-1, self.period))
        *hidden, last = self.layers
        maps = [x := F.leaky_relu(layer(x), 0.1) for layer in hidden]
        maps.append(last(x))
        return maps[-1].flatten(1), maps
