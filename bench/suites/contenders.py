"""The ways to get a discriminator loss and its gradients at the logits, and the gate that each must pass.

A contender is made for one cell (a dtype and a size) and is then called as `step(real, fake)`. It returns
(loss, gradient at real, gradient at fake). All but `value_and_grad` go through autograd: forward, then backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.capture import capturing

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
LOSS_SCALE = 2.0**15  # what float16 training multiplies in, so that a gradient divided by n does not underflow


@dataclass(frozen=True)
class Contender:
    """ours: held to half a unit in the last place and 5e-6, per element. Others: to 4 eps of the largest gradient.
    on: the kind of device that it needs, if any."""

    name: str
    what: str
    make: Callable[[Tensor | None], Step]
    ours: bool = False
    compiled: bool = False
    on: str | None = None


def softplus_loss(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _forward_backward(loss_function: Callable[[Tensor, Tensor], Tensor], scale: Tensor | None) -> Step:
    grad_output = None

    def step(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal grad_output
        loss = loss_function(real, fake)
        if scale is not None and grad_output is None:
            grad_output = scale.to(loss.dtype)
        grads = torch.autograd.grad(loss, (real, fake), grad_output)
        return loss.detach(), *grads  # a loss that is kept would keep its graph, whose leaves know the stream they saw

    return step


def _eager(scale: Tensor | None) -> Step:
    from fastgan import reference

    return _forward_backward(reference.discriminator_loss, scale)


def _softplus(scale: Tensor | None) -> Step:
    return _forward_backward(softplus_loss, scale)


def _compiled(scale: Tensor | None) -> Step:
    torch._dynamo.reset()  # one specialised program a cell, none reused from the last
    return _forward_backward(torch.compile(softplus_loss, dynamic=False), scale)


def _compiled_graphs(scale: Tensor | None) -> Step:
    torch._dynamo.reset()
    step = _forward_backward(torch.compile(softplus_loss, dynamic=False, mode="reduce-overhead"), scale)

    def marked(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # the results of the last call are given up
        return step(real, fake)

    return marked


def _graphed(scale: Tensor | None) -> Step:
    """One CUDA graph for each pair of buffers, captured at its first call. Its results lie in the graph's memory."""
    step, graphs = _eager(scale), {}

    def capture(real: Tensor, fake: Tensor):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(real, fake)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, torch.cuda.graph_pool_handle(), side):
            result = step(real, fake)
        return graph, result

    def replay(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key = real.data_ptr(), fake.data_ptr()
        if key not in graphs:
            graphs[key] = capture(real, fake)
        graph, result = graphs[key]
        graph.replay()
        return result

    return replay


def _drop_in(scale: Tensor | None) -> Step:
    import fastgan

    return _forward_backward(fastgan.discriminator_loss, scale)


def _value_and_grad(scale: Tensor | None) -> Step:
    from fastgan import discriminator_value_and_grad

    def step(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = discriminator_value_and_grad(real, fake, grad_scale=scale)
        return out.loss, *out.grads

    return step


CONTENDERS = (
    Contender("eager", "BCEWithLogitsLoss against ones and zeros, as GAN code writes it (fastgan.reference)", _eager),
    Contender("eager softplus", "mean softplus(-real) + mean softplus(fake)", _softplus),
    Contender(
        "eager, CUDA graph",
        "eager's forward and backward captured once and replayed: the step around it must be captured too",
        _graphed,
        on="cuda",
    ),
    Contender("torch.compile", "the softplus form, compiled for each size (dynamic=False)", _compiled, compiled=True),
    Contender(
        "reduce-overhead",
        'the same, compiled with mode="reduce-overhead": its CUDA graphs',
        _compiled_graphs,
        compiled=True,
        on="cuda",
    ),
    Contender("drop-in", "fastgan.discriminator_loss and backward", _drop_in, ours=True),
    Contender("value_and_grad", "fastgan.discriminator_value_and_grad", _value_and_grad, ours=True),
)


def draw(n: int, dtype: torch.dtype, device: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits as a half-trained discriminator gives them: N(1, 2²) on real, N(-1, 2²) on generated data."""
    real, fake = (torch.randn(n, generator=generator, device=device).mul_(2).add_(shift) for shift in (1, -1))
    return real.to(dtype).requires_grad_(), fake.to(dtype).requires_grad_()


def why_wrong(
    result: tuple[Tensor, Tensor, Tensor], real: Tensor, fake: Tensor, scale: float, ours: bool
) -> tuple[str | None, float]:
    """(None, or what is wrong, the worst relative error of a gradient), against float64, element by element, atol=0."""
    real64, fake64 = real.detach().double(), fake.detach().double()
    n, eps = real.numel(), torch.finfo(real.dtype).eps
    loss64 = -(F.logsigmoid(real64).mean() + F.logsigmoid(-fake64).mean()).item()
    loss, worst = result[0].item(), 0.0
    exact = real.dtype == torch.float64
    allowed = (1e-12 if exact else 5e-6) if ours else max(4 * eps, 1e-12 if exact else 1e-5)
    if not abs(loss - loss64) <= allowed * abs(loss64):
        return f"loss {loss:.9g}, float64 gives {loss64:.9g}", float("inf")
    expected = ((torch.sigmoid(-real64), -scale / n), (torch.sigmoid(fake64), scale / n))
    for side, got, (want, factor) in zip(("real", "fake"), result[1:], expected):
        if got is None or got.shape != real.shape or got.dtype != real.dtype:
            return f"gradient at {side}: not a {real.dtype} tensor of the logits' shape", float("inf")
        want = want.mul_(factor)
        error = (got.double() - want).abs_()
        size = want.abs_()
        if ours:
            bound = size * (2e-13 if exact else 5e-6) + 0.51 * _ulp(size, real.dtype)
        else:  # sigmoid(x) - 1 has lost its digits where sigmoid(x) is close to 1; that is how eager is
            bound = (size + scale / n) * (4 * eps) + _ulp(size, real.dtype)
        wrong = ~(error <= bound)
        worst = max(worst, (error / size).max().item())
        if wrong.any():
            i = int(wrong.nonzero()[0])
            return f"gradient at {side}[{i}]: {got.flatten()[i].item():.9g}, float64 gives ±{size[i].item():.9g}", worst
    return None, worst


def _ulp(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbouring numbers of `dtype` at `size` (float64, positive); subnormals included."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(size.clamp_min(info.smallest_normal)).exponent - 1
    return torch.ldexp(torch.full_like(size, info.eps), exponent)
