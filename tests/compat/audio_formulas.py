"""Audio codebases and the image tokenisers: shapes of real configurations, their losses restated in eager PyTorch."""

import torch
import torch.nn.functional as F
from parity import shaped

# The shapes of real configurations, their batches cut to 1, 2 or 4, and BigVGAN's largest maps to a quarter.
HIFIGAN = [(2, n) for n in (102, 102, 105, 105, 110, 128, 65, 33)]
BIGVGAN = [*[(1, n) for n in (810, 810, 810, 812, 814)], (1, 1, 257, 27), (1, 1, 128, 41), (1, 1, 128, 54)]
VITS = [*[(4, n) for n in (102, 102, 105, 105, 110)], (4, 128)]
DAC = [(2, 1, 104, 2), (2, 1, 69, 3), (2, 1, 42, 5), (2, 1, 30, 7), (2, 1, 19, 11), (2, 1, 33, 130), (2, 1, 66, 66)]
ENCODEC = [(2, 1, 90, 65), (2, 1, 43, 129), (2, 1, 184, 33), (2, 1, 372, 17), (2, 1, 747, 9)]
SMALL = [(2, 5), (2, 1, 3, 4), (7,)]
PATCHES = (3, 1, 30, 30)
WIDE = [torch.float32, torch.float64]
HALF = [torch.float16, torch.bfloat16]


def pair(shapes, dtype=torch.float32, device="cpu"):
    return shaped(shapes, dtype, seed=1, device=device), shaped(shapes, dtype, seed=2, device=device)


def relu(x):
    return x.clamp(min=0)


# HiFi-GAN, BigVGAN, VITS


def ls_discriminator(reals, fakes):
    r = [((1 - x) ** 2).mean() for x in reals]
    f = [(x**2).mean() for x in fakes]
    return sum(r) + sum(f), [x.item() for x in r], [x.item() for x in f]


def ls_generator(fakes):
    losses = [((1 - x) ** 2).mean() for x in fakes]
    return sum(losses), losses


# vocos


def clamped_discriminator(reals, fakes):
    r, f = [relu(1 - x).mean() for x in reals], [relu(1 + x).mean() for x in fakes]
    return (sum(r) + sum(f)).reshape(1), r, f


def clamped_generator(fakes):
    losses = [relu(1 - x).mean() for x in fakes]
    return sum(losses).reshape(1), losses


# espnet


def espnet_terms(loss_type):
    if loss_type == "mse":
        return (lambda x: (x - 1) ** 2), (lambda x: x**2), (lambda x: (x - 1) ** 2)
    zero = torch.zeros((), dtype=torch.float64)
    return (lambda x: -torch.min(x - 1, zero)), (lambda x: -torch.min(-x - 1, zero)), (lambda x: -x)


def logits_of(outputs):
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [x[-1] if isinstance(x, (list, tuple)) else x for x in outputs]


def espnet_generator(average, loss_type):
    def loss(outputs):
        losses = [espnet_terms(loss_type)[2](x).mean() for x in logits_of(outputs)]
        return sum(losses) / (len(losses) if average else 1)

    return loss


def espnet_discriminator(average, loss_type):
    def loss(outputs_hat, outputs):
        of_real, of_fake, _ = espnet_terms(loss_type)
        r, f = [of_real(x).mean() for x in logits_of(outputs)], [of_fake(x).mean() for x in logits_of(outputs_hat)]
        share = len(r) if average else 1
        return sum(r) / share, sum(f) / share

    return loss


# Coqui


def coqui_discriminator(real_term, fake_term):
    def loss(fake, real):
        r = [real_term(x).mean() for x in logits_of(real)]
        f = [fake_term(x).mean() for x in logits_of(fake)]
        r, f = sum(r) / len(r), sum(f) / len(f)
        return r + f, r, f

    return loss


def coqui_generator(term):
    return lambda fake: sum(term(x).mean() for x in logits_of(fake)) / len(logits_of(fake))


def square_to_1(x):
    return (x - 1) ** 2


# DAC


class Signal:
    """The part of AudioSignal that `GANLoss` uses; `detach` works in place, as there."""

    def __init__(self, audio_data):
        self.audio_data = audio_data

    def clone(self):
        return Signal(self.audio_data.clone())

    def detach(self):
        self.audio_data = self.audio_data.detach()
        return self


# AudioCraft


def minimum(x):
    return torch.min(x, torch.zeros((), dtype=x.dtype))


AUDIOCRAFT = {
    "mse_loss": lambda x: ((x - 1) ** 2).mean(),
    "mse_real_loss": lambda x: ((x - 1) ** 2).mean(),
    "mse_fake_loss": lambda x: (x**2).mean(),
    "hinge_loss": lambda x: -x.mean(),
    "hinge2_loss": lambda x: -minimum(x - 1).mean(),
    "hinge_real_loss": lambda x: -minimum(x - 1).mean(),
    "hinge_fake_loss": lambda x: -minimum(-x - 1).mean(),
}


# taming-transformers and its descendants


def taming_discriminator(of_real, of_fake, weight=0.5):
    return lambda r, f: weight * (of_real(r).mean() + of_fake(f).mean())


def of_images(x):
    return x.flatten(1).mean(1)


TAMING_D = {
    "hinge_d_loss": taming_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x)),
    "vanilla_d_loss": taming_discriminator(lambda x: F.softplus(-x), F.softplus),
    "non_saturating_d_loss": taming_discriminator(lambda x: F.softplus(-x), F.softplus),
}
TAMING_G = {"hinge_gen_loss": lambda f: -f.mean(), "non_saturating_gen_loss": lambda f: F.softplus(-f).mean()}


def exemplar_weighted(r, f, w):
    def weighted(x):
        return (w * x.reshape(len(x), -1).mean(1)).sum() / w.sum()

    return 0.5 * (weighted(F.relu(1 - r)) + weighted(F.relu(1 + f)))
