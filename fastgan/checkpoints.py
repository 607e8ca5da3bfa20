"""An alias of `fastgan.training.checkpoints`."""

from fastgan.training.checkpoints import *  # noqa: F403
