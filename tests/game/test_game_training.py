"""The game trained: recipes, the results of a run, and how close the pairs come."""

import pytest
import torch

from fastgan import game
from fastgan.game import training


def test_recipes():
    """The settings of the measured recipes."""
    ring = training.settings_for("ring")
    assert ring[1:3] == ("nonsaturating", 10_000) and (ring.r1, ring.r2, ring.batch, ring.lr) == (0.1, 0.0, 256, 2e-3)
    pairing = training.settings_for("mixture", "relativistic", seed=3, r2=None)
    assert (pairing.steps, pairing.r1, pairing.r2, pairing.seed) == (3_500, 0.1, 0.1, 3)
    assert training.settings_for("grid", r1=0.0).r1 == 0.0
    mixture = training.settings_for("mixture")
    assert (mixture.steps, mixture.batch, mixture.width, mixture.lr, mixture.pace) == (7_000, 512, 64, 4e-3, 0.2)
    assert training.settings_for("mixture", lr=0.1).lr == 0.1 and training.settings_for("mixture", "mmd").pace == 1
    assert training.bandwidths_for(game.target("gaussian"))[0] == 1.0
    assert training.settings_for("ring", "mmd").bandwidths[0] == pytest.approx(0.0283, abs=1e-4)


@pytest.fixture
def few_samples(monkeypatch):
    """Measure less often, with fewer samples: in such short runs the measurements take most of the time."""
    for name, value in (("FRAMES", 6), ("WATCHED", 2_000), ("MEASURED", 4_000)):
        monkeypatch.setattr(training, name, value)


@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic", "absolute_error"])
def test_a_short_game(one_thread, few_samples, objective):
    """The results of a run, which are equal for equal seeds."""
    settings = training.settings_for("mixture", objective, steps=40, batch=64)
    played = training.play(settings)
    assert played.trainer.step_number == 40 and not played.stopped
    steps = [record["step"] for record in played.history]
    assert steps[0] == 1 and steps[-1] == 40 and steps == sorted(set(steps)) == [f.step for f in played.frames]
    assert all(g["lr"] < 1e-4 for g in played.trainer.optimizer_g.param_groups), "the cosine ends near zero"
    for record in (*played.history, played.final):
        assert record["bound"] == pytest.approx((1 - record["total_variation"]) / 2)
        assert 0 <= record["error"] <= 1 and 0 <= record["error_rate"] <= 1
    if objective == "nonsaturating":
        again = training.play(settings)
        without_clock = [{k: v for k, v in r.items() if k != "seconds"} for r in (played.final, again.final)]
        assert without_clock[0] == without_clock[1]


def test_the_direct_game(one_thread, few_samples):
    """Without a discriminator the distance falls, and nothing of D is recorded."""
    played = training.play(training.settings_for("gaussian", "mmd", steps=60, batch=128))
    assert played.trainer.discriminator is None and "error" not in played.final and "dead" not in played.final
    assert played.history[-1]["total_variation"] < 0.5 * played.history[0]["total_variation"]


def test_stopping_and_time(one_thread, few_samples):
    played = training.play(training.settings_for("gaussian", steps=1_000_000, seconds=0.5, batch=32))
    assert 1 < played.trainer.step_number < 100_000 and not played.stopped
    asked = iter([False, False, True])
    played = training.play(training.settings_for("gaussian", steps=100, batch=32), stop=lambda: next(asked))
    assert played.stopped and played.trainer.step_number == 2
    played = training.play(training.settings_for("gaussian", steps=100, batch=32), stop=lambda: True)
    assert played.stopped and played.trainer.step_number == len(played.frames) == 1


def test_divergence_raises(one_thread):
    with pytest.raises(FloatingPointError, match="diverged at step"):
        training.play(training.settings_for("gaussian", "nonsaturating", steps=200, lr=1e30, batch=16))


def test_a_discriminator_that_dies_is_not_taken_for_success(one_thread):
    """The error is 1/2, and the measures name a dead D and the distance."""
    trainer = training.make_trainer(training.settings_for("mixture"))
    with torch.no_grad():
        for p in trainer.discriminator.parameters():
            p.zero_()
    final = training.final_measures(trainer, game.target("mixture"), torch.Generator().manual_seed(0))
    assert final["error"] == 0.5 and final["dead"] and final["total_variation"] > 0.5


SEEDS = range(5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("pair", ["ring", "grid"])
def test_every_mode_is_found(one_thread, pair, objective, seed):
    """10,000 steps, a minute on an idle core: every mode, in equal shares, and D at 1/2."""
    final = training.play(training.settings_for(pair, objective, seed=seed)).final
    assert final["modes"] == len(game.target(pair).modes)
    assert final["modes_tv"] <= 0.06
    assert abs(final["error"] - 0.5) <= 0.01 and not final["dead"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_ring_with_mmd(one_thread, seed):
    """The same without a discriminator."""
    final = training.play(training.settings_for("ring", "mmd", seed=seed)).final
    assert final["modes"] == 8 and final["modes_tv"] <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["gaussian", "mixture"])
@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic", "mmd"])
def test_pairs_in_one_dimension(one_thread, pair, objective):
    """3,500 steps. The TV is 0.02 to 0.06 over bins; over our cells, which split each mode, the relativistic pair
    on two modes has 0.05 to 0.13, depending on the seed."""
    final = training.play(training.settings_for(pair, objective)).final
    assert final["total_variation"] <= (0.15 if (pair, objective) == ("mixture", "relativistic") else 0.07)
    assert abs(final.get("error", 0.5) - 0.5) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_the_mixture_ends_at_its_target(one_thread, seed):
    """p_g = p_t, as in `fastgan game mixture`: for as many samples of p_t the TV would be 0.014."""
    final = training.play(training.settings_for("mixture", seed=seed)).final
    assert final["total_variation"] <= 0.032 and abs(final["error"] - 0.5) <= 0.01


@pytest.mark.slow
def test_the_absolute_error_without_a_penalty_fails(one_thread):
    """On two modes the TV stays at 0.86 to 1.0, because D gives no gradient, or nearly none."""
    settings = training.settings_for("mixture", "absolute_error", r1=0.0, r2=0.0)
    assert training.play(settings).final["total_variation"] > 0.3
