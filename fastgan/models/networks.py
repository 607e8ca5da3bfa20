"""The networks that the command line trains: DCGAN or a ResNet without normalisation for images of 8 to 256 pixels,
multi-layer perceptrons for points. Each can be conditional on labels.

DCGAN: Radford, Metz and Chintala 2016. ResNet: R3GAN, Huang, Gokaslan, Kuleshov and Tompkin 2024. The trainer also
accepts any other pair of modules.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastgan.data import SIZES

NETWORKS = ("dcgan", "dcgan-batchnorm", "resnet", "mlp")
SLOPE = 0.2  # of leaky ReLU, everywhere


class Generator(nn.Module):
    """z (N, latent_dim) -> images (N, channels, size, size) in [-1, 1].

    A 4x4 feature map, then 4x4 transposed convolutions that each double the side and halve the channels, up to the
    image. Batch normalisation and ReLU before each, tanh at the end (Radford et al. 2016, fig. 1). width: channels of
    the last map before the image.

    At 8 pixels there is only one convolution between the 4x4 map and the image, which is too little depth to draw
    digits. There two dense layers of 128 come first, without batch normalisation unless `batch_norm` is True.
    """

    def __init__(self, size: int, channels: int, latent_dim: int = 64, width: int = 64, batch_norm: bool | None = None):
        super().__init__()
        widths = _widths(size, width)[::-1]
        dense = [128, 128] if size == 8 else []
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([latent_dim, *dense], dense):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        layers += [nn.Linear(dense[-1] if dense else latent_dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
        for fan_in, fan_out in zip(widths, [*widths[1:], channels]):
            if batch_norm or (batch_norm is None and size > 8):
                layers.append(nn.BatchNorm2d(fan_in))
            layers += [nn.ReLU(), nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Discriminator(nn.Module):
    """Images (N, channels, size, size) -> logits (N, 1).

    The mirror image of the generator: 4x4 convolutions of stride 2 and leaky ReLU down to a 4x4 map, then a linear
    layer (at 8 pixels, two dense layers of 128 before it).

    DCGAN's batch normalisation is off by default, because the R1 penalty needs the gradient of each sample,
    |grad_x D(x)|^2 at each x. With batch normalisation D(x) depends on the whole batch, so that the gradient of the sum
    is not the gradient of one sample. It is not needed either: the penalty keeps this discriminator bounded (Mescheder
    et al. 2018 train without it). With `batch_norm` (after each convolution but the first, as in the paper) train
    without a penalty.
    """

    def __init__(self, size: int, channels: int, width: int = 64, batch_norm: bool = False):
        super().__init__()
        widths = _widths(size, width)
        dense = [128, 128] if size == 8 else []
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(zip([channels, *widths], widths)):
            layers.append(nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1))
            if batch_norm and i > 0:
                layers.append(nn.BatchNorm2d(fan_out))
            layers.append(nn.LeakyReLU(SLOPE))
        layers.append(nn.Flatten())
        for fan_in, fan_out in zip([widths[-1] * 16, *dense], dense):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Linear(dense[-1] if dense else widths[-1] * 16, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class ResidualBlock(nn.Module):
    """x + W3 s(W2 s(W1 x)) on maps (N, channels, H, W): 1x1 to twice the channels, grouped 3x3 (16 channels a group),
    1x1 back; s is leaky ReLU (Huang et al. 2024, fig. 2).

    No normalisation: the initial weights set the scale instead. W3 starts at 0, so that a block is the identity; W1 and
    W2 start at He's scale times depth^(-1/4). depth: blocks of the network (Fixup: Zhang et al. 2019, eq. 5).
    """

    def __init__(self, channels: int, depth: int):
        super().__init__()
        hidden = 2 * channels
        groups = math.gcd(hidden, max(1, hidden // 16))
        self.widen = _he(nn.Conv2d(channels, hidden, 1), depth**-0.25)
        self.mix = _he(nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups), depth**-0.25)
        self.narrow = _he(nn.Conv2d(hidden, channels, 1, bias=False), 0.0)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.mix(self.act(self.widen(x)))))


class ResNetGenerator(nn.Module):
    """z (N, latent_dim) -> images (N, channels, size, size), unbounded: training brings them to [-1, 1].

    A learned 4x4 map, each of whose channels is multiplied by a linear function of z. Then `blocks` residual blocks at
    each size from 4x4 to the image's, with the side doubled between sizes. A 1x1 convolution turns the last map into
    colours. width: channels of the last map; each coarser map has twice as many, up to eight times `width`.
    """

    def __init__(self, size: int, channels: int, latent_dim: int = 64, width: int = 64, blocks: int = 1):
        super().__init__()
        widths = _widths(size, width, finest=True)[::-1]
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.weigh = _he(nn.Linear(latent_dim, widths[0], bias=False), 1 / GAIN)
        layers: list[nn.Module] = []
        for i, channels_here in enumerate(widths):
            if i > 0:
                layers += [_project_channels(widths[i - 1], channels_here), nn.Upsample(scale_factor=2)]
            layers += [ResidualBlock(channels_here, blocks * len(widths)) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _he(nn.Conv2d(widths[-1], channels, 1), 1 / GAIN))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.basis * self.weigh(z)[:, :, None, None])


class ResNetDiscriminator(nn.Module):
    """Images (N, channels, size, size) -> logits (N, 1): the mirror image of the generator, with 2x2 average pooling,
    then a depthwise 4x4 convolution and a linear layer. No logit depends on another image."""

    def __init__(self, size: int, channels: int, width: int = 64, blocks: int = 1):
        super().__init__()
        widths = _widths(size, width, finest=True)
        layers: list[nn.Module] = [_he(nn.Conv2d(channels, widths[0], 1), 1 / GAIN)]
        for i, channels_here in enumerate(widths):
            if i > 0:
                layers += [nn.AvgPool2d(2), _project_channels(widths[i - 1], channels_here)]
            layers += [ResidualBlock(channels_here, blocks * len(widths)) for _ in range(blocks)]
        collapse = _he(nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False), 1 / GAIN)
        self.layers = nn.Sequential(
            *layers, collapse, nn.Flatten(), _he(nn.Linear(widths[-1], 1, bias=False), 1 / GAIN)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def mlp(fan_in: int, fan_out: int, width: int = 128, depth: int = 3) -> nn.Sequential:
    """(N, fan_in) -> (N, fan_out) through `depth` layers of `width` with leaky ReLU. With plain ReLU, a discriminator
    can die: it then returns the same logit for every sample, and its expected error of 1/2 looks like success."""
    widths = [fan_in, *[width] * depth]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(SLOPE))]
    return nn.Sequential(*layers, nn.Linear(width, fan_out))


class ClassConditionalGenerator(nn.Module):
    """(z (N, latent_dim), y int64 (N,)) -> samples: `network` applied to the concatenation of z and an embedding of y,
    (N, 2 latent_dim) (Mirza and Osindero 2014)."""

    def __init__(self, network: nn.Module, classes: int, latent_dim: int):
        super().__init__()
        self.network, self.embed = network, nn.Embedding(classes, latent_dim)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.network(torch.cat((z, self.embed(labels).to(z.dtype)), dim=1))


class ProjectionDiscriminator(nn.Module):
    """(samples, y int64 (N,)) -> logits (N, 1): psi(phi(x)) + <embed(y), phi(x)> (Miyato and Koyama 2018, eq. 4). psi
    is the last of `layers`, a linear one; phi is all layers before it."""

    def __init__(self, layers: nn.Sequential, classes: int):
        super().__init__()
        *features, last = layers
        if not isinstance(last, nn.Linear):
            raise TypeError(f"layers: got {type(last).__name__} at the end, expected a torch.nn.Linear")
        self.features, self.last = nn.Sequential(*features), last
        self.embed = nn.Embedding(classes, last.in_features)
        with torch.no_grad():
            self.embed.weight.mul_(last.in_features**-0.5)  # so that the projection has the scale of psi

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        phi = self.features(samples)
        return self.last(phi) + (self.embed(labels).to(phi.dtype) * phi).sum(1, keepdim=True)


def build(
    sample_shape: tuple[int, ...],
    latent_dim: int,
    width: int,
    networks: str | None = None,
    classes: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator) for samples of shape (C, H, W) or (d,). torch's global random state sets the weights.

    networks: one of `NETWORKS`; None: "mlp" for points and "dcgan" for images, which has no batch normalisation in D.
    "dcgan-batchnorm" is the paper's pair, with weights from N(0, 0.02^2). classes: None, or the number of classes: then
    the pair is a `ClassConditionalGenerator` and a `ProjectionDiscriminator`.

    Raises ValueError if the shape is another, or the name is unknown or for the other kind of samples.
    """
    if classes is not None:
        generator, discriminator = build(sample_shape, 2 * latent_dim, width, networks)
        layers = discriminator if isinstance(discriminator, nn.Sequential) else discriminator.layers
        assert isinstance(layers, nn.Sequential)
        return ClassConditionalGenerator(generator, classes, latent_dim), ProjectionDiscriminator(layers, classes)
    points = len(sample_shape) == 1
    if not points and (len(sample_shape) != 3 or sample_shape[1] != sample_shape[2]):
        raise ValueError(f"sample_shape: got {tuple(sample_shape)}, expected (d,), or (channels, size, size) of images")
    networks = networks or ("mlp" if points else "dcgan")
    fitting = [name for name in NETWORKS if (name == "mlp") == points]
    if networks not in fitting:
        kind = "points" if points else "images"
        raise ValueError(f"networks: got {networks}, expected one of {', '.join(fitting)}, as the samples are {kind}")
    if points:
        (d,) = sample_shape
        return mlp(latent_dim, d, width), mlp(d, 1, width)
    channels, size, _ = sample_shape
    if networks == "resnet":
        return ResNetGenerator(size, channels, latent_dim, width), ResNetDiscriminator(size, channels, width)
    if networks == "dcgan-batchnorm":
        pair = Generator(size, channels, latent_dim, width, True), Discriminator(size, channels, width, True)
        return pair[0].apply(_dcgan_weights), pair[1].apply(_dcgan_weights)
    return Generator(size, channels, latent_dim, width), Discriminator(size, channels, width)


def outline(
    sample_shape: tuple[int, ...],
    latent_dim: int,
    width: int,
    networks: str | None = None,
    classes: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """The networks of `build` on the meta device: their weights use no memory."""
    with torch.device("meta"):
        return build(sample_shape, latent_dim, width, networks, classes)


GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the scale through leaky ReLU (He et al. 2015, eq. 15)


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


def _he(layer: _Layer, scale: float) -> _Layer:
    """Draw the layer's weights from N(0, 1 / fan_in) times `GAIN` times `scale`, set its bias to 0, and return it."""
    with torch.no_grad():
        layer.weight.normal_(0, scale * GAIN / math.sqrt(layer.weight[0].numel()))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def _project_channels(fan_in: int, fan_out: int) -> nn.Module:
    """A linear map of each pixel from `fan_in` to `fan_out` channels; the identity if they are equal."""
    return nn.Identity() if fan_in == fan_out else _he(nn.Conv2d(fan_in, fan_out, 1, bias=False), 1 / GAIN)


@torch.no_grad()
def _dcgan_weights(layer: nn.Module) -> None:
    """Radford et al. 2016, section 4: weights from N(0, 0.02^2); batch normalisation's from N(1, 0.02^2)."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        layer.weight.normal_(0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.weight.normal_(1, 0.02)


def _widths(size: int, width: int, finest: bool = False) -> list[int]:
    """Channels of the maps from fine to coarse, down to 4x4: doubled at each, up to eight times `width`.

    finest: begin with a map of the image's side; otherwise with half of it."""
    if size not in SIZES:
        raise ValueError(f"size: got {size}, expected one of {', '.join(map(str, SIZES))}")
    return [width * min(2**level, 8) for level in range(int(math.log2(size)) - 2 + finest)]
