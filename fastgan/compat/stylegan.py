"""stylegan2-ada-pytorch and stylegan3 (NVlabs): the adversarial terms of `StyleGAN2Loss`, in `training/loss.py`.

Upstream has them inline, so the names here are ours. There are three ways to use them, from the smallest change to the
largest; each starts with `from fastgan.compat import stylegan` at the top of `training/loss.py`.

(1) The terms of every logit replace the softplus; the code after it (`training_stats`, `.mean().mul(gain)`) does not
   change. Nothing is fused:

    loss_Gmain = ...softplus...    ->  loss_Gmain = stylegan.generator_term(gen_logits)
    loss_Dgen = ...softplus...     ->  loss_Dgen = stylegan.discriminator_fake_term(gen_logits)
    loss_Dreal = ...softplus...    ->  loss_Dreal = stylegan.discriminator_real_term(real_logits)

(2) Reduced losses, one launch forward and one backward, for loops that have both sides of D at once:

    stylegan.generator_loss(gen_logits, gain).backward()
    stylegan.discriminator_loss(real_logits, gen_logits, gain).backward()

(3) Loss, gradient and the numbers for `training_stats.report` from one launch (and two of one number, for the signs),
   without a device synchronisation. In Gmain, instead of the softplus, the three reports and the backward:

    out = stylegan.generator_value_and_grad(gen_logits, gain)
    training_stats.report("Loss/scores/fake", out.scores)
    training_stats.report("Loss/signs/fake", out.signs)
    training_stats.report("Loss/G/loss", out.loss)
    gen_logits.backward(out.grad)

   Likewise in Dmain, `discriminator_fake_value_and_grad(gen_logits, gain)`, then
   `discriminator_real_value_and_grad(real_logits, gain)`, whose losses add up to "Loss/D/loss". In the phase that adds
   R1 ("Dboth"), one backward pass starts from both tensors:

    torch.autograd.backward([real_logits, loss_Dr1.mean().mul(gain)], [out.grad, None])

   In "Dreg", only R1, stylegan2-ada-pytorch adds `real_logits * 0`: D's last bias, on which R1 does not depend, then
   has a gradient of 0, not None, and Adam still updates it. Keep that line, or pass zeros instead of `out.grad`:

    torch.autograd.backward([real_logits, loss_Dr1.mean().mul(gain)], [torch.zeros_like(real_logits), None])

Differences: in (3) `training_stats` counts a batch as one sample, its mean. Its means are the same if all batches are
equally large, as upstream; its standard deviations become those of batch means. A sign of exactly 0 counts as 1.
Half-precision logits give float32 losses; upstream's D ends in float32 anyway.

The quoted lines are from stylegan3 c233a91 (April 2023).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastgan.compat._logits import check, softplus_of_both
from fastgan.losses import adversarial
from fastgan.losses.arguments import number


class ValueAndGrad(NamedTuple):
    """A term of the loss, from one launch; no field has a graph.

    loss: its mean without the gain, 0-d. grad: the gradient of gain times that mean, of the logits' shape and dtype.
    scores: the mean logit. signs: the mean sign, in [-1, 1], which adaptive augmentation uses. Both 0-d.
    """

    loss: Tensor
    grad: Tensor
    scores: Tensor
    signs: Tensor


def generator_term(gen_logits: Tensor) -> Tensor:
    """softplus(-gen_logits), of their shape: the loss of every logit; the caller takes `.mean().mul(gain)`.

    gen_logits: (batch, 1) upstream, any shape here.

    Raises:
        TypeError, ValueError: not a floating tensor, or an empty one.
    """
    check(gen_logits=gen_logits)
    return adversarial.criterion_loss(gen_logits, 1.0, "softplus", reduction="none")


def discriminator_fake_term(gen_logits: Tensor) -> Tensor:
    """softplus(gen_logits), of their shape. See `generator_term`."""
    check(gen_logits=gen_logits)
    return adversarial.criterion_loss(gen_logits, 0.0, "softplus", reduction="none")


def discriminator_real_term(real_logits: Tensor) -> Tensor:
    """softplus(-real_logits), of their shape. See `generator_term`."""
    check(real_logits=real_logits)
    return adversarial.criterion_loss(real_logits, 1.0, "softplus", reduction="none")


def generator_loss(gen_logits: Tensor, gain: float = 1.0) -> Tensor:
    """gain mean softplus(-gen_logits), 0-d. Errors as in `generator_term`."""
    check(gen_logits=gen_logits)
    gain = number("gain", gain)
    return adversarial.criterion_loss(gen_logits, 1.0, "softplus", weight=gain)


def discriminator_loss(real_logits: Tensor, gen_logits: Tensor, gain: float = 1.0) -> Tensor:
    """gain (mean softplus(-real_logits) + mean softplus(gen_logits)), 0-d, both sides in one launch.

    Errors as in `generator_term`; also ValueError for two dtypes or devices."""
    check(real_logits=real_logits, gen_logits=gen_logits)
    gain = number("gain", gain)
    return softplus_of_both(real_logits, gen_logits, gain)


def generator_value_and_grad(gen_logits: Tensor, gain: float | Tensor = 1.0) -> ValueAndGrad:
    """The mean of `generator_term`, its gradient times `gain`, the mean logit and the mean sign; see `ValueAndGrad`.

    gain: a number, or a floating tensor of one element on the logits' device. Errors as in `generator_term`.
    """
    check(gen_logits=gen_logits)
    return _one_side(gen_logits, gain, 1.0)


def discriminator_fake_value_and_grad(gen_logits: Tensor, gain: float | Tensor = 1.0) -> ValueAndGrad:
    """`generator_value_and_grad` for `discriminator_fake_term`."""
    check(gen_logits=gen_logits)
    return _one_side(gen_logits, gain, 0.0)


def discriminator_real_value_and_grad(real_logits: Tensor, gain: float | Tensor = 1.0) -> ValueAndGrad:
    """`generator_value_and_grad` for `discriminator_real_term`."""
    check(real_logits=real_logits)
    return _one_side(real_logits, gain, 1.0)


def _one_side(logits: Tensor, gain: float | Tensor, label: float) -> ValueAndGrad:
    if not isinstance(gain, Tensor):
        gain = number("gain", gain)
    out = adversarial.criterion_value_and_grad(logits.detach(), label, "softplus", grad_scale=gain)
    mean, sign = out.stats.fake_mean, out.stats.fake_sign
    assert mean is not None and sign is not None  # one side alone counts as the generated one
    return ValueAndGrad(out.loss, out.grads[0], mean, sign)
