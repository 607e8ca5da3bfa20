"""An alias of `fastgan.training.step`."""

from fastgan.training.step import *  # noqa: F403
