"""All that makes a run what it is: what the recipe says, what the run to go on with says, and what was given."""

from __future__ import annotations

import os
import platform

import torch

import fastgan
from fastgan import data as datasets
from fastgan import models
from fastgan.cli.checks import check_networks
from fastgan.cli.config import SETTINGS
from fastgan.cli.errors import as_option
from fastgan.training import recipes, trainer
from fastgan.training.idle import MMD

SAVES = 12  # checkpoints in a run, where --save-every does not say otherwise
NETWORK = ("latent_dim", "width", "networks")
TRAINER = (
    *("latent_dim", "objective", "weight", "lr", "betas", "r1", "r2", "r1_every", "ema_decay", "seed"),
    *("step", "precision", "compile", "capture", "accumulate"),
)
Data = datasets.Dataset | datasets.Stream


def given_settings(arguments: dict) -> dict:
    """Those on the command line. Raises ValueError where two of them, or one alone, cannot be."""
    given = {name: value for name, value in arguments.items() if name in SETTINGS and value is not None}
    if "objective" in given:
        trainer.check_objective(given["objective"])
    if "recipe" in given and given["recipe"] not in recipes.RECIPES:
        raise ValueError(f"--recipe: got {given['recipe']}, expected one of {', '.join(recipes.RECIPES)}")
    if "features" in given and "inception" in given:
        raise ValueError(f"--features: got {given['features']}, but --inception names the features to compare")
    return given


def make_settings(given: dict, before: dict, source: str, data: Data, device: torch.device, processes: int) -> dict:
    """Every setting of the run: `given`, or else as `before` in the run to go on with, or else by the recipe for this
    kind of data. Raises ValueError, naming the option, where one does not fit or has no part in the run."""
    size = data.sample_shape[-1] if data.is_images else None
    known = {**before, **given}
    settings = recipes.settings(known.get("recipe"), size)
    settings["batch"] = min(settings["batch"], data.count)
    # Networks this small gain a fifth from a second thread where the cores are free, and become many times slower where
    # they are not, as threads wait for each other at every operation.
    small = not data.is_images or size == 8
    save_every = known.get("save_every") or max(100, known.get("steps", settings["steps"]) // SAVES)
    settings |= {
        "size": size,
        "seed": 0,
        "step": "alternating",
        "precision": None,
        "compile": False,
        "capture": None,
        "accumulate": 1,
        "flip": False,
        "stream": isinstance(data, datasets.Stream),
        "workers": min(8, os.cpu_count() or 1),
        "threads": 1 if small else torch.get_num_threads(),
        "save_every": save_every,
        "metrics_every": save_every,
        "metrics_samples": 2_000,
        "inception": None,
        "features": None,
        **before,
    }
    if known.get("objective", settings["objective"]) == MMD:
        settings |= recipes.WITHOUT_D
    settings |= given
    settings |= {"device": device.type, "processes": processes}
    _check_data(settings, source, data)
    _check_parts(given, settings, source, data)
    check_networks(data.sample_shape, {name: settings[name] for name in NETWORK}, device)
    return settings


def _check_data(settings: dict, source: str, data: Data) -> None:
    """Raises ValueError where a setting does not fit the data."""
    batch, parts = settings["batch"], settings["accumulate"]
    if batch > data.count:
        raise ValueError(f"--batch: got {batch}, but {source} has {data.count} samples to train on")
    if parts > batch:
        raise ValueError(f"--accumulate: got {parts}, but a batch has {batch} samples, and a part at least one")
    if settings["flip"] and not data.is_images:
        raise ValueError(f"--flip: {source} holds points, not images")


def _check_parts(given: dict, settings: dict, source: str, data: Data) -> None:
    """Raises ValueError where an option was given that has no part in the run: the record of a run must not name what
    it did not do. `fastgan.idle` knows those of the training step."""
    of_file = settings["inception"] or settings["features"]
    for name, idle, why in (
        ("workers", not isinstance(data, datasets.Stream), f"{source} is held in memory: there is nothing to read"),
        ("capture", settings["capture"] and settings["device"] == "cpu", "CUDA graphs are for GPUs, and this is a CPU"),
        ("inception", not data.is_images, f"{source} holds points, whose features they are themselves"),
        ("features", not data.is_images, f"{source} holds points, whose features they are themselves"),
        ("metrics_samples", data.held_out is not None and not of_file, f"{source} are compared with all held out ones"),
        ("device", settings["processes"] > 1 and ":" in given.get("device", ""), "each process has a GPU of its own"),
    ):
        if name in given and idle:
            raise ValueError(f"{as_option(name)}: got {given[name]}, but {why}")


def make_config(settings: dict, source: str, data: Data) -> dict:
    """What config.json holds."""
    return {
        "settings": settings,
        "data": {
            "source": source,
            "name": data.name,
            "sample_shape": list(data.sample_shape),
            "count": data.count,
            "mean": None if data.mean is None else data.mean.tolist(),
            "scale": data.scale,
            "skipped": list(data.skipped),
            "fingerprint": data.fingerprint(),
        },
        "versions": {"fastgan": fastgan.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def make_trainer(settings: dict, sample_shape: tuple[int, ...], device: torch.device) -> trainer.GANTrainer:
    torch.manual_seed(settings["seed"])  # of the networks' first weights
    generator, discriminator = models.build(sample_shape, **{name: settings[name] for name in NETWORK})
    if settings["objective"] == MMD:
        discriminator = None
    return trainer.GANTrainer(generator, discriminator, device=device, **{name: settings[name] for name in TRAINER})
