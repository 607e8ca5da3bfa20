"""An alias of `fastgan.evaluation`."""

from fastgan.evaluation import *  # noqa: F403
