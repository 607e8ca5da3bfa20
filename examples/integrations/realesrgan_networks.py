"""Real-ESRGAN's networks (xinntao/Real-ESRGAN and BasicSR), restated. width: a factor on all channels, 1 upstream."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

VGG = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class Dense(nn.Module):
    """Five convolutions, each of the concatenated input and outputs of those before it."""

    def __init__(self, n, grow):
        super().__init__()
        ends = (grow, grow, grow, grow, n)
        self.convs = nn.ModuleList(nn.Conv2d(n + i * grow, end, 3, 1, 1) for i, end in enumerate(ends))

    def forward(self, x):
        *first, last = self.convs
        maps = [x]
        for conv in first:
            maps.append(F.leaky_relu(conv(torch.cat(maps, 1)), 0.2))
        return x + 0.2 * last(torch.cat(maps, 1))


class Block(nn.Module):
    def __init__(self, n, grow):
        super().__init__()
        self.layers = nn.Sequential(*(Dense(n, grow) for _ in range(3)))

    def forward(self, x):
        return x + 0.2 * self.layers(x)


class Generator(nn.Module):
    """RRDB: (N, 3, H, W) -> (N, 3, 4 H, 4 W)."""

    def __init__(self, width, blocks):
        super().__init__()
        n, grow = max(1, round(64 * width)), max(1, round(32 * width))
        self.first, body = nn.Conv2d(3, n, 3, 1, 1), [Block(n, grow) for _ in range(blocks)]
        self.body, act = nn.Sequential(*body, nn.Conv2d(n, n, 3, 1, 1)), nn.LeakyReLU(0.2)
        ups = [layer for _ in range(2) for layer in (nn.Upsample(scale_factor=2.0), nn.Conv2d(n, n, 3, 1, 1), act)]
        self.end = nn.Sequential(*ups, nn.Conv2d(n, n, 3, 1, 1), act, nn.Conv2d(n, 3, 3, 1, 1))

    def forward(self, x):
        x = self.first(x)
        return self.end(x + self.body(x))


class Discriminator(nn.Module):
    """A U-Net with spectral norm: (N, 3, H, W) -> a logit for each pixel, (N, 1, H, W)."""

    def __init__(self, width):
        super().__init__()
        n = max(1, round(64 * width))
        downs = [nn.Conv2d(n << i, n << i + 1, 4, 2, 1, bias=False) for i in range(3)]
        ups = [nn.Conv2d(n << i + 1, n << i, 3, 1, 1, bias=False) for i in (2, 1, 0)]
        ends = [nn.Conv2d(n, n, 3, 1, 1, bias=False) for _ in range(2)]
        self.downs, self.ups, self.ends = (nn.ModuleList(map(spectral_norm, convs)) for convs in (downs, ups, ends))
        self.first, self.last = nn.Conv2d(3, n, 3, 1, 1), nn.Conv2d(n, 1, 3, 1, 1)

    def forward(self, x):
        maps = [F.leaky_relu(self.first(x), 0.2)]
        for conv in self.downs:
            maps.append(F.leaky_relu(conv(maps[-1]), 0.2))
        x = maps.pop()
        for conv in self.ups:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = F.leaky_relu(conv(x), 0.2) + maps.pop()
        for conv in self.ends:
            x = F.leaky_relu(conv(x), 0.2)
        return self.last(x)


class Perceptual(nn.Module):
    """L1 of VGG-19's features after each stage's last convolution. Weights are trained upstream, random here."""

    def __init__(self, width):
        super().__init__()
        stages, before = [], 3
        for i, widths in enumerate(VGG):
            layers: list[nn.Module] = [nn.ReLU(), nn.MaxPool2d(2)] if i else []
            for j, after in enumerate(max(1, round(n * width)) for n in widths):
                layers += [*([nn.ReLU()] if j else []), nn.Conv2d(before, after, 3, 1, 1)]
                before = after
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, fake, real):
        losses = []
        for stage, weight in zip(self.stages, (0.1, 0.1, 1.0, 1.0, 1.0)):
            fake, real = stage(fake), stage(real)
            losses.append(weight * F.l1_loss(fake, real))
        return sum(losses)
