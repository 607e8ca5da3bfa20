"""Tests that need a GPU: launches counted by the profiler, no synchronisation, capture and replay, streams."""

import importlib

import pytest
import torch
from oracle import assert_close, assert_loss, term

import fastgan
from bench.harness.clock import Cuda
from bench.harness.graph_nodes import kernel_nodes
from fastgan import kernels
from fastgan.operators.dispatch import backend_for

pytestmark = pytest.mark.gpu
SIZES = [(100, 128), (30_000, 40_000), (3_000_000, 2_000_001)]


def sides(sizes, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return [(3 * torch.randn(n, generator=generator, device="cuda")).to(dtype) for n in sizes]


def training_path(real, fake):
    out = fastgan.discriminator_value_and_grad(real, fake)
    return [out.loss, out.terms, *out.grads]


def drop_in(real, fake):
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    loss = fastgan.discriminator_loss(real, fake)
    return [loss.detach(), *torch.autograd.grad(loss, [real, fake])]


def list_path(real, fake):
    """Five discriminators on each side: ten terms, with a ticket each and one for all."""
    lists = [[*x.tensor_split(5)] for x in (real, fake)]
    out = fastgan.discriminator_value_and_grad(*lists, "hinge")
    return [out.loss, out.terms, *out.grads]


def pairs_path(real, fake):
    n = min(len(real), len(fake))
    out = fastgan.discriminator_value_and_grad(real[:n], fake[:n], "relativistic")
    return [out.loss, out.terms, *out.grads]


def test_cuda_tensors_go_to_triton():
    assert backend_for(torch.device("cuda")) == "triton"
    assert backend_for(torch.device("cpu")) == "torch"


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("path", "launches"), [(training_path, 1), (drop_in, 2), (list_path, 1), (pairs_path, 1)])
def test_kernels_counted_as_graph_nodes_and_by_the_profiler(path, launches, sizes):
    inputs = sides(sizes)
    grad_output = torch.ones((), device="cuda")
    if path is drop_in:
        real, fake = (x.requires_grad_() for x in inputs)

        def path(real=real, fake=fake):
            return torch.autograd.grad(fastgan.discriminator_loss(real, fake), [real, fake], grad_output)

        inputs = ()
    path(*inputs)
    assert kernel_nodes(lambda: path(*inputs)) == {"kernel": launches}
    names = [event.name for event in Cuda(quick=True).kernels(lambda _: path(*inputs))]
    assert len(names) == launches, names
    assert all("adversarial_kernel" in name for name in names)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("path", [training_path, drop_in, list_path, pairs_path])
def test_no_host_synchronisation(path, sizes):
    inputs = sides(sizes)
    scale = torch.tensor(3.0, device="cuda")
    path(*inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        path(*inputs)
        out = fastgan.discriminator_value_and_grad(*inputs, grad_scale=scale)
        _ = out.loss_real, out.stats.error
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("path", [training_path, drop_in, list_path, pairs_path])
def test_capture_and_replay(path, sizes):
    """Each replay of a graph on new data gives the result of an eager call, to the last bit."""
    static = sides(sizes)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            path(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = path(*static)
    for seed in range(1, 6):
        fresh = sides(sizes, seed=seed)
        for x, y in zip(static, fresh):
            x.copy_(y)
        graph.replay()
        replayed = [x.clone() for x in captured]
        for a, b in zip(replayed, path(*fresh)):
            assert torch.equal(a, b)


def test_a_graph_and_eager_launches_share_no_workspace():
    """Replays on one stream during eager launches on another; two captured launches on parallel branches."""
    static, eager_inputs = sides(SIZES[2]), sides(SIZES[2], seed=7)
    training_path(*static)
    torch.cuda.synchronize()
    graph, branch = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        branch.wait_stream(torch.cuda.current_stream())
        first = training_path(*static)
        with torch.cuda.stream(branch):
            second = training_path(*static)
        torch.cuda.current_stream().wait_stream(branch)
    want, want_eager = training_path(*static), training_path(*eager_inputs)
    other = torch.cuda.Stream()
    torch.cuda.synchronize()
    for _ in range(200):
        graph.replay()
        with torch.cuda.stream(other):
            got = training_path(*eager_inputs)
    torch.cuda.synchronize()
    for a, b, c in zip(first, second, want):
        assert torch.equal(a, c) and torch.equal(b, c)
    for a, b in zip(got, want_eager):
        assert torch.equal(a, b)


def test_the_drop_ins_of_codebases_do_not_synchronise():
    """HiFi-GAN's sixteen tensors: one launch forward, one backward; also LeCam's moving averages."""
    from fastgan.compat import hifigan, studiogan, taming

    shapes = [(16, n) for n in (102, 102, 105, 105, 110, 128, 65, 33)]
    real, fake = ([torch.randn(s, device="cuda", requires_grad=True) for s in shapes] for _ in range(2))
    ema = fastgan.losses.LeCamEMA().cuda()

    def step():
        loss, real_losses, fake_losses = hifigan.discriminator_loss(real, fake)
        loss.backward()
        hifigan.generator_loss(fake)[0].backward()
        stats = fastgan.discriminator_value_and_grad(real[0], fake[0], "hinge").stats
        ema.update(stats.real_mean, stats.fake_mean)
        ema(real[0], fake[0]).backward()
        taming.hinge_d_loss(real[0], fake[0]).backward()
        studiogan.d_ls(real[0], fake[0]).backward()
        return real_losses, fake_losses

    step()
    before = kernels.launch_count()
    loss, *_ = hifigan.discriminator_loss(real, fake)
    loss.backward()
    assert kernels.launch_count() == before + 2
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_streams():
    inputs = [sides((400_000, 300_000), seed=seed) for seed in range(2)]
    want = [training_path(*x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for _ in range(300):
        for stream, x in zip(streams, inputs):
            with torch.cuda.stream(stream):
                results.append(training_path(*x))
    torch.cuda.synchronize()
    for k, got in enumerate(results):
        assert all(torch.equal(a, b) for a, b in zip(got, want[k % 2]))


@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
def test_ten_thousand_reruns_are_bit_identical(sizes):
    inputs = sides(sizes)
    want = training_path(*inputs)
    differing = torch.zeros((), dtype=torch.long, device="cuda")
    for _ in range(10_000):
        for a, b in zip(training_path(*inputs), want):
            differing += (a != b).any()
    assert differing.item() == 0


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_only_the_outputs_are_allocated(sizes):
    """The requested bytes count: the allocator returns larger blocks."""
    inputs = sides(sizes)
    training_path(*inputs)
    peak = Cuda(quick=True).peak_bytes(lambda _: training_path(*inputs))
    assert peak == sum(x.nbytes for x in training_path(*inputs))


def forget_compiled_kernels():
    """Drop the plans, which keep the cached ways to launch."""
    from fastgan.kernels import launch

    launch.compiled_kernels.clear()
    for name in ("adversarial", "matching", "mmd"):
        importlib.import_module(f"fastgan.kernels.{name}").plan.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_cached_launch_gives_the_result_of_an_ordinary_one(dtype, monkeypatch):
    """Bit for bit; and another alignment, dtype or size class never reuses the wrong kernel."""
    from fastgan.kernels import launch

    for sizes in ((5, 7), (1000, 9000), (9001, 5)):
        for offset in (0, 1):
            real, fake = (x[offset:] for x in sides([n + offset for n in sizes], dtype))
            results = []
            for cached in (True, False):
                monkeypatch.setattr(launch, "CACHED", cached)
                forget_compiled_kernels()
                results.append([training_path(real, fake) for _ in range(3)] + [drop_in(real, fake) for _ in range(2)])
            for a, b in zip(*results):
                assert all(torch.equal(x, y) for x, y in zip(a, b))
            assert_close(results[0][0][2], term(real, 1.0)[1], dtype)
    monkeypatch.setattr(launch, "CACHED", True)


def test_the_cached_launch_is_in_use():
    from fastgan.kernels import launch

    training_path(*sides((50, 60)))
    assert launch.triton.__version__.startswith(launch.TESTED) == launch.CACHED
    assert bool(launch.compiled_kernels) == launch.CACHED


def test_more_than_2_to_the_31_logits():
    n = 2**31 + 4097
    if torch.cuda.mem_get_info()[0] < 6 * n * 2:
        pytest.skip("needs 26 GB of free device memory")
    x = torch.full((n,), -1.0, dtype=torch.bfloat16, device="cuda")
    x[-3:] = torch.tensor([2.0, -3.0, 4.0])
    x[2**31 - 2 : 2**31 + 2] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    out = fastgan.generator_value_and_grad(x, "minimax", grad_scale=-float(n))
    assert out.grad_fake.isfinite().all()
    for window in (slice(0, 100), slice(2**31 - 100, 2**31 + 100), slice(n - 5000, n)):
        assert_close(out.grad_fake[window], torch.sigmoid(x[window].double()), torch.bfloat16)
    special = [1.0, 2.0, 3.0, 4.0, 2.0, -3.0, 4.0]
    softplus = torch.nn.functional.softplus(torch.tensor([-1.0, *special], dtype=torch.float64))
    want = (softplus[0] * (n - len(special)) + softplus[1:].sum()) / n
    assert_loss(-out.loss, want, torch.bfloat16)


def test_two_devices():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for index in (1, 0):
        real, fake = (x.to(f"cuda:{index}") for x in sides((9000, 7000)))
        assert_close(fastgan.discriminator_value_and_grad(real, fake).grad_real, term(real, 1.0)[1], torch.float32)


def test_reset_after_an_aborted_launch():
    inputs = sides(SIZES[1])
    want = training_path(*inputs)
    _, counter = kernels.workspace.workspace(torch.device("cuda", torch.cuda.current_device()))
    counter.fill_(3)  # what a killed launch leaves
    kernels.reset_workspaces()
    assert all(torch.equal(a, b) for a, b in zip(training_path(*inputs), want))
