"""Differentiable augmentation against DiffAugment's own steps in float64: values, derivatives, layouts, launches."""

import math
from importlib import import_module

import pytest
import torch
from augment_float64 import DTYPES, check, drawn, images, reference

from fastgan import kernels
from fastgan.formulas.augment import Augmentation
from fastgan.layers.augment import POLICIES, augment, draw_augmentation

pytestmark = pytest.mark.usefixtures("poisoned")
NAN, INF = float("nan"), float("inf")
# Odd sides, one channel, one pixel, more channels than a tile, a sample shared by several programs, many samples.
SHAPES = [(2, 3, 33, 17), (5, 1, 8, 8), (3, 1, 1, 1), (1, 70, 5, 3), (1, 3, 64, 33), (9, 4, 6, 7)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


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
def test_probability_0_changes_no_bit(device, dtype):
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
def test_nan_and_infinity_spread_as_far_as_the_means(device, value):
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
    """<A x, y> = <x, A' y> without the brightness; the derivative of the gradient is A again."""
    shape = (4, 3, 12, 9)
    parameters = drawn(shape, device)
    x, y, v = (images(shape, torch.float64, device, seed) for seed in range(3))
    offset = augment(torch.zeros_like(x), parameters)
    x.requires_grad_()
    y.requires_grad_()
    out = augment(x, parameters)
    (back,) = torch.autograd.grad(out, x, y, create_graph=True)
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
    for shape in ((2, 3, 24, 32), (9, 3, 8, 8)):  # several programs for each sample; one program
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


@pytest.mark.gpu
def test_on_a_gpu_beyond_2_to_the_31_elements():
    x = torch.zeros(2**21 + 3, 1, 32, 32, dtype=torch.float16, device="cuda")
    x[-2:] = images((2, 1, 32, 32), torch.float16, "cuda")
    drawn_for_two = drawn((2, 1, 32, 32), "cuda")
    parameters = Augmentation(*(p[torch.arange(len(x), device="cuda") % 2] for p in drawn_for_two))
    last = Augmentation(*(p[-2:] for p in parameters))
    assert torch.equal(augment(x, parameters)[-2:], augment(x[-2:].clone(), last))
