"""The networks of stylegan2-ada-pytorch's CIFAR-10 preset (training/networks.py), restated.

f: has `bias_act` and `upfirdn2d`, upstream's or fastgan's, and `taps`, the filter. draw: shape -> normal numbers.
n: channels, 512 upstream.
"""

import torch
import torch.nn.functional as F
from torch import nn

MAPPING = 2  # layers


class Linear(nn.Module):
    """Weights are drawn from N(0, 1) / rate, and scaled in the forward pass: an equal learning rate."""

    def __init__(self, f, a, b, act="lrelu", bias=0.0, rate=1.0):
        super().__init__()
        self.f, self.act, self.gain, self.rate = f, act, rate / a**0.5, rate
        self.weight, self.bias = nn.Parameter(torch.randn(b, a) / rate), nn.Parameter(torch.full((b,), bias))

    def forward(self, x):
        weight, bias = self.weight * self.gain, self.bias * self.rate if self.rate != 1 else self.bias
        if self.act == "linear":
            return torch.addmm(bias, x, weight.t())
        return self.f.bias_act(x @ weight.t(), bias, act=self.act)


class Conv(nn.Module):
    """A convolution, bias and activation; with down=2 a low-pass filter, and half as many pixels a side."""

    def __init__(self, f, a, b, kernel=3, down=1):
        super().__init__()
        self.f, self.down, self.gain, self.pad = f, down, 1 / (a * kernel**2) ** 0.5, kernel // 2
        self.weight, self.bias = nn.Parameter(torch.randn(b, a, kernel, kernel)), nn.Parameter(torch.zeros(b))

    def forward(self, x):
        weight = self.weight * self.gain
        if self.down == 2:
            x = F.conv2d(self.f.upfirdn2d(x, self.f.taps, padding=2), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=self.pad)
        return self.f.bias_act(x, self.bias, act="lrelu", clamp=256.0)


class Modulated(nn.Module):
    """A convolution with channels scaled by w, demodulation, noise, bias and activation. To RGB: scaling and bias."""

    def __init__(self, f, draw, a, b, latent, kernel=3, up=1):
        super().__init__()
        self.f, self.draw, self.up, self.rgb, self.gain = f, draw, up, kernel == 1, a**-0.5
        self.affine = Linear(f, latent, a, "linear", 1.0)
        self.weight, self.bias = nn.Parameter(torch.randn(b, a, kernel, kernel)), nn.Parameter(torch.zeros(b))
        if not self.rgb:
            self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x, w):
        style = self.affine(w)
        if self.rgb:
            x = F.conv2d(x * (style * self.gain)[:, :, None, None], self.weight)
            return self.f.bias_act(x, self.bias, clamp=256.0)
        scale = ((self.weight * style[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8).rsqrt()
        x = x * style[:, :, None, None]
        if self.up == 2:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = self.f.upfirdn2d(x, self.f.taps, padding=1, gain=4)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        noise = self.draw(len(x), 1, *x.shape[2:]) * self.strength
        return self.f.bias_act(torch.addcmul(noise, x, scale[:, :, None, None]), self.bias, act="lrelu", clamp=256.0)


class Generator(nn.Module):
    """(N, n) -> (N, 3, 32, 32): pictures of 4, 8, 16 and 32 pixels; each adds to the one before, enlarged."""

    def __init__(self, f, draw, n):
        super().__init__()
        self.f = f
        self.mapping = nn.Sequential(*(Linear(f, n, n, rate=0.01) for _ in range(MAPPING)))
        self.start = nn.Parameter(torch.randn(n, 4, 4))
        ups = [Modulated(f, draw, n, n, n, up=2) for _ in range(3)]
        convs = [Modulated(f, draw, n, n, n) for _ in range(4)]
        rgbs = [Modulated(f, draw, n, 3, n, 1) for _ in range(4)]
        self.ups, self.convs, self.rgbs = map(nn.ModuleList, (ups, convs, rgbs))

    def forward(self, z):
        w = self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        x, image = self.start.expand(len(z), -1, -1, -1), None
        for i, (conv, rgb) in enumerate(zip(self.convs, self.rgbs)):
            x = conv(self.ups[i - 1](x, w) if i else x, w)
            if i:
                image = self.f.upfirdn2d(image, self.f.taps, up=2, padding=(2, 1, 2, 1), gain=4)
            image = rgb(x, w) if image is None else image + rgb(x, w)
        return image


class Discriminator(nn.Module):
    """(N, 3, 32, 32) -> (N, 1), with the standard deviation over groups of up to 32 images as a channel."""

    def __init__(self, f, n):
        super().__init__()
        pairs = [(Conv(f, n, n), Conv(f, n, n, down=2)) for _ in range(3)]
        self.body = nn.Sequential(Conv(f, 3, n, 1), *(conv for pair in pairs for conv in pair))
        self.end = nn.Sequential(Conv(f, n + 1, n), nn.Flatten(), Linear(f, 16 * n, n), Linear(f, n, 1, "linear"))

    def forward(self, x):
        x = self.body(x)
        groups = x.unflatten(0, (min(32, len(x)), -1))
        spread = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        spread = spread.repeat(len(groups))[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.end(torch.cat((x, spread), 1))
