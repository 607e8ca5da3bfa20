"""`fastgan.capture`: the training step of your own loop as a CUDA graph."""

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
from fastgan.training.capture import REHEARSALS, REHEARSALS_OF_RANKS, Graphs, reason, release, state_of, state_restored

__all__ = ["Captured", "capture"]

# Optimizers whose state starts at zero, which undoes their rehearsals. Others must have a state before the capture.
ZERO_STATE_OPTIMIZERS = (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.RAdam),
    *(torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.SGD),
)
TENSOR_LR_OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW)  # they read a tensor learning rate on the device


class Captured:
    """What `fastgan.capture` returns. Call it like the step; it returns what the step returns.

    reason: one line that says why the step runs uncaptured; None if it is captured. calls: the number of calls so far;
    with `every`, set it if a run resumes in the middle of a period."""

    def __init__(self, step: Callable[..., Any], device: torch.device, every: int | None):
        self.step, self.device, self.every = step, device, every
        self.calls = 0
        self.reason: str | None = None
        self._graphs: Graphs | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        _check_inputs(inputs)
        due = self.every is not None and self.calls % self.every == 0
        if self._graphs is not None and self._graphs.fits(inputs):
            values = self._graphs.replay(inputs, due)
        else:
            values = self._play(*(x.to(self.device, non_blocking=True) for x in inputs), due)
        self.calls += 1
        return values

    def _play(self, *inputs_and_due: Any) -> Any:
        """Run the step itself. If `every` is set, its last argument says whether the penalty is due."""
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
    """Your training step as one CUDA graph: the host launches one graph instead of every kernel.

        def step(real):
            ...                                        # both players: zero_grad, backward, optimizer.step()
            return {"loss_d": loss_d, "loss_g": loss_g}

        fast = fastgan.capture(step, real, networks=[generator, discriminator, average], optimizers=[opt_g, opt_d])
        for real in loader:
            values = fast(real)                        # the same tensors every time: read or clone them before the next
        fast.reason                                    # None, or why the step runs uncaptured

    With a lazy penalty, `every=16`, the step gets one more argument: True in calls 0, 16, 32, ..., otherwise False.
    The two cases are two graphs that share their memory.

    On a GPU the step first runs `warmup` times (in each case) on a separate stream. Its changes to the weights and
    buffers of networks, to weights and state of optimizers, to `scaler` and to random states are then undone, and
    gradients set to None. Each batch is copied to the graph's input tensors, also from the CPU. Every step equals the
    uncaptured one to the bit, if its kernels are deterministic.

    So that the graph does not repeat the first step's numbers, `capturable=True` is set in the optimizers that have it,
    and the learning rates of Adam and AdamW become tensors on the GPU. PyTorch's schedulers change these in place; in
    your loop use `group["lr"].fill_(lr)`. Other optimizers keep the learning rate that they have at the capture. All
    optimizers keep their other settings.

    The step runs uncaptured, with the reason in `.reason` and, on a GPU, in a warning, if the networks are not on a
    GPU, an optimizer cannot be captured, the step synchronises with the host (`fastgan.inspect_step` says where) or
    draws random numbers on the host. The optimizers are then unchanged. Batches of another shape or dtype run
    uncaptured too.

    Limits of a graph: numbers that the step computes in Python (a counter, a schedule inside it) keep their values of
    the capture, and a replay appends nothing to lists. State of the step on the device must be a buffer of a module in
    networks. Step the schedulers outside of the step. Zero the gradients inside of it.

    Args:
        step: a function of tensors, and of a bool if every is given. It returns tensors, or dictionaries, lists or
            tuples of tensors; the caller gets them detached.
        inputs: one batch; later batches must have its shapes and dtypes.
        networks: every module that the step changes, also averages and modules with running statistics.
        optimizers: every optimizer that the step uses.
        every: the period of a penalty. warmup: runs before the capture. generators: those that the step draws from,
            except torch's default ones. scaler: the step's `torch.amp.GradScaler`, with fused optimizers.

    Returns:
        A `Captured`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, networks have no weights or are on several devices.
        Exceptions of the step except RuntimeError are raised too; the state is then restored.
    """
    modules = _as_list("networks", networks, nn.Module)
    stepped = _as_list("optimizers", optimizers, torch.optim.Optimizer)
    drawing = _as_list("generators", generators, torch.Generator)
    if not callable(step):
        raise TypeError(f"step: got {type(step).__name__}, expected a function that does one training step")
    _check_inputs(inputs)
    every = whole("every", every) if every is not None else None
    warmup = whole("warmup", warmup)
    devices = {p.device for network in modules for p in network.parameters()}
    if len(devices) != 1:
        raise ValueError(f"networks: got weights on {len(devices)} devices, expected one")
    captured = Captured(step, devices.pop(), every)
    captured.reason = _why_not(captured.device, stepped)
    if captured.reason is None:
        _try_to_capture(captured, inputs, modules, stepped, drawing, scaler, warmup)
    elif captured.device.type == "cuda":
        warnings.warn(f"the step runs uncaptured: {captured.reason}", stacklevel=2)
    return captured


def _try_to_capture(captured: Captured, inputs, networks, optimizers, generators, scaler, warmup: int) -> None:
    """Capture the step, or restore everything and set `captured.reason`."""
    scale = scaler.get_scale() if scaler is not None else 0.0
    drawn = [(generator, generator.get_state()) for generator in generators]
    with contextlib.ExitStack() as restoring:
        for optimizer in optimizers:
            restoring.callback(make_capturable(optimizer))
        try:
            rehearsals = max(warmup, REHEARSALS_OF_RANKS) if ranks.ranks() > 1 else warmup
            captured._capture(inputs, generators, state_restored(networks, optimizers, generators, scaler), rehearsals)
        except RuntimeError as error:  # CUDA and its allocator raise RuntimeError too
            captured.reason = reason(error)
            for generator, state in drawn:
                release(generator)
                generator.set_state(state)
            if scaler is not None and scaler.is_enabled():
                with contextlib.suppress(AssertionError):  # the scaler was never used
                    scaler.update(scale)  # the failure may have come between an optimizer's step and this update
            warnings.warn(f"the step runs uncaptured: {captured.reason}", stacklevel=3)
        else:
            restoring.pop_all()


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs: got {type(x).__name__}, expected tensors; bind others with functools.partial")


def _as_list(name: str, value: Any, kind: type) -> list:
    items = [value] if isinstance(value, kind) else list(value)
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"{name}: got {type(item).__name__}, expected {kind.__module__}.{kind.__name__}")
    return items


def _why_not(device: torch.device, optimizers: Sequence[torch.optim.Optimizer]) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs are for GPUs, and the networks are on {device.type}"
    if ranks.ranks() > 1 and torch.distributed.get_backend() != "nccl":
        return f"{torch.distributed.get_backend()} cannot be captured, NCCL can"
    return next((why for why in map(why_not_capturable, optimizers) if why), None)


def why_not_capturable(optimizer: torch.optim.Optimizer, schedulers: Sequence[LRScheduler] = ()) -> str | None:
    """Why an optimizer cannot be captured; None if it can. schedulers: those that step outside of the graph."""
    name = type(optimizer).__name__
    if "capturable" not in optimizer.defaults and not isinstance(optimizer, torch.optim.SGD):
        return f"{name} cannot be captured: it has no setting `capturable`"
    dampened = any(group.get("dampening") for group in optimizer.param_groups)  # dampens all gradients but the first
    if not state_of(optimizer) and (dampened or not isinstance(optimizer, ZERO_STATE_OPTIMIZERS)):
        return f"the state of {name} does not begin with zeros: take one uncaptured step before"
    scheduled = any(scheduler.optimizer is optimizer for scheduler in schedulers)
    numbers = not all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    if scheduled and numbers and not isinstance(optimizer, TENSOR_LR_OPTIMIZERS):
        return f"a scheduler changes the learning rate of {name}, and a graph would keep the first one"
    return None


def make_capturable(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Prepare an optimizer for capture. Returns a function that undoes it."""
    settings: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (group, {k: group[k] for k in ("capturable", "lr") if k in group}) for group in optimizer.param_groups
    ]
    known, moved = set(optimizer.state), []
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        if isinstance(optimizer, TENSOR_LR_OPTIMIZERS) and group["params"]:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
        for p in group["params"]:
            for name, value in optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor) and value.device != p.device:  # the step count
                    moved.append((p, name, value))
                    optimizer.state[p][name] = value.to(p.device)

    def restore() -> None:
        for group, before in settings:
            group.update(before)
        for p, name, value in moved:
            optimizer.state[p][name] = value
        for p in set(optimizer.state) - known:  # state that was made with capturable=True
            del optimizer.state[p]

    return restore


def detached(values: Any) -> Any:
    """The same values without their autograd graph, whose memory a captured step would keep."""
    if isinstance(values, Tensor):
        return values.detach()
    if type(values) in (list, tuple):
        return type(values)(map(detached, values))
    return {k: detached(v) for k, v in values.items()} if type(values) is dict else values
