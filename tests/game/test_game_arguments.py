"""The errors of the game's functions for wrong arguments."""

import math

import pytest
import torch
from pairs import UNEQUAL, normal
from torch.distributions import MultivariateNormal, Normal, Poisson

from fastgan import game

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
