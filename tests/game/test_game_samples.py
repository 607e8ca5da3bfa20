"""Other densities, more dimensions, samples in place of densities, and errors of one half away from equilibrium."""

import math
from itertools import pairwise

import pytest
import torch
from pairs import LN2, TABLE, double, mixture, normal
from torch import nn
from torch.distributions import (
    Beta,
    Cauchy,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)

from fastgan import game

# ---- other densities, two dimensions, samples -----------------------------------------------------------------------


def scipy_total_variation(p, q, low, high, crossings):
    """An independent way: differences of distribution functions between the crossings of the densities."""
    edges = [low, *crossings, high]
    mass = [[f.cdf(b) - f.cdf(a) for a, b in pairwise(edges)] for f in (p, q)]
    return sum(abs(a - b) for a, b in zip(*mass)) / 2


def test_heavy_tails_poles_and_half_lines():
    pytest.importorskip("scipy")
    from scipy import optimize, stats

    cases = {
        "poles": (Beta(*double(0.5, 0.5)), Uniform(*double(0.0, 1.0)), stats.beta(0.5, 0.5), stats.uniform(), 0, 1),
        "a pole and a tail": (
            *(Gamma(*double(0.5, 1.0)), Exponential(*double(1.0)), stats.gamma(0.5), stats.expon(), 0, 60),
        ),
        "heavy tails": (StudentT(*double(2.0)), Laplace(*double(0.0, 1.0)), stats.t(2), stats.laplace(), -1e7, 1e7),
        "Cauchy": (Cauchy(*double(0.0, 1.0)), Cauchy(*double(1.0, 2.0)), stats.cauchy(), stats.cauchy(1, 2), -1e9, 1e9),
    }
    for name, (p_t, p_g, p, q, low, high) in cases.items():

        def difference(x, p=p, q=q):
            return p.logpdf(x) - q.logpdf(x)

        grid = torch.linspace(max(low, -50), min(high, 50), 20_001).double()[1:-1].numpy()
        sign = difference(grid)
        at = [i for i in range(len(grid) - 1) if sign[i] * sign[i + 1] < 0]
        crossings = [optimize.brentq(difference, grid[i], grid[i + 1], xtol=1e-14) for i in at]
        want = scipy_total_variation(p, q, low, high, crossings)
        tolerance = 1e-6 if name != "Cauchy" else 1e-8
        assert game.total_variation(p_t, p_g) == pytest.approx(want, abs=tolerance), name
    # total variation does not change under exp
    p_t, p_g = (LogNormal(*double(mean, 1.0)) for mean in (0.0, 1.0))
    assert game.total_variation(p_t, p_g) == pytest.approx(0.3829249225, abs=1e-9)


def test_narrow_or_distant_modes_are_found():
    far = (normal(0.0), normal(1000.0, 1e-4))
    assert game.total_variation(*far) == pytest.approx(1.0, abs=1e-9)
    speck = mixture([1 - 1e-6, 1e-6], [0.0, 50.0], 1.0)
    speck = MixtureSameFamily(speck.mixture_distribution, Normal(*double([0.0, 50.0], [1.0, 1e-4])))
    assert game.total_variation(speck, normal(0.0)) == pytest.approx(1e-6, rel=1e-6)


def test_density_functions():
    def p(x):
        return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    for support in (None, (-12.0, 14.0)):
        tv = game.total_variation(p, lambda x: p(x - 1), support=support)
        assert tv == pytest.approx(0.3829249225, abs=1e-9)
    assert game.total_variation(p, normal(1.0)) == pytest.approx(0.3829249225, abs=1e-9)
    assert game.total_variation(normal(1.0), p) == pytest.approx(0.3829249225, abs=1e-9)

    def triangle(x):
        return 1 - x.abs()

    got = game.total_variation(triangle, lambda x: torch.full_like(x, 0.5), support=(-1, 1))
    assert got == pytest.approx(0.25, abs=1e-12)

    def plane(x):
        return torch.exp(-x.square().sum(1) / 2) / (2 * math.pi)

    whole = [(-math.inf, math.inf)] * 2
    got = game.total_variation(plane, lambda x: plane(x - torch.tensor([0.6, 0.8])), support=whole)
    assert got == pytest.approx(0.3829249225, abs=1e-6)


def test_parameters_of_any_dtype_are_taken():
    p_t, p_g = Normal(torch.zeros(1), torch.ones(1)), Normal(1, 1)
    assert game.total_variation(p_t, p_g) == pytest.approx(0.3829249225, abs=1e-7)
    mean = torch.tensor(1.0, requires_grad=True)
    assert game.total_variation(Normal(0.0, 1.0), Normal(mean, 1.0)) == pytest.approx(0.3829249225, abs=1e-7)
    before = torch.get_rng_state()
    game.jensen_shannon(p_t, p_g)
    assert torch.equal(torch.get_rng_state(), before), "the global random state was touched"


@pytest.mark.parametrize("d", [2, 16])
def test_vectors(d):
    """N(0, I) against N(m, I) is as in one dimension with the mean |m|; above two dimensions by Monte Carlo."""
    mean = torch.full((d,), 1 / math.sqrt(d), dtype=torch.float64)
    p_t, p_g = (MultivariateNormal(m, torch.eye(d, dtype=torch.float64)) for m in (torch.zeros_like(mean), mean))
    tolerance = 1e-7 if d == 2 else 4e-3
    assert game.total_variation(p_t, p_g) == pytest.approx(0.3829249225, abs=tolerance)
    assert game.jensen_shannon(p_t, p_g) == pytest.approx(0.1114214822, abs=tolerance)
    best = game.optimal_discriminator(p_t, p_g)
    assert game.expected_absolute_error(p_t, p_g, best) == pytest.approx(0.3085375387, abs=max(tolerance, 1e-5))
    independent = Independent(Normal(torch.zeros(d).double(), 1.0), 1)
    assert game.total_variation(p_t, independent) == pytest.approx(0.0, abs=1e-9)


def test_samples():
    """Both sides in the same cells: close to the exact values. Equal distributions: the error in the docstring."""
    random, n = torch.Generator().manual_seed(0), 100_000
    x, y = torch.randn(2, n, generator=random)
    for p_t, p_g in ((x, y + 1), (normal(0.0), y + 1), (x, normal(1.0))):
        assert game.total_variation(p_t, p_g) == pytest.approx(0.3829249225, abs=0.01)
        assert game.jensen_shannon(p_t, p_g) == pytest.approx(0.1114214822, abs=0.01)
    for bins in (20, 80):
        floor = math.sqrt(bins / (math.pi * n))
        assert 0.4 * floor < game.total_variation(x, y, bins=bins) < 1.2 * floor
    assert game.total_variation(x, x) == 0.0
    plane = torch.randn(2, n, 2, generator=random)
    shifted = plane[1] + torch.tensor([0.6, 0.8])
    assert game.total_variation(plane[0], shifted) == pytest.approx(0.3829249225, abs=0.02)
    standard = MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert game.total_variation(standard, shifted) == pytest.approx(0.3829249225, abs=0.02)
    # the best D of samples is that of their cells
    best = game.optimal_discriminator(x, y + 1)
    assert game.expected_absolute_error(x, y + 1, best) == pytest.approx(game.game_value(x, y + 1), abs=1e-12)


def test_a_network_as_discriminator():
    """A network gets rows of its own dtype, and may return logits if the caller says so."""
    d = nn.Linear(1, 1)
    with torch.no_grad():
        d.weight.fill_(-1.0), d.bias.fill_(0.5)  # the best D for N(0, 1) against N(1, 1)
    p_t, p_g = TABLE["shift 1"][:2]
    assert game.expected_absolute_error(p_t, p_g, d, logits=True) == pytest.approx(0.39797287, abs=1e-6)
    assert game.error_rate(p_t, p_g, d, logits=True) == pytest.approx(0.3085375387, abs=1e-6)
    with pytest.raises(ValueError, match=r"discriminator: got values from .*logits=True"):
        game.expected_absolute_error(p_t, p_g, d)


# ---- the equilibrium and what looks like it -------------------------------------------------------------------------


def dead_network():
    d = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        d[0].weight.zero_(), d[0].bias.fill_(-1.0), d[2].bias.zero_()
    return d


def test_an_error_of_one_half_is_no_proof_of_equilibrium():
    """A dead D has an error of 1/2 at any distance, and the verdict says that it is dead."""
    p_t, p_g = TABLE["shift 1"][:2]
    found = game.equilibrium(p_t, p_g, dead_network(), logits=True)
    assert found.error == pytest.approx(0.5, abs=1e-9)
    assert found.dead and not found.reached and "dead" in found.verdict
    assert found.total_variation == pytest.approx(0.3829249225, abs=1e-9)
    assert found.bound == pytest.approx(0.3085375387, abs=1e-9)
    constant = game.equilibrium(p_t, p_g, lambda x: torch.full_like(x, 0.5))
    assert constant.dead and not constant.reached
    # alive, but useless
    alive = game.equilibrium(p_t, p_g, lambda x: 0.5 + 1e-4 * torch.sin(7 * x))
    assert not alive.dead and not alive.reached and "could" in alive.verdict
    good = game.equilibrium(p_t, p_g, game.optimal_discriminator(p_t, p_g, "minimax"))
    assert not good.dead and not good.reached and "not reached" in good.verdict
    # the best D of the absolute error is a step: it has no gradient but is not dead
    best = game.optimal_discriminator(p_t, p_g)
    for found in (game.equilibrium(p_t, p_g, best), game.equilibrium(p_t, p_g, best.logits, logits=True)):
        assert found.error == pytest.approx(found.bound, abs=1e-6)
        assert not found.dead and not found.reached and "not reached" in found.verdict


def test_the_equilibrium():
    p = TABLE["the same"][0]
    found = game.equilibrium(p, p, game.optimal_discriminator(p, p, "minimax"))
    assert found.reached and found.error == pytest.approx(0.5, abs=1e-9) and found.total_variation == 0.0
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50_000, generator=random)
    assert game.equilibrium(x, y, torch.sigmoid).reached
    assert not game.equilibrium(x, y + 0.5, torch.sigmoid).reached


def test_which_discriminators_are_dead():
    x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    assert game.is_dead(dead_network(), x)
    assert game.is_dead(lambda x: 3.0 + 0 * x, x)
    assert game.is_dead(lambda x: 1.0 + 1e-9 * x, x), "equal to rounding"
    assert not game.is_dead(lambda x: 1e-4 * x, x), "a small spread is no sign of death"
    assert not game.is_dead(nn.Linear(1, 1).double(), x)
    assert not game.is_dead(lambda x: (x > 0).double(), x), "a step without a graph"
    assert not game.is_dead(lambda x: torch.where(x > 0, torch.inf, -torch.inf), x)
    assert game.is_dead(lambda x: (x > -9).double(), x)
    assert game.is_dead(lambda x: torch.full_like(x, torch.inf), x)
    assert game.is_dead(lambda x: (1e4 * x).sigmoid().round(), x), "a network whose gradient is 0"


def test_two_sample_test(one_thread):
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4_000, generator=random)
    same, other = game.two_sample_test(x, y, steps=200), game.two_sample_test(x, y + 1, steps=200)
    assert abs(same.error - 0.5) < 0.03 and same.p_value > 0.001
    assert abs(other.error - 0.3085) < 0.03 and other.p_value < 1e-20
    assert game.two_sample_test(x, y + 1, steps=200) == other, "the same seed, the same test"


def test_mode_statistics():
    goal = game.target("ring")
    random = torch.Generator().manual_seed(0)
    x = goal.draw(40_000, random)
    found = game.mode_statistics(x, goal.modes, goal.std)
    assert (found.covered, found.total) == (8, 8)
    assert found.within == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    assert found.total_variation < 0.02
    # six modes kept, one of them with a tenth of its share, and a cloud in the middle
    nearest = torch.cdist(x, goal.modes).argmin(1)
    kept = torch.cat([x[nearest < 5], x[nearest == 5][:500], torch.zeros(5_000, 2)])
    found = game.mode_statistics(kept, goal.modes, goal.std)
    assert found.covered == 5
    assert found.within < 0.87 and found.total_variation > 0.2
    assert found.shares.sum() == pytest.approx(1.0)
    two = game.target("mixture")
    assert game.mode_statistics(two.draw(20_000, random)[:, 0], two.modes, two.std, two.weights).total_variation < 0.02


@pytest.mark.parametrize("name", ["gaussian", "mixture", "ring", "grid"])
def test_targets(name):
    """Zero mean, unit scale, samples from the stated density, cells of equal shares."""
    goal = game.target(name)
    x = goal.draw(50_000, torch.Generator().manual_seed(0))
    assert x.shape == (50_000, goal.d) and x.dtype == torch.float32
    assert x.mean(0).abs().max() < 0.02 and x.square().mean().sqrt() == pytest.approx(1.0, abs=0.01)
    tv, js = goal.divergences(x)
    cells = 32 * len(goal.modes)
    assert tv < 1.2 * math.sqrt(cells / (2 * math.pi * len(x))) and js < 0.004
    assert goal.divergences(0.5 * x)[0] > 0.3
    assert goal.divergences(x + 9) == pytest.approx((1.0, LN2), abs=0.05), "far away is nowhere"
    if goal.d == 1:
        assert game.kolmogorov_smirnov(x, goal.distribution) < game.kolmogorov_smirnov_threshold(len(x))
    with pytest.raises(ValueError, match="PAIR: got 'square'"):
        game.target("square")
