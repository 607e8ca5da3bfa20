"""Random variables as functions of pseudo-random uniform ones, and a test of their distribution.

The uniforms come from a torch.Generator, on any device: the same seed gives the same numbers. A variable can be p_z,
the source that a generator network transforms, or p_t, the distribution that it should learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from fastgan.game.atoms import Atoms, refuse_probabilities
from fastgan.game.densities import read


class InverseTransform(nn.Module):
    """The random variable F^-1(U), U uniform in (0, 1). Made by `inverse_transform`.

    It is a module, so that it can be the first layer of a generator network: called with z from N(0, I) it returns
    F^-1(Phi(z)), which replaces a normal p_z under any trainer. Tables are buffers and follow `.to`.
    """

    def __init__(self, quantile: nn.Module | Callable[[Tensor], Tensor]):
        super().__init__()
        self._quantile = quantile

    def quantile(self, u: Tensor) -> Tensor:
        """F^-1(u), of the shape and dtype of u. Raises ValueError for u outside [0, 1]."""
        _check_uniform("u", u)
        return self._quantile(u)

    def sample(
        self,
        shape: int | tuple[int, ...] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Independent samples. Uniforms are drawn and transformed in float64: float32 has none between 0 and 2^-24,
        which give the values of a heavy tail. device: by default that of the generator."""
        device = device if device is not None else generator.device if generator is not None else None
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        return self._quantile(u.clamp_(min=2.0**-54)).to(dtype)

    def forward(self, z: Tensor) -> Tensor:
        u = torch.special.ndtr(z.double())
        return self._quantile(u.clamp(2.0**-54, 1 - 2.0**-53)).to(z.dtype)


def inverse_transform(quantile: Callable[[Tensor], Tensor] | Distribution | Tensor | tuple[Tensor, Tensor]):
    """The transformation method: a random variable from its quantile function F^-1, F the distribution function.

    quantile: one of
        a function of tensors in [0, 1];
        a torch.distributions object with an `icdf`, or a discrete one of scalars (`Categorical(p)`: the smallest k with
        p_0 + ... + p_k >= u);
        a tensor (N,) of samples, for their empirical distribution function (the smallest sample with at least u N
        samples up to it);
        a pair (x, F) of tensors (N,), a table of the distribution function, with linear interpolation.

    Returns an `InverseTransform`: `.sample(n, generator=...)`, `.quantile(u)`.

    Raises TypeError or ValueError for other types, an empty set of samples, or a table that does not rise from 0 to 1.
    """
    if isinstance(quantile, Distribution):
        return InverseTransform(_Discrete(quantile) if _discrete(quantile) else _Icdf(quantile))
    if isinstance(quantile, Tensor):
        return InverseTransform(_Empirical(quantile))
    if isinstance(quantile, tuple) and len(quantile) == 2:
        return InverseTransform(_Table(*quantile))
    if callable(quantile):
        return InverseTransform(quantile)
    raise TypeError(
        f"quantile: got {type(quantile).__name__}, expected a function, a distribution, samples, or a pair (x, F)"
    )


def box_muller(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent N(0, 1) variables from two uniform ones (Box and Muller 1958, eq. 1):

        sqrt(-2 ln u1) cos(2 pi u2),  sqrt(-2 ln u1) sin(2 pi u2)

    u1, u2: in [0, 1], of a floating dtype and the same shape. u1 = 0, which pseudo-random numbers reach, is replaced by
    half of the step between them. Raises ValueError outside [0, 1].
    """
    _check_uniform("u1", u1)
    _check_uniform("u2", u2)
    if u1.shape != u2.shape:
        raise ValueError(f"u2: got shape {tuple(u2.shape)}, expected {tuple(u1.shape)}, as u1")
    radius = (-2 * u1.clamp(min=torch.finfo(u1.dtype).eps / 4).log()).sqrt()
    return radius * torch.cos(2 * math.pi * u2), radius * torch.sin(2 * math.pi * u2)


def normal(
    shape: int | tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """N(0, 1) by `box_muller`, from uniforms in float64: the same numbers from the same uniforms on every device."""
    device = device if device is not None else generator.device if generator is not None else None
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    half = (math.prod(shape) + 1) // 2
    u1, u2 = torch.rand((2, half), generator=generator, device=device, dtype=torch.float64)
    return torch.cat(box_muller(u1, u2))[: math.prod(shape)].reshape(shape).to(dtype)


def kolmogorov_smirnov(samples: Tensor, reference: Callable[[Tensor], Tensor] | Distribution | Tensor) -> float:
    """sup_x |F_n(x) - F(x)|, F_n the empirical distribution function of `samples` (N,).

    reference: a distribution function F without jumps, a torch.distributions object with a `cdf` or a discrete one, or
        other samples (M,), for their empirical distribution function. `kolmogorov_smirnov_threshold` says how large the
        result may be by chance; for discrete distributions that threshold is too large.
    """
    x = _samples("samples", samples).sort().values
    n = len(x)
    steps = None  # where the reference has jumps, and its value from there on
    if isinstance(reference, Tensor):
        y = _samples("reference", reference).sort().values
        steps = y, torch.arange(1, len(y) + 1, dtype=torch.float64, device="cpu") / len(y)
    elif isinstance(reference, Distribution) and _discrete(reference):
        steps = _steps("reference", reference)
    if steps is not None:
        both, zero = torch.cat([x, steps[0]]), torch.zeros(1, dtype=torch.float64, device="cpu")
        of_samples = torch.searchsorted(x, both, right=True).double() / n
        of_reference = torch.cat([zero, steps[1]])[torch.searchsorted(steps[0], both, right=True)]
        return (of_samples - of_reference).abs().max().item()
    cdf: Any = reference.cdf if isinstance(reference, Distribution) else reference
    try:
        f = torch.as_tensor(cdf(x), device="cpu").double()
    except NotImplementedError as error:
        raise ValueError(f"reference: got {type(reference).__name__}, which has no cdf") from error
    if f.shape != x.shape or not ((f >= 0) & (f <= 1)).all():
        raise ValueError(f"reference: got values of shape {tuple(f.shape)}, expected {n} values in [0, 1]")
    shares = torch.arange(n + 1, dtype=torch.float64, device="cpu") / n
    return torch.maximum(shares[1:] - f, f - shares[:-1]).max().item()


def kolmogorov_smirnov_threshold(n: int, m: int | None = None, *, level: float = 0.01) -> float:
    """The value that `kolmogorov_smirnov` exceeds with probability `level` if both distributions are the same:
    sqrt(-ln(level / 2) / 2) sqrt(1/n + 1/m), the limit for large samples; 0.00515 at 1 % and n = 10^5. m: the number of
    samples in `reference`, if it is samples."""
    if n < 1 or (m is not None and m < 1):
        raise ValueError(f"n: got {n} and {m} samples, expected at least one")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1")
    return math.sqrt(-math.log(level / 2) / 2) * math.sqrt(1 / n + (1 / m if m else 0))


class _Icdf(nn.Module):
    def __init__(self, distribution: Distribution):
        super().__init__()
        try:
            distribution.icdf(torch.tensor(0.5, device="cpu").expand(distribution.batch_shape))
        except NotImplementedError as error:
            name = type(distribution).__name__
            raise ValueError(f"quantile: got {name}, which has no icdf; give a table (x, F) of its cdf") from error
        if distribution.batch_shape or distribution.event_shape:
            raise ValueError(f"quantile: got batch shape {tuple(distribution.batch_shape)}, expected one distribution")
        self.distribution = distribution

    def forward(self, u: Tensor) -> Tensor:
        return self.distribution.icdf(u)


def _discrete(distribution: Distribution) -> bool:
    return distribution.support is not None and distribution.support.is_discrete


class _Discrete(nn.Module):
    points: Tensor
    cdf: Tensor

    def __init__(self, distribution: Distribution):
        super().__init__()
        points, cdf = _steps("quantile", distribution)
        self.register_buffer("points", points)
        self.register_buffer("cdf", cdf)

    def forward(self, u: Tensor) -> Tensor:
        index = torch.searchsorted(self.cdf, u.double().contiguous())
        return self.points[index.clamp(max=len(self.points) - 1)].to(u.dtype)


def _steps(name: str, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """The points of positive mass of a discrete distribution of scalars, in order, and its distribution function."""
    atoms = read(name, distribution)
    assert isinstance(atoms, Atoms)
    if atoms.d != 1:
        raise ValueError(f"{name}: got a distribution of {atoms.d} numbers, expected one of a number")
    return atoms.points[atoms.mass > 0, 0], atoms.mass[atoms.mass > 0].cumsum(0)


class _Empirical(nn.Module):
    sorted: Tensor

    def __init__(self, samples: Tensor):
        super().__init__()
        self.register_buffer("sorted", _samples("quantile", samples, keep=True).sort().values)

    def forward(self, u: Tensor) -> Tensor:
        n = len(self.sorted)
        index = (u.double() * n).ceil().long() - 1
        return self.sorted[index.clamp(0, n - 1)].to(u.dtype)


class _Table(nn.Module):
    x: Tensor
    cdf: Tensor

    def __init__(self, x: Tensor, cdf: Tensor):
        super().__init__()
        x, cdf = _one_dimensional("x", x, keep=True), _one_dimensional("F", cdf, keep=True)
        if len(x) != len(cdf) or len(x) < 2:
            raise ValueError(f"F: got {len(cdf)} values for {len(x)} points x, expected as many, and at least two")
        if not (x.diff() > 0).all():
            raise ValueError("x: got points that do not increase, expected x[0] < x[1] < ...")
        if not (cdf.diff() >= 0).all() or abs(cdf[0]) > 1e-6 or abs(cdf[-1] - 1) > 1e-6:
            low, high = cdf[0].item(), cdf[-1].item()
            raise ValueError(f"F: got a table from {low:.6g} to {high:.6g}, expected values that rise from 0 to 1")
        self.register_buffer("x", x)
        self.register_buffer("cdf", cdf)

    def forward(self, u: Tensor) -> Tensor:
        index = torch.searchsorted(self.cdf, u.double().contiguous()).clamp(1, len(self.cdf) - 1)
        low, high = self.cdf[index - 1], self.cdf[index]
        share = ((u.double() - low) / (high - low)).nan_to_num(0.0).clamp(0.0, 1.0)  # a flat piece has no mass
        return torch.lerp(self.x[index - 1], self.x[index], share).to(u.dtype)


def _check_uniform(name: str, u: Tensor) -> None:
    if not isinstance(u, Tensor) or not u.is_floating_point():
        got = u.dtype if isinstance(u, Tensor) else type(u).__name__
        raise TypeError(f"{name}: got {got}, expected a floating tensor of numbers in [0, 1]")
    if u.numel() and not ((u >= 0) & (u <= 1)).all():
        raise ValueError(f"{name}: got numbers from {u.min().item():.6g} to {u.max().item():.6g}, expected [0, 1]")


def _samples(name: str, values: Tensor, keep: bool = False) -> Tensor:
    """`_one_dimensional`, which refuses numbers that could be probabilities."""
    if isinstance(values, Tensor):
        refuse_probabilities(name, values)
    return _one_dimensional(name, values, keep)


def _one_dimensional(name: str, values: Tensor, keep: bool = False) -> Tensor:
    """`values` checked, as float64 (N,), on the CPU unless `keep`."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: got {type(values).__name__}, expected a tensor (N,)")
    values = values.detach().reshape(-1) if values.dim() == 2 and values.shape[1] == 1 else values.detach()
    if values.dim() != 1:
        raise ValueError(f"{name}: got shape {tuple(values.shape)}, expected (N,)")
    if not len(values):
        raise ValueError(f"{name}: got an empty set, expected at least one number")
    if not values.isfinite().all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers")
    return values.double() if keep else values.double().cpu()
