"""The operators under PyTorch's machinery: opcheck, compile, export, transforms, autocast; launches and allocations."""

import importlib
import inspect
import threading

import pytest
import torch

import fastgan
from fastgan import kernels
from fastgan.formulas.terms import Terms
from fastgan.operators import adversarial as operators
from fastgan.operators.dispatch import backend_for

CRITERION = "sigmoid_cross_entropy"


def sides(device, *sizes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(3 * torch.randn(n, generator=generator, dtype=dtype)).to(device) for n in sizes]


OTHERS = [pytest.param(t, marks=pytest.mark.slow) for t in (torch.float64, torch.bfloat16)]  # the same for opcheck


@pytest.mark.parametrize("dtype", [torch.float32, *OTHERS], ids=str)
def test_opcheck(device, dtype):
    """Schema, fake implementation and dispatch of every registered operator, against real results."""
    ops = torch.ops.fastgan
    for sizes in ((6, 9), (1, 3), (5000, 4000)):
        logits = sides(device, *sizes, dtype=dtype)
        scale, shift = torch.tensor(2.0, device=device), torch.tensor([0.1, 0.2], device=device)
        others = [x.flip(0) for x in logits]
        for terms in (
            Terms(logits, (1.0, 0.0), (0.5, 0.5), CRITERION, 1),
            Terms(logits, (1.0, 1.0), (0.5, 0.5), CRITERION, 2, partners=others, shift=shift),
            Terms(logits, (0.0, 0.0), (1.0, 2.0), "least_squares", 1, targets=others, masks=others),
            Terms([x for x in logits if len(x) > 1], *[(1.0, 0.0) * 2] * 2, "hinge", 2, split=-1)
            if min(sizes) > 1
            else Terms(logits[1:], (1.0, 0.0), (1.0, 1.0), "hinge", 1, split=1),
        ):
            for statistics in (operators.NOTHING, operators.LOSSES, operators.EVERYTHING):
                torch.library.opcheck(ops.value, (*terms, statistics))
            for of_logits, of_partners in ((True, bool(terms.partners)), (not terms.partners, True))[
                : 1 + bool(terms.partners)
            ]:
                torch.library.opcheck(ops.gradient, (*terms, scale, of_logits, of_partners))
            for s in (scale, None):
                torch.library.opcheck(ops.value_and_gradient, (*terms, s, 3.0))
    channels_last = sides(device, 96)[0].reshape(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    terms = Terms([channels_last], (1.0,), (1.0,), CRITERION)
    torch.library.opcheck(ops.gradient, (*terms, scale, True, False))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_fullgraph_with_dynamic_shapes(device, compiler):
    torch._dynamo.reset()

    def train(real, fake):
        return fastgan.discriminator_loss(2 * real, fake, real_label=0.9) + fastgan.generator_loss(fake)

    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend=compiler)
    for sizes in ((5, 7), (8, 3), (600, 900)):
        results = []
        for function in (train, compiled):
            real, fake = (x.requires_grad_() for x in sides(device, *sizes))
            loss = function(real, fake)
            (3 * loss).backward()
            results.append((loss, real.grad, fake.grad))
        for eager, other in zip(*results):  # generated logits: a sum of opposite gradients
            torch.testing.assert_close(other, eager, rtol=1e-6, atol=0 if not eager.dim() else 5e-7 / min(sizes))


def test_compile_value_and_grad(device):
    torch._dynamo.reset()

    def step(real, fake, scale):
        out = fastgan.discriminator_value_and_grad(real, fake, grad_scale=scale)
        return out.loss, out.loss_real, out.stats.fake_accuracy, *out.grads

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ((5, 7), (8, 3)):
        inputs = *(x.requires_grad_() for x in sides(device, *sizes)), torch.tensor(4.0, device=device)
        for eager, other in zip(step(*inputs), compiled(*inputs)):
            assert torch.equal(eager, other) and not other.requires_grad


def test_export(device):
    class Loss(torch.nn.Module):
        def forward(self, real, fake):
            return fastgan.discriminator_loss(real, fake)

    real, fake = sides(device, 6, 9)
    program = torch.export.export(Loss(), (real, fake))
    assert any(node.target is torch.ops.fastgan.value.default for node in program.graph.nodes)
    exported = program.module()(real, fake)  # eager calls with few logits on a CPU do not use the operator
    torch.testing.assert_close(exported, fastgan.discriminator_loss(real, fake), rtol=1e-6, atol=0)


def test_fake_tensors(device):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        real, fake = mode.from_tensor(torch.ones(4, 1, device=device)), mode.from_tensor(torch.ones(5, device=device))
        out = fastgan.discriminator_value_and_grad(real, fake)
    assert out.loss.shape == () and out.grad_real.shape == (4, 1) and out.terms.shape == (2, 3)


def test_func_grad_and_vmap(device):
    real, fake = sides(device, 4 * 5, 4 * 6)
    real, fake = real.reshape(4, 5), fake.reshape(4, 3, 2)

    def loss(real, fake):
        return fastgan.discriminator_loss(real, fake, real_label=0.9)

    one = torch.func.grad(loss, (0, 1))(real[0], fake[0])
    batch = torch.func.vmap(torch.func.grad(loss, (0, 1)))(real, fake)
    values = torch.func.vmap(loss)(real, fake)
    shared = torch.func.vmap(torch.func.grad(loss), in_dims=(1, None))(real, fake[0])
    for k in range(4):
        leaf_real, leaf_fake = real[k].clone().requires_grad_(), fake[k].clone().requires_grad_()
        want = loss(leaf_real, leaf_fake)
        want.backward()
        torch.testing.assert_close(values[k], want.detach(), rtol=2e-6, atol=0)
        torch.testing.assert_close(batch[0][k], leaf_real.grad, rtol=5e-6, atol=0)
        torch.testing.assert_close(batch[1][k], leaf_fake.grad, rtol=5e-6, atol=0)
        if k == 0:
            torch.testing.assert_close(one[0], leaf_real.grad, rtol=5e-6, atol=0)
            torch.testing.assert_close(one[1], leaf_fake.grad, rtol=5e-6, atol=0)
    assert shared.shape == (5, 4)
    want = torch.func.jacrev(torch.func.grad(lambda r, f: fastgan.reference.discriminator_loss(r, f, real_label=0.9)))
    torch.testing.assert_close(
        torch.func.jacrev(torch.func.grad(loss))(real[0], fake[0]), want(real[0], fake[0]), rtol=1e-5, atol=1e-8
    )


def test_forward_mode_raises_rather_than_return_zero(device):
    import torch.autograd.forward_ad as forward_ad

    (fake,) = sides(device, 6)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(fastgan.generator_loss, (fake,), (fake,))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(fake, fake)
        with pytest.raises(NotImplementedError, match="jvp"):
            fastgan.generator_loss(dual)
        with pytest.raises(RuntimeError, match="value_and_grad"):
            fastgan.generator_value_and_grad(dual)
    with pytest.raises(RuntimeError, match="value_and_grad"):
        torch.func.vmap(lambda x: fastgan.generator_value_and_grad(x).loss)(fake[None])


def test_autocast(device):
    """Half-precision logits are not cast; the loss is float32."""
    real, fake = (x.requires_grad_() for x in sides(device, 6, 9, dtype=torch.bfloat16))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = fastgan.discriminator_loss(real, fake)
    assert loss.dtype == torch.float32 and torch.equal(loss, fastgan.discriminator_loss(real, fake))
    loss.backward()
    assert real.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("sizes", [(5, 7), (6000, 9000)], ids=str)
def test_launches(kernel_device, sizes):
    """One launch for loss, statistics and both gradients; one forward and one backward for the drop-in."""
    count = kernels.launch_count
    real, fake = (x.requires_grad_() for x in sides(kernel_device, *sizes))
    before = count()
    out = fastgan.discriminator_value_and_grad(real, fake, grad_scale=2.0)
    _ = out.loss_real, out.loss_fake, out.stats, out.grads
    assert count() - before == 1
    loss = fastgan.discriminator_loss(real, fake)
    assert count() - before == 2
    loss.backward()
    assert count() - before == 3
    fastgan.generator_value_and_grad(fake)
    assert count() - before == 4


def test_nothing_is_allocated_but_outputs(kernel_device, monkeypatch):
    """Count the calls of `torch.empty*`, the only way to allocate, after the workspace exists."""
    real, fake = sides(kernel_device, 6000, 9000)
    fastgan.discriminator_value_and_grad(real, fake)
    made = []
    for name in ("empty", "empty_like", "zeros"):
        function = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=function, **k: made.append(f(*a, **k)) or made[-1])
    out = fastgan.discriminator_value_and_grad(real, fake)
    assert sorted(x.data_ptr() for x in made) == sorted(
        x.data_ptr() for x in (out.loss, out.terms, out.grad_real, out.grad_fake)
    )
    made.clear()
    loss = fastgan.discriminator_loss(real, fake)
    assert [x.data_ptr() for x in made] == [loss.data_ptr()]


def test_threads(device):
    """Threads that run at once, with different logits, get the same results as alone."""
    if device.type == "cpu" and backend_for(device) == "triton":
        pytest.skip("Triton's interpreter is not thread-safe: it patches the language module while it runs")
    inputs = [sides(device, 9000 + k, 70, seed=k) for k in range(8)]
    want = [fastgan.discriminator_value_and_grad(*x) for x in inputs]
    wrong = []

    def work(k):
        for _ in range(20):
            got = fastgan.discriminator_value_and_grad(*inputs[k])
            if not torch.equal(got.loss, want[k].loss) or not torch.equal(got.grad_real, want[k].grad_real):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reruns_are_bit_identical(device):
    real, fake = sides(device, 9000, 30000)
    first = fastgan.discriminator_value_and_grad(real, fake)
    for _ in range(10):
        again = fastgan.discriminator_value_and_grad(real, fake)
        assert torch.equal(again.terms, first.terms) and torch.equal(again.grad_real, first.grad_real)


def test_launch_arguments_are_in_the_order_of_the_signature(kernel_device, monkeypatch):
    """A compiled kernel is called by position: arguments, then constants, in the order of its signature."""
    recorded, before = [], kernels.launch_count()
    adversarial = importlib.import_module("fastgan.kernels.adversarial")
    monkeypatch.setattr(adversarial, "launch", lambda *arguments: recorded.append(arguments))
    fastgan.discriminator_value_and_grad(*sides(kernel_device, 6000, 9000))
    plan, args, given = recorded[0]
    kernel, programs, constants, options = plan.kernel, plan.programs, plan.constants, plan.options
    names = [*inspect.signature(kernel.fn).parameters]
    assert len(args) + len(constants) == len(names)
    assert list(constants) == names[len(args) :]
    assert 2 * programs + 3 == args[names.index("ends")][-1] > 5 and options["num_warps"] == 4
    assert len(given) == 2 and kernels.launch_count() == before
