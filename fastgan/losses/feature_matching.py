"""Feature matching: compare a discriminator's features of generated and of real data, layer by layer.

The one GAN loss that is bound by memory: HiFi-GAN's has 54 pairs of maps and 123 million elements a side. Maps are
terms, as logits are, with the real map as partner: one launch for every 64 pairs forward, and one backward. There are
three ways to compute gradients. They move this many bytes for each element of float32 maps, forward and backward:

    20   save="maps"       backward reads both maps again; only the gradients are allocated
    14   save="signs"      forward writes a one-byte sign; backward reads it, so both maps can be freed in between
    12   value_and_grad    forward writes the gradient: both maps are read only once, but there is no autograd node
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgan.checks import number
from fastgan.formulas.results import ValueAndGrad
from fastgan.formulas.terms import Terms
from fastgan.losses.arguments import check_logits, choice, derivative_refused, grad_scale_of, index
from fastgan.operators import adversarial as operators
from fastgan.operators import matching
from fastgan.operators.dispatch import transforms_active

Maps = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]


def feature_matching_loss(
    fake_maps: Maps,
    real_maps: Maps,
    weights: Sequence[float] | float | None = None,
    p: int = 1,
    *,
    detach_real: bool = True,
    exclude_last: bool = False,
    reduce_layers: str = "sum",
    reduce_discriminators: str = "sum",
    save: str | None = None,
) -> Tensor:
    """sum_k w_k mean |fake_k - real_k|^p over all maps k (Larsen et al. 2016; Wang et al. 2018, eq. 3).

    Args:
        fake_maps, real_maps: D's features of generated and of real data; float16, bfloat16, float32 or float64, one
            dtype and one device, pairs of one shape. A tensor, a list of tensors (the layers of one discriminator), or
            a list of lists (several discriminators).
        weights: w_k, a number for all maps or one for each, in the order of the maps; 1 by default.
        p: 1 or 2.
        detach_real: give the real maps no gradient. With False they get the negative of the generated maps' gradient.
        exclude_last: leave out the last map of each list, which is the logits in many codebases.
        reduce_layers: "sum", or "mean" over the maps of each discriminator.
        reduce_discriminators: "sum", or "mean" over the discriminators.
        save: what is saved for the backward pass: the "maps" of both sides, or for p=1 "signs": one byte for each pair
            of elements, so that maps without other references are freed. Value and gradients are the same. By default
            "signs" for p=1, "maps" for p=2; under a `torch.func` transform always "maps".

    Returns:
        0-d tensor, float32 (float64 for float64 maps), accumulated in float32 and across blocks in float64. As in
        PyTorch, the slope of |x| is 0 at 0 and at NaN, and a NaN makes the loss NaN. Differentiable, twice and more.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, pairs of two shapes, lists of different
            lengths, no maps, weights of the wrong length, another p or save, signs for p=2. Messages name the argument
            and the position.
    """
    choice("save", save, (None, "maps", "signs"))
    terms = _terms(fake_maps, real_maps, weights, p, exclude_last, reduce_layers, reduce_discriminators)
    if detach_real:
        terms = terms.having(partners=[x.detach() for x in terms.partners])
    if save == "signs" and p == 2:
        raise ValueError("save: got 'signs' for p=2, expected 'maps': the slope of x^2 is not a sign")
    if save != "maps" and p == 1 and not transforms_active():
        return matching.value(terms.logits, terms.partners, terms.weights)
    return operators.value(terms)[0]


def feature_matching_value_and_grad(
    fake_maps: Maps,
    real_maps: Maps,
    weights: Sequence[float] | float | None = None,
    p: int = 1,
    *,
    exclude_last: bool = False,
    reduce_layers: str = "sum",
    reduce_discriminators: str = "sum",
    grad_scale: Tensor | float | None = None,
) -> ValueAndGrad:
    """`feature_matching_loss` and its gradients at the generated maps (`grads`, flat); one launch for every 64 pairs.

    Each map is read once and each gradient written once. Continue with

        torch.autograd.backward(fake_maps, out.grads)

    `out.losses_fake` has the part of each map. Arguments and errors are those of `feature_matching_loss`; `grad_scale`
    is that of `discriminator_value_and_grad`."""
    terms = _terms(fake_maps, real_maps, weights, p, exclude_last, reduce_layers, reduce_discriminators)
    derivative_refused("feature_matching_value_and_grad", "feature_matching_loss")
    scale, factor = grad_scale_of(grad_scale, terms.logits[0])
    loss, rows, grads = operators.value_and_gradient(terms, scale, factor)
    return ValueAndGrad(loss, rows, tuple(grads), 0, not isinstance(fake_maps, Tensor))


def _terms(fake_maps, real_maps, weights, p, exclude_last, reduce_layers, reduce_discriminators) -> Terms:
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"p: got {p!r}, expected 1 or 2")
    choice("reduce_layers", reduce_layers, ("sum", "mean"))
    choice("reduce_discriminators", reduce_discriminators, ("sum", "mean"))
    fake, shares = _flattened("fake_maps", fake_maps, exclude_last, reduce_layers, reduce_discriminators)
    real, _ = _flattened("real_maps", real_maps, exclude_last, reduce_layers, reduce_discriminators)
    if len(real) != len(fake):
        raise ValueError(f"real_maps: got {len(real)} maps, expected {len(fake)}, as many as fake_maps")
    check_logits(("fake_maps", fake), ("real_maps", real))
    for i, (a, b) in enumerate(zip(fake, real)):
        if a.shape != b.shape:
            raise ValueError(f"real_maps{index(i, real)}: got shape {tuple(b.shape)}, expected {tuple(a.shape)}")
    if weights is None:
        weights = 1.0
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        if len(weights) != len(fake):
            raise ValueError(f"weights: got {len(weights)} numbers, expected {len(fake)}, one for each map")
    else:
        weights = [weights] * len(fake)
    scales = tuple([number(f"weights[{i}]", weight) * shares[i] for i, weight in enumerate(weights)])
    criterion = "absolute" if p == 1 else "least_squares"
    return Terms(tuple(fake), (0.0,) * len(fake), scales, criterion, 0, tuple(real))


def _flattened(name: str, maps: Maps, exclude_last: bool, reduce_layers: str, reduce_discriminators: str):
    """(all maps in one list, the weight of each by the two reductions)."""
    if isinstance(maps, Tensor):
        if exclude_last:
            raise TypeError(f"{name}: got a torch.Tensor, expected a list: exclude_last leaves out the last of a list")
        return [maps], [1.0]
    if not isinstance(maps, (list, tuple)):
        raise TypeError(f"{name}: got {type(maps).__name__}, expected a torch.Tensor, a list of them, or of lists")
    nested = any(isinstance(layers, (list, tuple)) for layers in maps)
    flat: list[Tensor] = []
    shares: list[float] = []
    for i, layers in enumerate(maps if nested else [maps]):
        if not isinstance(layers, (list, tuple)):
            raise TypeError(f"{name}[{i}]: got {type(layers).__name__}, expected a list, like the other items")
        layers = layers[:-1] if exclude_last else layers
        share = 1.0 / len(layers) if layers and reduce_layers == "mean" else 1.0
        flat += layers
        shares += [share / (len(maps) if nested and reduce_discriminators == "mean" else 1)] * len(layers)
    if not flat:
        raise ValueError(f"{name}: got no maps, expected at least one")
    return flat, shares
