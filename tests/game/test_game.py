"""The mathematics of the game against closed forms and 30-digit quadrature: values, best discriminators, gradients."""

import math

import pytest
import torch
from pairs import LN2, TABLE, double, mixture, normal, quantile_points
from torch.distributions import MultivariateNormal, Uniform

import fastgan
from fastgan import game


@pytest.mark.parametrize("pair", TABLE)
def test_reference_values(pair):
    """Every row of the table, to all of its digits."""
    p_t, p_g, tv, js = TABLE[pair]
    assert game.total_variation(p_t, p_g) == pytest.approx(tv, abs=2e-10)
    assert game.total_variation(p_g, p_t) == pytest.approx(tv, abs=2e-10)
    assert game.jensen_shannon(p_t, p_g) == pytest.approx(js, abs=2e-10)
    assert game.game_value(p_t, p_g) == pytest.approx((1 - tv) / 2, abs=2e-10)
    assert game.game_value(p_t, p_g, "minimax") == pytest.approx(LN2 - js, abs=2e-10)
    assert game.game_value(p_t, p_g, "minimax", form="goodfellow") == pytest.approx(2 * js - math.log(4), abs=4e-10)


@pytest.mark.parametrize("pair", ["shift 1", "twice as wide", "two modes, one between", "uniform, shifted"])
def test_the_game_value_is_the_error_of_the_best_discriminator(pair):
    """The best D's expected error is (1 - TV) / 2. For the cross-entropy's best D this is the error rate instead."""
    p_t, p_g, tv, _ = TABLE[pair]
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    assert game.expected_absolute_error(p_t, p_g, best) == pytest.approx((1 - tv) / 2, abs=1e-9)
    assert game.error_rate(p_t, p_g, ratio) == pytest.approx((1 - tv) / 2, abs=1e-9)
    if pair == "shift 1":
        assert game.expected_absolute_error(p_t, p_g, ratio) == pytest.approx(0.3979728672, abs=1e-9)
    assert game.expected_absolute_error(p_t, p_g, ratio) > (1 - tv) / 2 - 1e-12


@pytest.mark.parametrize("pair", ["shift 0.5", "shift 2", "twice as wide", "shifted and wider"])
def test_three_expressions_of_the_error_agree(pair):
    """From quantile points: the expected error of D*, the probability that D* is wrong, and (1 - TV) / 2; and the
    entropy of the label given x, ln 2 - JSD."""
    p_t, p_g, tv, js = TABLE[pair]
    x_t, x_g = (quantile_points(p.mean, p.stddev) for p in (p_t, p_g))
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    expected_error = (1 - best(x_t)).mean() / 2 + best(x_g).mean() / 2
    probability_wrong = sum(torch.minimum(ratio(x), 1 - ratio(x)).mean() for x in (x_t, x_g)) / 2
    entropy = sum(-(torch.xlogy(d, d) + torch.xlogy(1 - d, 1 - d)).mean() for d in map(ratio, (x_t, x_g))) / 2
    assert abs(expected_error - (1 - tv) / 2) < 2e-5
    assert abs(probability_wrong - (1 - tv) / 2) < 2e-5
    assert abs(entropy - (LN2 - js)) < 2e-5
    # expected_absolute_error takes samples as well
    assert game.expected_absolute_error(x_t, x_g, best) == pytest.approx(expected_error.item(), abs=1e-12)


def test_the_error_is_that_of_the_randomised_classifier():
    """E(G, D) is how often the answer "true with probability D(x)" is wrong."""
    p_t, p_g = TABLE["shift 1"][:2]
    random, n = torch.Generator().manual_seed(0), 1_000_000

    def d(x):
        return torch.sigmoid(1 - 2 * x)

    x = torch.randn(n, generator=random, dtype=torch.float64)
    true = torch.rand(n, generator=random) < 0.5
    says_true = torch.rand(n, generator=random, dtype=torch.float64) < d(torch.where(true, x, x + 1))
    assert abs((says_true != true).double().mean() - game.expected_absolute_error(p_t, p_g, d)) < 2e-3


def test_no_discriminator_beats_the_best():
    """300 random discriminators."""
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


def test_ties_count_as_true():
    """D* = 1 where p_t >= p_g: also where both are equal, or both zero."""
    p = TABLE["two modes, one between"][0]
    x = torch.linspace(-5, 5, 101)
    assert (game.optimal_discriminator(p, p)(x) == 1).all()
    assert (game.optimal_discriminator(p, p, "minimax")(x) == 0.5).all()
    uniform = Uniform(*double(0.0, 1.0))
    half = game.optimal_discriminator(uniform, Uniform(*double(0.5, 1.5)))
    assert half(torch.tensor([-1.0, 0.25, 0.75, 1.25, 2.0])).tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]
    # a density smaller by one rounding step is smaller, though the logarithms are equal
    step = 1 - 2.0**-53
    functions = game.optimal_discriminator(lambda x: step * torch.ones_like(x), torch.ones_like, support=(0, 1))
    assert (functions(torch.tensor([0.3, 0.7])) == 0).all()


def test_at_equilibrium_every_discriminator_has_the_error_one_half():
    p = TABLE["the same"][0]
    for d in (torch.sigmoid, lambda x: (x > 1).double(), lambda x: torch.full_like(x, 0.3)):
        assert game.expected_absolute_error(p, p, d) == pytest.approx(0.5, abs=1e-10)
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 1_000_000, generator=random)
    for d in (torch.sigmoid, lambda x: (x > 1).double(), lambda x: torch.sin(9 * x) ** 2):
        assert game.expected_absolute_error(x, y, d) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("modes", [8, 25])
def test_mode_collapse(modes):
    """Closed forms for k of K equal modes far apart: against a table, and against the divergences."""
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
    """The absolute error's is 0 at the ideal D, and tends to the slope of TV / 2 as sigma(k l*) gets sharper."""
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
    """Along the line between the means it is that of one dimension; across it, 0."""
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


def test_the_game_is_an_attribute_of_the_package():
    assert fastgan.game is game and "game" in fastgan.__all__
    assert all(hasattr(game, name) for name in game.__all__)
