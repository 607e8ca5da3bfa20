"""The losses as functions: check the arguments, name the terms, run them.

Logits are a tensor, a list of tensors (several discriminators), or a list of lists of tensors (a discriminator's
features, its logits last). A list takes one launch, like a tensor; above 64 tensors, one for every 64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from numbers import Real

import torch
from torch import Tensor

from fastgan import criteria, operators, small
from fastgan.closed_form import widen
from fastgan.objectives import Objective, find, mean_of
from fastgan.operators import Terms
from fastgan.values import ValueAndGrad

Logits = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]
Label = float | Tensor | Sequence[Tensor]
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REDUCTIONS = ("mean", "sum", "none", "sample")
_NUMBERS = frozenset((float, int, str, type(None)))


def discriminator_loss(
    real_logits: Logits,
    fake_logits: Logits,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: Label | None = None,
    fake_label: Label | None = None,
    real_weights: Tensor | Sequence[Tensor] | None = None,
    fake_weights: Tensor | Sequence[Tensor] | None = None,
    reduction: str = "mean",
    reduce_discriminators: str = "sum",
    patch_mean: bool = False,
    average_over: str = "all",
    detach_average: bool = False,
) -> Tensor:
    """The discriminator's loss; one launch forward, one backward, nothing saved but the logits.

        L = weight * sum_k ( mean_i phi(r_k[i], real_label) + mean_j phi(f_k[j], fake_label) )

    phi is the criterion of the objective; `fastgan.objectives()` lists every formula with its source. For "minimax" it
    is bce(x, y) = softplus(x) - y x, and L = mean softplus(-r) + mean softplus(f), the negative of what D maximises in
    eq. 1 of Goodfellow et al. (2014). Each side is averaged by itself, so unequal batches count as equal proportions;
    `weight=0.5` gives the average over both, ln 2 where D cannot tell the sides apart.

    Args:
        real_logits, fake_logits: D's outputs before the sigmoid; float16, bfloat16, float32 or float64, one dtype and
            one device, any shapes. A tensor, a list of tensors, or a list of lists whose last tensors are the logits.
            Dense layouts (channels_last) are read in place, others through a copy.
        objective: a name of `fastgan.objectives()`.
        weight: multiplies the loss.
        real_label, fake_label: the labels, the objective's own (1 and 0) by default. For the cross-entropies and the
            absolute error a probability in [0, 1]; other than 1 and 0 it is label smoothing, one-sided (Salimans et
            al. 2016, section 3.4) or two-sided: y phi(x, 1) + (1 - y) phi(x, 0). For least squares any number: b and a
            of Mao et al. (2017). A tensor that expands to the logits' shape (a list of them for a list of logits) gives
            every logit its label: soft, noisy or blurred. The numbers in a tensor are not checked.
        real_weights, fake_weights: a weight for every logit, or a mask: a tensor that expands to the logits' shape.
            The mean becomes sum_i m_i phi_i / sum_i m_i, of every sample with reduction="sample"; the sum becomes
            sum_i m_i phi_i, and "none" gives m_i phi_i.
        reduction: "mean"; "sum" over a tensor's logits; "none", the loss of every logit, or "sample", that of every
            sample (the mean over all dimensions but the first), where both sides have one shape. Nothing is fused in
            the last two: they are PyTorch's own operators.
        reduce_discriminators: "sum" or "mean" over the tensors of a list.
        patch_mean: average each sample's logits before the criterion (Luo et al. 2024, Open-MAGVIT2).
        average_over: for the relativistic averages, "all" logits of the other side, or its "batch" dimension alone.
        detach_average: let no gradient through those averages.

    Returns:
        0-d tensor, float32 (float64 for float64 logits), cross-entropies in nats; differentiable in the logits, twice
        and more with `create_graph=True`. An empty side makes it NaN, as `mean` does. NaN and infinite logits give what
        eager PyTorch gives. Relativistic averages take a launch more for each mean and each difference of gradients.

    Raises:
        TypeError: an argument of the wrong type, or logits of another dtype.
        ValueError: an unknown objective or reduction, a label outside its range, an empty list, lists of different
            lengths, logits of two devices or dtypes, a sparse tensor; named by argument and position.
    """
    if reduction == "mean" and real_weights is fake_weights is None and not patch_mean and average_over == "all":
        numbers = (objective, weight, real_label, fake_label, reduce_discriminators)
        loss = _small_pair(real_logits, fake_logits, numbers)
        if loss is not None:
            return loss
    found = find(objective)
    real, fake = _both_sides(real_logits, fake_logits)
    weight = _number("weight", weight)
    _check_choice("reduction", reduction, REDUCTIONS)
    real, fake = _patches(patch_mean, real), _patches(patch_mean, fake)
    scale = weight * found.weight * _share(reduce_discriminators, len(real))
    if found.relation is not None:
        _refuse_weights(objective, real_weights=real_weights, fake_weights=fake_weights)
    terms = _discriminator_terms(found, real, fake, scale, real_label, fake_label, average_over, detach_average)
    masks = _masks((("real_weights", real_weights), ("fake_weights", fake_weights)), (real, fake), reduction)
    terms = terms._replace(masks=masks) if masks else terms
    return _reduced(terms, reduction)


def generator_loss(
    fake_logits: Logits,
    objective: str = "nonsaturating",
    *,
    real_logits: Logits | None = None,
    weight: float = 1.0,
    real_label: Label | None = None,
    fake_label: Label | None = None,
    fake_weights: Tensor | Sequence[Tensor] | None = None,
    reduction: str = "mean",
    reduce_discriminators: str = "sum",
    patch_mean: bool = False,
    average_over: str = "all",
    detach_average: bool = False,
) -> Tensor:
    """The generator's loss at D's logits of generated data; one launch forward, one backward.

        nonsaturating:         L =  weight * mean_j bce(f_j, real_label)    = weight * mean softplus(-f)
        minimax (saturating):  L = -weight * mean_j bce(f_j, fake_label)    = -weight * mean softplus(f)

    at the default labels: Goodfellow et al. (2014), section 3 and eq. 1; the others are in `fastgan.objectives()`. For
    least squares, `real_label` is c of Mao et al. (2017).

    Args:
        real_logits: what the relativistic objectives and "dual_contrastive" compare with; no other objective takes it.
            Detached or not, as you like it.

    Other arguments, result and errors are those of `discriminator_loss`.
    """
    if reduction == "mean" and fake_weights is real_logits is None and not patch_mean and average_over == "all":
        terms = _terms_of((fake_logits,), _side_of, (objective, weight, real_label, fake_label, reduce_discriminators))
        loss = terms and small.loss(terms[0], fake_logits, terms[1][0], terms[2])
        if loss is not None:
            return loss
    _check_choice("reduction", reduction, REDUCTIONS)
    terms = _generator_terms(
        *(fake_logits, objective, real_logits, weight, real_label, fake_label, fake_weights),
        *(reduce_discriminators, patch_mean, average_over, detach_average, reduction),
    )
    return _reduced(terms, reduction)


def discriminator_value_and_grad(
    real_logits: Logits,
    fake_logits: Logits,
    objective: str = "minimax",
    *,
    weight: float = 1.0,
    real_label: Label | None = None,
    fake_label: Label | None = None,
    reduce_discriminators: str = "sum",
    average_over: str = "all",
    detach_average: bool = False,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`discriminator_loss`, its parts, its gradients at the logits and D's accuracy, in one launch and no autograd.

        minimax:  dL/dr_i = weight / N (sigmoid(r_i) - real_label),  dL/df_j = weight / M (sigmoid(f_j) - fake_label)

    Each logit is read once and each gradient written once. Continue the backward pass with

        out = fastgan.discriminator_value_and_grad(real_logits, fake_logits)
        torch.autograd.backward([real_logits, fake_logits], out.grads)

    Args:
        grad_scale: multiplies the gradients, not the loss: a loss weight times a GradScaler's scale, say. A number, or
            a floating tensor of one element on the logits' device (nothing is read back to the host). Applied in
            float32 (float64 for float64 logits), before a gradient is rounded to the logits' dtype.

    The other arguments and the errors are those of `discriminator_loss`. Objectives with a relativistic average, and
    "dual_contrastive", take several launches.

    Returns:
        `ValueAndGrad`: loss, loss_real, loss_fake, grads (those of the real logits, then those of the generated ones,
        flat), and stats (mean logits, accuracies, D's expected error; of the differences, where the objective is about
        differences). Detached from the logits' graph.

    Raises also:
        RuntimeError: under a `torch.func` transform or forward-mode AD, where `discriminator_loss` is the one to use.
    """
    numbers = (objective, weight, real_label, fake_label, reduce_discriminators)
    out = _small_value_and_grad((real_logits, fake_logits), _sides_of, numbers, 1, grad_scale)
    if out is not None:
        return out
    found = find(objective)
    real, fake = _both_sides(real_logits, fake_logits)
    weight = _number("weight", weight)
    scale = weight * found.weight * _share(reduce_discriminators, len(real))

    def make(real, fake):
        return _discriminator_terms(found, real, fake, scale, real_label, fake_label, average_over, detach_average)

    listed = not isinstance(real_logits, Tensor)
    if found.relation == "average":
        return _through_autograd(make, real, fake, grad_scale, listed)
    return _value_and_grad(make(real, fake), grad_scale, listed)


def generator_value_and_grad(
    fake_logits: Logits,
    objective: str = "nonsaturating",
    *,
    real_logits: Logits | None = None,
    weight: float = 1.0,
    real_label: Label | None = None,
    fake_label: Label | None = None,
    reduce_discriminators: str = "sum",
    average_over: str = "all",
    detach_average: bool = False,
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`generator_loss`, its gradient at the logits and D's accuracy on them, in one launch and no autograd.

        nonsaturating: dL/df_j = weight / M (sigmoid(f_j) - real_label)
        minimax:       dL/df_j = -weight / M (sigmoid(f_j) - fake_label)

    Arguments, result and errors are those of `discriminator_value_and_grad`; grads = (grad_fake,), and none for
    `real_logits`, which the relativistic objectives compare with.
    """

    def make(real, fake):
        return _generator_terms(
            *(fake, objective, real or None, weight, real_label, fake_label, None),
            *(reduce_discriminators, False, average_over, detach_average),
        )

    if real_logits is None:
        numbers = (objective, weight, real_label, fake_label, reduce_discriminators)
        out = _small_value_and_grad((fake_logits,), _side_of, numbers, 0, grad_scale)
        if out is not None:
            return out
    found, listed = find(objective), not isinstance(fake_logits, Tensor)
    fake = _listed("fake_logits", fake_logits)
    real = [] if real_logits is None else [x.detach() for x in _listed("real_logits", real_logits)]
    if found.relation == "average" and real:
        return _through_autograd(make, real, fake, grad_scale, listed, of_real=False)
    return _value_and_grad(make(real, fake), grad_scale, listed)


def concatenated_discriminator_loss(
    logits: Logits,
    objective: str = "minimax",
    *,
    fake_first: bool = True,
    split: int | None = None,
    weight: float = 1.0,
    real_label: float | None = None,
    fake_label: float | None = None,
    reduce_discriminators: str = "sum",
) -> Tensor:
    """`discriminator_loss` of a D that saw real and generated data in one batch; neither sliced nor copied.

    Slicing costs autograd a zero-filled tensor and a copy a side; here one launch writes the gradient of the batch.

    Args:
        logits: (B, ...), generated rows first (SPADE), or real ones with `fake_first=False`; a list of such tensors, or
            a list of lists, as in `discriminator_loss`.
        split: how many rows are of the first kind; half of them by default.

    Other arguments, result and errors are those of `discriminator_loss`; objectives that compare the sides are not for
    this function.
    """
    terms, _ = _concatenated(
        logits, objective, fake_first, split, weight, real_label, fake_label, reduce_discriminators
    )
    return operators.value(terms)[0]


def concatenated_discriminator_value_and_grad(
    logits: Logits,
    objective: str = "minimax",
    *,
    fake_first: bool = True,
    split: int | None = None,
    weight: float = 1.0,
    real_label: float | None = None,
    fake_label: float | None = None,
    reduce_discriminators: str = "sum",
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`concatenated_discriminator_loss` and its gradient in one launch: grads has a tensor for each of the logits', of
    whole batches. See `discriminator_value_and_grad`."""
    terms, listed = _concatenated(
        logits, objective, fake_first, split, weight, real_label, fake_label, reduce_discriminators
    )
    return _value_and_grad(terms, grad_scale, listed)


def criterion_loss(
    logits: Logits,
    label: Label,
    criterion: str = "sigmoid_cross_entropy",
    *,
    weight: float | Sequence[float] = 1.0,
    weights: Tensor | Sequence[Tensor] | None = None,
    reduction: str = "mean",
    reduce_discriminators: str = "sum",
    patch_mean: bool = False,
) -> Tensor:
    """One side of a loss by itself: sum_k weight_k mean_i phi(x_k[i], label), for code that asks "is this real?".

    Args:
        logits: as in `discriminator_loss`.
        label: 1 for real and 0 for generated, or what else the criterion takes; a tensor gives every logit its own.
        criterion: "sigmoid_cross_entropy", "softplus" (the same of the labels 1 and 0, but for infinite logits),
            "absolute_error", "least_squares", "absolute" (|x - y|), "hinge" (and "hinge_clamp", "hinge_min", which
            differ at the knee), "wasserstein", "squared_hinge", "leaky_least_squares", "tanh_hinge",
            "log_sigmoid_with_eps", "cross_entropy" (of probabilities).
        weight: multiplies the loss; a list has one number for each tensor.
        weights: a weight for every logit, or a mask; see `real_weights` of `discriminator_loss`.

    Other arguments, result and errors are those of `discriminator_loss`.
    """
    if reduction == "mean" and weights is None and not patch_mean and reduce_discriminators in ("sum", "mean"):
        loss = small_loss(criterion, logits, label, weight)
        if loss is not None:
            return loss
    x = _listed("logits", logits)
    _check_logits(("logits", x))
    _check_choice("reduction", reduction, REDUCTIONS)
    criteria.find(criterion)
    x = _patches(patch_mean, x)
    share = _share(reduce_discriminators, len(x))
    if isinstance(weight, Sequence):
        if len(weight) != len(x):
            raise ValueError(f"weight: got {len(weight)} numbers, expected {len(x)}, one for each tensor of logits")
        scales = tuple([share * _number(f"weight[{i}]", w) for i, w in enumerate(weight)])
    else:
        weight = _number("weight", weight)
        scales = (share * weight,) * len(x)
    labels, targets = _labels(criterion, (("label", label, 0.0),), (x,))
    masks = _masks((("weights", weights),), (x,), reduction)
    return _reduced(Terms(x, labels, scales, criterion, len(x), (), targets, masks), reduction)


def criterion_value_and_grad(
    logits: Tensor, label: float, criterion: str = "sigmoid_cross_entropy", *, grad_scale: Tensor | float | None = None
) -> ValueAndGrad:
    """`criterion_loss` of a tensor and its gradient in one launch, as of generated data: see
    `generator_value_and_grad`."""
    out = _small_value_and_grad((logits,), lambda: (criterion, (float(label),), 1.0), (), 0, grad_scale)
    if out is not None:
        return out
    _check_logits(("logits", (logits,)))
    _check_label("label", label, criterion)
    return _value_and_grad(Terms((logits,), (float(label),), (1.0,), criterion), grad_scale, False)


def adversarial_losses(
    sides: Sequence[tuple[Logits, Label]],
    criterion: str,
    *,
    weight: float = 1.0,
    reduce_discriminators: str = "sum",
) -> tuple[Tensor, Tensor]:
    """A loss and the part of each tensor in it, in one launch, for code that returns both.

        (L, losses):  losses[k] = weight mean_i phi(x_k[i], y_k),   L = sum_k losses[k]

    Args:
        sides: (logits, label) pairs, of real and of generated data say, each as in `criterion_loss`.
        reduce_discriminators: "mean" divides the losses by the number of tensors of the first side.

    Returns:
        L, 0-d, and losses, (K,), over the tensors of all sides in order. Both differentiable, together or apart.

    Other arguments and the errors are those of `criterion_loss`.
    """
    named = [(f"sides[{i}]", logits, label) for i, (logits, label) in enumerate(sides)]
    return _losses_of(named, criterion, weight, reduce_discriminators)


def _losses_of(
    sides: Sequence[tuple[str, Logits, Label]], criterion: str, weight: float = 1.0, reduce_discriminators: str = "sum"
) -> tuple[Tensor, Tensor]:
    """`adversarial_losses` of (name, logits, label), whose errors name the caller's own arguments."""
    loss, rows = operators.value(terms_of_sides(sides, criterion, weight, reduce_discriminators), operators.LOSSES)
    return loss, rows[:, 0]


def terms_of_sides(
    sides: Sequence[tuple[str, Logits, Label]], criterion: str, weight: float = 1.0, reduce_discriminators: str = "sum"
) -> Terms:
    """The terms of (name, logits, label), whose errors name the caller's own arguments."""
    criteria.find(criterion)
    tensors = [_listed(name, logits) for name, logits, _ in sides]
    _check_logits(*[(name, x) for (name, _, _), x in zip(sides, tensors)])
    weight = _number("weight", weight)
    labels, targets = _labels(criterion, [(f"label of {name}", label, 0.0) for name, _, label in sides], tensors)
    scale = float(weight) * _share(reduce_discriminators, len(tensors[0]))
    logits = [x for xs in tensors for x in xs]
    return Terms(logits, labels, (scale,) * len(logits), criterion, len(tensors[0]), (), targets)


def lecam_regularizer(
    real_logits: Logits,
    fake_logits: Logits,
    real_anchor: float | Tensor,
    fake_anchor: float | Tensor,
    *,
    weight: float = 1.0,
) -> Tensor:
    """mean relu(r - fake_anchor)^2 + mean relu(real_anchor - f)^2 (Tseng et al. 2021, eq. 5, in the one-sided form of
    the public code). The anchors are moving averages of the mean logits, as `losses.LeCamEMA` keeps them: numbers, or
    0-d tensors on the logits' device. Arguments, result and errors else as in `discriminator_loss`."""
    real, fake = _listed("real_logits", real_logits), _listed("fake_logits", fake_logits)
    _check_logits(("real_logits", real), ("fake_logits", fake))
    weight = _number("weight", weight)
    like = real[0]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    # 0-d tensors are stacked where they lie: nothing is read back to the host
    anchors = [
        torch.as_tensor(a if isinstance(a, Tensor) else _number(name, a), dtype=dtype, device=like.device).reshape(())
        for name, a in (("fake_anchor", fake_anchor), ("real_anchor", real_anchor))
    ]
    shift = torch.stack([anchors[0]] * len(real) + [anchors[1]] * len(fake))
    labels = (0.0,) * len(real) + (1.0,) * len(fake)
    terms = Terms((*real, *fake), labels, (float(weight),) * len(labels), "squared_hinge", len(real), shift=shift)
    return operators.value(terms)[0]


def drift_penalty(real_logits: Logits, *, weight: float = 1e-3) -> Tensor:
    """weight * mean r^2: keeps a Wasserstein D from drifting (Karras et al. 2018, appendix A.1)."""
    return criterion_loss(real_logits, 0.0, "least_squares", weight=weight)


# The quick way of small losses on a CPU. What it does not take, and what is wrong, goes the general way.


def small_loss(criterion: str, x: Tensor, y: float | Tensor, weight: float = 1.0) -> Tensor | None:
    """weight * mean phi(x, y) for a label 0.0 or 1.0, or a tensor of labels for the logits; None where it is not for
    `fastgan.small`."""
    if y.__class__ is float:
        fit = y in (0.0, 1.0) and operators.plain(x)
    else:
        fit = operators.plain(x, y) and x.shape == y.shape and not y.requires_grad
    return small.loss(criterion, x, y, weight) if fit and weight.__class__ is float else None


def small_losses(criterion: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor] | None:
    """(mean phi(real, 1), mean phi(fake, 0)), as `small_loss`."""
    return small.losses(criterion, real, fake) if operators.plain(real, fake) else None


def _terms_of(
    logits: tuple[Tensor, ...], terms: Callable, numbers: tuple
) -> tuple[str, tuple[float, ...], float] | None:
    """terms(*numbers), for logits and numbers that are what they should be: no tensors, nothing `lru_cache` refuses."""
    if operators.plain(*logits) and all(map(_NUMBERS.__contains__, map(type, numbers))):
        return terms(*numbers)
    return None


def _small_pair(real: Tensor, fake: Tensor, numbers: tuple) -> Tensor | None:
    terms = _terms_of((real, fake), _sides_of, numbers)
    if terms is not None:
        criterion, labels, weight = terms
        return small.pair(criterion, real, labels[0], fake, labels[1], weight)
    if numbers[0] != "relativistic" or numbers[2] is not None or not operators.plain(real, fake):
        return None
    if real.shape != fake.shape or numbers[1].__class__ is not float:
        return None
    # phi(-x, 1) = phi(x, 0)
    return small.loss("sigmoid_cross_entropy", widen(fake) - widen(real), 0.0, numbers[1])


def _small_value_and_grad(logits, terms: Callable, numbers: tuple, n_real: int, grad_scale) -> ValueAndGrad | None:
    terms = _terms_of(logits, terms, numbers)
    if terms is None:
        return None
    criterion, labels, weight = terms
    scale, factor = _scale(grad_scale, logits[0])
    found = small.value_and_grad(
        logits, labels, weight, criterion, n_real, factor if scale is None else factor * scale.item()
    )
    return None if found is None else ValueAndGrad(*found, n_real)


def _sides(found: Objective, real_label, fake_label) -> tuple:
    """(name, label given, the objective's own) of each side."""
    return ("real_label", real_label, found.real_label), ("fake_label", fake_label, found.fake_label)


@functools.lru_cache(maxsize=256, typed=True)
def _sides_of(objective: str, weight: float, real_label, fake_label, reduce_discriminators: str):
    """(criterion, labels, weight) of a discriminator's two terms, checked; None of one that compares them."""
    found = find(objective)
    weight = _number("weight", weight)
    _share(reduce_discriminators, 1)
    if found.relation is not None:
        return None
    sides = _sides(found, real_label, fake_label)
    return found.criterion, _labels(found.criterion, sides, ((None,), (None,)))[0], float(weight * found.weight)


@functools.lru_cache(maxsize=256, typed=True)
def _side_of(objective: str, weight: float, real_label, fake_label, reduce_discriminators: str):
    """(criterion, label, weight) of a generator's term, checked; None of one that compares it with real data."""
    found = find(objective)
    weight = _number("weight", weight)
    _share(reduce_discriminators, 1)
    if found.relation is not None:
        return None
    criterion = found.generator_criterion or found.criterion
    sides = _sides(found, real_label, fake_label)
    labels = _labels(criterion, sides, ((None,), (None,)))[0]
    return criterion, labels[:1] if found.generator_target == "real" else labels[1:], weight * found.generator_weight


def _both_sides(real_logits: Logits, fake_logits: Logits) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    real, fake = _listed("real_logits", real_logits), _listed("fake_logits", fake_logits)
    _check_logits(("real_logits", real), ("fake_logits", fake))
    if len(real) != len(fake):
        raise ValueError(f"fake_logits: got {len(fake)} tensors, expected {len(real)}, as many as real_logits")
    return real, fake


def _discriminator_terms(
    found: Objective, real, fake, scale, real_label, fake_label, average_over, detach_average
) -> Terms:
    if found.relation is not None:
        return _relative_terms(found, real, fake, True, scale, real_label, fake_label, average_over, detach_average)
    sides = _sides(found, real_label, fake_label)
    labels, targets = _labels(found.criterion, sides, (real, fake))
    return Terms((*real, *fake), labels, (scale,) * (2 * len(real)), found.criterion, len(real), (), targets)


def _generator_terms(
    fake_logits, objective, real_logits, weight, real_label, fake_label, fake_weights,
    reduce_discriminators, patch_mean, average_over, detach_average, reduction="mean",
) -> Terms:  # fmt: skip
    found = find(objective)
    fake = _listed("fake_logits", fake_logits)
    real = [] if real_logits is None else _listed("real_logits", real_logits)
    _check_logits(("fake_logits", fake), ("real_logits", real))
    weight = _number("weight", weight)
    if (found.relation is None) != (real_logits is None):
        expected = "one: it compares with them" if found.relation else "none: it does not look at them"
        got = "none" if real_logits is None else "some"
        raise ValueError(f"real_logits: got {got}, but for objective {objective!r} expected {expected}")
    fake = _patches(patch_mean, fake)
    scale = found.generator_weight * weight * _share(reduce_discriminators, len(fake))
    if found.relation is not None:
        if len(real) != len(fake):
            raise ValueError(f"real_logits: got {len(real)} tensors, expected {len(fake)}, as many as fake_logits")
        _refuse_weights(objective, fake_weights=fake_weights)
        real = _patches(patch_mean, real)
        return _relative_terms(found, real, fake, False, scale, real_label, fake_label, average_over, detach_average)
    criterion = found.generator_criterion or found.criterion
    for name, label in (("real_label", real_label), ("fake_label", fake_label)):
        _labels(criterion, ((name, label, 0.0),), (fake,))  # checked, though one of them has no part in the loss
    of_real, of_fake = _sides(found, real_label, fake_label)
    side = of_fake if found.generator_target == "fake" else of_real
    labels, targets = _labels(criterion, (side,), (fake,))
    masks = _masks((("fake_weights", fake_weights),), (fake,), reduction)
    return Terms(fake, labels, (scale,) * len(fake), criterion, 0, (), targets, masks)


def _relative_terms(
    found: Objective, real, fake, of_discriminator: bool, scale, real_label, fake_label, average_over, detach_average
) -> Terms:
    """The terms of an objective that compares the two sides."""
    _check_choice("average_over", average_over, ("all", "batch"))
    labels = [found.real_label if real_label is None else real_label]
    labels += [found.fake_label if fake_label is None else fake_label]
    for name, label in zip(("real_label", "fake_label"), labels):
        if isinstance(label, Tensor):
            raise TypeError(f"{name}: got a tensor, expected a number: the objective compares logits")
        _check_label(name, label, found.criterion)
    scales = (float(scale),)
    if found.relation == "pairs":
        own, other = (real, fake) if of_discriminator else (fake, real)
        for i, (r, f) in enumerate(zip(real, fake)):
            if r.shape != f.shape:
                raise ValueError(
                    f"fake_logits{_at(i, real)}: got shape {tuple(f.shape)}, expected {tuple(r.shape)}: "
                    "the objective pairs real and generated logits"
                )
        n_real = len(own) if of_discriminator else 0
        return Terms(tuple(own), (float(labels[0]),) * len(own), scales * len(own), found.criterion, n_real, other)
    if not of_discriminator:
        labels.reverse()
    labels = (float(labels[0]),) * len(real) + (float(labels[1]),) * len(fake)
    # A logit has two gradients, one of its own and one through the average: half precision rounds their sum, once.
    real, fake = ([widen(x) for x in xs] for xs in (real, fake))
    if average_over == "batch":
        if found.shift is not mean_of:
            raise ValueError("average_over: got 'batch', expected 'all': the objective has no average over a batch")
        averages = [x.mean(0, keepdim=True) for x in (*fake, *real)]
        averages = [a.detach() for a in averages] if detach_average else averages
        logits = [x - a for x, a in zip((*real, *fake), averages)]
        return Terms(logits, labels, scales * len(labels), found.criterion, len(real))
    # Dual contrast weighs a logit against every logit of the other side: which sign comes out depends on whose it is.
    shifts = [
        [found.shift(x, (own == "real") == of_discriminator) for x in other]
        for own, other in (("real", fake), ("fake", real))
    ]
    shift = torch.stack([*shifts[0], *shifts[1]])
    shift = shift.detach() if detach_average else shift
    return Terms((*real, *fake), labels, scales * len(labels), found.criterion, len(real), shift=shift)


def _concatenated(logits, objective, fake_first, split, weight, real_label, fake_label, reduce_discriminators):
    found = find(objective)
    if found.relation is not None:
        raise ValueError(f"objective: got {objective!r}, which compares the sides; pass them apart, expected another")
    x = _listed("logits", logits)
    _check_logits(("logits", x))
    weight = _number("weight", weight)
    rows = x[0].shape[0] if x[0].dim() else 0
    if split is None and rows % 2:
        raise ValueError(f"logits: got {rows} rows, expected an even number, or split=")
    split = rows // 2 if split is None else split
    for i, t in enumerate(x):
        if not t.dim() or t.shape[0] != rows or not 0 < split < rows:
            raise ValueError(
                f"logits{_at(i, x)}: got shape {tuple(t.shape)}, expected {rows} rows, {split} of them of one kind"
            )
    sides = _sides(found, real_label, fake_label)
    labels, targets = _labels(found.criterion, sides, (x, x))
    if targets:
        raise TypeError("real_label, fake_label: got a tensor, expected numbers for a concatenated batch")
    scale = weight * found.weight * _share(reduce_discriminators, len(x))
    signed = -split if fake_first else split
    terms = Terms(x, labels, (scale,) * len(labels), found.criterion, len(x), split=signed)
    return terms, not isinstance(logits, Tensor)


def _reduced(terms: Terms, reduction: str) -> Tensor:
    if reduction == "mean":
        return operators.value(terms)[0]
    if reduction == "sum":
        kept = [i for i, x in enumerate(terms.logits) if x.numel()]
        weights = tuple([w * x.numel() for w, x in zip(terms.weights, terms.logits)])
        if len(kept) == len(weights):
            return operators.value(terms._replace(weights=weights))[0]
        losses = [w * operators.elementwise(terms, i).sum() for i, w in enumerate(terms.weights)]
        return sum(losses)
    losses = [w * operators.elementwise(terms, i) for i, w in enumerate(terms.weights)]
    if reduction == "sample":
        losses = [x.flatten(1).mean(1) if x.dim() > 1 else x for x in losses]
    if any(x.shape != losses[0].shape for x in losses):
        shapes = ", ".join(str(tuple(x.shape)) for x in losses)
        raise ValueError(f"reduction: got {reduction!r} for losses of shapes {shapes}, expected one shape, or 'mean'")
    return sum(losses[1:], losses[0])


def _scale(grad_scale, like: Tensor) -> tuple[Tensor | None, float]:
    if grad_scale is None:
        return None, 1.0
    if not isinstance(grad_scale, Tensor):
        return None, _number("grad_scale", grad_scale)
    if grad_scale.numel() != 1 or not grad_scale.is_floating_point():
        raise ValueError(
            f"grad_scale: got a {grad_scale.dtype} tensor of shape {tuple(grad_scale.shape)}, "
            "expected a number or a floating tensor of one element"
        )
    if grad_scale.device != like.device:
        raise ValueError(f"grad_scale: got a tensor on {grad_scale.device}, expected {like.device}")
    return grad_scale.detach().reshape(()), 1.0


def _refuse_transforms() -> None:
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError(
            "value_and_grad: its result carries no derivative, and a torch.func transform or forward-mode AD is "
            "active; use discriminator_loss or generator_loss there"
        )


def _value_and_grad(terms: Terms, grad_scale, listed: bool) -> ValueAndGrad:
    _refuse_transforms()
    scale, factor = _scale(grad_scale, terms.logits[0])
    loss, rows, grads = operators.value_and_gradient(terms, scale, factor)
    return ValueAndGrad(loss, rows, tuple(grads), terms.n_real, listed)


def _through_autograd(make, real, fake, grad_scale, listed: bool, of_real: bool = True) -> ValueAndGrad:
    """For terms whose shifts have a gradient of their own."""
    _refuse_transforms()
    scale, factor = _scale(grad_scale, fake[0])
    with torch.inference_mode(False), torch.enable_grad():
        real, fake = (
            [(x.clone() if x.is_inference() else x.detach()).requires_grad_(asked) for x in xs]
            for xs, asked in ((real, of_real), (fake, True))
        )
        loss, rows = operators.value(make(real, fake), operators.EVERYTHING)
        seed = torch.full_like(loss, factor) if scale is None else scale.to(loss.dtype) * factor
        grads = torch.autograd.grad(loss, [*real, *fake] if of_real else fake, seed)
    return ValueAndGrad(loss.detach(), rows.detach(), grads, len(real), listed, len(real) if of_real else 0)


def _listed(name: str, logits: Logits) -> Sequence[Tensor]:
    """The tensors of logits, each list of features' last."""
    if isinstance(logits, Tensor):
        return (logits,)
    if not isinstance(logits, (list, tuple)):
        raise TypeError(f"{name}: got {type(logits).__name__}, expected a torch.Tensor, a list of them, or of lists")
    if not logits:
        raise ValueError(f"{name}: got an empty list, expected at least one tensor")
    found = []
    for i, x in enumerate(logits):
        if isinstance(x, (list, tuple)):
            if not x:
                raise ValueError(f"{name}[{i}]: got an empty list, expected features and logits, the logits last")
            x = x[-1]
        found.append(x)
    return found


def _at(i: int, of: Sequence) -> str:
    return f"[{i}]" if len(of) > 1 else ""


def _check_logits(*sides: tuple[str, Sequence[Tensor]]) -> None:
    first_name = first = None
    for name, logits in sides:
        for i, x in enumerate(logits):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name}{_at(i, logits)}: got {type(x).__name__}, expected a torch.Tensor")
            if x.dtype not in _DTYPES:
                raise TypeError(
                    f"{name}{_at(i, logits)}: got {x.dtype}, expected float16, bfloat16, float32 or float64 logits"
                )
            if x.layout is not torch.strided:
                raise ValueError(f"{name}{_at(i, logits)}: got a {x.layout} tensor, expected a dense one")
            if first is None:
                first_name, first = name + _at(i, logits), x
            elif x.dtype != first.dtype:
                raise ValueError(
                    f"{name}{_at(i, logits)}: got {x.dtype}, expected {first.dtype}, the dtype of {first_name}"
                )
            elif x.device != first.device:
                raise ValueError(
                    f"{name}{_at(i, logits)}: got a tensor on {x.device}, expected {first.device}, "
                    f"the device of {first_name}"
                )


def _labels(criterion: str, sides, logits) -> tuple[tuple[float, ...], Sequence[Tensor]]:
    """(labels, targets) of the terms; targets is empty where every label is a number."""
    labels, targets = [], []
    for (name, label, own), xs in zip(sides, logits):
        label = own if label is None else label
        if isinstance(label, (Tensor, list, tuple)):
            labels += [0.0] * len(xs)
            targets += _expanded(name, label, xs)
        else:
            _check_label(name, label, criterion)
            labels += [float(label)] * len(xs)
            targets += [None] * len(xs)
    if not any(t is not None for t in targets):
        return tuple(labels), ()
    flat = list(itertools.chain.from_iterable(logits))
    dtype = torch.float64 if flat[0].dtype == torch.float64 else torch.float32
    pairs = zip(flat, targets, labels)
    filled = [torch.full_like(x, y, dtype=dtype) if t is None else t.detach().to(dtype) for x, t, y in pairs]
    return tuple(labels), filled


def _masks(sides, logits, reduction: str) -> Sequence[Tensor]:
    """What each phi is multiplied by; none where no weights are given. Where a mean is asked for it is the weight over
    the mean weight, of the tensor or of the sample, so that the mean of the products is sum m phi / sum m."""
    if not any(weights is not None for _, weights in sides):
        return ()
    masks = []
    for (name, weights), xs in zip(sides, logits):
        for x, m in zip(xs, _expanded(name, weights, xs) if weights is not None else [None] * len(xs)):
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            if m is None:
                masks.append(torch.ones_like(x, dtype=dtype))
            else:
                m = m.detach().to(dtype)
                if reduction == "mean" or (reduction == "sample" and m.dim() > 1):
                    m = m / (m.mean() if reduction == "mean" else m.mean(tuple(range(1, m.dim())), keepdim=True))
                masks.append(m)
    return masks


def _expanded(name: str, given: Tensor | Sequence[Tensor], logits: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each tensor of `given` in the shape of its logits; a single one serves all of them."""
    given = [given] * len(logits) if isinstance(given, Tensor) else list(given)
    if len(given) != len(logits):
        raise ValueError(f"{name}: got {len(given)} tensors, expected {len(logits)}, one for each tensor of logits")
    for i, (t, x) in enumerate(zip(given, logits)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}{_at(i, logits)}: got {type(t).__name__}, expected a torch.Tensor")
        if t.device != x.device:
            raise ValueError(f"{name}{_at(i, logits)}: got a tensor on {t.device}, expected {x.device}")
        if t.dtype.is_complex or t.layout is not torch.strided:
            raise TypeError(f"{name}{_at(i, logits)}: got a {t.dtype} {t.layout} tensor, expected dense real numbers")
        try:
            yield t.expand(x.shape)
        except RuntimeError:
            raise ValueError(
                f"{name}{_at(i, logits)}: got shape {tuple(t.shape)}, expected one that expands to {tuple(x.shape)}"
            ) from None


def _patches(patch_mean: bool, logits: Sequence[Tensor]) -> Sequence[Tensor]:
    return [x.flatten(1).mean(1) if x.dim() > 1 else x for x in logits] if patch_mean else logits


def _share(reduce_discriminators: str, count: int) -> float:
    _check_choice("reduce_discriminators", reduce_discriminators, ("sum", "mean"))
    return 1.0 / count if reduce_discriminators == "mean" else 1.0


def _refuse_weights(objective: str, **weights) -> None:
    for name, value in weights.items():
        if value is not None:
            raise ValueError(f"{name}: got weights, but objective {objective!r} compares logits, expected None")


def _check_label(name: str, label: float, criterion: str) -> None:
    if label.__class__ is float and label in (0.0, 1.0):
        return  # fit for every criterion
    _number(name, label)
    allowed = criteria.find(criterion).labels
    if allowed == "probability" and not 0.0 <= label <= 1.0:
        raise ValueError(f"{name}: got {label}, expected a probability in [0, 1]")
    if allowed == "side" and label not in (0, 1):
        raise ValueError(f"{name}: got {label}, expected 1 (real) or 0 (generated) for criterion {criterion!r}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected {' or '.join(map(repr, choices))}")


def _number(name: str, value: float) -> float:
    """The argument as Python's float: a number of NumPy's or a fraction is none to a kernel."""
    if value.__class__ is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
    return float(value)
