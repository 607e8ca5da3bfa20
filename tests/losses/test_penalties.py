"""Gradient penalties against closed forms, against plain autograd, and by gradgradcheck."""

import pytest
import torch
from torch import nn

import fastgan
from fastgan.losses import penalties


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
    """Over 4,000 draws: within 4 standard errors and the bias of sigma; the deviation is as documented."""
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
    # its gradient has the direction of R1's
    parameters = list(d.parameters())[:-1]
    want = torch.cat([g.flatten() for g in torch.autograd.grad(plain_r1(d, x, 1.0), parameters)])
    got = 0
    for _ in range(300):
        grads = torch.autograd.grad(fastgan.approximate_r1_penalty(d, x, generator=random), parameters)
        got = got + torch.cat([g.flatten() for g in grads])
    assert torch.nn.functional.cosine_similarity(got, want, 0) > 0.95


def test_the_finite_difference_works_with_a_compiled_d_and_r1_does_not():
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


def dead_at_the_second(dtype=torch.float64):
    """(network, samples): for the second of three samples all four outputs are dead, with gradient 0."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU()).to(dtype)
    with torch.no_grad():
        network[0].weight.abs_()
    return network, torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [4.0, 1.0, 1.0]], dtype=dtype)


@pytest.mark.parametrize("center", [None, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_dead_sample_moves_no_weight(center, dtype):
    """In every penalty on a norm the sample counts in the value, but adds no gradient."""
    network, x = dead_at_the_second(dtype)

    def penalty(x):
        if center is None:
            return fastgan.r1_penalty(network, x, 3.0)
        return fastgan.wgan_gp_penalty(network, x, x, 2.0, center)

    loss = penalty(x)
    (got,) = torch.autograd.grad(loss, network[0].weight)
    others = penalty(x[[0, 2]])
    (want,) = torch.autograd.grad(others, network[0].weight)
    assert (want != 0).all()
    torch.testing.assert_close(got, want * 2 / 3, rtol=1e-5, atol=0)
    at_zero = 2.0 * (center or 0.0) ** 2
    torch.testing.assert_close(loss, (others * 2 + at_zero) / 3, rtol=1e-5, atol=0)
    if center is not None:
        noisy = fastgan.dragan_penalty(network, x, 2.0, 1e-6, center)
        torch.testing.assert_close(torch.autograd.grad(noisy, network[0].weight)[0], got, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layers", [0, 2])
def test_path_length_of_a_dead_sample(layers):
    """Its length is 0, and it adds to the gradient only through the mean length."""
    network, x = dead_at_the_second()
    w = (x if not layers else torch.stack([x] * layers, 1)).requires_grad_()
    images = network(w if not layers else w.sum(1))[:, :, None, None].expand(3, 4, 2, 2)
    out = fastgan.path_length_penalty(images, w, 0.3, decay=0.25, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad(out.loss, network[0].weight)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2

    def plain(weight):
        """The penalty as a function of the weights, without a square root of 0."""
        live = torch.stack([noise[i].sum((1, 2)) @ weight for i in (0, 2)]).norm(dim=1)
        lengths = torch.stack([live[0], live.new_zeros(()), live[1]])
        mean = 0.3 + 0.25 * (lengths.mean() - 0.3)
        return lengths, 2 * (lengths - mean).square().mean()

    weight = network[0].weight.detach().requires_grad_()
    lengths, want = plain(weight)
    torch.testing.assert_close(out.lengths, lengths.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(out.loss, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(got, torch.autograd.grad(want, weight)[0], rtol=1e-12, atol=0)


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


def test_approximate_r2_is_approximate_r1_of_generated_data():
    d, x = small_discriminator(), images()
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    got = fastgan.approximate_r2_penalty(d, x, 0.5, 0.02, generator=one)
    assert torch.equal(got, fastgan.approximate_r1_penalty(d, x, 0.5, 0.02, generator=two))


def test_error_of_the_finite_difference_itself():
    """Against (v . g)^2 of the same draws: the difference is due to the curvature of D, as documented."""
    d, x = small_discriminator(), images(4)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(d(leaf).sum(), leaf)
    errors = {}
    for sigma in (0.1, 0.01, 0.0001):
        got = want = 0.0
        for seed in range(50):
            v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
            random = torch.Generator().manual_seed(seed)
            got += fastgan.approximate_r1_penalty(d, x, 2.0, sigma, generator=random).item()
            want += (v * g).flatten(1).sum(1).square().mean().item()
        errors[sigma] = abs(got / want - 1)
    assert errors[0.1] < 1e-3 and errors[0.01] < 2e-4 and errors[0.0001] < 2e-6


def test_lazy_weights_add_up_to_those_of_every_step():
    for every in (1, 4, 16):
        factors = [penalties.lazy(step, every) for step in range(5 * every)]
        assert factors[0] == every and sum(factor > 0 for factor in factors) == 5
        for begin in range(4 * every):  # over any window of `every` steps
            assert sum(factors[begin : begin + every]) == every
    assert penalties.lazy(32) == 16 and penalties.lazy(33) == 0


class Synthesis(nn.Module):
    """w -> images, with a w for each of two layers."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Linear(5, 3 * 4 * 6, dtype=dtype) for _ in range(2))

    def forward(self, w):
        x = torch.tanh(self.first(w[:, 0])) * (1 + self.second(w[:, 1]))
        return x.reshape(-1, 3, 4, 6)


def stylegan2_path_length(images, w, mean_length, noise, weight=2.0, decay=0.01):
    """NVlabs, training/loss.py."""
    noise = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (grads,) = torch.autograd.grad([(images * noise).sum()], [w], create_graph=True)
    lengths = grads.square().sum(2).mean(1).sqrt()
    mean = mean_length.lerp(lengths.mean(), decay)
    return (lengths - mean).square().mul(weight).mean(), mean.detach(), lengths


def latents(n=4, dtype=torch.float64):
    return torch.randn(n, 2, 5, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def test_path_length_is_that_of_stylegan2():
    g, w, mean, theirs = (
        Synthesis(),
        latents(),
        torch.zeros((), dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
    )
    parameters = list(g.parameters())
    for seed in range(3):  # the mean length moves on
        noise = torch.randn(4, 3, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        random = torch.Generator().manual_seed(seed)
        out = fastgan.path_length_penalty(g(w), w, mean, generator=random)
        want, theirs, lengths = stylegan2_path_length(g(w), w, theirs, noise)
        same(out.loss, want, parameters)
        torch.testing.assert_close(out.lengths, lengths.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(out.mean_length, theirs, rtol=1e-12, atol=0)
        assert not out.mean_length.requires_grad and not out.lengths.requires_grad
        mean = out.mean_length
    assert mean > 0


def test_path_length_second_derivatives():
    torch.manual_seed(0)
    weight = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def penalty(weight):
        images = torch.tanh(w @ weight).reshape(3, 3, 2, 2)
        return fastgan.path_length_penalty(images, w, 0.3, generator=torch.Generator().manual_seed(0)).loss

    assert torch.autograd.gradcheck(penalty, (weight,))
    assert torch.autograd.gradgradcheck(penalty, (weight,))


def test_path_lengths_of_the_drop_ins():
    from fastgan.compat import basicsr, rosinality

    g, w = Synthesis(torch.float32), latents(dtype=torch.float32)
    for mean in (0, torch.tensor(0.2)):  # 0 at first, as upstream
        torch.manual_seed(7)
        noise = torch.randn_like(g(w))
        want, moved, lengths = stylegan2_path_length(g(w), w, torch.as_tensor(float(mean)), noise, 1.0)
        torch.manual_seed(7)
        got = rosinality.g_path_regularize(g(w), w, mean)
        torch.manual_seed(7)
        of_basicsr = basicsr.g_path_regularize(g(w), w, mean)
        same(got[0], want, list(g.parameters()), rtol=1e-5)
        torch.testing.assert_close(got[1], moved, rtol=1e-5, atol=0)
        torch.testing.assert_close(got[2], lengths.detach(), rtol=1e-5, atol=0)
        for a, b in zip(of_basicsr, (got[0], got[2].mean(), got[1])):
            assert torch.equal(a, b)
    d, x = small_discriminator(torch.float32), images(4, torch.float32).requires_grad_()
    torch.testing.assert_close(basicsr.r1_penalty(d(x), x), plain_r1(d, x, 2.0), rtol=1e-5, atol=0)


def test_no_penalty_synchronises(monkeypatch):
    """On a GPU the fused reductions are kernels; here the gradients and path lengths are checked."""
    from test_gradients import Reads

    g, w, d, x = Synthesis(torch.float32), latents(dtype=torch.float32), small_discriminator(torch.float32), images(4)
    x = x.float()
    with Reads() as reads:
        fastgan.path_length_penalty(g(w), w, torch.zeros(())).loss.backward()
        penalties._sample_gradients(d, "real", x)
    assert reads.waits == []


def test_bad_input_of_path_lengths_and_schedules():
    g, w = Synthesis(), latents()
    x = g(w)
    for error, message, call in (
        (TypeError, "images: got list", lambda: fastgan.path_length_penalty([x], w, 0.0)),
        (ValueError, r"latents: got shape \(3, 2, 5\)", lambda: fastgan.path_length_penalty(x, w[:3], 0.0)),
        (ValueError, "latents: got no requires_grad", lambda: fastgan.path_length_penalty(x, w.detach(), 0.0)),
        (ValueError, "images: got a graph without the latents", lambda: fastgan.path_length_penalty(x, latents(), 0.0)),
        (ValueError, r"mean_length: got shape \(1,\)", lambda: fastgan.path_length_penalty(x, w, torch.zeros(1))),
        (TypeError, "mean_length: got NoneType", lambda: fastgan.path_length_penalty(x, w, None)),
        (TypeError, "decay: got str", lambda: fastgan.path_length_penalty(x, w, 0.0, decay="0")),
        (TypeError, "step: got float", lambda: penalties.lazy(1.0)),
        (ValueError, "step: got -1", lambda: penalties.lazy(-1)),
        (ValueError, "every: got 0", lambda: penalties.lazy(1, 0)),
        (TypeError, "every: got bool", lambda: penalties.lazy(1, True)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_discriminator_that_ignores_the_samples():
    """Its logits have a graph, but not to the samples."""
    x, weight = torch.randn(3, 2), torch.randn(3, requires_grad=True)
    for call in (
        lambda: fastgan.r1_penalty(lambda _: 2 * weight, x),
        lambda: fastgan.wgan_gp_penalty(lambda _: 2 * weight, x, x),
        lambda: fastgan.dragan_penalty(lambda _: 2 * weight, x),
    ):
        with pytest.raises(ValueError, match="discriminator: got logits without a graph"):
            call()
