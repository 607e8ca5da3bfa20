"""An alias of `fastgan.training.capture`."""

from fastgan.training.capture import *  # noqa: F403
