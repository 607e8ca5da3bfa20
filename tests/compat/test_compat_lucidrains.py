"""lucidrains' losses of several scales, dual contrastive losses, and the orders of their arguments."""

import pytest
import torch
import torch.nn.functional as F
from parity import check, shaped
from unconditional_formulas import DTYPES, TWO_ROUNDINGS, dual

from fastgan import kernels
from fastgan.compat import lightweight_gan, lucidrains


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lists_of_scales(dtype):
    r, f = shaped([[(8,), (8, 1, 4, 4)], [(8,), (8, 1, 4, 4)]], dtype, seed=13)

    def theirs(r, f):
        return sum((F.relu(1 + a) + F.relu(1 - b)).mean() for a, b in zip(r, f))

    check(lucidrains.discriminator_hinge_loss, theirs, r, f)
    check(lucidrains.generator_hinge_loss, lambda f: sum(x.mean() for x in f), f)


def test_lists_of_scales_take_one_launch(kernel_device):
    r, f = ([x.detach().to(kernel_device) for x in s] for s in shaped([[(8,), (8, 4)], [(8,), (8, 4)]]))
    before = kernels.launch_count()
    lucidrains.discriminator_hinge_loss(r, f)
    lucidrains.generator_hinge_loss(f)
    assert kernels.launch_count() - before == 2


def test_lists_that_do_not_fit():
    x = torch.randn(4)
    for fake, message in (
        ([x], "fake: got 1 tensors, expected 2"),
        ([], "fake: got an empty list"),
        (x, "fake: got 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            lucidrains.discriminator_hinge_loss([x, x], fake)
    with pytest.raises(TypeError, match=r"^fake\[1\]: got int, expected a torch.Tensor"):
        lucidrains.generator_hinge_loss([x, 3])
    with pytest.raises(TypeError, match=r"^fake: got list, expected a torch.Tensor"):
        lucidrains.hinge_loss([x], x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dual_contrastive_as_the_loss_of_the_generator(dtype):
    """lightweight-gan calls it with the sides swapped, the real one detached; top-k makes the sides unequal."""
    real, fake = shaped([(20, 1), (13,)], dtype, seed=14, spread=4.0)
    check(lightweight_gan.dual_contrastive_loss, dual, fake, real.detach(), grad_rtol=TWO_ROUNDINGS.get(dtype))


def test_dual_contrastive_of_large_logits():
    real, fake = shaped([(9,), (9,)], seed=15, spread=200.0)
    check(lightweight_gan.dual_contrastive_loss, dual, real.detach(), fake.detach())
    slopes = [
        torch.autograd.grad(loss(*logits), logits)
        for loss, logits in (
            (lightweight_gan.dual_contrastive_loss, (real, fake)),
            (dual, [x.detach().double().requires_grad_() for x in (real, fake)]),
        )
    ]
    for got, want in zip(*slopes):  # the smallest are differences that lose digits even in float64
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-9)


def test_each_of_lucidrains_repositories_has_its_own_order():
    """stylegan2-pytorch took generated data first in August 2024; lightweight-gan takes real data first."""
    high, low = torch.tensor([5.0, 5.0]), torch.tensor([-5.0, -5.0])
    assert lucidrains.hinge_loss(high, low).item() == 0.0  # D should be low on real data
    assert lightweight_gan.hinge_loss(low, high).item() == 0.0
    assert lucidrains.dual_contrastive_loss(low, high).item() < 1e-3  # here D should be high
    assert lightweight_gan.dual_contrastive_loss(high, low).item() < 1e-3
