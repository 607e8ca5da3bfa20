"""The losses in float64, by formulas with no cancellation, and closeness per element with atol=0."""

import torch

# Allowed relative error of a gradient, against float64 of the same rounded logits. LOSS_RTOL: of a loss.
GRAD_RTOL = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 5e-6, torch.bfloat16: 5e-6}
LOSS_RTOL = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
DTYPES = list(GRAD_RTOL)


def criterion(x, y):
    """(softplus(x) - y x, its slope) of float64 x."""
    x = x.double()
    value = torch.where(x >= 0, (1 - y) * x, -y * x) + torch.log1p(torch.exp(-x.abs()))
    slope = -torch.sigmoid(-x) if y == 1 else torch.sigmoid(x) - y
    return value, slope


def term(x, y, weight=1.0, scale=1.0):
    """(weighted mean, its gradient times scale) in float64."""
    value, slope = criterion(x, y)
    return weight * value.mean(), slope * (weight * scale / max(x.numel(), 1))


def ulp(x, dtype):
    """Distance between neighbouring numbers of `dtype` at |x|."""
    info = torch.finfo(dtype)
    power = torch.exp2(torch.floor(torch.log2(x.abs().clamp(min=info.smallest_normal))))
    return power * info.eps


def assert_close(got, want, dtype, rtol=None):
    """Compare per element, relatively, atol=0; half precision also gets one ulp for the rounding of the output."""
    assert got.dtype == dtype and got.shape == want.shape
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    allowed = want.abs() * (GRAD_RTOL[dtype] if rtol is None else rtol)
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + ulp(want, dtype)
    off = (got - want).abs()
    bad = ~(off <= allowed)  # so that NaN is bad
    assert not bad.any(), (
        f"{int(bad.sum())} of {bad.numel()} elements off; first: got {got[bad][0].item()!r}, "
        f"want {want[bad][0].item()!r}"
    )


def assert_loss(got, want, dtype):
    """Compare a loss, or another scalar of the statistics' dtype."""
    out = torch.float64 if dtype == torch.float64 else torch.float32
    assert got.dtype == out and got.shape == ()
    assert_close(got, want.reshape(()), out, LOSS_RTOL[dtype])
