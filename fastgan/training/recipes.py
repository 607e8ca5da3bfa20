"""The recipes of `fastgan train --recipe NAME`: a `RunConfig` for each recipe and image size.

The defaults are `dcgan-r1` for images and `points` for points.
"""

from __future__ import annotations

from typing import NamedTuple

from fastgan.training.config import RunConfig

__all__ = ["RECIPES", "WITHOUT_D", "Recipe", "find", "table"]

WITHOUT_D = {"weight": 0.5, "r1": 0.0, "r2": 0.0, "r1_every": 1, "step": "alternating"}  # of objective mmd


class Recipe(NamedTuple):
    """what: the line in --help. sizes: its configurations, by the side of the images in pixels; None for points."""

    what: str
    sizes: dict[int | None, RunConfig]


def _by_size(names: str, rows: dict[int | None, tuple], **common) -> dict[int | None, RunConfig]:
    """The configurations of a recipe. names: the settings that the values of each row belong to."""
    common = {"r1": 0.0, **common}
    return {size: RunConfig(size=size, **{**common, **dict(zip(names.split(), row))}) for size, row in rows.items()}


# The values for points and 8 pixels were measured; dcgan's learning rate, batch and latent_dim are the paper's; all
# others are starting points, from the papers' widths and penalties.
_DCGAN_R1 = _by_size("steps batch lr r1 latent_dim width", {
    8: (5_000, 64, 2e-3, 0.5, 32, 16),
    16: (20_000, 64, 5e-4, 0.5, 64, 32),
    32: (50_000, 64, 5e-4, 0.5, 128, 64),
    64: (100_000, 64, 2e-4, 1.0, 128, 64),
    128: (200_000, 32, 2e-4, 2.0, 128, 64),
    256: (300_000, 16, 2e-4, 4.0, 128, 32),
}, recipe="dcgan-r1", networks="dcgan")  # fmt: skip
_DCGAN = _by_size("steps batch lr latent_dim width", {
    8: (20_000, 128, 2e-4, 100, 16),
    16: (10_000, 128, 2e-4, 100, 64),
    32: (30_000, 128, 2e-4, 100, 64),
    64: (60_000, 128, 2e-4, 100, 64),
    128: (100_000, 128, 2e-4, 100, 64),
    256: (150_000, 64, 2e-4, 100, 32),
    # The paper adds the two sides of D's loss (weight 1), and samples from the generator without an average (decay 0).
}, recipe="dcgan", networks="dcgan-batchnorm", weight=1.0, betas=(0.5, 0.999), ema_decay=0.0)  # fmt: skip
_R3GAN = _by_size("steps batch accumulate lr r1 r2 latent_dim width", {
    8: (5_000, 64, 1, 2e-3, 0.1, 0.1, 32, 16),
    16: (20_000, 64, 1, 1e-3, 0.5, 0.5, 64, 32),
    32: (50_000, 64, 1, 5e-4, 0.5, 0.5, 64, 64),
    64: (100_000, 64, 1, 2e-4, 1.0, 1.0, 64, 64),
    128: (200_000, 64, 1, 2e-4, 5.0, 5.0, 64, 64),
    256: (300_000, 32, 4, 2e-4, 15.0, 15.0, 64, 32),  # 8 images at a time: 3 GiB of tensors
}, recipe="r3gan", networks="resnet", objective="relativistic", weight=1.0)  # fmt: skip
_POINTS = _by_size("steps batch lr r1 latent_dim width", {
    None: (10_000, 256, 2e-3, 0.1, 8, 128),
}, recipe="points", networks="mlp")  # fmt: skip
RECIPES = {
    "dcgan-r1": Recipe(
        "DCGAN without batch normalisation in D, R1 penalty (Mescheder et al. 2018); the default for images", _DCGAN_R1
    ),
    "dcgan": Recipe("the paper's: batch normalisation in both, no penalty, no average (Radford et al. 2016)", _DCGAN),
    "r3gan": Recipe("relativistic pairing, R1 and R2, a ResNet without normalisation (Huang et al. 2024)", _R3GAN),
    "points": Recipe("multi-layer perceptrons of 3 x 128, R1 penalty; the default for points", _POINTS),
}


def find(name: str | None, size: int | None) -> RunConfig:
    """The configuration of a recipe for images of `size` x `size` pixels, or for points if size is None.

    Raises ValueError, naming the option, if the recipe is unknown or is not for this kind of data."""
    name = name or ("points" if size is None else "dcgan-r1")
    fitting = [one for one, recipe in RECIPES.items() if size in recipe.sizes]
    if name not in fitting:
        kind = "points" if size is None else "images"
        raise ValueError(f"--recipe: got {name}, expected one of {', '.join(fitting)}, as the data are {kind}")
    return RECIPES[name].sizes[size]


def table() -> str:
    """The recipes, one per line, for --help."""
    return "\n".join(f"  {name:10} {recipe.what}" for name, recipe in RECIPES.items())
