"""Feature matching that saves signs and frees the maps: the same results in less memory."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from feature_maps import flat, maps
from oracle import LOSS_RTOL, assert_close

import fastgan
from fastgan import kernels

pytestmark = pytest.mark.usefixtures("poisoned")
INF, NAN = float("inf"), float("nan")


def on_both_paths(fake, real, detach_real=True, times=3.7):
    """(loss, gradients) for each value of `save`."""
    results = []
    for save in ("maps", "signs"):
        leaves = [[[x.clone().requires_grad_() for x in d] for d in side] for side in (fake, real)]
        loss = fastgan.feature_matching_loss(*leaves, 0.3, detach_real=detach_real, save=save)
        (times * loss).backward()
        results.append((loss.detach(), [x.grad for side in leaves for x in flat(side)]))
    return results


FEW = [[(1, 4, 341, 2), (1, 16, 51)], [(5,), (1, 1, 1)]]  # a tile and a tail, a tail alone


@pytest.mark.parametrize(
    "dtype, detach_real",
    [
        *[(torch.float32, True), (torch.float32, False)],
        *[(torch.float64, False), (torch.bfloat16, False), (torch.float16, False)],
    ],
    ids=str,
)
def test_signs_give_what_maps_give(device, dtype, detach_real):
    fake, real = maps(FEW, dtype, device, 0), maps(FEW, dtype, device, 1)
    real[0][1].copy_(fake[0][1])  # equal maps: a sign of 0
    (loss, grads), (got, got_grads) = on_both_paths(fake, real, detach_real)
    assert_close(got, loss.double(), loss.dtype, LOSS_RTOL[dtype])
    for g, want in zip(got_grads, grads):
        assert (g is None) == (want is None)
        if g is not None:
            assert_close(g, want, dtype)
    assert all(g is None for g in got_grads[4:]) == detach_real
    exact = sum(0.3 * F.l1_loss(a.double(), b.double()) for a, b in zip(flat(fake), flat(real)))
    assert_close(got, exact, loss.dtype, LOSS_RTOL[dtype])
    if detach_real:
        again = on_both_paths(fake, real)[1]
        assert torch.equal(again[0], got), "bit-identical from run to run"
        assert all(torch.equal(x, y) for x, y in zip(again[1], got_grads) if x is not None)


def test_signs_of_nan_and_infinite_differences_are_those_of_eager(device):
    a, b = torch.randn(5000, device=device), torch.randn(5000, device=device)
    for i, (x, y) in enumerate([(NAN, 0), (0, NAN), (INF, 0), (0, INF), (INF, INF), (-INF, INF), (0.0, -0.0)]):
        a[i + 4094], b[i + 4094] = x, y  # at both ends of a block
    (loss, grads), (got, got_grads) = on_both_paths([[a]], [[b]])
    leaf = a.clone().requires_grad_()
    (3.7 * 0.3 * F.l1_loss(leaf, b)).backward()
    assert loss.isnan() and got.isnan()
    for g in (grads[0], got_grads[0]):
        torch.testing.assert_close(g, leaf.grad, rtol=5e-6, atol=0)


def test_gradcheck_and_gradgradcheck_of_signs(device):
    fake, real = (flat(maps([[(3, 2), (4,)]], torch.float64, device, seed)) for seed in (0, 1))
    inputs = [x.requires_grad_() for x in (*fake, *real)]
    weight = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True)

    def loss(weight, a, b, c, d):
        return weight.square() * fastgan.feature_matching_loss(
            [a, b], [c, d], [0.3, 2.0], detach_real=False, save="signs"
        )

    assert torch.autograd.gradcheck(loss, (weight, *inputs))
    assert torch.autograd.gradgradcheck(loss, (weight, *inputs))  # the mixed derivative goes through the signs


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("save", ["maps", "signs"])
def test_one_side_some_maps_and_several_backward_passes(device, save, side):
    sides = [flat(maps(FEW, torch.float32, device, seed)) for seed in (0, 1)]
    asked = [x.requires_grad_() for x in sides[side][1:3]]
    loss = fastgan.feature_matching_loss(*sides, detach_real=False, save=save)
    first = torch.autograd.grad(loss, asked, torch.tensor(2.0, device=device), retain_graph=True)
    second = torch.autograd.grad(loss, asked, torch.tensor(6.0, device=device))
    for g, h, x, other in zip(first, second, asked, sides[1 - side][1:3]):
        torch.testing.assert_close(g, 2.0 * (x - other).sign() / x.numel(), rtol=1e-6, atol=0)
        torch.testing.assert_close(h, 3 * g, rtol=1e-6, atol=0)


def test_launches_of_signs(kernel_device, monkeypatch):
    matching = import_module("fastgan.kernels.matching")
    assert matching.MAX_TERMS == 64
    if kernel_device.type == "cpu":  # so many take seconds under the interpreter
        monkeypatch.setattr(matching, "MAX_TERMS", 4)
    most = matching.MAX_TERMS
    for pairs, launches in ((1, 1), (most, 1), (most + 1, 2)):
        fake, real = (flat(maps([[(3,)] * pairs], torch.float32, kernel_device, seed)) for seed in (0, 1))
        fake = [x.requires_grad_() for x in fake]
        before = kernels.launch_count()
        loss = fastgan.feature_matching_loss(fake, real, save="signs")
        assert kernels.launch_count() == before + launches
        loss.backward()
        assert kernels.launch_count() == before + 2 * launches
        torch.testing.assert_close(loss, sum(map(F.l1_loss, fake, real)), rtol=3e-6, atol=0)


def test_signs_let_the_maps_go(device):
    fake, real = (flat(maps([[(3, 50), (7,)]], torch.float32, device, seed)) for seed in (0, 1))
    leaves = [x.requires_grad_() for x in fake]
    made = [2 * x for x in leaves]  # multiplication by a number saves nothing
    loss = fastgan.feature_matching_loss(made, real, save="signs")
    kept = [x.untyped_storage() for x in (*made, *real)]
    assert all(torch._C._storage_Use_Count(storage._cdata) > 1 for storage in kept), "what is counted"
    del made, real, fake
    assert all(torch._C._storage_Use_Count(storage._cdata) == 1 for storage in kept)
    loss.backward()
    assert all(x.grad is not None for x in leaves)


@pytest.mark.parametrize("save", ["maps", "signs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_memory_of_each_way_to_save(monkeypatch, dtype, save):
    """Beside the gradients nothing as large as a map, except a byte for each element if signs are saved."""
    from bench.harness.clock import Cpu

    monkeypatch.setattr("fastgan.cpu.blocks.BLOCK", 1 << 12)
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    fake, real = (flat(maps([[(4, 64, 5000)] * 3], dtype, "cpu", seed)) for seed in (0, 1))
    fake = [x.requires_grad_() for x in fake]
    elements, machine = fake[0].numel(), Cpu(quick=True)
    of_map = elements * fake[0].element_size()

    def loss(_=None):
        return fastgan.feature_matching_loss(fake, real, save=save)

    kept = loss()
    for call, least in (
        (loss, 3 * elements if save == "signs" else 0),
        (lambda _: torch.autograd.grad(kept, fake, retain_graph=True), 3 * of_map),
        (lambda _: torch.autograd.grad(loss(), fake), 3 * of_map + (3 * elements if save == "signs" else 0)),
    ):
        call(0)
        assert least <= machine.peak_bytes(call) < least + 0.05 * of_map


def test_signs_compile_and_are_sound_operators(device):
    torch._dynamo.reset()
    fake, real = (flat(maps([[(3, 50), (7,)]], torch.float32, device, seed)) for seed in (0, 1))
    fake = [x.requires_grad_() for x in fake]

    def loss(fake, real):
        return 2 * fastgan.feature_matching_loss(fake, real, [0.5, 2.0], save="signs")

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got, want = compiled(fake, real), loss(fake, real)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    for g, h in zip(torch.autograd.grad(got, fake), torch.autograd.grad(want, fake)):
        assert torch.equal(g, h)
    fake = [x.detach() for x in fake]
    torch.library.opcheck(torch.ops.fastgan.matching_signs, (fake, real, [0.5, 2.0]))
    _, signs = torch.ops.fastgan.matching_signs(fake, real, [0.5, 2.0])
    assert [s.dtype for s in signs] == [torch.int8] * 2
    scale = torch.tensor(0.3, device=device)
    for sides in ((True, False), (False, True), (True, True)):
        arguments = (signs, [0.5, 2.0], torch.float32, scale, *sides)
        torch.library.opcheck(torch.ops.fastgan.matching_gradient, arguments)


def test_signs_in_any_layout(device):
    a, b = torch.randn(2, 3, 30, 41, device=device), torch.randn(2, 3, 30, 41, device=device)
    for x, y in (
        (a.contiguous(memory_format=torch.channels_last), b),
        (a.transpose(2, 3), b.transpose(2, 3)),
        (a[..., ::2], b[..., ::2]),
        (a[:, :0], b[:, :0]),
    ):
        (loss, grads), (got, got_grads) = on_both_paths([[x]], [[y]])
        torch.testing.assert_close(got, loss, rtol=3e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(got_grads[0], grads[0], rtol=1e-6, atol=0)


def test_under_transforms_signs_equal_maps(device):
    a, b = torch.randn(4, 9, device=device), torch.randn(4, 9, device=device)

    def loss(a, b):
        return fastgan.feature_matching_loss(a, b, save="signs")

    torch.testing.assert_close(torch.func.grad(loss)(a, b), (a - b).sign() / 36)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(a, b), (a - b).sign() / 9)


def test_the_plan_of_a_list_of_shapes_is_made_once(kernel_device):
    plans = [import_module(f"fastgan.kernels.{name}").plan for name in ("matching", "adversarial")]
    fake, real = (flat(maps([[(3, 7), (1234,)]], torch.float32, kernel_device, seed)) for seed in (0, 1))
    for plan, save in zip(plans, ("signs", "maps")):
        fastgan.feature_matching_loss(fake, real, save=save)
        hits, misses = plan.cache_info()[:2]
        fastgan.feature_matching_loss(fake, real, save=save)
        assert plan.cache_info()[:2] == (hits + 1, misses)


def test_bad_input_of_save():
    a = torch.zeros(4)
    with pytest.raises(ValueError, match="save: got 'gradients', expected None or 'maps' or 'signs'"):
        fastgan.feature_matching_loss([a], [a], save="gradients")
    with pytest.raises(ValueError, match="save: got 'signs' for p=2, expected 'maps'"):
        fastgan.feature_matching_loss([a], [a], p=2, save="signs")
    with pytest.raises(ValueError, match=r"real_maps: got shape \(3,\), expected \(4,\)"):
        fastgan.feature_matching_loss([a], [a[:3]], save="signs")


@pytest.mark.gpu
@pytest.mark.parametrize("save", ["maps", "signs"])
def test_on_a_gpu_hifigans_maps_take_two_launches_without_synchronisation(save):
    """Also the memory at full size, and a captured graph."""
    from bench.codebases.shapes import hifigan_maps
    from bench.harness.clock import Cuda

    shapes = [shape for maps in hifigan_maps(16, 8192) for shape in maps]
    fake, real = ([torch.randn(shape, device="cuda") for shape in shapes] for _ in range(2))
    fake = [x.requires_grad_() for x in fake]
    elements = sum(x.numel() for x in fake)

    def grads():
        return torch.autograd.grad(fastgan.feature_matching_loss(fake, real, save=save), fake)

    grads()
    torch.cuda.synchronize()
    peak, least = Cuda(quick=True).peak_bytes(lambda _: grads()), 4 * elements + (elements if save == "signs" else 0)
    assert least <= peak < least * 1.001 + 4096
    launches = kernels.launch_count()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = grads()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert kernels.launch_count() == launches + 2
    for g, x, y in zip(found, fake, real):
        torch.testing.assert_close(g, (x - y).sign() / x.numel(), rtol=5e-6, atol=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = grads()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(replayed, found))
