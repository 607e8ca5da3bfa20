"""The settings of a run: from the command line, else from the run to resume, else from the recipe."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from fastgan import models
from fastgan.cli import user_networks
from fastgan.cli.checks import check_networks
from fastgan.cli.errors import as_option
from fastgan.data import Dataset, Stream
from fastgan.training import recipes
from fastgan.training.config import MMD, RunConfig, check_settings
from fastgan.training.trainer import GANTrainer

SAVES = 12  # checkpoints in a run, if --save-every does not say otherwise


def given_settings(arguments: dict) -> dict:
    """The settings on the command line, each checked on its own. Raises ValueError if one is wrong."""
    given = {name: value for name, value in arguments.items() if value is not None}
    device = {"device": given.pop("device")} if "device" in given else {}  # may be cuda:1; `device_named` checks it
    if given.get("recipe", "points") not in recipes.RECIPES:
        raise ValueError(f"--recipe: got {given['recipe']}, expected one of {', '.join(recipes.RECIPES)}")
    return check_settings(given) | device


def make_config(
    given: dict, before: dict, source: str, data: Dataset | Stream, device: torch.device, processes: int
) -> RunConfig:
    """All settings of the run: each from `given`, else from `before`, the run to resume, else from the recipe for this
    kind of data. Raises ValueError, naming the option, if one does not fit or has no effect in this run."""
    known = {**before, **given}
    recipe = recipes.find(known.get("recipe"), data.sample_shape[-1] if data.is_images else None)
    # A second thread makes networks this small a fifth faster on free cores, and many times slower on busy ones, as the
    # threads wait for each other at every operation.
    small = not data.is_images or recipe.size == 8
    save_every = known.get("save_every", max(100, known.get("steps", recipe.steps) // SAVES))
    defaults = {
        "batch": min(recipe.batch, data.count),
        "stream": isinstance(data, Stream),
        "workers": min(8, os.cpu_count() or 1),
        "threads": 1 if small else torch.get_num_threads(),
        "save_every": save_every,
        "metrics_every": save_every,
        **before,
    }
    if known.get("objective", recipe.objective) == MMD:
        defaults |= recipes.WITHOUT_D
    if known.get("conditional"):
        if len(data.classes) < 2:
            has = "one class" if data.classes else "no classes"
            raise ValueError(
                f"--conditional: {source} has {has}, expected a folder of images for each, a column of labels or digits"
            )
        defaults["classes"] = len(data.classes)
    config = replace(recipe, **{**defaults, **given, "device": device.type, "processes": processes})
    if config.batch > data.count:
        raise ValueError(f"--batch: got {config.batch}, but {source} has {data.count} samples to train on")
    if config.flip and not data.is_images:
        raise ValueError(f"--flip: {source} holds points, not images")
    _refuse_options_without_effect(given, config, source, data)
    if not (config.generator and config.discriminator):
        arguments = (config.latent_dim, config.width, config.networks, config.classes)
        check_networks(data.sample_shape, *arguments, device=device)
    return config


def _refuse_options_without_effect(given: dict, config: RunConfig, source: str, data: Dataset | Stream) -> None:
    """Raises ValueError if an option was given that has no effect in this run, since the run's config would record it.
    `RunConfig` checks the options of the training step."""
    from_file = config.inception or config.features
    points = f"{source} holds points, which are their own features"
    named = {f"--{name}": getattr(config, name) for name in ("generator", "discriminator")}
    no_width = (
        all(named.values())
        and "width" in given
        and not any(user_networks.accepted(*pair, ["width"]) for pair in named.items())
    )
    for name, without_effect, why in (
        ("workers", not isinstance(data, Stream), f"{source} is held in memory: there is nothing to read"),
        ("capture", config.capture and config.device == "cpu", "CUDA graphs are for GPUs, and this is a CPU"),
        ("discriminator", config.objective == MMD, "MMD has no discriminator"),
        ("width", no_width, "both networks are your own and have no parameter of that name"),
        ("inception", not data.is_images, points),
        ("features", not data.is_images, points),
        ("metrics_samples", data.held_out is not None and not from_file, f"all held-out {source} are compared"),
        ("device", config.processes > 1 and ":" in given.get("device", ""), "each process uses its own GPU"),
    ):
        if name in given and without_effect:
            raise ValueError(f"{as_option(name)}: got {given[name]}, but {why}")


def make_trainer(config: RunConfig, sample_shape: tuple[int, ...], device: torch.device) -> GANTrainer:
    torch.manual_seed(config.seed)  # for the networks' initial weights
    names = ("latent_dim", "width", "networks", "classes")
    arguments = {"sample_shape": sample_shape, **{name: getattr(config, name) for name in names}}
    generator, discriminator = models.build(**arguments)
    if config.generator:
        generator = user_networks.make_network("--generator", config.generator, arguments)
    if config.discriminator:
        discriminator = user_networks.make_network("--discriminator", config.discriminator, arguments)
    without_d = config.objective == MMD
    try:
        return GANTrainer(generator, None if without_d else discriminator, device=device, **config.of_trainer())
    except TypeError as error:  # the user's own network returns something wrong
        if not (config.generator or config.discriminator):
            raise
        raise ValueError(str(error)) from error
