"""What a `*_value_and_grad` call returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

LOSS, MEAN_LOGIT, ACCURACY = range(3)  # the columns of `ValueAndGrad.terms`


class Statistics(NamedTuple):
    """Statistics of the discriminator, from one pass over the logits. 0-d tensors on the logits' device, or for
    lists of logits one entry a discriminator; a side that the loss does not see is None.

    real_mean, fake_mean: mean logit of a side (not a probability).
    real_accuracy, fake_accuracy: share of a side that D classifies rightly, in [0, 1]. D says *real* if its logit
        is >= 0, that is D(x) >= 1/2. NaN if the mean logit of that side is NaN.
    """

    real_mean: Tensor | None
    fake_mean: Tensor | None
    real_accuracy: Tensor | None
    fake_accuracy: Tensor | None

    @property
    def error(self) -> Tensor:
        """D's expected error over real and generated data in equal parts, 1 - (real_accuracy + fake_accuracy) / 2:
        the quantity of the theory, 1/2 when D cannot tell them apart. If there is only one side, over that one."""
        sides = [side for side in (self.real_accuracy, self.fake_accuracy) if side is not None]
        return 1 - (sum(sides[1:], sides[0]) / len(sides)).mean()

    @property
    def real_sign(self) -> Tensor | None:
        """Mean sign of the real logits, in [-1, 1], a zero counted as positive: what adaptive augmentation (Karras et
        al. 2020, section 3, r_t) monitors."""
        return None if self.real_accuracy is None else 2 * self.real_accuracy - 1

    @property
    def fake_sign(self) -> Tensor | None:
        return None if self.fake_accuracy is None else 1 - 2 * self.fake_accuracy


class ValueAndGrad:
    """A loss, its parts, its statistics and its gradients at the logits.

    loss: 0-d; float32 (float64 for float64 logits). The sum of the first column of `terms`.
    grads: a flat tuple, one tensor per logits tensor, of its shape and dtype; real before generated.
    terms: (K, 3), a row per logits tensor: weighted loss, mean logit, share that D classifies rightly.

    For lists of logits `losses_real`, `losses_fake`, `grad_real`, `grad_fake` and `stats` have an entry for each
    discriminator. Nothing here is attached to an autograd graph: hand the gradients to
    `torch.autograd.backward([real_logits, fake_logits], out.grads)`. Properties are views, without a launch. Only
    `stats.error` and the signs compute something small, and for lists `loss_real` and `loss_fake`, too.
    """

    __slots__ = ("_listed", "_n_real", "_real_grads", "grads", "loss", "terms")

    def __init__(
        self,
        loss: Tensor,
        terms: Tensor,
        grads: tuple[Tensor, ...],
        n_real: int,
        listed: bool = False,
        real_grads: int | None = None,
    ):
        self.loss, self.terms, self.grads, self._n_real, self._listed = loss, terms, grads, n_real, listed
        self._real_grads = n_real if real_grads is None else real_grads

    def _side(self, real: bool, column: int) -> Tensor | None:
        begin, end = (0, self._n_real) if real else (self._n_real, len(self.terms))
        if begin == end:
            return None
        return self.terms[begin:end, column] if self._listed else self.terms[begin, column]

    @property
    def losses_real(self) -> Tensor | None:
        """Weighted loss of each discriminator on real data; for a relativistic pairing, on the pairs."""
        return self._side(True, LOSS)

    @property
    def losses_fake(self) -> Tensor | None:
        return self._side(False, LOSS)

    @property
    def loss_real(self) -> Tensor | None:
        return _summed(self.losses_real)

    @property
    def loss_fake(self) -> Tensor | None:
        return _summed(self.losses_fake)

    @property
    def grad_real(self) -> Tensor | tuple[Tensor, ...] | None:
        return self._grads(slice(0, self._real_grads))

    @property
    def grad_fake(self) -> Tensor | tuple[Tensor, ...] | None:
        return self._grads(slice(self._real_grads, None))

    def _grads(self, side: slice) -> Tensor | tuple[Tensor, ...] | None:
        grads = self.grads[side]
        return None if not grads else grads if self._listed else grads[0]

    @property
    def stats(self) -> Statistics:
        return Statistics(*(self._side(real, column) for column in (MEAN_LOGIT, ACCURACY) for real in (True, False)))

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(g.shape)) for g in self.grads)
        return f"ValueAndGrad(loss={self.loss!r}, grads of shapes {shapes})"


def _summed(losses: Tensor | None) -> Tensor | None:
    return losses.sum() if losses is not None and losses.dim() else losses
