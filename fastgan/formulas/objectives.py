"""The objectives: which terms make a loss. A new objective is one entry of `OBJECTIVES`.

Every adversarial loss is a weighted sum of means of a scalar criterion, L = sum_k w_k mean_i phi(x_k[i], y_k).
A term is (logits x_k, label y_k, weight w_k); the criteria are in `formulas/criteria.py` and `kernels/criteria.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Objective(NamedTuple):
    """The discriminator's terms are (real, real_label, weight) and (fake, fake_label, weight) under `criterion`; the
    generator's is (fake, the label of `generator_target`, generator_weight) under `generator_criterion`.

    relation: how an objective that compares the two sides makes its logits.
        "pairs": one term, real - fake element by element (the generator's: fake - real), label 1.
        "average": real - shift of fake, and fake - shift of real; the generator's labels are the discriminator's,
            swapped. `shift(other logits, own is real?)` gives the 0-d shift.
    """

    criterion: str
    discriminator: str
    generator: str
    source: str
    real_label: float = 1.0
    fake_label: float = 0.0
    weight: float = 1.0
    generator_criterion: str | None = None
    generator_target: str = "real"
    generator_weight: float = 1.0
    relation: str | None = None
    shift: Callable[[Tensor, bool], Tensor] | None = None


def mean_of(other: Tensor, _: bool) -> Tensor:
    return other.mean(dtype=torch.promote_types(other.dtype, torch.float32))


def _log_sum_exp(other: Tensor, own_is_positive: bool) -> Tensor:
    wide = other.flatten().to(torch.promote_types(other.dtype, torch.float32))
    return torch.logsumexp(wide, 0) if own_is_positive else -torch.logsumexp(-wide, 0)


_RELATIVISTIC = "Jolicoeur-Martineau 2018"

OBJECTIVES = {
    "minimax": Objective(
        "sigmoid_cross_entropy",
        discriminator="mean softplus(-r) + mean softplus(f)",
        generator="-mean softplus(f)",
        source="Goodfellow et al. 2014, eq. 1",
        generator_target="fake",
        generator_weight=-1.0,
    ),
    "nonsaturating": Objective(
        "sigmoid_cross_entropy",
        discriminator="mean softplus(-r) + mean softplus(f)",
        generator="mean softplus(-f)",
        source="Goodfellow et al. 2014, section 3",
    ),
    "absolute_error": Objective(
        "absolute_error",
        discriminator="1/2 mean (1 - sigmoid(r)) + 1/2 mean sigmoid(f)",
        generator="-1/2 mean sigmoid(f)",
        source="D's expected absolute error, real and generated data in equal parts",
        weight=0.5,
        generator_target="fake",
        generator_weight=-0.5,
    ),
    "least_squares": Objective(
        "least_squares",
        discriminator="mean (r - 1)^2 + mean f^2",
        generator="mean (f - 1)^2",
        source="Mao et al. 2017, eq. 2, which halves both: weight=0.5",
    ),
    "hinge": Objective(
        "hinge",
        discriminator="mean relu(1 - r) + mean relu(1 + f)",
        generator="-mean f",
        source="Lim and Ye 2017; Miyato et al. 2018, eqs. 16 and 17",
        generator_criterion="wasserstein",
    ),
    "clamped_hinge": Objective(
        "hinge",
        discriminator="mean relu(1 - r) + mean relu(1 + f)",
        generator="mean relu(1 - f)",
        source="vocos, Coqui TTS, audiocraft's hinge2",
    ),
    "wasserstein": Objective(
        "wasserstein",
        discriminator="mean f - mean r",
        generator="-mean f",
        source="Arjovsky et al. 2017, eq. 2",
    ),
    "relativistic": Objective(
        "sigmoid_cross_entropy",
        discriminator="mean softplus(-(r - f))",
        generator="mean softplus(-(f - r))",
        source=f"{_RELATIVISTIC}, section 4.1; Huang et al. 2024 (R3GAN), eq. 2",
        relation="pairs",
    ),
    "relativistic_average": Objective(
        "sigmoid_cross_entropy",
        discriminator="mean softplus(-(r - mean f)) + mean softplus(f - mean r)",
        generator="mean softplus(r - mean f) + mean softplus(-(f - mean r))",
        source=f"{_RELATIVISTIC}, section 4.2",
        relation="average",
        shift=mean_of,
    ),
    "relativistic_average_least_squares": Objective(
        "least_squares",
        discriminator="mean (r - mean f - 1)^2 + mean (f - mean r + 1)^2",
        generator="mean (r - mean f + 1)^2 + mean (f - mean r - 1)^2",
        source=f"{_RELATIVISTIC}, appendix",
        fake_label=-1.0,
        relation="average",
        shift=mean_of,
    ),
    "relativistic_average_hinge": Objective(
        "hinge",
        discriminator="mean relu(1 - (r - mean f)) + mean relu(1 + (f - mean r))",
        generator="mean relu(1 + (r - mean f)) + mean relu(1 - (f - mean r))",
        source=f"{_RELATIVISTIC}, appendix",
        relation="average",
        shift=mean_of,
    ),
    "dual_contrastive": Objective(
        "sigmoid_cross_entropy",
        discriminator="mean softplus(log sum exp f - r) + mean softplus(log sum exp(-r) + f)",
        generator="mean softplus(log sum exp r - f) + mean softplus(log sum exp(-f) + r)",
        source="Yu et al. 2021, eqs. 3 and 4",
        relation="average",
        shift=_log_sum_exp,
    ),
}


def objectives() -> dict[str, Objective]:
    """Every objective by name: `fastgan.objectives()["hinge"].discriminator` is its formula, `.generator` the
    generator's, `.source` where it comes from. r and f are D's logits of real and of generated data."""
    return dict(OBJECTIVES)


# Names in other papers and codebases; only letters and digits are compared, in lower case.
ALIASES = {
    "minimax": ("gan", "bce", "bcewithlogits", "crossentropy", "vanilla", "standard", "sgan", "original", "saturating"),
    "nonsaturating": ("ns", "nsgan", "softplus", "logistic", "stylegan", "stylegan2"),
    "absolute_error": ("mae", "l1", "absolute"),
    "least_squares": ("ls", "lsgan", "mse", "l2", "quadratic"),
    "hinge": ("hingegan", "geometric", "sagan", "biggan"),
    "clamped_hinge": ("hinge2", "hingeclamped"),
    "wasserstein": ("w", "wgan", "wgangp", "emd", "earthmover"),
    "relativistic": ("r", "rgan", "rpgan", "rsgan", "rp", "r3gan", "relativisticpairing", "relativisticstandard"),
    "relativistic_average": ("ra", "ragan", "rasgan", "esrgan"),
    "relativistic_average_least_squares": ("rals", "ralsgan"),
    "relativistic_average_hinge": ("rahinge", "rahingegan"),
    "dual_contrastive": ("dcl", "dual", "contrastive"),
}


def find(objective: str, also: tuple[str, ...] = ()) -> Objective:
    """The objective of that name; ValueError if there is none. also: other names that the error lists."""
    try:
        return OBJECTIVES[objective]
    except (KeyError, TypeError):
        raise ValueError(unknown(objective, (*OBJECTIVES, *also))) from None


def unknown(objective: object, known: Iterable[str]) -> str:
    """The error message: it suggests a similar name, if there is one, and lists all."""
    known = list(known)
    said = "".join(c for c in str(objective).lower() if c.isalnum())
    names = {name.replace("_", ""): name for name in known}
    names |= {alias: name for name, aliases in ALIASES.items() if name in known for alias in aliases}
    meant = names.get(said) or next((names[one] for one in difflib.get_close_matches(said, names, 1, 0.75)), None)
    hint = f"did you mean {meant!r}? " if meant else ""
    return f"objective: got {objective!r}, {hint}expected one of {', '.join(map(repr, known))}"
