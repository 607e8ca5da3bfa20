"""Record one run of a step: every operator with its inputs, its FLOPs and the user's line.

`TorchDispatchMode` is in a module whose name begins with an underscore, but PyTorch's documentation and
`torch.utils.flop_counter` use it. It is imported only here.
"""

from __future__ import annotations

import contextlib
import linecache
import math
import re
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fastgan.inspection.places import Place, Where, called_by_user, where

# Operators that synchronise with the device: the host needs a computed value.
WAITS = {
    "_local_scalar_dense": ".item()", "nonzero": "nonzero()", "masked_select": "masked_select()",
    "_unique2": "unique()", "unique_dim": "unique()", "unique_consecutive": "unique_consecutive()",
    "unique_dim_consecutive": "unique_consecutive()", "equal": "torch.equal()", "bincount": "bincount()",
}  # fmt: skip
# Calls that read a tensor on the host. On a CPU some of them call no operator.
READS = {
    "item": ".item()", "tolist": ".tolist()", "numpy": ".numpy()", "cpu": ".cpu()", "__array__": "numpy.asarray()",
    "__float__": "float()", "__int__": "int()", "__bool__": "bool()", "__index__": "int()", "__complex__": "complex()",
    "__format__": "format()", "__repr__": "repr()", "__contains__": "in",
}  # fmt: skip
COPIES = ("tensor", "as_tensor", "from_numpy")  # functions that make a tensor from numbers of the host
OVERWRITES = ("zero_", "fill_", "copy_", "normal_", "uniform_", "_foreach_zero_", "_foreach_copy_")
CONVOLUTIONS = ("convolution", "convolution_backward")
LITERAL_TO_CPU = re.compile(r"""\.to\(\s*(device\s*=\s*)?(torch\.device\(\s*)?["']cpu["']""")


class Node:
    """The output of an operator. inputs: the nodes that it read, None for a tensor from before the step."""

    __slots__ = ("backward", "constant", "flops", "inputs", "live", "name", "network", "number", "place")

    def __init__(self, name: str, inputs: tuple[Node | None, ...], flops: int, at: Where):
        self.name, self.inputs, self.flops = name, inputs, flops
        self.place, self.backward = at.outer, at.backward
        self.live = False
        self.network: nn.Module | None = None  # the module whose output this is
        self.number: float | None = None  # the exponent of a power
        self.constant = False  # the loss's target has the same value everywhere


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)


def key_of(t: Tensor) -> int:
    """The address of the tensor's storage; 0 if it has none."""
    try:
        return t.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or a subclass that only wraps
        return 0


class Trace(TorchDispatchMode):
    """The operators of a run as a graph: each node refers to the nodes that it read.

    last: for each storage, the node that last wrote it. kept: nodes whose values are used outside the graph: by the
    host, by an optimizer, or in a tensor from before the step. grads: storages of gradients from before the step."""

    def __init__(self, grads: set[int]):
        super().__init__()
        self.nodes: list[Node] = []
        self.last: dict[int, Node] = {}
        self.kept: list[Node] = []
        self.grads = grads
        self.outside: set[int] = set()  # storages from before the step that the step has written
        self.made: list[tuple[weakref.ref, int]] = []  # tensors that the step has made, and their storages
        self.waits: list[tuple[str, Place, str]] = []  # call, line, the tensor's device type
        self.copies: list[tuple[str, Place, str]] = []  # call, line, the device type of the copy
        self.calling = ""  # the torch function that runs now
        self.quiet = 0
        self.operators = 0
        self.scaled = False  # a GradScaler is used
        self.accelerated = False  # a GPU is used

    # ---- what waits ------------------------------------------------------------------------------------------------

    def read(self, name: str, tensors: list[Tensor], at: Where | None = None) -> None:
        """Record that the host reads the tensors."""
        self.keep(tensors)
        if self.quiet or not tensors:
            return
        at = at or where()
        if not at.optimizer:  # an optimizer's counters are on the host
            name += " in the backward pass" * at.backward
            self.waits.append((name, at.inner, tensors[0].device.type))

    def keep(self, tensors: Any) -> None:
        self.kept += [node for t in tensors_of(tensors) if (node := self.last.get(key_of(t)))]

    @contextlib.contextmanager
    def silently(self) -> Iterator[None]:
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def _look_for_waits(self, name: str, args: tuple, kwargs: dict, inputs: list[Tensor], at: Where) -> None:
        if name in WAITS:
            sliced = name == "_local_scalar_dense" and self.calling in ("__getitem__", "__setitem__")
            self.read("a slice whose bounds are tensors" if sliced else WAITS[name], inputs[:1], at)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None and len(args) < 2:
            self.read("repeat_interleave() without output_size", inputs[:1], at)
        elif name in ("index", "index_put", "index_put_") and len(args) > 1:
            mask = any(t.dtype in (torch.bool, torch.uint8) for t in tensors_of(args[1]))
            fills = len(args) > 2 and args[2].numel() == 1  # one number into the mask: no shape depends on data
            if mask and not fills:
                self.read("indexing with a boolean mask", inputs[:1], at)
        elif name == "_amp_foreach_non_finite_check_and_unscale_":
            self.scaled = True

    def _look_for_copies(self, name: str, inputs: list[Tensor], outputs: list[Tensor], at: Where) -> None:
        if name in ("_to_copy", "copy_") and inputs and outputs:
            source, target = inputs[-1], outputs[0]
            if source.device.type != "cpu" and target.device.type == "cpu":
                self.read("a copy to the host", [source], at)
            elif source.device.type == "cpu" and target.device.type != "cpu" and not source.is_pinned():
                self.copies.append((".to() of a tensor of the host", at.inner, target.device.type))

    # ---- every operator --------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # then composite operators arrive here without being decomposed
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        name, _, overload = func.name().partition("::")[2].partition(".")
        at = where()
        inputs = list(tensors_of((args, kwargs)))
        with self.silently():
            keys = [key_of(t) for t in inputs]
        self._look_for_waits(name, args, kwargs, inputs, at)
        out = func(*args, **kwargs)
        with self.silently():
            outputs = list(tensors_of(out))
            self._look_for_copies(name, inputs, outputs, at)
            self._record(func, name, overload, (args, kwargs), dict(zip(keys, inputs)), keys, out, outputs, at)
        return out

    def _record(self, func, name, overload, called, inputs, keys, out, outputs, at) -> None:
        args, kwargs = called
        writes = (name.endswith("_") and not name.endswith("__")) or overload == "out"
        written = {key_of(t) for t in tensors_of(args[0] if overload != "out" else out)} - {0} if writes else set()
        fresh = [t for t in outputs if key_of(t) not in inputs or name == "lift_fresh"]
        self.accelerated |= any(t.device.type not in ("cpu", "meta") for t in outputs)
        if not written and not fresh:
            return  # a view
        self.operators += not name.startswith(("empty", "new_empty", "lift_fresh"))
        whole = {k for k in written if k and name in OVERWRITES and _is_whole(inputs.get(k))}
        read = tuple(self.last.get(k) for k in keys if k not in whole)
        if name == "convolution_backward":
            flops = _flops_of_convolution(args)
            for i, t in enumerate(out):
                if t is not None:
                    self._wrote(t, self._node(name, read, flops if i < 2 else 0, at))
            return
        node = self._node(name, read, self._flops(func, name, args, kwargs, out), at)
        if name == "pow" and len(args) > 1 and isinstance(args[1], (int, float)):
            node.number = args[1]
        elif name in ("mse_loss", "l1_loss") and len(args) > 1:
            node.constant = _is_constant(args[1])
        for t in fresh:
            self._wrote(t, node)
        for k in written:
            if k not in self.last or k in self.outside:
                self.outside.add(k)
                if k not in self.grads:
                    self.kept.append(node)  # weights, buffers, an average: used after the step
            self.last[k] = node

    def _node(self, name: str, read: tuple, flops: int, at: Where) -> Node:
        node = Node(name, read, flops, at)
        self.nodes.append(node)
        return node

    def _wrote(self, t: Tensor, node: Node) -> None:
        key = key_of(t)
        if key:
            self.last[key] = node
            self.outside.discard(key)
            self.made.append((weakref.ref(t), key))

    def _flops(self, func, name: str, args, kwargs, out) -> int:
        if name == "convolution":
            return _flops_of_convolution((out, *args))
        formula = flop_registry.get(getattr(func, "overloadpacket", None))
        return formula(*args, **kwargs, out_val=out) if formula else 0

    def still_there(self) -> list[Tensor]:
        """Tensors that the step has made and that still exist."""
        return [t for ref, _ in self.made if (t := ref()) is not None]

    def mark(self) -> None:
        """Set `live` of the kept nodes and of all nodes on which they depend."""
        todo = [node for node in self.kept if not node.live]
        while todo:
            node = todo.pop()
            if not node.live:
                node.live = True
                todo += [n for n in node.inputs if n is not None and not n.live]


def _is_whole(t: Tensor | None) -> bool:
    """Whether the tensor covers its whole storage."""
    return t is not None and t.numel() * t.element_size() == t.untyped_storage().nbytes()


def _is_constant(t: Any) -> bool:
    if not isinstance(t, Tensor) or t.numel() == 0:
        return False
    return not any(t.stride()) or bool((t == t.flatten()[0]).all())


def _flops_of_convolution(args) -> int:
    """FLOPs of a forward pass, and of each of the two gradients: `torch.utils.flop_counter` ignores groups. args:
    output or its gradient, input, weight, bias, stride, padding, dilation, transposed, ... In `convolution_backward` a
    list of sizes takes the place of the bias."""
    out, x, weight = args[:3]
    steps = x if args[7] else out
    return 2 * weight.numel() * x.shape[0] * math.prod(steps.shape[2:])


class Calls(TorchFunctionMode):
    """Record the torch functions that the user calls, also those that call no operator, as `.numpy()` on a CPU."""

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func, types, args=(), kwargs=None):
        trace, name, kwargs = self.trace, getattr(func, "__name__", ""), kwargs or {}
        if trace.quiet:
            return func(*args, **kwargs)
        read = READS.get(name)
        if name == "to" and args and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            line = linecache.getline(*where().inner)
            read = '.to("cpu")' if LITERAL_TO_CPU.search(line) else None  # `.to(device)` usually moves to a GPU
        # one_hot with num_classes reads the smallest label, but only on a CPU
        quiet = name == "one_hot" and (len(args) > 1 or "num_classes" in kwargs)
        if read is not None and args and isinstance(args[0], Tensor):
            trace.read(read, [args[0]])
            quiet = True
        before, trace.calling = trace.calling, name
        try:
            with trace.silently() if quiet else contextlib.nullcontext():
                out = func(*args, **kwargs)
        finally:
            trace.calling = before
        if name in COPIES and called_by_user() and next(tensors_of(args), None) is None:
            trace.copies.append((f"torch.{name}()", where().inner, out.device.type))
        return out
