"""DCGAN's criteria and torchgan's losses against their formulas, restated in eager PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from image_formulas import ALL, TORCHGAN_D, TORCHGAN_G, bce, reduced, softplus, torchgan_module
from oracle import assert_close
from parity import check, shaped
from torch import nn

from fastgan.compat import dcgan, torchgan

# DCGAN


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dcgan(reduction, dtype):
    generator = torch.Generator().manual_seed(1)
    rough = {} if dtype == torch.float64 else dict(rtol=2e-4, grad_rtol=2e-4)
    for shape in ((64,), (5, 1, 2)):
        noisy = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        for y in (torch.ones_like(noisy), torch.zeros_like(noisy), noisy):
            x = shaped(shape, dtype)
            check(
                dcgan.BCEWithLogitsLoss(reduction=reduction),
                lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction=reduction),
                *(x, y),
                **(rough if y is noisy or reduction == "none" else {}),  # where sigmoid(x) - y cancels
            )
            check(
                dcgan.BCELoss(reduction=reduction),
                lambda p, y: F.binary_cross_entropy(p, y, reduction=reduction),
                *(x.detach().sigmoid().requires_grad_(), y),
            )


def test_dcgan_probabilities_of_0_and_1():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0])
    check(dcgan.BCELoss(), F.binary_cross_entropy, p, y)


def test_dcgan_sigmoid_loses_the_gradient():
    y = torch.zeros(1)
    for logit, dies in ((17.0, True), (16.0, False), (30.0, True)):
        x = torch.tensor([logit], requires_grad=True)
        for loss in (nn.BCELoss(), dcgan.BCELoss()):
            (grad,) = torch.autograd.grad(loss(torch.sigmoid(x), y), x)
            assert (grad == 0.0) == dies
        (grad,) = torch.autograd.grad(dcgan.BCEWithLogitsLoss()(x, y), x)
        assert_close(grad, torch.sigmoid(x.detach().double()), torch.float32)
    assert dcgan.BCELoss()(torch.sigmoid(x), y) == 100.0 and dcgan.BCEWithLogitsLoss()(x, y) == 30.0


def test_dcgan_step():
    """The example's step: one label tensor, refilled between the backward passes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Flatten(0))
    real, fake = torch.randn(2, 8, 3)
    grads = []
    for criterion in (nn.BCELoss(), dcgan.BCELoss()):
        net.zero_grad()
        label = torch.full((8,), 1.0)
        criterion(net(real), label).backward()
        label.fill_(0.0)
        criterion(net(fake), label).backward()
        grads.append(net[0].weight.grad.clone())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", [dcgan.BCELoss, dcgan.BCEWithLogitsLoss])
def test_dcgan_bad_arguments(kind):
    p = torch.full((4,), 0.5)
    assert not kind().state_dict()
    for name in ("weight", "size_average", "reduce"):
        with pytest.raises(ValueError, match=f"{name}: got True, expected None"):
            kind(**{name: True})
    with pytest.raises(ValueError, match="reduction: got 'batch'"):
        kind(reduction="batch")
    with pytest.raises(ValueError, match=r"target: got shape \(4, 1\), expected \(4,\)"):
        kind()(p, p[:, None])
    with pytest.raises(ValueError, match=r"target: got shape \(1,\), expected \(4,\)"):
        kind()(p, p[:1])
    with pytest.raises(TypeError, match="input, target: got Tensor and float"):
        kind()(p, 1.0)
    with pytest.raises(ValueError, match=r"input: got shape \(0,\)"):
        kind()(p[:0], p[:0])


def test_dcgan_pos_weight():
    with pytest.raises(ValueError, match="pos_weight: got 2, expected None"):
        dcgan.BCEWithLogitsLoss(pos_weight=2)


# torchgan


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "settings", "phi"), TORCHGAN_G)
def test_torchgan_generator(name, settings, phi, reduction, dtype):
    module = torchgan_module(name, settings, reduction)
    assert not module.state_dict() and module.override_train_ops is None
    for shape in ((16, 1), (7,), (3, 1, 4, 4)):
        for loss in (lambda f: getattr(torchgan, name)(f, reduction=reduction, **settings), module):
            check(loss, lambda f: reduced(phi(f), reduction), shaped(shape, dtype))


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "settings", "phi_real", "phi_fake"), TORCHGAN_D)
def test_torchgan_discriminator(name, settings, phi_real, phi_fake, reduction, dtype):
    module = torchgan_module(name, settings, reduction)
    assert not module.state_dict()

    def theirs(r, f):
        return reduced(phi_real(r), reduction) + reduced(phi_fake(f), reduction)

    # A mean difference near 0 has no relative accuracy: real logits are shifted away from generated ones.
    for shapes in (((16, 1), (16, 1)), ((3, 1, 4, 4), (3, 1, 4, 4)), ((7,), (4,))):
        if shapes[0] != shapes[1] and reduction == "none":
            continue
        r, f = shaped(shapes[0], dtype, 1), shaped(shapes[1], dtype, 2)
        with torch.no_grad():
            r.add_(3.0)
        for loss in (lambda r, f: getattr(torchgan, name)(r, f, reduction=reduction, **settings), module):
            check(loss, theirs, r, f)
        check(module, theirs, r.detach(), f)  # a gradient for one side only
        check(module, theirs, r, f.detach())


def test_torchgan_signatures():
    x, y = torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 0.3])
    positional = [
        (torchgan.minimax_generator_loss(x, False, "sum"), -softplus(x).sum()),
        (torchgan.minimax_discriminator_loss(x, y, 0.1, "sum"), bce(x, 0.9).sum() + softplus(y).sum()),
        (torchgan.least_squares_generator_loss(x, 0.5, "sum"), 0.5 * ((x - 0.5) ** 2).sum()),
        (
            torchgan.least_squares_discriminator_loss(x, y, 0.2, 0.8, "sum"),
            0.5 * (((x - 0.8) ** 2).sum() + ((y - 0.2) ** 2).sum()),
        ),
        (torchgan.wasserstein_generator_loss(x, "sum"), -x.sum()),
        (torchgan.wasserstein_discriminator_loss(x, y, "sum"), (y - x).sum()),
        (torchgan.MinimaxGeneratorLoss("sum", False)(x), -softplus(x).sum()),
        (torchgan.MinimaxDiscriminatorLoss(0.1, "sum")(x, y), bce(x, 0.9).sum() + softplus(y).sum()),
        (torchgan.LeastSquaresGeneratorLoss("sum", 0.5)(x), 0.5 * ((x - 0.5) ** 2).sum()),
        (
            torchgan.LeastSquaresDiscriminatorLoss("sum", 0.2, 0.8)(x, y),
            0.5 * (((x - 0.8) ** 2).sum() + ((y - 0.2) ** 2).sum()),
        ),
    ]
    for got, want in positional:
        torch.testing.assert_close(got, want)
    assert torchgan.WassersteinDiscriminatorLoss("mean", (-0.01, 0.01)).clip == (-0.01, 0.01)
    assert torchgan.WassersteinDiscriminatorLoss(clip=[1.0]).clip is None


def test_torchgan_bad_arguments():
    x = torch.zeros(4)
    with pytest.raises(ValueError, match="reduction: got 'elementwise_mean', expected 'none' or"):
        torchgan.minimax_generator_loss(x, reduction="elementwise_mean")
    with pytest.raises(ValueError, match="reduction: got None"):
        torchgan.minimax_generator_loss(x, reduction=None)
    with pytest.raises(ValueError, match=r"dgz: got shape \(0,\)"):
        torchgan.minimax_discriminator_loss(x, x[:0])
    with pytest.raises(TypeError, match="fx: got list"):
        torchgan.wasserstein_discriminator_loss([x], x)
    with pytest.raises(ValueError, match="one shape"):
        torchgan.minimax_discriminator_loss(x, x[:2], reduction="none")
    with pytest.raises(ValueError, match="probability"):
        torchgan.minimax_discriminator_loss(x, x, label_smoothing=1.5)


def test_torchgan_reduction_of_none():
    """None leaves the losses unreduced where upstream's `reduce` does."""
    r, f = shaped([(5, 1), (5, 1)])
    for ours, theirs, logits in (
        (torchgan.least_squares_generator_loss, lambda f: 0.5 * (f - 1) ** 2, [f]),
        (torchgan.least_squares_discriminator_loss, lambda r, f: 0.5 * ((r - 1) ** 2 + f**2), [r, f]),
        (torchgan.wasserstein_generator_loss, lambda f: -f, [f]),
        (torchgan.wasserstein_discriminator_loss, lambda r, f: f - r, [r, f]),
    ):
        check(lambda *x, ours=ours: ours(*x, reduction=None), theirs, *logits)
    check(torchgan.WassersteinGeneratorLoss(reduction=None), lambda f: -f, f)
    for bad in (torchgan.minimax_generator_loss, torchgan.least_squares_generator_loss):
        with pytest.raises(ValueError, match=r"^reduction: got 'batchmean'"):
            bad(f, reduction="batchmean")
