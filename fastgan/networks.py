"""An alias of `fastgan.models`."""

from fastgan.models import *  # noqa: F403
