"""AudioCraft (facebookresearch/audiocraft, EnCodec's training): the losses of `audiocraft/adversarial/losses.py`.

In `audiocraft/adversarial/__init__.py`, below its own import of `.losses`:

    from fastgan.compat.audiocraft import (
        AdversarialLoss, FeatureMatchingLoss, get_adv_criterion, get_fake_criterion, get_real_criterion
    )

Each function accepts one tensor and needs one launch. With this module's criteria, `AdversarialLoss` needs one launch
for all sub-adversaries, and for both sides in `train_adv`; with `FeatureMatchingLoss`, one for every 64 maps of all
sub-adversaries. Other callables are called one by one, as upstream.

At the knee of the hinge the slope is that of `-min(x - 1, 0)`, as upstream: -1/2 if a real logit is 1.

Differences: an unknown `loss_type` is a ValueError as well as an AssertionError; `hinge2_loss` of an empty tensor is on
its device, not on the CPU; `AdversarialLoss` counts a sub-adversary without logits as 0 (upstream adds a tensor of
shape (1,) to a 0-d one, which raises); `FeatureMatchingLoss` does not compute the mean of |real|, which upstream
computes and drops, and its errors are ValueErrors as well as AssertionErrors; float16 and bfloat16 logits give float32
losses.

`AdversarialLoss` and `FeatureMatchingLoss` give losses of torch's default dtype, as upstream: float32 for float64
logits.

Signatures are from commit 896ec7c (March 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fastgan.compat._logits import Refused
from fastgan.losses import adversarial
from fastgan.losses.feature_matching import Maps, feature_matching_loss

try:
    from flashy import distrib
except ImportError:  # audiocraft synchronises processes with it; one process does not need it
    distrib = None

__all__ = [
    "ADVERSARIAL_LOSSES",
    "AdversarialLoss",
    "FeatureMatchingLoss",
    "get_adv_criterion",
    "get_fake_criterion",
    "get_real_criterion",
    "hinge2_loss",
    "hinge_fake_loss",
    "hinge_loss",
    "hinge_real_loss",
    "mse_fake_loss",
    "mse_loss",
    "mse_real_loss",
]
UPSTREAM = {"audiocraft.adversarial.losses": (*__all__[1:],)}


def mse_loss(x: Tensor) -> Tensor:
    """mean (x - 1)^2, 0-d; for an empty x, 0 of shape (1,), as upstream. TypeError if x is not a floating tensor."""
    return _zero_if_empty(x, mse_loss)


def hinge_loss(x: Tensor) -> Tensor:
    """-mean x. Result and errors are those of `mse_loss`."""
    return _zero_if_empty(x, hinge_loss)


def hinge2_loss(x: Tensor) -> Tensor:
    """-mean min(x - 1, 0). Result and errors are those of `mse_loss`."""
    return _zero_if_empty(x, hinge2_loss)


def mse_real_loss(x: Tensor) -> Tensor:
    """mean (x - 1)^2, 0-d; NaN for an empty x. TypeError if x is not a floating tensor."""
    return _loss(x, mse_real_loss)


def mse_fake_loss(x: Tensor) -> Tensor:
    """mean x^2. Result and errors are those of `mse_real_loss`."""
    return _loss(x, mse_fake_loss)


def hinge_real_loss(x: Tensor) -> Tensor:
    """-mean min(x - 1, 0). Result and errors are those of `mse_real_loss`."""
    return _loss(x, hinge_real_loss)


def hinge_fake_loss(x: Tensor) -> Tensor:
    """-mean min(-x - 1, 0). Result and errors are those of `mse_real_loss`."""
    return _loss(x, hinge_fake_loss)


_TERMS = {  # the criterion and label of each
    mse_loss: ("least_squares", 1.0),
    hinge_loss: ("wasserstein", 1.0),
    hinge2_loss: ("hinge_min", 1.0),
    mse_real_loss: ("least_squares", 1.0),
    mse_fake_loss: ("least_squares", 0.0),
    hinge_real_loss: ("hinge_min", 1.0),
    hinge_fake_loss: ("hinge_min", 0.0),
}


_ZERO_IF_EMPTY = (mse_loss, hinge_loss, hinge2_loss)


def _loss(x: Tensor, which: Callable) -> Tensor:
    criterion, label = _TERMS[which]
    return adversarial.criterion_loss(x, label, criterion)


def _zero_if_empty(x: Tensor, which: Callable) -> Tensor:
    return torch.zeros(1, device=x.device) if isinstance(x, Tensor) and not x.numel() else _loss(x, which)


_CRITERIA = {  # for the generator, for real and for generated data
    "mse": (mse_loss, mse_real_loss, mse_fake_loss),
    "hinge": (hinge_loss, hinge_real_loss, hinge_fake_loss),
    "hinge2": (hinge2_loss, hinge_real_loss, hinge_fake_loss),
}
ADVERSARIAL_LOSSES = list(_CRITERIA)


def get_adv_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """The generator's loss: `mse_loss`, `hinge_loss` or `hinge2_loss` for "mse", "hinge" or "hinge2"; or ValueError."""
    return _find(loss_type)[0]


def get_real_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """D's loss of real data: `mse_real_loss` for "mse", `hinge_real_loss` for "hinge" and "hinge2"; or ValueError."""
    return _find(loss_type)[1]


def get_fake_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """D's loss of generated data: `mse_fake_loss` for "mse", `hinge_fake_loss` for "hinge" and "hinge2"; or
    ValueError."""
    return _find(loss_type)[2]


def _find(loss_type: str) -> tuple[Callable, Callable, Callable]:
    if loss_type not in ADVERSARIAL_LOSSES:
        raise Refused(f"loss_type: got {loss_type!r}, expected 'mse', 'hinge' or 'hinge2'")
    return _CRITERIA[loss_type]


class FeatureMatchingLoss(nn.Module):
    """sum_k loss(fake_k, real_k) over the maps k of a sub-adversary, divided by their number if `normalize`.

    Args:
        loss: a module of two maps. An `L1Loss` or `MSELoss` with reduction="mean" is fused, one launch for every 64
            maps; any other module is called map by map.
        normalize: divide by the number of maps.
    """

    def __init__(self, loss: nn.Module | None = None, normalize: bool = True):
        super().__init__()
        self.loss = nn.L1Loss() if loss is None else loss
        self.normalize = normalize

    @property
    def _power(self) -> int | None:
        """The p of mean |a - b|^p, or None if `loss` is something else."""
        powers: dict[type, int] = {nn.L1Loss: 1, nn.MSELoss: 2}
        power = powers.get(type(self.loss))
        return power if power and self.loss.reduction == "mean" else None

    def forward(self, fmap_fake: Maps, fmap_real: Maps) -> Tensor:
        """fmap_fake, fmap_real: equally long lists of maps, pairs of one shape; if `loss` is fused also lists of them,
        one for each sub-adversary, whose losses are summed. Gradients flow to both, as upstream. Returns 0-d.

        ValueError for no maps, lists of different lengths, pairs of two shapes; TypeError for anything but tensors.
        Messages say `fake_maps` and `real_maps`, with an index over all maps."""
        if self._power is not None:
            reduce = "mean" if self.normalize else "sum"
            try:
                loss = feature_matching_loss(
                    fmap_fake, fmap_real, p=self._power, detach_real=False, reduce_layers=reduce
                )
            except ValueError as error:
                raise Refused(str(error)) from error
            return loss.to(torch.get_default_dtype())
        if not fmap_fake or len(fmap_fake) != len(fmap_real):
            raise Refused(f"fmap_fake, fmap_real: got {len(fmap_fake)} and {len(fmap_real)} maps, expected as many")
        for i, (fake, real) in enumerate(zip(fmap_fake, fmap_real)):
            if fake.shape != real.shape:
                raise Refused(f"fmap_real[{i}]: got shape {tuple(real.shape)}, expected {tuple(fake.shape)}")
        total = sum(self.loss(fake, real) for fake, real in zip(fmap_fake, fmap_real))
        return (total / len(fmap_fake) if self.normalize else total).to(torch.get_default_dtype())


class AdversarialLoss(nn.Module):
    """An adversary, its optimizer and its losses.

        fake = model(x);  adv.train_adv(fake, real);  loss, feature_loss = adv(fake, real)

    Args:
        adversary: signals -> (a list of logits, a list of lists of feature maps), an entry for each sub-adversary.
        optimizer: of the adversary's parameters. Its state is saved with this module's, under "optimizer".
        loss, loss_real, loss_fake: the generator's loss, and the adversary's of real and of generated data: functions
            of this module, or any others of a tensor.
        loss_feat: a function of two lists of feature maps, of generated and of real data; `FeatureMatchingLoss`, say.
        normalize: divide the losses by the number of sub-adversaries.

    Raises:
        RuntimeError: several processes without `flashy`, which synchronises them.
    """

    def __init__(
        self,
        adversary: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor], Tensor],
        loss_real: Callable[[Tensor], Tensor],
        loss_fake: Callable[[Tensor], Tensor],
        loss_feat: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None,
        normalize: bool = True,
    ):
        super().__init__()
        self.adversary = adversary
        if distrib is not None:
            distrib.broadcast_model(self.adversary)
        elif _processes() > 1:
            raise RuntimeError("AdversarialLoss: got several processes, expected flashy, which synchronises them")
        self.optimizer = optimizer
        self.loss, self.loss_real, self.loss_fake, self.loss_feat = loss, loss_real, loss_fake, loss_feat
        self.normalize = normalize

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "optimizer"] = self.optimizer.state_dict()

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        self.optimizer.load_state_dict(state_dict.pop(prefix + "optimizer"))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_adversary_pred(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """(logits, feature maps) of the adversary; TypeError if it returns anything else, ValueError if no logits."""
        logits, maps = self.adversary(x)
        if not _are_tensors(logits):
            raise TypeError(f"adversary: got logits in a {type(logits).__name__}, expected a list of tensors")
        if not isinstance(maps, list) or not all(_are_tensors(found) for found in maps):
            raise TypeError(
                f"adversary: got feature maps in a {type(maps).__name__}, expected a list of lists of tensors"
            )
        if not logits:
            raise ValueError("adversary: got no logits, expected a tensor of them for each sub-adversary")
        return logits, maps

    def train_adv(self, fake: Tensor, real: Tensor) -> Tensor:
        """One optimizer step of the adversary. Returns its loss, 0-d: loss_fake(f_k) + loss_real(r_k), summed over
        k, or averaged if `normalize`. `fake` and `real` get no gradient."""
        of_fake, _ = self.get_adversary_pred(fake.detach())
        of_real, _ = self.get_adversary_pred(real.detach())
        loss = self._total((self.loss_fake, of_fake), (self.loss_real, of_real)).to(torch.get_default_dtype())
        self.optimizer.zero_grad()
        with nullcontext() if distrib is None else distrib.eager_sync_model(self.adversary):
            loss.backward()
        self.optimizer.step()
        return loss

    def forward(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(adversarial loss, feature loss) of the generator, 0-d each; the second is 0 without `loss_feat`. The
        adversary's parameters get no gradient. Sub-adversaries without logits count as 0."""
        with _frozen(self.adversary):
            of_fake, maps_of_fake = self.get_adversary_pred(fake)
            _, maps_of_real = self.get_adversary_pred(real)
            adv = self._total((self.loss, of_fake))
            feat = torch.zeros((), device=fake.device)
            if maps_of_fake and isinstance(self.loss_feat, FeatureMatchingLoss) and self.loss_feat._power is not None:
                feat = self.loss_feat(maps_of_fake, maps_of_real)
            elif self.loss_feat:
                for pair in zip(maps_of_fake, maps_of_real):
                    feat = feat + self.loss_feat(*pair)
        feat = feat / len(of_fake) if self.normalize else feat
        return adv.to(torch.get_default_dtype()), feat.to(torch.get_default_dtype())

    def _total(self, *sides: tuple[Callable, list[Tensor]]) -> Tensor:
        """The losses of all sides' logits, summed or averaged; one launch if they share one criterion."""
        weight = 1.0 / len(sides[0][1]) if self.normalize else 1.0
        if any(which not in _TERMS for which, _ in sides):
            return weight * sum(which(x) for which, logits in sides for x in logits)
        by_criterion: dict[str, list] = {}
        for which, logits in sides:
            criterion, label = _TERMS[which]
            if which in _ZERO_IF_EMPTY:
                logits = [x for x in logits if x.numel()]
            if logits:
                by_criterion.setdefault(criterion, []).append((logits, label))
        if not by_criterion:
            return torch.zeros((), device=sides[0][1][0].device)
        losses = [adversarial.adversarial_losses(s, c, weight=weight)[0] for c, s in by_criterion.items()]
        return sum(losses[1:], losses[0])


def _are_tensors(found) -> bool:
    return isinstance(found, list) and all(isinstance(x, Tensor) for x in found)


def _processes() -> int:
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if several else 1


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of the module requires a gradient."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
