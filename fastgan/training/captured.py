"""`fastgan.capture`: the training step of a loop of one's own as a CUDA graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fastgan.checks import whole
from fastgan.training import distributed as ranks
from fastgan.training.capture import REHEARSALS, REHEARSALS_OF_RANKS, Graphs, reason, release, state_of, undone

__all__ = ["Captured", "capture"]

# Optimizers whose state begins with zeros; the rehearsals of others can be undone once they have a state.
FROM_ZERO = (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.RAdam),
    *(torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.SGD),
)
READ_ON_DEVICE = (torch.optim.Adam, torch.optim.AdamW)  # a learning rate that is a tensor


class Captured:
    """What `fastgan.capture` returns: called as the step is, with the step's numbers.

    reason: why the step runs as it is, in a line; None if it is captured. calls: how often it was called; with every,
    set it if a run goes on in the middle of a period."""

    def __init__(self, step: Callable[..., Any], device: torch.device, every: int | None):
        self.step, self.device, self.every = step, device, every
        self.calls = 0
        self.reason: str | None = None
        self._graphs: Graphs | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        _check(inputs)
        due = self.every is not None and self.calls % self.every == 0
        if self._graphs is not None and self._graphs.fits(inputs):
            values = self._graphs.replay(inputs, due)
        else:
            values = self._play(*(x.to(self.device, non_blocking=True) for x in inputs), due)
        self.calls += 1
        return values

    def _play(self, *inputs_and_due: Any) -> Any:
        """The step as it is. Whether the penalty is due is its last argument, if it has one."""
        return detached(self.step(*(inputs_and_due if self.every is not None else inputs_and_due[:-1])))

    def _capture(self, inputs, generators, undo, rehearsals) -> None:
        variants = [True, False] if self.every is not None and self.every > 1 else [self.every is not None]
        drawing = [g for g in generators if g.device.type == "cuda"]
        self._graphs = Graphs(self._play, inputs, self.device, variants, drawing, undo, rehearsals)


def capture(
    step: Callable[..., Any],
    *inputs: Tensor,
    networks: nn.Module | Iterable[nn.Module],
    optimizers: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
    every: int | None = None,
    warmup: int = REHEARSALS,
    generators: Sequence[torch.Generator] = (),
    scaler: torch.amp.GradScaler | None = None,
) -> Captured:
    """A training step of yours as one CUDA graph: the host asks for it at once, where it would call every kernel.

        def step(real):
            ...                                        # both players: zero_grad, backward, optimizer.step()
            return {"loss_d": loss_d, "loss_g": loss_g}

        fast = fastgan.capture(step, real, networks=[generator, discriminator, average], optimizers=[opt_g, opt_d])
        for real in loader:
            values = fast(real)                        # the same tensors every time: read or clone them before the next
        fast.reason                                    # None, or why the step runs uncaptured

    With a penalty that is lazy, `every=16`, step gets one more argument, True in calls 0, 16, 32, ... and False in the
    others; the two are two graphs that share their memory.

    On a GPU the step runs `warmup` times (each of the two), on a stream of its own. What it does to the weights and
    buffers of networks, to weights and state of optimizers, to `scaler` and to random numbers is undone; gradients are
    None then. Batches are copied to where the graph reads them, from a CPU, too. Every step is the uncaptured one to
    the bit, if its kernels are deterministic.

    So that a graph does not repeat the first step's numbers, `capturable=True` is set in the optimizers that know it,
    and the learning rates of Adam and AdamW become tensors on the GPU, which PyTorch's schedulers change in place; in a
    loop: `group["lr"].fill_(lr)`. Other optimizers keep the learning rate that they had here, as all keep their other
    settings.

    It runs uncaptured, with the reason in `.reason` and, on a GPU, in a warning, if the networks are not on a GPU, an
    optimizer cannot be captured, the step waits for the host (`fastgan.inspect_step` says where) or draws random
    numbers of the host. Then the optimizers are as they were. Batches of another shape or dtype run uncaptured, too.

    What a graph cannot know: numbers that the step computes in Python (a counter, a schedule inside it) are those of
    the capture; lists it appends to get nothing. State of its own on the device must be a buffer of a module in
    networks. Schedulers belong outside of the step. Gradients are zeroed inside of it.

    Args:
        step: called with tensors alone, and with a bool if every is given; returns tensors, or dictionaries, lists or
            tuples of them, which come detached.
        inputs: one batch of it, as all others will be.
        networks: all that the step changes: averages and modules with running statistics as well.
        optimizers: all that step.
        every: the period of a penalty. warmup: runs before the capture. generators: those that the step draws from,
            beside torch's own. scaler: the step's `torch.amp.GradScaler`, with fused optimizers.

    Returns:
        A `Captured`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, networks without a weight or on several devices. What the
        step itself raises, if it is no RuntimeError, comes through, and all is as it was.
    """
    nets, steppers = _all_of("networks", networks, nn.Module), _all_of("optimizers", optimizers, torch.optim.Optimizer)
    drawing = _all_of("generators", generators, torch.Generator)
    if not callable(step):
        raise TypeError(f"step: got {type(step).__name__}, expected a function that does one training step")
    _check(inputs)
    every = whole("every", every) if every is not None else None
    warmup = whole("warmup", warmup)
    devices = {p.device for network in nets for p in network.parameters()}
    if len(devices) != 1:
        raise ValueError(f"networks: got weights on {len(devices)} devices, expected one")
    captured = Captured(step, devices.pop(), every)
    captured.reason = _why_not(captured.device, steppers)
    if captured.reason is None:
        _try(captured, inputs, nets, steppers, drawing, scaler, warmup)
    elif captured.device.type == "cuda":
        warnings.warn(f"the step runs uncaptured: {captured.reason}", stacklevel=2)
    return captured


def _try(captured: Captured, inputs, networks, optimizers, generators, scaler, warmup: int) -> None:
    """Captures it, or leaves everything as it was."""
    scale = scaler.get_scale() if scaler is not None else 0.0
    drawn = [(generator, generator.get_state()) for generator in generators]
    with contextlib.ExitStack() as back:
        for optimizer in optimizers:
            back.callback(made_capturable(optimizer))
        try:
            rehearsals = max(warmup, REHEARSALS_OF_RANKS) if ranks.ranks() > 1 else warmup
            captured._capture(inputs, generators, undone(networks, optimizers, generators, scaler), rehearsals)
        except RuntimeError as error:  # also what CUDA and the allocator say
            captured.reason = reason(error)
            for generator, state in drawn:
                release(generator)
                generator.set_state(state)
            if scaler is not None and scaler.is_enabled():
                with contextlib.suppress(AssertionError):  # it was never used
                    scaler.update(scale)  # it may have stopped between an optimizer's step and its own update
            warnings.warn(f"the step runs uncaptured: {captured.reason}", stacklevel=3)
        else:
            back.pop_all()


def _check(inputs: Sequence[Tensor]) -> None:
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs: got {type(x).__name__}, expected tensors; bind others with functools.partial")


def _all_of(name: str, given: Any, kind: type) -> list:
    found = [given] if isinstance(given, kind) else list(given)
    for one in found:
        if not isinstance(one, kind):
            raise TypeError(f"{name}: got {type(one).__name__}, expected {kind.__module__}.{kind.__name__}")
    return found


def _why_not(device: torch.device, optimizers: Sequence[torch.optim.Optimizer]) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs are for GPUs, and the networks are on {device.type}"
    if ranks.ranks() > 1 and torch.distributed.get_backend() != "nccl":
        return f"{torch.distributed.get_backend()} cannot be captured, NCCL can"
    return next((why for why in map(unfit, optimizers) if why), None)


def unfit(optimizer: torch.optim.Optimizer, schedulers: Sequence[LRScheduler] = ()) -> str | None:
    """Why an optimizer cannot be captured. schedulers: those that take their steps outside of the graph."""
    name = type(optimizer).__name__
    if "capturable" not in optimizer.defaults and not isinstance(optimizer, torch.optim.SGD):
        return f"{name} cannot be captured: it has no setting `capturable`"
    dampened = any(group.get("dampening") for group in optimizer.param_groups)  # all but the first gradient
    if not state_of(optimizer) and (dampened or not isinstance(optimizer, FROM_ZERO)):
        return f"{name} does not begin with zeros: take one uncaptured step before"
    scheduled = any(scheduler.optimizer is optimizer for scheduler in schedulers)
    numbers = not all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    if scheduled and numbers and not isinstance(optimizer, READ_ON_DEVICE):
        return f"a scheduler changes the learning rate of {name}, and a graph would keep the first one"
    return None


def made_capturable(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Lets an optimizer be captured, and returns what takes that back."""
    settings = [(group, {k: group[k] for k in ("capturable", "lr") if k in group}) for group in optimizer.param_groups]
    known, moved = set(optimizer.state), []
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        if isinstance(optimizer, READ_ON_DEVICE) and group["params"]:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
        for p in group["params"]:
            for name, value in optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor) and value.device != p.device:  # the number of steps
                    moved.append((p, name, value))
                    optimizer.state[p][name] = value.to(p.device)

    def back() -> None:
        for group, before in settings:
            group.update(before)
        for p, name, value in moved:
            optimizer.state[p][name] = value
        for p in set(optimizer.state) - known:  # made for a capturable one
            del optimizer.state[p]

    return back


def detached(values: Any) -> Any:
    """Without the graph that leads to them, whose memory a captured step would keep."""
    if isinstance(values, Tensor):
        return values.detach()
    if type(values) in (list, tuple):
        return type(values)(map(detached, values))
    return {k: detached(v) for k, v in values.items()} if type(values) is dict else values
