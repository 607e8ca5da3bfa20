"""Record the modules that a step calls and the gradients that it accumulates, with the user's lines."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fastgan.inspection.places import Place, where
from fastgan.inspection.trace import Node, Trace, key_of, tensors_of

MAX_NODES = 64  # to visit in search of the network that a network's input comes from


@dataclass(eq=False)
class Call:
    """A call of a module with trainable parameters, whose output has a graph."""

    module: nn.Module
    place: Place
    outermost: bool  # called by the step itself, not by another module
    samples: bool  # no input requires grad
    walked: set[Place] = field(default_factory=set)  # the lines of the backward passes that went through it


@dataclass(eq=False)
class Accumulation:
    parameter: Tensor
    place: Place
    node: Node
    framework: bool  # a framework called backward


class Known:
    """The optimizers that step, and the parameters of these optimizers and of every module that runs."""

    def __init__(self) -> None:
        self.optimizers: list[torch.optim.Optimizer] = []
        self.parameters: dict[int, Tensor] = {}
        self.trace: Trace | None = None

    def add(self, parameters: Iterable[Any]) -> None:
        self.parameters |= {id(p): p for p in parameters if isinstance(p, Tensor) and p.is_leaf}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def of_module(module: nn.Module, _) -> None:
            self.add(module.parameters(recurse=False))

        handles = [register_module_forward_pre_hook(of_module), register_optimizer_step_pre_hook(self._steps)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _steps(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if not any(optimizer is other for other in self.optimizers):
            self.optimizers.append(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.add(parameters)
        if self.trace is not None:  # an optimizer may update weights without an operator that the trace sees
            with self.trace.silently():
                self.trace.keep([p.grad for p in parameters if p.grad is not None])

    def gradients(self) -> dict[int, Tensor]:
        return {i: p.grad for i, p in self.parameters.items() if p.grad is not None}


class Networks:
    def __init__(self, trace: Trace, known: Known):
        self.trace, self.known = trace, known
        self.calls: list[Call] = []
        self.accumulated: list[Accumulation] = []
        self.outermost: list[nn.Module] = []  # the modules that the step itself calls
        self.feeds: set[tuple[int, int]] = set()  # (id of a module, id of a module whose input depends on its output)
        self._hooked: dict[int, Any] = {}
        self._inside: list[int] = []  # for every module that runs now: the number of calls recorded before it

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            register_module_forward_pre_hook(self._starts),
            register_module_forward_hook(self._called, with_kwargs=True),
        ]
        self._hook(self.known.parameters.values())
        try:
            yield
        finally:
            for handle in (*handles, *self._hooked.values()):
                handle.remove()

    def _hook(self, parameters: Iterable[Tensor]) -> None:
        for p in parameters:
            if id(p) not in self._hooked:
                required = p.requires_grad
                p.requires_grad_(True)  # a hook needs it, and some loops switch it off and on
                self._hooked[id(p)] = p.register_post_accumulate_grad_hook(self._accumulate)
                p.requires_grad_(required)

    def _starts(self, module: nn.Module, _) -> None:
        with self.trace.silently():
            self._hook(module.parameters(recurse=False))
        self._inside.append(len(self.calls))

    def _accumulate(self, parameter) -> None:
        with self.trace.silently():
            node = self.trace.last.get(key_of(parameter.grad))
        if node is not None:
            at = where()
            self.accumulated.append(Accumulation(parameter, at.outer, node, at.framework))

    def _called(self, module: nn.Module, args, kwargs, output) -> None:
        with self.trace.silently():
            self._record(module, (args, kwargs), output)

    def _record(self, module: nn.Module, arguments, output) -> None:
        before, outermost = self._inside.pop(), not self._inside
        if next(module.parameters(), None) is None:
            return
        inputs = [t for t in tensors_of(arguments) if t.is_floating_point()]
        outputs = list(tensors_of(output))
        if outermost or next(module.children(), None) is not None:
            self._mark(module, inputs, outputs)
        if not any(p.requires_grad for p in module.parameters()):
            return
        if outermost and not any(module is other for other in self.outermost):
            self.outermost.append(module)
        graphs = [t for t in outputs if t.requires_grad and not t.is_leaf]
        samples = bool(inputs) and not any(t.requires_grad for t in inputs)
        if not graphs or not (outermost or samples):
            return
        if samples:
            del self.calls[before:]  # those of modules inside it
        call = Call(module, where().inner, outermost, samples)
        self.calls.append(call)
        for t in graphs:
            t.register_hook(functools.partial(_walk, call))

    def _mark(self, module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        trace, seen = self.trace, {key_of(t) for t in inputs}
        for producer in {id(m): m for t in inputs for m in producers(trace.last.get(key_of(t)))}.values():
            if producer is not module:
                self.feeds.add((id(producer), id(module)))
        for t in outputs:
            node = trace.last.get(key_of(t))
            if node is not None and key_of(t) not in seen:
                node.network = module


def _walk(call: Call, _: Tensor) -> None:
    call.walked.add(where().outer)


def producers(node: Node | None) -> Iterator[nn.Module]:
    """The networks from whose outputs the node is computed."""
    todo, visited = [node], 0
    while todo and visited < MAX_NODES:
        one, visited = todo.pop(), visited + 1
        if one is not None and one.network is not None:
            yield one.network
        elif one is not None:
            todo += one.inputs
