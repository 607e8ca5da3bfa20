"""The losses of a list of discriminators, one by one and together, for codebases that return both."""

from __future__ import annotations

from torch import Tensor

from fastgan.functional import Logits, _listed, _losses_of


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
    counts = [len(_listed(name, logits)) for name, logits, _ in sides]
    for (name, _, _), count in zip(sides, counts):
        if count != counts[0]:
            raise ValueError(f"{name}: got {count} tensors, expected {counts[0]}, as many as {sides[0][0]}")
    return _losses_of(sides, criterion, reduce_discriminators=reduce_discriminators)
