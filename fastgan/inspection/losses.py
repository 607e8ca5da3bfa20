"""Recognise losses on a discriminator's output by their operators, in whatever form and module they are written."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from fastgan.inspection.trace import Node

# Allowed between a discriminator's output and its criterion: additions, multiplications, and changes of dtype.
AFFINE = ("add", "add_", "sub", "sub_", "rsub", "neg", "mul", "mul_", "div", "_to_copy", "clone", "cat", "stack")
MAX_DEPTH = 6  # of such operators

BY_SIDE = "`fastgan.discriminator_loss` and `fastgan.generator_loss`"
ADVICE = {
    "binary cross-entropy of probabilities": f"may be replaced by {BY_SIDE}, which read the logits before the sigmoid",
    "binary cross-entropy of logits": f"may be replaced by {BY_SIDE}",
    "softplus of logits": f"may be replaced by {BY_SIDE}",
    "softplus of differences": f'may be replaced by {BY_SIDE} with objective="relativistic"',
    "least squares against a constant": f'may be replaced by {BY_SIDE} with objective="least_squares"',
    "hinge": f'may be replaced by {BY_SIDE} with objective="hinge"',
    "L1 of feature maps": "may be replaced by `fastgan.feature_matching_loss`, over all maps at once",
}


def recognised(nodes: Collection[Node], discriminators: Collection[int]) -> Iterator[tuple[str, Node]]:
    """Yield (a key of ADVICE, the node of the loss). discriminators: ids of modules that saw another one's output."""
    for node in nodes:
        if not node.backward:
            name = _name(node, discriminators)
            if name:
                yield name, node


def _name(node: Node, discriminators: Collection[int]) -> str | None:
    def discriminators_of(one: Node | None) -> list[nn.Module]:
        return [m for m in sources(one) if id(m) in discriminators]

    def first_input(one: Node) -> Node | None:
        return one.inputs[0] if one.inputs else None

    first = first_input(node)
    if first is None:
        return None
    if node.name == "binary_cross_entropy_with_logits":
        return "binary cross-entropy of logits" if discriminators_of(first) else None
    if node.name == "binary_cross_entropy":
        before = first_input(first) if first.name == "sigmoid" and not discriminators_of(first) else first
        return "binary cross-entropy of probabilities" if discriminators_of(before) else None
    if node.name == "mse_loss":
        return "least squares against a constant" if node.constant and discriminators_of(first) else None
    if node.name not in ("mean", "sum"):
        return None
    while first is not None and first.name in ("neg", "mul", "div"):
        first = first_input(first)
    if first is None or first.network is not None:
        return None
    inner = first_input(first)
    networks = discriminators_of(inner)
    if not networks:
        return None
    if first.name == "softplus":
        return "softplus of differences" if len(networks) > 1 else "softplus of logits"
    if first.name == "pow" and first.number == 2 and len(sources(inner)) == 1:
        return "least squares against a constant"
    if first.name in ("relu", "relu_", "clamp_min", "clamp", "minimum", "clamp_max", "threshold"):
        return "hinge" if inner is not None and inner.name in AFFINE else None
    if first.name == "abs" and inner is not None and inner.name == "sub" and len(networks) == 2:
        return "L1 of feature maps" if networks[0] is networks[1] else None
    return None


def sources(node: Node | None, depth: int = MAX_DEPTH) -> list[nn.Module]:
    """The networks from whose outputs the node is computed by AFFINE operators only, one entry for each output."""
    if node is None or depth == 0:
        return []
    if node.network is not None:
        return [node.network]
    if node.name not in AFFINE:
        return []
    return [m for one in node.inputs for m in sources(one, depth - 1)]
