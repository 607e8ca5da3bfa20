"""Which terms make a loss. A new objective is one line of `OBJECTIVES`.

Every adversarial loss is a weighted sum of means of a scalar criterion, L = sum_k w_k mean_i phi(x_k[i], y_k).
A term is (logits x_k, label y_k, weight w_k); the criteria are in `kernels/criteria.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Objective(NamedTuple):
    """criterion: the name of phi. The discriminator's terms are (real, real_label, 1) and (fake, fake_label, 1); the
    generator's is (fake, the label of `generator_target`, generator_sign)."""

    criterion: str
    generator_target: str
    generator_sign: float


OBJECTIVES = {
    # Goodfellow et al. 2014, eq. 1: G minimises mean log(1 - D(G(z))), which saturates where D is sure.
    "minimax": Objective("sigmoid_cross_entropy", generator_target="fake", generator_sign=-1.0),
    # Goodfellow et al. 2014, section 3: G minimises -mean log D(G(z)). The discriminator's loss is the same.
    "nonsaturating": Objective("sigmoid_cross_entropy", generator_target="real", generator_sign=1.0),
}


def find(objective: str) -> Objective:
    try:
        return OBJECTIVES[objective]
    except (KeyError, TypeError):
        known = ", ".join(map(repr, OBJECTIVES))
        raise ValueError(f"objective: got {objective!r}, expected one of {known}") from None


def discriminator_terms(
    objective: str, weight: float, real_label: float, fake_label: float
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """(criterion, labels, weights) of the terms (real logits, fake logits)."""
    return find(objective).criterion, (float(real_label), float(fake_label)), (float(weight), float(weight))


def generator_terms(
    objective: str, weight: float, real_label: float, fake_label: float
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """(criterion, labels, weights) of the one term (fake logits,)."""
    found = find(objective)
    label = real_label if found.generator_target == "real" else fake_label
    return found.criterion, (float(label),), (found.generator_sign * weight,)
