"""The training step, learning rates, the average of the weights, seeds, and what a trainer refuses."""

import inspect
import math
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch import nn
from trainers import DATA, assert_same, make, state

from fastgan import mmd_loss, reference
from fastgan.networks import build, mlp
from fastgan.trainer import GANTrainer, TrainingDiverged, to_numbers
from fastgan.training.config import TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("objective", ["nonsaturating", "minimax"])
@pytest.mark.parametrize("r1", [0.0, 0.7])
def test_step_is_the_textbook_step(objective, r1):
    """Against losses with a graph, `.backward()` and two optimizers, as a GAN author writes them."""
    ours, plain = make(objective=objective, r1=r1), make(objective=objective, r1=r1)
    real = DATA[:32]
    for _ in range(5):
        got = to_numbers(ours.step(real))

        fake = plain.generator(plain.latent(32)).detach()
        x = real.clone().requires_grad_()
        real_logits, fake_logits = plain.discriminator(x), plain.discriminator(fake)
        loss_d = reference.discriminator_loss(real_logits, fake_logits, objective, weight=0.5)
        (slope,) = torch.autograd.grad(real_logits.sum(), x, create_graph=True)
        penalty = r1 / 2 * (slope**2).sum(dim=1).mean()
        plain.optimizer_d.zero_grad()
        (loss_d + penalty).backward()
        plain.optimizer_d.step()
        wrong = (real_logits < 0).double().mean() / 2 + (fake_logits >= 0).double().mean() / 2

        loss_g = reference.generator_loss(plain.discriminator(plain.generator(plain.latent(32))), objective)
        plain.optimizer_g.zero_grad()
        loss_g.backward()
        plain.optimizer_g.step()

        expected = {
            "loss_d": loss_d, "loss_g": loss_g, "error": wrong, "r1": penalty,
            "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean(),
        }  # fmt: skip
        assert got == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-4, abs=1e-6)
    for (name, a), b in zip(ours.generator.named_parameters(), plain.generator.parameters()):
        if name != "0.2.bias":  # before batch norm: Adam makes full steps of rounding errors
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.discriminator.parameters(), plain.discriminator.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_generator_step_leaves_no_gradient_in_the_discriminator():
    trainer = make()
    seen = {}
    step_d, step_g = trainer.optimizer_d.step, trainer.optimizer_g.step

    def after_d():
        seen["d"] = [p.grad.clone() for p in trainer.discriminator.parameters()]
        step_d()

    def before_g():
        assert not any(p.requires_grad for p in trainer.discriminator.parameters())
        assert all(torch.equal(p.grad, g) for p, g in zip(trainer.discriminator.parameters(), seen["d"]))
        seen["weights"] = [p.clone() for p in trainer.discriminator.parameters()]
        step_g()

    trainer.optimizer_d.step, trainer.optimizer_g.step = after_d, before_g
    trainer.step(DATA[:16])
    assert all(torch.equal(p, w) for p, w in zip(trainer.discriminator.parameters(), seen["weights"]))


def test_values_have_no_graph():
    values = make().step(DATA[:16])
    assert all(v.ndim == 0 and not v.requires_grad for v in values.values())


def test_r1_of_a_linear_discriminator_is_gamma_half_w_squared():
    torch.manual_seed(0)
    discriminator = nn.Linear(2, 1)
    expected = 0.7 / 2 * discriminator.weight.square().sum().item()
    trainer = GANTrainer(nn.Linear(4, 2), discriminator, latent_dim=4, r1=0.7)
    assert trainer.step(DATA[:16])["r1"].item() == pytest.approx(expected, rel=1e-5)


def test_lazy_r1_is_computed_every_n_steps_with_n_times_the_weight():
    lazy, eager = make(r1=0.5, r1_every=3), make(r1=0.5)
    penalties = [lazy.step(DATA[:16])["r1"].item() for _ in range(7)]
    assert [p > 0 for p in penalties] == [True, False, False, True, False, False, True]
    assert penalties[0] == pytest.approx(3 * eager.step(DATA[:16])["r1"].item(), rel=1e-6)


def test_logits_of_any_shape():
    """A patch discriminator: many logits for each image."""
    torch.manual_seed(0)
    generator, _ = build((1, 8, 8), 4, 4)
    trainer = GANTrainer(generator, nn.Conv2d(1, 1, 3, stride=2), latent_dim=4)
    history = trainer.fit(torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), steps=4, batch=8, log_every=2)
    assert [record["step"] for record in history] == [2, 4]
    assert all(math.isfinite(v) for record in history for v in record.values())


def test_a_schedule_of_the_learning_rate(tmp_path):
    """Against a trainer made with the rate; a checkpoint keeps the rate; a rate that is a tensor changes in place."""
    changed, slow = make(), make(lr=1e-4)
    changed.set_learning_rate(1e-4)
    for trainer in (changed, slow):
        trainer.step(DATA[:16])
    assert_same(state(changed), state(slow))
    changed.set_learning_rate(5e-4)
    changed.save(tmp_path / "changed.pt")
    other = make()
    other.load(tmp_path / "changed.pt")
    assert [o.param_groups[0]["lr"] for o in (other.optimizer_g, other.optimizer_d)] == [5e-4] * 2
    held = other.optimizer_g.param_groups[0]["lr"] = torch.tensor(5e-4)
    other.set_learning_rate(0.25)
    assert other.optimizer_g.param_groups[0]["lr"] is held and held.item() == 0.25
    other.set_learning_rate(0.5, generator=0.125)
    assert held.item() == 0.125 and other.optimizer_d.param_groups[0]["lr"] == 0.5
    for wrong in (-1e-3, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"lr: got .*, expected a finite number >= 0"):
            other.set_learning_rate(wrong)


def test_average_of_the_weights():
    """Against its recurrence, in float64."""
    trainer = make(ema_decay=0.9)
    first = [p.detach().double().clone() for p in trainer.generator.parameters()]
    average = first
    for t in range(120):
        trainer.step(DATA[:16])
        decay = min(0.9, (t + 1) / (t + 10))
        average = [
            decay * a + (1 - decay) * p.detach().double() for a, p in zip(average, trainer.generator.parameters())
        ]
    for a, b in zip(trainer.ema.parameters(), average):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)
    moved = [not torch.equal(a.double(), f) for a, f in zip(trainer.ema.parameters(), first)]
    assert all(moved)


def test_seeds_and_sampling():
    a, b, c = make(), make(), make(seed=1)
    assert to_numbers(a.step(DATA[:16])) == to_numbers(b.step(DATA[:16])) != to_numbers(c.step(DATA[:16]))
    samples = a.sample(300, seed=4)
    before = state(a)
    assert torch.equal(samples, a.sample(300, seed=4))
    assert not torch.equal(samples, a.sample(300, seed=5))
    assert_same(state(a), before)
    assert samples.shape == (300, 2)
    assert not samples.requires_grad


def test_training_learns():
    torch.manual_seed(0)
    trainer = GANTrainer(mlp(4, 2, 32, 2), mlp(2, 1, 32, 2), latent_dim=4, r1=0.1)
    data = DATA + torch.tensor([2.0, -1.0])
    before = (trainer.sample(1000).mean(0) - data.mean(0)).norm()
    trainer.fit(data, steps=600, batch=64)
    samples = trainer.sample(1000)
    assert before > 1.5
    assert (samples.mean(0) - data.mean(0)).norm() < 0.25
    torch.testing.assert_close(samples.std(0), data.std(0), rtol=0.35, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "wgan-gpx"}, "objective: got 'wgan-gpx', did you mean 'wasserstein'"),
        ({"lr": 0.0}, "lr: got 0.0"),
        ({"lr": math.nan}, "lr: got nan"),
        ({"r1": -1.0}, "r1: got -1.0"),
        ({"r1_every": 0}, "r1_every: got 0"),
        ({"ema_decay": 1.5}, "ema_decay: got 1.5"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_more_bad_arguments():
    with pytest.raises(ValueError, match="generator: got a module without parameters"):
        GANTrainer(nn.Identity(), mlp(2, 1))
    for name in ("steps", "batch", "log_every"):
        with pytest.raises(ValueError, match=f"{name}: got 0, expected at least 1"):
            make().fit(DATA, **{"steps": 1, "batch": 1, "log_every": 1} | {name: 0})
    with pytest.raises(ValueError, match="count: got 0"):
        make().sample(0)


def test_a_nan_loss_stops_the_training():
    trainer = make()
    trainer.fit(DATA, steps=7, batch=8)
    with torch.no_grad():
        trainer.discriminator[0].weight[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match=r"training diverged: at step 10, loss_d nan,") as raised:
        trainer.fit(DATA, steps=20, batch=8, log_every=5)
    assert raised.value.step == trainer.step_number == 10
    assert math.isnan(raised.value.values["loss_d"])


def test_mmd_needs_no_discriminator(tmp_path):
    """Against autograd of the same loss in float64; also resumed from a checkpoint."""

    def start():
        torch.manual_seed(0)
        return GANTrainer(mlp(4, 2, 16, 2).double(), None, latent_dim=4, objective="mmd", bandwidths=[0.5, 2.0])

    ours, plain, data = start(), start(), DATA.double() + 2
    for _ in range(20):
        values = ours.step(data[:32])
        loss = mmd_loss(plain.generator(plain.latent(32)), data[:32], [0.5, 2.0])
        plain.optimizer_g.zero_grad()
        loss.backward()
        plain.optimizer_g.step()
        assert list(values) == ["loss_g"]
        assert values["loss_g"].item() == pytest.approx(loss.item(), rel=1e-9)
    for a, b in zip(ours.generator.parameters(), plain.generator.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    ours.save(tmp_path / "mmd.pt")
    again = start()
    again.load(tmp_path / "mmd.pt")
    assert ours.fit(data, steps=20, batch=32, log_every=5) == again.fit(data, steps=20, batch=32, log_every=5)
    assert again.sample(5).dtype == torch.float64


def test_the_docstring_names_every_setting():
    parameters = inspect.signature(GANTrainer).parameters
    assert parameters["objective"].default == "nonsaturating" and parameters["lr"].default == 2e-3
    own = {"generator", "discriminator", "device", "optimizers", "schedulers"}
    assert set(parameters) == {*own, *(f.name for f in fields(TrainerConfig))}
    for name in parameters:
        assert (
            f"{name}:" in GANTrainer.__doc__ or f"{name}, " in GANTrainer.__doc__ or f", {name}:" in GANTrainer.__doc__
        )


def test_training_imports_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import fastgan.trainer;"
        "heavy = {'matplotlib', 'PIL', 'sklearn', 'tensorboard', 'tqdm', 'torchvision'};"
        "sys.exit(', '.join(heavy & set(sys.modules) - before) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu():
    torch.manual_seed(0)
    generator, discriminator = build((1, 16, 16), 16, 8)
    trainer = GANTrainer(generator, discriminator, latent_dim=16, device="cuda", r1_every=2)
    data = torch.randint(0, 256, (100, 1, 16, 16), dtype=torch.uint8, device="cuda")
    for _ in range(4):  # compiles the kernel and makes Adam's state
        trainer.step(trainer.draw(data, 32))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            values = trainer.step(trainer.draw(data, 32))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(math.isfinite(v) for v in to_numbers(values).values())


class Noisy(nn.Module):
    """A generator that draws random numbers, as StyleGAN's does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, z):
        return self.linear(z) + torch.randn(len(z), 1)


def test_samples_of_a_generator_that_draws_noise():
    """Equal seeds give equal samples, whatever was drawn before; sampling does not change the training's draws."""
    trainer = GANTrainer(Noisy(), mlp(2, 1, 16, 2), latent_dim=4)
    samples, before = trainer.sample(40, seed=4, batch=16), state(trainer)
    torch.rand(3)
    assert torch.equal(trainer.sample(40, seed=4, batch=16), samples)
    torch.set_rng_state(before["torch"])
    trainer.sample(40, seed=5)
    assert_same(state(trainer), before)
    noise = samples - trainer.ema.linear(torch.randn(40, 4, generator=torch.Generator().manual_seed(4)))
    assert len(noise[:, 0].unique()) == 40  # it differs between parts of the batch, too


@pytest.mark.parametrize("seed", [2**64, "1", 1.5, None])
def test_a_wrong_seed_of_samples(seed):
    with pytest.raises((TypeError, ValueError), match=r"^seed: got "):
        make().sample(2, seed=seed)
