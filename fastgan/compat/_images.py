"""Shared by the drop-ins of image codebases: checks of arguments, and the `GANLoss` of BasicSR and OpenMMLab."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from fastgan.losses.adversarial import criterion_loss


def expect_known(
    name: str, value: str | None, known: Iterable[str | None], error: type[Exception] = NotImplementedError
) -> None:
    known = list(known)
    if value not in known:
        raise error(f"{name}: got {value!r}, expected {' or '.join(map(repr, known))}")


def expect_logits(name: str, logits, lists: bool = True) -> None:
    """Raise unless `logits` is a non-empty tensor; or, with `lists`, a list of them, or of lists that end in one."""
    if isinstance(logits, Tensor):
        _expect_tensor(name, logits)
        return
    if not lists or not isinstance(logits, (list, tuple)):
        also = ", a list of them, or of lists" if lists else ""
        raise TypeError(f"{name}: got {type(logits).__name__}, expected a torch.Tensor{also}")
    if not logits:
        raise ValueError(f"{name}: got an empty list, expected at least one tensor")
    for i, x in enumerate(logits):
        if isinstance(x, (list, tuple)):
            if not x:
                raise ValueError(f"{name}[{i}]: got an empty list, expected features and logits, the logits last")
            x = x[-1]
        _expect_tensor(f"{name}[{i}]", x)


def _expect_tensor(name: str, x) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a torch.Tensor")
    if not x.numel():
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected at least one element: a mean of none is NaN")


CRITERIA = {
    "vanilla": "sigmoid_cross_entropy",
    "lsgan": "least_squares",
    "wgan": "wasserstein",
    "wgan_softplus": "softplus",
    "wgan-logistic-ns": "softplus",
    "smgan": "least_squares",
    "l1": "absolute",
    "hinge": "hinge",
}
_WITHOUT_LABELS = ("wgan", "wgan_softplus", "wgan-logistic-ns")


class TypedGANLoss(nn.Module):
    """The `GANLoss` that BasicSR and OpenMMLab's libraries share. Its attributes are read at each call."""

    types: tuple[str, ...] = ()

    def __init__(
        self, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ):
        super().__init__()
        expect_known("gan_type", gan_type, self.types)
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight
        modules = {"vanilla": nn.BCEWithLogitsLoss, "l1": nn.L1Loss, "hinge": nn.ReLU}
        # For code that reads `loss`: upstream's function of (input, target). Not used here.
        self.loss = self._one_sided if gan_type in _WITHOUT_LABELS else modules.get(gan_type, nn.MSELoss)()

    def _one_sided(self, input: Tensor, target: bool) -> Tensor:
        return criterion_loss(input, 1.0 if target else 0.0, CRITERIA[self.gan_type])

    def get_target_label(self, input: Tensor, target_is_real: bool) -> bool | Tensor:
        """`target_is_real` for the types that have no labels, else the label in the shape of `input`. Not used here."""
        if self.gan_type in _WITHOUT_LABELS:
            return target_is_real
        return input.new_full(input.size(), self._label(target_is_real))

    def _label(self, target_is_real: bool) -> float:
        return self.real_label_val if target_is_real else self.fake_label_val

    def _loss(self, input, target_is_real: bool, is_disc: bool, label: float | Tensor | None = None) -> Tensor:
        weight = 1.0 if is_disc else self.loss_weight
        criterion = CRITERIA[self.gan_type]
        if self.gan_type == "hinge" and not is_disc:
            criterion, label = "wasserstein", 1.0  # -mean x, whatever `target_is_real` says
        elif self.gan_type == "hinge" or self.gan_type in _WITHOUT_LABELS:
            label = 1.0 if target_is_real else 0.0
        elif label is None:
            label = self._label(target_is_real)
        return criterion_loss(input, label, criterion, weight=weight, reduce_discriminators="mean")

    def extra_repr(self) -> str:
        names = ("gan_type", "real_label_val", "fake_label_val", "loss_weight")
        return ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
