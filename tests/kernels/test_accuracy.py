"""Loss, gradients and statistics against float64, per element, atol=0: kernel and closed form, every path of each.

The mutation tests run this file with broken kernels, where it must fail.
"""

import importlib
import random

import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES, GRAD_RTOL, LOSS_RTOL, assert_close, assert_loss, criterion, term, ulp

import fastgan
from fastgan import kernels

pytestmark = pytest.mark.usefixtures("poisoned")

# Sizes around the limits of every path: one program; the small block; several programs; programs with several tiles;
# tails of one logit; very unequal sides; both forms on a CPU.


def thorough(value):
    """Mark sizes of many programs, which take seconds under the interpreter."""
    return pytest.param(value, marks=pytest.mark.thorough)


SIZES = [
    *[(1, 1), (2, 1), (1, 300), (1023, 1025), (1024, 1024), (5000, 3000)],
    *[thorough(sizes) for sizes in [(1, 9000), (2047, 8193), (4096, 4097), (33, 30001)]],
]
LARGE = [(70001, 65537)]
LARGER = [(131073, 262147), (524291, 131072)]  # blocks on a CPU: one, two, a rest, tails


def logits(n, magnitude, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed + n)
    x = (torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1) * magnitude
    return x.to(dtype).to(device)


@pytest.mark.parametrize("magnitude", [4.0, 60.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_discriminator(device, dtype, sizes, magnitude):
    real, fake = (logits(n, magnitude, dtype, device, seed) for seed, n in enumerate(sizes))
    loss_real, grad_real = term(real, 1.0)
    loss_fake, grad_fake = term(fake, 0.0)

    out = fastgan.discriminator_value_and_grad(real, fake)
    assert_loss(out.loss, loss_real + loss_fake, dtype)
    assert_loss(out.loss_real, loss_real, dtype)
    assert_loss(out.loss_fake, loss_fake, dtype)
    assert_close(out.grad_real, grad_real, dtype)
    assert_close(out.grad_fake, grad_fake, dtype)

    real.requires_grad_(), fake.requires_grad_()
    loss = fastgan.discriminator_loss(real, fake)
    assert_loss(loss, loss_real + loss_fake, dtype)
    loss.backward()
    assert_close(real.grad, grad_real, dtype)
    assert_close(fake.grad, grad_fake, dtype)


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_discriminator_of_many_blocks(device, dtype, sizes):
    test_discriminator(device, dtype, sizes, 20.0)


@pytest.mark.parametrize("n", [7, 5000])
def test_sides_of_one_size(monkeypatch, n):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    for dtype in DTYPES:
        test_discriminator(torch.device("cpu"), dtype, (n, n), 4.0)


@pytest.mark.parametrize("sizes", LARGER, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_blocks_on_a_cpu(monkeypatch, dtype, sizes):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    for magnitude in (2.0, 60.0):
        test_discriminator(torch.device("cpu"), dtype, sizes, magnitude)
    test_sure_logits(torch.device("cpu"), 300_001, 30.0, 1.0)
    stats = fastgan.discriminator_value_and_grad(*(logits(n, 3.0, dtype, "cpu") for n in sizes)).stats
    assert_loss(stats.fake_accuracy, (logits(sizes[1], 3.0, dtype, "cpu") < 0).double().mean(), dtype)


def test_products_that_underflow(monkeypatch):
    """The product of 16 probabilities is subnormal or 0, while the loss is not small."""
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    for dtype, far in ((torch.float32, -6.25), (torch.float32, -110.0), (torch.float64, -45.8)):
        fake = torch.full((16, 18_750), 6.0, dtype=dtype)
        fake[:, ::2] = far
        exact = F.softplus(fake.double()).mean()
        assert exact > 0.1
        for out in (fastgan.discriminator_value_and_grad(-fake, fake), fastgan.generator_value_and_grad(-fake)):
            assert_loss(out.loss_fake, exact, dtype)
        assert_loss(fastgan.discriminator_loss(-fake, fake), 2 * exact, dtype)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [8.0, 30.0, 60.0])
@pytest.mark.parametrize("n", [1, 600, thorough(5000), thorough(12000)])
def test_sure_logits(device, n, magnitude, sign):
    """D is sure and right on every logit (the loss is e^-|x|, which is lost if it is added to 1), or sure and wrong."""
    for dtype in DTYPES if n in (600, 5000) else (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(n)
        x = magnitude * (0.9 + 0.1 * torch.rand(n, generator=generator, dtype=torch.float64))
        real, fake = (sign * x).to(dtype).to(device), (-sign * x).to(dtype).to(device)
        out = fastgan.discriminator_value_and_grad(real, fake)
        loss_real, grad_real = term(real, 1.0)
        loss_fake, grad_fake = term(fake, 0.0)
        # In half precision the kernel's exponential is exact to |x| 2^-23, far below the rounding of x.
        more = magnitude * 2**-23 if dtype.itemsize == 2 else 0.0
        for loss in (out.loss, fastgan.discriminator_loss(real, fake)):
            assert_close(loss, (loss_real + loss_fake).reshape(()), loss.dtype, LOSS_RTOL[dtype] + more)
        assert_close(out.grad_real, grad_real, dtype, GRAD_RTOL[dtype] + more)
        assert_close(out.grad_fake, grad_fake, dtype, GRAD_RTOL[dtype] + more)


@pytest.mark.parametrize("sizes", [(7, 300), (900, 12000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("objective", ["minimax", "nonsaturating"])
def test_generator(device, objective, dtype, sizes):
    for n in sizes:
        fake = logits(n, 9.0, dtype, device)
        loss, grad = term(fake, 1.0) if objective == "nonsaturating" else term(fake, 0.0, weight=-1.0)
        out = fastgan.generator_value_and_grad(fake, objective)
        assert_loss(out.loss, loss, dtype)
        assert_loss(out.loss_fake, loss, dtype)
        assert_close(out.grad_fake, grad, dtype)
        assert out.loss_real is None and out.grad_real is None and out.stats.real_mean is None
        leaf = fake.clone().requires_grad_()
        value = fastgan.generator_loss(leaf, objective)
        assert_loss(value, loss, dtype)
        value.backward()
        assert_close(leaf.grad, grad, dtype)


@pytest.mark.parametrize("labels", [(0.9, 0.0), (0.9, 0.1), (0.3, 0.75), (1.0, 1.0), (0.0, 0.5)], ids=str)
@pytest.mark.parametrize("sizes", [(31, 77), thorough((4100, 9000))], ids=str)
def test_labels_weight_and_scale(device, sizes, labels):
    """Smoothed labels, `weight` on loss and gradients, `grad_scale` on gradients only: a number or a device scalar."""
    for dtype in DTYPES:
        real, fake = (logits(n, 7.0, dtype, device, seed) for seed, n in enumerate(sizes))
        for scale in (3.7, torch.tensor(3.7, dtype=torch.float64, device=device)):
            weight = 0.3
            sides = [term(x, y, weight, 3.7) for x, y in zip((real, fake), labels)]
            settings = dict(weight=weight, real_label=labels[0], fake_label=labels[1])
            out = fastgan.discriminator_value_and_grad(real, fake, grad_scale=scale, **settings)
            assert_loss(out.loss, sides[0][0] + sides[1][0], dtype)
            for x, y, got, (_, want) in zip((real, fake), labels, out.grads, sides):
                # for 0 < y < 1, sigmoid(x) - y crosses zero: compare relative to the sum of both terms
                if y in (0.0, 1.0):
                    assert_close(got, want, dtype)
                else:
                    parts = (torch.sigmoid(x.double()) + y) * weight * 3.7 / x.numel()
                    allowed = parts * (1e-12 if dtype == torch.float64 else 1e-6)
                    if dtype in (torch.float16, torch.bfloat16):
                        allowed += ulp(parts, dtype)
                    assert ((got.double() - want).abs() <= allowed).all()


def test_weights_of_half_are_halves(device):
    real, fake = torch.zeros(5, device=device), torch.zeros(9, device=device)
    out = fastgan.discriminator_value_and_grad(real, fake, weight=0.5)
    torch.testing.assert_close(out.loss.cpu(), torch.tensor(2.0).log(), rtol=1e-6, atol=0)
    torch.testing.assert_close(out.grad_fake.cpu(), torch.full((9,), 0.25 / 9), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sizes", [(5, 3), (3000, 8000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics(device, dtype, sizes):
    real, fake = (logits(n, 3.0, dtype, device, seed) + (0.5, -0.25)[seed] for seed, n in enumerate(sizes))
    real[0] = fake[0] = 0.0  # a logit of 0 counts as real
    stats = fastgan.discriminator_value_and_grad(real, fake).stats
    for got, x, right in (
        (stats.real_mean, real, None),
        (stats.fake_mean, fake, None),
        (stats.real_accuracy, real, real >= 0),
        (stats.fake_accuracy, fake, fake < 0),
    ):
        want = x.double().mean() if right is None else right.double().mean()
        assert_loss(got, want, dtype)
    error = 1 - ((real >= 0).double().mean() + (fake < 0).double().mean()) / 2
    torch.testing.assert_close(stats.error.double().cpu(), error.cpu(), rtol=1e-6, atol=1e-7)
    only_fake = fastgan.generator_value_and_grad(fake).stats
    assert_loss(only_fake.fake_accuracy, (fake < 0).double().mean(), dtype)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("value", [INF, -INF, NAN, 0.0, -0.0, 17.0, -17.0, 88.0, -88.0, 1e4, -1e4, 1e30, -1e30])
@pytest.mark.parametrize("n", [1, 40, pytest.param(5000, marks=pytest.mark.slow)])
def test_special_values_propagate_as_in_eager(device, value, n):
    """One such logit among ordinary ones: loss and gradient are NaN or infinite where the reference's are."""
    for labels in ((1.0, 0.0), (0.9, 0.1)):
        for side in (0, 1):
            sides = [logits(n, 3.0, torch.float32, device), logits(n, 3.0, torch.float32, device, 1)]
            sides[side][n // 2] = value
            settings = dict(real_label=labels[0], fake_label=labels[1])
            got = fastgan.discriminator_value_and_grad(*sides, **settings)
            want = fastgan.reference.discriminator_value_and_grad(*sides, **settings)
            # eager's float32 loss is off by 1e-7 at a sure logit
            torch.testing.assert_close(got.terms, want.terms, rtol=3e-6, atol=2e-7, equal_nan=True)
            for g, w in zip(got.grads, want.grads):
                torch.testing.assert_close(g, w, rtol=1e-5, atol=2e-7 / n, equal_nan=True)
            loss = fastgan.discriminator_loss(*sides, **settings)
            torch.testing.assert_close(loss, want.loss, rtol=3e-6, atol=2e-7, equal_nan=True)


def test_every_half_precision_logit(device):
    """All 2^16 bit patterns of float16 and of bfloat16, NaN and infinities among them."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
        finite = x.isfinite() & (x.float().abs() <= 60)
        out = fastgan.generator_value_and_grad(x, "minimax", grad_scale=-float(x.numel()))  # sigmoid(x) itself
        assert_close(out.grad_fake[finite], torch.sigmoid(x.double())[finite], dtype)
        assert out.grad_fake[x.isnan()].isnan().all()
        assert (out.grad_fake[x == INF] == 1).all() and (out.grad_fake[x == -INF] == 0).all()
        assert out.loss.isnan() and out.stats.fake_mean.isnan() and out.stats.fake_accuracy.isnan()


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (0, 9000)], ids=str)
def test_the_loss_of_an_empty_side_is_nan_as_a_mean_is(device, sizes):
    real, fake = (logits(n, 2.0, torch.float32, device) for n in sizes)
    out = fastgan.discriminator_value_and_grad(real, fake)
    want = fastgan.reference.discriminator_value_and_grad(real, fake)
    assert out.loss.isnan() and want.loss.isnan()
    torch.testing.assert_close(out.terms, want.terms, rtol=3e-6, atol=0, equal_nan=True)
    for got, ref in zip(out.grads, want.grads):
        assert got.shape == ref.shape
        torch.testing.assert_close(got, ref, rtol=5e-6, atol=0)
    assert fastgan.discriminator_loss(real, fake).isnan()


def test_scalars(device):
    real, fake = torch.tensor(0.7, device=device), torch.tensor(-1.3, device=device)
    out = fastgan.discriminator_value_and_grad(real, fake)
    assert out.grad_real.shape == out.grad_fake.shape == ()
    assert_close(out.grad_real, term(real, 1.0)[1], torch.float32)
    assert_loss(out.loss, term(real, 1.0)[0] + term(fake, 0.0)[0], torch.float32)


def layouts(device):
    base = logits(2 * 3 * 8 * 6, 5.0, torch.float32, device).reshape(2, 3, 8, 6)
    yield "channels_last", base.contiguous(memory_format=torch.channels_last)
    yield "transposed", base.transpose(0, 3)
    yield "strided", base[:, :, ::2]
    yield "reversed batch half", base[1:]
    yield "expanded", base[:1].expand(5, 3, 8, 6)
    yield "negative view", torch.complex(torch.zeros_like(base), base).conj().imag
    yield "of size one", base[:, :1, :1]


def test_layouts(device):
    for name, x in layouts(device):
        fake = torch.linspace(-2, 2, 10, device=device)
        out = fastgan.discriminator_value_and_grad(x, fake)
        loss, grad = term(x, 1.0)
        assert_close(out.grad_real, grad, torch.float32)
        assert_loss(out.loss_real, loss, torch.float32)
        leaf = x.detach().requires_grad_()
        fastgan.discriminator_loss(leaf, fake).backward()
        assert_close(leaf.grad, grad, torch.float32)
        if name in ("channels_last", "transposed"):
            assert out.grad_real.stride() == x.stride(), "a dense layout keeps its strides"


@pytest.mark.parametrize("n", [37, thorough(9001)])
def test_every_offset_and_nothing_outside_is_written(device, n):
    for offset in range(17):
        memory = logits(n + 40, 5.0, torch.float32, device)
        before = memory.clone()
        x = memory[offset : offset + n]
        out = fastgan.generator_value_and_grad(x)
        assert_close(out.grad_fake, term(x, 1.0)[1], torch.float32)
        assert torch.equal(memory, before)


def test_gradients_of_a_slice_stay_inside(kernel_device, monkeypatch):
    """The kernel writes the elements of the gradient and no other memory."""
    for n in (100, 9000):
        memory = torch.full((n + 64,), 7.0, device=kernel_device)
        x = logits(n, 3.0, torch.float32, kernel_device)
        inside = memory[32 : 32 + n]
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty_like", lambda _, inside=inside: inside)
            kernels.adversarial([x], (0.0,), (1.0,), "sigmoid_cross_entropy", 0, value=False, gradient=True)
        assert (memory[:32] == 7).all() and (memory[32 + n :] == 7).all()
        assert_close(inside, term(x, 0.0)[1], torch.float32)


def test_program_order_does_not_matter(kernel_device, monkeypatch):
    """Whichever program ends last and adds up, the result is the same to the last bit."""
    real, fake = (logits(n, 5.0, torch.float32, kernel_device) for n in (9000, 30000))
    results = [fastgan.discriminator_value_and_grad(real, fake)]
    if kernel_device.type == "cpu":
        from triton.runtime.interpreter import interpreter_builder

        set_grid_idx = interpreter_builder.set_grid_idx
        programs = importlib.import_module("fastgan.kernels.adversarial").blocks((9000, 30000), torch.float32, 2)[2][-1]
        for seed in range(4):
            order = list(range(programs))
            random.Random(seed).shuffle(order)
            monkeypatch.setattr(
                interpreter_builder, "set_grid_idx", lambda x, y, z, order=order: set_grid_idx(order[x], y, z)
            )
            results.append(fastgan.discriminator_value_and_grad(real, fake))
    else:
        results += [fastgan.discriminator_value_and_grad(real, fake) for _ in range(100)]
    for other in results[1:]:
        assert torch.equal(other.terms, results[0].terms) and torch.equal(other.loss, results[0].loss)
        assert all(torch.equal(a, b) for a, b in zip(other.grads, results[0].grads))


def test_the_reference_is_the_formula():
    """`fastgan.reference` against plain formulas, so that the reference does not depend on our kernels."""
    real, fake = logits(50, 9.0, torch.float64, "cpu"), logits(70, 9.0, torch.float64, "cpu", 1)
    out = fastgan.reference.discriminator_value_and_grad(real, fake, real_label=0.9, weight=0.5, grad_scale=2.0)
    want = 0.5 * (criterion(real, 0.9)[0].mean() + criterion(fake, 0.0)[0].mean())
    torch.testing.assert_close(out.loss, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(out.grad_fake, torch.sigmoid(fake) / 70, rtol=1e-12, atol=0)
    for objective, sign, label in (("minimax", -1, 0.0), ("nonsaturating", 1, 1.0)):
        loss = fastgan.reference.generator_loss(fake, objective)
        torch.testing.assert_close(loss, sign * criterion(fake, label)[0].mean(), rtol=1e-12, atol=0)
