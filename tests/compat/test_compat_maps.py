"""Feature matching under other codebases' names, against their formulas restated: value, gradients, reductions."""

import pytest
import torch
import torch.nn.functional as F
from parity import check, shaped
from torch import nn

from fastgan import kernels
from fastgan.compat import audiocraft, bigvgan, coqui, dac, espnet, hifigan, pix2pixhd, spade, vits, vocos

SHAPES = [[(2, 4, 30, 2), (2, 8, 11, 2), (2, 1, 5, 2)], [(2, 6, 40), (2, 3, 9), (2, 1, 7), (2, 1, 3)]]
DTYPES = [torch.float32, torch.float64]


def pairs(real, fake, last=True):
    return [(r, f) for rs, fs in zip(real, fake) for r, f in zip(rs if last else rs[:-1], fs if last else fs[:-1])]


def l1(real, fake, last=True, detach=False):
    return [F.l1_loss(f, r.detach() if detach else r) for r, f in pairs(real, fake, last)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_vocoders(dtype):
    real, fake = shaped(SHAPES, dtype), shaped(SHAPES, dtype, seed=1)
    for module in (hifigan, bigvgan):
        check(module.feature_loss, lambda r, f: 2 * sum(l1(r, f)), real, fake)
    check(vocos.FeatureMatchingLoss(), lambda r, f: sum(l1(r, f)), real, fake)
    check(vits.feature_loss, lambda r, f: 2 * sum(l1(r, f, detach=True)), real, fake)
    check(coqui.MelganFeatureLoss(), lambda f, r: sum(l1(r, f)) / len(l1(r, f)), fake, real)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_maps_of_vits(dtype):
    real, fake = shaped(SHAPES, dtype), shaped(SHAPES, dtype, seed=1)
    check(vits.feature_loss, lambda r, f: 2 * sum(l1(r, f, detach=True)), real, fake)


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("discriminators", [True, False])
@pytest.mark.parametrize("final", [True, False])
def test_espnet(layers, discriminators, final):
    def theirs(fake, real):
        total = 0
        for rs, fs in zip(real, fake):
            parts = l1([rs], [fs], last=final, detach=True)
            total = total + sum(parts) / (len(parts) if layers else 1)
        return total / (len(real) if discriminators else 1)

    check(espnet.FeatureMatchLoss(layers, discriminators, final), theirs, shaped(SHAPES), shaped(SHAPES, seed=1))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.MSELoss(), nn.SmoothL1Loss()], ids=str)
def test_audiocraft(loss, normalize):
    def theirs(fake, real):
        parts = [loss(f, r) for f, r in zip(fake, real)]
        return sum(parts) / (len(parts) if normalize else 1)

    fused = audiocraft.FeatureMatchingLoss(loss, normalize)
    check(fused, theirs, shaped(SHAPES[1]), shaped(SHAPES[1], seed=1), rtol=1e-5, grad_rtol=1e-5)
    with pytest.raises((TypeError, ValueError)):
        audiocraft.FeatureMatchingLoss(loss)([], [])


def test_pix2pixhd_and_spade():
    real, fake = shaped(SHAPES), shaped(SHAPES, seed=1)
    check(
        lambda f, r: pix2pixhd.feature_matching_loss(f, r, 7.0, 4),
        lambda f, r: sum(7.0 * 4 / 5 / 2 * part for part in l1(r, f, last=False, detach=True)),
        *(fake, real),
    )
    check(
        lambda f, r: spade.feature_matching_loss(f, r, 7.0),
        lambda f, r: sum(7.0 / 2 * part for part in l1(r, f, last=False, detach=True)).reshape(1),
        *(fake, real),
    )


def test_dac():
    """The generator's second loss; a D of two discriminators that scale what they are given."""

    class Signal:
        def __init__(self, audio):
            self.audio_data = audio

    def maps(x):
        return [[x * 2, x.tanh(), x.sum(-1)], [x * 3 + 1, x.mean(-1)]]

    def theirs(fake, real):
        of_fake, of_real = maps(fake), maps(real)
        adversarial = sum(((1 - d[-1]) ** 2).mean() for d in of_fake)
        return adversarial, sum(l1(of_real, of_fake, last=False, detach=True))

    loss = dac.GANLoss(maps)
    fake, real = shaped((2, 1, 50)), shaped((2, 1, 50), seed=1)
    check(lambda f, r: loss.generator_loss(Signal(f), Signal(r)), theirs, fake, real.detach(), grad_rtol=2e-5)


def test_one_launch(kernel_device):
    real, fake = (shaped(SHAPES, seed=seed, device=kernel_device) for seed in range(2))
    before = kernels.launch_count()
    hifigan.feature_loss(real, fake)
    assert kernels.launch_count() == before + 1
    loss = vits.feature_loss(real, fake)
    loss.backward()
    assert kernels.launch_count() == before + 3
    torch.testing.assert_close(loss, 2 * sum(l1(real, fake)), rtol=2e-6, atol=0)
    assert all(x.grad is None for d in real for x in d)
