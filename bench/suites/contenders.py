"""The ways to compute a discriminator loss and its gradients at the logits, and the gate that each must pass.

A contender is made for one cell (a dtype and a size) and is then called as `step(real, fake)`. It returns
(loss, gradient at real, gradient at fake). All but `value_and_grad` use autograd: forward, then backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from bench.harness.accuracy import bound_of_ours, ulp, wrong_gradients, wrong_loss
from bench.harness.contest import COMPILE, EAGER, REDUCED
from fastgan.training.capture import capturing

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

GRAPHED, DROP_IN, DIRECT = "eager, CUDA graph", "drop-in", "value_and_grad"
OURS = (DROP_IN, DIRECT)


@dataclass(frozen=True)
class Contender:
    """ours: must be right to half a unit in the last place plus 5e-6, per element; others to 4 eps of the largest
    gradient. on: the device type that it needs, if any."""

    name: str
    what: str
    make: Callable[[Tensor | None], Step]
    ours: bool = False
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
        return loss.detach(), *grads  # an attached loss would keep its graph, whose leaves remember their stream

    return step


def _eager(scale: Tensor | None) -> Step:
    return _forward_backward(fastgan.reference.discriminator_loss, scale)


def _softplus(scale: Tensor | None) -> Step:
    return _forward_backward(softplus_loss, scale)


def _compiled(scale: Tensor | None) -> Step:
    torch._dynamo.reset()  # compile a specialised program for each cell
    return _forward_backward(torch.compile(softplus_loss, dynamic=False), scale)


def _compiled_graphs(scale: Tensor | None) -> Step:
    torch._dynamo.reset()
    step = _forward_backward(torch.compile(softplus_loss, dynamic=False, mode="reduce-overhead"), scale)

    def marked(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # allow the results of the last call to be overwritten
        return step(real, fake)

    return marked


def _graphed(scale: Tensor | None) -> Step:
    """One CUDA graph for each pair of buffers, captured at the first call. The results lie in the graph's memory."""
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
    return _forward_backward(fastgan.discriminator_loss, scale)


def _value_and_grad(scale: Tensor | None) -> Step:
    def step(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = fastgan.discriminator_value_and_grad(real, fake, grad_scale=scale)
        return out.loss, *out.grads

    return step


CONTENDERS = (
    Contender(EAGER, "BCEWithLogitsLoss against ones and zeros, as GAN code writes it (fastgan.reference)", _eager),
    Contender("eager softplus", "mean softplus(-real) + mean softplus(fake)", _softplus),
    Contender(
        GRAPHED,
        "eager's forward and backward captured once and replayed: the step around it must be captured too",
        *(_graphed, False, "cuda"),
    ),
    Contender(COMPILE, "the softplus form, compiled for each size (dynamic=False)", _compiled),
    Contender(REDUCED, 'the same, compiled with mode="reduce-overhead": its CUDA graphs', _compiled_graphs, on="cuda"),
    Contender(DROP_IN, "fastgan.discriminator_loss and backward", _drop_in, ours=True),
    Contender(DIRECT, "fastgan.discriminator_value_and_grad", _value_and_grad, ours=True),
)


def draw(n: int, dtype: torch.dtype, device: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits like those of a half-trained discriminator: N(1, 2²) on real, N(-1, 2²) on generated data."""
    real, fake = (torch.randn(n, generator=generator, device=device).mul_(2).add_(shift) for shift in (1, -1))
    return real.to(dtype).requires_grad_(), fake.to(dtype).requires_grad_()


def why_wrong(
    result: tuple[Tensor, Tensor, Tensor], real: Tensor, fake: Tensor, scale: float, ours: bool
) -> tuple[str | None, float]:
    """(None or what is wrong, the worst relative error of a gradient), against float64, per element, with atol=0."""
    real64, fake64 = real.detach().double(), fake.detach().double()
    n, eps, exact = real.numel(), torch.finfo(real.dtype).eps, real.dtype == torch.float64
    loss64 = -(F.logsigmoid(real64).mean() + F.logsigmoid(-fake64).mean()).item()
    allowed = (1e-12 if exact else 5e-6) if ours else max(4 * eps, 1e-12 if exact else 1e-5)
    if wrong := wrong_loss(result[0].item(), loss64, allowed):
        return wrong, float("inf")

    def bound_of_eager(size: Tensor, dtype: torch.dtype) -> Tensor:
        """sigmoid(x) - 1 loses digits if sigmoid(x) is close to 1."""
        return (size + scale / n) * (4 * eps) + ulp(size, dtype)

    grads64 = (torch.sigmoid(side).mul_(scale / n) for side in (-real64, fake64))
    signed = (grad.neg_() if k == 0 else grad for k, grad in enumerate(grads64))
    return wrong_gradients("side", result[1:], (real, fake), signed, bound_of_ours if ours else bound_of_eager)
