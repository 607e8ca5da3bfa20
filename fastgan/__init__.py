"""Fused adversarial losses for PyTorch: loss, statistics and gradients of both sides in one launch.

    loss = fastgan.discriminator_loss(real_logits, fake_logits)          # a drop-in, differentiable
    out = fastgan.discriminator_value_and_grad(real_logits, fake_logits)  # out.loss, out.grads, out.stats

CUDA tensors run on Triton kernels, others on formulas in PyTorch; FASTGAN_BACKEND=triton|torch overrides.
"""

import importlib
from typing import TYPE_CHECKING

import torch

if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
    raise ImportError(f"fastgan needs torch 2.7 or newer, got torch {torch.__version__}")

from fastgan import losses, reference
from fastgan.formulas.results import Statistics, ValueAndGrad
from fastgan.gradients import clip_gradient_norm_, clip_gradient_value_, gradient_norm
from fastgan.losses.adversarial import (
    adversarial_losses,
    concatenated_discriminator_loss,
    concatenated_discriminator_value_and_grad,
    criterion_loss,
    discriminator_loss,
    discriminator_value_and_grad,
    drift_penalty,
    generator_loss,
    generator_value_and_grad,
    lecam_regularizer,
)
from fastgan.losses.feature_matching import feature_matching_loss, feature_matching_value_and_grad
from fastgan.losses.mmd import MMDValueAndGrad, mmd_loss, mmd_value_and_grad
from fastgan.losses.penalties import (
    approximate_r1_penalty,
    approximate_r2_penalty,
    dragan_penalty,
    path_length_penalty,
    r1_penalty,
    r2_penalty,
    wgan_gp_penalty,
)
from fastgan.objectives import objectives  # the module of this name must not hide it later

if TYPE_CHECKING:  # for editors and type checkers; see __getattr__
    from fastgan import compat, game, layers
    from fastgan import data as data
    from fastgan import functional as functional
    from fastgan import matching as matching
    from fastgan import mmd as mmd
    from fastgan import models as models
    from fastgan import penalties as penalties
    from fastgan.compat import patch
    from fastgan.inspection import inspect_step
    from fastgan.training.captured import capture
    from fastgan.training.generator import TrainedGenerator, load
    from fastgan.training.trainer import GANTrainer, generator_backward

__version__ = "0.2.0"  # setup.py reads it here
__all__ = [
    "GANTrainer",
    "MMDValueAndGrad",
    "Statistics",
    "TrainedGenerator",
    "ValueAndGrad",
    "adversarial_losses",
    "approximate_r1_penalty",
    "approximate_r2_penalty",
    "capture",
    "clip_gradient_norm_",
    "clip_gradient_value_",
    "compat",
    "concatenated_discriminator_loss",
    "concatenated_discriminator_value_and_grad",
    "criterion_loss",
    "discriminator_loss",
    "discriminator_value_and_grad",
    "dragan_penalty",
    "drift_penalty",
    "feature_matching_loss",
    "feature_matching_value_and_grad",
    "game",
    "generator_backward",
    "generator_loss",
    "generator_value_and_grad",
    "gradient_norm",
    "inspect_step",
    "layers",
    "lecam_regularizer",
    "load",
    "losses",
    "mmd_loss",
    "mmd_value_and_grad",
    "objectives",
    "patch",
    "path_length_penalty",
    "r1_penalty",
    "r2_penalty",
    "reference",
    "wgan_gp_penalty",
]


# Imported on first use: losses need neither training nor the drop-ins.
_LAZY_NAMES = {
    "GANTrainer": "fastgan.training.trainer",
    "generator_backward": "fastgan.training.trainer",
    "inspect_step": "fastgan.inspection",
    "capture": "fastgan.training.captured",
    "TrainedGenerator": "fastgan.training.generator",
    "load": "fastgan.training.generator",
    "patch": "fastgan.compat",
}
_LAZY_MODULES = ("compat", "data", "game", "layers", "functional", "matching", "mmd", "models", "penalties")


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str):
        if name in _LAZY_NAMES:
            return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
        if name in _LAZY_MODULES:
            return importlib.import_module(f"fastgan.{name}")
        raise AttributeError(f"module 'fastgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
