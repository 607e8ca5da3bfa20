"""Every recipe builds, trains and is recorded; the recipes of papers have the papers' settings."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fastgan import networks, recipes
from fastgan.data import SIZES, draw, load
from fastgan.trainer import GANTrainer, check_finite, to_numbers
from fastgan.training.config import RunConfig, check_settings

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = [(name, size) for name, recipe in recipes.RECIPES.items() for size in recipe.sizes]


def make(config, shape, **changed):
    torch.manual_seed(0)
    config = replace(config, **changed)
    pair = networks.build(shape, config.latent_dim, config.width, config.networks)
    return GANTrainer(*pair, **config.of_trainer())


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_recipe_is_complete(name, size):
    config = recipes.find(name, size)
    assert (config.recipe, config.size) == (name, size)
    networks.build((2,) if size is None else (1, size, size), config.latent_dim, config.width, config.networks)


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_a_recipe_can_be_restored_from_its_record(name, size):
    config = recipes.find(name, size)
    assert RunConfig(**check_settings(json.loads(json.dumps(config.record())))) == config


def test_every_recipe_has_its_sizes_and_a_line_in_the_table():
    for name, recipe in recipes.RECIPES.items():
        assert set(recipe.sizes) == ({None} if name == "points" else set(SIZES))
        assert f"  {name} " in recipes.table() and recipe.what in recipes.table()


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, size in EVERY if size in (None, 8, 16)])
def test_every_recipe_trains_a_little(name, size):
    """Three steps with narrow networks: all numbers are finite, and both networks change."""
    config = recipes.find(name, size)
    shape = (2,) if size is None else (1, size, size)
    trainer = make(config, shape, width=8)
    before = [p.clone() for net in (trainer.generator, trainer.discriminator) for p in net.parameters()]
    real = torch.randn(8, *shape).clamp(-1, 1)
    for _ in range(3):
        record = to_numbers(trainer.step(real))
        check_finite(trainer.step_number, record)
    assert (record["r1"] > 0) == (config.r1 > 0)
    assert (record.get("r2", 0) > 0) == (config.r2 > 0)
    after = [p for net in (trainer.generator, trainer.discriminator) for p in net.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after)]
    assert sum(moved) >= len(moved) - 1  # the last bias of a relativistic D has no gradient


def test_dcgan_is_the_papers():
    config = recipes.find("dcgan", 64)
    assert (config.lr, config.betas, config.batch, config.latent_dim) == (
        2e-4,
        (0.5, 0.999),
        128,
        100,
    )
    assert (config.r1, config.r2, config.ema_decay, config.weight) == (0, 0, 0, 1)
    assert config.objective == "nonsaturating"
    trainer = make(config, (3, 64, 64), width=4)
    trainer.step(torch.randn(4, 3, 64, 64).clamp(-1, 1))
    for average, own in zip(trainer.ema.parameters(), trainer.generator.parameters()):
        assert torch.equal(average, own)  # no average: the generator itself is sampled
    assert math.isclose(trainer.settings["betas"][0], 0.5)


def test_r3gan_is_relativistic_with_both_penalties_and_no_normalisation():
    for size in SIZES:
        config = recipes.find("r3gan", size)
        assert config.objective == "relativistic" and config.r1 == config.r2 > 0
        assert config.networks == "resnet"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("points", 8, "--recipe: got points, expected one of dcgan-r1, dcgan, r3gan, as the data are images"),
        ("r3gan", None, "--recipe: got r3gan, expected one of points, as the data are points"),
        ("stylegan", 64, "--recipe: got stylegan, expected one of"),
    ],
)
def test_recipes_that_do_not_fit(name, size, message):
    with pytest.raises(ValueError, match=message):
        recipes.find(name, size)


def test_defaults():
    assert recipes.find(None, None).recipe == "points"
    assert recipes.find(None, 8).recipe == "dcgan-r1"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_points_find_every_mode(name, modes):
    """The whole recipe: about a minute on an idle core."""
    from fastgan.metrics import mode_scores

    data, config = load(name), recipes.find("points", None)
    trainer = make(config, (2,))
    for _ in range(config.steps):
        values = trainer.step(draw(data.samples, config.batch, trainer.random))
    check_finite(trainer.step_number, to_numbers(values))
    scores = mode_scores(data.modes, data.mode_std, trainer.sample(10_000))
    assert scores["modes"] == modes and scores["tv"] < 0.1
