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

_BEFORE = Where(NOWHERE, NOWHERE, False, False)


def inspect_step(step: Callable[..., Any], *args: Any) -> StepReport:
    """A verdict on one training step of yours, with file and line: what makes the host wait, what is computed for
    nobody, which losses ours may replace, and what stands against a CUDA graph.

        print(fastgan.inspect_step(step, batch))

    It runs `step(*args)` twice: once as it is, so that optimizers have their state, and once watched. Networks and
    optimizers are then what two steps make of them; nothing else of them is changed. Of the watched step it sees

    * waits: `.item()`, `float(t)`, `if t:`, `.tolist()`, `.cpu()`, `.numpy()`, indexing with a boolean mask, `nonzero`,
      `unique`, `masked_select` and other shapes that depend on data. On a CPU nothing waits: there it names what would
      wait on a GPU. `.to(device)` then says nothing, `.to("cpu")` written so does;
    * gradients of weights that no optimizer reads before they are gone, as D's in G's step, with the share of the
      step's FLOPs that `fastgan.generator_backward` would leave out: of all operators in that backward pass, those on
      which no weight, no value that was returned and no number that was read depends;
    * a network run and differentiated on samples that nothing learns from (feature matching with attached real maps),
      and a generator's graph that is built and only used detached;
    * losses on a discriminator's output, by their operators. A discriminator here is a network that sees another one's
      output.

    It does not see: random numbers and arrays of the host, kernels outside PyTorch's dispatcher, steps that are
    themselves captured. Compiled networks run uncompiled. Gradients that add up over several calls of `step` seem to be
    nobody's: let `step` do all parts of one. Without an optimizer of `torch.optim` gradients are not judged.

    Args:
        step: a whole training step, as a function. args: what to call it with; the same both times.

    Returns:
        A `StepReport`: findings, operators, flops, capture; `print` it, or `.to_dict()`.

    Raises:
        TypeError: step is not callable. What the step itself raises comes through.
    """
    if not callable(step):
        raise TypeError(f"step: got {type(step).__name__}, expected a function that does one training step")
    known = Known()
    # Backward passes run on this thread, so that operators in them are below the line that asked for them.
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
    # What one step leaves in a gradient and the next one uses, somebody needs.
    trace.keep([g for i, g in after.items() if i in left_over and left_over[i].live])
    trace.mark()
    return verdict(trace, networks, known)


def uncompiled() -> contextlib.AbstractContextManager:
    """What was compiled runs as it was written. Who has not compiled anything need not load the compiler."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
