"""taming-transformers and its descendants: the cross-entropies, exemplar weights, LeCam, the adaptive weight."""

import pytest
import torch
import torch.nn.functional as F
from audio_formulas import HALF, PATCHES, TAMING_D, TAMING_G, WIDE, exemplar_weighted, of_images, pair
from parity import adaptive_weight, check, shaped

from fastgan.compat import taming


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shape", [PATCHES, (3, 1), (2, 1, 7, 8, 8)], ids=str)
def test_taming(shape, dtype):
    real, fake = pair(shape, dtype)
    for name, theirs in TAMING_D.items():
        check(getattr(taming, name), theirs, real, fake)
        check(getattr(taming, name), theirs, real.detach(), fake)
        check(getattr(taming, name), theirs, real, fake.detach())
    for name, theirs in TAMING_G.items():
        check(getattr(taming, name), theirs, fake)


def test_llamagen_order_of_the_cross_entropys_arguments():
    """The labels are the second argument. In upstream's order, generated data give ln 2 and no gradient."""
    real, fake = pair(PATCHES)
    swapped = F.binary_cross_entropy_with_logits(torch.zeros_like(fake), fake)
    assert abs(swapped.item() - 0.6931) < 1e-3
    check(
        taming.non_saturating_d_loss,
        lambda r, f: (
            0.5
            * (
                F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
                + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))
            )
        ),
        *(real, fake),
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_open_magvit2(dtype):
    real, fake = pair(PATCHES, dtype)

    def discriminator(r, f):
        return F.softplus(-of_images(r)).mean() + F.softplus(of_images(f)).mean()

    # means over 900 logits are near 0, where rounding dominates
    check(taming.non_saturate_discriminator_loss, discriminator, real, fake)
    check(taming.non_saturate_gen_loss, lambda f: F.softplus(-of_images(f)).mean(), fake)


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shape", [PATCHES, (3, 1, 7, 4, 4), (3,)], ids=str)
def test_exemplar_weights(shape, dtype):
    real, fake = pair(shape, dtype)
    weights = torch.tensor([0.5, 2.0, 1.25]).to(dtype)

    check(taming.hinge_d_loss_with_exemplar_weights, exemplar_weighted, real, fake, weights)
    equal = taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(3))
    torch.testing.assert_close(equal, taming.hinge_d_loss(real, fake))


def test_exemplar_weights_are_checked():
    real, fake = pair((3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"weights: got shape \(2,\), expected \(3,\)"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(2))
    with pytest.raises(ValueError, match=r"weights: got shape \(3, 1\), expected \(3,\)"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(3, 1))
    with pytest.raises(TypeError, match="weights: got list"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, [1.0] * 3)


def test_adopt_weight():
    assert taming.adopt_weight(0.8, 9, threshold=10) == 0.0
    assert taming.adopt_weight(0.8, 9, threshold=10, value=0.1) == 0.1
    assert taming.adopt_weight(0.8, 10, threshold=10) == 0.8
    assert taming.adopt_weight(0.8, 0) == 0.8


@pytest.mark.parametrize("dtype", WIDE)
def test_lecam(dtype):
    ema, averages = taming.LeCAM_EMA(decay=0.9), [0.0, 0.0]
    for seed in range(3):
        real, fake = shaped(PATCHES, dtype, seed=2 * seed), shaped(PATCHES, dtype, seed=2 * seed + 1)
        real, fake = (real + 1).detach().requires_grad_(), (fake - 1).detach().requires_grad_()
        ema.update(real, fake)
        averages = [0.9 * a + 0.1 * x.double().mean().item() for a, x in zip(averages, (real, fake))]
        assert not ema.logits_real_ema.requires_grad and ema.logits_real_ema.shape == ()
        for got, want in zip((ema.logits_real_ema, ema.logits_fake_ema), averages):
            assert got.item() == pytest.approx(want, rel=1e-6)

    def theirs(r, f):
        a, b = ema.logits_real_ema.double(), ema.logits_fake_ema.double()
        return (F.relu(r - b) ** 2).mean() + (F.relu(a - f) ** 2).mean()

    check(lambda r, f: taming.lecam_reg(r, f, ema), theirs, real, fake)
    assert taming.LeCAM_EMA().logits_real_ema == 0.0 and taming.LeCAM_EMA().decay == 0.999
    assert taming.LeCAM_EMA(0.25).logits_fake_ema == 0.25


def test_lecam_of_numbers():
    """Upstream's own averages are numbers."""
    ema = taming.LeCAM_EMA(init=0.5)
    check(
        lambda r, f: taming.lecam_reg(r, f, ema),
        lambda r, f: (F.relu(r - 0.5) ** 2).mean() + (F.relu(0.5 - f) ** 2).mean(),
        *pair((2, 1, 5, 5)),
    )


@pytest.mark.parametrize("name", [*TAMING_G, "non_saturate_gen_loss"])
def test_adaptive_weight(name):
    theirs = TAMING_G.get(name) or (lambda f: F.softplus(-of_images(f)).mean())
    torch.manual_seed(0)
    x, last = torch.randn(6, 5, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    last_layers = [last.clone().requires_grad_() for _ in range(2)]
    weights = [
        adaptive_weight(lambda y, loss=loss: loss(y.view(6, 1, 3, 4)), lambda y: (y - 1).abs().mean(), layer, x)
        for loss, layer in zip((getattr(taming, name), theirs), last_layers)
    ]
    torch.testing.assert_close(*weights)
    torch.testing.assert_close(*[layer.grad for layer in last_layers])
    assert weights[0] > 0
