"""`torch_utils.ops.bias_act`: see `fastgan.compat.torch_utils_ops` for the imports to change."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor

from fastgan.formulas.bias_act import ACTIVATIONS, Settings
from fastgan.layers.bias_act import bias_act as _bias_act


def _specification(index: int, name: str) -> SimpleNamespace:
    phi = ACTIVATIONS[name]
    ref, second = Settings(0, name, phi.alpha, phi.gain).saved(), phi.curvature is not None

    def function(x: Tensor, alpha: float = phi.alpha, **_) -> Tensor:
        return phi.value(x, alpha)

    return SimpleNamespace(
        func=function,
        def_alpha=phi.alpha,
        def_gain=phi.gain,
        cuda_idx=index,
        ref=ref,
        has_2nd_grad=second,
    )


activation_funcs = {name: _specification(i, name) for i, name in enumerate(ACTIVATIONS, 1)}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """clamp(gain act(x + b), -clamp, clamp): `fastgan.layers.bias_act`, which describes each argument.

    impl: "ref" or "cuda"; has no effect.

    Raises:
        TypeError, ValueError: as in `fastgan.layers.bias_act`; another impl.
    """
    check_impl(impl)
    return _bias_act(x, b, dim, act, alpha, gain, clamp)


def check_impl(impl: str) -> None:
    """Raise ValueError unless `impl` is one of upstream's."""
    if impl not in ("ref", "cuda"):
        raise ValueError(f"impl: got {impl!r}, expected 'ref' or 'cuda'")
