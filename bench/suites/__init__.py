"""The suites of `python -m bench`, in the order in which they run; each module has a `SUITE`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from bench.harness.suite import Suite

# name: (share of the time of a run of all suites, processes, description); without a share it runs only by its name
SUITES = {
    "losses": (0.28, 5, "the loss and its gradients: every contender, dtype and size"),
    "training": (0.12, 1, "whole training steps, images a second"),
    "integrations": (0.12, 1, "training steps of public codebases, with and without fastgan"),
    "matching": (0.12, 3, "feature matching over the maps of real discriminators"),
    "layers": (0.04, 1, "StyleGAN's layers at the shapes of 256 pixels: bias_act, upfirdn2d, filtered_lrelu"),
    "mmd": (0.08, 3, "kernel two-sample losses: maximum mean discrepancy"),
    "lists": (0.13, 5, "losses of HiFi-GAN, SPADE, Real-ESRGAN, ..., at their own shapes"),
    "batches": (0.08, 3, "the same losses as the batch grows from 1 to 4096"),
    "timeline": (0.03, 1, "one training step, as the profiler sees it"),
    "convergence": (0.0, 1, "scores after training, with fastgan and without, over five seeds"),
}


def suite(name: str) -> Suite:
    from fastgan.training.capture import capturing

    return dataclasses.replace(importlib.import_module(f"bench.suites.{name}").SUITE, capture=capturing)


def name_of(results: dict) -> str:
    """The suite that a results file belongs to; files of version 0.1.0 have no name and belong to `losses`."""
    return results.get("suite", "losses")
