"""Half precision, compiled networks, and the rehearsals before a capture: the step stays the same."""

import math

import pytest
import torch
from small_steps import IMAGES, LATENT, POINTS, N, assert_equal_weights, batches, make, weights

import fastgan
from fastgan import reference
from fastgan.networks import Discriminator, Generator, mlp
from fastgan.objectives import OBJECTIVES
from fastgan.trainer import GANTrainer, to_numbers
from fastgan.training.capture import undone

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("options", [{}, {"r1": 0.2}, {"step": "one-stage"}, {"objective": "relativistic"}])
def test_bfloat16_trains_like_float32(options):
    def train(precision):
        torch.manual_seed(0)
        generator, discriminator = Generator(8, 1, LATENT, 4), Discriminator(8, 1, 4)
        trainer = GANTrainer(generator, discriminator, latent_dim=LATENT, precision=precision, **{"r1": 0.0} | options)
        return trainer, [to_numbers(trainer.step(real.float())) for real in batches(5, "images")]

    (half, a), (_, b) = train("bfloat16"), train("float32")
    assert a != b
    for x, y in zip(a, b):
        assert x == pytest.approx(y, rel=0.1, abs=0.02)
    assert all(p.dtype == torch.float32 for p in (*half.generator.parameters(), *half.ema.parameters()))
    assert half.settings["precision"] == "bfloat16"


def test_float16_scales_the_loss_and_skips_what_overflows(tmp_path):
    def make_half():
        torch.manual_seed(0)
        settings = dict(latent_dim=LATENT, precision="float16", r1=0.2, r1_every=2)
        return GANTrainer(mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), **settings)

    trainer = make_half()
    real = POINTS[:N].float()
    trainer.step(real)  # a step with the penalty, which is in float32
    first = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**40})
    trainer.step(real)  # 2^40 times a gradient overflows float16
    assert all(map(torch.equal, trainer.discriminator.parameters(), first))
    assert trainer._step.scaler.get_scale() == 2.0**39
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**10})
    trainer.step(real)
    assert not all(map(torch.equal, trainer.discriminator.parameters(), first))
    trainer.save(tmp_path / "half.pt")
    again = make_half()
    again.load(tmp_path / "half.pt")
    assert again._step.scaler.get_scale() == trainer._step.scaler.get_scale()
    assert to_numbers(again.step(real)) == to_numbers(trainer.step(real))
    assert_equal_weights(again, trainer, rtol=0)


@pytest.mark.parametrize("objective", ["wasserstein", "hinge", "nonsaturating"])
def test_float16_skips_what_overflows_for_every_kind_of_slope(objective):
    """Also for a constant slope: it is written as a number, which must become infinite if it overflows float16."""
    torch.manual_seed(0)
    trainer = GANTrainer(
        mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), latent_dim=LATENT, precision="float16", r1=0.0, objective=objective
    )
    first = weights(trainer)
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**40})
    trainer.step(POINTS[:N].float())
    assert all(map(torch.equal, weights(trainer), first))
    assert trainer._step.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if OBJECTIVES[name].relation != "average"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 2.0**30), (torch.float16, 1e38), (torch.bfloat16, 1e40)])
def test_a_gradient_that_overflows_half_precision_is_infinite(objective, dtype, scale):
    """Against autograd in float64. 1e40 overflows float32, so that every product with it is infinite."""
    real, fake = (torch.linspace(a, b, N).to(dtype) for a, b in ((-1.5, 2.0), (-2.5, 0.7)))
    x, z = (side.double().requires_grad_() for side in (real, fake))
    compared = {"real_logits": real} if OBJECTIVES[objective].relation else {}
    loss_d = reference.discriminator_loss(x, z, objective)
    loss_g = reference.generator_loss(z, objective, **dict.fromkeys(compared, x))
    wanted = (*torch.autograd.grad(loss_d, (x, z)), *torch.autograd.grad(loss_g, z))
    out_d = fastgan.discriminator_value_and_grad(real, fake, objective, grad_scale=scale)
    out_g = fastgan.generator_value_and_grad(fake, objective, **compared, grad_scale=scale)
    for got, slope in zip((*out_d.grads, *out_g.grads), wanted, strict=True):
        want = slope * scale
        over = want.abs() > torch.finfo(dtype).max
        assert torch.equal(got[over].double(), want[over].sign() * math.inf)
        if scale < 1e39:
            torch.testing.assert_close(got[~over].double(), want[~over], rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_float16_gradients_are_unscaled():
    """Adam's averages of the gradients after one step from the same weights: they have no scale."""

    def update(precision):
        torch.manual_seed(0)
        trainer = GANTrainer(
            mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), latent_dim=LATENT, precision=precision, r1=0.3, betas=(0.9, 0.999)
        )
        trainer.step(POINTS[:N].float())
        return trainer.optimizer_d.state_dict()["state"][0]["exp_avg"], trainer.optimizer_g.state_dict()["state"][0][
            "exp_avg"
        ]

    for half, whole in zip(update("float16"), update("float32")):
        torch.testing.assert_close(half, whole, rtol=0.05, atol=0.02 * whole.abs().max().item())


@pytest.mark.parametrize(
    "options", [{"r1": 0.2, "r1_every": 2}, pytest.param({"step": "one-stage"}, marks=pytest.mark.slow)]
)
def test_compiled_networks_give_the_same(options, monkeypatch):
    """By Dynamo and AOTAutograd, without code generation; in float64, to rounding."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile(network, backend="aot_eager"))
    ours, plain = make(compile=True, **options), make(**options)
    assert ours._step.generate is not ours.generator
    for real in batches(4):
        assert to_numbers(ours.step(real)) == pytest.approx(to_numbers(plain.step(real)), rel=1e-6)
    assert_equal_weights(ours, plain)


@pytest.mark.slow
def test_compiled_by_the_default_backend():
    ours, plain = make(compile=True, r1=0.2, r1_every=2), make(r1=0.2, r1_every=2)
    for real in batches(4):
        ours.step(real), plain.step(real)
    assert_equal_weights(ours, plain, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"r1": 0.2, "r2": 0.1, "r1_every": 2}, {"step": "one-stage"}])
@pytest.mark.parametrize("after", [0, 3])
def test_rehearsals_leave_no_trace(options, after):
    """The rehearsals before a capture leave weights, statistics, Adam's state and random state unchanged."""
    ours, plain = make("images", **options), make("images", **options)
    for t in (ours, plain):
        torch.manual_seed(9)
        for real in batches(after, "images"):
            t.step(real)
    with ours._undone():
        for penalised in (True, False):
            for _ in range(3):
                ours._step.play(IMAGES[:N], penalised)
        assert any(not torch.equal(a, b) for a, b in zip(weights(ours)[:-1], weights(plain)))
    assert_equal_weights(ours, plain, rtol=0)
    assert torch.equal(ours.random.get_state(), plain.random.get_state())
    for real in batches(5, "images"):
        assert to_numbers(ours.step(real)) == to_numbers(plain.step(real))
    assert_equal_weights(ours, plain, rtol=0)


def test_rehearsals_are_undone_after_a_failure():
    trainer = make("batch norm")
    before = weights(trainer)
    with pytest.raises(RuntimeError, match="stop"), undone([trainer.generator, trainer.discriminator], [], []):
        trainer.step(POINTS[:N])
        raise RuntimeError("stop")
    assert all(map(torch.equal, weights(trainer)[: -len(list(trainer.ema.parameters()))], before))


def test_the_reason_why_a_step_is_not_captured():
    with pytest.warns(UserWarning, match="the step runs uncaptured: CUDA graphs are for GPUs, and the device is cpu"):
        trainer = make(capture=True)
    assert trainer.capture_reason == "CUDA graphs are for GPUs, and the device is cpu"
    assert make(capture=False).capture_reason == "capture=False"
    trainer.step(POINTS[:N])  # it runs


def test_a_failed_capture_gives_the_reason_and_the_step_runs(monkeypatch):
    """Here it fails because there is no CUDA; on a GPU a network that waits for the device takes this path."""
    ours, plain = make(), make()
    ours.capture_reason = None  # as on a GPU
    with pytest.warns(UserWarning, match="runs uncaptured"):
        ours.step(POINTS[:N])
    assert ours.capture_reason and "\n" not in ours.capture_reason
    plain.step(POINTS[:N])
    for real in batches(3):
        assert to_numbers(ours.step(real)) == to_numbers(plain.step(real))
    assert_equal_weights(ours, plain, rtol=0)


def test_the_reason_of_a_failed_capture_is_the_first_error():
    from fastgan.training.capture import reason

    try:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert reason(error) == "operation not permitted when stream is capturing"
    assert reason(RuntimeError()) == "RuntimeError"
