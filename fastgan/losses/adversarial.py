"""The adversarial losses as functions: check the arguments, build the terms, run them.

Logits are a tensor, a list of tensors (several discriminators), or a list of lists of tensors (a discriminator's
features, its logits last). A list needs one launch for every 64 tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.checks import number
from fastgan.formulas import criteria
from fastgan.formulas.objectives import find
from fastgan.formulas.results import ValueAndGrad
from fastgan.formulas.terms import Terms, wide_dtype
from fastgan.losses.arguments import (
    REDUCTIONS,
    Label,
    Logits,
    both_sides,
    check_label,
    check_logits,
    choice,
    derivative_refused,
    grad_scale_of,
    listed,
    pairs,
    refuse_weights,
    scalar,
)
from fastgan.losses.assemble import (
    concatenated_terms,
    discriminator_terms,
    generator_terms,
    labels_and_targets,
    loss_masks,
    patch_means,
    terms_of_sides,
    weight_of_each,
)
from fastgan.operators import adversarial as operators


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
    """The discriminator's loss: one launch forward, one backward; only the logits are saved.

        L = weight * sum_k ( mean_i phi(r_k[i], real_label) + mean_j phi(f_k[j], fake_label) )

    phi is the criterion of the objective; `fastgan.objectives()` lists every formula with its source. For "minimax" it
    is bce(x, y) = softplus(x) - y x, and L = mean softplus(-r) + mean softplus(f), the negative of what D maximises in
    eq. 1 of Goodfellow et al. (2014). Each side has its own mean, so batches of different sizes count equally;
    `weight=0.5` gives the average of both means, ln 2 if D cannot tell the sides apart.

    Args:
        real_logits, fake_logits: D's outputs before the sigmoid; float16, bfloat16, float32 or float64, one dtype and
            one device, any shapes. A tensor, a list of tensors, or a list of lists whose last tensors are the logits.
            Dense layouts (channels_last) are read in place; others are copied first.
        objective: a name of `fastgan.objectives()`.
        weight: multiplies the loss.
        real_label, fake_label: the labels, by default the objective's own, mostly 1 and 0. For the cross-entropies and
            the absolute error: a probability in [0, 1]; values other than 1 and 0 are label smoothing, one-sided
            (Salimans et al. 2016, section 3.4) or two-sided: y phi(x, 1) + (1 - y) phi(x, 0). For least squares: any
            number, b and a of Mao et al. (2017). A tensor that expands to the logits' shape (a list of them for a list
            of logits) gives each logit its own label: soft, noisy or blurred. The values in a tensor are not checked.
        real_weights, fake_weights: a weight for each logit, or a mask: a tensor that expands to the logits' shape.
            "mean" becomes sum_i m_i phi_i / sum_i m_i, and "sample" the same within each sample; "sum" becomes
            sum_i m_i phi_i, and "none" gives m_i phi_i.
        reduction: "mean"; "sum" over a tensor's logits; "none": the loss of each logit; "sample": the loss of each
            sample, the mean over all dimensions but the first. The last two need sides of one shape, and are not fused:
            they run PyTorch's own operators.
        reduce_discriminators: "sum" or "mean" over the tensors of a list.
        patch_mean: average each sample's logits before the criterion (Luo et al. 2024, Open-MAGVIT2).
        average_over: relativistic averages run over "all" logits of the other side, or only over its "batch" dimension.
        detach_average: stop the gradient through those averages.

    Returns:
        0-d tensor, float32 (float64 for float64 logits), cross-entropies in nats; differentiable in the logits, twice
        and more with `create_graph=True`. An empty side gives NaN, as `mean` does. NaN and infinite logits give the
        result of eager PyTorch. Relativistic averages need one more launch for each mean and difference of gradients.

    Raises:
        TypeError: an argument of the wrong type, or logits of another dtype.
        ValueError: an unknown objective or reduction, a label outside its range, an empty list, lists of different
            lengths, logits of two devices or dtypes, a sparse tensor. Messages name the argument and the position.
    """
    found = find(objective)
    real, fake = both_sides(real_logits, fake_logits)
    choice("reduction", reduction, REDUCTIONS)
    if patch_mean:
        real, fake = patch_means(real), patch_means(fake)
    scale = found.weight * weight_of_each(weight, reduce_discriminators, len(real))
    if found.relation is not None:
        refuse_weights(objective, real_weights=real_weights, fake_weights=fake_weights)
    terms = discriminator_terms(found, real, fake, scale, real_label, fake_label, average_over, detach_average)
    if real_weights is not None or fake_weights is not None:
        sides = ("real_weights", real_weights), ("fake_weights", fake_weights)
        terms = terms.having(masks=loss_masks(sides, (real, fake), reduction))
    return loss_of(terms) if reduction == "mean" else _reduced(terms, reduction)


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
    """The generator's loss, from D's logits of generated data: one launch forward, one backward.

        nonsaturating:         L =  weight * mean_j bce(f_j, real_label)    = weight * mean softplus(-f)
        minimax (saturating):  L = -weight * mean_j bce(f_j, fake_label)    = -weight * mean softplus(f)

    for the default labels (Goodfellow et al. 2014, section 3 and eq. 1); `fastgan.objectives()` lists the others. For
    least squares, `real_label` is c of Mao et al. (2017).

    Args:
        real_logits: the logits that the relativistic objectives and "dual_contrastive" compare with, detached or not.
            Other objectives ignore them, so one call works for every objective.

    Other arguments, result and errors are those of `discriminator_loss`.
    """
    choice("reduction", reduction, REDUCTIONS)
    terms = generator_terms(
        *(fake_logits, objective, real_logits, weight, real_label, fake_label, fake_weights),
        *(reduce_discriminators, patch_mean, average_over, detach_average, reduction),
    )
    return loss_of(terms) if reduction == "mean" else _reduced(terms, reduction)


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
    """`discriminator_loss`, its parts, its gradients at the logits and D's accuracy, in one launch without autograd.

        minimax:  dL/dr_i = weight / N (sigmoid(r_i) - real_label),  dL/df_j = weight / M (sigmoid(f_j) - fake_label)

    Each logit is read once and each gradient written once. Continue the backward pass with

        out = fastgan.discriminator_value_and_grad(real_logits, fake_logits)
        torch.autograd.backward([real_logits, fake_logits], out.grads)

    Args:
        grad_scale: multiplies the gradients, not the loss: for example a loss weight times a GradScaler's scale. A
            number, or a floating tensor of one element on the logits' device (never read on the host). Applied in
            float32 (float64 for float64 logits), before a gradient is rounded to the logits' dtype.

    The other arguments and the errors are those of `discriminator_loss`. Objectives with a relativistic average, and
    "dual_contrastive", need several launches.

    Returns:
        `ValueAndGrad`: loss, loss_real, loss_fake, grads (one flat tuple: real logits first, then generated ones), and
        stats (mean logits, accuracies, D's expected error; of the differences, if the objective uses differences of
        logits). Detached from the logits' graph.

    Raises also:
        RuntimeError: under a `torch.func` transform or forward-mode AD; use `discriminator_loss` there.
    """
    found = find(objective)
    real, fake = both_sides(real_logits, fake_logits)
    scale = found.weight * weight_of_each(weight, reduce_discriminators, len(real))

    settings = (scale, real_label, fake_label, average_over, detach_average)
    is_list = not isinstance(real_logits, Tensor)
    if found.relation == "average":
        return _through_autograd(
            lambda real, fake: discriminator_terms(found, real, fake, *settings), real, fake, grad_scale, is_list
        )
    return _value_and_grad(discriminator_terms(found, real, fake, *settings), grad_scale, is_list)


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

    Arguments, result and errors are those of `discriminator_value_and_grad`; grads = (grad_fake,). `real_logits`, which
    the relativistic objectives compare with and the others ignore, get no gradient.
    """

    def make(real, fake):
        return generator_terms(
            *(fake, objective, real or None, weight, real_label, fake_label, None),
            *(reduce_discriminators, False, average_over, detach_average),
        )

    found, is_list = find(objective), not isinstance(fake_logits, Tensor)
    fake = listed("fake_logits", fake_logits)
    real: Sequence[Tensor] = ()
    if real_logits is not None and found.relation is not None:
        real = listed("real_logits", real_logits)
        check_logits(("real_logits", real))
        real = [x.detach() for x in real]
    if found.relation == "average" and real:
        return _through_autograd(make, real, fake, grad_scale, is_list, of_real=False)
    return _value_and_grad(make(real, fake), grad_scale, is_list)


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
    """`discriminator_loss` for real and generated data in one batch, which is neither sliced nor copied.

    With slices, autograd zero-fills a tensor and copies it for each side; here one launch writes the whole gradient.

    Args:
        logits: (B, ...), generated rows first (SPADE), or real ones with `fake_first=False`; a list of such tensors, or
            a list of lists, as in `discriminator_loss`.
        split: the number of rows of the first kind; by default half of the rows.

    Other arguments, result and errors are those of `discriminator_loss`. Objectives that compare the sides are refused.
    """
    terms, _ = concatenated_terms(
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
    """`concatenated_discriminator_loss` and its gradient in one launch: grads has one tensor, of the whole batch, for
    each tensor of logits. See `discriminator_value_and_grad`."""
    terms, is_list = concatenated_terms(
        logits, objective, fake_first, split, weight, real_label, fake_label, reduce_discriminators
    )
    return _value_and_grad(terms, grad_scale, is_list)


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
    """One side of a loss: sum_k weight_k mean_i phi(x_k[i], label), for code that computes each side separately.

    Args:
        logits: as in `discriminator_loss`.
        label: 1 for real and 0 for generated, or any label of the criterion; a tensor gives each logit its own.
        criterion: "sigmoid_cross_entropy", "softplus" (equal for the labels 1 and 0, except at infinite logits),
            "absolute_error", "least_squares", "absolute" (|x - y|), "hinge" (and "hinge_clamp", "hinge_min", which
            differ at the knee), "wasserstein", "squared_hinge", "leaky_least_squares", "tanh_hinge",
            "log_sigmoid_with_eps", "cross_entropy" (of probabilities).
        weight: multiplies the loss; a list has one number for each tensor.
        weights: a weight for each logit, or a mask; see `real_weights` of `discriminator_loss`.

    Other arguments, result and errors are those of `discriminator_loss`.
    """
    x = listed("logits", logits)
    check_logits(("logits", x))
    choice("reduction", reduction, REDUCTIONS)
    criteria.find(criterion)
    x = patch_means(x) if patch_mean else x
    if isinstance(weight, Sequence):
        share = weight_of_each(1.0, reduce_discriminators, len(x))
        if len(weight) != len(x):
            raise ValueError(f"weight: got {len(weight)} numbers, expected {len(x)}, one for each tensor of logits")
        scales = tuple([share * number(f"weight[{i}]", w) for i, w in enumerate(weight)])
    else:
        scales = (weight_of_each(weight, reduce_discriminators, len(x)),) * len(x)
    labels, targets = labels_and_targets(criterion, (("label", label, 0.0),), (x,))
    masks = () if weights is None else loss_masks((("weights", weights),), (x,), reduction)
    terms = Terms(x, labels, scales, criterion, len(x), (), targets, masks)
    return loss_of(terms) if reduction == "mean" else _reduced(terms, reduction)


def criterion_value_and_grad(
    logits: Tensor, label: float, criterion: str = "sigmoid_cross_entropy", *, grad_scale: Tensor | float | None = None
) -> ValueAndGrad:
    """`criterion_loss` of a tensor and its gradient in one launch. The result is that of `generator_value_and_grad`:
    the logits count as generated."""
    check_logits(("logits", (logits,)))
    check_label("label", label, criterion)
    return _value_and_grad(Terms((logits,), (float(label),), (1.0,), criterion), grad_scale, False)


def adversarial_losses(
    sides: Sequence[tuple[Logits, Label]],
    criterion: str,
    *,
    weight: float = 1.0,
    reduce_discriminators: str = "sum",
) -> tuple[Tensor, Tensor]:
    """The loss and the part of each tensor in it, in one launch, for code that returns both.

        (L, losses):  losses[k] = weight mean_i phi(x_k[i], y_k),   L = sum_k losses[k]

    Args:
        sides: (logits, label) pairs, for example of real and of generated data, each as in `criterion_loss`.
        reduce_discriminators: "mean" divides the losses by the number of tensors of the first side.

    Returns:
        L, 0-d, and losses, (K,), over the tensors of all sides in order. Both are differentiable, alone or together.

    Other arguments and the errors are those of `criterion_loss`.
    """
    terms = terms_of_sides(pairs("sides", sides), criterion, weight, reduce_discriminators)
    loss, rows = operators.value(terms, operators.LOSSES)
    return loss, rows[:, 0]


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
    0-d tensors on the logits' device. Other arguments, result and errors: as in `discriminator_loss`."""
    real, fake = listed("real_logits", real_logits), listed("fake_logits", fake_logits)
    check_logits(("real_logits", real), ("fake_logits", fake))
    weight = number("weight", weight)
    like = real[0]
    dtype = wide_dtype(like.dtype)
    of_real, of_fake = (
        scalar(name, anchor, dtype, like.device)
        for name, anchor in (("fake_anchor", fake_anchor), ("real_anchor", real_anchor))
    )
    shift = torch.stack([of_real] * len(real) + [of_fake] * len(fake))
    labels = (0.0,) * len(real) + (1.0,) * len(fake)
    terms = Terms((*real, *fake), labels, (float(weight),) * len(labels), "squared_hinge", len(real), shift=shift)
    return operators.value(terms)[0]


def drift_penalty(real_logits: Logits, *, weight: float = 1e-3) -> Tensor:
    """weight * mean r^2: keeps a Wasserstein D from drifting (Karras et al. 2018, appendix A.1)."""
    return criterion_loss(real_logits, 0.0, "least_squares", weight=weight)


def loss_of(terms: Terms) -> Tensor:
    """The loss of terms that are already checked."""
    return operators.value(terms)[0]


def _reduced(terms: Terms, reduction: str) -> Tensor:
    if reduction == "sum":
        kept = [i for i, x in enumerate(terms.logits) if x.numel()]
        weights = tuple([w * x.numel() for w, x in zip(terms.weights, terms.logits)])
        if len(kept) == len(weights):
            return operators.value(terms.having(weights=weights))[0]
        losses = [w * operators.elementwise(terms, i).sum() for i, w in enumerate(terms.weights)]
        return sum(losses[1:], losses[0])
    losses = [w * operators.elementwise(terms, i) for i, w in enumerate(terms.weights)]
    if reduction == "sample":
        losses = [x.flatten(1).mean(1) if x.dim() > 1 else x for x in losses]
    if any(x.shape != losses[0].shape for x in losses):
        shapes = ", ".join(str(tuple(x.shape)) for x in losses)
        raise ValueError(f"reduction: got {reduction!r} for losses of shapes {shapes}, expected one shape, or 'mean'")
    return sum(losses[1:], losses[0])


def _value_and_grad(terms: Terms, grad_scale, is_list: bool) -> ValueAndGrad:
    derivative_refused("value_and_grad", "discriminator_loss or generator_loss")
    scale, factor = grad_scale_of(grad_scale, terms.logits[0])
    loss, rows, grads = operators.value_and_gradient(terms, scale, factor)
    return ValueAndGrad(loss, rows, tuple(grads), terms.n_real, is_list)


def _through_autograd(make, real, fake, grad_scale, is_list: bool, of_real: bool = True) -> ValueAndGrad:
    """`_value_and_grad` by autograd, for terms whose shifts depend on the logits."""
    derivative_refused("value_and_grad", "discriminator_loss or generator_loss")
    scale, factor = grad_scale_of(grad_scale, fake[0])
    with torch.inference_mode(False), torch.enable_grad():
        real, fake = (
            [(x.clone() if x.is_inference() else x.detach()).requires_grad_(asked) for x in xs]
            for xs, asked in ((real, of_real), (fake, True))
        )
        loss, rows = operators.value(make(real, fake), operators.EVERYTHING)
        seed = torch.ones_like(loss) * factor if scale is None else scale.to(loss.dtype)
        grads = torch.autograd.grad(loss, [*real, *fake] if of_real else fake, seed)
    return ValueAndGrad(loss.detach(), rows.detach(), grads, len(real), is_list, len(real) if of_real else 0)
