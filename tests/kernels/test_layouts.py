"""Permuted, sliced, expanded and negated tensors. A kernel gets only an address."""

import importlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgan
from bench.checks.machine_code import HIFIGAN_MAPS
from fastgan.kernels.reduction import programs_of

adversarial = importlib.import_module("fastgan.kernels.adversarial")
matching = importlib.import_module("fastgan.kernels.matching")

pytestmark = pytest.mark.usefixtures("poisoned")


def negative(x):
    """A view with the same values, stored negated."""
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg() and torch.equal(view, x)
    return view


def expanded(x):
    return x[:1].expand(x.shape)


LAYOUTS = {
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every other column": lambda x: torch.stack([x, x + 1], -1).flatten(3)[..., ::2],
    "from an odd offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "expanded": expanded,
    "negative": negative,
    "negative, transposed": lambda x: negative(x).transpose(2, 3).contiguous().transpose(2, 3).neg().neg(),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def tensors(count, device, seed=0, shape=(4, 3, 2, 5)):
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device) for _ in range(count)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_two_sides(device, layout):
    real, fake = (layout(x) for x in tensors(2, device))
    out = fastgan.discriminator_value_and_grad(real, fake)
    expected = fastgan.discriminator_value_and_grad(real.clone().contiguous(), fake.clone().contiguous())
    assert_same([out.loss, out.terms, *out.grads], [expected.loss, expected.terms, *expected.grads])


def test_labels_and_weights_that_are_views(device, layout):
    """They reach the kernel as views: nothing is computed from them before."""
    real, fake, labels = tensors(3, device)
    labels = labels.sigmoid()
    out = fastgan.discriminator_loss(real, fake, real_label=layout(labels), fake_weights=layout(labels))
    same = layout(labels).clone().contiguous()
    assert_same([out], [fastgan.discriminator_loss(real, fake, real_label=same, fake_weights=same)])


@pytest.mark.parametrize("fake_first", [True, False])
@pytest.mark.parametrize("objective", ["wasserstein", "nonsaturating"])
def test_one_batch_of_both_sides(device, layout, objective, fake_first):
    (x,) = tensors(1, device)
    x = layout(x)
    out = fastgan.concatenated_discriminator_value_and_grad(x, objective, fake_first=fake_first, split=1)
    same = x.clone().contiguous()
    first, second = same[:1], same[1:]
    sides = (second, first) if fake_first else (first, second)
    expected = fastgan.discriminator_value_and_grad(*sides, objective)
    whole = torch.cat(expected.grads[::-1] if fake_first else expected.grads)
    assert_same([out.loss, *out.grads], [expected.loss, whole])
    leaf = x.detach().requires_grad_()
    loss = fastgan.concatenated_discriminator_loss(leaf, objective, fake_first=fake_first, split=1)
    assert_same([loss, *torch.autograd.grad(loss, leaf)], [expected.loss, whole])


def test_the_rows_of_a_permuted_batch(device):
    x = torch.arange(12.0, device=device).view(4, 3).t().contiguous().t()
    out = fastgan.concatenated_discriminator_value_and_grad(x, "wasserstein")
    assert out.loss == -6.0 and torch.equal(
        out.grads[0].cpu().sign(), torch.tensor([[1.0], [1], [-1], [-1]]).expand(4, 3)
    )
    assert fastgan.concatenated_discriminator_loss(x, "wasserstein") == -6.0


def test_upstream_gradients(device):
    """`grad_output` and `grad_scale` as views that a kernel would read with the wrong sign."""
    real, fake = (x.requires_grad_() for x in tensors(2, device))
    scale = negative(torch.tensor([3.0], dtype=torch.float64, device=device))
    loss = fastgan.discriminator_loss(real, fake)
    expected = torch.autograd.grad(loss, [real, fake], torch.full_like(loss, 3.0), retain_graph=True)
    assert_same(torch.autograd.grad(loss, [real, fake], scale.reshape(())), expected)
    out = fastgan.discriminator_value_and_grad(real.detach(), fake.detach(), grad_scale=scale)
    assert_same(out.grads, expected)


@pytest.mark.parametrize("save", ["maps", "signs"])
def test_feature_maps(device, layout, save):
    a, b = (layout(x) for x in tensors(2, device))
    scale = negative(torch.tensor([2.0], dtype=torch.float64, device=device)).reshape(())
    results = []
    for fake, real in ((a, b), (a.clone().contiguous(), b.clone().contiguous())):
        fake = fake.detach().requires_grad_()
        loss = fastgan.feature_matching_loss([fake], [real], save=save)
        results.append([loss, *torch.autograd.grad(loss, fake, scale)])
    assert_same(*results)


def test_points(device, layout):
    x, y = (layout(x).flatten(1)[:, :6] for x in tensors(2, device))
    if layout is expanded:
        y = y + torch.arange(4.0, device=device)[:, None]
    scale = negative(torch.tensor([2.0], dtype=torch.float64, device=device)).reshape(())
    out = fastgan.mmd_value_and_grad(x, y, 2.0, grad_scale=scale)
    expected = fastgan.mmd_value_and_grad(x.clone().contiguous(), y.clone().contiguous(), 2.0, grad_scale=2.0)
    assert_same([out.loss, out.grad], [expected.loss, expected.grad])
    x, y = negative(x.clone()), negative(y.clone())
    assert_same([fastgan.mmd_loss(x, y, 2.0)], [expected.loss])


NUMBERS = [np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2), np.array(0.5)[()]]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
def test_numbers_of_other_types(device, number):
    real, fake = (x.float() for x in tensors(2, device))
    for call in (
        lambda w: fastgan.discriminator_loss(real, fake, weight=w, real_label=w),
        lambda w: fastgan.discriminator_value_and_grad(real, fake, weight=w, grad_scale=w).grad_real,
        lambda w: fastgan.generator_loss(fake, weight=w),
        lambda w: fastgan.criterion_loss(fake, w, weight=[w]),
        lambda w: fastgan.feature_matching_loss([fake], [real], weights=w),
        lambda w: fastgan.feature_matching_loss([fake], [real], weights=[w], save="signs"),
        lambda w: fastgan.mmd_loss(real.flatten(1), fake.flatten(1), [w], weight=w),
    ):
        assert torch.equal(call(number), call(0.5))


# The distribution of a launch's programs over its terms.


def longest(tiles, programs):
    return max(-(-t // p) for t, p in zip(tiles, programs))


def best(tiles, most):
    """The smallest possible longest walk, found by trying every length."""
    return next(walk for walk in range(1, max(tiles) + 1) if sum(-(-t // walk) for t in tiles) <= most)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 80))
def test_the_distribution_of_programs_minimises_the_longest_walk(tiles, spare):
    most = len(tiles) + spare
    programs = programs_of(tiles, most)
    assert sum(programs) <= most and all(1 <= p <= t for p, t in zip(programs, tiles))
    assert sum(programs) == min(most, sum(tiles))
    assert longest(tiles, programs) == best(tiles, most)


@pytest.mark.parametrize("processors", [108, 132, 148])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_lists_fill_nine_tenths_of_the_multiprocessors(processors, dtype):
    shape, _, ends = adversarial.blocks(HIFIGAN_MAPS, dtype, processors, 2)
    tiles = [-(-n // shape["BLOCK"]) for n in HIFIGAN_MAPS]
    programs = [end - begin for begin, end in zip((0, *ends), ends)]
    assert sum(tiles) / (3 * processors) / longest(tiles, programs) >= 0.9
    block, ends = matching.blocks(HIFIGAN_MAPS, dtype, processors)
    tiles = [-(-n // block) for n in HIFIGAN_MAPS]
    programs = [end - begin for begin, end in zip((0, *ends), ends)]
    assert sum(tiles) / (4 * processors) / longest(tiles, programs) >= 0.9


def test_an_empty_term_still_has_a_program():
    assert programs_of([1, 1], 1) == [1, 1]  # at least one for each term
