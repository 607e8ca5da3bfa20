"""The mathematics of the game against closed forms and 30-digit quadrature, and the random variables it starts from."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import (
    Beta,
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import fastgan
from fastgan import game

LN2 = math.log(2)


def double(*numbers):
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


def normal(mean, std=1.0):
    return Normal(*double(mean, std))


def mixture(weights, means, std):
    weights, means, std = double(weights, means, std)
    return MixtureSameFamily(Categorical(weights), Normal(means, std.expand_as(means)))


HALVES = mixture([0.5, 0.5], [-2.0, 2.0], 1.0)
UNEQUAL = mixture([0.4, 0.6], [-2.0, 2.0], 0.5)
# pair: (p_t, p_g, TV, JSD), of 30-digit quadrature
TABLE = {
    "shift 0.5": (normal(0.0), normal(0.5), 0.1974126514, 0.03031130052),
    "shift 1": (normal(0.0), normal(1.0), 0.3829249225, 0.1114214822),
    "shift 2": (normal(0.0), normal(2.0), 0.6826894921, 0.3368308203),
    "shift 3": (normal(0.0), normal(3.0), 0.8663855975, 0.5267773065),
    "shift 4": (normal(0.0), normal(4.0), 0.9544997361, 0.6327201937),
    "twice as wide": (normal(0.0), normal(0.0, 2.0), 0.3226745688, 0.09273338167),
    "shifted and wider": (normal(0.0), normal(1.0, 2.0), 0.3900656601, 0.1281749731),
    "two modes, one between": (HALVES, normal(0.0), 0.5655524727, 0.2254430627),
    "two modes, moments matched": (HALVES, normal(0.0, math.sqrt(5)), 0.2512878629, 0.04618248576),
    "a mode dropped": (HALVES, normal(2.0), 0.4772498681, 0.1946996353),
    "the smaller mode dropped": (UNEQUAL, normal(2.0, 0.5), 0.399974663, 0.1638684321),
    "wrong shares": (UNEQUAL, mixture([0.5, 0.5], [-2.0, 2.0], 0.5), 0.09999366575, 0.00505889021),
    "uniform, shifted": (Uniform(*double(0.0, 1.0)), Uniform(*double(0.3, 1.3)), 0.3, 0.3 * LN2),
    "uniform, apart": (Uniform(*double(0.0, 1.0)), Uniform(*double(2.0, 3.0)), 1.0, LN2),
    "exponential, 2": (Exponential(*double(1.0)), Exponential(*double(2.0)), 0.25, 0.05378194609),
    "exponential, 4": (Exponential(*double(1.0)), Exponential(*double(4.0)), 0.4724703937, 0.1733153509),
    "the same": (UNEQUAL, UNEQUAL, 0.0, 0.0),
}


@pytest.mark.parametrize("pair", TABLE)
def test_reference_values(pair):
    """Every row of the table, to all the digits it is given with (the tolerance asked for is 2e-5)."""
    p_t, p_g, tv, js = TABLE[pair]
    assert game.total_variation(p_t, p_g) == pytest.approx(tv, abs=2e-10)
    assert game.total_variation(p_g, p_t) == pytest.approx(tv, abs=2e-10)
    assert game.jensen_shannon(p_t, p_g) == pytest.approx(js, abs=2e-10)
    assert game.game_value(p_t, p_g) == pytest.approx((1 - tv) / 2, abs=2e-10)
    assert game.game_value(p_t, p_g, "minimax") == pytest.approx(LN2 - js, abs=2e-10)
    assert game.game_value(p_t, p_g, "minimax", form="goodfellow") == pytest.approx(2 * js - math.log(4), abs=4e-10)


@pytest.mark.parametrize("pair", ["shift 1", "twice as wide", "two modes, one between", "uniform, shifted"])
def test_the_value_is_the_best_discriminators(pair):
    """form1 at form4 is form5; of the cross-entropy's best D the error rate is, and its expected error is not."""
    p_t, p_g, tv, _ = TABLE[pair]
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    assert game.expected_absolute_error(p_t, p_g, best) == pytest.approx((1 - tv) / 2, abs=1e-9)
    assert game.error_rate(p_t, p_g, ratio) == pytest.approx((1 - tv) / 2, abs=1e-9)
    if pair == "shift 1":
        assert game.expected_absolute_error(p_t, p_g, ratio) == pytest.approx(0.3979728672, abs=1e-9)
    assert game.expected_absolute_error(p_t, p_g, ratio) > (1 - tv) / 2 - 1e-12


def quantile_points(mean, std, n=200_000):
    """Deterministic: no seed, no flake."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return mean + std * torch.special.ndtri(u)


@pytest.mark.parametrize("pair", ["shift 0.5", "shift 2", "twice as wide", "shifted and wider"])
def test_three_expressions_of_the_error_agree(pair):
    """From quantile points: form1 at D*, form5's min of the densities, form6's probability that D* is wrong; and the
    entropy of the label given x, ln 2 - JSD (S10, S13)."""
    p_t, p_g, tv, js = TABLE[pair]
    x_t, x_g = (quantile_points(p.mean, p.stddev) for p in (p_t, p_g))
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    form1 = (1 - best(x_t)).mean() / 2 + best(x_g).mean() / 2
    form6 = sum(torch.minimum(ratio(x), 1 - ratio(x)).mean() for x in (x_t, x_g)) / 2
    entropy = sum(-(torch.xlogy(d, d) + torch.xlogy(1 - d, 1 - d)).mean() for d in map(ratio, (x_t, x_g))) / 2
    assert abs(form1 - (1 - tv) / 2) < 2e-5
    assert abs(form6 - (1 - tv) / 2) < 2e-5
    assert abs(entropy - (LN2 - js)) < 2e-5
    # and from samples, which is what expected_absolute_error takes as well
    assert game.expected_absolute_error(x_t, x_g, best) == pytest.approx(form1.item(), abs=1e-12)


def test_the_error_is_that_of_the_randomised_classifier():
    """E(G, D) is how often "true with probability D(x)" is wrong (S13)."""
    p_t, p_g = TABLE["shift 1"][:2]
    random, n = torch.Generator().manual_seed(0), 1_000_000

    def d(x):
        return torch.sigmoid(1 - 2 * x)

    x = torch.randn(n, generator=random, dtype=torch.float64)
    true = torch.rand(n, generator=random) < 0.5
    says_true = torch.rand(n, generator=random, dtype=torch.float64) < d(torch.where(true, x, x + 1))
    assert abs((says_true != true).double().mean() - game.expected_absolute_error(p_t, p_g, d)) < 2e-3


def test_no_discriminator_beats_the_best():
    """300 random ones (S9)."""
    p_t, p_g, tv, _ = TABLE["shift 1"]
    x_t, x_g = quantile_points(0.0, 1.0, 20_000), quantile_points(1.0, 1.0, 20_000)
    random = torch.Generator().manual_seed(0)
    a, b, c, phase = (torch.randn(300, 1, generator=random, dtype=torch.float64) * k for k in (3, 2, 4, 3))

    def d(x):
        return torch.sigmoid(a * x + b + c * torch.sin(phase * x))

    errors = (1 - d(x_t)).mean(1) / 2 + d(x_g).mean(1) / 2
    assert errors.min() >= (1 - tv) / 2 - 1e-6
    assert errors.min() < 0.4, "the random ones are no match at all"
    cross_entropy = -(d(x_t).log().mean(1) + (1 - d(x_g)).log().mean(1)) / 2
    assert cross_entropy.min() >= game.game_value(p_t, p_g, "minimax") - 1e-5


def test_best_discriminators_of_known_densities():
    p_t, p_g = TABLE["shift 1"][:2]
    x = torch.linspace(-30, 30, 121)
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    assert torch.equal(best(x), (x <= 0.5).float())
    assert torch.equal(best.logits(x), torch.where(x <= 0.5, math.inf, -math.inf))
    torch.testing.assert_close(ratio.logits(x.double()), 0.5 - x.double(), rtol=1e-12, atol=1e-12)
    assert torch.equal(ratio(x), ratio.logits(x).sigmoid())
    assert ratio(x).dtype == torch.float32 and ratio(x[:, None]).shape == (121, 1)
    # differentiable in x, as a discriminator has to be
    x.requires_grad_()
    (slope,) = torch.autograd.grad(ratio.logits(x).sum(), x)
    torch.testing.assert_close(slope, -torch.ones(121))


def test_ties_are_true():
    """p_t >= p_g counts as true: everywhere where the two are the same, and where both are zero (form4)."""
    p = TABLE["two modes, one between"][0]
    x = torch.linspace(-5, 5, 101)
    assert (game.optimal_discriminator(p, p)(x) == 1).all()
    assert (game.optimal_discriminator(p, p, "minimax")(x) == 0.5).all()
    uniform = Uniform(*double(0.0, 1.0))
    half = game.optimal_discriminator(uniform, Uniform(*double(0.5, 1.5)))
    assert half(torch.tensor([-1.0, 0.25, 0.75, 1.25, 2.0])).tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]
    # a density one rounding step below is below, though the logarithms are the same
    step = 1 - 2.0**-53
    functions = game.optimal_discriminator(lambda x: step * torch.ones_like(x), torch.ones_like, support=(0, 1))
    assert (functions(torch.tensor([0.3, 0.7])) == 0).all()


def test_the_equilibrium_has_one_half_for_every_discriminator():
    p = TABLE["the same"][0]
    for d in (torch.sigmoid, lambda x: (x > 1).double(), lambda x: torch.full_like(x, 0.3)):
        assert game.expected_absolute_error(p, p, d) == pytest.approx(0.5, abs=1e-10)
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 1_000_000, generator=random)
    for d in (torch.sigmoid, lambda x: (x > 1).double(), lambda x: torch.sin(9 * x) ** 2):
        assert game.expected_absolute_error(x, y, d) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("modes", [8, 25])
def test_mode_collapse(modes):
    """The table's closed forms, and that they are the theory's: k of K equal modes far apart."""
    table = {
        (8, 1): (0.875, 0.0625, 0.49692913, 0.19621805),
        (8, 2): (0.75, 0.125, 0.38039567, 0.31275151),
        (8, 4): (0.5, 0.25, 0.21576155, 0.47738563),
        (8, 6): (0.25, 0.375, 0.095602589, 0.59754459),
        (8, 7): (0.125, 0.4375, 0.045406578, 0.6477406),
        (8, 8): (0.0, 0.5, 0.0, 0.69314718),
        (25, 1): (0.96, 0.02, 0.60837489, 0.084772287),
        (25, 5): (0.8, 0.1, 0.42281046, 0.27033673),
        (25, 10): (0.6, 0.2, 0.27435847, 0.41878871),
        (25, 20): (0.2, 0.4, 0.074881762, 0.61826542),
        (25, 24): (0.04, 0.48, 0.014067039, 0.67908014),
        (25, 25): (0.0, 0.5, 0.0, 0.69314718),
    }
    for (k, covered), want in table.items():
        if k == modes:
            assert game.mode_collapse(k, covered) == pytest.approx(want, abs=5e-9)
    places = [20.0 * i for i in range(modes)]
    all_of_them, some = (mixture([1.0] * k, places[:k], 1.0) for k in (modes, modes - 1))
    want = game.mode_collapse(modes, modes - 1)
    assert game.total_variation(all_of_them, some) == pytest.approx(want.total_variation, abs=1e-9)
    assert game.jensen_shannon(all_of_them, some) == pytest.approx(want.jensen_shannon, abs=1e-9)
    with pytest.raises(ValueError, match=r"covered: got 9.*modes = 8"):
        game.mode_collapse(8, 9)


# ---- the generator's side -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0])
def test_generator_gradients_at_the_best_discriminator(theta):
    """B4, B5, and the absolute error's: 0 at the ideal D, and towards the slope of TV / 2 as sigma(k l*) sharpens."""
    p_t, p_g = normal(0.0), normal(theta)
    step = 1e-4
    js = [game.jensen_shannon(p_t, normal(theta + s * step)) for s in (-1, 1)]
    slope = (js[1] - js[0]) / (2 * step)
    assert game.generator_gradient(p_t, p_g) == pytest.approx(2 * slope, abs=1e-6)
    assert game.generator_gradient(p_t, p_g, "nonsaturating") == pytest.approx(theta - 2 * slope, abs=1e-6)
    if theta == 1.0:
        assert game.generator_gradient(p_t, p_g) == pytest.approx(0.39797287, abs=5e-9)
        assert game.generator_gradient(p_t, p_g, "nonsaturating") == pytest.approx(0.60202713, abs=5e-9)
    assert game.generator_gradient(p_t, p_g, "absolute_error") == 0.0
    limit = math.exp(-(theta**2) / 8) / math.sqrt(2 * math.pi) / 2
    errors = [abs(game.generator_gradient(p_t, p_g, "absolute_error", sharpness=k) - limit) for k in (10, 100, 1e5)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-9


def test_generator_gradient_in_the_plane():
    """Along the line between the means it is that of one dimension, across it 0."""
    p_t, p_g = (MultivariateNormal(*double(mean, [[1.0, 0.0], [0.0, 1.0]])) for mean in ([0.0, 0.0], [0.6, 0.8]))
    gradient = torch.tensor(game.generator_gradient(p_t, p_g))
    torch.testing.assert_close(gradient, 0.39797287 * torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0.0)


def test_generator_values():
    """At theta, KL(p_g | p_t) = theta^2 / 2 and KL(p_g | m) = JSD by symmetry."""
    for pair, theta in (("shift 1", 1.0), ("shift 3", 3.0)):
        p_t, p_g, tv, js = TABLE[pair]
        assert game.generator_value(p_t, p_g) == pytest.approx(js - LN2, abs=1e-9)
        assert game.generator_value(p_t, p_g, "nonsaturating") == pytest.approx(theta**2 / 2 - js + LN2, abs=1e-8)
        # a generated point looks true with the probability Phi(-theta / 2) = (1 - TV) / 2
        assert game.generator_value(p_t, p_g, "absolute_error") == pytest.approx(-(1 - tv) / 4, abs=1e-9)
    p_t, p_g = TABLE["uniform, shifted"][:2]
    assert game.generator_value(p_t, p_g, "nonsaturating") == math.inf


# ---- other densities, two dimensions, samples -----------------------------------------------------------------------


def scipy_total_variation(p, q, low, high, crossings):
    """Independent: differences of distribution functions between the places where the densities cross."""
    edges = [low, *crossings, high]
    mass = [[f.cdf(b) - f.cdf(a) for a, b in pairwise(edges)] for f in (p, q)]
    return sum(abs(a - b) for a, b in zip(*mass)) / 2


def test_heavy_tails_poles_and_half_lines():
    scipy = pytest.importorskip("scipy")
    from scipy import optimize, stats

    cases = {
        "poles": (Beta(*double(0.5, 0.5)), Uniform(*double(0.0, 1.0)), stats.beta(0.5, 0.5), stats.uniform(), 0, 1),
        "a pole and a tail": (
            *(Gamma(*double(0.5, 1.0)), Exponential(*double(1.0)), stats.gamma(0.5), stats.expon(), 0, 60),
        ),
        "heavy tails": (StudentT(*double(2.0)), Laplace(*double(0.0, 1.0)), stats.t(2), stats.laplace(), -1e7, 1e7),
        "Cauchy": (Cauchy(*double(0.0, 1.0)), Cauchy(*double(1.0, 2.0)), stats.cauchy(), stats.cauchy(1, 2), -1e9, 1e9),
    }
    assert scipy
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


def test_what_is_narrow_or_far_away_is_found():
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
    """N(0, I) against N(m, I) is one dimension's row of |m|; above two dimensions by Monte Carlo."""
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
    """Both sides in the same cells: near the truth, and of equal distributions what the docstring says."""
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
    # the best D of samples is the best D of their cells
    best = game.optimal_discriminator(x, y + 1)
    assert game.expected_absolute_error(x, y + 1, best) == pytest.approx(game.game_value(x, y + 1), abs=1e-12)


def test_a_network_as_discriminator():
    """Of its own dtype, given rows, and with logits where that is said."""
    d = nn.Linear(1, 1)
    with torch.no_grad():
        d.weight.fill_(-1.0), d.bias.fill_(0.5)  # the best one, N(0, 1) against N(1, 1)
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


def test_one_half_proves_nothing():
    """A dead D has an error of 1/2 at any distance, and is called so (S12 b)."""
    p_t, p_g = TABLE["shift 1"][:2]
    found = game.equilibrium(p_t, p_g, dead_network(), logits=True)
    assert found.error == pytest.approx(0.5, abs=1e-9)
    assert found.dead and not found.reached and "dead" in found.verdict
    assert found.total_variation == pytest.approx(0.3829249225, abs=1e-9)
    assert found.bound == pytest.approx(0.3085375387, abs=1e-9)
    constant = game.equilibrium(p_t, p_g, lambda x: torch.full_like(x, 0.5))
    assert constant.dead and not constant.reached
    # one that lives, and is of no use
    alive = game.equilibrium(p_t, p_g, lambda x: 0.5 + 1e-4 * torch.sin(7 * x))
    assert not alive.dead and not alive.reached and "could" in alive.verdict
    good = game.equilibrium(p_t, p_g, game.optimal_discriminator(p_t, p_g, "minimax"))
    assert not good.dead and not good.reached and "not reached" in good.verdict
    # the best D of the absolute error is a step: it has no slope, tells the sides apart, and lives
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


def test_dead_or_alive():
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
    """Zero mean, unit scale, samples of the density they say, cells of equal shares."""
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


# ---- random variables -----------------------------------------------------------------------------------------------

N = 100_000
LIMIT = 0.00515  # of the Kolmogorov-Smirnov statistic at 1 % and 10^5 samples


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_uniform_numbers_are_those_of_the_generator():
    """S1: bit-equal of one seed, different of another, uniform."""
    uniform = game.inverse_transform(lambda u: u)
    x, y, z = (uniform.sample(N, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(x, y) and not torch.equal(x, z)
    assert game.kolmogorov_smirnov(x, lambda x: x.clamp(0, 1)) < LIMIT
    assert uniform.sample((3, 5), generator=seeded()).shape == (3, 5)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "distribution",
    [Exponential(1.0), Normal(2.0, 3.0), Cauchy(0.0, 1.0), Laplace(0.0, 2.0), Uniform(-1.0, 3.0)],
    ids=str,
)
def test_inverse_transform_of_distributions(distribution, seed):
    """S2, each family with draws of its own."""
    variable = game.inverse_transform(distribution)
    x = variable.sample(N, generator=seeded(seed * 7 + len(str(distribution))))
    assert x.dtype == torch.float32 and x.isfinite().all()
    assert game.kolmogorov_smirnov(x, distribution) < LIMIT


def test_inverse_transform_of_a_function():
    logistic = game.inverse_transform(lambda u: torch.log(u) - torch.log1p(-u))
    x = logistic.sample(N, generator=seeded(3), dtype=torch.float64)
    assert game.kolmogorov_smirnov(x, torch.sigmoid) < LIMIT
    u = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(logistic.quantile(u), torch.tensor([-math.log(3), 0.0, math.log(3)]))


def test_inverse_transform_of_a_table():
    """A distribution with no icdf: a mixture, through a table of its cdf; a flat piece has no mass."""
    x = torch.linspace(-5, 5, 2_001, dtype=torch.float64)
    table = UNEQUAL.cdf(x)
    table[0], table[-1] = 0.0, 1.0
    variable = game.inverse_transform((x, table))
    assert game.kolmogorov_smirnov(variable.sample(N, generator=seeded(1)), UNEQUAL) < LIMIT
    gap = game.inverse_transform(tuple(double([0.0, 1.0, 2.0, 3.0], [0.0, 0.5, 0.5, 1.0])))
    drawn = gap.sample(N, generator=seeded(2))
    assert not ((drawn > 1.0) & (drawn < 2.0)).any()
    assert gap.quantile(torch.tensor([0.0, 0.25, 0.75, 1.0])).tolist() == [0.0, 0.5, 2.5, 3.0]


def test_inverse_transform_of_samples():
    """The smallest sample with at least u N up to it: the inverse of the empirical distribution function."""
    variable = game.inverse_transform(torch.tensor([3.0, 1.0, 2.0, 4.0]))
    u = torch.tensor([0.0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0])
    assert variable.quantile(u).tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    data = torch.randn(20_000, generator=seeded(1))
    drawn = variable = game.inverse_transform(data).sample(N, generator=seeded(2))
    assert game.kolmogorov_smirnov(drawn, data) < game.kolmogorov_smirnov_threshold(N)
    assert torch.isin(variable, data).all()


def test_box_muller():
    u1, u2 = torch.rand(2, N, generator=seeded(0), dtype=torch.float64)
    x, y = game.box_muller(u1, u2)
    for one in (x, y):
        assert game.kolmogorov_smirnov(one, normal(0.0)) < LIMIT
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.0126
    assert abs(torch.corrcoef(torch.stack([x.square(), y.square()]))[0, 1]) < 0.0126
    torch.testing.assert_close(x.square() + y.square(), -2 * u1.log())
    edges = game.box_muller(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
    assert all(part.isfinite().all() for part in edges)
    z = game.normal((N + 1,), generator=seeded(4))
    assert z.shape == (N + 1,) and game.kolmogorov_smirnov(z, Normal(0.0, 1.0)) < LIMIT
    assert torch.equal(game.normal((2, 3), generator=seeded(4)), game.normal((2, 3), generator=seeded(4)))


def test_push_forward():
    """S5: G(z) = a z + b of a normal z is N(b, a^2), and a variable in front of a network replaces the normal p_z."""
    z = game.normal(N, generator=seeded(1))
    assert game.kolmogorov_smirnov(3 * z + 2, Normal(2.0, 3.0)) < LIMIT
    layer = game.inverse_transform(Exponential(1.0))
    z = torch.randn(N, 1, generator=seeded(2))
    assert game.kolmogorov_smirnov(layer(z)[:, 0], Exponential(1.0)) < LIMIT
    table = game.inverse_transform(torch.tensor([1.0, 2.0]))
    network = nn.Sequential(table, nn.Linear(1, 1)).double()
    assert network(z[:4].double()).dtype == torch.float64
    assert "0._quantile.sorted" in network.state_dict()


def test_kolmogorov_smirnov_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    x, y = torch.randn(2, 3_000, generator=seeded(0), dtype=torch.float64)
    want = stats.kstest(x.numpy(), "norm").statistic
    assert game.kolmogorov_smirnov(x, normal(0.0)) == pytest.approx(want, abs=1e-12)
    want = stats.ks_2samp(x.numpy(), y[:1000].numpy()).statistic
    assert game.kolmogorov_smirnov(x, y[:1000]) == pytest.approx(want, abs=1e-12)
    assert game.kolmogorov_smirnov_threshold(N) == pytest.approx(LIMIT, abs=1e-5)
    # of N(0, 1) against N(mu, 1) it is the total variation
    points = quantile_points(1.0, 1.0, 10_000)
    assert game.kolmogorov_smirnov(points, normal(0.0)) == pytest.approx(0.3829249225, abs=1e-4)


@pytest.mark.gpu
def test_random_variables_on_a_gpu():
    random = torch.Generator("cuda").manual_seed(0)
    x = game.inverse_transform(lambda u: -torch.log1p(-u)).sample(N, generator=random)
    assert x.is_cuda and game.kolmogorov_smirnov(x, Exponential(1.0)) < LIMIT
    z = game.normal(N, generator=random)
    assert z.is_cuda and game.kolmogorov_smirnov(z, Normal(0.0, 1.0)) < LIMIT
    data = game.inverse_transform(torch.randn(100)).to("cuda")
    assert data.sample(5, device="cuda").is_cuda


# ---- bad input ------------------------------------------------------------------------------------------------------

G = normal(0.0)
X = torch.zeros(4)
BAD = {
    "not a density": (
        ValueError,
        "p_g: got a density that integrates to 2, expected 1",
        lambda: tv(G, lambda x: 2 * pdf(x)),
    ),
    "half a density": (ValueError, "p_t.*integrates to 0.5", lambda: tv(pdf, G, support=(0, math.inf))),
    "a density elsewhere": (
        ValueError,
        "integrates to 0, .*support=",
        lambda: tv(G, lambda x: pdf(1e4 * (x - 1e9)) * 1e4),
    ),
    "negative": (ValueError, "p_g.*negative", lambda: tv(G, lambda x: -pdf(x))),
    "NaN": (ValueError, "p_g.*NaN", lambda: tv(G, lambda x: pdf(x) * math.nan)),
    "a number": (TypeError, "p_t: got float", lambda: tv(0.5, G)),
    "a list": (TypeError, "p_g: got list", lambda: tv(G, [0.0, 1.0])),
    "a wrong shape": (ValueError, r"p_g.*shape \(1,\)", lambda: tv(G, lambda x: x[:1])),
    "discrete": (ValueError, "p_t: got Poisson, which is discrete", lambda: tv(Poisson(1.0), G)),
    "a batch": (ValueError, r"p_g: got batch shape \(2,\).*Independent", lambda: tv(G, Normal(torch.zeros(2), 1.0))),
    "two dimensions": (
        ValueError,
        "p_g: got 1 numbers a point, expected 2",
        lambda: tv(torch.zeros(3, 2), torch.zeros(3)),
    ),
    "three dimensions": (ValueError, "p_g: got 3 .*expected 2", lambda: tv(torch.zeros(3, 2), torch.zeros(4, 3))),
    "too many": (
        ValueError,
        "samples of 3 numbers, expected at most 2",
        lambda: tv(torch.zeros(4, 3), torch.zeros(4, 3)),
    ),
    "no samples": (ValueError, "p_t: got an empty set", lambda: tv(torch.zeros(0), X)),
    "no rows": (
        ValueError,
        r"p_g: got an empty set of samples, shape \(0, 2\)",
        lambda: tv(torch.zeros(3, 2), torch.zeros(0, 2)),
    ),
    "an image": (ValueError, r"p_t: got samples of shape", lambda: tv(torch.zeros(2, 3, 4), X)),
    "infinite samples": (ValueError, "p_g.*infinity", lambda: tv(X, torch.tensor([1.0, math.inf]))),
    "no bins": (ValueError, "bins: got 0", lambda: tv(X, X, bins=0)),
    "support upside down": (ValueError, "support.*low < high", lambda: tv(pdf, pdf, support=(1, 0))),
    "support of nothing": (ValueError, "support", lambda: tv(pdf, pdf, support=())),
    "support of other dimension": (
        ValueError,
        "support: got 1 pairs, expected 2",
        lambda: tv(torch.zeros(3, 2), pdf, support=(0, 1)),
    ),
    "an objective": (ValueError, "objective: got 'hinge'", lambda: game.optimal_discriminator(G, G, "hinge")),
    "a form": (ValueError, "form: got 'goodfellow'", lambda: game.game_value(G, G, form="goodfellow")),
    "a gradient of samples": (TypeError, "p_g: got samples", lambda: game.generator_gradient(G, X)),
    "u above 1": (
        ValueError,
        r"u: got numbers from 0.5 to 1.5, expected \[0, 1\]",
        lambda: VARIABLE.quantile(torch.tensor([0.5, 1.5])),
    ),
    "u below 0": (ValueError, r"u: got .*-0.1", lambda: VARIABLE.quantile(torch.tensor([-0.1]))),
    "u of NaN": (ValueError, r"u: .*nan", lambda: VARIABLE.quantile(torch.tensor([math.nan]))),
    "u of integers": (TypeError, "u: got torch.int64", lambda: VARIABLE.quantile(torch.tensor([1]))),
    "u1": (ValueError, "u1: got numbers", lambda: game.box_muller(X - 1, X)),
    "u2 of other shape": (ValueError, "u2: got shape", lambda: game.box_muller(X, X[:2])),
    "no quantile": (TypeError, "quantile: got str", lambda: game.inverse_transform("normal")),
    "no icdf": (
        ValueError,
        "quantile: got MixtureSameFamily, which has no icdf",
        lambda: game.inverse_transform(UNEQUAL),
    ),
    "an empty quantile": (ValueError, "quantile: got an empty set", lambda: game.inverse_transform(torch.zeros(0))),
    "a table that falls": (
        ValueError,
        "F: got a table",
        lambda: game.inverse_transform((X.cumsum(0) + torch.arange(4), torch.tensor([0.0, 0.6, 0.5, 1.0]))),
    ),
    "a table cut short": (
        ValueError,
        "F: got a table from 0 to 0.9",
        lambda: game.inverse_transform((torch.arange(3.0), torch.tensor([0.0, 0.5, 0.9]))),
    ),
    "a table of other length": (
        ValueError,
        "F: got 2 values for 3 points",
        lambda: game.inverse_transform((torch.arange(3.0), torch.tensor([0.0, 1.0]))),
    ),
    "no samples to test": (ValueError, "samples: got an empty set", lambda: game.kolmogorov_smirnov(torch.zeros(0), G)),
    "no level": (ValueError, "level: got 2", lambda: game.kolmogorov_smirnov_threshold(5, level=2)),
    "modes of other dimension": (
        ValueError,
        "samples: got 3 numbers a sample, expected 2",
        lambda: game.mode_statistics(torch.zeros(4, 3), torch.zeros(2, 2), 1.0),
    ),
    "samples whose squares are infinite": (
        ValueError,
        r"samples: got a number of size 1e\+300, expected at most 1e150",
        lambda: game.mode_statistics(torch.full((4, 2), 1e300, dtype=torch.float64), torch.zeros(2, 2), 1.0),
    ),
    "modes that are no numbers": (
        ValueError,
        "modes: got a number of size nan",
        lambda: game.mode_statistics(torch.zeros(4, 2), torch.full((2, 2), math.nan), 1.0),
    ),
    "no width": (
        ValueError,
        "std: got 0, expected numbers > 0",
        lambda: game.mode_statistics(torch.zeros(4, 2), torch.zeros(2, 2), 0.0),
    ),
    "sets of other dimension": (
        ValueError,
        "fake: got 3 numbers a sample, expected 2",
        lambda: game.two_sample_test(torch.zeros(9, 2), torch.zeros(9, 3)),
    ),
    "points of other dimension": (
        ValueError,
        r"x: got shape \(3,\), expected \(..., 2\)",
        lambda: PLANE(torch.zeros(3)),
    ),
}
VARIABLE = game.inverse_transform(Normal(0.0, 1.0))
PLANE = game.optimal_discriminator(*[MultivariateNormal(torch.zeros(2), torch.eye(2))] * 2)


def pdf(x):
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def tv(*args, **options):
    return game.total_variation(*args, **options)


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    error, message, call = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_game_is_an_attribute_of_the_package():
    assert fastgan.game is game and "game" in fastgan.__all__
    assert all(hasattr(game, name) for name in game.__all__)
