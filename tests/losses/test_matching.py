"""Feature matching against float64, per element, atol=0; launches, memory and bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from feature_maps import flat, maps
from oracle import LOSS_RTOL, assert_close

import fastgan
from fastgan import kernels, reference

pytestmark = pytest.mark.usefixtures("poisoned")
# HiFi-GAN's maps at batch 1, channels and lengths divided: three discriminators of three, four and two layers.
SHAPES = [
    [(1, 4, 341, 2), (1, 16, 51, 3), (1, 1, 17, 5)],
    [(2, 8, 700), (1, 3), (5,), (1, 1, 1)],
    [(3, 9000), (2, 4, 33)],
]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradients(device, dtype, p):
    fake, real = maps(SHAPES, dtype, device, 0), maps(SHAPES, dtype, device, 1)
    real[1][2].copy_(fake[1][2])  # equal maps: a slope of 0
    weights = [0.5 + 0.25 * k for k in range(9)]
    for detach in (True, False):
        mine = (
            [[x.clone().requires_grad_() for x in d] for d in fake],
            [[x.clone().requires_grad_() for x in d] for d in real],
        )
        exact = [[[x.double().clone().requires_grad_() for x in d] for d in side] for side in (fake, real)]
        got = fastgan.feature_matching_loss(*mine, weights, p, detach_real=detach)
        want = reference.feature_matching_loss(*exact, weights, p, detach_real=detach)
        out = torch.float64 if dtype == torch.float64 else torch.float32
        assert got.dtype == out
        assert_close(got, want, out, LOSS_RTOL[dtype])
        (3.7 * got).backward()
        (3.7 * want).backward()
        for side in range(2):
            for x, y in zip(flat(mine[side]), flat(exact[side])):
                if side and detach:
                    assert x.grad is None
                else:
                    assert_close(x.grad, y.grad, dtype)
    value = fastgan.feature_matching_value_and_grad(fake, real, weights, p, grad_scale=3.7)
    assert_close(value.loss, want, out, LOSS_RTOL[dtype])
    for g, y in zip(value.grads, flat(exact[0])):
        assert_close(g, y.grad, dtype)
    for k, (a, b) in enumerate(zip(flat(fake), flat(real))):
        part = weights[k] * (F.l1_loss if p == 1 else F.mse_loss)(a.double(), b.double())
        torch.testing.assert_close(value.losses_fake[k].double(), part, rtol=1e-5, atol=0)


def test_the_ways_to_reduce(device):
    fake, real = maps(SHAPES, torch.float32, device, 0), maps(SHAPES, torch.float32, device, 1)
    means = [[F.l1_loss(a, b) for a, b in zip(*d)] for d in zip(fake, real)]
    for settings, want in (
        ({}, sum(map(sum, means))),
        (dict(reduce_layers="mean"), sum(sum(d) / len(d) for d in means)),
        (dict(reduce_discriminators="mean"), sum(map(sum, means)) / 3),
        (dict(exclude_last=True, reduce_layers="mean"), sum(sum(d[:-1]) / len(d[:-1]) for d in means)),
        (dict(weights=10.0), 10 * sum(map(sum, means))),
    ):
        torch.testing.assert_close(fastgan.feature_matching_loss(fake, real, **settings), want, rtol=3e-6, atol=0)
    one = fastgan.feature_matching_loss(fake[0], real[0])
    torch.testing.assert_close(one, sum(means[0]), rtol=3e-6, atol=0)
    torch.testing.assert_close(fastgan.feature_matching_loss(fake[0][0], real[0][0]), means[0][0], rtol=3e-6, atol=0)


def test_gradcheck_and_gradgradcheck(device):
    fake, real = (flat(maps([[(3, 2), (4,)]], torch.float64, device, seed)) for seed in (0, 1))
    inputs = [x.requires_grad_() for x in (*fake, *real)]
    for p in (1, 2):

        def loss(a, b, c, d, p=p):
            return fastgan.feature_matching_loss([a, b], [c, d], [0.3, 2.0], p, detach_real=False)

        assert torch.autograd.gradcheck(loss, inputs)
        assert torch.autograd.gradgradcheck(loss, inputs)


def test_layouts_and_blocks(monkeypatch):
    """Blocks of the closed form, a tail, maps with another layout than their partners; NaN and infinities."""
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    a, b = torch.randn(2, 3, 300, 301), torch.randn(2, 3, 300, 301)
    for x, y in (
        (a, b),
        (a.contiguous(memory_format=torch.channels_last), b),
        (a.transpose(2, 3), b.transpose(2, 3)),
        (a[..., ::2], b[..., ::2]),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            x, y = x.to(dtype), y.to(dtype)
            leaf, exact = x.detach().requires_grad_(), x.double().detach().requires_grad_()
            got, want = fastgan.feature_matching_loss(leaf, y), F.l1_loss(exact, y.double())
            assert_close(got, want, torch.float32, 2e-6)
            got.backward(), want.backward()
            assert_close(leaf.grad, exact.grad, dtype)
    for value in (float("nan"), float("inf")):
        a[0, 0, 0, 0] = value
        torch.testing.assert_close(fastgan.feature_matching_loss(a, b), F.l1_loss(a, b), equal_nan=True)


def test_launches(kernel_device):
    fake, real = maps(SHAPES, torch.float32, kernel_device, 0), maps(SHAPES, torch.float32, kernel_device, 1)
    fake = [[x.requires_grad_() for x in d] for d in fake]
    before = kernels.launch_count()
    loss = fastgan.feature_matching_loss(fake, real)
    assert kernels.launch_count() == before + 1
    loss.backward()
    assert kernels.launch_count() == before + 2
    out = fastgan.feature_matching_value_and_grad(fake, real)
    assert kernels.launch_count() == before + 3
    assert all(torch.equal(g, x.grad) for g, x in zip(out.grads, flat(fake)))
    again = fastgan.feature_matching_value_and_grad(fake, real)
    assert torch.equal(again.loss, out.loss)


def test_nothing_as_large_as_a_map_is_allocated_but_the_gradients(monkeypatch):
    from bench.harness.clock import Cpu

    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    monkeypatch.setattr("fastgan.cpu.blocks.BLOCK", 1 << 12)
    shapes = [[(4, 64, 5000)] * 3]  # 1.28 million elements a map
    fake, real = (flat(maps(shapes, torch.float32, "cpu", seed)) for seed in (0, 1))
    map_bytes, machine = fake[0].numel() * 4, Cpu(quick=True)
    assert machine.peak_bytes(lambda _: fastgan.feature_matching_loss(fake, real, save="maps")) < 0.05 * map_bytes
    of_signs = len(fake) / 4 * map_bytes  # one byte for every four bytes of a map
    assert machine.peak_bytes(lambda _: fastgan.feature_matching_loss(fake, real)) < of_signs + 0.05 * map_bytes
    assert machine.peak_bytes(lambda _: fastgan.feature_matching_value_and_grad(fake, real)) < 3.05 * map_bytes
    assert machine.peak_bytes(lambda _: reference.feature_matching_loss(fake, real)) > 0.9 * map_bytes, (
        "what is measured"
    )


def test_bad_input():
    a, b = torch.zeros(4), torch.zeros(3, 2)
    for error, message, call in (
        (ValueError, "p: got 3", lambda: fastgan.feature_matching_loss([a], [a], p=3)),
        (ValueError, "fake_maps: got no maps", lambda: fastgan.feature_matching_loss([], [])),
        (ValueError, "real_maps: got 1 maps, expected 2", lambda: fastgan.feature_matching_loss([a, b], [a])),
        (
            ValueError,
            r"real_maps\[1\]: got shape \(2, 3\), expected \(3, 2\)",
            lambda: fastgan.feature_matching_loss([a, b], [a, b.T]),
        ),
        (
            ValueError,
            r"real_maps\[0\]: got torch.float64",
            lambda: fastgan.feature_matching_loss([a, b], [a.double(), b]),
        ),
        (
            TypeError,
            r"fake_maps\[1\]: got Tensor, expected a list",
            lambda: fastgan.feature_matching_loss([[a], b], [[a], b]),
        ),
        (TypeError, "fake_maps: got a torch.Tensor", lambda: fastgan.feature_matching_loss(a, a, exclude_last=True)),
        (TypeError, "fake_maps: got str", lambda: fastgan.feature_matching_loss("maps", [a])),
        (
            ValueError,
            "weights: got 1 numbers, expected 2",
            lambda: fastgan.feature_matching_loss([a, b], [a, b], [1.0]),
        ),
        (TypeError, r"weights\[1\]: got str", lambda: fastgan.feature_matching_loss([a, b], [a, b], [1.0, "2"])),
        (ValueError, "reduce_layers: got 'max'", lambda: fastgan.feature_matching_loss([a], [a], reduce_layers="max")),
    ):
        with pytest.raises(error, match=message):
            call()


LISTS = ("hifigan", "hifigan-attached", "bigvgan-v2", "dac", "encodec", "vits", "pix2pixhd", "spade")


@pytest.mark.parametrize("save", ["maps", "signs"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_real_codebases(monkeypatch, name, save):
    """All maps of HiFi-GAN, BigVGAN-v2, DAC, EnCodec, VITS, pix2pixHD and SPADE, with a sixteenth of their channels,
    against float64."""
    from bench.codebases.matching import BY_NAME
    from bench.suites import matching

    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    configuration = BY_NAME[name]
    batch = matching.draw(configuration, "cpu", True, torch.Generator().manual_seed(0))
    weights = matching.weights_of(configuration, batch)
    loss = fastgan.feature_matching_loss(batch.fake, batch.real, **configuration.options, save=save)
    grads = torch.autograd.grad(loss, batch.leaves)
    assert matching.why_wrong((loss, grads), batch, weights, 1.0, ours=True)[0] is None


def test_the_lists_are_as_long_as_their_codebases():
    from bench.codebases.matching import CONFIGURATIONS

    counted = {}
    for c in CONFIGURATIONS:
        used = [shape for maps in c.full for shape in (maps[:-1] if c.options.get("exclude_last") else maps)]
        counted[c.name] = len(used), round(sum(math.prod(shape) for shape in used) / 1e6, 1)
    assert counted == {
        "hifigan": (54, 123.3),
        "hifigan-attached": (54, 123.3),
        "bigvgan-v2": (45, 545.0),
        "dac": (100, 148.3),
        "encodec": (25, 120.9),
        "vits": (37, 222.1),  # VITS has another scale discriminator, of seven layers
        "pix2pixhd": (12, 100.3),
        "spade": (8, 12.5),
    }
