"""The networks of LlamaGen's VQ-16 (FoundationVision/LlamaGen, tokenizer/tokenizer_image), restated.

width: a factor on all channels, on the 32 groups of the norms and on the codes; upstream's is 1.
"""

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS, FACTORS, LATENT, CODE, CODES = 128, (1, 1, 2, 2, 4), 256, 8, 16384
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def norm(n, width):
    return nn.GroupNorm(max(1, round(32 * width)), n, 1e-6)


class Residual(nn.Module):
    def __init__(self, a, b, width):
        super().__init__()
        self.body = nn.Sequential(
            *(norm(a, width), nn.SiLU(), nn.Conv2d(a, b, 3, 1, 1), norm(b, width), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1))
        )
        self.skip = nn.Identity() if a == b else nn.Conv2d(a, b, 1)

    def forward(self, x):
        return self.skip(x) + self.body(x)


class Attention(nn.Module):
    """One head over all pixels."""

    def __init__(self, n, width):
        super().__init__()
        self.norm, self.inputs, self.output = norm(n, width), nn.Conv2d(n, 3 * n, 1), nn.Conv2d(n, n, 1)

    def forward(self, x):
        q, k, v = (y.flatten(2).mT for y in self.inputs(self.norm(x)).chunk(3, 1))
        return x + self.output(F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, x.shape[2:]))


def middle(n, width):
    return [Residual(n, n, width), Attention(n, width), Residual(n, n, width)]


class Autoencoder(nn.Module):
    """(N, 3, H, W) -> its reconstruction, and the sum of codebook loss and commitment loss."""

    def __init__(self, width):
        super().__init__()
        n = [max(1, round(CHANNELS * factor * width)) for factor in FACTORS]
        z, before = max(1, round(LATENT * width)), n[0]
        down: list[nn.Module] = [nn.Conv2d(3, before, 3, 1, 1)]
        for i, after in enumerate(n):
            for a in (before, after):
                down += [Residual(a, after, width), *([Attention(after, width)] if i == 4 else [])]
            down += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(after, after, 3, 2)] if i < 4 else []
            before = after
        down += [*middle(before, width), norm(before, width), nn.SiLU(), nn.Conv2d(before, z, 3, 1, 1)]
        up: list[nn.Module] = [nn.Conv2d(CODE, z, 1), nn.Conv2d(z, before, 3, 1, 1), *middle(before, width)]
        for i, after in reversed([*enumerate(n)]):
            for a in (before, after, after):
                up += [Residual(a, after, width), *([Attention(after, width)] if i == 4 else [])]
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(after, after, 3, 1, 1)] if i else []
            before = after
        self.last = nn.Conv2d(before, 3, 3, 1, 1)
        self.encoder = nn.Sequential(*down, nn.Conv2d(z, CODE, 1))
        self.decoder = nn.Sequential(*up, norm(before, width), nn.SiLU(), self.last)
        codes = max(2, round(CODES * width))
        self.codes = nn.Parameter(F.normalize(torch.empty(codes, CODE).uniform_(-1 / codes, 1 / codes)))

    def forward(self, x):
        z, codes = F.normalize(self.encoder(x).movedim(1, -1), dim=-1), F.normalize(self.codes)
        nearest = codes[(z.detach() @ codes.detach().t()).argmax(-1)]
        loss = (nearest - z.detach()).square().mean() + 0.25 * (nearest.detach() - z).square().mean()
        return self.decoder((z + (nearest - z).detach()).movedim(-1, 1)), loss


class Perceptual(nn.Module):
    """LPIPS with VGG-16: weighted distances of normalised features. Weights are trained upstream, random here."""

    def __init__(self, width):
        super().__init__()
        stages, before = [], 3
        for i, widths in enumerate(VGG):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
            for after in (max(1, round(n * width)) for n in widths):
                layers += [nn.Conv2d(before, after, 3, 1, 1), nn.ReLU()]
                before = after
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        ends = [max(1, round(widths[-1] * width)) for widths in VGG]
        self.weigh = nn.ParameterList(torch.rand((1, n, 1, 1)) for n in ends)

    def forward(self, a, b):
        distances = []
        for stage, weight in zip(self.stages, self.weigh):
            a, b = stage(a), stage(b)
            one, other = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a + 1e-10, b + 1e-10))
            distances.append(((one - other).square() * weight).sum(1).mean())
        return torch.stack(distances).sum()


def patches(width):
    """D: (N, 3, H, W) -> logits of patches of 70 × 70 pixels."""
    n = max(1, round(64 * width))
    layers = [nn.Conv2d(3, n, 4, 2, 1), nn.LeakyReLU(0.2)]
    for a, b, stride in ((n, 2 * n, 2), (2 * n, 4 * n, 2), (4 * n, 8 * n, 1)):
        layers += [nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    layers.append(nn.Conv2d(8 * n, 1, 4, 1, 1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return nn.Sequential(*layers)
