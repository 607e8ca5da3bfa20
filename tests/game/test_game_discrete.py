"""Discrete games: exact sums over the points, and tensors that could be probabilities as well as samples."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Geometric,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

from fastgan import game

LN2 = math.log(2)
P, Q = [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]


def double(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def divergences(p, q):
    """(TV, JSD) of two lists of probabilities, as plain sums."""
    m = [(a + b) / 2 for a, b in zip(p, q)]

    def kl(a):
        return sum(x * math.log(x / y) for x, y in zip(a, m) if x > 0)

    return sum(abs(a - b) for a, b in zip(p, q)) / 2, (kl(p) + kl(q)) / 2


def random_pair(k, seed):
    random = torch.Generator().manual_seed(seed)
    p, q = torch.rand(2, k, generator=random, dtype=torch.float64)
    p[::3], q[1::4] = 0.0, 0.0  # points without mass on one side, or on both
    return (p / p.sum()).tolist(), (q / q.sum()).tolist()


PAIRS = [(P, Q), ([0.5, 0.5], [0.5, 0.5]), ([1.0, 0.0], [0.0, 1.0]), *(random_pair(k, k) for k in (2, 7, 100))]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{len(pair[0])} points")
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_every_value_is_the_sum_over_the_points(pair, kind):
    (p, q), (tv, js) = pair, divergences(*pair)
    p_t, p_g = kind(double(p)), kind(double(q))
    assert game.total_variation(p_t, p_g) == pytest.approx(tv, abs=1e-14)
    assert game.total_variation(p_g, p_t) == pytest.approx(tv, abs=1e-14)
    assert game.jensen_shannon(p_t, p_g) == pytest.approx(js, abs=1e-14)
    assert game.game_value(p_t, p_g) == pytest.approx((1 - tv) / 2, abs=1e-14)
    assert game.game_value(p_t, p_g, "minimax") == pytest.approx(LN2 - js, abs=1e-14)
    assert game.game_value(p_t, p_g, "minimax", form="goodfellow") == pytest.approx(2 * js - 2 * LN2, abs=1e-14)
    best = [1.0 if a >= b else 0.0 for a, b in zip(p, q)]
    minimax = sum(b * math.log(b / (a + b)) for a, b in zip(p, q) if b > 0)
    saturating_not = sum(b * (math.log((a + b) / a) if a else math.inf) for a, b in zip(p, q) if b > 0)
    values = {
        "absolute_error": -sum(b * d for b, d in zip(q, best)) / 2,
        "minimax": minimax,
        "nonsaturating": saturating_not,
    }
    for objective, value in values.items():
        assert game.generator_value(p_t, p_g, objective) == pytest.approx(value, abs=1e-13), objective


def test_probabilities_are_not_taken_for_samples():
    """Earlier, their distance was 0.0: they were taken for samples."""
    p, q = torch.tensor(P), torch.tensor(Q)
    assert game.total_variation(Categorical(p), Categorical(q)) == pytest.approx(0.3, abs=1e-7)
    assert game.total_variation(Categorical(logits=p.log()), Categorical(q)) == pytest.approx(0.3, abs=1e-6)
    with pytest.raises(ValueError, match=r"p_t: got 3 numbers that add up to 1; .*Categorical\(p\).* shape \(3, 1\)"):
        game.total_variation(p, q)
    assert game.total_variation(p[:, None], q[:, None]) == 0.0  # as samples: the same three numbers


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_the_best_discriminator_is_a_table(dtype):
    """At the points, which are integers: the best D is 1 for equal masses; the cross-entropy's is 1/2 without mass."""
    p_t, p_g = Categorical(double([*P, 0.0])), Categorical(double([*Q, 0.0]))
    x = torch.arange(5).to(dtype)
    best, ratio = (game.optimal_discriminator(p_t, p_g, objective) for objective in ("absolute_error", "minimax"))
    assert best(x).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    expected = [0.2 / 0.7, 0.5, 0.5 / 0.7, 0.5, 0.5]
    assert ratio(x).tolist() == pytest.approx(expected, rel=1e-6)
    assert ratio(x).dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert ratio(x.reshape(5, 1)).shape == (5, 1)
    assert game.expected_absolute_error(p_t, p_g, best) == pytest.approx(0.35, abs=1e-14)
    soft = sum(a * b / (a + b) for a, b in zip(P, Q))
    assert game.expected_absolute_error(p_t, p_g, ratio) == pytest.approx(soft, abs=1e-14)
    assert game.error_rate(p_t, p_g, ratio) == pytest.approx(0.35, abs=1e-14)


def test_a_table_or_a_network_is_a_discriminator():
    p_t, p_g, table = Categorical(double(P)), Categorical(double(Q)), double([0.9, 0.4, 0.1])
    error = sum(a * (1 - d) + b * d for a, b, d in zip(P, Q, table.tolist())) / 2
    assert game.expected_absolute_error(p_t, p_g, lambda x: table[x.long()]) == pytest.approx(error, abs=1e-14)
    one_hot = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        one_hot.weight.copy_(table.logit()[None])
    p_t, p_g = OneHotCategorical(double(P)), OneHotCategorical(double(Q))
    assert game.expected_absolute_error(p_t, p_g, one_hot, logits=True) == pytest.approx(error, abs=1e-14)


def test_other_discrete_distributions():
    """Against their probabilities, also at the limits of their parameters."""
    for n, p, q in [(5, 0.3, 0.6), (5, 0.0, 1.0), (1, 0.25, 0.5), (40, 0.5, 0.51)]:
        masses = [[math.comb(n, k) * r**k * (1 - r) ** (n - k) for k in range(n + 1)] for r in (p, q)]
        tv, js = divergences(*masses)
        sides = [Binomial(n, double(r)) for r in (p, q)]
        assert game.total_variation(*sides) == pytest.approx(tv, abs=1e-13)
        assert game.jensen_shannon(*sides) == pytest.approx(js, abs=1e-13)
        assert game.total_variation(Categorical(double(masses[0])), sides[1]) == pytest.approx(tv, abs=1e-13)
    assert game.total_variation(Bernoulli(double(0.25)), Bernoulli(double(0.5))) == 0.25
    assert game.total_variation(Bernoulli(double(0.25)), Categorical(double([0.75, 0.0, 0.25]))) == 0.25


def test_samples_against_a_discrete_distribution_count_its_points():
    p_t, x = Categorical(double(P)), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert game.total_variation(p_t, x) == pytest.approx(0.3, abs=1e-14)
    assert game.total_variation(x.float(), p_t) == pytest.approx(0.3, abs=1e-14)
    assert game.total_variation(p_t, torch.tensor([0.5, 7.0])) == 1.0
    drawn = p_t.sample((100_000,))
    assert game.total_variation(p_t, drawn) < 0.01
    assert game.jensen_shannon(OneHotCategorical(double(P)), torch.eye(3)[drawn]) < 1e-4
    best = game.optimal_discriminator(p_t, x)
    assert best(torch.arange(3)).tolist() == [0.0, 1.0, 1.0]
    assert game.expected_absolute_error(p_t, x, best) == pytest.approx(0.35, abs=1e-14)


def test_the_equilibrium_of_a_discrete_game():
    """A table has no gradient; it is dead only if all of its values are equal."""
    p_t, p_g = Categorical(double(P)), Categorical(double(Q))
    found = game.equilibrium(p_t, p_g, game.optimal_discriminator(p_t, p_g))
    assert (found.error, found.bound) == pytest.approx((0.35, 0.35), abs=1e-14)
    assert found.total_variation == pytest.approx(0.3, abs=1e-14)
    assert not found.dead and not found.reached and "not reached" in found.verdict
    constant = game.equilibrium(p_t, p_g, lambda x: torch.full_like(x, 0.5))
    assert constant.dead and constant.error == 0.5
    same = game.equilibrium(p_t, p_t, lambda x: double([0.4, 0.1, 0.8])[x.long()])
    assert same.reached and same.error == 0.5


def test_discrete_random_variables():
    """F^-1(u) is the smallest k with p_0 + ... + p_k >= u."""
    variable = game.inverse_transform(Categorical(double([0.0, 0.25, 0.0, 0.75])))
    u = double([0.0, 0.1, 0.25, 0.26, 1.0])
    assert variable.quantile(u).tolist() == [1, 1, 1, 3, 3]
    drawn = variable.sample(100_000, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1.0, 3.0}
    distance = game.kolmogorov_smirnov(drawn, Categorical(double([0.0, 0.25, 0.0, 0.75])))
    assert distance == pytest.approx(abs((drawn == 1).double().mean().item() - 0.25), abs=1e-12)
    assert distance < game.kolmogorov_smirnov_threshold(100_000)
    assert game.kolmogorov_smirnov(drawn, Bernoulli(double(0.75))) == 1.0 - share_at_one(drawn)
    assert torch.is_tensor(variable.to("cpu").state_dict()["_quantile.cdf"])


def share_at_one(drawn):
    """No sample is below 1: the distance from a variable in {0, 1} is 1 minus this share."""
    return (drawn == 1).double().mean().item()


NUMBERS = torch.tensor(P)
PROBABILITIES = {
    "p_t": lambda p: game.total_variation(p, torch.randn(9)),
    "p_g": lambda p: game.jensen_shannon(torch.randn(9), p),
    "p_t of the value": lambda p: game.game_value(p, p, "minimax"),
    "p_t of the generator's value": lambda p: game.generator_value(p, p),
    "p_t of the best D": lambda p: game.optimal_discriminator(p, p),
    "p_t of the error": lambda p: game.expected_absolute_error(p, p, torch.sigmoid),
    "p_g of the error rate": lambda p: game.error_rate(Normal(0.0, 1.0), p, torch.sigmoid),
    "p_t of the equilibrium": lambda p: game.equilibrium(p, p, torch.sigmoid),
    "quantile": lambda p: game.inverse_transform(p),
    "samples": lambda p: game.kolmogorov_smirnov(p, Normal(0.0, 1.0)),
    "reference": lambda p: game.kolmogorov_smirnov(torch.randn(9), p),
    "fake": lambda p: game.two_sample_test(torch.randn(9), p.repeat_interleave(2) / 2),
}


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_numbers_that_add_up_to_one_are_no_samples(name, dtype):
    with pytest.raises(ValueError, match=f"^{name.split()[0]}: got [36] numbers that add up to 1; .*Cat") as raised:
        PROBABILITIES[name](NUMBERS.to(dtype))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "numbers",
    [[0.0, 1.0], [0.333, 0.333, 0.333], torch.randn(1000).softmax(0).tolist(), torch.randn(5, 2).softmax(1).tolist()],
    ids=["one-hot", "rounded", "softmax", "rows"],
)
def test_other_numbers_that_add_up_to_one(numbers):
    with pytest.raises(ValueError, match=r"p_t: got .* that add up to 1; .*torch.distributions.Categorical\(p\)"):
        game.total_variation(torch.tensor(numbers), torch.tensor(numbers))


@pytest.mark.parametrize(
    "numbers",
    [[0.2, 0.3, 0.6], [-0.2, 0.7, 0.5], [1.0], [[0.2], [0.3], [0.5]], [0, 1, 0], [[0.5, 0.5], [0.5, 0.6]]],
    ids=["above", "below zero", "one", "rows of one", "integers", "one row"],
)
def test_other_numbers_are_samples(numbers):
    assert game.total_variation(torch.tensor(numbers), torch.tensor(numbers)) == 0.0


BAD = {
    "beside a density": (
        ValueError,
        "p_g: got a density, expected a discrete distribution or samples, as p_t is discrete",
        lambda: game.total_variation(Categorical(NUMBERS), Normal(0.0, 1.0)),
    ),
    "beside a function": (
        ValueError,
        "p_t: got a density, expected a discrete .* as p_g is discrete",
        lambda: game.jensen_shannon(lambda x: (-x * x / 2).exp() / math.sqrt(2 * math.pi), Categorical(NUMBERS)),
    ),
    "no end": (
        ValueError,
        "p_t: got Geometric, which is discrete, expected one with a density, or a Categorical",
        lambda: game.total_variation(Geometric(0.5), Poisson(1.0)),
    ),
    "a batch": (
        ValueError,
        r"p_t: got batch shape \(2,\)",
        lambda: game.total_variation(Categorical(torch.ones(2, 3)), Categorical(NUMBERS)),
    ),
    "vectors": (
        ValueError,
        "p_t: got Independent, which is discrete",
        lambda: game.total_variation(Independent(Bernoulli(torch.ones(2) / 2), 1), torch.zeros(4, 2)),
    ),
    "other points": (
        ValueError,
        "p_g: got 3 numbers a point, expected 1",
        lambda: game.total_variation(Categorical(NUMBERS), OneHotCategorical(NUMBERS)),
    ),
    "a gradient": (
        TypeError,
        "p_t: got a discrete distribution, whose points cannot move",
        lambda: game.generator_gradient(Categorical(NUMBERS), Categorical(NUMBERS)),
    ),
    "a variable of vectors": (
        ValueError,
        "quantile: got a distribution of 3 numbers, expected one of a number",
        lambda: game.inverse_transform(OneHotCategorical(NUMBERS)),
    ),
    "a variable without end": (
        ValueError,
        "quantile: got Poisson, which is discrete",
        lambda: game.inverse_transform(Poisson(1.0)),
    ),
    "infinite samples of a test": (
        ValueError,
        "real: got samples with NaN or infinity",
        lambda: game.two_sample_test(torch.full((9,), math.inf), torch.zeros(9)),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    error, message, call = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-200, 1e300])
def test_two_samples_of_any_scale(scale, one_thread):
    """float32 holds neither scale, and float64 not their squares."""
    x, y = torch.randn(2, 2_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = game.two_sample_test(x, y + 2, steps=50)
    assert plain.error < 0.3
    assert game.two_sample_test(x * scale, (y + 2) * scale, steps=50).error == pytest.approx(plain.error, abs=0.02)
