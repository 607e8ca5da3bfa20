"""Pairs of distributions and their divergences, from 30-digit quadrature."""

import math

import torch
from torch.distributions import Categorical, Exponential, MixtureSameFamily, Normal, Uniform

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
# pair: (p_t, p_g, TV, JSD)
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


def quantile_points(mean, std, n=200_000):
    """Quantiles of a normal distribution, in place of random samples."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return mean + std * torch.special.ndtri(u)
