"""NVIDIA's `torch_utils.ops` (stylegan2-ada-pytorch, stylegan3, and R3GAN, stylegan-t, EG3D, ...) without a compiler.

Upstream compiles CUDA C++ when an operator first runs, which needs nvcc, ninja and a host compiler that nvcc supports.
The modules here run its functions on Triton kernels. Before `torch_utils.ops` is imported:

    import sys
    from fastgan.compat import torch_utils_ops
    for name in ("bias_act", "upfirdn2d", "filtered_lrelu", "conv2d_gradfix"):
        sys.modules[f"torch_utils.ops.{name}"] = getattr(torch_utils_ops, name)

Then `from torch_utils.ops import bias_act` imports ours, and upstream's files of these names never run (one of them
needs `pkg_resources`, which setuptools no longer has). After the import: `fastgan.patch("torch_utils_ops")`. By hand:
`from fastgan.compat.torch_utils_ops import bias_act` instead of `from torch_utils.ops import bias_act`.

    bias_act        bias_act, activation_funcs
    upfirdn2d       upfirdn2d, setup_filter, filter2d, upsample2d, downsample2d
    filtered_lrelu  filtered_lrelu
    conv2d_gradfix  conv2d, conv_transpose2d, no_weight_gradients, enabled, weight_gradients_disabled

Signatures are from stylegan3 c233a91 (April 2023) and stylegan2-ada-pytorch d72cc7d. Differences: bfloat16 works. Half
precision is computed in float32 and rounded once. Tensors keep their layout. bias_act has derivatives of any order, and
dim may be negative. `impl` is checked but has no effect. Errors are ValueError and TypeError, not AssertionError.
conv2d_gradfix calls `torch.nn.functional`: PyTorch no longer has the problem that it worked around.
stylegan2-ada-pytorch's `no_weight_gradients` has no argument, so `fastgan.patch` keeps it; PyTorch itself computes no
weight gradient that is not requested.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers; see __getattr__
    from fastgan.compat.torch_utils_ops import bias_act, conv2d_gradfix, filtered_lrelu, upfirdn2d

__all__ = ["bias_act", "conv2d_gradfix", "filtered_lrelu", "upfirdn2d"]

UPSTREAM = {
    "torch_utils.ops.bias_act": ("bias_act",),
    "torch_utils.ops.upfirdn2d": ("setup_filter", "upfirdn2d", "filter2d", "upsample2d", "downsample2d"),
    "torch_utils.ops.filtered_lrelu": ("filtered_lrelu",),
    "torch_utils.ops.conv2d_gradfix": ("conv2d", "conv_transpose2d", "no_weight_gradients"),
}


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module 'fastgan.compat.torch_utils_ops' has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
