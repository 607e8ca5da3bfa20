"""BasicSR (XPixelGroup): `basicsr.ops.fused_act` and `basicsr.ops.upfirdn2d`, which GFPGAN and CodeFormer use, too.

    from basicsr.ops.fused_act import FusedLeakyReLU, fused_leaky_relu
    from basicsr.ops.upfirdn2d import upfirdn2d
        ->  from fastgan.compat.basicsr_ops import FusedLeakyReLU, fused_leaky_relu, upfirdn2d

No BASICSR_EXT, BASICSR_JIT or compiler is needed. After the import of BasicSR: `fastgan.patch("basicsr_ops")`. Before:

    import sys, fastgan.compat.basicsr_ops as ops
    sys.modules["basicsr.ops.fused_act"] = sys.modules["basicsr.ops.upfirdn2d"] = ops

BasicSR's losses are in `fastgan.compat.basicsr`. Signatures are from commit 8d56e3a (May 2024). Differences:
fused_leaky_relu also runs on a CPU; derivatives of any order (upstream: two).
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat import rosinality_op
from fastgan.compat.rosinality_op import upfirdn2d as upfirdn2d

UPSTREAM = {
    "basicsr.ops.fused_act.fused_act": ("FusedLeakyReLU", "fused_leaky_relu"),
    "basicsr.ops.upfirdn2d.upfirdn2d": ("upfirdn2d",),
}


def fused_leaky_relu(input: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    """scale leaky_relu(input + bias): `fastgan.compat.rosinality_op.fused_leaky_relu`."""
    return rosinality_op.fused_leaky_relu(input, bias, negative_slope, scale)


class FusedLeakyReLU(rosinality_op.FusedLeakyReLU):
    """`fused_leaky_relu` as a module. The bias is a parameter, initially zero."""

    def __init__(self, channel: int, negative_slope: float = 0.2, scale: float = 2**0.5):
        super().__init__(channel, True, negative_slope, scale)
