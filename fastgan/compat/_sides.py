"""The losses of a list of discriminators, one by one and together, for codebases that return both."""

from __future__ import annotations

from torch import Tensor

from fastgan import operators
from fastgan.functional import Logits, _listed, terms_of_sides


def losses(
    criterion: str,
    *sides: tuple[str, Logits, float],
    reduce_discriminators: str = "sum",
    of_sides: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """L and its parts; one launch forward, and one backward for each of them that goes backward.

    Args:
        sides: (name of the argument, logits, label), one or two of them, of one length.
        of_sides: a part for each side, not for each tensor.

    Returns:
        L, 0-d, and its parts, 0-d: mean_i phi(x_k[i], label), over K where `reduce_discriminators` is "mean"; L is
        their sum. All have graphs of their own, as they have where each is computed by itself: any of them can go
        backward first, and one whose logits ask for no gradient asks for none. Errors name the caller's own arguments.
    """
    counts = [len(_listed(name, logits)) for name, logits, _ in sides]
    for (name, _, _), count in zip(sides, counts):
        if count != counts[0]:
            raise ValueError(f"{name}: got {count} tensors, expected {counts[0]}, as many as {sides[0][0]}")
    terms = terms_of_sides(sides, criterion, reduce_discriminators=reduce_discriminators)
    every, n = range(len(terms.logits)), counts[0]
    groups = [every[i : i + n] for i in range(0, len(every), n)] if of_sides else [(i,) for i in every]
    total, *parts = operators.apart(terms, [every, *groups])
    return total, parts
