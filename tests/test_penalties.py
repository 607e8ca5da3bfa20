"""Gradient penalties against closed forms, against plain autograd, and by gradgradcheck."""

import pytest
import torch
from torch import nn

import fastgan
from fastgan import penalties


def small_discriminator(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 16, 3, 2, 1), nn.Softplus(), nn.Conv2d(16, 1, 2)]
    return nn.Sequential(*layers).to(dtype)


def images(n=6, dtype=torch.float64, seed=1):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def plain_r1(discriminator, x, gamma):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gamma / 2 * g.square().sum([1, 2, 3]).mean()


def same(got, want, parameters, rtol=1e-9):
    torch.testing.assert_close(got, want, rtol=rtol, atol=0)
    for g, w in zip(
        torch.autograd.grad(got, parameters, allow_unused=True),
        torch.autograd.grad(want, parameters, allow_unused=True),
    ):
        assert (g is None) == (w is None)
        if g is not None:
            torch.testing.assert_close(g, w, rtol=100 * rtol, atol=1e-12)


def test_r1_and_r2(device):
    d, x = small_discriminator().to(device), images().to(device)
    parameters = [*d.parameters()]
    same(fastgan.r1_penalty(d, x, 10.0), plain_r1(d, x, 10.0), parameters)
    same(fastgan.r2_penalty(d, x, 0.5), plain_r1(d, x, 0.5), parameters)
    several = fastgan.r1_penalty(lambda x: [[x, d(x)], 2 * d(x)], x)  # a list of lists: gradients add up
    torch.testing.assert_close(several, 9 * plain_r1(d, x, 1.0), rtol=1e-9, atol=0)


def test_r1_of_a_linear_discriminator_is_its_weights_length():
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 5, dtype=torch.float64)
    penalty = fastgan.r1_penalty(lambda x: x @ w, x, gamma=3.0)
    torch.testing.assert_close(penalty, 1.5 * w.square().sum())
    (g,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(g, 3.0 * w.detach())
    gp = fastgan.wgan_gp_penalty(lambda x: x @ w, x, x + 1, weight=2.0)
    torch.testing.assert_close(gp, 2 * (w.norm() - 1) ** 2)
    torch.testing.assert_close(fastgan.dragan_penalty(lambda x: x @ w, x, center=0.0), 10 * w.square().sum())


def test_second_derivatives():
    x = torch.randn(3, 4, dtype=torch.float64)
    w = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)

    def discriminator(x):
        return torch.tanh(x @ w).sum(1)

    for penalty in (
        lambda w: fastgan.r1_penalty(discriminator, x),
        lambda w: fastgan.wgan_gp_penalty(discriminator, x, x + 1, generator=torch.Generator().manual_seed(0)),
    ):
        assert torch.autograd.gradcheck(penalty, (w,))
        assert torch.autograd.gradgradcheck(penalty, (w,))


def test_wgan_gp_and_dragan():
    d, real, fake = small_discriminator(), images(), images(seed=2)
    parameters = [*d.parameters()]
    random = torch.Generator().manual_seed(3)
    share = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).reshape(-1, 1, 1, 1)
    x = (share * real + (1 - share) * fake).requires_grad_()
    (g,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    want = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    same(fastgan.wgan_gp_penalty(d, real, fake, generator=random), want, parameters)
    random = torch.Generator().manual_seed(4)
    u = torch.rand(real.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x = (real + 0.5 * real.std() * u).requires_grad_()
    (g,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    want = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    same(fastgan.dragan_penalty(d, real, generator=random), want, parameters)


def test_the_finite_difference_is_r1_on_average():
    """Over 4,000 draws: within 4 standard errors of R1, as large as stated, and the bias that sigma leaves."""
    d, x = small_discriminator(), images(4)
    exact = plain_r1(d, x, 1.0).item()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([fastgan.approximate_r1_penalty(d, x, generator=random) for _ in range(4000)])
    error = draws.std().item() / 4000**0.5
    assert abs(draws.mean().item() - exact) < 4 * error + 1e-3 * exact
    assert 0.9 * (2 / 4) ** 0.5 < draws.std().item() / exact < 1.3 * (2 / 4) ** 0.5, (
        "sqrt(2 / N), as the docstring says"
    )
    # its gradient points where that of R1 does
    parameters = list(d.parameters())[:-1]
    want = torch.cat([g.flatten() for g in torch.autograd.grad(plain_r1(d, x, 1.0), parameters)])
    got = 0
    for _ in range(300):
        grads = torch.autograd.grad(fastgan.approximate_r1_penalty(d, x, generator=random), parameters)
        got = got + torch.cat([g.flatten() for g in grads])
    assert torch.nn.functional.cosine_similarity(got, want, 0) > 0.95


def test_the_finite_difference_is_compiled_where_r1_cannot_be():
    torch._dynamo.reset()
    d, x = small_discriminator(torch.float32), images(4, torch.float32)

    def penalty(d, x):
        torch.manual_seed(0)
        return fastgan.approximate_r1_penalty(d, x)

    compiled = torch.compile(d, backend="aot_eager")
    torch.testing.assert_close(penalty(compiled, x), penalty(d, x), rtol=1e-3, atol=0)
    penalty(compiled, x).backward()
    assert all(p.grad is not None for p in d.parameters())
    with pytest.raises(RuntimeError, match=r"double backward|donated buffer"):
        fastgan.r1_penalty(compiled, x).backward()


def test_half_precision(device):
    d, x = small_discriminator(torch.float32).to(device), images(4, torch.float32).to(device)
    want = plain_r1(d, x, 1.0)
    got = fastgan.r1_penalty(d.bfloat16(), x.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want.detach(), rtol=0.1, atol=0)


def test_bad_input():
    d, x = small_discriminator(), images()
    for error, message, call in (
        (TypeError, "real: got torch.int64", lambda: fastgan.r1_penalty(d, torch.ones(3, dtype=torch.long))),
        (TypeError, "real: got list", lambda: fastgan.approximate_r1_penalty(d, [x])),
        (ValueError, r"real: got shape \(0, 3\)", lambda: fastgan.r1_penalty(d, torch.zeros(0, 3))),
        (TypeError, "gamma: got str", lambda: fastgan.r1_penalty(d, x, "1")),
        (ValueError, "sigma: got 0", lambda: fastgan.approximate_r1_penalty(d, x, sigma=0)),
        (ValueError, "discriminator: got logits without a graph", lambda: fastgan.r1_penalty(lambda x: x.detach(), x)),
        (
            ValueError,
            r"discriminator: got logits of shape \(3,\)",
            lambda: fastgan.approximate_r1_penalty(lambda x: x.flatten()[:3], x),
        ),
        (ValueError, r"fake: got \(2, 3, 8, 8\)", lambda: fastgan.wgan_gp_penalty(d, x, x[:2])),
    ):
        with pytest.raises(error, match=message):
            call()
    assert penalties.__doc__
