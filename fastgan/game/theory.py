"""The theory of the game: distances, the best discriminator, the value, the gradients.

p_t: the density of true data. p_g: the density of G(z). D(x): the probability that x is true. With true and generated
data in equal parts

    E(G, D) = 1/2 E_{x ~ p_t} [1 - D(x)] + 1/2 E_{x ~ p_g} [D(x)]

is D's expected absolute error, and the probability that D, saying "true" with probability D(x), is wrong.

    min_D E      = 1/2 - TV(p_t, p_g) / 2        at D* = 1 where p_t >= p_g, else 0
    min_D L_D    = ln 2 - JSD(p_t, p_g)          at D* = p_t / (p_t + p_g), L_D the cross-entropy averaged over both
    max_D V      = -ln 4 + 2 JSD(p_t, p_g)       the same in the form of Goodfellow et al. (2014), eq. 1 and theorem 1

Every function accepts p_t and p_g in one of three forms:

* torch.distributions objects of scalars or vectors, also mixtures and discrete ones: `Categorical(p)` is a game over
  the points 0 to K - 1 with probabilities p (K,);
* density functions: float64 points (n,), or (n, d) above one dimension, -> n values; `support=(low, high)`, or one such
  pair a dimension, gives their support;
* samples (N,) or (N, d). Numbers (N,) that add up to one are refused, as they could be probabilities: give samples in
  shape (N, 1).

How the results are computed:

* Two densities of one or two dimensions: quadrature in float64, exact to about 1e-10 in one dimension, 1e-6 in two.
* Two distributions of more dimensions: Monte Carlo over 2 x 2^16 draws of their mixture, always the same; the
  integrands are bounded, the standard error is at most 1.4e-3.
* A discrete distribution (Categorical, OneHotCategorical, Bernoulli, Binomial) and a discrete one or samples: exact
  sums over the points where either has mass; the mass of samples is their share at each point.
* Samples and samples or a density, in one or two dimensions: the masses of both in the same cells, `bins` a dimension,
  2 N^(1/(d + 2)) by default. Cells have equal width between the outermost thousandths and are open-ended beyond. The
  estimate does not see differences inside a cell (too small). For equal distributions the total variation over K cells
  is about sqrt(K / (2 pi) (1/N + 1/M)) (too large).

Results are Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.formulas.objectives import unknown
from fastgan.game.atoms import Atoms, mass_at, shared_masses
from fastgan.game.densities import Density, Samples, Side, Source, integrals, read_pair

LN2 = math.log(2)


def total_variation(p_t: Source, p_g: Source, *, support=None, bins: int | None = None) -> float:
    """TV = 1/2 integral |p_t - p_g| = 1 - integral min(p_t, p_g), in [0, 1]."""
    return _functional(p_t, p_g, lambda t, g: (t.exp() - g.exp()).abs() / 2, support, bins)


def jensen_shannon(p_t: Source, p_g: Source, *, support=None, bins: int | None = None) -> float:
    """JSD = 1/2 KL(p_t | m) + 1/2 KL(p_g | m), m = (p_t + p_g) / 2, in nats, in [0, ln 2]: the mutual information of x
    and whether x is true. (Its square root is a metric.)"""

    def integrand(t: Tensor, g: Tensor) -> Tensor:
        m = torch.logaddexp(t, g) - LN2
        return (_times(t, t - m) + _times(g, g - m)) / 2

    return _functional(p_t, p_g, integrand, support, bins)


def game_value(
    p_t: Source,
    p_g: Source,
    objective: str = "absolute_error",
    *,
    form: str = "average",
    support=None,
    bins: int | None = None,
) -> float:
    """The value of the game with the best discriminator for this p_g.

    objective: "absolute_error", min_D E = 1/2 - TV / 2; or "minimax", min_D L_D = ln 2 - JSD.
    form: "average" is D's loss averaged over both sides; "goodfellow", for "minimax", is max_D V = -ln 4 + 2 JSD,
        V = E_{p_t} log D + E_{p_g} log (1 - D) = -2 L_D.

    The values at the equilibrium, p_g = p_t, are 1/2, ln 2 and -ln 4.
    """
    _check_objective(objective)
    if form not in ("average", "goodfellow") or (form == "goodfellow" and objective != "minimax"):
        raise ValueError(f"form: got {form!r}, expected 'average', or 'goodfellow' for objective 'minimax'")
    if objective == "absolute_error":
        return 0.5 - total_variation(p_t, p_g, support=support, bins=bins) / 2
    loss = LN2 - jensen_shannon(p_t, p_g, support=support, bins=bins)
    return -2 * loss if form == "goodfellow" else loss


def generator_value(
    p_t: Source, p_g: Source, objective: str = "minimax", *, support=None, bins: int | None = None
) -> float:
    """The generator's loss at the best D for this p_g, as `fastgan.generator_loss` computes it from samples.

    "absolute_error":  -1/2 E_{p_g} [D*],  D* = 1 where p_t >= p_g
    "minimax":         E_{p_g} log (1 - D*) = KL(p_g | m) - ln 2,  D* = p_t / (p_t + p_g)
    "nonsaturating":   -E_{p_g} log D* = KL(p_g | p_t) - KL(p_g | m) + ln 2; infinite where p_t = 0 < p_g
    """
    integrand = {
        "absolute_error": lambda t, g: -0.5 * torch.where(t >= g, g.exp(), 0.0),
        "minimax": lambda t, g: _times(g, g - torch.logaddexp(t, g)),
        "nonsaturating": lambda t, g: _times(g, torch.logaddexp(t, g) - t),
    }
    if objective not in integrand:
        raise ValueError(f"objective: got {objective!r}, expected one of {', '.join(map(repr, integrand))}")
    return _functional(p_t, p_g, integrand[objective], support, bins)


def generator_gradient(
    p_t: Source, p_g: Source, objective: str = "minimax", *, sharpness: float | None = None, support=None
) -> float | list[float]:
    """The gradient of the generator's loss through the best D, held fixed, as G(z) moves to G(z) + theta.

        "minimax":        E_{p_g} [-sigma(l*) grad l*]       = 2 grad JSD
        "nonsaturating":  E_{p_g} [-sigma(-l*) grad l*]      = grad [KL(p_g | p_t) - 2 JSD]   (Arjovsky and Bottou 2017)
        "absolute_error": exactly 0, since D* is piecewise constant

    l* = log p_t - log p_g. sharpness: k of D = sigma(k l*), in place of the best D. For the absolute error the gradient
    then tends to grad TV / 2 as k grows, but comes from a strip of width 1 / k: from fewer and fewer samples.

    Both sides must be densities, which autograd can differentiate; the points of a discrete game cannot move. Returns a
    float, or a list above one dimension.
    """
    slopes = {
        "absolute_error": lambda s: -0.5 * torch.sigmoid(s) * torch.sigmoid(-s),
        "minimax": lambda s: -torch.sigmoid(s),
        "nonsaturating": lambda s: -torch.sigmoid(-s),
    }
    if objective not in slopes:
        raise ValueError(f"objective: got {objective!r}, expected one of {', '.join(map(repr, slopes))}")
    t, g = _densities(p_t, p_g, support)
    if sharpness is None and objective == "absolute_error":
        return 0.0 if t.d == 1 else [0.0] * t.d
    k = 1.0 if sharpness is None else float(sharpness)

    def integrand(x: Tensor, _, log_g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logit = k * (t.log(x) - g.log(x))
            (slope,) = torch.autograd.grad(logit.sum(), x)
        p = log_g.exp()[:, None]
        return torch.where(p > 0, p * slopes[objective](logit.detach())[:, None] * slope, 0.0)

    gradient = integrals([t, g], integrand).tolist()
    return gradient[0] if t.d == 1 else gradient


# ---- discriminators -------------------------------------------------------------------------------------------------


class OptimalDiscriminator:
    """D*(x) for two known densities. Call it with points for probabilities in [0, 1]; `logits` returns their logits.

    Points have any shape for densities of one dimension, else (..., d). Results have the dtype of the points (the
    default dtype for integers) and are on their device. They are computed in float64, and differentiable if the
    densities are."""

    def __init__(self, p_t: Density, p_g: Density, objective: str):
        self._t, self._g, self.objective = p_t, p_g, objective

    def __call__(self, x: Tensor) -> Tensor:
        if self.objective == "absolute_error":
            return self._like(x, self._is_true(self._points(x)))
        return self.logits(x).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """log p_t - log p_g, 0 where both densities are 0; for the absolute error +infinity or -infinity."""
        points = self._points(x)
        if self.objective == "absolute_error":
            logits = torch.where(self._is_true(points), math.inf, -math.inf)
        else:
            t, g = self._t.log(points), self._g.log(points)
            logits = torch.where(torch.isinf(t) & (t == g), 0.0, t - g)
        return self._like(x, logits)

    def _is_true(self, points: Tensor) -> Tensor:
        """p_t >= p_g; where they are equal D says "true". Densities given directly are compared directly, as their
        logarithms could round to the same number."""
        if self._t.prob and self._g.prob:
            return self._t.prob(points) >= self._g.prob(points)
        return self._t.log(points) >= self._g.log(points)

    def _points(self, x: Tensor) -> Tensor:
        if self._t.d > 1 and (not x.dim() or x.shape[-1] != self._t.d):
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (..., {self._t.d})")
        return x.reshape(-1, self._t.d).double().cpu()

    def _like(self, x: Tensor, values: Tensor) -> Tensor:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return values.to(x.device, dtype).reshape(x.shape if self._t.d == 1 else x.shape[:-1])


def optimal_discriminator(
    p_t: Source, p_g: Source, objective: str = "absolute_error", *, support=None, bins: int | None = None
) -> OptimalDiscriminator:
    """The best D for a given p_g, a function of points.

    objective: "absolute_error", D*(x) = 1 where p_t(x) >= p_g(x), else 0 (where they are equal any value is best; this
        one is 1); "minimax", D*(x) = p_t(x) / (p_t(x) + p_g(x)), 1/2 where both are 0.

    With samples on a side, p_t and p_g are constant in the cells that the module's docstring describes. For discrete
    distributions they are the masses at exactly the point x, 0 where there is none.
    """
    _check_objective(objective)
    t, g = read_pair(p_t, p_g, support)
    if isinstance(t, Atoms) or isinstance(g, Atoms):
        t, g = _as_density(t), _as_density(g)
    elif isinstance(t, Samples) or isinstance(g, Samples):
        cells = _Cells(t, g, bins)
        t, g = cells.density(t), cells.density(g)
    return OptimalDiscriminator(t, g, objective)


def expected_absolute_error(
    p_t: Source, p_g: Source, discriminator: Callable[[Tensor], Tensor], *, logits: bool = False, support=None
) -> float:
    """E(G, D) = 1/2 E_{p_t} [1 - D] + 1/2 E_{p_g} [D] of any D; 1/2 for every D if p_g = p_t.

    discriminator: points -> D(x), values in [0, 1]; with `logits=True` their logits. An nn.Module is called with rows
        (n, d) of its parameters' dtype and device; another function with float64 points, (n,) in one dimension.

    The expectation over samples is their mean, unbiased; over a discrete side a sum; over a density an integral. Raises
    ValueError for a D outside [0, 1].
    """
    return _error(p_t, p_g, _as_probability(discriminator, logits), support)


def error_rate(
    p_t: Source, p_g: Source, discriminator: Callable[[Tensor], Tensor], *, logits: bool = False, support=None
) -> float:
    """How often D is wrong if it says "true" for D(x) >= 1/2: the expected absolute error of that hard D.

    For the best D of the cross-entropy this is (1 - TV) / 2. The expected absolute error of the same D is larger:
    integral p_t p_g / (p_t + p_g)."""
    soft = _as_probability(discriminator, logits)
    return _error(p_t, p_g, lambda x: (soft(x) >= 0.5).double(), support)


def _error(p_t: Source, p_g: Source, probability, support) -> float:
    t, g = read_pair(p_t, p_g, support)
    if not (isinstance(t, Density) and isinstance(g, Density)) or t.d > 2:
        return (1 - _expectation(t, probability) + _expectation(g, probability)) / 2

    def integrand(x: Tensor, log_t: Tensor, log_g: Tensor) -> Tensor:
        d = probability(x)
        return ((1 - d) * log_t.exp() + d * log_g.exp())[:, None] / 2

    return integrals([t, g], integrand).item()


def _expectation(side: Side, probability) -> float:
    if not isinstance(side, Density):
        values = torch.cat([probability(x) for x in side.points.split(2**16)])
        return values.mean().item() if isinstance(side, Samples) else (values @ side.mass).item()
    return integrals([side], lambda x, log: (probability(x) * log.exp())[:, None]).item()


def _as_probability(discriminator, logits: bool) -> Callable[[Tensor], Tensor]:
    """D as a function of float64 points (n, d) on the CPU with float64 values (n,) in [0, 1]."""
    evaluate = _evaluator(discriminator)

    def probability(x: Tensor) -> Tensor:
        d = evaluate(x)
        d = d.sigmoid() if logits else d
        if not ((d >= 0) & (d <= 1)).all():
            low, high = d.min().item(), d.max().item()
            raise ValueError(
                f"discriminator: got values from {low:.3g} to {high:.3g}, expected probabilities in [0, 1]; "
                "logits=True takes logits"
            )
        return d

    return probability


def _evaluator(discriminator) -> Callable[[Tensor], Tensor]:
    like = next(discriminator.parameters(), None) if isinstance(discriminator, nn.Module) else None

    @torch.no_grad()
    def evaluate(x: Tensor) -> Tensor:
        if isinstance(discriminator, nn.Module):
            x = x if like is None else x.to(like)
        elif x.shape[1] == 1:
            x = x[:, 0]
        out = torch.as_tensor(discriminator(x), device="cpu")
        if out.numel() != len(x):
            raise ValueError(f"discriminator: got values of shape {tuple(out.shape)} for {len(x)} points")
        return out.reshape(len(x)).double().cpu()

    return evaluate


# ---- closed forms ---------------------------------------------------------------------------------------------------


class ModeCollapse(NamedTuple):
    total_variation: float
    game_value: float
    jensen_shannon: float
    cross_entropy: float


def mode_collapse(modes: int, covered: int) -> ModeCollapse:
    """The value of the game if p_t has K = `modes` equal, well separated modes, and p_g has exactly k = `covered` of
    them.

        TV = 1 - k/K,  min_D E = k / 2K,  JSD = 1/2 [(1 - r) ln 2 + r ln (2k / (K + k)) + ln (2K / (K + k))],  r = k/K

    cross_entropy is ln 2 - JSD. Seven of eight modes already leave D an error of 0.4375."""
    if not 1 <= covered <= modes:
        raise ValueError(f"covered: got {covered}, expected a number from 1 to modes = {modes}")
    r, total = covered / modes, modes + covered
    js = ((1 - r) * LN2 + r * math.log(2 * covered / total) + math.log(2 * modes / total)) / 2
    return ModeCollapse(1 - r, r / 2, js, LN2 - js)


# ---- functionals of two densities -----------------------------------------------------------------------------------


def _functional(p_t: Source, p_g: Source, f: Callable[[Tensor, Tensor], Tensor], support, bins: int | None) -> float:
    """The integral of f(log p_t, log p_g), f homogeneous of degree one in the densities."""
    t, g = read_pair(p_t, p_g, support)
    if isinstance(t, Atoms) or isinstance(g, Atoms):
        return f(*(mass.log() for mass in shared_masses(t, g))).sum().item()
    if isinstance(t, Samples) or isinstance(g, Samples):
        cells = _Cells(t, g, bins)
        return f(cells.mass(t).log(), cells.mass(g).log()).sum().item()
    return integrals([t, g], lambda _, log_t, log_g: f(log_t, log_g)[:, None]).item()


def _densities(p_t: Source, p_g: Source, support) -> list[Density]:
    densities = []
    for side in read_pair(p_t, p_g, support):
        if not isinstance(side, Density):
            got = "samples" if isinstance(side, Samples) else "a discrete distribution, whose points cannot move"
            raise TypeError(f"{side.name}: got {got}, expected a distribution with a density, or a density function")
        densities.append(side)
    return densities


def _as_density(side: Side) -> Density:
    """The masses of atoms or samples in place of a density, which is enough to compare the two sides."""
    assert not isinstance(side, Density)  # read_pair refuses a density beside atoms

    def prob(x: Tensor) -> Tensor:
        return mass_at(side, x)

    density = Density(side.name, lambda x: prob(x).log(), [-math.inf] * side.d, [math.inf] * side.d)
    density.prob = prob
    return density


def _times(log_p: Tensor, value: Tensor) -> Tensor:
    """p times value; 0 where p = 0, also for infinite values."""
    p = log_p.exp()
    return torch.where(p > 0, p * value, 0.0)


class _Cells:
    """The same cells for both sides, of which at least one is samples. edges: the inner edges of each dimension; the
    cells beyond the outermost edges are open-ended."""

    def __init__(self, t: Density | Samples, g: Density | Samples, bins: int | None):
        self.d = t.d
        if self.d > 2:
            raise ValueError(f"p_t: got samples of {self.d} numbers, expected at most 2; two_sample_test takes more")
        count = min(len(side.points) for side in (t, g) if isinstance(side, Samples))
        bins = bins if bins is not None else math.ceil(2 * count ** (1 / (self.d + 2)))
        if bins < 1:
            raise ValueError(f"bins: got {bins}, expected at least 1")
        known = [side.points if isinstance(side, Samples) else side.landmarks for side in (t, g)]
        known = [points for points in known if points is not None]
        self.edges = [self._edges([points[:, i] for points in known], bins) for i in range(self.d)]

    @staticmethod
    def _edges(known: list[Tensor], bins: int) -> Tensor:
        low = min(_order_statistic(points, 0.001) for points in known)
        high = max(_order_statistic(points, 0.999) for points in known)
        return torch.linspace(low, high, bins + 1, dtype=torch.float64, device="cpu")[1:-1]

    def index(self, points: Tensor) -> Tensor:
        """The index of the cell of each point (N, d)."""
        index = torch.zeros(len(points), dtype=torch.long, device=points.device)
        for i, edges in enumerate(self.edges):
            index = index * (len(edges) + 1) + torch.bucketize(points[:, i].contiguous(), edges, right=True)
        return index

    def mass(self, side: Density | Samples) -> Tensor:
        """The mass of the side in each cell, (cells,), adding up to one."""
        if isinstance(side, Samples):
            cells = math.prod(len(edges) + 1 for edges in self.edges)
            return torch.bincount(self.index(side.points), minlength=cells).double() / len(side.points)
        mass = integrals([side], lambda x, log: log.exp()[:, None], self.edges)[:, 0]
        return mass / mass.sum()

    def density(self, side: Density | Samples) -> Density:
        """The masses of the cells in place of a density, which is enough to compare the two sides in a cell."""
        log_mass = self.mass(side).log()
        return Density(side.name, lambda x: log_mass[self.index(x)], [-math.inf] * self.d, [math.inf] * self.d)


def _order_statistic(points: Tensor, share: float) -> float:
    return points.kthvalue(1 + round(share * (len(points) - 1))).values.item()


def _check_objective(objective: str) -> None:
    if objective not in ("absolute_error", "minimax"):
        raise ValueError(unknown(objective, ("absolute_error", "minimax")))
