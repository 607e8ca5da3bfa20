"""The losses of a list of discriminators, one by one and together, for codebases that return several."""

from __future__ import annotations

from torch import Tensor

from fastgan.formulas.terms import Terms
from fastgan.losses.arguments import Logits, listed
from fastgan.losses.assemble import terms_of_sides
from fastgan.operators import adversarial as operators

Side = tuple[str, Logits, float]  # (name of the argument, logits, label)


def each_loss(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> list[Tensor]:
    """mean_i phi(x_k[i], label) of every tensor of the sides, 0-d, over K where `reduce_discriminators` is "mean".

    One launch forward for all, and one backward for each that goes backward: each has a graph of its own, as where it
    is computed by itself. Any can go backward first, and one whose logits ask for no gradient asks for none. Sides are
    of one length; errors name the caller's own arguments."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return operators.apart(terms, _each(terms))


def each_side(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> list[Tensor]:
    """The sum of `each_loss` of each side."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return operators.apart(terms, _halves(terms, len(sides)))


def total_and_each_loss(criterion: str, *sides: Side) -> tuple[Tensor, list[Tensor]]:
    """(the sum of `each_loss`, `each_loss`)."""
    terms = _terms(criterion, sides, "sum")
    total, *parts = operators.apart(terms, [slice(None), *_each(terms)])
    return total, parts


def total_and_each_side(criterion: str, *sides: Side, reduce_discriminators: str = "sum") -> tuple[Tensor, ...]:
    """The sum of `each_side`, and `each_side`."""
    terms = _terms(criterion, sides, reduce_discriminators)
    return tuple(operators.apart(terms, [slice(None), *_halves(terms, len(sides))]))


def total_and_values(criterion: str, *sides: Side) -> tuple[Tensor, list[Tensor]]:
    """(the sum of `each_loss`, its parts to be logged: without a graph). One launch each way."""
    total, rows = operators.value(_terms(criterion, sides, "sum"), operators.LOSSES)
    return total, list(rows.detach()[:, 0].clone().unbind())


def _terms(criterion: str, sides: tuple[Side, ...], reduce_discriminators: str) -> Terms:
    counts = [len(listed(name, logits)) for name, logits, _ in sides]
    for (name, _, _), count in zip(sides, counts):
        if count != counts[0]:
            raise ValueError(f"{name}: got {count} tensors, expected {counts[0]}, as many as {sides[0][0]}")
    return terms_of_sides(sides, criterion, reduce_discriminators=reduce_discriminators)


def _each(terms: Terms) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(terms.logits))]


def _halves(terms: Terms, count: int) -> list[slice]:
    n = len(terms.logits) // count
    return [slice(i * n, (i + 1) * n) for i in range(count)]
