"""The least kernel there is. In a file of its own: Triton reads its source from there."""

import triton


@triton.jit
def nothing():
    pass
