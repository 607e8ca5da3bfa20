"""Gradient penalties: R1, R2, WGAN-GP, DRAGAN, R1 and R2 without a double backward, and the generator's path length.

Each is gamma/2 or weight times the batch mean of a function of g_i = d (sum of the logits of x_i) / d x_i, the gradient
at a sample. The gradient comes from autograd with `create_graph=True`; the sum of its squares is one fused launch
forward and one backward. Functions return a 0-d tensor to add to D's loss, in float32 (float64 for float64 samples).
`lazy` gives the factors of a schedule that skips most steps.

At a dead sample, g_i = 0, the derivative of R1, R2 and every penalty centred at 0 is 0, as |g|^2 is smooth there. |g|
has no derivative at 0, only subgradients, the unit ball. WGAN-GP, DRAGAN and the path length use the smallest, 0, as
`torch.linalg.vector_norm` does: such a sample counts in the value and has no gradient. StyleGAN2's square root of a sum
of squares makes all gradients of G NaN if there is one such sample.

`torch.compile` refuses a double backward pass: with a compiled D use `approximate_r1_penalty`, which has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.checks import number
from fastgan.losses.adversarial import criterion_loss
from fastgan.losses.arguments import Logits, listed


def r1_penalty(discriminator: Callable[[Tensor], Logits], real: Tensor, gamma: float = 1.0) -> Tensor:
    """gamma/2 mean_i |g_i|^2 on real data (Mescheder et al. 2018, eq. 9; Karras et al. 2020 have gamma 10).

    Args:
        discriminator: samples -> logits of any shape, a list of them, or a list of lists, the logits last.
        real: (N, ...) samples, floating. They are detached: only D gets a gradient.
        gamma: the weight.

    Raises:
        TypeError, ValueError: samples that are not a floating tensor of at least one sample, a weight that is not a
            number, logits that do not depend on the samples.
    """
    gamma = number("gamma", gamma)
    gradients = _sample_gradients(discriminator, "real", real)
    # gamma/2 (1/N) sum of squares, as a mean over all elements
    return criterion_loss(gradients, 0.0, "least_squares", weight=gamma / 2 * (gradients.numel() / len(gradients)))


def r2_penalty(discriminator: Callable[[Tensor], Logits], fake: Tensor, gamma: float = 1.0) -> Tensor:
    """`r1_penalty` on generated data (Mescheder et al. 2018, eq. 10); only D gets a gradient."""
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
        generator: draws the random numbers, one for each sample.

    Other arguments and errors as in `r1_penalty`.
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
    spread = number("spread", spread)
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

    The expectation over v is |g_i|^2 + O(sigma^2). Only the curvature of D biases it: on a small convolutional D by a
    relative 1e-4 at sigma 0.01, 5e-4 at 0.1. One draw has a relative standard deviation of sqrt(2) a sample, and of
    sqrt(2 / N) over a batch if all gradients have one norm. It needs a forward and a backward pass of D on one batch of
    2 N samples and no double backward: D can be compiled. Not for a D that mixes samples (batch norm in training).

    Args:
        sigma: step, in units of the data. A larger step is less exact, a smaller one loses digits: 0.01 for images in
            [-1, 1] in float32, 0.1 in half precision.

    Other arguments and errors as in `r1_penalty`.
    """
    _check_samples("real", real)
    gamma = number("gamma", gamma)
    sigma = number("sigma", sigma)
    if not sigma > 0:
        raise ValueError(f"sigma: got {sigma}, expected a number > 0")
    real = real.detach()
    noise = torch.randn(real.shape, generator=generator, device=real.device, dtype=real.dtype)
    logits = _sample_sums(discriminator(torch.cat((real, torch.add(real, noise, alpha=sigma)))), 2 * len(real))
    change = (logits[len(real) :] - logits[: len(real)]) / sigma
    return criterion_loss(change, 0.0, "least_squares", weight=gamma / 2)


def approximate_r2_penalty(
    discriminator: Callable[[Tensor], Logits],
    fake: Tensor,
    gamma: float = 1.0,
    sigma: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`approximate_r1_penalty` on generated data; only D gets a gradient: R3GAN's R2 without a double backward."""
    return approximate_r1_penalty(discriminator, fake, gamma, sigma, generator)


class PathLength(NamedTuple):
    """loss: 0-d, to add to G's loss. mean_length: 0-d, detached, for the next call. lengths: (N,), detached."""

    loss: Tensor
    mean_length: Tensor
    lengths: Tensor


def path_length_penalty(
    images: Tensor,
    latents: Tensor,
    mean_length: Tensor | float,
    weight: float = 2.0,
    decay: float = 0.01,
    generator: torch.Generator | None = None,
) -> PathLength:
    """weight mean_i (|J_i^T y_i| - a)^2, y_i noise in the shape of an image: StyleGAN2's path length regularisation
    (Karras et al. 2020, eq. 4).

        y = N(0, I) / sqrt(H W),    |J^T y|^2 = mean over layers of the squared length of d <image, y> / d latent,
        a = mean_length + decay (mean_i |J_i^T y_i| - mean_length), which has a gradient too

    Args:
        images: (N, C, H, W), G's output for `latents`, with its graph. For other shapes H W is the product of the
            dimensions from the third.
        latents: (N, D) or (N, layers, D), with requires_grad: w, the input of the synthesis network.
        mean_length: a of the previous call; 0 at first. Stays on the device: it is never read on the host.
        weight: 2 in StyleGAN2. decay: how fast a moves.
        generator: draws the noise.

    It needs a double backward through G, so it is often computed only every 4th or 8th step (`lazy`), on half a batch.
    A sample whose image does not depend on its latents has length 0, and a gradient only through `a`.

    Raises:
        TypeError, ValueError: not floating tensors of N samples, latents of another number of dimensions, images
            without a graph to the latents, a weight or decay that is not a number.
    """
    _check_samples("images", images)
    _check_samples("latents", latents)
    weight = number("weight", weight)
    decay = number("decay", decay)
    if latents.dim() not in (2, 3) or len(latents) != len(images):
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected ({len(images)}, D) or (.., layers, D)")
    if not latents.requires_grad or not images.requires_grad:
        raise ValueError(
            "latents: got no requires_grad, or images without a graph, expected images made of the latents"
        )
    if isinstance(mean_length, Tensor):
        if mean_length.dim():
            raise ValueError(f"mean_length: got shape {tuple(mean_length.shape)}, expected a number or a 0-d tensor")
    else:
        mean_length = number("mean_length", mean_length)
    if generator is None:
        noise = torch.randn_like(images)
    else:
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    with torch.enable_grad():
        # y is passed as the gradient at the images: <image, y> is never computed
        noise /= math.sqrt(math.prod(images.shape[2:]))
        (gradients,) = torch.autograd.grad(images, latents, noise, create_graph=True, allow_unused=True)
        if gradients is None:
            raise ValueError("images: got a graph without the latents in it, expected images made of the latents")
        layers = latents.shape[1] if latents.dim() > 2 else 1
        lengths = _norms(gradients) / math.sqrt(layers)
        mean = mean_length + decay * (lengths.mean() - mean_length)
        loss = weight * (lengths - mean).square().mean()
    return PathLength(loss, mean.detach(), lengths.detach())


def lazy(step: int, every: int = 16) -> int:
    """The factor of a penalty at this step: `every` at steps 0, every, 2 every, ..., and 0 at the others. On average it
    is 1, as without a schedule (Karras et al. 2020, appendix B; 16 there for R1, 4 or 8 for path lengths). 0 means that
    the penalty need not be computed:

        if factor := lazy(step, 16):
            loss = loss + factor * r1_penalty(D, real, gamma)

    If the penalty has its own optimizer step, as in StyleGAN2, set Adam's learning rate to c lr and its betas to
    beta^c, with c = every / (every + 1).

    Raises:
        TypeError, ValueError: not integers, step < 0, every < 1.
    """
    for name, value, least in (("step", step, 0), ("every", every, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: got {type(value).__name__}, expected an integer")
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    return 0 if step % every else every


def _norm_penalty(discriminator, samples: Tensor, weight: float, center: float) -> Tensor:
    weight = number("weight", weight)
    center = number("center", center)
    norms = _norms(_sample_gradients(discriminator, "real", samples))
    return criterion_loss(norms, center, "least_squares", weight=weight)


def _norms(gradients: Tensor) -> Tensor:
    """Each sample's |g_i|, (N,), float32 at least. Not the square root of a sum of squares: its derivative at 0 is
    infinite, and autograd multiplies that by 0."""
    dtype = torch.promote_types(gradients.dtype, torch.float32)
    return torch.linalg.vector_norm(gradients.flatten(1), dim=1, dtype=dtype)


def _sample_gradients(discriminator, name: str, samples: Tensor) -> Tensor:
    """d (sum of the logits) / d samples, differentiable in D's parameters."""
    _check_samples(name, samples)
    with torch.enable_grad():
        samples = samples.detach().requires_grad_()
        sums = [x.sum() for x in listed("discriminator", discriminator(samples))]
        total = sum(sums[1:], sums[0])
        gradients = None
        if total.requires_grad:
            (gradients,) = torch.autograd.grad(total, samples, create_graph=True, allow_unused=True)
        if gradients is None:
            raise ValueError("discriminator: got logits without a graph, expected logits that depend on the samples")
    return gradients


def _sample_sums(logits: Logits, samples: int) -> Tensor:
    """Each sample's sum of logits, over all discriminators: (N,), float32 at least."""
    sums = []
    for x in listed("discriminator", logits):
        if not x.dim() or len(x) != samples:
            raise ValueError(f"discriminator: got logits of shape {tuple(x.shape)}, expected {samples} rows")
        sums.append(x.reshape(samples, -1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32)))
    return torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]


def _check_samples(name: str, samples: Tensor | Sequence) -> None:
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        got = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise TypeError(f"{name}: got {got}, expected a floating tensor of samples")
    if not samples.dim() or not samples.numel():
        raise ValueError(f"{name}: got shape {tuple(samples.shape)}, expected (N, ...) with at least one sample")
