"""Gradient penalties of the discriminator: R1, R2, WGAN-GP, DRAGAN, and R1 without a double backward.

Each is gamma/2 or weight times the mean over a batch of something about g_i = d (sum of the logits of x_i) / d x_i, the
gradient at a sample. The gradient comes from autograd with `create_graph=True`; the sum of its squares is one fused
launch forward and one backward. Functions return a 0-d tensor that is added to D's loss, in float32 (float64 for
float64 samples). A lazy schedule (Karras et al. 2020, appendix B) is k times the penalty at every k-th step.

Double backward goes through no compiled discriminator: `torch.compile` refuses it. `approximate_r1_penalty` takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgan.functional import Logits, _check_number, _listed, criterion_loss


def r1_penalty(discriminator: Callable[[Tensor], Logits], real: Tensor, gamma: float = 1.0) -> Tensor:
    """gamma/2 mean_i |g_i|^2 on real data (Mescheder et al. 2018, eq. 9; Karras et al. 2020 have gamma 10).

    Args:
        discriminator: samples -> logits of any shape, a list of them, or a list of lists, the logits last.
        real: (N, ...) samples, floating. They are detached; the penalty's gradient is for D alone.
        gamma: its weight.

    Raises:
        TypeError, ValueError: no floating tensor of at least one sample, a weight that is no number, logits that do not
            depend on the samples.
    """
    _check_number("gamma", gamma)
    slope = _slope(discriminator, "real", real)
    # gamma/2 (1/N) sum of squares, as a mean over all elements
    return criterion_loss(slope, 0.0, "least_squares", weight=gamma / 2 * (slope.numel() / len(slope)))


def r2_penalty(discriminator: Callable[[Tensor], Logits], fake: Tensor, gamma: float = 1.0) -> Tensor:
    """`r1_penalty` on generated data (Mescheder et al. 2018, eq. 10), of which only D learns."""
    return r1_penalty(discriminator, fake, gamma)


def wgan_gp_penalty(
    discriminator: Callable[[Tensor], Logits],
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    center: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """weight mean_i (|g_i| - center)^2 at random points between real and generated samples (Gulrajani et al. 2017).

    Args:
        real, fake: (N, ...) samples of one shape, dtype and device.
        center: 1 in the paper, 0 for a zero-centred penalty.
        generator: of the random numbers, one a sample.

    Others and errors as in `r1_penalty`.
    """
    _check_samples("real", real)
    _check_samples("fake", fake)
    if real.shape != fake.shape or real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"fake: got {tuple(fake.shape)}, {fake.dtype} on {fake.device}, "
            f"expected {tuple(real.shape)}, {real.dtype} on {real.device}, as real"
        )
    share = torch.rand(len(real), generator=generator, device=real.device, dtype=real.dtype)
    between = torch.lerp(fake.detach(), real.detach(), share.reshape(-1, *[1] * (real.dim() - 1)))
    return _norm_penalty(discriminator, between, weight, center)


def dragan_penalty(
    discriminator: Callable[[Tensor], Logits],
    real: Tensor,
    weight: float = 10.0,
    spread: float = 0.5,
    center: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """weight mean_i (|g_i| - center)^2 around real samples (Kodali et al. 2017, section 2.3): at x + spread std(x) u, u
    uniform in [0, 1). Arguments and errors as in `wgan_gp_penalty`."""
    _check_samples("real", real)
    _check_number("spread", spread)
    noise = torch.rand(real.shape, generator=generator, device=real.device, dtype=real.dtype)
    return _norm_penalty(discriminator, real.detach() + spread * real.detach().std() * noise, weight, center)


def approximate_r1_penalty(
    discriminator: Callable[[Tensor], Logits],
    real: Tensor,
    gamma: float = 1.0,
    sigma: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """gamma/2 mean_i ( (D(x_i + sigma v_i) - D(x_i)) / sigma )^2, v ~ N(0, I): `r1_penalty` by a finite difference.

    The expectation over v is |g_i|^2 + O(sigma^2), so that it is unbiased but for the curvature of D. One draw has a
    relative standard deviation of sqrt(2) a sample, sqrt(2 / N) over a batch with gradients of one length. It takes a
    forward and a backward pass of D on 2 N samples in one batch and no double backward: it can be compiled. Not for a D
    whose samples see each other (batch norm in training).

    Args:
        sigma: step, in units of the data. Larger is less exact, smaller loses digits: 0.01 for images in [-1, 1] in
            float32, 0.1 in half precision.

    Others and errors as in `r1_penalty`.
    """
    _check_samples("real", real)
    _check_number("gamma", gamma)
    _check_number("sigma", sigma)
    if not sigma > 0:
        raise ValueError(f"sigma: got {sigma}, expected a number > 0")
    real = real.detach()
    noise = torch.randn(real.shape, generator=generator, device=real.device, dtype=real.dtype)
    logits = _sums(discriminator(torch.cat((real, torch.add(real, noise, alpha=sigma)))), 2 * len(real))
    change = (logits[len(real) :] - logits[: len(real)]) / sigma
    return criterion_loss(change, 0.0, "least_squares", weight=gamma / 2)


def _norm_penalty(discriminator, samples: Tensor, weight: float, center: float) -> Tensor:
    _check_number("weight", weight)
    _check_number("center", center)
    slope = _slope(discriminator, "real", samples).flatten(1)
    dtype = torch.promote_types(slope.dtype, torch.float32)
    return criterion_loss(torch.linalg.vector_norm(slope, dim=1, dtype=dtype), center, "least_squares", weight=weight)


def _slope(discriminator, name: str, samples: Tensor) -> Tensor:
    """d (sum of the logits) / d samples, differentiable in D's parameters."""
    _check_samples(name, samples)
    with torch.enable_grad():
        samples = samples.detach().requires_grad_()
        total = sum(x.sum() for x in _listed("discriminator", discriminator(samples)))
        if not total.requires_grad:
            raise ValueError("discriminator: got logits without a graph, expected logits that depend on the samples")
        (slope,) = torch.autograd.grad(total, samples, create_graph=True)
    return slope


def _sums(logits: Logits, samples: int) -> Tensor:
    """Each sample's sum of logits, over all discriminators: (N,), float32 at least."""
    found = []
    for x in _listed("discriminator", logits):
        if not x.dim() or len(x) != samples:
            raise ValueError(f"discriminator: got logits of shape {tuple(x.shape)}, expected {samples} rows")
        found.append(x.reshape(samples, -1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32)))
    return torch.stack(found).sum(0) if len(found) > 1 else found[0]


def _check_samples(name: str, samples: Tensor | Sequence) -> None:
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        got = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise TypeError(f"{name}: got {got}, expected a floating tensor of samples")
    if not samples.dim() or not samples.numel():
        raise ValueError(f"{name}: got shape {tuple(samples.shape)}, expected (N, ...) with at least one sample")
