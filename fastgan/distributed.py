"""An alias of `fastgan.training.distributed`."""

from fastgan.training.distributed import *  # noqa: F403
