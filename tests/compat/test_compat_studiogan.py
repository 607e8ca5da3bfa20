"""StudioGAN's LeCam regulariser, and its state."""

import pytest
import torch
import torch.nn.functional as F
from parity import check, shaped
from unconditional_formulas import DTYPES

from fastgan import kernels
from fastgan.compat import studiogan


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("numbers", [True, False], ids=["numbers", "tensors"])
def test_lecam(dtype, numbers):
    """Against upstream's numbers, over six steps; the averages keep no graph of `cur`."""
    ema = studiogan.LeCamEMA(decay=0.75, start_iter=2)
    real = fake = 7777.0
    for step in range(6):
        r, f = shaped([(10,), (10,)], dtype, seed=20 + step)
        real = real * (0.75 if step >= 2 else 0) + r.double().mean().item() * (0.25 if step >= 2 else 1)
        fake = fake * (0.75 if step >= 2 else 0) + f.double().mean().item() * (0.25 if step >= 2 else 1)
        for x, mode in ((r, "D_real"), (f, "D_fake")):
            mean = x.double().mean() if numbers else x.mean(dtype=torch.promote_types(dtype, torch.float32))
            ema.update(mean.item() if numbers else mean, mode, step)
    assert ema.G_loss == ema.D_loss_real == ema.D_loss_fake == 7777
    assert numbers or not ema.D_real.requires_grad
    for got, want in ((ema.D_real, real), (ema.D_fake, fake)):
        assert float(got) == pytest.approx(want, rel=1e-12 if numbers or dtype == torch.float64 else 2e-6)
    anchors = float(ema.D_real), float(ema.D_fake)

    def theirs(r, f):
        return F.relu(r - anchors[1]).square().mean() + F.relu(anchors[0] - f).square().mean()

    rtol = None if dtype == torch.float64 else 1e-5  # an anchor in float32 against one in float64
    check(lambda r, f: studiogan.lecam_reg(r, f, ema), theirs, r, f, rtol=rtol, grad_rtol=rtol)


def test_lecam_restores_its_state_as_upstream_does(kernel_device):
    first, second = studiogan.LeCamEMA(), studiogan.LeCamEMA()
    assert sorted(vars(first)) == ["D_fake", "D_loss_fake", "D_loss_real", "D_real", "G_loss", "decay", "start_itr"]
    first.update(torch.tensor(2.0, device=kernel_device), "D_real", 5)
    first.update(torch.tensor([-1.0], device=kernel_device), "D_fake", -1)
    second.__dict__ = first.__dict__
    assert float(second.D_real) == pytest.approx(7777 * 0.9 + 0.2) and float(second.D_fake) == -1
    assert second.D_fake.shape == ()
    r, f = (x.detach().to(kernel_device) for x in shaped([(10,), (10,)]))
    before = kernels.launch_count()
    studiogan.lecam_reg(r, f, second)
    assert kernels.launch_count() - before == 1
    with pytest.raises(ValueError, match=r"^mode: got 'D', expected 'G_loss' or "):
        first.update(1.0, "D", 0)
    with pytest.raises(ValueError, match=r"^cur: got a tensor of shape \(2,\)"):
        first.update(torch.ones(2), "D_real", 0)
    with pytest.raises(ValueError, match=r"^d_logit_fake: got an empty tensor"):
        studiogan.lecam_reg(r, f[:0], first)
