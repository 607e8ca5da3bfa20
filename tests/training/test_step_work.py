"""The work of a step, without gradients that nothing uses."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from small_steps import LATENT, N, pair
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.networks import Discriminator, Generator
from fastgan.step import generator_backward
from fastgan.trainer import GANTrainer

pytestmark = pytest.mark.usefixtures("one_thread")


class Convolutions(TorchDispatchMode):
    """Counts the multiply-adds of convolutions: forward, and of each gradient that is computed."""

    def __init__(self):
        super().__init__()
        self.work, self.weight_gradients, self.backwards = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            self.work += self.macs(args[0], args[1], out, args[6])
        elif function is torch.ops.aten.convolution_backward.default:
            grad, x, weight, mask = args[0], args[1], args[2], args[10]
            self.work += self.macs(x, weight, grad, args[7]) * (mask[0] + mask[1])
            self.weight_gradients += mask[1]
            self.backwards += 1
        return out

    @staticmethod
    def macs(x, weight, out, transposed):
        return math.prod((x if transposed else out).shape) * math.prod(weight.shape[1:])


def counted(function):
    with Convolutions() as found:
        function()
    return found


class Part(nn.Module):
    """A sub-discriminator of HiFi-GAN (Kong et al. 2020, appendix A): features, the logits last."""

    def __init__(self, convolutions, period=None):
        super().__init__()
        self.convolutions, self.period = nn.ModuleList(convolutions), period

    def forward(self, x):
        if self.period:
            x = F.pad(x, (0, -x.shape[-1] % self.period))
            x = x.view(len(x), 1, -1, self.period)
        maps = []
        for convolution in self.convolutions:
            x = convolution(x)
            maps.append(x)
            x = F.leaky_relu(x, 0.1)
        return maps


def hifigan(width=1):
    """HiFi-GAN V1 (`width` = 1) or V2 (`width` = 4 divides the generator's channels): (generator, discriminators)."""

    class Residual(nn.Module):
        def __init__(self, channels, kernel):
            super().__init__()
            pads = [(d, d * (kernel - 1) // 2) for d in (1, 3, 5)]
            self.first = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, p, d) for d, p in pads)
            self.second = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, kernel // 2) for _ in pads)

        def forward(self, x):
            for a, b in zip(self.first, self.second):
                x = x + b(F.leaky_relu(a(F.leaky_relu(x))))
            return x

    class Upsampler(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [512 // width // 2**i for i in range(5)]
            self.begin, self.end = nn.Conv1d(80, sizes[0], 7, 1, 3), nn.Conv1d(sizes[-1], 1, 7, 1, 3)
            shapes = zip(itertools.pairwise(sizes), ((16, 8), (16, 8), (4, 2), (4, 2)))
            self.ups = nn.ModuleList(nn.ConvTranspose1d(a, b, k, s, (k - s) // 2) for (a, b), (k, s) in shapes)
            self.blocks = nn.ModuleList(nn.ModuleList(Residual(c, k) for k in (3, 7, 11)) for c in sizes[1:])

        def forward(self, x):
            x = self.begin(x)
            for up, blocks in zip(self.ups, self.blocks):
                x = up(F.leaky_relu(x))
                x = sum(block(x) for block in blocks) / 3
            return torch.tanh(self.end(F.leaky_relu(x)))

    def period(p):
        ends = itertools.pairwise([1, 32, 128, 512, 1024])
        layers = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in ends]
        return Part([*layers, nn.Conv2d(1024, 1024, (5, 1), 1, (2, 0)), nn.Conv2d(1024, 1, (3, 1), 1, (1, 0))], p)

    def scale():
        rows = [(1, 128, 15, 1, 1), (128, 128, 41, 2, 4), (128, 256, 41, 2, 16), (256, 512, 41, 4, 16)]
        rows += [(512, 1024, 41, 4, 16), (1024, 1024, 41, 1, 16), (1024, 1024, 5, 1, 1), (1024, 1, 3, 1, 1)]
        return Part([nn.Conv1d(a, b, k, s, k // 2, groups=g) for a, b, k, s, g in rows])

    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.periods = nn.ModuleList(map(period, (2, 3, 5, 7, 11)))
            self.scales = nn.ModuleList(scale() for _ in range(3))

        def forward(self, x):
            found = [part(x) for part in self.periods]
            for i, part in enumerate(self.scales):
                x = F.avg_pool1d(x, 4, 2, 2) if i else x
                found.append(part(x))
            return found

    return Upsampler(), All()


def hifigan_step(generator, discriminator, mel, real, backward):
    """Forward and backward passes as in HiFi-GAN's code: feature matching without `detach`."""
    fake = generator(mel)
    maps_r, maps_g = discriminator(real), discriminator(fake.detach())
    sum(torch.mean((1 - r[-1]) ** 2) + torch.mean(g[-1] ** 2) for r, g in zip(maps_r, maps_g)).backward()
    maps_r, maps_g = discriminator(real), discriminator(fake)
    loss = sum(torch.mean((1 - g[-1]) ** 2) for g in maps_g)
    loss = loss + 2 * sum((a - b).abs().mean() for r, g in zip(maps_r, maps_g) for a, b in zip(r, g))
    backward(loss, generator)


@pytest.mark.parametrize(("width", "saved"), [(1, 0.195), pytest.param(4, 0.246, marks=pytest.mark.slow)])
def test_share_of_hifigans_step_that_nothing_uses(width, saved):
    """V1 and V2 at their training size, on the meta device, which computes only shapes."""
    with torch.device("meta"):
        generator, discriminator = hifigan(width)
        mel, real = torch.empty(16, 80, 32), torch.empty(16, 1, 8192)
    written = counted(lambda: hifigan_step(generator, discriminator, mel, real, lambda loss, _: loss.backward()))
    pruned = counted(lambda: hifigan_step(generator, discriminator, mel, real, generator_backward))
    assert 1 - pruned.work / written.work == pytest.approx(saved, abs=0.001)


def test_generator_backward_computes_no_gradient_of_the_discriminator():
    generator, discriminator = Generator(16, 1, LATENT, 4), Discriminator(16, 1, 4)
    z = torch.randn(4, LATENT)

    def by(backward):
        def step():
            for network in (generator, discriminator):
                network.zero_grad()
            backward(fastgan.generator_loss(discriminator(generator(z))))

        return counted(step), [p.grad.clone() for p in generator.parameters()]

    plain, expected = by(lambda loss: loss.backward())
    ours, grads = by(lambda loss: fastgan.generator_backward(loss, generator))
    assert all(map(torch.equal, grads, expected))
    assert all(p.grad is None for p in discriminator.parameters())
    assert (plain.weight_gradients, ours.weight_gradients) == (4, 2)  # two convolutions in each network
    assert (plain.backwards, ours.backwards) == (4, 4)


def test_generator_backward_of_gradients_and_of_lists():
    """Losses and (outputs, gradients) in one pass, against one loss."""
    torch.manual_seed(0)
    generator = nn.Linear(3, 16)
    discriminator = Part([nn.Conv1d(1, 4, 3, 1, 1), nn.Conv1d(4, 1, 3, 1, 1)])
    other = Part([nn.Conv1d(1, 2, 5, 1, 2), nn.Conv1d(2, 1, 3, 1, 1)])
    z, real = torch.randn(5, 3), torch.randn(5, 1, 16)
    fake = generator(z)[:, None]
    maps_g, maps_r = ([part(x) for part in (discriminator, other)] for x in (fake, real))
    adversarial = fastgan.generator_value_and_grad(maps_g, "least_squares")
    matching = fastgan.feature_matching_value_and_grad(maps_g, maps_r)
    losses = [(maps_g, adversarial.grads), (maps_g, matching.grads), fake.square().mean()]
    generator_backward(losses, generator, retain_graph=True)
    ours = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    loss = fastgan.generator_loss(maps_g, "least_squares") + fastgan.feature_matching_loss(maps_g, maps_r)
    found = counted(lambda: generator_backward(loss + fake.square().mean(), list(generator.parameters())))
    for p, grad in zip(generator.parameters(), ours):
        torch.testing.assert_close(grad, p.grad, rtol=1e-5, atol=1e-7)
    assert found.backwards == 4  # none of them in the real branch
    assert found.weight_gradients == 0
    with pytest.raises(ValueError, match=r"losses: got 1 gradients for 4 tensors"):
        generator_backward((maps_g, matching.grads[:1]), generator)
    with pytest.raises(ValueError, match=r"generator: got no parameter that requires a gradient"):
        generator_backward(loss, nn.ReLU())


class Expected(NamedTuple):
    weight_gradients: int
    backwards: int
    forwards: float


@pytest.mark.parametrize("options", [{}, {"redraw": False}, {"step": "one-stage"}, {"concatenate": True}])
def test_work_of_a_step(options):
    """In units of a pass of D and of G over a batch: the table at the top of `fastgan/training/step.py`."""
    torch.manual_seed(0)
    generator, discriminator = Generator(16, 1, LATENT, 4), Discriminator(16, 1, 4)
    trainer = GANTrainer(generator, discriminator, latent_dim=LATENT, r1=0.0, **{"concatenate": False} | options)
    real, z = torch.randn(N, 1, 16, 16), torch.randn(N, LATENT)
    g = counted(lambda: generator(z)).work
    d = counted(lambda: discriminator(real)).work
    first = counted(lambda: discriminator.layers[0](real)).work  # D's step does not need its input's gradient
    found = counted(lambda: trainer.step(real)).work
    begin = {"one-stage": 1, None: 2 if options.get("redraw", True) else 1}[options.get("step")]
    g_first = counted(lambda: generator.layers[2:](generator.layers[:2](z))).work  # the linear layers come first
    assert g_first == g
    if options.get("step") == "one-stage":
        assert found == 2 * d + (4 * d - first) + begin * g + 2 * g
    else:
        assert found == 3 * d + (4 * d - 2 * first) + d + begin * g + 2 * g


def test_generator_backward_refuses_wrong_losses():
    """Two losses in a tuple would be one loss with the other as its gradient."""
    generator, discriminator = pair()
    fake = generator(torch.randn(N, LATENT, dtype=torch.float64))
    loss, other = fastgan.generator_loss(discriminator(fake)), fake.abs().mean()
    for losses, error, message in [
        ((loss, other), ValueError, r"losses: got grads that require a gradient, expected \[loss, other\]"),
        ((loss,), TypeError, "losses: got a tuple of 1, expected a loss, a pair"),
        ([], ValueError, "losses: got an empty list"),
        (None, TypeError, "losses: got NoneType, expected a loss"),
    ]:
        with pytest.raises(error, match=message):
            generator_backward(losses, generator)
    assert all(p.grad is None for p in generator.parameters())
    with pytest.raises(ValueError, match="generator: got a module whose parameters are all frozen"):
        GANTrainer(generator.requires_grad_(False), discriminator, latent_dim=LATENT)
