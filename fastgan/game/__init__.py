"""The game that two networks play: the values that the theory predicts, computed.

    fastgan.game.total_variation(p_t, p_g)                   # of distributions, density functions, or samples
    fastgan.game.total_variation(Categorical(p), Categorical(q))    # of probabilities: torch.distributions.Categorical
    d = fastgan.game.optimal_discriminator(p_t, p_g)         # the best D for this p_g, a function of x
    fastgan.game.expected_absolute_error(p_t, p_g, d)        # = game_value(p_t, p_g) = (1 - TV) / 2
    fastgan.game.equilibrium(p_t, p_g, d)                    # is this the equilibrium, or does it only look like it?
    fastgan.game.inverse_transform(quantile).sample(1000)    # random variables from uniform ones

`fastgan game` on the command line trains on named targets and draws these values beside the learned ones.
"""

from fastgan.game.evaluation import (
    Equilibrium,
    ModeStatistics,
    TwoSampleTest,
    equilibrium,
    is_dead,
    mode_statistics,
    two_sample_test,
)
from fastgan.game.targets import Target, target
from fastgan.game.theory import (
    ModeCollapse,
    OptimalDiscriminator,
    error_rate,
    expected_absolute_error,
    game_value,
    generator_gradient,
    generator_value,
    jensen_shannon,
    mode_collapse,
    optimal_discriminator,
    total_variation,
)
from fastgan.game.variables import (
    InverseTransform,
    box_muller,
    inverse_transform,
    kolmogorov_smirnov,
    kolmogorov_smirnov_threshold,
    normal,
)

__all__ = [
    "Equilibrium",
    "InverseTransform",
    "ModeCollapse",
    "ModeStatistics",
    "OptimalDiscriminator",
    "Target",
    "TwoSampleTest",
    "box_muller",
    "equilibrium",
    "error_rate",
    "expected_absolute_error",
    "game_value",
    "generator_gradient",
    "generator_value",
    "inverse_transform",
    "is_dead",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "kolmogorov_smirnov_threshold",
    "mode_collapse",
    "mode_statistics",
    "normal",
    "optimal_discriminator",
    "target",
    "total_variation",
    "two_sample_test",
]
