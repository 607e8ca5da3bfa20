"""StyleGAN's networks on our operators and on plain PyTorch: values, regularisers, and a short training."""

import pytest
import torch
import torch.nn.functional as F
from stylegan_networks import OURS, PLAIN, Discriminator, Generator, Generator3, path_length, r1

from fastgan.compat.torch_utils_ops import conv2d_gradfix
from fastgan.kernels.launch import launch_count

BOUND = 2e-5  # relative to a tensor's largest element: float32 rounding through 20 layers and two derivatives


@pytest.fixture(autouse=True)
def gradfix(monkeypatch, one_thread):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)  # as StyleGAN's training sets it


def made(network, ops, dtype, **size):
    torch.manual_seed(0)
    return network(ops, **size).to(dtype)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def of_discriminator(ops, dtype):
    """{what: tensor}: logits, R1, and its gradient in each weight."""
    network, images = made(Discriminator, ops, dtype), normal(3, 3, 16, 16).to(dtype)
    penalty = r1(network, images)
    penalty.backward()
    found = {"logits": network(images).detach(), "R1": penalty.detach()}
    return found | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def of_generator(network, ops, dtype):
    """{what: tensor}: images, the path length penalty, and its gradient in each weight."""
    network = made(network, ops, dtype)
    z = normal(2, network.size).to(dtype)
    images = network(z).detach()
    penalty, _ = path_length(network, z, normal(*images.shape).to(dtype), torch.ones((), dtype=dtype))
    penalty.backward()
    found = {"images": images, "path length": penalty.detach()}
    return found | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


CASES = {
    "discriminator": of_discriminator,
    "generator": lambda *given: of_generator(Generator, *given),
    "generator3": lambda *given: of_generator(Generator3, *given),
}


def errors(got, exact):
    """Largest error of each tensor, in units of its largest element."""
    zero = {name for name, want in exact.items() if not want.any()}  # biases that R1 does not depend on
    assert exact.keys() - zero <= got.keys() <= exact.keys() and len(exact) - len(zero) > 10
    found = {}
    for name in exact.keys() - zero:
        want = exact[name]
        assert got[name].shape == want.shape, name
        found[name] = ((got[name].double() - want).abs().max() / want.abs().max()).item()
    return found


def check(case):
    exact = CASES[case](PLAIN, torch.float64)
    ours, plain = (errors(CASES[case](ops, torch.float32), exact) for ops in (OURS, PLAIN))
    for name in ours:
        assert ours[name] <= BOUND and plain[name] <= BOUND, (name, ours[name], plain[name])
    return max(ours.values()), max(plain.values())


@pytest.mark.parametrize("case", CASES)
def test_values_and_regularisers(case):
    check(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", CASES)
def test_on_the_kernels(case, kernel_device):
    """The real kernels: under the interpreter, on CPU tensors."""
    if kernel_device.type == "cuda":
        pytest.skip("the networks are on the CPU")
    before = launch_count()
    check(case)
    assert launch_count() - before > 40


@pytest.mark.parametrize("case", CASES)
def test_in_float64_both_give_the_same(case):
    got = errors(CASES[case](OURS, torch.float64), CASES[case](PLAIN, torch.float64))
    # Filters are float32; our operators multiply them by the gain in float64.
    assert max(got.values()) <= 1e-11, got


def pictures(n, generator):
    """A round spot of some colour, place and size on a plain ground, 64 x 64."""
    at, size, colours = (torch.rand(shape, generator=generator) for shape in ((n, 2, 1, 1), (n, 1, 1), (2, n, 3, 1, 1)))
    rows, columns = torch.meshgrid(*[torch.linspace(0, 1, 64)] * 2, indexing="ij")
    inside = torch.sigmoid(40 * (0.15 + 0.2 * size - ((rows - at[:, 0]) ** 2 + (columns - at[:, 1]) ** 2).sqrt()))
    return torch.lerp(*(2 * colours - 1), inside[:, None])


def trained(ops, steps, dtype=torch.float32):
    """(losses of D, losses of G) at each step of a StyleGAN2 of 64 pixels. R1: at every 16th step; path length: 8th."""
    torch.manual_seed(0)
    g, d = (network(ops, resolution=64, base=256, most=16).to(dtype) for network in (Generator, Discriminator))
    generator = torch.Generator().manual_seed(1)
    optimizers = [torch.optim.Adam(network.parameters(), 2e-3, (0.0, 0.99), 1e-8) for network in (g, d)]
    of_d, of_g, target = [], [], torch.zeros((), dtype=dtype)
    for step in range(steps):
        real = pictures(4, generator).to(dtype)
        z, z_of_d, noise = (torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 8), (4, 8), real.shape))
        d.requires_grad_(False)
        loss = F.softplus(-d(g(z))).mean()
        of_g.append(loss.item())
        if step % 8 == 0:
            length, found = path_length(g, z[:2], noise[:2], target)
            loss, target = loss + 8 * 2 * length, found
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        d.requires_grad_(True)
        with torch.no_grad():
            fake = g(z_of_d)
        loss = F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()
        of_d.append(loss.item())
        if step % 16 == 0:
            loss = loss + 16 * r1(d, real)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
    return torch.tensor(of_d), torch.tensor(of_g)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_has_the_same_loss_curve():
    """200 steps of 64 pixels: the first 50 agree to rounding. Then the rounding errors have grown, as on any two
    machines, and means over 20 steps stay within 15 %."""
    for ours, plain in zip(trained(OURS, 200), trained(PLAIN, 200)):
        assert ours.isfinite().all() and len(ours) == 200
        assert ((ours - plain).abs() / plain.abs())[:50].max() <= 1e-5
        means = ours.view(10, 20).mean(1), plain.view(10, 20).mean(1)
        assert ((means[0] - means[1]).abs() / means[1]).max() <= 0.15, means
