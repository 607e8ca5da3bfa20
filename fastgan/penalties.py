"""The old import path of names in `fastgan.losses.penalties`."""

from fastgan.losses.penalties import (
    PathLength,
    approximate_r1_penalty,
    approximate_r2_penalty,
    dragan_penalty,
    lazy,
    path_length_penalty,
    r1_penalty,
    r2_penalty,
    wgan_gp_penalty,
)

__all__ = [
    "PathLength",
    "approximate_r1_penalty",
    "approximate_r2_penalty",
    "dragan_penalty",
    "lazy",
    "path_length_penalty",
    "r1_penalty",
    "r2_penalty",
    "wgan_gp_penalty",
]
