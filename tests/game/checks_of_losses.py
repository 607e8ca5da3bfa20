"""Checks of losses and gradients against the mathematics of the game, for fastgan's losses and for broken ones."""

import math

import torch
from torch.distributions import Normal

import fastgan
from fastgan import game

LN2 = math.log(2)
F64 = torch.float64


class Losses:
    """fastgan's losses as in the theory: D's is half the sum of both sides' means."""

    def d(self, real, fake, kind="cross_entropy"):
        if kind == "absolute_error":
            return fastgan.discriminator_loss(real, fake, "absolute_error")
        return fastgan.discriminator_loss(real, fake, "minimax", weight=0.5)

    def g(self, fake, kind):
        return fastgan.generator_loss(fake, {"saturating": "minimax"}.get(kind, kind))


def quantile_points(mean, n, device="cpu"):
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    return (mean + torch.special.ndtri(u)).to(device)


def close(got, want, rtol=0.0, atol=0.0):
    got, want = torch.as_tensor(got, dtype=F64).cpu(), torch.as_tensor(want, dtype=F64).cpu()
    assert ((got - want).abs() <= atol + rtol * want.abs()).all(), (got, want)


def check_optimal_cross_entropy(losses, device, n=20_000):
    """At l* = log p_t / p_g the loss is ln 2 - JSD."""
    for mu, js in ((1.0, 0.1114214822), (2.0, 0.3368308203)):
        logits = [mu**2 / 2 - mu * quantile_points(m, n, device) for m in (0.0, mu)]
        close(losses.d(*logits), LN2 - js, atol=2e-5)


def check_optimal_absolute_error(losses, device, n=20_001):
    """At D* = 1 where p_t >= p_g the loss is (1 - TV) / 2."""
    for mu, tv in ((1.0, 0.3829249225), (2.0, 0.6826894921)):
        logits = [60.0 * torch.sign(mu / 2 - quantile_points(m, n, device)) for m in (0.0, mu)]
        close(losses.d(*logits, "absolute_error"), (1 - tv) / 2, atol=5e-5)


def check_half(losses, device):
    """With the same batch as real and as generated data the error is 1/2, whatever the logits."""
    for seed in range(3):
        logits = 9 * torch.randn(777, generator=torch.Generator().manual_seed(seed))
        close(losses.d(logits.to(device), logits.clone().to(device), "absolute_error"), 0.5, atol=1e-6)


def check_ln2(losses, device):
    """With logits of 0 the loss is ln 2: on a GPU to two units in the last place of float32."""
    zero = torch.zeros(100, device=device)
    close(losses.d(zero, zero.clone()), LN2, atol=1e-7 if torch.device(device).type == "cpu" else 2**-23)


def check_unequal_sides(losses, device):
    """Each side has its own mean."""
    r, f = sides(device)
    close(losses.d(r, f), (torch.nn.functional.softplus(-r).mean() + torch.nn.functional.softplus(f).mean()) / 2, 1e-12)
    close(losses.d(r, f, "absolute_error"), (torch.sigmoid(-r).mean() + torch.sigmoid(f).mean()) / 2, 1e-12)


def check_gradients(losses, device):
    """The closed forms, with an upstream gradient of 3 and N != M. (In eager PyTorch s (1 - s) loses digits at a sure
    logit: hence 1e-11.)"""
    r, f = sides(device)
    (s_r, s_f), (c_r, c_f), n, m = map(torch.sigmoid, (r, f)), map(torch.sigmoid, (-r, -f)), len(r), len(f)
    r.requires_grad_(), f.requires_grad_()
    for kind, of_real, of_fake in (
        ("absolute_error", -s_r * c_r / (2 * n), s_f * c_f / (2 * m)),
        ("cross_entropy", -c_r / (2 * n), s_f / (2 * m)),
    ):
        got = torch.autograd.grad(3 * losses.d(r, f, kind), [r, f])
        close(got[0], 3 * of_real, 1e-11)
        close(got[1], 3 * of_fake, 1e-11)


def check_extremes(losses, device):
    """At large logits the loss is finite and the asymptote, and gradients are exactly 0 or 1 / 2N."""
    x = torch.tensor([1e4, -1e4], device=device)
    for sign in (1.0, -1.0):
        real, fake = (sign * x).requires_grad_(), (-sign * x).requires_grad_()
        loss = losses.d(real, fake)
        close(loss, 5e3, 1e-6)  # half of the logits are sure and wrong: (1e4 / 2 + 1e4 / 2) / 2
        grads = torch.autograd.grad(loss, [real, fake])
        assert torch.equal(grads[0], torch.where(real > 0, 0.0, -0.25))
        assert torch.equal(grads[1], torch.where(fake > 0, 0.25, 0.0))
        real, fake = (abs(x) * 1.0).requires_grad_(), (-abs(x)).requires_grad_()
        assert losses.d(real, fake) == 0.0 and losses.d(real, fake, "absolute_error") == 0.0
    # D sure and right, logits of 30: e^-30, which log(1 - sigmoid) or a clamp loses
    sure = torch.full((4,), 30.0, device=device)
    close(losses.d(sure, -sure), math.exp(-30), 1e-5)


def pathwise(losses, kind, device, theta=1.0, n=20_000, logits=None):
    """d/d theta of G's loss for G(z) = z + theta and a constant best D."""
    z = quantile_points(0.0, n, device)
    theta = torch.tensor(theta, dtype=F64, device=device, requires_grad=True)
    best = game.optimal_discriminator(
        Normal(*map(torch.tensor, (0.0, 1.0))), Normal(theta.detach().cpu(), 1.0), "minimax"
    )
    x = z + theta
    return torch.autograd.grad(losses.g((logits or best.logits)(x), kind), theta)[0]


def check_saturating(losses, device):
    """The gradient is 2 d JSD / d theta."""
    close(pathwise(losses, "saturating", device), 0.39797287, atol=2e-4)


def check_nonsaturating(losses, device):
    """The gradient is theta - 2 d JSD / d theta."""
    close(pathwise(losses, "nonsaturating", device), 0.60202713, atol=2e-4)


def sides(device):
    random = torch.Generator().manual_seed(5)
    return [(3 * torch.randn(n, generator=random, dtype=F64)).to(device) for n in (37, 300)]


CHECKS = {
    "optimal cross-entropy": check_optimal_cross_entropy,
    "optimal absolute error": check_optimal_absolute_error,
    "half": check_half,
    "ln 2": check_ln2,
    "unequal": check_unequal_sides,
    "gradients": check_gradients,
    "extremes": check_extremes,
    "saturating": check_saturating,
    "nonsaturating": check_nonsaturating,
}
