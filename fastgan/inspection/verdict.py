"""Derive the findings from the records of a step."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan import compat
from fastgan.inspection.losses import ADVICE, recognised
from fastgan.inspection.networks import Known, Networks
from fastgan.inspection.places import Place
from fastgan.inspection.report import Finding, StepReport
from fastgan.inspection.trace import Trace

ALWAYS_CAPTURABLE = (torch.optim.SGD,)  # they have no step counter and need no `capturable`


def verdict(trace: Trace, networks: Networks, known: Known) -> StepReport:
    """The report. `Trace.mark` must have run: nodes that are not live are not needed."""
    flops = sum(node.flops for node in trace.nodes)
    findings = [*_waits(trace), *_copies(trace)]
    if known.optimizers:  # without one, all gradients would look unused
        findings += [*_gradients(trace, networks, known, flops), *_branches(networks)]
    findings += [*_graphs(networks), *_losses(trace, networks)]
    findings.sort(key=lambda f: (not f.cost, f.file, f.line))
    against = tuple(_against_capture(trace, known, findings))
    return StepReport(tuple(findings), trace.operators, flops, against, trace.accelerated)


def _waits(trace: Trace) -> Iterator[Finding]:
    counted = Counter((name, at) for name, at, device in trace.waits if device != "cpu" or not trace.accelerated)
    for (name, at), count in counted.items():
        if name.startswith("indexing with a boolean mask"):
            advice = "the shape depends on data: multiply by the mask, or use torch.where"
        elif name.startswith((".item", "float", "format", "int", ".tolist", "repr", ".cpu", ".numpy")):
            advice = "keep the detached tensor, and read it only in the steps that you log"
        else:
            advice = "the shape, or what the host does next, depends on data"
        yield Finding("wait", True, at.file, at.line, name, advice, count)


def _copies(trace: Trace) -> Iterator[Finding]:
    advice = "for a GPU: make the tensor before the loop or on the device, or copy it from pinned memory, non_blocking"
    counted = Counter((name, at) for name, at, device in trace.copies if device != "cpu" or not trace.accelerated)
    for (name, at), count in counted.items():
        yield Finding("copy", False, at.file, at.line, name, advice, count)


def _gradients(trace: Trace, networks: Networks, known: Known, flops: int) -> Iterator[Finding]:
    """Gradients of weights that were discarded before an optimizer read them."""
    dead: dict[Place, list[Tensor]] = defaultdict(list)
    live: dict[Place, list[Tensor]] = defaultdict(list)
    for one in networks.accumulated:
        (live if one.node.live else dead)[one.place].append(one.parameter)
    by_framework = {one.place for one in networks.accumulated if one.framework}
    learns = {id(p) for o in known.optimizers for group in o.param_groups for p in group["params"]}
    for place, parameters in dead.items():
        of = owners(networks, parameters)
        names = ", ".join(dict.fromkeys(type(m).__name__ for m in of)) or "parameters"
        learning = {id(m) for m in owners(networks, live[place])}
        feeds = any((id(m), other) in networks.feeds for m in of for other in learning)
        if not any(id(p) in learns for p in parameters):
            advice = f"no optimizer updates these weights: {names}.requires_grad_(False)"
        elif feeds:
            advice = "the samples reach this loss with their graph: detach them"
        elif any(map(_compiled, of)):
            advice = f"{names}.requires_grad_(False) before it is called: a compiled network computes all or nothing"
        elif place in by_framework:
            advice = f"the framework calls backward: {names}.requires_grad_(False) before it is called, True afterwards"
        else:
            advice = "fastgan.generator_backward(loss, generator) computes none of them"
        wasted = sum(node.flops for node in trace.nodes if node.backward and not node.live and node.place == place)
        what = f"of {len({id(p) for p in parameters})} weights of {names}"
        yield Finding(
            "gradients", True, place.file, place.line, what, advice, 1, wasted / flops if flops and wasted else None
        )


def _compiled(module: nn.Module) -> bool:
    """Whether the module was compiled by torch.compile or by its `compile` method."""
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def owners(networks: Networks, parameters: Iterable[Tensor]) -> list[nn.Module]:
    """Those networks that the step itself calls and that have some of the parameters."""
    wanted = {id(p) for p in parameters}
    return [m for m in networks.outermost if any(id(p) in wanted for p in m.parameters())]


def _branches(networks: Networks) -> Iterator[Finding]:
    """Calls on samples that require no grad, with a backward pass through them whose weight gradients nothing uses."""
    counted: Counter = Counter()
    generators = {producer for producer, _ in networks.feeds}  # `_gradients` reports these
    for call in networks.calls:
        if not call.samples or id(call.module) in generators:
            continue
        weights = {id(p) for p in call.module.parameters()}
        through = [a for a in networks.accumulated if a.place in call.walked and id(a.parameter) in weights]
        by_place = defaultdict(list)
        for one in through:
            by_place[one.place].append(one.node.live)
        if any(not any(lives) for lives in by_place.values()):
            counted[call.place, type(call.module).__name__] += 1
    advice = "detach its maps or run it under torch.no_grad(); fastgan.generator_backward leaves it out, too"
    for (place, name), count in counted.items():
        yield Finding(
            "branch", True, place.file, place.line, f"{name} on samples that nothing learns from here", advice, count
        )


def _graphs(networks: Networks) -> Iterator[Finding]:
    counted: Counter = Counter()
    for call in networks.calls:
        if call.outermost and not call.walked:
            feeds = any(producer == id(call.module) for producer, _ in networks.feeds)
            counted[call.place, type(call.module).__name__, feeds] += 1
    for (place, name, feeds), count in counted.items():
        what = f"of {name}, whose output is used detached" if feeds else f"of {name}"
        advice = "under torch.no_grad() it keeps no activations"
        yield Finding("graph", feeds, place.file, place.line, what, advice, count)


def _losses(trace: Trace, networks: Networks) -> Iterator[Finding]:
    counted = Counter((name, n.place) for name, n in recognised(trace.nodes, {c for _, c in networks.feeds}))
    known = codebases() if counted else {}
    for (name, place), count in counted.items():
        advice = ADVICE[name]
        if known:
            advice += "; " + ", ".join(f"fastgan.patch({codebase!r}) serves {m}" for codebase, m in known.items())
        yield Finding("loss", False, place.file, place.line, name, advice, count)


def codebases() -> dict[str, str]:
    """Codebases that `fastgan.patch` knows and that are imported: {name in `fastgan.compat`: their module}."""
    main = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "").stem
    importable = compat.importable([os.getcwd(), *sys.path])
    return {codebase: module for codebase, module in importable if module in sys.modules or module == main}


def _against_capture(trace: Trace, known: Known, findings: list[Finding]) -> Iterator[str]:
    waits = sum(f.count for f in findings if f.kind == "wait")
    if waits:
        yield f"the host waits {waits} time{'s' * (waits > 1)}"
    if trace.accelerated and any(f.kind == "copy" for f in findings):
        yield "copies from the host"
    if trace.scaled and waits:
        yield "GradScaler reads whether gradients were finite, unless the optimizer is fused"
    if trace.accelerated:
        for optimizer in known.optimizers:
            name = type(optimizer).__name__
            if not isinstance(optimizer, ALWAYS_CAPTURABLE) and not all(
                group.get("capturable") for group in optimizer.param_groups
            ):
                can = "capturable" in optimizer.defaults
                yield f"{name} is not capturable" + (" (fastgan.capture makes it so)" if can else "")
