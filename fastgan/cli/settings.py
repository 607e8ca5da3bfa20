"""All that makes a run what it is: what the recipe says, and what was given."""

from __future__ import annotations

import argparse
import os
import platform

import torch

import fastgan
from fastgan import data as datasets
from fastgan import networks, recipes, trainer

SAVES = 12  # checkpoints in a run, where --save-every does not say otherwise


def make_config(
    args: argparse.Namespace, data: datasets.Dataset | datasets.Stream, device: torch.device, world: trainer.World
) -> dict:
    """All that makes the run what it is. Arguments that were not given come from the recipe for this kind of data."""
    size = data.sample_shape[-1] if data.is_images else None
    given = {name: value for name, value in vars(args).items() if value is not None}
    settings = recipes.settings(args.recipe, size)
    settings |= {name: given[name] for name in settings.keys() & given.keys()}
    if args.batch is None:
        settings["batch"] = min(settings["batch"], data.count)
    elif args.batch > data.count:
        raise ValueError(f"--batch: got {args.batch}, but {args.data} has {data.count} samples to train on")
    if args.flip and not data.is_images:
        raise ValueError(f"--flip: {args.data} holds points, not images")
    # Networks this small gain a fifth from a second thread where the cores are free, and become many times slower where
    # they are not, as threads wait for each other at every operation.
    small = not data.is_images or size == 8
    save_every = args.save_every or max(100, settings["steps"] // SAVES)
    defaults = {
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
    }
    settings |= {name: given.get(name, value) for name, value in defaults.items()}
    settings |= {"device": device.type, "processes": world.size}
    return {
        "settings": settings,
        "data": {
            "source": args.data,
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
    shape = {name: settings[name] for name in ("latent_dim", "width", "networks")}
    generator, discriminator = networks.build(sample_shape, **shape)
    if settings["objective"] == "mmd":
        discriminator = None
    names = (
        *("latent_dim", "objective", "weight", "lr", "betas", "r1", "r2", "r1_every", "ema_decay", "seed"),
        *("step", "precision", "compile", "capture", "accumulate"),
    )
    return trainer.GANTrainer(generator, discriminator, device=device, **{name: settings[name] for name in names})
