# ruff: noqa: B023 - `check` calls what it is given before the loop goes on
"""MONAI's adversarial loss against its formula, restated in eager PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from image_formulas import ALL, SIDES, monai_loss
from parity import check, shaped

from fastgan.compat import monai


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("criterion", ["least_squares", "no activation", "bce", "hinge"])
def test_monai(criterion, reduction, dtype):
    activation = criterion != "no activation"
    criterion = criterion if activation else "least_squares"
    loss = monai.PatchAdversarialLoss(reduction, criterion, no_activation_leastsq=not activation)
    assert not loss.state_dict()
    for shapes in ((2, 1, 3, 4, 2), [(2, 1, 3, 4, 2), (2, 1, 2, 2, 2), (2, 1)]):
        for real in SIDES:
            check(
                lambda x: loss(x, real, True),
                lambda x: monai_loss(criterion, activation, real, reduction, x),
                shaped(shapes, dtype, spread=1.2),
            )
        for real in SIDES:  # the generator's target is always real

            def ours(x):
                if real:
                    return loss(x, real, False)
                with pytest.warns(UserWarning, match="target_is_real: got False with for_discriminator=False"):
                    return loss(x, real, False)

            x = shaped(shapes, dtype, 1, spread=1.2)  # far out, 1 - tanh^2 cancels in their formula
            check(ours, lambda x: monai_loss(criterion, activation, True, reduction, x), x)


def test_monai_members():
    loss = monai.PatchAdversarialLoss(criterion="HINGE")
    x = torch.zeros(2, 1)
    assert loss.criterion == "hinge" and loss.get_target_tensor(x, False).tolist() == [[-1.0], [-1.0]]
    assert loss.get_zero_tensor(x).shape == x.shape
    assert monai.PatchAdversarialLoss().get_target_tensor(x, False).tolist() == [[0.0], [0.0]]
    smoothed = monai.PatchAdversarialLoss(no_activation_leastsq=True)
    smoothed.real_label = 0.5
    assert smoothed(x, True, True) == 0.25
    with pytest.raises(ValueError, match="criterion: got 'lsgan', expected 'bce' or"):
        monai.PatchAdversarialLoss(criterion="lsgan")
    with pytest.raises(ValueError, match="reduction: got 'sample', expected 'none' or"):
        monai.PatchAdversarialLoss(reduction="sample")
    with pytest.raises(ValueError, match=r"input\[1\]: got shape \(0, 1\)"):
        loss([x, x[:0]], True, True)
    with pytest.raises(TypeError, match="input: got float"):
        loss(1.0, True, True)


def test_monai_takes_enumerations():
    import enum

    class Of(str, enum.Enum):
        MEAN, HINGE = "mean", "hinge"

    loss = monai.PatchAdversarialLoss(Of.MEAN, Of.HINGE)
    assert loss(torch.zeros(3), True, True) == 1.0 and loss.reduction == "mean"


def test_monai_bce_keeps_its_gradient():
    x = torch.tensor([20.0], requires_grad=True)
    eager = F.binary_cross_entropy(torch.sigmoid(x), torch.zeros(1))
    assert eager == 100.0 and torch.autograd.grad(eager, x)[0] == 0.0
    ours = monai.PatchAdversarialLoss(criterion="bce")(x, False, True)
    assert ours == 20.0 and torch.autograd.grad(ours, x)[0] == 1.0
