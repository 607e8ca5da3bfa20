"""Every setting of training, in one place: its default, its check and its command-line option.

`TrainerConfig` has the settings of `GANTrainer`, which a checkpoint stores. `RunConfig` adds those of `fastgan train`;
config.json stores both. Both classes are frozen, and check their values when they are made. A recipe is a `RunConfig`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.checks import (
    Check,
    OneOf,
    Whole,
    finite,
    flag,
    list_of,
    not_negative,
    number,
    positive,
    share,
    shortened,
    text,
)
from fastgan.data import MEMORY_SHARE, SIZES
from fastgan.formulas.objectives import find
from fastgan.layers.augment import POLICIES
from fastgan.models import NETWORKS

MMD = "mmd"  # the one objective without a discriminator
STEPS = ("alternating", "one-stage")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_EXACT = ("seed", "capture")  # settings that do not affect the numbers of a resumed training


def check_objective(objective: str) -> None:
    """Raises ValueError, listing the objectives, unless both networks have a loss of that name."""
    if objective != MMD:
        find(objective, (MMD,))


def _objective(name: str, value: Any) -> str:
    check_objective(value)
    return value


def _rate(name: str, value: object) -> float:
    if isinstance(value, (tuple, list)):
        raise TypeError(
            f"{name}: got {type(value).__name__}, expected one number: lr for both networks, lr_d for D's own"
        )
    return positive(name, value)


def _betas(name: str, value: object) -> tuple[float, float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name}: got {shortened(value)}, expected two numbers")
    for i, beta in enumerate(value):
        if not 0 <= number(f"{name}[{i}]", beta) < 1:
            raise ValueError(f"{name}[{i}]: got {beta}, expected a number from 0 to below 1")
    return float(value[0]), float(value[1])


def _policy(name: str, value: object) -> tuple[str, ...] | None:
    names = value.split(",") if isinstance(value, str) else tuple(list_of(text)(name, value))
    return tuple(OneOf(*POLICIES)(name, entry) for entry in names) or None


def _widths(name: str, value: object) -> tuple[float, ...]:
    if isinstance(value, (str, float, int)) or not isinstance(value, (Sequence, np.ndarray, Tensor)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a sequence of numbers, or None")
    return tuple(positive(f"{name}[{i}]", float(width)) for i, width in enumerate(value))


def setting(check: Check, default: Any = ..., *, help: str | None = None, group: str = "", shown: str | None = None):
    """A field of a configuration. help: the text of its option, in which {} is the value for digits; None: no option.
    shown: the name of its value in --help."""
    kept = {"check": check, "help": help, "group": group, "shown": shown}
    return field(metadata=kept) if default is ... else field(default=default, metadata=kept)


LOSS, STEP, DATA, QUALITY = "the loss and the networks", "the step", "the data", "sample quality"


# fmt: off
@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The keyword arguments of `fastgan.GANTrainer`, which explains them. None: the trainer chooses.

    Raises TypeError or ValueError, naming the setting, if a value is wrong or has no effect on the training: the record
    of a run must not list settings that it did not use. A value that is true anyway, such as r1=0 without a
    discriminator, is accepted."""

    objective: str = setting(_objective, "nonsaturating", group=LOSS, shown="NAME",
                             help="the loss: nonsaturating, minimax, hinge, relativistic, ...")
    weight: float = setting(finite, 0.5)
    lr: float = setting(_rate, 2e-3, group=LOSS, shown="X", help="Adam's learning rate (digits: {})")
    lr_d: float | None = setting(_rate, None, group=LOSS, shown="X", help="D's learning rate (default: --lr)")
    betas: tuple[float, float] = setting(_betas, (0.0, 0.99))
    betas_d: tuple[float, float] | None = setting(_betas, None)
    classes: int | None = setting(Whole(2, 2**20), None)
    r1: float | None = setting(not_negative, None, group=LOSS, shown="X",
                               help="weight of the R1 penalty on real data, 0: none (digits: {})")
    r2: float = setting(not_negative, 0.0, group=LOSS, shown="X",
                        help="weight of the R2 penalty on generated data (digits: {:g})")
    r1_every: int = setting(Whole(1, 2**31), 1, group=LOSS, shown="N",
                            help="compute the penalties every N steps, with N times the weight")
    augment: tuple[str, ...] | None = setting(_policy, None, group=LOSS, shown="POLICY",
                                              help="augment D's inputs, for few images: color,translation,cutout,flip")
    augment_p: float = setting(share, 1.0, group=LOSS, shown="P", help="probability of each change (default: {:g})")
    augment_target: float | None = setting(share, None, group=LOSS, shown="R",
                                           help="adapt P to this mean sign of D's logits of real images, such as 0.6")
    latent_dim: int = setting(Whole(1, 2**20), 64, group=LOSS, shown="N",
                              help="size of the generator's input z (digits: {})")
    ema_decay: float = setting(share, 0.999)
    seed: int = setting(Whole(None, None), 0)
    step: str = setting(OneOf(*STEPS), "alternating", group=STEP,
                        help="one-stage: one pass through D serves both (default: no)")
    redraw: bool = setting(flag, True)
    precision: str | None = setting(OneOf(None, *PRECISIONS), None, group=STEP,
                                    help="dtype of the networks' passes (default: bfloat16 on GPUs that have it)")
    compile: bool = setting(flag, False, group=STEP, help="torch.compile both networks (default: no)")
    capture: bool | None = setting(flag, None, group=STEP, help="run the step as one CUDA graph (default: if possible)")
    accumulate: int = setting(Whole(1, 2**31), 1, group=STEP, shown="N",
                              help="split each batch into N parts, to save memory")
    concatenate: bool | None = setting(flag, None)
    channels_last: bool | None = setting(flag, None)
    bandwidths: tuple[float, ...] | None = setting(_widths, None)
    # fmt: on

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None or f.default is not None:
                object.__setattr__(self, f.name, f.metadata["check"](f.name, value))
        if self.r1 is None:
            object.__setattr__(self, "r1", 0.0 if self.objective == MMD else 0.5)
        no_d, nothing = self.objective == MMD, "MMD has no discriminator"
        for name, unused, why in (
            ("weight", no_d and self.weight != 0.5, f"{nothing} whose loss it would weigh"),
            ("lr_d", no_d and self.lr_d is not None, f"{nothing} to train"),
            ("betas_d", no_d and self.betas_d is not None, f"{nothing} to train"),
            ("classes", no_d and self.classes is not None, "MMD compares samples, whatever their labels"),
            ("r1", no_d and self.r1 != 0, f"{nothing} to penalise"),
            ("r2", no_d and self.r2 != 0, f"{nothing} to penalise"),
            ("r1_every", self.r1_every != 1 and not self.penalised, "neither r1 nor r2 is more than 0"),
            ("augment", no_d and self.augment is not None, f"{nothing} to show changed samples"),
            ("augment_p", self.augment is None and self.augment_p != 1, "nothing is augmented"),
            ("augment_p", self.augment_target is not None and self.augment_p != 1, "augment_target adapts it"),
            ("augment_target", self.augment is None and self.augment_target is not None, "nothing is augmented"),
            ("step", no_d and self.one_stage, f"{nothing} to train in the same step"),
            ("redraw", no_d and not self.redraw, f"{nothing} that has seen samples before the generator's step"),
            ("concatenate", no_d and self.concatenate, f"{nothing} to pass samples through"),
            ("bandwidths", self.bandwidths is not None and not no_d, f"objective {self.objective!r} has no kernel"),
        ):
            if unused:
                raise ValueError(f"{name}: got {getattr(self, name)}, but {why}")
        if self.accumulate > 1 and (no_d or find(self.objective).relation == "average"):
            raise ValueError(
                f"accumulate: got {self.accumulate}, expected 1 for {self.objective!r}: "
                "its loss depends on the whole batch"
            )

    @property
    def one_stage(self) -> bool:
        return self.step == "one-stage"

    @property
    def penalised(self) -> bool:
        """Whether some steps have a penalty."""
        return bool(self.r1) or self.r2 > 0

    def of_trainer(self) -> dict[str, Any]:
        """The keyword arguments of `GANTrainer`."""
        return {f.name: getattr(self, f.name) for f in fields(TrainerConfig)}

    def exact(self) -> dict[str, Any]:
        """The settings that a checkpoint must have for an exact resume."""
        kept = {name: value for name, value in self.of_trainer().items() if name not in NOT_EXACT}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def with_settings(trainer: type) -> inspect.Signature:
    """The signature of a trainer with every setting as a keyword, for help() and editors."""
    *named, _ = inspect.signature(trainer).parameters.values()
    settings = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(TrainerConfig)
    ]
    return inspect.Signature([*named, *settings])


# fmt: off
@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainerConfig):
    """Every setting of a run of `fastgan train`. None: depends on the data or the machine."""

    recipe: str = setting(text, shown="NAME", help="dcgan-r1, dcgan, r3gan or points, see below")
    steps: int = setting(Whole(), shown="N", help="training steps (digits: {:,})")
    batch: int = setting(Whole(1, 2**31), shown="B", help="samples a step, in each process (digits: {})")
    size: int | None = setting(OneOf(*SIZES), None, shown="S", help="side of the images in pixels: 8, 16, ..., 256")
    seed: int = setting(Whole(0), 0, shown="S", help="seed of weights, data order and noise (default {})")
    save_every: int | None = setting(Whole(), None, shown="N", help="steps between checkpoints (default: a twelfth)")
    networks: str | None = setting(OneOf(*NETWORKS), None)
    conditional: bool = setting(flag, False, group=LOSS, help="tell both networks each sample's class (default: no)")
    generator: str | None = setting(text, None, group=LOSS, shown="MODULE:CLASS", help="your own generator; runs code")
    discriminator: str | None = setting(text, None, group=LOSS, shown="MODULE:CLASS",
                                        help="your own discriminator; runs code")
    init: str | None = setting(text, None, group=LOSS, shown="RUN", help="start with the weights of another run")
    width: int = setting(Whole(1, 2**16), 64, group=LOSS, shown="N",
                         help="channels of the finest feature map (digits: {})")
    device: str = setting(OneOf("cpu", "cuda"), "cpu", group=STEP, shown="D",
                          help="cpu, cuda or cuda:N (default: cuda if there is one)")
    threads: int | None = setting(Whole(1, 1024), None, group=STEP, shown="N",
                                  help="CPU threads (default: all; 1 for digits and points)")
    processes: int = setting(Whole(1, 2**20), 1)
    flip: bool = setting(flag, False, group=DATA, help="mirror every other image left to right (default: no)")
    stream: bool | None = setting(flag, None, group=DATA, help="read images during training (default: if they "
                                  f"need over {MEMORY_SHARE:.0%}% of free memory)")
    workers: int | None = setting(Whole(0, 256), None, group=DATA, shown="N",
                                  help="processes that read images for --stream (default: up to 8)")
    metrics_every: int | None = setting(Whole(0), None, group=QUALITY, shown="N",
                                        help="steps between scores (default: --save-every; 0: only the last step)")
    metrics_samples: int = setting(Whole(16), 2_000, group=QUALITY, shown="N", help="samples compared (default {:,})")
    inception: str | None = setting(text, None, group=QUALITY, shown="FILE",
                                    help="Inception's weights, for FID and KID; a .pt runs code")
    features: str | None = setting(text, None, group=QUALITY, shown="FILE",
                                   help="another network, as TorchScript: uint8 images -> features; runs code")
    # fmt: on

    def __post_init__(self):
        super().__post_init__()
        if self.features and self.inception:
            raise ValueError(f"features: got {self.features}, but --inception names the features to compare")
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate: got {self.accumulate}, but a batch has {self.batch} samples, and a part at least one"
            )

    def record(self) -> dict[str, Any]:
        """The entry of the settings in config.json."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


SETTINGS = {f.name: f for f in fields(RunConfig)}


def check_settings(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are settings of a run, each checked separately. Raises as `RunConfig` does."""
    settings = {name: value for name, value in values.items() if name in SETTINGS}
    to_check = {name: x for name, x in settings.items() if x is not None or SETTINGS[name].default is not None}
    return {name: SETTINGS[name].metadata["check"](name, value) for name, value in to_check.items()}
