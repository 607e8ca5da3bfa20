"""A kernel that does nothing, in a separate file because Triton reads its source there."""

import triton


@triton.jit
def nothing():
    pass
