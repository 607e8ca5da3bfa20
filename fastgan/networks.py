"""The networks that the command line trains: DCGAN for images of 8 to 128 pixels, multi-layer perceptrons for points.

DCGAN: Radford, Metz and Chintala 2016. The trainer takes any other pair of modules as well.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from fastgan.data import SIZES


class Generator(nn.Module):
    """z (N, latent_dim) -> images (N, channels, size, size) in [-1, 1].

    A 4x4 map of features, doubled in side and halved in channels by 4x4 transposed convolutions until it is the image,
    with batch normalisation and ReLU after each and tanh at the end (Radford et al. 2016, fig. 1). width: channels of
    the last map before the image.

    At 8 pixels a single convolution lies between 4x4 and the image, too little depth to draw digits with: two dense
    layers of 128 go before it.
    """

    def __init__(self, size: int, channels: int, latent_dim: int = 64, width: int = 64):
        super().__init__()
        widths = _widths(size, width)[::-1]
        dense = [128, 128] if size == 8 else []
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([latent_dim, *dense], dense):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        layers += [nn.Linear(dense[-1] if dense else latent_dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
        for fan_in, fan_out in zip(widths, [*widths[1:], channels]):
            if size > 8:
                layers.append(nn.BatchNorm2d(fan_in))
            layers += [nn.ReLU(), nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Discriminator(nn.Module):
    """Images (N, channels, size, size) -> logits (N, 1).

    The generator backwards: 4x4 convolutions of stride 2 and leaky ReLU down to 4x4, then a linear layer (at 8 pixels
    two dense layers of 128 between).

    No batch normalisation, which DCGAN has here: the R1 penalty is a gradient per sample, |grad_x D(x)|^2 at each x,
    and batch normalisation makes D(x) depend on the rest of the batch, so that the gradient of the sum is not that of
    a sample any more. Nor is it needed: the penalty is what keeps this discriminator in bounds (Mescheder et al. 2018
    train without).
    """

    def __init__(self, size: int, channels: int, width: int = 64):
        super().__init__()
        widths = _widths(size, width)
        dense = [128, 128] if size == 8 else []
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([channels, *widths], widths):
            layers += [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers.append(nn.Flatten())
        for fan_in, fan_out in zip([widths[-1] * 16, *dense], dense):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2)]
        layers.append(nn.Linear(dense[-1] if dense else widths[-1] * 16, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def mlp(fan_in: int, fan_out: int, width: int = 128, depth: int = 3) -> nn.Sequential:
    """(N, fan_in) -> (N, fan_out) through `depth` layers of `width` with leaky ReLU. Leaky, because a discriminator of
    plain ReLU can die: it then calls everything the same, and its expected error of 1/2 looks like success."""
    widths = [fan_in, *[width] * depth]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers, nn.Linear(width, fan_out))


def build(sample_shape: tuple[int, ...], latent_dim: int, width: int) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator) for samples of shape (C, H, W) or (d,), with torch's global random weights."""
    if len(sample_shape) == 1:
        (d,) = sample_shape
        return mlp(latent_dim, d, width), mlp(d, 1, width)
    channels, size, _ = sample_shape
    return Generator(size, channels, latent_dim, width), Discriminator(size, channels, width)


def _widths(size: int, width: int) -> list[int]:
    """Channels of the maps from fine to coarse, down to 4x4: doubled at each, up to eight times `width`."""
    if size not in SIZES:
        raise ValueError(f"size: got {size}, expected one of {', '.join(map(str, SIZES))}")
    return [width * min(2**level, 8) for level in range(int(math.log2(size)) - 2)]
