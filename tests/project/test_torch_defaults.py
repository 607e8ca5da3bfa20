"""`torch.set_default_device` and `torch.set_default_dtype` change nothing: training and measurements use the device of
their inputs, or the CPU. The tests use the device "meta", from which no number can be read."""

import copy

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import fastgan
from fastgan import game, networks
from fastgan.game import quadrature, training
from fastgan.trainer import GANTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
POINTS = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
REAL, FAKE = IMAGES[:4] / 255, IMAGES[4:8] / 255
torch.manual_seed(0)
OF_POINTS, OF_IMAGES = networks.build((2,), 4, 8), networks.build((1, 8, 8), 4, 4)
ONE, OTHER = Normal(torch.zeros(()), torch.ones(())), Normal(torch.ones(()), torch.ones(()))
PLANE = [Independent(Normal(torch.full((2,), at), torch.ones(2)), 1) for at in (0.0, 1.0)]
UNIFORM = Uniform(torch.zeros(()), torch.ones(()))


def train(data, pair, path=None, **options):
    generator, discriminator = copy.deepcopy(pair)
    settings = {"latent_dim": 4, **options}
    trainer = GANTrainer(generator, None if options.get("objective") == "mmd" else discriminator, **settings)
    history = trainer.fit(data, steps=2, batch=8)
    if path:
        trainer.save(path / "checkpoint.pt")
        trainer.load(path / "checkpoint.pt")
    return history, trainer.sample(3).tolist()


def seeded():
    return torch.Generator("cpu").manual_seed(3)


def path_length(path):
    generator, w = copy.deepcopy(OF_IMAGES[0]), POINTS.reshape(-1, 4)[:4].clone().requires_grad_()
    out = fastgan.path_length_penalty(generator(w), w, 0.3, generator=seeded())
    out.loss.backward()
    return out.loss.item(), [p.grad.sum().item() for p in generator.parameters() if p.grad is not None]


def drawn(name):
    target = game.target(name)
    x = target.draw(50, seeded())
    statistics = game.mode_statistics(x, target.modes, target.std)
    return str(target.modes.double().tolist()), x.tolist(), target.divergences(x), statistics.shares.tolist()


CASES = {
    "trainer": lambda path: train(POINTS, OF_POINTS, path),
    "one-stage": lambda path: train(POINTS, OF_POINTS, step="one-stage", r1=0.0),
    "float16": lambda path: train(POINTS, OF_POINTS, path, precision="float16", r1_every=2),
    "bfloat16": lambda path: train(POINTS, OF_POINTS, precision="bfloat16", objective="relativistic_average"),
    "accumulated": lambda path: train(POINTS, OF_POINTS, accumulate=2, r2=0.1, objective="wasserstein"),
    "mmd": lambda path: train(POINTS, OF_POINTS, objective="mmd"),
    "images": lambda path: train(IMAGES, OF_IMAGES, path),
    "r1": lambda path: fastgan.r1_penalty(OF_IMAGES[1], REAL).item(),
    "approximate r1": lambda path: fastgan.approximate_r1_penalty(OF_IMAGES[1], REAL, generator=seeded()).item(),
    "wgan-gp": lambda path: fastgan.wgan_gp_penalty(OF_IMAGES[1], REAL, FAKE, generator=seeded()).item(),
    "dragan": lambda path: fastgan.dragan_penalty(OF_IMAGES[1], REAL, generator=seeded()).item(),
    "path length": path_length,
    "gradient norm": lambda path: fastgan.clip_gradient_norm_(OF_IMAGES[1].parameters(), 1.0).item(),
    "total variation": lambda path: game.total_variation(ONE, OTHER),
    "total variation in the plane": lambda path: game.total_variation(*PLANE),
    "of samples": lambda path: game.total_variation(POINTS[:, 0], OTHER),
    "of a function": lambda path: game.jensen_shannon(lambda x: 2 * x, UNIFORM, support=(0.0, 1.0)),
    "best D": lambda path: game.optimal_discriminator(ONE, OTHER)(POINTS[:, 0].double()).tolist(),
    "absolute error": lambda path: game.expected_absolute_error(ONE, OTHER, lambda x: torch.sigmoid(-x)),
    "equilibrium": lambda path: str(game.equilibrium(ONE, OTHER, lambda x: torch.sigmoid(-x))),
    "two-sample test": lambda path: game.two_sample_test(POINTS, POINTS + 1, steps=3, batch=8).p_value >= 0,
    "inverse transform": lambda path: game.inverse_transform(UNIFORM).sample(9, generator=seeded()).tolist(),
    "normal": lambda path: game.normal(9, generator=seeded()).tolist(),
    "Kolmogorov-Smirnov": lambda path: game.kolmogorov_smirnov(POINTS[:, 0], ONE),
    "a grid": lambda path: training.grid_points(game.target("ring")).tolist(),
    **{name: lambda path, name=name: drawn(name) for name in ("gaussian", "mixture", "ring", "grid")},
}


@pytest.fixture(params=["meta", "float64"])
def default(request):
    """A function that sets one of torch's defaults."""
    quadrature._nodes.cache_clear()

    def set_default():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(torch.float64)

    yield set_default
    torch.set_default_device(None), torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_defaults_of_torch_change_nothing(case, default, tmp_path):
    if case == "gradient norm":
        OF_IMAGES[1](REAL).sum().backward()
        kept = [p.grad.clone() for p in OF_IMAGES[1].parameters()]
    default()
    got = CASES[case](tmp_path)
    torch.set_default_device(None), torch.set_default_dtype(torch.float32)
    if case == "gradient norm":
        for p, grad in zip(OF_IMAGES[1].parameters(), kept):
            p.grad = grad
    assert got == CASES[case](tmp_path)


def test_a_game_ignores_the_defaults(default, monkeypatch):
    """In float32, on the device that the settings name."""
    monkeypatch.setattr(training, "WATCHED", 256), monkeypatch.setattr(training, "MEASURED", 256)
    default()
    played = training.play(training.settings_for("mixture", steps=2, batch=16, width=8))
    assert {p.dtype for p in played.trainer.generator.parameters()} == {torch.float32}
    assert played.final["fresh_error"] >= 0 and len(played.history) == len(played.frames) > 0


@pytest.mark.parametrize("default", ["float64"], indirect=True)
def test_networks_and_images_in_float64(default):
    """Networks made under that default are float64; pixels are converted to their dtype."""
    default()
    torch.manual_seed(0)
    for make in ("dcgan", "dcgan-batchnorm", "resnet"):
        trainer = GANTrainer(*networks.build((1, 8, 8), 4, 4, make), latent_dim=4)
        history = trainer.fit(IMAGES, steps=1, batch=4)
        assert trainer.sample(2).dtype == torch.float64 and history[0]["loss_d"] > 0
    fit = GANTrainer(*networks.build((2,), 4, 8), latent_dim=4)
    fit.fit(POINTS.double(), steps=1, batch=4)
    with pytest.raises(ValueError, match=r"data: got torch.float32 .* expected torch.float64"):
        fit.fit(POINTS, steps=1, batch=4)
