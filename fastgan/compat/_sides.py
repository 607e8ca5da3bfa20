"""The losses of a list of discriminators, one by one and together, for codebases that return both."""

from __future__ import annotations

from torch import Tensor

from fastgan import operators
from fastgan.functional import Logits, _check_logits, _listed, _share
from fastgan.operators import Terms


def losses(
    criterion: str, *sides: tuple[str, Logits, float], reduce_discriminators: str = "sum"
) -> tuple[Tensor, Tensor]:
    """`fastgan.adversarial_losses` of sides of one length, whose errors name the caller's own arguments.

    Args:
        sides: (name of the argument, logits, label), one or two of them.

    Returns:
        L, 0-d, and losses, (sides x K,): mean_i phi(x_k[i], label), over K where `reduce_discriminators` is "mean".
        L is their sum. Both differentiable; one launch.
    """
    listed = [_listed(name, logits) for name, logits, _ in sides]
    _check_logits(*[(name, x) for (name, _, _), x in zip(sides, listed)])
    count = len(listed[0])
    for (name, _, _), x in zip(sides, listed):
        if len(x) != count:
            raise ValueError(f"{name}: got {len(x)} tensors, expected {count}, as many as {sides[0][0]}")
    labels = tuple([label for _, _, label in sides for _ in range(count)])
    weights = (_share(reduce_discriminators, count),) * len(labels)
    terms = Terms([t for x in listed for t in x], labels, weights, criterion, count)
    loss, rows = operators.value(terms, operators.LOSSES)
    return loss, rows[:, 0]
