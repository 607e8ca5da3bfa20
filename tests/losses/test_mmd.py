"""Maximum mean discrepancy: kernel and closed form against float64, and against the closed forms for Gaussians."""

import math

import pytest
import torch
from mmd_float64 import KERNELS, assert_within, check, exact, samples

import fastgan

# (N, M, d), kernel, unbiased: one point, blocks of 16 and 32 rows and their neighbours, each way to compare points
CASES = [
    ((1, 1, 1), "gaussian", False),
    ((17, 2, 1), "rational_quadratic", True),
    ((15, 31, 2), "energy", True),
    ((49, 50, 2), "gaussian", True),
    ((33, 16, 3), "rational_quadratic", False),
    ((16, 33, 16), "gaussian", True),
    ((5, 40, 64), "energy", False),
    ((17, 9, 100), "rational_quadratic", True),
]


@pytest.mark.parametrize(("shape", "kernel", "unbiased"), CASES, ids=str)
def test_against_float64(device, poisoned, shape, kernel, unbiased):
    s = math.sqrt(shape[2])
    bandwidths = None if kernel == "energy" else (s / 2, s, 2 * s)
    options = dict(kernel=kernel, unbiased=unbiased, alpha=0.7 if kernel == "rational_quadratic" else 1.0)
    check(*samples(*shape, device=device), bandwidths, **options)


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_float64_in_float64(device, poisoned, kernel):
    """float64 throughout, and bandwidths whose reciprocals are not exact in float32."""
    bandwidths = None if kernel == "energy" else (0.3, 1.7)
    for shape in ((19, 10, 2), (5, 6, 7)):
        check(*samples(*shape, torch.float64, device), bandwidths, kernel=kernel, alpha=1.3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(device, poisoned, dtype):
    """Gradients are scaled and added up in float32, then rounded."""
    for shape in ((20, 11, 2), (5, 17, 70)):
        check(*samples(*shape, dtype, device), (math.sqrt(shape[2]),), scale=1024.0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_values_of_several_tiles(device, unbiased):
    """Without a gradient each pair within a sample is computed once: tiles on the diagonal, and beside it."""
    for shape in ((70, 3, 2), (2, 70, 6)):
        x, y = samples(*shape, device=device)
        loss, size, *_ = exact(x, y, (2.0,), unbiased=unbiased)
        assert_within(fastgan.mmd_loss(x, y, (2.0,), unbiased=unbiased), loss, size, torch.float32)


def test_differences_of_any_dimension(device, poisoned):
    check(*samples(5, 7, 6, device=device), (2.0,), precision="exact")
    check(*samples(18, 3, 9, device=device), (3.0, 1.0), precision="exact", unbiased=True)


def test_options(device):
    x, y = samples(10, 17, 2, device=device)
    check(x, y, (1.0, 0.5), include_target_term=False)
    check(x, y, 1.0)
    one, two = (
        fastgan.mmd_value_and_grad(x, y, w, weight=weight) for w, weight in ((None, 1.0), ((4, 0.5, 2, 1), 2.0))
    )
    torch.testing.assert_close(two.loss, 2 * one.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(two.grad, 2 * one.grad, rtol=1e-6, atol=1e-9)
    scaled = fastgan.mmd_value_and_grad(x, y, grad_scale=torch.tensor(4.0, device=device))
    assert torch.equal(scaled.grad, 4 * one.grad) and torch.equal(scaled.loss, one.loss)
    assert one.grad_target is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_several_blocks_of_the_closed_form(closed_form, kernel, unbiased):
    for shape in ((257, 513, 2), (600, 255, 8)):
        bandwidths = None if kernel == "energy" else (1.0, 2.0, 4.0, 8.0, 3.0)
        check(
            *samples(*shape),
            bandwidths,
            kernel=kernel,
            unbiased=unbiased,
            precision="exact" if shape[2] < 3 else "fp32",
        )
    check(*samples(300, 600, 3, torch.float64), bandwidths, kernel=kernel, unbiased=unbiased, alpha=2.5)


def quantiles(n, mean=0.0):
    """Phi^-1((i + 1/2) / n), in place of random normal samples."""
    p = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return (math.sqrt(2.0) * torch.special.erfinv(2 * p - 1) + mean)[:, None]


@pytest.mark.parametrize(
    ("mean", "energy", "gaussian", "four"),
    [
        (0.5, 0.1395963147, 0.04712395585, 0.1298689413),
        (1.0, 0.5418065793, 0.1772676349, 0.4923337838),
        (2.0, 1.944259832, 0.5618575146, 1.615644638),
        (3.0, 3.777733123, 0.8970520223, 2.752214222),
        (4.0, 5.747153757, 1.07446796, 3.601228545),
    ],
)
def test_closed_forms_of_gaussians(closed_form, mean, energy, gaussian, four):
    """N(0, 1) against N(mean, 1): 2c - 2c exp(-mean^2 / 2 (s^2 + 2)), c = sqrt(s^2 / (s^2 + 2)), and the energy
    distance's; the error is that of 1,000 quantile points."""
    for dtype in (torch.float32, torch.float64):
        x, y = quantiles(1000).to(dtype), quantiles(1000, mean).to(dtype)
        for bandwidths, want in ((1.0, gaussian), (None, four), ((4.0, 2.0, 1.0, 0.5), four)):
            assert fastgan.mmd_loss(x, y, bandwidths).item() == pytest.approx(want, rel=2e-3)
        assert fastgan.mmd_loss(x, y, kernel="energy").item() == pytest.approx(energy, rel=2e-3)
    out = fastgan.mmd_value_and_grad(x, y, 1.0)  # moving x by t is moving the mean by -t
    c, width = math.sqrt(1 / 3), 3.0
    slope = -2 * c * mean / width * math.exp(-mean * mean / (2 * width))
    assert out.grad.sum().item() == pytest.approx(slope, rel=2e-3)


def test_unbiased_is_zero_in_the_mean(closed_form):
    """Within 4 standard errors, over 40 draws of one distribution; the biased estimate is far above."""
    for options in (dict(bandwidths=(0.5, 1.0)), dict(kernel="energy"), dict(kernel="rational_quadratic")):
        draws = {False: [], True: []}
        for seed in range(40):
            x, y = samples(60, 80, 3, torch.float64, seed=seed, apart=0.0)
            for unbiased, values in draws.items():
                values.append(fastgan.mmd_loss(x, y, unbiased=unbiased, **options))
        means, errors = ({k: f(torch.stack(v)).item() for k, v in draws.items()} for f in (torch.mean, torch.std))
        assert abs(means[True]) < 4 * errors[True] / math.sqrt(40) < means[False]


def test_equal_samples(device):
    """The biased loss of a sample and itself is 0 to the error of its terms, and its gradient vanishes."""
    for d in (2, 8):
        x, _ = samples(17, 1, d, device=device)
        out = fastgan.mmd_value_and_grad(x, x.clone(), math.sqrt(d))
        assert abs(out.loss.item()) <= 2e-6 * 4 * out.means[0].item()
        assert out.grad.abs().max() < 1e-6 / 17
    one = fastgan.mmd_value_and_grad(x[:1], x[:1], kernel="energy")  # equal points: no gradient, and no NaN
    assert not one.grad.any() and one.loss == 0


def test_points_close_together_and_far_from_zero(device):
    """Clusters of width 0.01 at a distance of 1,000 from zero: differences keep every digit of the samples; products
    are centred in each block."""
    x, y = (1000.0 + 0.01 * s for s in samples(15, 18, 2, device=device))
    check(x, y, 0.01)
    x, y = (1000.0 + s for s in samples(15, 18, 6, device=device))
    check(x, y, (2.0,), rtol=1e-5)


def far(kind, device):
    """Samples whose squares are so large that products lose the small distances."""
    x, y = (0.3 * s for s in samples(33, 40, 8, device=device))
    if kind == "apart":
        y += 1e4
    elif kind == "two clusters":
        x[::2] += 1e4
        y[1::2] += 1e4
    elif kind == "one row":
        y[3] = 1e4
    elif kind == "one row whose square is infinite":
        y[3] = 1e20
    else:
        x, y = x * 1e20, y * 1e20
        y[:20] = x[:20]  # pairs that coincide, among pairs whose squared distance is infinite
    return x, y


@pytest.mark.parametrize("kernel", ["gaussian", "rational_quadratic", "energy"])
@pytest.mark.parametrize("kind", ["apart", "two clusters", "one row", "one row whose square is infinite", "huge"])
def test_samples_far_apart(device, poisoned, kind, kernel):
    """Beyond 4 dimensions products are used; where they lose digits, differences are."""
    if kernel == "energy" and kind in ("huge", "one row whose square is infinite"):
        pytest.skip("the distances themselves pass float32, squared: infinite, as in eager PyTorch")
    x, y = far(kind, device)
    bandwidths = () if kernel == "energy" else (0.5, 1.0, 2.0, 4.0)
    loss, size, grads, sizes, means = exact(x, y, bandwidths, kernel)
    out = fastgan.mmd_value_and_grad(x, y, bandwidths or None, kernel=kernel, target_gradient=True)
    assert_within(out.loss, loss, size, torch.float32)
    assert_within(out.means, means, means.abs(), torch.float32)
    assert_within(fastgan.mmd_loss(x, y, bandwidths or None, kernel=kernel), loss, size, torch.float32)
    for got, want, each in zip((out.grad, out.grad_target), grads, sizes):
        tiny = torch.finfo(torch.float32).tiny
        assert_within(got, want, each + tiny / 2e-5, torch.float32, rtol=2e-5)


def test_images_are_no_samples_far_apart(device):
    """Points of many dimensions are as far from each other as from their middle: products are exact enough."""
    generator = torch.Generator().manual_seed(0)
    x, y = (16 * (2 * torch.rand(n, 48, generator=generator) - 1).to(device) for n in (20, 17))
    exactly = fastgan.mmd_value_and_grad(x, y, kernel="rational_quadratic", precision="exact")
    out = fastgan.mmd_value_and_grad(x, y, kernel="rational_quadratic")
    assert not torch.equal(out.grad, exactly.grad)  # so products were used
    assert_within(out.loss, exactly.loss.double().cpu(), out.means.abs().sum().double().cpu(), torch.float32)


def test_error_of_products():
    """The documented error of |x|^2 + |y|^2 - 2 x.y, by a model of the matrix units: tf32 has 10 bits after the leading
    one; three passes drop the product of the two remainders."""

    def tf32(v):
        bits = v.float().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()

    for d in (16, 64, 784):
        x, y = (s.double() for s in samples(200, 200, d))
        y[:100] = x[:100] + 1e-3 * y[:100]
        D = (x[:, None] - y).square().sum(-1)
        length = (x.norm(dim=1)[:, None] + y.norm(dim=1)) ** 2
        big_x, big_y = tf32(x), tf32(y)
        rest_x, rest_y = tf32(x - big_x), tf32(y - big_y)
        squares = x.square().sum(1).float()[:, None] + y.square().sum(1).float()
        for products, bound in (
            (big_x @ big_y.T, 2.0**-10),
            (big_x @ big_y.T + rest_x @ big_y.T + big_x @ rest_y.T, 8 * 2.0**-24),
            ((x.float() @ y.float().T).double(), 8 * 2.0**-24),
        ):
            got = (squares - 2 * products.float()).double()
            assert ((got - D).abs() / length).max() < bound
