"""Image codebases: their losses restated in eager PyTorch; logits at the knees of the hinge; probabilities."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES

from fastgan.compat import torchgan

PATCH = (2, 1, 15, 15)
ONE = (1, 1, 30, 30)  # CycleGAN at 256, batch 1
SIDES = (True, False)
HARD, SOFT = (1.0, 0.0), (0.75, 0.25)  # exact in half precision, so that x - y is exact near 0
ALL = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def bce(x, y):
    return softplus(x) - y * x


def bce_of_probability(p, y):
    return -(y * p.log().clamp(min=-100.0) + (1 - y) * (-p).log1p().clamp(min=-100.0))


def near(labels, dtype):
    """Tolerance for a soft label y, where sigmoid(x) - y cancels if the two are close."""
    return dict(grad_rtol=2e-4) if labels == SOFT and dtype != torch.float64 else {}


def mean_of(losses):
    return torch.stack(list(losses)).mean()


def last(scale):
    return scale[-1] if isinstance(scale, list) else scale


# CycleGAN, pix2pix, CUT


def cyclegan_loss(mode, real, y, x):
    if mode == "lsgan":
        return ((x - y) ** 2).mean()
    if mode == "vanilla":
        return bce(x, y).mean()
    s = -1.0 if real else 1.0
    return (s * x).mean() if mode == "wgangp" else softplus(s * x).flatten(1).mean(1)


def probabilities(scales):
    return [[x.detach().sigmoid().requires_grad_() for x in scale] for scale in scales]


# SPADE

SCALES = [[(4, 2, 5, 5), (4, 1, 9, 9)], [(4, 2, 3, 3), (4, 1, 5, 5)]]


def spade_tensor(mode, y, real, for_discriminator, x):
    if mode == "original":
        return bce(x, y).mean()
    if mode == "ls":
        return ((x - y) ** 2).mean()
    s = 1.0 if real else -1.0
    if mode == "hinge" and for_discriminator:
        return -torch.min(s * x - 1, torch.zeros_like(x)).mean()
    return -(s * x).mean()


def spade_loss(mode, labels, real, for_discriminator, x):
    y = labels[0] if real else labels[1]
    if isinstance(x, torch.Tensor):
        return spade_tensor(mode, y, real, for_discriminator, x)
    return mean_of(spade_tensor(mode, y, real, for_discriminator, last(scale)) for scale in x).reshape(1)


def halves(x):
    """As SPADE's `divide_pred`: (logits of generated data, logits of real data)."""
    if isinstance(x, torch.Tensor):
        return x[: len(x) // 2], x[len(x) // 2 :]
    parts = [halves(scale) for scale in x]
    return [fake for fake, _ in parts], [real for _, real in parts]


def knees(of):
    """Set some logits to the knees of the hinge."""
    with torch.no_grad():
        for x in of if isinstance(of, list) else [of]:
            if isinstance(x, list):
                knees(x)
            else:
                x.view(-1)[::3], x.view(-1)[1::3] = 1.0, -1.0
    return of


# BasicSR, mmagic


def typed_loss(kind, labels, weight, real, is_disc, x):
    y = labels[0] if real else labels[1]
    s = 1.0 if real else -1.0
    if kind == "vanilla":
        loss = bce(x, y).mean()
    elif kind in ("lsgan", "smgan"):
        loss = ((x - y) ** 2).mean()
    elif kind == "wgan":
        loss = -(s * x).mean()
    elif kind in ("wgan_softplus", "wgan-logistic-ns"):
        loss = softplus(-s * x).mean()
    else:
        loss = F.relu(1 - s * x).mean() if is_disc else -x.mean()
    return loss if is_disc else loss * weight


BASICSR = ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


def blurred(mask):
    """A Gaussian of 71 x 71 taps and sigma 10 in float64."""
    d = torch.arange(71.0, dtype=torch.float64) - 35
    taps = torch.exp(-(d**2) / 200)
    taps = taps / taps.sum()
    return F.conv2d(mask.double(), torch.outer(taps, taps)[None, None], padding=35)


# MONAI


def monai_tensor(criterion, activation, real, x, reduction):
    y = 1.0 if real else 0.0
    if criterion == "hinge":
        s = 1.0 if real else -1.0
        return -torch.min(s * torch.tanh(x) - 1, torch.zeros_like(x)).mean()
    if criterion == "bce":
        loss = bce_of_probability(torch.sigmoid(x), y)
    else:
        loss = ((F.leaky_relu(x, 0.05) if activation else x) - y) ** 2
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def monai_loss(criterion, activation, real, reduction, x):
    losses = [monai_tensor(criterion, activation, real, t, reduction) for t in (x if isinstance(x, list) else [x])]
    return losses if reduction == "none" else getattr(torch.stack(losses), reduction)()


# torchgan


def reduced(x, reduction):
    return x if reduction == "none" else getattr(x, reduction)()


TORCHGAN_G = [
    ("minimax_generator_loss", {}, lambda f: softplus(-f)),
    ("minimax_generator_loss", dict(nonsaturating=False), lambda f: -softplus(f)),
    ("least_squares_generator_loss", {}, lambda f: 0.5 * (f - 1.0) ** 2),
    ("least_squares_generator_loss", dict(c=0.7), lambda f: 0.5 * (f - 0.7) ** 2),
    ("wasserstein_generator_loss", {}, lambda f: -f),
]
TORCHGAN_D = [
    ("minimax_discriminator_loss", {}, lambda r: softplus(-r), softplus),
    ("minimax_discriminator_loss", dict(label_smoothing=0.2), lambda r: bce(r, 0.8), softplus),
    ("least_squares_discriminator_loss", {}, lambda r: 0.5 * (r - 1.0) ** 2, lambda f: 0.5 * f**2),
    (
        "least_squares_discriminator_loss",
        dict(a=-1.0, b=0.9),
        lambda r: 0.5 * (r - 0.9) ** 2,
        lambda f: 0.5 * (f + 1.0) ** 2,
    ),
    ("wasserstein_discriminator_loss", {}, lambda r: -r, lambda f: f),
]


def torchgan_module(name, settings, reduction):
    return getattr(torchgan, "".join(part.title() for part in name.split("_")))(reduction=reduction, **settings)
