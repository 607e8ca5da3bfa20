"""The fused losses against the mathematics of the game: values, gradients, and one step of each player."""

import math

import pytest
import torch
from checks_of_losses import CHECKS, F64, LN2, Losses, close, pathwise, quantile_points, sides
from torch import nn
from torch.distributions import Normal

import fastgan
from fastgan import game
from fastgan.networks import mlp


@pytest.mark.parametrize("check", CHECKS)
def test_the_losses_pass_every_check(device, check):
    CHECKS[check](Losses(), device)


# ---- gradients at the optimum, and one step of each player ----------------------------------------------------------


def test_the_ideal_discriminator_of_the_absolute_error_gives_no_gradient(device):
    """Through the fused loss, it is exactly 0 at the best D, and the slope of TV / 2 at sigma(k l*)."""
    losses, x = Losses(), quantile_points(1.0, 1001, device)
    best = game.optimal_discriminator(Normal(0.0, 1.0), Normal(1.0, 1.0))
    z = x.clone().requires_grad_()
    logits = best.logits(z.detach()) + 0 * z  # the gradient of D in x is 0
    (gradient,) = torch.autograd.grad(losses.g(logits, "absolute_error"), z)
    assert (gradient == 0).all()
    assert fastgan.generator_value_and_grad(best.logits(x), "absolute_error").grads[0].count_nonzero() == 0
    limit = math.exp(-1 / 8) / math.sqrt(2 * math.pi) / 2
    for k, tolerance in ((3.0, 2e-2), (30.0, 3e-4)):
        want = game.generator_gradient(Normal(0.0, 1.0), Normal(1.0, 1.0), "absolute_error", sharpness=k)
        got = pathwise(losses, "absolute_error", device, logits=lambda x, k=k: k * (0.5 - x))
        close(got, want, atol=1e-5)
        close(want, limit, atol=tolerance)


def test_minimax_of_one_error(device):
    """G's gradient is minus E's at the generated logits; a step of G raises E, and one of D lowers it."""
    _, fake = sides(device)
    fake.requires_grad_()
    of_g = torch.autograd.grad(fastgan.generator_loss(fake, "absolute_error"), fake)[0]
    real = torch.zeros_like(fake)
    of_e = torch.autograd.grad(fastgan.discriminator_loss(real, fake, "absolute_error"), fake)[0]
    close(of_g, -of_e, 1e-12)

    torch.manual_seed(0)
    g, d = nn.Linear(1, 1).to(device, F64), mlp(1, 1, width=16, depth=2).to(device, F64)
    z, x = quantile_points(0.0, 512, device)[:, None], quantile_points(2.0, 512, device)[:, None]

    def error():
        return fastgan.discriminator_loss(d(x), d(g(z)), "absolute_error")

    def descend(network, loss, rate=0.05):
        for p, slope in zip(network.parameters(), torch.autograd.grad(loss, list(network.parameters()))):
            p.data -= rate * slope

    for _ in range(3):
        before = error().item()
        descend(d, error())
        middle = error().item()
        assert middle < before
        descend(g, fastgan.generator_loss(d(g(z)), "absolute_error"))
        assert error().item() > middle


def test_a_linear_discriminator_reaches_the_optimum(device):
    """Slope -mu, bias mu^2 / 2 and the loss ln 2 - JSD, by LBFGS through the fused loss."""
    n = 20_000 if device.type == "cuda" or fastgan.operators.dispatch.forced_backend == "torch" else 4_000
    x_t, x_g = (quantile_points(mu, n, device)[:, None] for mu in (0.0, 1.0))
    d = nn.Linear(1, 1).to(device, F64)
    optimizer = torch.optim.LBFGS(d.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = fastgan.discriminator_loss(d(x_t), d(x_g), "minimax", weight=0.5)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert d.weight.item() == pytest.approx(-1.0, abs=2e-3) and d.bias.item() == pytest.approx(0.5, abs=2e-3)
    assert closure().item() == pytest.approx(LN2 - 0.1114214822, abs=5e-5)
    probability = torch.sigmoid(d(x_t))
    assert (probability >= 0).all() and (probability <= 1).all()
    best = game.optimal_discriminator(Normal(0.0, 1.0), Normal(1.0, 1.0), "minimax")
    torch.testing.assert_close(probability, best(x_t), atol=2e-3, rtol=0)


def test_hinge_is_twice_the_absolute_error_at_its_best(device):
    """Half of the hinge loss at its best D is 1 - TV = 2 min E."""
    x = [quantile_points(mu, 20_001, device) for mu in (0.0, 1.0)]
    logits = [torch.sign(0.5 - side) for side in x]
    close(fastgan.discriminator_loss(*logits, "hinge", weight=0.5), 1 - 0.3829249225, atol=1e-4)


def test_relativistic_pairing(device):
    """ln 2 for equal logits; a shift of both changes nothing; opposite gradients; N = M required."""
    a, b = (x[:37] for x in sides(device))
    close(fastgan.discriminator_loss(a, a.clone(), "relativistic"), LN2, atol=1e-7)
    out = fastgan.discriminator_value_and_grad(a, b, "relativistic")
    shifted = fastgan.discriminator_value_and_grad(a + 5.0, b + 5.0, "relativistic")
    close(shifted.loss, out.loss, 1e-12)
    close(out.grad_real, -out.grad_fake, 0.0)
    close(out.grad_real, -torch.sigmoid(b - a) / len(a), 1e-12)
    with pytest.raises(ValueError):
        fastgan.discriminator_loss(a, b[:-1], "relativistic")


def test_penalties_of_known_discriminators():
    """gamma |w|^2 / 2 of a linear D; gamma / 2 E |A x|^2 of a quadratic one."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=random, dtype=F64)
    w = torch.randn(3, generator=random, dtype=F64)
    a = torch.randn(3, 3, generator=random, dtype=F64)
    a = a + a.T
    for penalty in (fastgan.r1_penalty, fastgan.r2_penalty):
        close(penalty(lambda x: x @ w, x, gamma=0.7), 0.35 * w.square().sum(), 1e-12)
        close(penalty(lambda x: (x @ a * x).sum(1) / 2, x, gamma=0.7), 0.35 * (x @ a).square().sum(1).mean(), 1e-12)


def test_statistics_of_the_same_pass(device):
    """Mean logits, and the error rate of the best D."""
    r, f = sides(device)
    stats = fastgan.discriminator_value_and_grad(r, f, "absolute_error").stats
    close(stats.real_mean, r.mean(), 1e-12)
    close(stats.error, ((r < 0).double().mean() + (f >= 0).double().mean()) / 2, 1e-12)
    n = 20_001
    logits = [0.5 - quantile_points(mu, n, device) for mu in (0.0, 1.0)]
    out = fastgan.discriminator_value_and_grad(*logits, "absolute_error")
    close(out.stats.error, 0.3085375387, atol=1e-4)  # error rate: (1 - TV) / 2 at the best D of the cross-entropy
    close(out.loss, 0.3979728672, atol=1e-4)  # expected error: larger
