"""An alias of `fastgan.training.trainer`."""

from fastgan.training.trainer import *  # noqa: F403
