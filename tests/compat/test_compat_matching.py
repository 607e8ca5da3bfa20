"""Feature matching of the compat modules against each codebase's formula, restated here in eager PyTorch."""

import copy
import inspect

import pytest
import torch
from parity import check, copied, shaped
from torch import nn

from fastgan import kernels
from fastgan.compat import audiocraft, bigvgan, coqui, dac, espnet, hifigan, pix2pixhd, spade, vits, vocos

# HiFi-GAN's, pix2pixHD's: channels and lengths divided. Lists of several lengths, the logits last.
AUDIO = [[(2, 4, 341, 2), (2, 16, 29, 2), (2, 1, 29, 2)], [(2, 8, 700), (2, 1, 17)], [(2, 3, 65), (1,), (5,), (2, 3)]]
IMAGES = [
    [(1, 8, 33, 17), (1, 16, 17, 9), (1, 32, 9, 5), (1, 32, 10, 6), (1, 1, 11, 7)],
    [(1, 8, 17, 9)] * 4 + [(3, 1)],
]
TINY = [[(2, 3), (4,), (1,)], [(5,), (2, 1, 2)]]


def distances(a, b, p=1):
    """[[mean |a_k - b_k|^p of each layer] of each discriminator]"""
    return [[(x - y).abs().pow(p).mean() for x, y in zip(*layers)] for layers in zip(a, b)]


def cut(maps):
    """Detach every map."""
    return [[x.detach() for x in layers] for layers in maps]


def last_cut(maps):
    return [layers[:-1] for layers in maps]


def total(means):
    return sum(x for layers in means for x in layers)


def of_audiocraft(fake, real, p=1, normalize=True):
    return sum(sum(layers) / (len(layers) if normalize else 1) for layers in distances(fake, real, p))


def of_espnet(by_layers, by_discriminators, final):
    def loss(feats_hat, feats):
        if not final:
            feats_hat, feats = last_cut(feats_hat), last_cut(feats)
        means = distances(feats_hat, cut(feats))
        sums = [sum(layers) / (len(layers) if by_layers else 1) for layers in means]
        return sum(sums) / (len(sums) if by_discriminators else 1)

    return loss


def of_coqui(fake, real):
    means = [x for layers in distances(fake, real) for x in layers]
    return torch.stack(means).mean()


def of_pix2pixhd(fake, real, lambda_feat=10.0, n_layers_D=3):
    share = 1.0 / len(fake) * 4.0 / (n_layers_D + 1)
    return total(distances(last_cut(fake), cut(last_cut(real)))) * share * lambda_feat


def of_spade(fake, real, lambda_feat=10.0):
    return (total(distances(last_cut(fake), cut(last_cut(real)))) * lambda_feat / len(fake)).reshape(1)


MEMBERS = {  # (ours, theirs, shapes, are the real maps attached), all of (fakes, reals)
    "hifigan": (lambda f, r: hifigan.feature_loss(r, f), lambda f, r: 2 * total(distances(r, f)), AUDIO, True),
    "bigvgan": (lambda f, r: bigvgan.feature_loss(r, f), lambda f, r: 2 * total(distances(r, f)), AUDIO, True),
    "vits": (lambda f, r: vits.feature_loss(r, f), lambda f, r: 2 * total(distances(cut(r), f)), AUDIO, False),
    "audiocraft": (audiocraft.FeatureMatchingLoss(), of_audiocraft, AUDIO, True),
    "espnet": (espnet.FeatureMatchLoss(), of_espnet(True, True, False), AUDIO[:1] + AUDIO[2:], False),
    "coqui": (coqui.MelganFeatureLoss(), of_coqui, AUDIO, True),
    "vocos": (
        lambda f, r: vocos.FeatureMatchingLoss()(r, f),
        lambda f, r: total(distances(r, f)).reshape(1),
        AUDIO,
        True,
    ),
    "pix2pixhd": (pix2pixhd.feature_matching_loss, of_pix2pixhd, IMAGES, False),
    "spade": (spade.feature_matching_loss, of_spade, IMAGES, False),
}


def sides(shapes, dtype=torch.float32, device="cpu"):
    fakes, reals = (shaped(shapes, dtype, seed=seed, device=device) for seed in (1, 2))
    with torch.no_grad():
        reals[0][0].view(-1)[:3] = fakes[0][0].view(-1)[:3]  # equal: a slope of 0
    return fakes, reals


@pytest.mark.parametrize("name", MEMBERS)
def test_float32(name):
    ours, theirs, shapes, attached = MEMBERS[name]
    fakes, reals = sides(shapes)
    check(ours, theirs, fakes, reals)
    check(ours, theirs, fakes, cut(reals))  # as from a no_grad pass of D on real data
    loss = ours(fakes, reals)
    loss.backward()
    got = [x.grad is not None for layers in reals for x in layers]
    assert any(got) == attached


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("hifigan", torch.float64), *[("vits", dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)]],
    ids=str,
)
def test_other_dtypes(name, dtype):
    ours, theirs, shapes, _ = MEMBERS[name]
    fakes, reals = sides(shapes, dtype)
    check(ours, theirs, fakes, reals, float32=name == "vits")
    ours(fakes, reals).backward()
    assert all(x.grad.dtype == dtype for layers in fakes for x in layers)


def test_audiocraft_losses_are_float32():
    (fake,), (real,) = sides(TINY[:1], torch.float64)
    check(audiocraft.FeatureMatchingLoss(), lambda a, b: of_audiocraft([a], [b]), fake, real, float32=True)
    smooth = nn.SmoothL1Loss()  # not fused
    ours = audiocraft.FeatureMatchingLoss(smooth, normalize=False)
    check(ours, lambda a, b: total([map(smooth, a, b)]), fake, real, float32=True)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("by_discriminators", [True, False])
@pytest.mark.parametrize("by_layers", [True, False])
def test_espnet_options(by_layers, by_discriminators, final):
    options = by_layers, by_discriminators, final
    check(espnet.FeatureMatchLoss(*options), of_espnet(*options), *sides(TINY))


@pytest.mark.parametrize("final", [True, False])
def test_espnet_counts_the_samples_of_a_tensor_as_maps(final):
    (fake,), (real,) = sides([[(3, 4, 5), (2, 7), (4, 1)]])
    check(espnet.FeatureMatchLoss(include_final_outputs=final), of_espnet(True, True, final), fake, real)


def test_image_options():
    fakes, reals = sides(IMAGES)
    check(
        lambda f, r: pix2pixhd.feature_matching_loss(f, r, 7.0, 4),
        lambda f, r: of_pix2pixhd(f, r, 7.0, 4),
        fakes,
        reals,
    )
    check(lambda f, r: spade.feature_matching_loss(f, r, 7.0), lambda f, r: of_spade(f, r, 7.0), fakes, reals)


class OwnL1(nn.L1Loss):
    """A subclass may compute anything, so it is not fused."""

    def forward(self, a, b):
        return 3 * super().forward(a, b)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("loss", "fused", "theirs"),
    [
        (nn.L1Loss(), True, lambda a, b: (a - b).abs().mean()),
        (nn.MSELoss(), True, lambda a, b: (a - b).pow(2).mean()),
        (nn.L1Loss(reduction="sum"), False, lambda a, b: (a - b).abs().sum()),
        (OwnL1(), False, lambda a, b: 3 * (a - b).abs().mean()),
        (nn.SmoothL1Loss(), False, nn.functional.smooth_l1_loss),
    ],
    ids=["l1", "mse", "sum", "own", "smooth"],
)
def test_audiocraft_losses(loss, fused, theirs, normalize):
    (fake,), (real,) = sides(AUDIO[:1])
    ours = audiocraft.FeatureMatchingLoss(loss, normalize)
    assert (ours._power is not None) == fused

    def want(a, b):
        return sum(theirs(x, y) for x, y in zip(a, b)) / (len(a) if normalize else 1)

    # if it is not fused, PyTorch computes it, in float32 throughout
    check(ours, want, fake, real, **({} if fused else dict(rtol=1e-5, grad_rtol=1e-4)))
    with pytest.raises(ValueError, match="maps"):
        ours([], [])
    with pytest.raises(ValueError, match="maps, expected"):
        ours(fake, real[:-1])
    with pytest.raises(ValueError, match="got shape"):
        ours([fake[0].mT], [real[0]])


class Adversary(nn.Module):
    """Three sub-adversaries of one, two and three layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(8, n) for n in (3, 5, 7)]).double()

    def forward(self, x):
        maps = [[layer(x), layer(x).tanh(), layer(x).relu()][: k + 1] for k, layer in enumerate(self.layers)]
        return [found[0].mean(-1) for found in maps], maps


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.MSELoss(), nn.SmoothL1Loss()], ids=lambda x: type(x).__name__)
def test_audiocraft_adversarial_loss(loss, normalize, monkeypatch):
    net = Adversary()
    exact = copy.deepcopy(net).requires_grad_(False)
    fake, real = (shaped((4, 1, 8), torch.float64, seed=seed) for seed in (1, 2))
    calls = []
    fused = audiocraft.feature_matching_loss
    monkeypatch.setattr(audiocraft, "feature_matching_loss", lambda *a, **k: calls.append(a) or fused(*a, **k))
    for inner in (True, False):
        calls.clear()
        criteria = [audiocraft.get_adv_criterion("mse")] * 3
        matching = audiocraft.FeatureMatchingLoss(loss, inner)
        _, got = audiocraft.AdversarialLoss(net, None, *criteria, matching, normalize)(fake, real)
        assert len(calls) == (not isinstance(loss, nn.SmoothL1Loss)), "one call for all sub-adversaries"
        pairs = zip(exact(fake)[1], exact(real)[1])
        want = sum(sum(loss(a, b) for a, b in zip(f, r)) / (len(f) if inner else 1) for f, r in pairs)
        want = want / 3 if normalize else want
        assert got.shape == ()
        torch.testing.assert_close(got, want.float())
        torch.testing.assert_close(torch.autograd.grad(got, [fake, real]), torch.autograd.grad(want, [fake, real]))


class Bare(nn.Module):
    def forward(self, x):
        return [x], []


def test_audiocraft_without_any_maps():
    adv = audiocraft.AdversarialLoss(Bare(), None, *[audiocraft.mse_loss] * 3, audiocraft.FeatureMatchingLoss())
    assert adv(torch.ones(2), torch.ones(2))[1] == 0


class Signal:
    def __init__(self, audio_data):
        self.audio_data = audio_data


def of_dac(fakes, reals):
    outputs = iter((fakes, reals))
    nothing = Signal(torch.zeros(1))
    return dac.GANLoss(lambda _: next(outputs)).generator_loss(nothing, nothing)


def dac_generator(fakes, reals):
    features = total(distances(last_cut(fakes), cut(last_cut(reals))))
    return sum(((1 - x[-1]) ** 2).mean() for x in fakes), features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dac(dtype):
    check(of_dac, dac_generator, *sides(AUDIO, dtype))
    fakes, reals = sides(AUDIO, dtype)
    fakes.append([fakes[0][-1]]), reals.append([reals[0][-1]])  # a discriminator with logits only
    check(of_dac, dac_generator, fakes, reals)
    with pytest.raises(ValueError, match="real_maps: got"):
        of_dac(fakes, [*reals[:-1], reals[0]])


@pytest.mark.parametrize("name", [*MEMBERS, "dac"])
def test_launches(name, kernel_device):
    ours, theirs = (of_dac, dac_generator) if name == "dac" else MEMBERS[name][:2]
    fakes, reals = sides(TINY, device=kernel_device)
    want = theirs(copied(fakes, torch.float64), copied(reals, torch.float64))
    before = kernels.launch_count()
    got = ours(fakes, reals)
    assert kernels.launch_count() - before == (2 if name == "dac" else 1)  # dac: with the adversarial loss
    before, (got, want) = kernels.launch_count(), ((got[1], want[1]) if name == "dac" else (got, want))
    torch.testing.assert_close(got.detach().cpu().double(), want.detach(), rtol=3e-6, atol=0)
    got.backward()
    assert kernels.launch_count() == before + 1


def test_arguments_are_named_as_upstream():
    for of, names in (
        (hifigan.feature_loss, ["fmap_r", "fmap_g"]),
        (bigvgan.feature_loss, ["fmap_r", "fmap_g"]),
        (vits.feature_loss, ["fmap_r", "fmap_g"]),
        (audiocraft.FeatureMatchingLoss, ["loss", "normalize"]),
        (audiocraft.FeatureMatchingLoss().forward, ["fmap_fake", "fmap_real"]),
        (espnet.FeatureMatchLoss, ["average_by_layers", "average_by_discriminators", "include_final_outputs"]),
        (espnet.FeatureMatchLoss().forward, ["feats_hat", "feats"]),
        (coqui.MelganFeatureLoss().forward, ["fake_feats", "real_feats"]),
        (vocos.FeatureMatchingLoss().forward, ["fmap_r", "fmap_g"]),
    ):
        assert list(inspect.signature(of).parameters) == names
    for module in (audiocraft.FeatureMatchingLoss(), espnet.FeatureMatchLoss(), coqui.MelganFeatureLoss()):
        assert not module.state_dict()


@pytest.mark.parametrize("name", MEMBERS)
def test_bad_input(name):
    ours = MEMBERS[name][0]
    fakes, reals = sides(TINY)
    with pytest.raises(ValueError, match="got no maps"):
        ours([], [])
    with pytest.raises(ValueError, match="real_maps: got"):
        ours(fakes, reals[:1])
    with pytest.raises(TypeError, match="fake_maps: got str"):
        ours("maps", reals)
    fakes[0][0] = fakes[0][0].mT
    with pytest.raises(ValueError, match=r"real_maps\[0\]: got shape"):
        ours(fakes, reals)
