"""The losses of several discriminators, separate and summed, for codebases that return both."""

from __future__ import annotations

from torch import Tensor

from fastgan.formulas.terms import Terms
from fastgan.losses.arguments import Logits, listed
from fastgan.losses.assemble import terms_of_sides
from fastgan.operators import adversarial as operators

Side = tuple[str, Logits, float]  # (name of the argument, logits, label)


def each_loss(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> list[Tensor]:
    """mean_i phi(x_k[i], label) of every tensor of the sides, 0-d; divided by K if `reduce_discriminators` is "mean".

    One launch computes all losses, and one launch runs each backward pass. Each loss has its own graph, as if computed
    separately: the backward passes can run in any order, and a loss requires grad only if its logits do. All sides have
    the same length; errors name the caller's arguments."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return operators.apart(terms, _by_tensor(terms))


def each_side(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> list[Tensor]:
    """The sum of `each_loss` of each side."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return operators.apart(terms, _by_side(terms, len(sides)))


def total_and_each_loss(criterion: str, *sides: Side) -> tuple[Tensor, list[Tensor]]:
    """(the sum of `each_loss`, `each_loss`)."""
    terms = _terms(criterion, sides, "sum")
    total, *parts = operators.apart(terms, [slice(None), *_by_tensor(terms)])
    return total, parts


def total_and_each_side(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> tuple[Tensor, ...]:
    """The sum of `each_side`, and `each_side`."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return tuple(operators.apart(terms, [slice(None), *_by_side(terms, len(sides))]))


def total_and_values(criterion: str, *sides: Side) -> tuple[Tensor, list[Tensor]]:
    """(the sum of `each_loss`, its detached parts, for logging). One launch forward, one backward."""
    total, rows = operators.value(_terms(criterion, sides, "sum"), operators.LOSSES)
    return total, list(rows.detach()[:, 0].clone().unbind())


def _terms(criterion: str, sides: tuple[Side, ...], reduce_discriminators: str) -> Terms:
    counts = [len(listed(name, logits)) for name, logits, _ in sides]
    for (name, _, _), count in zip(sides, counts):
        if count != counts[0]:
            raise ValueError(f"{name}: got {count} tensors, expected {counts[0]}, as many as {sides[0][0]}")
    return terms_of_sides(sides, criterion, reduce_discriminators=reduce_discriminators)


def _by_tensor(terms: Terms) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(terms.logits))]


def _by_side(terms: Terms, count: int) -> list[slice]:
    n = len(terms.logits) // count
    return [slice(i * n, (i + 1) * n) for i in range(count)]
