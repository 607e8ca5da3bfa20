"""Read p_t and p_g, each a distribution, a density function or samples, as Density, Atoms or Samples.

Everything here computes in float64 on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily
from torch.distributions.transforms import Transform

from fastgan.game.atoms import Atoms, of_distribution, refuse_probabilities
from fastgan.game.quadrature import boxes, integrate

Source = Distribution | Callable[[Tensor], Tensor] | Tensor
INFINITY = math.inf
MASS_TOLERANCE = 1e-4  # how far from 1 the integral of a density may be
INTEGRAL_TOLERANCE = 1e-4  # an integral with a larger estimated error is refused
_FIRST_CELLS = {1: 64, 2: 32}  # cells a dimension before any is halved
_LANDMARKS = 4096  # draws that show where a distribution has its mass
_MONTE_CARLO = 2**16  # draws a side for integrals above two dimensions


class Density:
    """log: points (n, d) -> log density (n,). low, high: its support, d numbers each, which may be infinite.
    landmarks: (m, d) points where it has its mass, so that no narrow mode is missed, or None. draw: n -> n samples."""

    def __init__(self, name: str, log, low: Sequence[float], high: Sequence[float], landmarks=None, draw=None):
        self.name, self.log, self.low, self.high = name, log, tuple(low), tuple(high)
        self.landmarks, self.draw = landmarks, draw
        self.prob: Callable | None = None  # the density itself, if it was not given as its logarithm

    @property
    def d(self) -> int:
        return len(self.low)


class Samples:
    """points: (N, d)."""

    def __init__(self, name: str, points: Tensor):
        self.name, self.points = name, points

    @property
    def d(self) -> int:
        return self.points.shape[1]


Side = Density | Atoms | Samples


def read(name: str, source: Source, d: int | None = None, support=None) -> Side:
    """`source` as a density, atoms or samples. d: the other side's dimension, if known.

    Raises TypeError for other types, ValueError for a batch of distributions or unusable samples."""
    if isinstance(source, Distribution):
        return _of_distribution(name, source)
    if isinstance(source, Tensor):
        return _of_samples(name, source)
    if callable(source):
        return _of_function(name, source, d, support)
    raise TypeError(
        f"{name}: got {type(source).__name__}, expected a torch.distributions object, a density function, or samples"
    )


def read_pair(p_t: Source, p_g: Source, support=None) -> tuple[Side, Side]:
    """Both sides. They must have the same dimension, and cannot be a density and atoms. A function gets its dimension
    from the other side, or from `support`."""
    known = [read(name, side) for name, side in (("p_t", p_t), ("p_g", p_g)) if not _is_function(side)]
    d = known[0].d if known else None
    t, g = read("p_t", p_t, d, support), read("p_g", p_g, d, support)
    if t.d != g.d:
        raise ValueError(f"p_g: got {g.d} numbers a point, expected {t.d}, as in p_t")
    for side, other in ((t, g), (g, t)):
        if isinstance(side, Density) and isinstance(other, Atoms):
            raise ValueError(
                f"{side.name}: got a density, expected a discrete distribution or samples, as {other.name} is discrete"
            )
    return t, g


def _is_function(source: Source) -> bool:
    return callable(source) and not isinstance(source, (Distribution, Tensor))


# ---- the three kinds ------------------------------------------------------------------------------------------------


def _of_samples(name: str, points: Tensor) -> Samples:
    if points.is_complex() or points.dtype == torch.bool:
        raise TypeError(f"{name}: got {points.dtype}, expected a tensor of real numbers")
    if points.dim() not in (1, 2):
        raise ValueError(f"{name}: got samples of shape {tuple(points.shape)}, expected (N,) or (N, d)")
    if not points.numel():
        raise ValueError(f"{name}: got an empty set of samples, shape {tuple(points.shape)}, expected at least one")
    refuse_probabilities(name, points)
    points = points.detach().double().cpu()
    if not points.isfinite().all():
        raise ValueError(f"{name}: got samples with NaN or infinity, expected finite ones")
    return Samples(name, points[:, None] if points.dim() == 1 else points)


def _of_distribution(name: str, distribution: Distribution) -> Density | Atoms:
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if len(event) > 1 or (batch not in ((), (1,)) if not event else batch):
        hint = "; torch.distributions.Independent makes a batch dimension one of the event" if batch else ""
        raise ValueError(
            f"{name}: got batch shape {batch} and event shape {event}, expected one distribution of a number or a "
            f"vector{hint}"
        )
    exact = _to_double(distribution)
    assert distribution.support is not None
    if distribution.support.is_discrete:
        return of_distribution(name, exact)
    d, scalar = (event[0] if event else 1), not event
    log_prob = _safe_log_prob(exact)

    def log(x: Tensor) -> Tensor:
        return log_prob(x[:, 0] if scalar else x).reshape(len(x))

    def draw(n: int) -> Tensor:
        return exact.sample((n,)).reshape(n, d)

    low, high = _bounds(exact.support)
    return Density(name, log, [low] * d, [high] * d, _landmarks(exact, d), draw)


def _of_function(name: str, function: Callable, d: int | None, support) -> Density:
    intervals = _intervals(support, d)
    low, high = zip(*intervals)
    edges = torch.tensor([low, high], dtype=torch.float64, device="cpu")
    scalar = len(intervals) == 1

    def prob(x: Tensor) -> Tensor:
        p = torch.as_tensor(function(x[:, 0] if scalar else x), device="cpu")
        if p.numel() != len(x):
            raise ValueError(f"{name}: got density values of shape {tuple(p.shape)} for {len(x)} points")
        p = p.reshape(len(x)).double().cpu()
        p = torch.where(((x >= edges[0]) & (x <= edges[1])).all(1), p, 0.0)
        if not (p >= 0).all():
            raise ValueError(f"{name}: got a density that is negative or NaN somewhere, expected values >= 0")
        return p

    density = Density(name, lambda x: prob(x).log(), low, high)
    density.prob = prob
    return density


def _intervals(support, d: int | None) -> list[tuple[float, float]]:
    """support: None for the whole line or plane, (low, high), or one such pair a dimension."""
    if support is None:
        return [(-INFINITY, INFINITY)] * (d or 1)
    try:
        pairs = [support] if all(isinstance(s, Real) for s in support) else list(support)
        pairs = [(float(low), float(high)) for low, high in pairs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"support: got {support!r}, expected (low, high), or one such pair a dimension") from error
    if not pairs or any(not low < high for low, high in pairs):
        raise ValueError(f"support: got {support!r}, expected low < high")
    if d is not None and len(pairs) != d:
        raise ValueError(f"support: got {len(pairs)} pairs, expected {d}, one a dimension")
    return pairs


def _bounds(support) -> tuple[float, float]:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    low, high = getattr(support, "lower_bound", -INFINITY), getattr(support, "upper_bound", INFINITY)
    return float(torch.as_tensor(low, device="cpu").min()), float(torch.as_tensor(high, device="cpu").max())


def _safe_log_prob(distribution: Distribution) -> Callable[[Tensor], Tensor]:
    """log_prob that is -inf outside the support, where torch's raises or returns meaningless numbers."""
    events = len(distribution.event_shape)
    if isinstance(distribution, MixtureSameFamily):
        component = _safe_log_prob(distribution.component_distribution)
        log_weights = distribution.mixture_distribution.logits.log_softmax(-1)
        return lambda x: torch.logsumexp(component(x.unsqueeze(-1 - events)) + log_weights, -1)
    support = distribution.support
    assert support is not None
    with _seeded():
        inside_point = distribution.sample()

    def log_prob(x: Tensor) -> Tensor:
        inside = support.check(x)
        x = torch.where(inside.reshape(*inside.shape, *[1] * events), x, inside_point)
        return torch.where(inside, distribution.log_prob(x), -INFINITY)

    return log_prob


def _landmarks(distribution: Distribution, d: int) -> Tensor:
    """Samples of the distribution. A mixture is sampled equally from all components, whatever their weights."""
    with _seeded():
        while isinstance(distribution, MixtureSameFamily):
            distribution = distribution.component_distribution
        count = max(8, _LANDMARKS // max(1, distribution.batch_shape.numel()))
        return distribution.sample((count,)).reshape(-1, d)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed the draws inside, and restore the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed GPUs
        yield


def _to_double(value, seen: dict | None = None):
    """A copy of a distribution (transform, list, tensor) with float64 parameters on the CPU, detached."""
    seen = {} if seen is None else seen  # a transform and its inverse refer to each other
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (Distribution, Transform)):
        twin = seen[id(value)] = copy.copy(value)
        twin.__dict__.update({name: _to_double(part, seen) for name, part in value.__dict__.items()})
        return twin
    if type(value) in (list, tuple):
        return type(value)(_to_double(part, seen) for part in value)
    return value


# ---- integrals ------------------------------------------------------------------------------------------------------


class Domain:
    """The union of the densities' supports as the image of a finite box: x = c + s t / (1 - t^2) in an infinite
    dimension, x = low + s t / (1 - t) or high + s t / (1 + t) in a half-infinite one, x = t in a finite one."""

    def __init__(self, densities: list[Density]):
        self.d, self.densities = densities[0].d, densities
        self.low = [min(each) for each in zip(*(p.low for p in densities))]
        self.high = [max(each) for each in zip(*(p.high for p in densities))]
        marks = [p.landmarks for p in densities if p.landmarks is not None]
        self.landmarks = marks
        self.centre, self.scale = [0.0] * self.d, [1.0] * self.d
        for i in range(self.d if marks else 0):
            pooled = torch.cat([m[:, i] for m in marks])
            quarter, self.centre[i], three = pooled.quantile(pooled.new_tensor([0.25, 0.5, 0.75])).tolist()
            self.scale[i] = max(three - quarter, 1e-12 * max(1.0, abs(self.centre[i])))

    def edges(self) -> list[Tensor]:
        """The edges of the first cells, in t: quantiles of the landmarks, ends of the supports, and in one dimension
        the points where two densities cross."""
        out = []
        for i in range(self.d):
            t_low, t_high = self._ends(i)
            count = _FIRST_CELLS[self.d] // max(1, len(self.landmarks))
            share = torch.linspace(0, 1, count + 1, dtype=torch.float64, device="cpu")
            quantiles = [self.to_t(i, m[:, i]).quantile(share) for m in self.landmarks]
            inner = (
                torch.cat(quantiles)
                if quantiles
                else torch.linspace(t_low, t_high, count + 1, dtype=torch.float64, device="cpu")
            )
            borders = torch.tensor(
                [end for p in self.densities for end in (p.low[i], p.high[i])], dtype=torch.float64, device="cpu"
            )
            inner = torch.cat([inner, self.to_t(i, borders[borders.isfinite()])])
            inner = inner[(inner > t_low) & (inner < t_high)]
            out.append(torch.cat([torch.tensor([t_low, t_high], dtype=torch.float64, device="cpu"), inner]).unique())
        if self.d == 1 and len(self.densities) == 2:
            out = [torch.cat([out[0], self._crossings(out[0])]).unique()]
        return out

    def _crossings(self, edges: Tensor) -> Tensor:
        """The points where log p_t - log p_g changes its sign, by bisection between neighbours on a grid."""
        t, g = self.densities

        def first_is_larger(u: Tensor) -> Tensor:
            x = self.to_x(u[:, None])[0]
            return t.log(x) > g.log(x)

        step = (torch.arange(8, dtype=torch.float64, device="cpu") + 0.5) / 8
        grid = (edges[:-1, None] + edges.diff()[:, None] * step).flatten()
        larger = first_is_larger(grid)
        at = (larger[1:] != larger[:-1]).nonzero()[:, 0]
        low, high, before = grid[at], grid[at + 1], larger[at]
        for _ in range(50 if len(at) else 0):
            middle = (low + high) / 2
            same = first_is_larger(middle) == before
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        return high

    def _ends(self, i: int) -> tuple[float, float]:
        low, high = self.low[i], self.high[i]
        if math.isinf(low) and math.isinf(high):
            return -1.0, 1.0
        return (0.0, 1.0) if math.isinf(high) else (-1.0, 0.0) if math.isinf(low) else (low, high)

    def to_t(self, i: int, x: Tensor) -> Tensor:
        low, high, c, s = self.low[i], self.high[i], self.centre[i], self.scale[i]
        if math.isinf(low) and math.isinf(high):
            y = (x - c) / s
            return 2 * y / (1 + (1 + 4 * y * y).sqrt())
        if math.isinf(high):
            return (x - low).clamp(min=0) / ((x - low).clamp(min=0) + s)
        return (x - high).clamp(max=0) / ((high - x).clamp(min=0) + s) if math.isinf(low) else x.clamp(low, high)

    def to_x(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) in t -> (n, d) in x, and the map's Jacobian determinant (n,)."""
        x, factor = [], torch.ones(len(t), dtype=torch.float64, device="cpu")
        for i in range(self.d):
            low, high, c, s, u = self.low[i], self.high[i], self.centre[i], self.scale[i], t[:, i]
            if math.isinf(low) and math.isinf(high):
                x.append(c + s * u / (1 - u * u))
                factor = factor * s * (1 + u * u) / (1 - u * u).square()
            elif math.isinf(low) or math.isinf(high):
                x.append(low + s * u / (1 - u) if math.isinf(high) else high + s * u / (1 + u))
                factor = factor * s / (1 - u.abs()).square()
            else:
                x.append(u)
        return torch.stack(x, 1), factor


def integrals(densities: list[Density], f: Callable[..., Tensor], cells: list[Tensor] | None = None) -> Tensor:
    """The integral of f(x, log p_1, log p_2, ...) -> (n, k) over the union of the supports: (k,).

    `f` must be homogeneous of degree one in the densities, so that above two dimensions the integral is the mean of
    f / m over draws of their mixture m. cells: edges in x of each dimension; then the result is the integral over each
    cell: (cells, k). Raises ValueError if a density does not integrate to one, or the integral does not converge."""
    if densities[0].d > 2:
        return _by_draws(densities, f)
    domain = Domain(densities)
    if cells is None:
        edges = domain.edges()
    else:
        edges = [domain.to_t(i, edge).sort().values for i, edge in enumerate(cells)]
        ends = [domain._ends(i) for i in range(domain.d)]
        edges = [torch.cat([edge.new_tensor([a]), edge, edge.new_tensor([b])]) for edge, (a, b) in zip(edges, ends)]

    def g(t: Tensor) -> Tensor:
        x, factor = domain.to_x(t)
        logs = [p.log(x) for p in densities]
        logs = [torch.where(log == INFINITY, -INFINITY, log) for log in logs]  # a pole is a point without mass
        masses = torch.stack([log.exp() for log in logs], 1)
        return torch.cat([f(x, *logs), masses], 1) * factor[:, None]

    values, error = integrate(g, *boxes(edges))
    k = len(densities)
    for p, mass in zip(densities, values[:, -k:].sum(0).tolist()):
        if not abs(mass - 1) <= MASS_TOLERANCE:
            hint = "give its support=(low, high)" if p.landmarks is None else "is it a density?"
            raise ValueError(f"{p.name}: got a density that integrates to {mass:.6g}, expected 1; {hint}")
    if not error <= INTEGRAL_TOLERANCE and not values.isinf().any():
        raise ValueError(f"{densities[0].name}: the integral does not converge (estimated error {error:.2g})")
    return values[:, :-k].sum(0) if cells is None else values[:, :-k]


def _by_draws(densities: list[Density], f: Callable[..., Tensor]) -> Tensor:
    """The integral by Monte Carlo over the mixture of the densities, always with the same draws."""
    for p in densities:
        if p.draw is None:
            raise ValueError(
                f"{p.name}: got a density function of {p.d} numbers, expected at most 2, or a distribution"
            )
    with _seeded():
        x = torch.cat([p.draw(_MONTE_CARLO) for p in densities])
    total: Any = 0.0
    k = len(densities)
    for part in x.split(2**16):
        logs = torch.stack([p.log(part) for p in densities])
        logs = logs - (torch.logsumexp(logs, 0) - math.log(k))
        total = total + f(part, *logs).sum(0)
    return total / len(x)
