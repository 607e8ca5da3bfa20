"""`fastgan.inspect_step`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch

from fastgan.inspection.networks import Known, Networks
from fastgan.inspection.places import NOWHERE, Where
from fastgan.inspection.report import StepReport
from fastgan.inspection.trace import Calls, Node, Trace, key_of
from fastgan.inspection.verdict import verdict

_BEFORE = Where(NOWHERE, NOWHERE, backward=False, optimizer=False, framework=False)


def inspect_step(step: Callable[..., Any], *args: Any) -> StepReport:
    """Inspect one training step of yours and report, with file and line, what makes the host wait, which gradients and
    graphs nothing uses, which losses fastgan can replace, and what prevents a CUDA graph.

        print(fastgan.inspect_step(step, batch))

    It runs `step(*args)` twice: first unobserved, so that the optimizers have their state, then observed. This trains
    networks and optimizers by two steps and changes nothing else of them. In the observed step it finds

    * waits: `.item()`, `float(t)`, `if t:`, `.tolist()`, `.cpu()`, `.numpy()`, indexing with a boolean mask, `nonzero`,
      `unique`, `masked_select` and other shapes that depend on data. On a CPU nothing waits: there it reports what
      would wait on a GPU, including a literal `.to("cpu")`, but not `.to(device)`;
    * gradients of weights that are discarded before an optimizer reads them, as D's in G's step, with their share of
      the step's FLOPs, which `fastgan.generator_backward` would not compute: the operators of that backward pass on
      which no weight, no returned value and no number read by the host depends;
    * a network run and differentiated on samples that nothing learns from (feature matching with attached real maps),
      and a generator's graph that is built although only its detached output is used;
    * losses on a discriminator's output, recognised by their operators. A discriminator here is a network that sees
      the output of another one.

    It does not see: random numbers and arrays of the host, kernels outside PyTorch's dispatcher, steps that are
    themselves captured. Compiled networks run uncompiled. Gradients that are accumulated over several calls of `step`
    look unused: pass a `step` that does a whole accumulation. Without an optimizer of `torch.optim`, gradients are not
    inspected.

    Args:
        step: a whole training step, as a function. args: its arguments, the same for both runs.

    Returns:
        A `StepReport`: findings, operators, flops, capture; `print` it, or `.to_dict()`.

    Raises:
        TypeError: step is not callable. Errors of the step itself are passed on.
    """
    if not callable(step):
        raise TypeError(f"step: got {type(step).__name__}, expected a function that does one training step")
    known = Known()
    # Backward passes run on this thread, so that the line that called backward is on the stack of their operators.
    with torch.autograd.set_multithreading_enabled(False), uncompiled():
        with known.watching():
            step(*args)
        trace = Trace({key_of(g) for g in known.gradients().values()})
        left_over = {i: Node("left over", (), 0, _BEFORE) for i in known.gradients()}
        trace.last |= {key_of(g): left_over[i] for i, g in known.gradients().items()}
        networks = Networks(trace, known)
        known.trace = trace
        with known.watching(), networks.watching(), Calls(trace), trace:
            returned = step(*args)
    trace.keep(returned)
    del returned
    after = known.gradients()
    gradients = {key_of(g) for g in after.values()}
    trace.keep([t for t in trace.still_there() if key_of(t) not in gradients])
    trace.mark()
    # A gradient that one step leaves and the next step uses is needed.
    trace.keep([g for i, g in after.items() if i in left_over and left_over[i].live])
    trace.mark()
    return verdict(trace, networks, known)


def uncompiled() -> contextlib.AbstractContextManager:
    """Run compiled functions uncompiled. The compiler is not imported if nothing has been compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
