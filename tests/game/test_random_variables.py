"""The random variables that the game starts from."""

import math

import pytest
import torch
from pairs import UNEQUAL, double, normal, quantile_points
from torch import nn
from torch.distributions import Cauchy, Exponential, Laplace, Normal, Uniform

from fastgan import game

N = 100_000
LIMIT = 0.00515  # of the Kolmogorov-Smirnov statistic, at 1 % and 10^5 samples


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_uniform_numbers_are_those_of_the_generator():
    """Bit-equal for one seed, different for another, and uniform."""
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
    """Each family has its own seed."""
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
    """A mixture has no icdf: it is sampled through a table of its cdf. A flat part of a table has no mass."""
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
    """G(z) = a z + b of a normal z is N(b, a^2); a variable in front of a network replaces the normal p_z."""
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
