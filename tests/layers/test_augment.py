"""Differentiable augmentation against DiffAugment's own steps in float64; draws, launches and errors."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from oracle import ulp

from fastgan import cpu, kernels
from fastgan.formulas.augment import Augmentation
from fastgan.layers.augment import POLICIES, ada_step, augment, draw_augmentation

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")
# Odd sides, one channel, one pixel, more channels than a tile has, a sample that several programs share, many samples.
SHAPES = [(2, 3, 33, 17), (5, 1, 8, 8), (3, 1, 1, 1), (1, 70, 5, 3), (1, 3, 64, 33), (9, 4, 6, 7)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


def seeded(device="cpu", seed=0):
    return torch.Generator(device).manual_seed(seed)


def drawn(shape, device, policy=POLICIES, seed=0, **options):
    """Of a CPU generator, so that every backend has the same."""
    return Augmentation(
        *(p.to(device) for p in draw_augmentation(shape[0], shape, policy, generator=seeded(seed=seed), **options))
    )


def images(shape, dtype=torch.float32, device="cpu", seed=1):
    return torch.randn(shape, generator=seeded(seed=seed), dtype=torch.float64).to(dtype).to(device)


def moved(y, parameters, n):
    """Flip, translation and cutout of one image, by padding and slices."""
    height, width = y.shape[1:]
    y = y.flip(-1) if parameters.flip[n] else y
    rows, columns = parameters.translation[n].tolist()
    y = F.pad(y, (width, width, height, height))[:, height + rows :][:, :height, width + columns :][..., :width]
    (i, j), (h, w) = parameters.cutout_centre[n].tolist(), parameters.cutout_size[n].tolist()
    kept = torch.ones(height, width, dtype=torch.bool)
    kept[max(0, i - h // 2) : max(0, i - h // 2 + h), max(0, j - w // 2) : max(0, j - w // 2 + w)] = False
    return torch.where(kept, y, 0.0)


def reference(x, parameters):
    """As DiffAugment has it: brightness, saturation, contrast, one after the other."""
    parameters, found = Augmentation(*(p.cpu() for p in parameters)), []
    for n, y in enumerate(x):
        b, s, c = (p[n].double() for p in parameters[:3])
        y = y + b
        grey = y.mean(0, keepdim=True)
        y = (y - grey) * s + grey
        y = (y - y.mean()) * c + y.mean()
        found.append(moved(y, parameters, n))
    return torch.stack(found)


def sizes(x, parameters, double):
    """The sum of the absolute values of all that makes an output: what a rounding error is relative to. In float64 the
    reference rounds as well, and numbers that cancel in it."""
    parameters, found = Augmentation(*(p.cpu() for p in parameters)), []
    for n, y in enumerate(x):
        b, s, c = (p[n].double() for p in parameters[:3])
        size = (c * s).abs() * y + (c * (1 - s)).abs() * y.mean(0) + (1 - c).abs() * y.mean() + b.abs()
        found.append(moved(size + y + y.mean(0) + y.mean() + b.abs() if double else size, parameters, n))
    return torch.stack(found)


def assert_right(got, want, size, dtype, elements):
    """At most twelve roundings of numbers up to `size`, and of a mean that a lane adds up in a few; half precision also
    rounds the result (Triton's interpreter cuts bfloat16 off: a whole unit in the last place)."""
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    allowed = (12 + elements / 512) * eps * size
    if dtype in (torch.bfloat16, torch.float16):
        allowed = allowed + ulp(want, dtype)
    off = (got.detach().cpu().double() - want).abs()
    bad = ~(off <= allowed)
    assert got.dtype == dtype and not bad.any(), (
        f"{int(bad.sum())} of {bad.numel()}: {got[bad.to(got.device)][:3]}, want {want[bad][:3]}"
    )


def check(x, parameters):
    """Values and gradient of the map at x."""
    exact, dtype = x.detach().cpu().double().requires_grad_(), x.dtype
    want = reference(exact, parameters)
    size_of = x.detach().cpu().double().abs().requires_grad_()
    size = sizes(size_of, parameters, dtype == torch.float64)
    elements = math.prod(x.shape[1:])
    x = x.detach().requires_grad_()
    got = augment(x, parameters)
    assert_right(got, want.detach(), size.detach(), dtype, elements)
    assert got.stride() == x.stride() or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
    upstream = images(x.shape, dtype, x.device, seed=2)
    (grad,) = torch.autograd.grad(got, x, upstream)
    upstream = upstream.cpu().double()
    (want,) = torch.autograd.grad(want, exact, upstream)
    (size,) = torch.autograd.grad(size, size_of, upstream.abs())
    assert_right(grad, want, size, dtype, elements)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(device, shape, layout):
    check(LAYOUTS[layout](images(shape, torch.float32, device)), drawn(shape, device))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_dtypes(device, dtype, layout):
    shape = (3, 3, 9, 12)
    check(LAYOUTS[layout](images(shape, dtype, device)), drawn(shape, device))


@pytest.mark.thorough
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [*SHAPES, (5, 3, 40, 40), (7, 2, 16, 16), (2, 130, 7, 6), (70, 3, 5, 4), (4, 3, 80, 64)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape(device, shape, dtype, layout):
    for seed in range(2):
        x = images(shape, dtype, device, seed)
        check(LAYOUTS[layout](x), drawn(shape, device, seed=seed))


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_alone(device, policy):
    shape = (6, 3, 16, 11)
    parameters = drawn(shape, device, policy)
    others = {"color": range(3, 7), "translation": (0, 1, 2, 4, 5, 6), "cutout": (0, 1, 2, 3, 6), "flip": range(6)}
    still = identity(6, device)
    assert all(torch.equal(parameters[i], still[i]) for i in others[policy] if i != 4)
    assert any(not torch.equal(a, b) for a, b in zip(parameters, still))
    x = images(shape, device=device)
    check(x, parameters)
    out = augment(x, parameters)
    if policy == "cutout":
        cut = (out == 0).all(1)
        assert torch.equal(out, torch.where(cut[:, None], 0.0, x)) and cut.any((1, 2)).all()
    if policy == "flip":
        assert torch.equal(out, torch.where(parameters.flip[:, None, None, None], x.flip(-1), x))


def identity(n, device):
    whole = torch.zeros(n, 2, dtype=torch.int32, device=device)
    one, flip = torch.ones(n, device=device), torch.zeros(n, dtype=torch.bool, device=device)
    return Augmentation(torch.zeros(n, device=device), one, one, whole, whole, whole, flip)


def bits(x):
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_happens_at_probability_0_to_the_bit(device, dtype):
    shape = (3, 3, 6, 10)
    x = images(shape, dtype, device)
    x[0, :, 0, :7] = torch.tensor([-0.0, 0.0, INF, -INF, NAN, torch.finfo(dtype).tiny, torch.finfo(dtype).max])
    for parameters in (drawn(shape, device, p=0.0), drawn(shape, device, p=torch.zeros(()))):
        leaf = x.clone().requires_grad_()
        out = augment(leaf, parameters)
        nan = x.isnan()
        assert torch.equal(bits(out)[~nan], bits(x)[~nan]) and out[nan].isnan().all()
        (grad,) = torch.autograd.grad(out, leaf, x)
        assert torch.equal(bits(grad)[~nan], bits(x)[~nan]) and grad[nan].isnan().all()


@pytest.mark.parametrize("value", [NAN, INF])
def test_nan_and_infinity_go_where_a_mean_takes_them(device, value):
    shape = (3, 3, 5, 6)
    x = images(shape, device=device)
    x[1, 2, 3, 4] = value
    still = identity(3, device)
    half = torch.full((3,), 0.5, device=device)
    at = torch.zeros(shape, dtype=torch.bool, device=device)
    at[1, 2, 3, 4] = True
    for name, where in (
        ("brightness", at),
        ("saturation", at.any(1, keepdim=True)),
        ("contrast", at.any((1, 2, 3), keepdim=True)),
    ):
        parameters = still._replace(**{name: half})
        out = augment(x, parameters)
        assert torch.equal(~out.isfinite(), where.expand(shape)), name
    for changed in ((0.5, 0.7), (1.5, 1.2), (0.0, 0.5)):
        parameters = still._replace(
            **dict(zip(("saturation", "contrast"), (torch.full((3,), v, device=device) for v in changed)))
        )
        out, want = augment(x, parameters), reference(x.double().cpu(), parameters)
        assert torch.equal(out.isnan().cpu(), want.isnan()) and torch.equal(out.isinf().cpu(), want.isinf())
    away = torch.tensor([[0, 0], [-4, 0], [0, 0]], dtype=torch.int32, device=device)
    assert augment(x, still._replace(translation=away)).isfinite().all(), "what is moved out or cut is gone"


def test_the_transpose_is_the_transpose(device):
    """<A x, y> = <x, A' y>, with the brightness left out; and the derivative of the gradient is A again."""
    shape = (4, 3, 12, 9)
    parameters = drawn(shape, device)
    x, y, v = (images(shape, torch.float64, device, seed) for seed in range(3))
    offset = augment(torch.zeros_like(x), parameters)
    x.requires_grad_()
    y.requires_grad_()
    out = augment(x, parameters)
    (back,) = torch.autograd.grad(out, x, y, create_graph=True)
    for left, right in ((out - offset, y), (x, back)):
        assert left.shape == right.shape
    forward, backward = ((out - offset) * y).sum((1, 2, 3)), (x * back).sum((1, 2, 3))
    size = ((out - offset).abs() * y.abs()).sum((1, 2, 3)) + (x.abs() * back.abs()).sum((1, 2, 3))
    assert ((forward - backward).abs() <= 1e-15 * size).all()
    (again,) = torch.autograd.grad(back, y, v, create_graph=True)
    want = augment(v, parameters) - offset
    assert ((again - want).abs() <= 1e-15 * (want.abs() + offset.abs() + v.abs().amax())).all()
    assert again.requires_grad is False or torch.autograd.grad(again.sum(), y, allow_unused=True) == (None,)


def test_gradcheck_and_gradgradcheck(device):
    shape = (2, 2, 3, 4)
    x, parameters = images(shape, torch.float64, device).requires_grad_(), drawn(shape, device)
    assert torch.autograd.gradcheck(lambda x: augment(x, parameters), x, fast_mode=False)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, parameters).square(), x, fast_mode=True)


def test_any_view(device):
    shape = (3, 4, 6, 5)
    parameters = drawn(shape, device)
    big = images((4, 5, 12, 12), device=device)
    views = {
        "slice": big[1:, 1:, ::2, 2:7],
        "offset": big.flatten()[1 : 1 + math.prod(shape)].view(shape),
        "expanded": big[:1, :1, :6, :5].expand(shape),
        "transposed": big[:3, :4, :5, :6].transpose(2, 3),
        "batch last": big[:3, :4, :6, :5].permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "negative": torch.complex(big, big)[:3, :4, :6, :5].contiguous().conj().imag,
        "channels_last, some": big.contiguous(memory_format=torch.channels_last)[1:, :, 3:9, 4:9][:, :4],
    }
    for name, view in views.items():
        assert view.shape == shape, name
        assert torch.equal(augment(view, parameters), augment(view.clone().contiguous(), parameters)), name
    every = Augmentation(*(p[:1].expand(3, *p.shape[1:]) for p in parameters))
    copied = Augmentation(*(p.contiguous() for p in every))
    x = views["slice"]
    assert torch.equal(augment(x, every), augment(x, copied))
    assert torch.equal(augment(x, every._replace(brightness=torch._neg_view(-every.brightness))), augment(x, copied))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)], ids=str)
def test_empty(device, shape):
    x, parameters = torch.zeros(shape, device=device, requires_grad=True), drawn(shape, device)
    launches = kernels.launch_count()
    out = augment(x, parameters)
    out.sum().backward()
    assert out.shape == x.grad.shape == shape and kernels.launch_count() == launches


def test_one_launch_forward_and_one_backward(kernel_device):
    for shape in ((2, 3, 24, 32), (9, 3, 8, 8)):  # several programs a sample, one program a sample
        parameters = drawn(shape, kernel_device)
        x = images(shape, device=kernel_device).requires_grad_()
        before = kernels.launch_count()
        out = augment(x, parameters)
        assert kernels.launch_count() == before + 1
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        assert kernels.launch_count() == before + 2
        torch.autograd.grad(grad.square().sum(), x)
        assert kernels.launch_count() <= before + 5  # the linear part, and the gradient again


def test_how_many_programs_share_a_sample():
    blocks = import_module("fastgan.kernels.augment").blocks
    for n, c, pixels, dtype in (
        (1, 3, 2**20, torch.float32),
        (16, 3, 2**16, torch.bfloat16),
        (600, 3, 1024, torch.float32),
    ):
        sizes, parts, warps = blocks(n, c, pixels, dtype, 132)
        assert (parts == 1) == (n >= 264) and n * parts <= 1024 and parts <= sizes["PARTS"] < 2 * parts
        assert parts <= -(-pixels // sizes["BLOCK"]) and warps in (4, 8)


def test_runs_are_bit_identical_and_leave_the_counters_clean(kernel_device):
    shape = (2, 3, 24, 32)
    x, parameters = images(shape, device=kernel_device), drawn(shape, kernel_device)
    first = augment(x, parameters)
    plan = import_module("fastgan.kernels.augment").plan
    assert plan(x.shape, False, x.dtype, x.device, "map").numbers[1] > 1
    assert all(torch.equal(augment(x, parameters), first) for _ in range(2))
    _, counters = import_module("fastgan.kernels.workspace").workspace(x.device)
    assert not counters.any()


def test_the_plan_of_a_shape_is_made_once(kernel_device):
    plan = import_module("fastgan.kernels.augment").plan
    x, parameters = images((3, 3, 5, 7), device=kernel_device), drawn((3, 3, 5, 7), kernel_device)
    augment(x, parameters)
    hits, misses = plan.cache_info()[:2]
    augment(x, parameters)
    assert plan.cache_info()[:2] == (hits + 1, misses)


def test_under_compile_and_transforms(device):
    torch._dynamo.reset()
    shape = (3, 2, 4, 5)
    x, parameters = images(shape, device=device).requires_grad_(), drawn(shape, device)

    def loss(x):
        return augment(x, parameters).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    want, got = loss(x), compiled(x)
    assert torch.equal(got, want) and torch.equal(*(torch.autograd.grad(v, x)[0] for v in (got, want)))
    with_draw = torch.compile(
        lambda x, p: augment(x, draw_augmentation(3, x.shape, p=p)), backend="eager", fullgraph=True
    )
    p = torch.zeros((), device=device)
    assert torch.equal(with_draw(x, p), x)
    with torch.inference_mode():
        inside = augment(x, parameters)
    assert torch.equal(inside, augment(x, parameters))
    batch = torch.stack([images(shape, device=device, seed=seed) for seed in range(3)])
    each = [torch.func.grad(loss)(x) for x in batch]
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(batch), torch.stack(each))
    assert torch.equal(torch.func.vmap(torch.func.grad(loss), 1, 1)(batch.movedim(0, 1)), torch.stack(each, 1))


def test_opcheck(device):
    shape = (3, 2, 4, 5)
    x, parameters = images(shape, device=device), drawn(shape, device)
    for p in (None, torch.tensor(0.5, device=device)):
        arguments = (torch.rand(5, 12, device=device), p, 1.0, 15, [1, 1, 4, 4, 9, 9])
        torch.library.opcheck(torch.ops.fastgan.draw_augmentation, arguments)
    for form, layout in (("map", "contiguous"), ("transpose", "channels_last"), ("linear", "contiguous")):
        torch.library.opcheck(torch.ops.fastgan.augment, (LAYOUTS[layout](x), *parameters, form))


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_what_is_drawn():
    n, height, width = 40_000, 32, 21
    b, s, c, translation, centre, size, flip = draw_augmentation(n, (3, height, width), POLICIES, generator=seeded())
    for values, low, high in ((b, -0.5, 0.5), (s, 0.0, 2.0), (c, 0.5, 1.5)):
        assert values.dtype == torch.float32 and low <= values.min() and values.max() <= high
        in_order = ((values.double() - low) / (high - low)).sort().values
        # Kolmogorov and Smirnov's distance: beyond 1.95 / sqrt(n) once in a thousand seeds.
        assert (in_order - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / n**0.5
    for values, count, least in (
        *((translation[:, 0], 2 * 4 + 1, -4), (translation[:, 1], 2 * 3 + 1, -3)),
        *((centre[:, 0], height + 1, 0), (centre[:, 1], width, 0)),  # half of 21, rounded, is 11, an odd size
    ):
        assert values.dtype == torch.int32 and values.min() == least and values.max() == least + count - 1
        seen, expected = torch.bincount(values - least, minlength=count), n / count
        assert ((seen - expected).square() / expected).sum() < count + 6 * (2 * count) ** 0.5  # chi-squared
    assert (size == torch.tensor([16, 11])).all() and abs(flip.double().mean() - 0.5) < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_share_of_samples_with_each_entry_is_p(as_tensor):
    n, p = 20_000, 0.3
    given = torch.tensor(p) if as_tensor else p
    b, s, c, translation, _, size, flip = draw_augmentation(n, (32, 32), POLICIES, given, generator=seeded(seed=3))
    coloured = (b != 0) | (s != 1) | (c != 1)
    for what, share in (
        (coloured, p),
        (size[:, 0] > 0, p),
        (translation.ne(0).any(1), p * (1 - 1 / 81)),
        (flip, p / 2),
    ):
        assert abs(what.double().mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    both = (coloured & (size[:, 0] > 0)).double().mean()
    assert abs(both - p * p) < 4 * (p * p / n) ** 0.5, "entries are independent"


@pytest.mark.parametrize("n", [0, 1, 300])
def test_every_backend_draws_the_same_in_one_launch(kernel_device, n):
    u, extents = torch.rand(n, 12, generator=seeded(seed=4)), [2, 4, 6, 15, 13, 30]
    for policy, chance, p in ((15, 1.0, None), (5, 0.3, None), (8, 1.0, 0.6), (2, 0.0, 0.5), (0, 1.0, None)):
        p = None if p is None else torch.tensor(p, dtype=torch.float64)
        want, launches = cpu.draw_augmentation(u, p, chance, policy, extents), kernels.launch_count()
        there = None if p is None else p.to(kernel_device)
        got = kernels.draw_augmentation(u.to(kernel_device), there, chance, policy, extents)
        assert kernels.launch_count() == launches + (n > 0)
        for a, b in zip(got, want):
            assert torch.equal(a.cpu(), b) and a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous()


def test_draws_take_as_many_numbers_whatever_is_asked():
    states = []
    for policy, p in ((POLICIES, 1.0), ((), 0.0), ("flip", 0.5), (["cutout", "color"], torch.tensor(0.7))):
        generator = seeded()
        draw_augmentation(7, (8, 8), policy, p, generator=generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    whole, part = (draw_augmentation(7, (8, 8), policy, generator=seeded()) for policy in (POLICIES, "color"))
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], part[:3]))
    torch.manual_seed(0)
    assert torch.equal(draw_augmentation(7, (8, 8)).brightness, whole.brightness)


def test_draws_on_the_device_of_p_or_of_the_generator():
    p = torch.ones((), device="meta")
    found = draw_augmentation(3, (8, 8), POLICIES, p)
    assert {t.device.type for t in found} == {"meta"}
    real = draw_augmentation(3, (8, 8), POLICIES)
    assert [(t.shape, t.dtype, t.stride()) for t in found] == [(t.shape, t.dtype, t.stride()) for t in real]
    with torch.device("meta"):
        assert {t.device.type for t in draw_augmentation(3, (8, 8), POLICIES)} == {"cpu"}


def test_ada_step():
    p = torch.tensor(0.5, dtype=torch.float64)
    assert ada_step(p, torch.tensor(0.9), 64) is p and p == 0.5 + 64 / 500_000
    ada_step(p, torch.tensor(0.1), 100, images=1000)
    assert p == 0.5 + 64 / 500_000 - 0.1
    ada_step(p, torch.tensor(0.25), 500, target=0.25)
    ada_step(p, torch.tensor(NAN), 500)
    assert p == 0.5 + 64 / 500_000 - 0.1
    for sign, end in ((1.0, 1.0), (-1.0, 0.0)):
        for _ in range(3):
            ada_step(p, torch.tensor(sign, dtype=torch.bfloat16), 500_000)
        assert p == end


P = draw_augmentation(2, (4, 4))
X = torch.zeros(2, 3, 4, 4)
Z = torch.zeros(())
BAD = {
    "no tensor": (TypeError, "x: got list", lambda: augment([1.0], P)),
    "whole numbers": (TypeError, "x: got torch.int64", lambda: augment(X.long(), P)),
    "three dimensions": (ValueError, r"x: got shape \(3, 4, 4\)", lambda: augment(X[0], P)),
    "sparse": (ValueError, "x: got a torch.sparse", lambda: augment(X.to_sparse(), P)),
    "too large": (ValueError, "x: got shape .*2.30", lambda: augment(X[:, :1, :1, :1].expand(2, 3, 2**15, 2**15), P)),
    "a tuple": (TypeError, "parameters: got tuple", lambda: augment(X, tuple(P))),
    "another batch": (ValueError, r"brightness: got shape \(2,\), expected \(1,\)", lambda: augment(X[:1], P)),
    "long": (
        TypeError,
        "translation: got torch.int64",
        lambda: augment(X, P._replace(translation=P.translation.long())),
    ),
    "a number": (TypeError, "contrast: got float", lambda: augment(X, P._replace(contrast=1.0))),
    "a shape": (ValueError, "cutout_size: got shape", lambda: augment(X, P._replace(cutout_size=P.cutout_size[:, :1]))),
    "a device": (ValueError, "flip: got a tensor on meta", lambda: augment(X, P._replace(flip=P.flip.to("meta")))),
    "a gradient": (
        *(ValueError, "saturation: .*requires a gradient"),
        lambda: augment(X, P._replace(saturation=P.saturation.clone().requires_grad_())),
    ),
    "a policy": (
        ValueError,
        "policy: got 'cutuot'; did you mean 'cutout'",
        lambda: draw_augmentation(2, (4, 4), ("cutuot",)),
    ),
    "colour": (
        ValueError,
        "policy: got 'colour'; did you mean 'color'",
        lambda: draw_augmentation(2, (4, 4), "colour"),
    ),
    "an unknown policy": (ValueError, "policy: got 'x'; expected some of", lambda: draw_augmentation(2, (4, 4), "x")),
    "a policy of numbers": (TypeError, r"policy\[0\]: got int", lambda: draw_augmentation(2, (4, 4), [1])),
    "n": (ValueError, "n: got -1", lambda: draw_augmentation(-1, (4, 4))),
    "a side": (ValueError, "shape: got 4", lambda: draw_augmentation(2, 4)),
    "one side": (ValueError, r"shape: got \(4,\)", lambda: draw_augmentation(2, (4,))),
    "p": (ValueError, "p: got 1.5", lambda: draw_augmentation(2, (4, 4), p=1.5)),
    "p of the batch": (ValueError, r"p: .*shape \(2,\)", lambda: draw_augmentation(2, (4, 4), p=torch.ones(2))),
    "a whole p": (ValueError, "p: got a torch.int64", lambda: draw_augmentation(2, (4, 4), p=torch.tensor(1))),
    "p elsewhere": (
        ValueError,
        "p: got one on meta",
        lambda: draw_augmentation(2, (4, 4), p=Z.to("meta"), device="cpu"),
    ),
    "a generator": (TypeError, "generator: got int", lambda: draw_augmentation(2, (4, 4), generator=0)),
    "a generator elsewhere": (
        *(ValueError, "generator: got one on cpu, expected cuda"),
        lambda: draw_augmentation(2, (4, 4), generator=seeded(), device="cuda"),
    ),
    "p as a number": (TypeError, "p: got float", lambda: ada_step(0.5, Z, 4)),
    "p of half precision": (TypeError, "p: got torch.bfloat16", lambda: ada_step(Z.bfloat16(), Z, 4)),
    "p of several": (ValueError, r"p: got shape \(2,\)", lambda: ada_step(torch.zeros(2), Z, 4)),
    "logits as sign": (ValueError, r"sign: got shape \(8,\)", lambda: ada_step(Z, torch.zeros(8), 4)),
    "sign elsewhere": (ValueError, "sign: got a tensor on meta", lambda: ada_step(Z, Z.to("meta"), 4)),
    "a trained p": (ValueError, "p: .*requires a gradient", lambda: ada_step(Z.clone().requires_grad_(), Z, 4)),
    "no batch": (ValueError, "batch: got 0", lambda: ada_step(Z, Z, 0)),
    "no images": (ValueError, "images: got 0", lambda: ada_step(Z, Z, 4, images=0)),
    "a target": (ValueError, "target: got 1.5", lambda: ada_step(Z, Z, 4, target=1.5)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_runs(case):
    error, said, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=said) as raised:
        call()
    assert "\n" not in str(raised.value) and kernels.launch_count() == launches and Z == 0


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(16, 3, 256, 256), (600, 3, 32, 32), (2, 3, 512, 512)], ids=str)
def test_on_a_gpu_nothing_waits_and_a_graph_draws_what_a_loop_draws(shape):
    x = torch.randn(shape, device="cuda", requires_grad=True)
    p, generator = torch.full((), 0.7, device="cuda"), torch.Generator("cuda")

    def step():
        parameters = draw_augmentation(shape[0], shape, POLICIES, p, generator=generator)
        out = augment(x, parameters)
        (grad,) = torch.autograd.grad(out, x, x)
        return out, grad, ada_step(p, x.detach().sign().mean(), shape[0])

    generator.manual_seed(5)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator.manual_seed(5)
        p.fill_(0.7)
        want = [[v.clone() for v in step()] for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    generator.manual_seed(5)
    with torch.cuda.graph(graph):
        got = step()
    generator.manual_seed(5)
    p.fill_(0.7)
    for expected in want:
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(got, expected))


@pytest.mark.gpu
def test_on_a_gpu_beyond_2_to_the_31_elements():
    x = torch.zeros(2**21 + 3, 1, 32, 32, dtype=torch.float16, device="cuda")
    x[-2:] = images((2, 1, 32, 32), torch.float16, "cuda")
    drawn_for_two = drawn((2, 1, 32, 32), "cuda")
    parameters = Augmentation(*(p[torch.arange(len(x), device="cuda") % 2] for p in drawn_for_two))
    last = Augmentation(*(p[-2:] for p in parameters))
    assert torch.equal(augment(x, parameters)[-2:], augment(x[-2:].clone(), last))
