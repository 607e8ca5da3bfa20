"""Maximum mean discrepancy on a GPU: values, launches, no synchronisation, graphs, memory."""

import math

import pytest
import torch
from mmd_float64 import check

import fastgan
from fastgan.losses import mmd


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
    """The accuracy of the matrix units: three passes of tf32 to 1e-5 of the sums, one pass to 2^-8 of them."""
    rtol = None if dtype == torch.float64 or precision == "exact" or shape[2] <= 4 else 1e-5
    if precision == "tf32" and dtype != torch.float64:
        rtol = 2.0**-8
    s = math.sqrt(shape[2])
    for kernel in ("gaussian", "rational_quadratic"):
        check(*on_gpu(*shape, dtype), (s, 2 * s), rtol=rtol, kernel=kernel, precision=precision, unbiased=True)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", GPU_SIZES, ids=str)
def test_gpu_one_launch_no_synchronisation_and_identical_bits(shape):
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
    """During eager launches on another stream, replays on new data give eager's results to the last bit."""
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
