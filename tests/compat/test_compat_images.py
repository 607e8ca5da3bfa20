# ruff: noqa: B023 - `check` calls what it is given before the loop goes on
"""CycleGAN, CUT, pix2pixHD and SPADE: each loss against that codebase's formula, restated in eager PyTorch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from image_formulas import (
    ALL,
    HARD,
    ONE,
    PATCH,
    SCALES,
    SIDES,
    SOFT,
    bce_of_probability,
    cyclegan_loss,
    halves,
    knees,
    near,
    probabilities,
    softplus,
    spade_loss,
)
from parity import check, shaped
from torch import nn

from fastgan.compat import basicsr, cyclegan, pix2pixhd, spade

# CycleGAN, pix2pix, CUT


@ALL
@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp", "nonsaturating"])
def test_cyclegan(mode, dtype):
    for shape in (ONE, PATCH, (3, 1)):
        for real in SIDES:
            for labels in (HARD, SOFT):
                loss = cyclegan.GANLoss(mode, *labels)
                y = labels[0] if real else labels[1]
                tolerance = near(labels, dtype) if mode == "vanilla" else {}
                x = shaped(shape, dtype)
                check(
                    lambda x: loss(x, real),
                    lambda x: cyclegan_loss(mode, real, y, x),
                    x,
                    float32=mode == "vanilla",
                    **tolerance,
                )


def test_cyclegan_shapes():
    loss = cyclegan.GANLoss("nonsaturating")
    for shape in ((1, 1, 4, 4), (3, 1, 4, 4), (3,), (1,)):
        assert loss(torch.zeros(shape), True).shape == (shape[0],)
    assert loss(torch.zeros(3, 1, dtype=torch.bfloat16), True).dtype == torch.float32
    assert cyclegan.GANLoss("lsgan")(prediction=torch.zeros(3, 1), target_is_real=True).shape == ()


def test_cyclegan_dtype_of_the_labels():
    x = torch.zeros(3, 1, dtype=torch.float64)
    for mode in ("lsgan", "vanilla"):
        assert cyclegan.GANLoss(mode).double()(x, True).dtype == torch.float64


def test_cyclegan_state():
    loss = cyclegan.GANLoss("lsgan", 0.9, 0.1)
    assert {k: v.item() for k, v in loss.state_dict().items()} == pytest.approx({"real_label": 0.9, "fake_label": 0.1})
    assert not list(loss.parameters())
    x = torch.randn(4, 1)
    assert loss.get_target_tensor(x, True).shape == x.shape and loss.get_target_tensor(x, False)[0] == 0.1
    other = nn.ModuleDict({"gan": cyclegan.GANLoss("lsgan")})  # as a part of a module, its labels are loaded, too
    for copied in (other, copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert copied["gan"](x, True) != loss(x, True)
        copied.load_state_dict({f"gan.{k}": v for k, v in loss.state_dict().items()})
        for real in SIDES:
            torch.testing.assert_close(copied["gan"](x, real), loss(x, real))


def test_cyclegan_bad_arguments():
    with pytest.raises(NotImplementedError, match="gan_mode: got 'hinge', expected 'lsgan' or"):
        cyclegan.GANLoss("hinge")
    loss = cyclegan.GANLoss("vanilla", target_real_label=1.2)
    with pytest.raises(ValueError, match=r"got 1\.2, expected a probability"):
        loss(torch.zeros(3), True)
    loss = cyclegan.GANLoss("vanilla")
    with pytest.raises(TypeError, match=r"prediction: got list, expected a torch\.Tensor"):
        loss([torch.zeros(3)], True)
    with pytest.raises(ValueError, match=r"prediction: got shape \(0, 1\)"):
        loss(torch.zeros(0, 1), True)
    with pytest.raises(TypeError, match="int64"):
        loss(torch.zeros(3, dtype=torch.int64), True)


# pix2pixHD

HD = [[(1, 4, 7, 7), (1, 1, 17, 33)], [(1, 4, 5, 5), (1, 1, 9, 17)], [(1, 1, 5, 9)]]


@ALL
@pytest.mark.parametrize("lsgan", [True, False])
def test_pix2pixhd(lsgan, dtype):
    phi = (lambda x, y: (x - y) ** 2) if lsgan else bce_of_probability
    for labels in (HARD, SOFT):
        loss = pix2pixhd.GANLoss(lsgan, *labels)
        for real in SIDES:
            y = labels[0] if real else labels[1]
            x = shaped([*HD, [(3, 1, 5, 5)]], dtype, spread=1.0)
            *x, [batch] = x if lsgan else probabilities(x)
            check(lambda x: loss(x, real), lambda x: sum([phi(scale[-1], y).mean() for scale in x]), x)
            check(lambda x: loss(x, real), lambda x: phi(x[-1], y).mean(), x[0])  # one D's features
            check(lambda x: loss(x, real), lambda x: phi(x[-1], y).mean(), batch)  # its last sample


def test_pix2pixhd_members():
    loss = pix2pixhd.GANLoss(use_lsgan=True, tensor=torch.DoubleTensor)
    assert not loss.state_dict() and not list(loss.parameters())
    target = loss.get_target_tensor(torch.zeros(2, 3), True)
    assert target.shape == (2, 3) and (target == 1).all()
    with pytest.raises(ValueError, match="input: got an empty list"):
        loss([], True)
    with pytest.raises(ValueError, match=r"input\[1\]: got an empty list"):
        loss([[torch.zeros(3)], []], True)
    with pytest.raises(ValueError, match=r"input\[0\]: got shape \(0,\)"):
        loss([[torch.zeros(0)]], True)
    with pytest.raises(TypeError, match="input: got dict"):
        loss({}, True)


# SPADE


@ALL
@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_spade(mode, dtype):
    for labels in (HARD, SOFT):
        loss = spade.GANLoss(mode, *labels)
        for real in SIDES:
            for for_discriminator in SIDES:
                if mode == "hinge" and not real and not for_discriminator:
                    continue
                for shapes in (PATCH, SCALES, [PATCH, (2, 1, 7, 7)], [PATCH]):
                    check(
                        lambda x: loss(x, real, for_discriminator),
                        lambda x: spade_loss(mode, labels, real, for_discriminator, x),
                        shaped(shapes, dtype),
                        float32=mode == "original",
                        **(near(labels, dtype) if mode == "original" else {}),
                    )


@ALL
@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_spade_concatenated(mode, dtype):
    for labels in (HARD, SOFT):
        for shapes in (PATCH, SCALES, [PATCH]):

            def theirs(x):
                fake, real = halves(x)
                return spade_loss(mode, labels, False, True, fake) + spade_loss(mode, labels, True, True, real)

            tolerance = near(labels, dtype) if mode == "original" else {}
            x = knees(shaped(shapes, dtype))
            float32 = mode == "original"
            check(lambda x: spade.discriminator_loss(x, mode, *labels), theirs, x, float32=float32, **tolerance)


def test_spade_knee():
    x = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    loss = spade.GANLoss("hinge")
    assert torch.autograd.grad(3 * loss(x, True), x)[0].tolist() == [-0.5, -1.0, -1.0]
    assert torch.autograd.grad(3 * loss(x, False), x)[0].tolist() == [1.0, 0.5, 1.0]
    both = torch.tensor([-1.0, 1.0], requires_grad=True)  # generated, real
    assert torch.autograd.grad(spade.discriminator_loss(both), both)[0].tolist() == [0.5, -0.5]


def test_spade_members():
    loss = spade.GANLoss("hinge", tensor=torch.FloatTensor, opt=object())
    assert not loss.state_dict()
    x = torch.zeros(2, 3)
    assert (loss.get_target_tensor(x, True) == torch.ones(2, 3)).all()
    assert (loss.get_zero_tensor(x) == x).all() and loss.get_zero_tensor(x).shape == x.shape
    assert loss.loss([x, x], True).shape == ()
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="target_is_real: got False, expected True"):
            loss(x, False, for_discriminator=False)
    with pytest.raises(ValueError, match="gan_mode: got 'lsgan', expected 'ls' or"):
        spade.GANLoss("lsgan")
    with pytest.raises(ValueError, match="gan_mode: got 'lsgan', expected 'ls' or"):
        spade.discriminator_loss(x, "lsgan")
    with pytest.raises(ValueError, match="3 rows, expected an even number"):
        spade.discriminator_loss(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"pred\[0\]: got shape"):
        spade.discriminator_loss([torch.zeros(0, 1)])


@pytest.mark.parametrize("half", [slice(0, 3), slice(3, None)])
def test_slices_and_layouts(half):
    """The halves of a batch, channels_last, and a transposed view, with the gradient of the whole."""
    multiscale, hd = basicsr.MultiScaleGANLoss("vanilla"), pix2pixhd.GANLoss()

    def ours(x, y):
        return multiscale([x[half], y.mT], True, is_disc=True) + hd([[x[half]], [y.mT]], False)

    def theirs(x, y):
        x = x[half]
        return (softplus(-x).mean() + softplus(-y).mean()) / 2 + (x**2).mean() + (y**2).mean()

    x, y = shaped((6, 2, 5, 4)), shaped((2, 1, 3, 7), seed=1)
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    check(ours, theirs, x, y, grad_rtol=1e-4)  # a sum of two gradients, which can cancel
