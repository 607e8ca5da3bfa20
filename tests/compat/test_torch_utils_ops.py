"""`torch_utils.ops.bias_act` and `conv2d_gradfix` of NVIDIA's StyleGANs, restated in eager PyTorch; installation."""

import importlib
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from parity import check

from fastgan.compat.torch_utils_ops import bias_act, conv2d_gradfix

GAINS = {"relu": math.sqrt(2), "lrelu": math.sqrt(2), "swish": math.sqrt(2)}


def upstream(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2 if alpha is None else alpha)
    elif act == "swish":
        x = torch.sigmoid(x) * x
    elif act == "softplus":
        x = torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)
    elif act != "linear":
        x = getattr(F, act)(x)
    x = x * (GAINS.get(act, 1.0) if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)


def drawn(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [(2 * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("act", bias_act.activation_funcs)
def test_bias_act(act):
    x, b = drawn((2, 3, 4, 5), (3,), dtype=torch.float64)
    for settings in ((1, act), (1, act, 0.1, 0.7, 1.2), (1, act, None, 2.0)):

        def ours(x, b, settings=settings):
            return bias_act.bias_act(x, b, *settings, impl="ref")

        check(ours, lambda x, b, settings=settings: upstream(x, b, *settings), x, b, rtol=1e-11, grad_rtol=1e-9)
    check(lambda x: bias_act.bias_act(x=x, act=act), lambda x: upstream(x, act=act), x, rtol=1e-11, grad_rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_result_has_the_dtype_of_x(dtype):
    x, b = drawn((4, 6), (6,), dtype=dtype)
    with torch.no_grad():
        x.copy_((x * 16).round() / 16), b.copy_((b * 16).round() / 16)  # sums are exact
    check(
        lambda x, b: bias_act.bias_act(x, b, act="lrelu", clamp=256),
        lambda x, b: upstream(x, b, act="lrelu", clamp=256),
        *(x, b),
        same_dtype=True,
    )


def test_activation_funcs():
    """Networks read the default gain from it."""
    x = torch.tensor([-1.0, 2.0])
    for name, spec in bias_act.activation_funcs.items():
        assert spec.def_gain == pytest.approx(GAINS.get(name, 1.0)) and spec.def_alpha == (
            0.2 if name == "lrelu" else 0
        )
        want = upstream(x, act=name, gain=1.0)
        torch.testing.assert_close(spec.func(x, alpha=0.2), want)
    assert [spec.cuda_idx for spec in bias_act.activation_funcs.values()] == list(range(1, 10))
    assert not bias_act.activation_funcs["lrelu"].has_2nd_grad and bias_act.activation_funcs["tanh"].has_2nd_grad


def test_bad_input():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="impl: got 'cpu', expected 'ref' or 'cuda'"):
        bias_act.bias_act(x, impl="cpu")
    with pytest.raises(ValueError, match="act: got 'lreu', did you mean 'lrelu'"):
        bias_act.bias_act(x, act="lreu")


@pytest.fixture
def enabled(monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)


def layer(transposed, x, w):
    return (conv2d_gradfix.conv_transpose2d if transposed else conv2d_gradfix.conv2d)(x, w, padding=1, stride=2)


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(enabled, transposed):
    x, w = drawn((2, 3, 5, 5), (3, 3, 3, 3), dtype=torch.float64)
    plain = F.conv_transpose2d if transposed else F.conv2d
    check(lambda x, w: layer(transposed, x, w), lambda x, w: plain(x, w, padding=1, stride=2), x, w)


@pytest.mark.parametrize("transposed", [False, True])
def test_no_weight_gradients(enabled, transposed):
    x, w = drawn((2, 3, 5, 5), (3, 3, 3, 3), dtype=torch.float64)
    y = layer(transposed, x, w)
    with conv2d_gradfix.no_weight_gradients():
        assert conv2d_gradfix.weight_gradients_disabled
        y.sum().backward(retain_graph=True)
    assert w.grad is None and x.grad.abs().sum() > 0 and not conv2d_gradfix.weight_gradients_disabled
    with conv2d_gradfix.no_weight_gradients(disable=False):
        y.sum().backward()
    assert w.grad is not None
    with pytest.raises(ZeroDivisionError), conv2d_gradfix.no_weight_gradients():
        _ = 1 / 0
    assert not conv2d_gradfix.weight_gradients_disabled


def test_r1_reaches_the_weights(enabled):
    """As in StyleGAN's loss: the penalty's gradient inside the block, its backward pass after it."""
    x, w = drawn((2, 3, 5, 5), (4, 3, 3, 3), dtype=torch.float64)
    found = []
    for convolve in (conv2d_gradfix.conv2d, F.conv2d):
        with conv2d_gradfix.no_weight_gradients():
            (grad,) = torch.autograd.grad(convolve(x, w).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), w)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_if_not_enabled_it_is_pytorchs_convolution():
    x, w = drawn((1, 1, 3, 3), (1, 1, 3, 3))
    with conv2d_gradfix.no_weight_gradients():
        conv2d_gradfix.conv2d(x, w).sum().backward()
    assert w.grad is not None, "as upstream"


NETWORK = """
from torch_utils.ops import bias_act, conv2d_gradfix
from . import ops
def forward(x, w, b):
    return bias_act.bias_act(conv2d_gradfix.conv2d(input=x, weight=w), b.to(x.dtype), act='lrelu', gain=1.0, clamp=256)
"""


def test_the_modules_replace_upstreams_files(tmp_path, monkeypatch):
    """Upstream's files, which raise if they run, are not read; other files of the folder are."""
    before = dict(sys.modules)
    folder = tmp_path / "torch_utils" / "ops"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py"):
        path.touch()
    for name in ("bias_act", "conv2d_gradfix"):
        (folder / f"{name}.py").write_text("raise RuntimeError('no compiler')\n")
    (folder / "fma.py").write_text("from . import conv2d_gradfix\n")
    (folder.parent / "network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for name, module in (("bias_act", bias_act), ("conv2d_gradfix", conv2d_gradfix)):
            monkeypatch.setitem(sys.modules, f"torch_utils.ops.{name}", module)
        network = importlib.import_module("torch_utils.network")
        assert importlib.import_module("torch_utils.ops.fma").conv2d_gradfix is conv2d_gradfix
        x, w, b = drawn((2, 3, 4, 4), (5, 3, 1, 1), (5,), dtype=torch.float64)
        want = upstream(F.conv2d(x, w), b, act="lrelu", gain=1.0, clamp=256)
        torch.testing.assert_close(network.forward(x, w, b), want, rtol=1e-12, atol=0)
    finally:
        for name in [name for name in sys.modules if name not in before and name.startswith("torch_utils")]:
            del sys.modules[name]


def test_no_weight_gradients_under_a_transform(enabled):
    x, w = drawn((2, 3, 5, 5), (4, 3, 3, 3), dtype=torch.float64)
    found = [
        torch.func.grad(lambda w, convolve=convolve: convolve(x.detach(), w).square().sum())(w.detach())
        for convolve in (conv2d_gradfix.conv2d, F.conv2d)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
