"""All that makes a run what it is: what the recipe says, what the run to go on with says, and what was given."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from fastgan import models
from fastgan.cli import own
from fastgan.cli.checks import check_networks
from fastgan.cli.errors import as_option
from fastgan.data import Dataset, Stream
from fastgan.training import recipes
from fastgan.training.config import MMD, RunConfig, check_settings
from fastgan.training.trainer import GANTrainer

SAVES = 12  # checkpoints in a run, if --save-every does not say otherwise


def given_settings(arguments: dict) -> dict:
    """Those on the command line. Raises ValueError if one alone cannot be."""
    given = {name: value for name, value in arguments.items() if value is not None}
    device = {"device": given.pop("device")} if "device" in given else {}  # cuda:1 too; it is asked for elsewhere
    if given.get("recipe", "points") not in recipes.RECIPES:
        raise ValueError(f"--recipe: got {given['recipe']}, expected one of {', '.join(recipes.RECIPES)}")
    return check_settings(given) | device


def make_config(
    given: dict, before: dict, source: str, data: Dataset | Stream, device: torch.device, processes: int
) -> RunConfig:
    """Every setting of the run: `given`, or else as `before` in the run to go on with, or else by the recipe for this
    kind of data. Raises ValueError, naming the option, if one does not fit or has no part in the run."""
    known = {**before, **given}
    recipe = recipes.find(known.get("recipe"), data.sample_shape[-1] if data.is_images else None)
    # Networks this small gain a fifth from a second thread if the cores are free, and become many times slower if
    # they are not, as threads wait for each other at every operation.
    small = not data.is_images or recipe.size == 8
    save_every = known.get("save_every", max(100, known.get("steps", recipe.steps) // SAVES))
    chosen = {
        "batch": min(recipe.batch, data.count),
        "stream": isinstance(data, Stream),
        "workers": min(8, os.cpu_count() or 1),
        "threads": 1 if small else torch.get_num_threads(),
        "save_every": save_every,
        "metrics_every": save_every,
        **before,
    }
    if known.get("objective", recipe.objective) == MMD:
        chosen |= recipes.WITHOUT_D
    if known.get("conditional"):
        if len(data.classes) < 2:
            found = f"{source} has {'one class' if data.classes else 'no classes'}"
            raise ValueError(
                f"--conditional: {found}, expected a folder of images for each, a column of labels, or digits"
            )
        chosen["classes"] = len(data.classes)
    config = replace(recipe, **{**chosen, **given, "device": device.type, "processes": processes})
    if config.batch > data.count:
        raise ValueError(f"--batch: got {config.batch}, but {source} has {data.count} samples to train on")
    if config.flip and not data.is_images:
        raise ValueError(f"--flip: {source} holds points, not images")
    _check_parts(given, config, source, data)
    if not (config.generator and config.discriminator):
        made_of = (config.latent_dim, config.width, config.networks, config.classes)
        check_networks(data.sample_shape, *made_of, device=device)
    return config


def _check_parts(given: dict, config: RunConfig, source: str, data: Dataset | Stream) -> None:
    """Raises ValueError if an option was given that has no part in the run: the record of a run must not name what it
    did not do. `RunConfig` knows those of the training step."""
    of_file = config.inception or config.features
    points = f"{source} holds points, whose features they are themselves"
    named = {f"--{name}": getattr(config, name) for name in ("generator", "discriminator")}
    no_width = all(named.values()) and "width" in given and not any(own.takes(*n, ["width"]) for n in named.items())
    for name, idle, why in (
        ("workers", not isinstance(data, Stream), f"{source} is held in memory: there is nothing to read"),
        ("capture", config.capture and config.device == "cpu", "CUDA graphs are for GPUs, and this is a CPU"),
        ("discriminator", config.objective == MMD, "MMD has no discriminator"),
        ("width", no_width, "both networks are your own, and take none"),
        ("inception", not data.is_images, points),
        ("features", not data.is_images, points),
        ("metrics_samples", data.held_out is not None and not of_file, f"{source} are compared with all held out ones"),
        ("device", config.processes > 1 and ":" in given.get("device", ""), "each process has a GPU of its own"),
    ):
        if name in given and idle:
            raise ValueError(f"{as_option(name)}: got {given[name]}, but {why}")


def make_trainer(config: RunConfig, sample_shape: tuple[int, ...], device: torch.device) -> GANTrainer:
    torch.manual_seed(config.seed)  # of the networks' first weights
    about = {name: getattr(config, name) for name in ("latent_dim", "width", "networks", "classes")}
    pair = dict(zip(("generator", "discriminator"), models.build(sample_shape, **about)))
    for name in pair:
        if named := getattr(config, name):
            pair[name] = own.network(f"--{name}", named, {"sample_shape": sample_shape, **about})
    if config.objective == MMD:
        pair["discriminator"] = None
    try:
        return GANTrainer(**pair, device=device, **config.of_trainer())
    except TypeError as error:  # of what a network of one's own returns
        if not (config.generator or config.discriminator):
            raise
        raise ValueError(str(error)) from error
