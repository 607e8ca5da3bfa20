"""What `fastgan train --recipe NAME` trains: one table, from which every setting that is not given is taken.

`dcgan-r1` for images and `points` for points are what is trained where no recipe is named.
"""

from __future__ import annotations

__all__ = ["BY_SIZE", "COMMON", "RECIPES", "WITHOUT_D", "settings", "table"]

# What a recipe does not set itself. weight: of each side of D's loss; 1/2 makes D's cross-entropy ln 2 where it cannot
# tell. The average over the generator's steps (ema_decay) does what a schedule of the learning rate would.
COMMON = {"weight": 0.5, "betas": [0.0, 0.99], "r1": 0.0, "r2": 0.0, "r1_every": 1, "ema_decay": 0.999}
WITHOUT_D = {  # of objective mmd, whatever the recipe says of D
    "weight": 0.5,
    "r1": 0.0,
    "r2": 0.0,
    "r1_every": 1,
    "step": "alternating",
}

# what: the line in --help. data: what it is for. The rest are settings of GANTrainer and of `networks.build`.
RECIPES: dict[str, dict] = {
    "dcgan-r1": {
        "what": "DCGAN without batch normalisation in D, R1 penalty (Mescheder et al. 2018); the default for images",
        "data": "images",
        "networks": "dcgan",
        "objective": "nonsaturating",
    },
    "dcgan": {
        "what": "the paper's: batch normalisation in both, no penalty, no average (Radford et al. 2016)",
        "data": "images",
        "networks": "dcgan-batchnorm",
        "objective": "nonsaturating",
        "weight": 1.0,  # the paper adds the two sides
        "betas": [0.5, 0.999],
        "ema_decay": 0.0,  # what is sampled is the generator itself
    },
    "r3gan": {
        "what": "relativistic pairing, R1 and R2, a ResNet without normalisation (Huang et al. 2024)",
        "data": "images",
        "networks": "resnet",
        "objective": "relativistic",
        "weight": 1.0,
    },
    "points": {
        "what": "multi-layer perceptrons of 3 x 128, R1 penalty; the default for points",
        "data": "points",
        "networks": "mlp",
        "objective": "nonsaturating",
    },
}

# And by the images' side in pixels; None is for points. Those for points and 8 pixels were measured; dcgan's learning
# rate, batch and latent_dim are the paper's; the rest are starting points, from the papers' widths and penalties.
_R1 = ("steps", "batch", "lr", "r1", "latent_dim", "width")
_R3 = ("steps", "batch", "lr", "r1", "r2", "latent_dim", "width")
_PAPER = ("steps", "batch", "lr", "latent_dim", "width")
BY_SIZE: dict[str, dict] = {
    "points": {
        None: dict(zip(_R1, (10_000, 256, 2e-3, 0.1, 8, 128))),
    },
    "dcgan-r1": {
        8: dict(zip(_R1, (5_000, 64, 2e-3, 0.5, 32, 16))),
        16: dict(zip(_R1, (20_000, 64, 5e-4, 0.5, 64, 32))),
        32: dict(zip(_R1, (50_000, 64, 5e-4, 0.5, 128, 64))),
        64: dict(zip(_R1, (100_000, 64, 2e-4, 1.0, 128, 64))),
        128: dict(zip(_R1, (200_000, 32, 2e-4, 2.0, 128, 64))),
    },
    "dcgan": {
        8: dict(zip(_PAPER, (20_000, 128, 2e-4, 100, 16))),
        16: dict(zip(_PAPER, (10_000, 128, 2e-4, 100, 64))),
        32: dict(zip(_PAPER, (30_000, 128, 2e-4, 100, 64))),
        64: dict(zip(_PAPER, (60_000, 128, 2e-4, 100, 64))),
        128: dict(zip(_PAPER, (100_000, 128, 2e-4, 100, 64))),
    },
    "r3gan": {
        8: dict(zip(_R3, (5_000, 64, 2e-3, 0.1, 0.1, 32, 16))),
        16: dict(zip(_R3, (20_000, 64, 1e-3, 0.5, 0.5, 64, 32))),
        32: dict(zip(_R3, (50_000, 64, 5e-4, 0.5, 0.5, 64, 64))),
        64: dict(zip(_R3, (100_000, 64, 2e-4, 1.0, 1.0, 64, 64))),
        128: dict(zip(_R3, (200_000, 64, 2e-4, 5.0, 5.0, 64, 64))),
    },
}


def settings(recipe: str | None, size: int | None) -> dict:
    """Every setting of a recipe, for images of `size` x `size` pixels or, where it is None, for points.

    Raises ValueError, naming the argument, where there is no such recipe or it is not for such data."""
    kind = "points" if size is None else "images"
    recipe = recipe or ("points" if size is None else "dcgan-r1")
    fitting = [name for name, row in RECIPES.items() if row["data"] == kind]
    if recipe not in fitting:
        raise ValueError(f"--recipe: got {recipe}, expected one of {', '.join(fitting)}, as the data are {kind}")
    chosen = {k: v for k, v in RECIPES[recipe].items() if k not in ("what", "data")}
    return {"recipe": recipe, **COMMON, **chosen, **BY_SIZE[recipe][size]}


def table() -> str:
    """The recipes, one a line, for --help."""
    return "\n".join(f"  {name:10} {row['what']}" for name, row in RECIPES.items())
