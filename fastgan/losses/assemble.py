"""Build the terms of a loss from an objective and its logits. See `fastgan.formulas.objectives`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.checks import number
from fastgan.formulas import criteria
from fastgan.formulas.objectives import Objective, find, mean_of
from fastgan.formulas.terms import Terms, wide_dtype, widen
from fastgan.losses.arguments import (
    Label,
    Logits,
    check_label,
    check_logits,
    choice,
    expanded,
    index,
    listed,
    refuse_weights,
)


def labels_given(found: Objective, real_label, fake_label) -> tuple:
    """(name, given label, the objective's default label) of each side."""
    return ("real_label", real_label, found.real_label), ("fake_label", fake_label, found.fake_label)


def discriminator_terms(
    found: Objective, real, fake, scale, real_label, fake_label, average_over, detach_average
) -> Terms:
    if found.relation is not None:
        return relative_terms(found, real, fake, True, scale, real_label, fake_label, average_over, detach_average)
    sides = labels_given(found, real_label, fake_label)
    labels, targets = labels_and_targets(found.criterion, sides, (real, fake))
    return Terms((*real, *fake), labels, (scale,) * (2 * len(real)), found.criterion, len(real), (), targets)


def generator_terms(
    fake_logits, objective, real_logits, weight, real_label, fake_label, fake_weights,
    reduce_discriminators, patch_mean, average_over, detach_average, reduction="mean",
) -> Terms:  # fmt: skip
    found = find(objective)
    fake = listed("fake_logits", fake_logits)
    real = [] if real_logits is None or found.relation is None else listed("real_logits", real_logits)
    check_logits(("fake_logits", fake), ("real_logits", real))
    if found.relation is not None and real_logits is None:
        raise ValueError(f"real_logits: got none, but objective {objective!r} compares with them")
    fake = patch_means(fake) if patch_mean else fake
    scale = found.generator_weight * weight_of_each(weight, reduce_discriminators, len(fake))
    if found.relation is not None:
        if len(real) != len(fake):
            raise ValueError(f"real_logits: got {len(real)} tensors, expected {len(fake)}, as many as fake_logits")
        refuse_weights(objective, fake_weights=fake_weights)
        real = patch_means(real) if patch_mean else real
        return relative_terms(found, real, fake, False, scale, real_label, fake_label, average_over, detach_average)
    criterion = found.generator_criterion or found.criterion
    side, other = labels_given(found, real_label, fake_label)[:: 1 if found.generator_target == "real" else -1]
    if other[1] is not None:
        labels_and_targets(criterion, (other,), (fake,))  # checked, although the loss does not use it
    labels, targets = labels_and_targets(criterion, (side,), (fake,))
    masks = () if fake_weights is None else loss_masks((("fake_weights", fake_weights),), (fake,), reduction)
    return Terms(fake, labels, (scale,) * len(fake), criterion, 0, (), targets, masks)


def relative_terms(
    found: Objective, real, fake, of_discriminator: bool, scale, real_label, fake_label, average_over, detach_average
) -> Terms:
    """The terms of an objective that compares the two sides."""
    choice("average_over", average_over, ("all", "batch"))
    labels = [found.real_label if real_label is None else real_label]
    labels += [found.fake_label if fake_label is None else fake_label]
    for name, label in zip(("real_label", "fake_label"), labels):
        if isinstance(label, Tensor):
            raise TypeError(f"{name}: got a tensor, expected a number: the objective compares logits")
        check_label(name, label, found.criterion)
    scales = (float(scale),)
    if found.relation == "pairs":
        own, other = (real, fake) if of_discriminator else (fake, real)
        for i, (r, f) in enumerate(zip(real, fake)):
            if r.shape != f.shape:
                raise ValueError(
                    f"fake_logits{index(i, real)}: got shape {tuple(f.shape)}, expected {tuple(r.shape)}: "
                    "the objective pairs real and generated logits"
                )
        n_real = len(own) if of_discriminator else 0
        return Terms(tuple(own), (float(labels[0]),) * len(own), scales * len(own), found.criterion, n_real, other)
    if not of_discriminator:
        labels.reverse()
    shift_of, each = found.shift or mean_of, (float(labels[0]),) * len(real) + (float(labels[1]),) * len(fake)
    # A logit has two gradients, one direct and one through the average. Only their sum is rounded to half precision.
    real, fake = ([widen(x) for x in xs] for xs in (real, fake))
    if average_over == "batch":
        if shift_of is not mean_of:
            raise ValueError("average_over: got 'batch', expected 'all': the objective has no average over a batch")
        averages = [x.mean(0, keepdim=True) for x in (*fake, *real)]
        averages = [a.detach() for a in averages] if detach_average else averages
        logits = [x - a for x, a in zip((*real, *fake), averages)]
        return Terms(logits, each, scales * len(each), found.criterion, len(real))
    # "dual_contrastive" compares a logit with every logit of the other side: the sign depends on the logit's side.
    shifts = [
        [shift_of(x, (own == "real") == of_discriminator) for x in other]
        for own, other in (("real", fake), ("fake", real))
    ]
    shift = torch.stack([*shifts[0], *shifts[1]])
    shift = shift.detach() if detach_average else shift
    return Terms((*real, *fake), each, scales * len(each), found.criterion, len(real), shift=shift)


def concatenated_terms(logits, objective, fake_first, split, weight, real_label, fake_label, reduce_discriminators):
    found = find(objective)
    if found.relation is not None:
        raise ValueError(f"objective: got {objective!r}, which compares the sides; pass them apart, expected another")
    x = listed("logits", logits)
    check_logits(("logits", x))
    rows = x[0].shape[0] if x[0].dim() else 0
    if split is None and rows % 2:
        raise ValueError(f"logits: got {rows} rows, expected an even number, or split=")
    split = rows // 2 if split is None else split
    if isinstance(split, bool) or not isinstance(split, int):
        raise TypeError(f"split: got {type(split).__name__}, expected an integer")
    for i, t in enumerate(x):
        if not t.dim() or t.shape[0] != rows or not 0 < split < rows:
            raise ValueError(
                f"logits{index(i, x)}: got shape {tuple(t.shape)}, expected {rows} rows, {split} of them of one kind"
            )
    sides = labels_given(found, real_label, fake_label)
    labels, targets = labels_and_targets(found.criterion, sides, (x, x))
    if targets:
        raise TypeError("real_label, fake_label: got a tensor, expected numbers for a concatenated batch")
    scale = found.weight * weight_of_each(weight, reduce_discriminators, len(x))
    signed = -split if fake_first else split
    terms = Terms(x, labels, (scale,) * len(labels), found.criterion, len(x), split=signed)
    return terms, not isinstance(logits, Tensor)


def terms_of_sides(
    sides: Sequence[tuple[str, Logits, Label]], criterion: str, weight: float = 1.0, reduce_discriminators: str = "sum"
) -> Terms:
    """The terms of (name, logits, label) sides. Errors use these names."""
    criteria.find(criterion)
    tensors = [listed(name, logits) for name, logits, _ in sides]
    check_logits(*[(name, x) for (name, _, _), x in zip(sides, tensors)])
    labels, targets = labels_and_targets(
        criterion, [(f"label of {name}", label, 0.0) for name, _, label in sides], tensors
    )
    scale = weight_of_each(weight, reduce_discriminators, len(tensors[0]))
    logits = [x for xs in tensors for x in xs]
    return Terms(logits, labels, (scale,) * len(logits), criterion, len(tensors[0]), (), targets)


def labels_and_targets(criterion: str, sides, logits) -> tuple[tuple[float, ...], Sequence[Tensor]]:
    """(labels, targets) of the terms; targets is empty if every label is a number."""
    labels: list[float] = []
    targets: list[Tensor | None] = []
    found = False
    for (name, label, own), xs in zip(sides, logits):
        if isinstance(label, (Tensor, list, tuple)):
            labels += [0.0] * len(xs)
            targets += expanded(name, label, xs)
            found = True
            continue
        if label is None:
            label = own
        else:
            check_label(name, label, criterion)
        labels += [float(label)] * len(xs)
        targets += [None] * len(xs)
    if not found:
        return tuple(labels), ()
    flat = list(itertools.chain.from_iterable(logits))
    dtype = wide_dtype(flat[0].dtype)
    pairs = zip(flat, targets, labels)
    filled = [torch.full_like(x, y, dtype=dtype) if t is None else t.detach().to(dtype) for x, t, y in pairs]
    return tuple(labels), filled


def loss_masks(sides, logits, reduction: str) -> Sequence[Tensor]:
    """The factor of each phi. For a mean it is the weight divided by the mean weight, of the tensor or of the sample:
    then the mean of the products is sum m phi / sum m."""
    masks = []
    for (name, weights), xs in zip(sides, logits):
        for x, m in zip(xs, expanded(name, weights, xs) if weights is not None else [None] * len(xs)):
            dtype = wide_dtype(x.dtype)
            if m is None:
                masks.append(torch.ones_like(x, dtype=dtype))
            else:
                m = m.detach().to(dtype)
                if reduction == "mean":
                    m = m / m.mean()
                elif reduction == "sample":  # a sample of one logit is divided by its own weight
                    m = m / (m.mean(tuple(range(1, m.dim())), keepdim=True) if m.dim() > 1 else m)
                masks.append(m)
    return masks


def patch_means(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each sample's mean logit."""
    return [x.flatten(1).mean(1) if x.dim() > 1 else x for x in logits]


def weight_of_each(weight: float, reduce_discriminators: str, count: int) -> float:
    """The weight of each of `count` discriminators."""
    choice("reduce_discriminators", reduce_discriminators, ("sum", "mean"))
    weight = number("weight", weight)
    return weight / count if reduce_discriminators == "mean" else weight
