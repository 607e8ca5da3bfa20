"""The ways to step, in float64 on the CPU: against plain loops, and against each other."""

import copy

import pytest
import torch
from small_steps import IMAGES, LATENT, POINTS, RTOL, N, assert_equal_weights, batches, make, pair, plain_step, weights
from torch import nn

from fastgan.networks import mlp
from fastgan.objectives import OBJECTIVES
from fastgan.step import constant_ratio
from fastgan.trainer import GANTrainer, to_numbers
from fastgan.training.look import FirstLook

pytestmark = pytest.mark.usefixtures("one_thread")
ALTERNATING = [
    ("points", objective, {}) for objective in OBJECTIVES if objective != "nonsaturating"
] + [
    ("images", "nonsaturating", {}),
    ("images", "nonsaturating", {"r1": 0.3}),
    ("images", "relativistic", {"r1": 0.3, "r2": 0.2}),
    ("images", "hinge", {"redraw": False}),
    ("patches", "least_squares", {"r1": 0.1}),
    ("batch norm", "nonsaturating", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "objective", "options"), ALTERNATING)
@pytest.mark.parametrize("concatenate", [False, True])
def test_twenty_steps_are_those_of_the_plain_loop(kind, objective, options, concatenate):
    """With one pass over both sides or two the result is the same to rounding, unless D has batch statistics."""
    if concatenate and kind == "batch norm":
        pytest.skip("batch statistics of both sides together are another network")
    ours, plain = (make(kind, objective=objective, concatenate=concatenate, **options) for _ in range(2))
    for real in batches(20, kind):
        values = to_numbers(ours.step(real))
        loss_d, loss_g = plain_step(plain, real, objective, **options)
        assert values["loss_d"] + values["r1"] + values.get("r2", 0) == pytest.approx(loss_d, rel=1e-6)
        assert values["loss_g"] == pytest.approx(loss_g, rel=1e-6, abs=1e-7)
    assert_equal_weights(ours, plain)
    assert any(not torch.equal(a, b) for a, b in zip(weights(ours), weights(make(kind))))


def separable(objective):
    return OBJECTIVES[objective].relation != "average"


ONE_STAGE = [("points", objective, {}) for objective in OBJECTIVES]
ONE_STAGE += [
    ("images", "nonsaturating", {"r1": 0.3}),
    ("images", "relativistic", {"r1": 0.3, "r2": 0.2}),
    ("images", "hinge", {"r2": 0.2}),
    ("smooth", "nonsaturating", {"r1": 0.3, "r2": 0.2}),
    ("smooth", "nonsaturating", {"r2": 0.2}),
    ("patches", "minimax", {}),
    ("patches", "wasserstein", {"r1": 0.1}),
    ("batch norm", "minimax", {}),
    ("batch norm", "absolute_error", {"weight": 0.7}),
]


@pytest.mark.parametrize(("kind", "objective", "options"), ONE_STAGE)
@pytest.mark.parametrize("concatenate", [False, None])
def test_one_stage_is_simultaneous_training(kind, objective, options, concatenate):
    """Both gradients at the same weights, from one pass through D, against a loop with two backward passes."""
    ours = make(kind, objective=objective, step="one-stage", concatenate=concatenate, **options)
    plain = make(kind, objective=objective, **options)
    penalties = {k: v for k, v in options.items() if k in ("r1", "r2")}
    for real in batches(20, kind):
        values = to_numbers(ours.step(real))
        loss_d, loss_g = plain_step(plain, real, objective, simultaneous=True, **penalties)
        assert values["loss_d"] + values["r1"] + values.get("r2", 0) == pytest.approx(loss_d, rel=1e-6)
        assert values["loss_g"] == pytest.approx(loss_g, rel=1e-6, abs=1e-7)
    assert_one_stage(ours, plain, kind)


def assert_one_stage(ours, plain, kind):
    # The plain loop updates the running statistics of batch normalisation once more, in G's step.
    parts = [(ours.generator, plain.generator), (ours.discriminator, plain.discriminator), (ours.ema, plain.ema)]
    for a, b in parts:
        for x, y in zip(a.parameters(), b.parameters()):
            torch.testing.assert_close(x, y, rtol=RTOL, atol=RTOL)


class Level(nn.Sequential):
    """Logits that are all the same number, but with a gradient in the samples."""

    level = 0.0

    def forward(self, x):
        x = super().forward(x)
        return x - x.detach() + self.level


@pytest.mark.parametrize("objective", ["nonsaturating", "hinge", "least_squares", "relativistic"])
@pytest.mark.parametrize("level", [-200.0, -30.0, 0.0, 5.0])
def test_one_stage_where_the_discriminator_is_sure(objective, level):
    """D's gradient vanishes there (for least squares, at 0), but the generator's, computed from it, must not."""

    def start(**options):
        generator, discriminator = pair()
        discriminator = Level(*discriminator)
        discriminator.level = level
        return GANTrainer(generator, discriminator, latent_dim=LATENT, r1=0.0, objective=objective, **options)

    ours, plain = start(step="one-stage"), start()
    ours.step(POINTS[:N])
    plain_step(plain, POINTS[:N], objective, simultaneous=True)
    for a, b in zip(ours.generator.parameters(), plain.generator.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=0)
        assert b.grad.abs().max() > 1e-20
    for a, b in zip(ours.discriminator.parameters(), plain.discriminator.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-16)


def test_one_stage_in_float32_where_the_hinge_has_no_slope():
    torch.manual_seed(0)
    generator, discriminator = mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2)
    with torch.no_grad():
        discriminator[-1].bias.fill_(-5.0)
    settings = dict(latent_dim=LATENT, r1=0.0, objective="hinge")
    ours = GANTrainer(copy.deepcopy(generator), copy.deepcopy(discriminator), step="one-stage", **settings)
    plain = GANTrainer(generator, discriminator, **settings)
    real = POINTS[:N].float()
    ours.step(real)
    plain_step(plain, real, "hinge", simultaneous=True)
    for networks in ((ours.generator, plain.generator), (ours.discriminator, plain.discriminator)):
        for a, b in zip(*(network.parameters() for network in networks)):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6 * b.grad.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "batch norm",
            {},
            r"'one-stage' with 'nonsaturating' and a discriminator whose logits depend on other samples",
        ),
        ("batch norm", {"objective": "hinge"}, r"batch normalisation\?"),
        ("patches", {}, r"and 9 logits a sample, whose gradients have different ratios"),
        ("points", {"precision": "float16"}, r"float16, whose range is too small"),
        ("points", {"weight": 0.0}, r"weight: got 0"),
    ],
)
def test_one_stage_is_refused_where_it_is_not_exact(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make(kind, step="one-stage", **options)


def test_constant_ratios():
    found = {name: constant_ratio(name, 0.5) for name in OBJECTIVES}
    assert {name: ratio for name, ratio in found.items() if ratio is not None} == {
        "minimax": -2.0, "absolute_error": -2.0, "wasserstein": -2.0,
    }  # fmt: skip
    assert constant_ratio("minimax", 1.0) == -1.0


class MinibatchDeviation(nn.Module):
    """Karras et al. 2018: the batch's deviation as one more feature. A list of known module types would not find it."""

    def forward(self, x):
        return torch.cat((x, x.std(0).mean().expand(len(x), 1)), 1)


def test_the_first_look_at_a_discriminator_changes_nothing():
    generator, _ = pair()
    torch.manual_seed(3)
    networks = {
        "batch norm": pair("batch norm")[1],
        "deviation": nn.Sequential(MinibatchDeviation(), nn.Linear(3, 1)).double(),
        "dropout": nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double(),
        "layer norm": nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 3)).double(),
    }
    before = {k: copy.deepcopy(d.state_dict()) for k, d in networks.items()}
    random = torch.get_rng_state()
    found = {k: FirstLook(generator, d, LATENT).seen for k, d in networks.items()}
    assert found == {"batch norm": (1, True), "deviation": (1, True), "dropout": (1, False), "layer norm": (3, False)}
    assert all(torch.equal(v, networks[k].state_dict()[name]) for k, s in before.items() for name, v in s.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert make("batch norm").settings["concatenate"] is False
    assert make().settings["concatenate"] is True
    assert make(r1=0.1).settings["concatenate"] is False  # every step has a penalty on one side
    with pytest.raises(ValueError, match=r"logits of shape \(1,\) for 4 samples, expected 4 rows"):
        GANTrainer(generator, nn.Sequential(nn.Flatten(0), nn.Linear(8, 1)).double(), latent_dim=LATENT, r1=0.0)


@pytest.mark.parametrize("options", [{}, {"r1": 0.2, "r2": 0.1}, {"step": "one-stage"}, {"redraw": False}])
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_is_the_step_of_the_whole_batch(options, parts):
    """3 parts of 8 samples are unequal: each is weighted by its number of samples."""
    whole, parted = make("images", **options), make("images", accumulate=parts, **options)
    for real in batches(10, "images"):
        a, b = to_numbers(whole.step(real)), to_numbers(parted.step(real))
        assert a == pytest.approx(b, rel=1e-6)
    assert_equal_weights(whole, parted)


def test_accumulation_is_refused_where_it_is_not_exact():
    with pytest.raises(ValueError, match=r"accumulate: got 2, expected 1 for 'relativistic_average'"):
        make(objective="relativistic_average", accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate: got 9 parts for 8 samples"):
        make(accumulate=9).step(POINTS[:8])


def test_frozen_parameters_stay_frozen():
    """And the other parameters of D require grad again after the step."""
    trainer = make("images")
    frozen = next(trainer.discriminator.parameters())
    frozen.requires_grad_(False)
    trainer = GANTrainer(trainer.generator, trainer.discriminator, latent_dim=LATENT, r1=0.0)
    before = frozen.clone()
    trainer.step(IMAGES[:N])
    assert torch.equal(frozen, before) and frozen.grad is None and not frozen.requires_grad
    assert all(p.requires_grad for p in list(trainer.discriminator.parameters())[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "two-stage"}, "step: got 'two-stage', expected 'alternating' or 'one-stage'"),
        ({"precision": "float8"}, "precision: got 'float8', expected None or 'float32' or 'bfloat16' or 'float16'"),
        ({"accumulate": 0}, "accumulate: got 0, expected at least 1"),
        ({"r2": -1.0}, "r2: got -1.0, expected a finite number >= 0"),
        ({"objective": "mmd"}, "discriminator: got Sequential, expected None: mmd compares samples"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    with pytest.raises(ValueError, match="discriminator: got None, expected one, for objective 'hinge'"):
        GANTrainer(pair()[0], None, objective="hinge")


@pytest.mark.parametrize("options", [{}, {"precision": "float16"}])
def test_training_works_after_an_interrupted_step(options):
    """In G's part, while D is frozen: by Ctrl-C in a notebook, or because memory is exhausted."""

    def stopped(*_):
        raise KeyboardInterrupt

    generator, discriminator = (network.float() for network in pair())
    trainer = GANTrainer(generator, discriminator, latent_dim=LATENT, **options)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._step, "_of_generator", stopped)
        trainer.step(POINTS[:N].float())
    trainer.step(POINTS[:N].float())
    assert all(p.requires_grad for p in trainer.discriminator.parameters())
