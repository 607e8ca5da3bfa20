"""What a `*_value_and_grad` call returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

LOSS, MEAN_LOGIT, ACCURACY = range(3)  # the columns of `ValueAndGrad.terms`


class Statistics(NamedTuple):
    """What one pass over the logits tells of the discriminator. 0-d tensors on the logits' device; a side that the
    loss does not see is None.

    real_mean, fake_mean: mean logit of a side (not a probability).
    real_accuracy, fake_accuracy: share of a side that D classifies rightly, in [0, 1]. D says *real* where its logit
        is >= 0, that is D(x) >= 1/2. NaN where the mean logit of that side is NaN.
    """

    real_mean: Tensor | None
    fake_mean: Tensor | None
    real_accuracy: Tensor | None
    fake_accuracy: Tensor | None

    @property
    def error(self) -> Tensor:
        """D's expected error over real and generated data in equal parts, 1 - (real_accuracy + fake_accuracy) / 2:
        the quantity of the theory, 1/2 when D cannot tell them apart. Over one side where there is only one."""
        sides = [side for side in (self.real_accuracy, self.fake_accuracy) if side is not None]
        return 1 - sum(sides) / len(sides)


class ValueAndGrad:
    """A loss, its parts, its statistics and its gradients at the logits.

    loss: 0-d; float32 (float64 for float64 logits). Equal to loss_real + loss_fake.
    grads: one tensor per logits tensor, in the order of the arguments, of that tensor's shape and dtype.
    terms: (K, 3), a row per logits tensor: weighted loss, mean logit, share that D classifies rightly.

    Nothing here is attached to an autograd graph: hand the gradients to
    `torch.autograd.backward([real_logits, fake_logits], out.grads)`. Reading a property is a view, and no launch.
    """

    __slots__ = ("_n_real", "grads", "loss", "terms")

    def __init__(self, loss: Tensor, terms: Tensor, grads: tuple[Tensor, ...], n_real: int):
        self.loss, self.terms, self.grads, self._n_real = loss, terms, grads, n_real

    def _side(self, real: bool, column: int) -> Tensor | None:
        row = 0 if real else self._n_real
        return self.terms[row, column] if row < (self._n_real if real else len(self.grads)) else None

    @property
    def loss_real(self) -> Tensor | None:
        return self._side(True, LOSS)

    @property
    def loss_fake(self) -> Tensor | None:
        return self._side(False, LOSS)

    @property
    def grad_real(self) -> Tensor | None:
        return self.grads[0] if self._n_real else None

    @property
    def grad_fake(self) -> Tensor | None:
        return self.grads[self._n_real] if self._n_real < len(self.grads) else None

    @property
    def stats(self) -> Statistics:
        return Statistics(*(self._side(real, column) for column in (MEAN_LOGIT, ACCURACY) for real in (True, False)))

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(g.shape)) for g in self.grads)
        return f"ValueAndGrad(loss={self.loss!r}, grads of shapes {shapes})"
