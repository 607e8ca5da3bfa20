"""Maximum mean discrepancy: kernel and closed form against float64, closed forms for Gaussians, every use of a loss.

What a result may be off by is in units of the sum it is: a mean of k for the loss, sum_j |c_ij| |x_i - z_j| for the
gradient at x_i. Both are differences of such sums, attraction and repulsion, and near 0 no digit of the difference is
owed. Where nothing cancels the relative bound holds, and is tested.
"""

import importlib
import inspect
import math

import pytest
import torch
from oracle import ulp

import fastgan
from fastgan import kernels, reference
from fastgan.formulas.mmd import DIFFERENCES_UP_TO
from fastgan.losses import mmd
from fastgan.operators.dispatch import backend_for

KERNELS = mmd.KERNELS
RTOL = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}


def samples(n, m, d, dtype=torch.float32, device="cpu", seed=0, apart=0.5):
    generator = torch.Generator().manual_seed(seed + n)
    x, y = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    return [s.to(dtype).to(device) for s in (x, y + apart / math.sqrt(d))]


def exact(x, y, bandwidths, kernel="gaussian", alpha=1.0, unbiased=False, target=True, products=False):
    """(loss, its size, gradients, their sizes, means) in float64, by differences, all pairs at once."""
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    n, m = len(x), len(y)
    bandwidths = (bandwidths,) if isinstance(bandwidths, float) else bandwidths

    def pairs(a, b, same):
        apart = a[:, None] - b
        D = apart.square().sum(-1)
        if kernel == "energy":
            k, slope = -D.sqrt(), torch.where(D > 0, -0.5 / torch.where(D > 0, D, 1.0).sqrt(), 0.0)
        elif kernel == "gaussian":
            parts = [(torch.exp(-D / (2 * s * s)), 2 * s * s) for s in bandwidths]
            k, slope = sum(p for p, _ in parts), sum(-p / r for p, r in parts)
        else:
            parts = [(1 + D / (2 * alpha * s * s), 2 * s * s) for s in bandwidths]
            k, slope = sum(p**-alpha for p, _ in parts), sum(-(p ** (-alpha - 1)) / r for p, r in parts)
        if same and unbiased:
            k = k - torch.diag(k.diagonal())
        count = len(a) * (len(a) - unbiased) if same else n * m
        weight = (1 if same else -1) * 4 * slope / count
        middle = (x.mean(0) + y.mean(0)) / 2
        length = (a - middle).norm(dim=1)[:, None] + (b - middle).norm(dim=1)
        sizes = length[..., None].expand_as(apart) if products else apart.abs()
        grad, size = weight[..., None] * apart, weight.abs()[..., None] * sizes
        return k.sum() / count, grad.sum(1), size.sum(1)

    xx, xy, yx = pairs(x, x, True), pairs(x, y, False), pairs(y, x, False)
    yy = (
        pairs(y, y, True)
        if target
        else (torch.zeros((), dtype=torch.float64), torch.zeros_like(y), torch.zeros_like(y))
    )
    means = torch.stack((xx[0], xy[0], yy[0]))
    loss = xx[0] + yy[0] - 2 * xy[0]
    size = xx[0].abs() + yy[0].abs() + 2 * xy[0].abs()
    return loss, size, (xx[1] + xy[1], yy[1] + yx[1]), (xx[2] + xy[2], yy[2] + yx[2]), means


def assert_within(got, want, size, dtype, rtol=None):
    """Per element, in units of `size`; half-precision results also get one ulp for the rounding of the output."""
    got = got.detach().cpu().double()
    allowed = (RTOL[dtype] if rtol is None else rtol) * size
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + ulp(want, dtype)
    bad = ~((got - want).abs() <= allowed)
    assert not bad.any(), f"{int(bad.sum())} off; got {got[bad].flatten()[0]}, want {want[bad].flatten()[0]}"


def check(x, y, bandwidths, rtol=None, scale=1.0, **options):
    """Loss, means and both gradients of value_and_grad and of the drop-in."""
    dtype = x.dtype
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    settings = dict(options)
    products = settings.pop("precision", "fp32") != "exact" and x.shape[1] > DIFFERENCES_UP_TO
    target = settings.pop("include_target_term", True)
    loss, size, grads, sizes, means = exact(x, y, bandwidths, target=target, products=products, **settings)
    out = fastgan.mmd_value_and_grad(x, y, bandwidths, target_gradient=True, grad_scale=scale, **options)
    assert out.loss.dtype == out.means.dtype == out_dtype and out.loss.shape == () and out.means.shape == (3,)
    assert_within(out.loss, loss, size, out_dtype, rtol)
    assert_within(out.means, means, means.abs(), out_dtype, rtol)
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    dropped = fastgan.mmd_loss(x, y, bandwidths, **options)
    assert_within(dropped, loss, size, out_dtype, rtol)
    (dropped * scale).backward()
    for got, again, want, each in zip((out.grad, out.grad_target), (x.grad, y.grad), grads, sizes):
        assert got.dtype == dtype and got.shape == want.shape
        assert_within(got, want * scale, each * abs(scale), dtype, rtol)
        assert_within(again, want * scale, each * abs(scale), dtype, rtol)


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
    """float64 throughout, and bandwidths whose reciprocals float32 does not hold."""
    bandwidths = None if kernel == "energy" else (0.3, 1.7)
    for shape in ((19, 10, 2), (5, 6, 7)):
        check(*samples(*shape, torch.float64, device), bandwidths, kernel=kernel, alpha=1.3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(device, poisoned, dtype):
    """Gradients scaled in float32, then rounded; beyond one chunk of dimensions added up in float32."""
    for shape in ((20, 11, 2), (5, 17, 70)):
        check(*samples(*shape, dtype, device), (math.sqrt(shape[2]),), scale=1024.0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_values_of_several_tiles(device, unbiased):
    """Without a gradient each pair of one sample is met once: tiles on the diagonal, and beyond it."""
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


@pytest.fixture
def closed_form(monkeypatch):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")


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
    """Phi^-1((i + 1/2) / n): a normal sample without chance."""
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
    out = fastgan.mmd_value_and_grad(x, y, 1.0)  # moving x by t changes the loss as -t changes the mean
    c, width = math.sqrt(1 / 3), 3.0
    slope = -2 * c * mean / width * math.exp(-mean * mean / (2 * width))
    assert out.grad.sum().item() == pytest.approx(slope, rel=2e-3)


def test_unbiased_is_zero_in_the_mean(closed_form):
    """Within 4 standard errors over 40 draws of one distribution; the biased one is above by far more."""
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
    one = fastgan.mmd_value_and_grad(x[:1], x[:1], kernel="energy")  # coinciding points: no gradient, and no NaN
    assert not one.grad.any() and one.loss == 0


def test_points_close_together_and_far_from_zero(device):
    """Clusters of width 0.01 a distance of 1,000 from zero: differences keep every digit the samples have; products are
    taken from the block's own middle."""
    x, y = (1000.0 + 0.01 * s for s in samples(15, 18, 2, device=device))
    check(x, y, 0.01)
    x, y = (1000.0 + s for s in samples(15, 18, 6, device=device))
    check(x, y, (2.0,), rtol=1e-5)


def far(kind, device):
    """Samples whose squares drown the distances that count."""
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
    """More than 4 dimensions, where products are taken: what they lose is taken by differences."""
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
    """Points of many dimensions are far from their middle, and as far from each other: products serve them."""
    generator = torch.Generator().manual_seed(0)
    x, y = (16 * (2 * torch.rand(n, 48, generator=generator) - 1).to(device) for n in (20, 17))
    exactly = fastgan.mmd_value_and_grad(x, y, kernel="rational_quadratic", precision="exact")
    out = fastgan.mmd_value_and_grad(x, y, kernel="rational_quadratic")
    assert not torch.equal(out.grad, exactly.grad)  # other sums
    assert_within(out.loss, exactly.loss.double().cpu(), out.means.abs().sum().double().cpu(), torch.float32)


def test_error_of_products():
    """What the documentation says of |x|^2 + |y|^2 - 2 x.y, from a model of the matrix units: tf32 has 10 bits after
    the leading one; three passes drop the product of the two remainders."""

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


def kernels_are_fast(device):
    """Not the interpreter."""
    return device.type != "cpu" or backend_for(device) == "torch"


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck_and_gradgradcheck(device, kernel):
    """Through the real kernel, in float64. Every partial derivative for the Gaussian, a direction for the others."""
    x, y = (s.requires_grad_() for s in samples(3, 2, 2, torch.float64, device))
    bandwidths = None if kernel == "energy" else (0.8, 1.6)
    for unbiased in (False, True) if kernels_are_fast(device) else (kernel != "gaussian",):

        def loss(x, y, unbiased=unbiased):
            return fastgan.mmd_loss(x, y, bandwidths, kernel=kernel, unbiased=unbiased, alpha=1.5, weight=0.7)

        assert torch.autograd.gradcheck(loss, (x, y), fast_mode=kernel != "gaussian")
        assert torch.autograd.gradgradcheck(loss, (x, y), fast_mode=True)


def test_create_graph(closed_form):
    """A penalty on the gradient, and a third derivative, against autograd through the formula."""
    x, y = (s.requires_grad_() for s in samples(6, 5, 7, torch.float64))

    def formula(x, y, _):
        def k(a, b):
            D = (a[:, None] - b).square().sum(-1)
            return torch.exp(-D / 8).mean() + torch.exp(-D / 2).mean()

        return k(x, x) + k(y, y) - 2 * k(x, y)

    found = []
    for loss in (fastgan.mmd_loss, formula):
        grads = torch.autograd.grad(loss(x, y, (1.0, 2.0)), (x, y), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), (x, y), create_graph=True)
        found.append([*second, *torch.autograd.grad(sum((g**3).sum() for g in second), (x, y))])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)


def test_only_x_asks_for_a_gradient(device):
    x, y = samples(9, 8, 2, device=device)
    x.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        loss = fastgan.mmd_loss(x, y)
    assert saved == [x.data_ptr(), y.data_ptr()]
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 3 * first, rtol=1e-6, atol=0)
    assert y.grad is None
    torch.testing.assert_close(first, fastgan.mmd_value_and_grad(x, y).grad, rtol=1e-5, atol=1e-8)


def test_layouts(device):
    x, y = samples(12, 14, 3, device=device)
    want = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    wide = torch.randn(14, 6, device=device)
    wide[:, ::2] = y
    for a, b in ((x.T.contiguous().T, wide[:, ::2]), (x.flip(0).flip(0), y)):
        got = fastgan.mmd_value_and_grad(a, b, target_gradient=True)
        assert all(torch.equal(g, w) for g, w in zip(got, want))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity(device, value):
    for d in (2, 6):
        x, y = samples(6, 5, d, device=device)
        x[2, 1] = value
        out = fastgan.mmd_value_and_grad(x, y)
        assert out.loss.isnan() and fastgan.mmd_loss(x, y).isnan() and reference.mmd_loss(x, y).isnan()
        assert out.grad.isnan().any()


def test_reruns_are_bit_identical(device):
    x, y = samples(40, 20, 2, device=device)
    first = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    for _ in range(2):
        other = fastgan.mmd_loss(x[:5], y)  # fewer programs: a counter that was not reset would never reach its end
        assert_within(other, *exact(x[:5], y, mmd.BANDWIDTHS)[:2], torch.float32)
        again = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_launches_and_allocations(kernel_device, monkeypatch):
    """One launch for loss and gradient, one forward and one backward for the drop-in; nothing allocated but results."""
    x, y = samples(40, 30, 2, device=kernel_device)
    fastgan.mmd_value_and_grad(x, y)
    before, made = kernels.launch_count(), []
    for name in ("empty", "empty_like", "zeros"):
        function = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=function, **k: made.append(f(*a, **k)) or made[-1])
    out = fastgan.mmd_value_and_grad(x, y)
    assert kernels.launch_count() == before + 1
    assert {t.data_ptr() for t in made} == {out.loss.data_ptr(), out.means.data_ptr(), out.grad.data_ptr()}
    x.requires_grad_()
    loss = fastgan.mmd_loss(x, y)
    assert kernels.launch_count() == before + 2
    loss.backward()
    assert kernels.launch_count() == before + 3


def test_launch_arguments_are_in_the_order_of_the_signature(kernel_device, monkeypatch):
    recorded = []
    module = importlib.import_module("fastgan.kernels.mmd")
    monkeypatch.setattr(module, "launch", lambda *arguments: recorded.append(arguments))
    fastgan.mmd_value_and_grad(*samples(200, 300, 2, device=kernel_device), (1.0, 2.0))
    plan, args, given = recorded[0]
    kernel, programs, constants = plan.kernel, plan.programs, plan.constants
    names = [*inspect.signature(kernel.fn).parameters]
    assert len(args) + len(constants) == len(names) and list(constants) == names[len(args) :]
    assert args[names.index("programs")] == programs == -(-200 // 32) + -(-300 // 32)
    assert constants["POWERS"] == 0b10 and len(given) == 2


def test_samples_of_many_rows_share_the_programs(kernel_device, monkeypatch):
    """More blocks of rows than programs: each takes several."""
    x, y = samples(40, 33, 2, device=kernel_device)
    want = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    module = importlib.import_module("fastgan.kernels.mmd")
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    module.plan.cache_clear()
    got = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    module.plan.cache_clear()
    assert torch.equal(got.grad, want.grad) and torch.equal(got.grad_target, want.grad_target)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-6, atol=0)


def test_memory_is_linear(closed_form):
    from bench.harness.clock import Cpu

    x, y = samples(4000, 3900, 8)
    x.requires_grad_()
    matrix, machine = 4000 * 4000 * 4, Cpu(quick=True)
    ours = machine.peak_bytes(lambda _: fastgan.mmd_value_and_grad(x, y))  # blocks of 256 x 512, whatever the samples
    assert ours < 0.15 * matrix
    assert machine.peak_bytes(lambda _: fastgan.mmd_loss(x, y).backward()) < 0.15 * matrix
    assert machine.peak_bytes(lambda _: reference.mmd_loss(x, y).backward()) > 3 * matrix, "what is measured"


@pytest.mark.slow
def test_32768_points_in_megabytes(closed_form):
    """One matrix of these pairs takes 4 GiB; eager holds several."""
    from bench.harness.clock import Cpu

    for d in (2, 64):
        x, y = samples(2**15, 2**15, d)
        out, s = [], math.sqrt(d)
        peak = Cpu(quick=True).peak_bytes(
            lambda _, x=x, y=y, s=s, out=out: out.append(fastgan.mmd_value_and_grad(x, y, s))
        )
        assert peak < 16 * x.nbytes + 2**23 < 2**32 / 16
        rows = slice(0, 2**15, 4096)
        grad = (
            4
            / 2**30
            * sum(
                sign * ((-torch.exp(-D / (2 * d)) / (2 * d))[..., None] * apart).sum(1)
                for sign, apart in ((1, x[rows, None].double() - x), (-1, x[rows, None].double() - y))
                for D in (apart.square().sum(-1),)
            )
        )
        torch.testing.assert_close(out[0].grad[rows].double(), grad, rtol=1e-4, atol=2e-6 / 2**15)


def test_opcheck(device):
    x, y = samples(5, 6, 2, device=device)
    settings = ("gaussian", (2.0, 1.0), 1.0, False, True, 1.0, "fp32")
    scale, ops = torch.tensor(2.0, device=device), torch.ops.fastgan
    if kernels_are_fast(device):
        torch.library.opcheck(ops.mmd_value, (x, y, *settings))
        torch.library.opcheck(ops.mmd_gradient, (x, y, *settings, scale, True, False))
        torch.library.opcheck(ops.mmd_value_and_gradient, (x, y, *settings, None, 3.0, True))
    else:
        torch.library.opcheck(ops.mmd_value_and_gradient, (x, y, *settings, scale, 3.0, False))


def test_compile_fullgraph(closed_form):
    torch._dynamo.reset()

    device = "cpu"

    def train(x, y):
        return fastgan.mmd_loss(2 * x, y, (1.0, 2.0), unbiased=True)

    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, m in ((5, 7), (9, 4)):
        x, y = samples(n, m, 2, device=device)
        results = []
        for function in (train, compiled):
            leaf = x.clone().requires_grad_()
            loss = function(leaf, y)
            loss.backward()
            results.append((loss.detach(), leaf.grad))
        for eager, other in zip(*results):
            torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-8)

    def direct(x, y):
        out = fastgan.mmd_value_and_grad(x, y, (1.0, 2.0))
        return out.loss, out.grad

    assert all(
        torch.equal(a, b) for a, b in zip(direct(x, y), torch.compile(direct, fullgraph=True, backend="eager")(x, y))
    )


def test_func_grad_and_vmap(device):
    x, y = samples(2 * 4, 3, 2, torch.float64, device)
    batches = x.reshape(2, 4, 2)

    def loss(x, y):
        return fastgan.mmd_loss(x, y, (1.0, 2.0))

    grads = torch.func.vmap(torch.func.grad(loss), (0, None))(batches, y)
    values = torch.func.vmap(loss, (0, None))(batches, y)
    for k in range(2):
        want = fastgan.mmd_value_and_grad(batches[k], y, (1.0, 2.0))
        torch.testing.assert_close(values[k], want.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(grads[k], want.grad, rtol=1e-10, atol=1e-16)
    hessian = torch.func.jacrev(torch.func.grad(loss))(batches[0][:2], y)
    torch.testing.assert_close(hessian.reshape(4, 4), hessian.reshape(4, 4).T, rtol=1e-10, atol=1e-14)


def test_forward_mode_raises_rather_than_return_zero(closed_form):
    x, y = samples(5, 6, 2)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: fastgan.mmd_loss(x, y), (x,), (x,))
    with pytest.raises(RuntimeError, match="mmd_value_and_grad"):
        torch.func.vmap(lambda x: fastgan.mmd_value_and_grad(x, y).loss)(x[None])


GOOD = torch.zeros(4, 2)
BAD = {
    "a list": (TypeError, "x: got list", lambda f: f([[1.0]], GOOD)),
    "integers": (TypeError, "y: got torch.int64", lambda f: f(GOOD, GOOD.long())),
    "sparse": (ValueError, "x: got a torch.sparse_coo tensor", lambda f: f(GOOD.to_sparse(), GOOD)),
    "one dimension": (
        ValueError,
        r"x: got shape \(4,\), expected \(points, dimensions\): `\[:, None\]`",
        lambda f: f(GOOD[:, 0], GOOD),
    ),
    "images": (ValueError, r"y: got shape \(4, 1, 2\).*flatten", lambda f: f(GOOD, GOOD[:, None])),
    "no points": (ValueError, r"y: got shape \(0, 2\)", lambda f: f(GOOD, GOOD[:0])),
    "no dimensions": (ValueError, r"x: got shape \(4, 0\)", lambda f: f(GOOD[:, :0], GOOD[:, :0])),
    "two dtypes": (ValueError, "y: got torch.float64, expected torch.float32", lambda f: f(GOOD, GOOD.double())),
    "two devices": (ValueError, "y: got a tensor on meta, expected cpu", lambda f: f(GOOD, GOOD.to("meta"))),
    "other dimensions": (ValueError, "y: got points of 1 dimensions, expected 2", lambda f: f(GOOD, GOOD[:, :1])),
    "a bandwidth of 0": (ValueError, r"bandwidths\[1\]: got 0", lambda f: f(GOOD, GOOD, (1, 0))),
    "a negative bandwidth": (ValueError, "bandwidths: got -1.0", lambda f: f(GOOD, GOOD, -1.0)),
    "a bandwidth of NaN": (ValueError, "bandwidths: got nan", lambda f: f(GOOD, GOOD, math.nan)),
    "no bandwidths": (ValueError, "bandwidths: got none", lambda f: f(GOOD, GOOD, [])),
    "text": (TypeError, "bandwidths: got str", lambda f: f(GOOD, GOOD, "1")),
    "a tensor of bandwidths": (TypeError, "bandwidths: got Tensor", lambda f: f(GOOD, GOOD, torch.ones(2))),
    "an energy bandwidth": (ValueError, "bandwidths: got 1.0.*None", lambda f: f(GOOD, GOOD, 1.0, kernel="energy")),
    "an unknown kernel": (ValueError, "kernel: got 'rbf'.*'gaussian'", lambda f: f(GOOD, GOOD, kernel="rbf")),
    "an unknown precision": (ValueError, "precision: got 'bf16'", lambda f: f(GOOD, GOOD, precision="bf16")),
    "alpha": (ValueError, "alpha: got 0", lambda f: f(GOOD, GOOD, kernel="rational_quadratic", alpha=0)),
    "weight": (TypeError, "weight: got str", lambda f: f(GOOD, GOOD, weight="1")),
    "one point, unbiased": (
        ValueError,
        "x: got 1 point, expected at least 2",
        lambda f: f(GOOD[:1], GOOD, unbiased=True),
    ),
    "one target, unbiased": (ValueError, "y: got 1 point", lambda f: f(GOOD, GOOD[:1], unbiased=True)),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", ["mmd_loss", "mmd_value_and_grad"])
def test_bad_input(case, function):
    error, message, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=message) as caught:
        call(getattr(fastgan, function))
    assert "\n" not in str(caught.value) and kernels.launch_count() == launches


def test_one_target_is_enough_where_it_is_not_averaged():
    fastgan.mmd_loss(GOOD, GOOD[:1], unbiased=True, include_target_term=False)
    with pytest.raises(ValueError, match="grad_scale"):
        fastgan.mmd_value_and_grad(GOOD, GOOD, grad_scale=torch.ones(2))


# What only a GPU can show.


def on_gpu(n, m, d, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    x, y = (torch.randn(k, d, generator=generator, device="cuda") for k in (n, m))
    return x.to(dtype), (y + 0.5 / math.sqrt(d)).to(dtype)


GPU_SIZES = [(100, 130, 2), (3000, 2000, 64), (500, 700, 300)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", mmd.PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(100, 130, 2), (400, 300, 64), (150, 90, 300)], ids=str)
def test_gpu_against_float64(shape, dtype, precision):
    """The matrix units for what they are: three passes of tf32 to 1e-5 of the sums, one pass to 2^-8 of them."""
    rtol = None if dtype == torch.float64 or precision == "exact" or shape[2] <= 4 else 1e-5
    if precision == "tf32" and dtype != torch.float64:
        rtol = 2.0**-8
    s = math.sqrt(shape[2])
    for kernel in ("gaussian", "rational_quadratic"):
        check(*on_gpu(*shape, dtype), (s, 2 * s), rtol=rtol, kernel=kernel, precision=precision, unbiased=True)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", GPU_SIZES, ids=str)
def test_gpu_launches_no_wait_and_same_bits(shape):
    from bench.harness.graph_nodes import kernel_nodes

    x, y = on_gpu(*shape)
    want = fastgan.mmd_value_and_grad(x, y)
    assert kernel_nodes(lambda: fastgan.mmd_value_and_grad(x, y)) == {"kernel": 1}
    torch.cuda.set_sync_debug_mode("error")
    try:
        leaf = x.clone().requires_grad_()
        fastgan.mmd_loss(leaf, y).backward()
        for _ in range(200):
            again = fastgan.mmd_value_and_grad(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again.loss, want.loss) and torch.equal(again.grad, want.grad)
    torch.testing.assert_close(leaf.grad, want.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", GPU_SIZES, ids=str)
def test_gpu_capture_replay_and_streams(shape):
    """Replays on new data give what eager gives, beside eager launches on another stream, to the last bit."""
    static = on_gpu(*shape)
    fastgan.mmd_value_and_grad(*static)
    torch.cuda.synchronize()
    graph, other = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        captured = fastgan.mmd_value_and_grad(*static)
    beside = on_gpu(*shape, seed=9)
    want_beside = fastgan.mmd_value_and_grad(*beside)
    for seed in range(1, 4):
        fresh = on_gpu(*shape, seed=seed)
        for s, f in zip(static, fresh):
            s.copy_(f)
        torch.cuda.synchronize()
        graph.replay()
        with torch.cuda.stream(other):
            got = fastgan.mmd_value_and_grad(*beside)
        torch.cuda.synchronize()
        want = fastgan.mmd_value_and_grad(*fresh)
        assert torch.equal(captured.loss, want.loss) and torch.equal(captured.grad, want.grad)
        assert torch.equal(got.loss, want_beside.loss) and torch.equal(got.grad, want_beside.grad)


@pytest.mark.gpu
def test_gpu_memory_of_65536_points():
    """One matrix of these pairs takes 16 GiB."""
    from bench.harness.clock import Cuda

    x, y = on_gpu(2**16, 2**16, 64)
    fastgan.mmd_value_and_grad(x[:1000], y[:1000], 8.0)
    assert Cuda(quick=True).peak_bytes(lambda _: fastgan.mmd_value_and_grad(x, y, 8.0)) <= x.nbytes + 4096
    out = fastgan.mmd_value_and_grad(x, y, 8.0)
    assert out.grad.isfinite().all() and 0 < out.loss.item() < 1
