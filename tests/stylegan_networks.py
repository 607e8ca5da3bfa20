"""The networks of stylegan2-ada-pytorch (Karras et al. 2020) and StyleGAN3-T (Karras et al. 2021), of any size.

A network is given the operators that it uses, so that the same weights run on ours and on plain PyTorch. Left out:
labels, truncation, half precision, StyleGAN3's Fourier features and its statistics of magnitudes.
"""

import itertools
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from bench.codebases import stylegan
from fastgan.compat.torch_utils_ops import bias_act, conv2d_gradfix, filtered_lrelu, upfirdn2d


def _bias_act(x, b, **settings):
    return bias_act.bias_act(x, b, **({"act": "lrelu"} | settings))


def _resample(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1.0):
    return upfirdn2d.upfirdn2d(x, f.float(), up, down, list(padding), gain=gain)


def _plain_resample(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1.0):
    return stylegan.upfirdn2d(x, f, (up, up), (down, down), padding, gain=gain)


def _filtered(x, fu, fd, b, **settings):
    return filtered_lrelu.filtered_lrelu(x, fu.float(), fd.float(), b, **settings)


OURS = SimpleNamespace(
    bias_act=_bias_act,
    resample=_resample,
    filtered_lrelu=_filtered,
    conv2d=conv2d_gradfix.conv2d,
    conv_transpose2d=conv2d_gradfix.conv_transpose2d,
)
PLAIN = SimpleNamespace(
    bias_act=stylegan.bias_act,
    resample=_plain_resample,
    filtered_lrelu=stylegan.filtered_lrelu,
    conv2d=F.conv2d,
    conv_transpose2d=F.conv_transpose2d,
)


class Dense(nn.Module):
    """act(x W' + b), with W and b scaled at run time, so that all weights learn at the same rate."""

    def __init__(self, ops, inputs, outputs, act="linear", rate=1.0, bias=0.0):
        super().__init__()
        self.ops, self.act, self.rate = ops, act, rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x):
        y = x @ (self.weight * (self.rate / math.sqrt(self.weight.shape[1]))).T
        gain = math.sqrt(2) if self.act == "lrelu" else 1.0
        return self.ops.bias_act(y, self.bias * self.rate, act=self.act, gain=gain)


class Mapping(nn.Module):
    """From z, normalised, to w."""

    def __init__(self, ops, size, layers=2):
        super().__init__()
        self.layers = nn.Sequential(*[Dense(ops, size, size, "lrelu", 0.01) for _ in range(layers)])

    def forward(self, z):
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


def modulated(ops, x, weight, style, f=None, demodulate=True, padding=1):
    """StyleGAN2's convolution in training: x is scaled by a style for each channel, and the result to unit variance.
    With f the resolution doubles, by a transposed convolution and a blur."""
    x = x * style[:, :, None, None]
    if f is None:
        x = ops.conv2d(x, weight, padding=padding)
    else:
        x = ops.resample(ops.conv_transpose2d(x, weight.transpose(0, 1), stride=2), f, padding=(1, 1, 1, 1), gain=4.0)
    if demodulate:
        of_sample = (weight[None] * style[:, None, :, None, None]).square().sum((2, 3, 4))
        x = x * (of_sample + 1e-8).rsqrt()[:, :, None, None]
    return x


def modulated_weights(ops, x, weight, style, demodulate=True, padding=2):
    """StyleGAN3's: one convolution of N groups, with weights scaled by each sample's style."""
    n, (o, i, k, _) = len(x), weight.shape
    w = weight[None] * style[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = ops.conv2d(x.reshape(1, n * i, *x.shape[2:]), w.reshape(n * o, i, k, k), padding=padding, groups=n)
    return x.reshape(n, o, *x.shape[2:])


class Styled(nn.Module):
    """A layer of the generator: modulated convolution, noise, bias, leaky ReLU, clamp."""

    def __init__(self, ops, inputs, outputs, size, resolution, up=False):
        super().__init__()
        self.ops, self.up = ops, up
        self.affine = Dense(ops, size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias, self.strength = nn.Parameter(torch.zeros(outputs)), nn.Parameter(torch.full((), 0.1))
        self.register_buffer("noise", torch.randn(resolution, resolution))
        self.register_buffer("f", stylegan.smooth(), persistent=False)

    def forward(self, x, w):
        x = modulated(self.ops, x, self.weight, self.affine(w), self.f if self.up else None)
        return self.ops.bias_act(x + self.noise * self.strength, self.bias, clamp=256.0)


class ToRGB(nn.Module):
    def __init__(self, ops, inputs, size):
        super().__init__()
        self.ops, self.scale = ops, 1 / math.sqrt(inputs)
        self.affine = Dense(ops, size, inputs, bias=1.0)
        self.weight, self.bias = nn.Parameter(torch.randn(3, inputs, 1, 1)), nn.Parameter(torch.zeros(3))

    def forward(self, x, w):
        style = self.affine(w) * self.scale
        x = modulated(self.ops, x, self.weight, style, demodulate=False, padding=0)
        return self.ops.bias_act(x, self.bias, act="linear", gain=1.0, clamp=256.0)


def channels(resolution, base, most):
    return min(base // resolution, most)


class Synthesis(nn.Module):
    """StyleGAN2's skip generator: w to an image."""

    def __init__(self, ops, size, resolution, base, most):
        super().__init__()
        self.ops = ops
        sides = [2**k for k in range(2, resolution.bit_length())]
        counts = [channels(side, base, most) for side in sides]
        self.start = nn.Parameter(torch.randn(counts[0], 4, 4))
        pairs = list(zip(counts, counts[1:], sides[1:]))
        self.ups = nn.ModuleList(Styled(ops, a, b, size, side, True) for a, b, side in pairs)
        self.layers = nn.ModuleList(Styled(ops, c, c, size, side) for c, side in zip(counts, sides))
        self.rgbs = nn.ModuleList(ToRGB(ops, c, size) for c in counts)
        self.register_buffer("f", stylegan.smooth(), persistent=False)

    def forward(self, w):
        x = self.layers[0](self.start.expand(len(w), -1, -1, -1), w)
        image = self.rgbs[0](x, w)
        for up, layer, rgb in zip(self.ups, self.layers[1:], self.rgbs[1:]):
            x = layer(up(x, w), w)
            image = self.ops.resample(image, self.f, up=2, padding=(2, 1, 2, 1), gain=4.0) + rgb(x, w)
        return image


class Generator(nn.Module):
    weight_gradients = False  # of convolutions, in the first gradient of the path length

    def __init__(self, ops, size=8, resolution=16, base=64, most=8):
        super().__init__()
        self.size, self.mapping = size, Mapping(ops, size)
        self.synthesis = Synthesis(ops, size, resolution, base, most)

    def forward(self, z):
        return self.synthesis(self.mapping(z))


class Conv(nn.Module):
    """A layer of the discriminator: blur and stride 2 if `down`; convolution, bias, leaky ReLU, clamp."""

    def __init__(self, ops, inputs, outputs, kernel=3, down=False, act="lrelu", gain=1.0, bias=True):
        super().__init__()
        self.ops, self.down, self.act, self.kernel = ops, down, act, kernel
        self.gain = gain * (math.sqrt(2) if act == "lrelu" else 1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("f", stylegan.smooth(), persistent=False)

    def forward(self, x):
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.down and self.kernel == 1:
            x = self.ops.conv2d(self.ops.resample(x, self.f, down=2, padding=(1, 1, 1, 1)), weight)
        elif self.down:
            x = self.ops.conv2d(self.ops.resample(x, self.f, padding=(2, 2, 2, 2)), weight, stride=2)
        else:
            x = self.ops.conv2d(x, weight, padding=self.kernel // 2)
        return self.ops.bias_act(x, self.bias, act=self.act, gain=self.gain, clamp=256.0 * self.gain)


class ResidualBlock(nn.Module):
    def __init__(self, ops, inputs, outputs):
        super().__init__()
        half = math.sqrt(0.5)
        self.skip = Conv(ops, inputs, outputs, 1, True, "linear", half, bias=False)
        self.first, self.second = Conv(ops, inputs, inputs), Conv(ops, inputs, outputs, down=True, gain=half)

    def forward(self, x):
        return self.skip(x) + self.second(self.first(x))


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator, with the standard deviation of the batch as a channel at the end."""

    def __init__(self, ops, resolution=16, base=64, most=8):
        super().__init__()
        sides = [2**k for k in range(resolution.bit_length() - 1, 1, -1)]
        counts = [channels(side, base, most) for side in sides]
        blocks = [ResidualBlock(ops, a, b) for a, b in itertools.pairwise(counts)]
        self.body = nn.Sequential(Conv(ops, 3, counts[0], 1), *blocks)
        self.last = Conv(ops, counts[-1] + 1, counts[-1])
        self.dense = Dense(ops, counts[-1] * 16, counts[-1], "lrelu")
        self.out = Dense(ops, counts[-1], 1)

    def forward(self, x):
        x = self.body(x)
        spread = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = self.last(torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1))
        return self.out(self.dense(x.flatten(1)))[:, 0]


class Layer3(nn.Module):
    """A layer of StyleGAN3's synthesis: modulated convolution, then the filtered nonlinearity."""

    def __init__(self, ops, layer, inputs, size):
        super().__init__()
        self.ops, self.rgb = ops, layer.rgb
        self.up, self.down = layer.rates[1] // layer.rates[0], layer.rates[1] // layer.rates[2]
        self.padding = list(layer.padding)
        kernel = 1 if layer.rgb else 3
        self.scale = 1 / math.sqrt(inputs) if layer.rgb else 1.0
        self.affine = Dense(ops, size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(layer.channels, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(layer.channels))
        self.register_buffer("fu", layer.filters[0], persistent=False)
        self.register_buffer("fd", layer.filters[1], persistent=False)

    def forward(self, x, w):
        style = self.affine(w) * self.scale
        x = modulated_weights(self.ops, x, self.weight, style, not self.rgb, 0 if self.rgb else 2)
        shape = dict(up=self.up, down=self.down, padding=self.padding, clamp=256.0)
        shape |= dict(gain=1.0, slope=1.0) if self.rgb else {}
        return self.ops.filtered_lrelu(x, self.fu, self.fd, self.bias, **shape)


class Generator3(nn.Module):
    """Mapping and synthesis of StyleGAN3-T, from a learned constant."""

    weight_gradients = True  # the gradient in w goes through them

    def __init__(self, ops, size=8, resolution=32, layers=3, base=64, most=4):
        super().__init__()
        self.size, self.mapping = size, Mapping(ops, size)
        made = stylegan.stylegan3_layers(resolution, layers, base, most)
        counts = [made[0].channels, *[layer.channels for layer in made]]
        self.start = nn.Parameter(torch.randn(counts[0], *[made[0].sizes[0] - 2] * 2))
        self.layers = nn.ModuleList(Layer3(ops, layer, c, size) for layer, c in zip(made, counts))

    def synthesis(self, w):
        x = self.start.expand(len(w), -1, -1, -1)
        for layer in self.layers:
            x = layer(x, w)
        return x * 0.25

    def forward(self, z):
        return self.synthesis(self.mapping(z))


def r1(discriminator, images):
    """sum |dD/dx|^2 / 2 for each sample, averaged (Mescheder et al. 2018, equation 9)."""
    images = images.detach().requires_grad_()
    with conv2d_gradfix.no_weight_gradients():
        (grad,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return grad.square().sum((1, 2, 3)).mean() / 2


def path_length(generator, z, noise, average):
    """((|J' noise| - a)^2, a): J is the derivative of the image in w; a is the average of |J' noise|, which moves by a
    hundredth towards that of this batch (Karras et al. 2020, arXiv:1912.04958, equation 4)."""
    w = generator.mapping(z)
    image = generator.synthesis(w)
    with conv2d_gradfix.no_weight_gradients(not generator.weight_gradients):
        (grad,) = torch.autograd.grad((image * noise).sum() / image[0, 0].numel() ** 0.5, w, create_graph=True)
    lengths = grad.square().sum(1).sqrt()
    average = average.lerp(lengths.mean().detach(), 0.01)
    return (lengths - average).square().mean(), average
