"""An alias of `fastgan.training.recipes`."""

from fastgan.training.recipes import *  # noqa: F403
