"""The norm and the clipping of many gradients: PyTorch's values, no synchronisation, and bad input."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.compat import vits

CLIPS = (
    fastgan.gradient_norm,
    lambda ps: fastgan.clip_gradient_norm_(ps, 0.1),
    lambda ps: fastgan.clip_gradient_value_(ps, 0.1),
    lambda ps: vits.clip_grad_value_(ps, None),
)


class Reads(TorchDispatchMode):
    """Counts all operators, and those for which the host waits for a GPU."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.waits, self.operators = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators += 1
        if function.overloadpacket.__name__ in self.WAITS:
            self.waits.append(str(function))
        return function(*args, **(kwargs or {}))


def parameters(dtype=torch.float32, count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = [torch.zeros(k + 1, 3, dtype=dtype, requires_grad=True) for k in range(count)]
    for p in found[:-1]:  # the last one has no gradient
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    return found


def upstream_clip_grad_value_(parameters, clip_value, norm_type=2):
    """VITS, commons.py."""
    total = 0
    for p in parameters:
        if p.grad is not None:
            total += p.grad.norm(norm_type).item() ** norm_type
            if clip_value is not None:
                p.grad.clamp_(-clip_value, clip_value)
    return total ** (1.0 / norm_type)


@pytest.mark.parametrize("norm_type", [1, 2, 2.5, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_norm(dtype, norm_type):
    ps = parameters(dtype)
    want = torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in ps[:-1]]), norm_type)
    got = fastgan.gradient_norm(ps, norm_type)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and got.shape == ()
    torch.testing.assert_close(got.double(), want, rtol=1e-6 if dtype != torch.float64 else 1e-12, atol=0)
    torch.testing.assert_close(fastgan.gradient_norm(iter(ps), norm_type), got, rtol=0, atol=0)
    assert torch.equal(fastgan.gradient_norm(ps[0]), fastgan.gradient_norm([ps[0]]))


def test_half_precision_does_not_overflow_and_dtypes_mix():
    big, wide = parameters(torch.float16, 2)[0], parameters(torch.float32, 2)[0]
    big.grad.fill_(60_000.0)
    want = torch.linalg.vector_norm(torch.cat([big.grad.double().flatten(), wide.grad.double().flatten()]))
    assert want > 65_504
    torch.testing.assert_close(fastgan.gradient_norm([big, wide]).double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(fastgan.clip_gradient_norm_([big, wide], 1.0).double(), want, rtol=1e-6, atol=0)
    after = torch.linalg.vector_norm(torch.cat([big.grad.double().flatten(), wide.grad.double().flatten()]))
    torch.testing.assert_close(after, torch.ones_like(after), rtol=2e-3, atol=0)


@pytest.mark.parametrize("max_norm", [0.5, 1e6, 0.0])
def test_clip_by_norm_is_that_of_pytorch(max_norm):
    mine, theirs = parameters(), parameters()
    got = fastgan.clip_gradient_norm_(mine, max_norm)
    want = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert torch.equal(got, want)
    for a, b in zip(mine[:-1], theirs):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
    assert mine[-1].grad is None


@pytest.mark.parametrize("clip_value", [0.3, 0, None])
@pytest.mark.parametrize("norm_type", [2, 1.5])
def test_clip_by_value_is_that_of_vits(clip_value, norm_type):
    mine, theirs = parameters(), parameters()
    got = vits.clip_grad_value_(mine, clip_value, norm_type)
    want = upstream_clip_grad_value_(theirs, clip_value, norm_type)
    assert math.isclose(float(got), want, rel_tol=1e-6) and f"{got:.3f}" == f"{want:.3f}"
    for a, b in zip(mine[:-1], theirs):
        assert torch.equal(a.grad, b.grad)


def test_nothing_is_read_back_and_operators_do_not_grow_with_the_parameters():
    for clip in CLIPS:
        counted = {}
        for count in (8, 64):
            ps = parameters(count=count)
            with Reads() as reads:
                clip(ps)
            assert reads.waits == [], "the host would wait"
            counted[count] = reads.operators
        assert counted[8] == counted[64] <= 12
    with Reads() as reads:  # waits are counted
        upstream_clip_grad_value_(parameters(), None)
    assert len(reads.waits) == 6


@pytest.mark.gpu
def test_no_synchronisation_on_a_gpu():
    ps = [p.detach().cuda().requires_grad_() for p in parameters()]
    for p in ps:
        p.grad = torch.randn_like(p)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for clip in CLIPS:
            assert clip(ps).is_cuda
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_gradients_and_gradients_that_are_not_finite():
    p = torch.zeros(3, requires_grad=True)
    assert fastgan.gradient_norm([p]) == 0 and fastgan.clip_gradient_norm_([], 1.0) == 0
    assert vits.clip_grad_value_([p], 1.0) == 0
    for value, check in ((math.inf, torch.isinf), (math.nan, torch.isnan)):
        for dtype in (torch.float32, torch.float16):
            ps = parameters(dtype)
            ps[2].grad[0, 0] = value
            assert check(fastgan.gradient_norm(ps)) and check(fastgan.clip_gradient_norm_(ps, 1.0))


def test_it_compiles():
    if torch.__version__ < (2, 8):
        pytest.skip("torch 2.7 compiles its own get_total_norm into no full graph")
    torch._dynamo.reset()
    ps = parameters()
    compiled = torch.compile(fastgan.clip_gradient_norm_, backend="aot_eager", fullgraph=True)
    want, others = torch.nn.utils.clip_grad_norm_(parameters(), 0.5), parameters()
    torch.nn.utils.clip_grad_norm_(others, 0.5)
    torch.testing.assert_close(compiled(ps, 0.5), want)
    torch.testing.assert_close(ps[0].grad, others[0].grad)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (TypeError, "parameters: got int, expected a torch.Tensor or an iterable", lambda: fastgan.gradient_norm(3)),
        (TypeError, r"parameters\[1\]: got str", lambda: fastgan.gradient_norm([torch.zeros(1), "w"])),
        (TypeError, "norm_type: got str", lambda: fastgan.gradient_norm([], "2")),
        (ValueError, "norm_type: got 0, expected a number > 0", lambda: fastgan.gradient_norm([], 0)),
        (TypeError, "max_norm: got NoneType", lambda: fastgan.clip_gradient_norm_([], None)),
        (ValueError, "max_norm: got -1", lambda: fastgan.clip_gradient_norm_([], -1)),
        (TypeError, "max_norm: got Tensor", lambda: fastgan.clip_gradient_norm_([], torch.tensor(1.0))),
        (ValueError, "clip_value: got -0.5", lambda: fastgan.clip_gradient_value_([], -0.5)),
        (TypeError, "clip_value: got str", lambda: vits.clip_grad_value_([], "1")),
    ],
)
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_a_sparse_gradient_is_refused_before_anything_is_clipped():
    ps = parameters()
    table = torch.nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    before = ps[0].grad.clone()
    with pytest.raises(ValueError, match=r"parameters\[7\]: got a torch.sparse_coo gradient"):
        fastgan.clip_gradient_norm_([*ps, table.weight], 0.1)
    assert torch.equal(ps[0].grad, before)
