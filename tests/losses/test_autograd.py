"""The drop-ins as autograd nodes: derivatives of every order, and the ways GAN code uses a loss."""

import threading

import pytest
import torch
from oracle import assert_close, term

import fastgan


def leaves(device, *sizes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(3 * torch.randn(n, generator=generator, dtype=dtype)).to(device).requires_grad_() for n in sizes]


SETTINGS = [{}, {"real_label": 0.9, "fake_label": 0.1, "weight": 0.7}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradcheck_and_gradgradcheck_of_the_discriminator_loss(device, settings):
    real, fake = leaves(device, 5, 7)

    def loss(real, fake):
        return fastgan.discriminator_loss(real.reshape(5, 1), fake, **settings)

    assert torch.autograd.gradcheck(loss, (real, fake))
    assert torch.autograd.gradgradcheck(loss, (real, fake))


@pytest.mark.parametrize("objective", ["minimax", "nonsaturating"])
def test_gradcheck_and_gradgradcheck_of_the_generator_loss(device, objective):
    (fake,) = leaves(device, 6)
    assert torch.autograd.gradcheck(lambda x: fastgan.generator_loss(x, objective), (fake,))
    assert torch.autograd.gradgradcheck(lambda x: fastgan.generator_loss(x, objective), (fake,))


@pytest.mark.thorough
def test_gradcheck_over_several_programs(kernel_device):
    """The path with a ticket, by a directional derivative: 9,000 + 700 numerical derivatives take minutes."""
    real, fake = leaves(kernel_device, 9000, 700)
    assert torch.autograd.gradcheck(fastgan.discriminator_loss, (real, fake), fast_mode=True)
    assert torch.autograd.gradgradcheck(fastgan.discriminator_loss, (real, fake), fast_mode=True)


def test_grad_output_is_used_and_may_be_expanded(device):
    """The loss is not the last layer: a weight and a sum over two losses, whose grad_output has stride 0."""
    real, fake = leaves(device, 50, 60, dtype=torch.float32)
    stacked = torch.stack([fastgan.discriminator_loss(real, fake), fastgan.discriminator_loss(real, fake)])
    (0.3 * stacked).sum().backward()
    assert_close(real.grad, term(real, 1.0, 0.6)[1], torch.float32)
    assert_close(fake.grad, term(fake, 0.0, 0.6)[1], torch.float32)


def test_half_precision_gradients_under_a_loss_scale(device):
    """Gradients are scaled before rounding: unscaled, of 2^15 logits, they would be subnormal or zero in float16."""
    n = 2**15
    (fake,) = leaves(device, n, dtype=torch.float16)
    (fastgan.generator_loss(fake) * 65536.0).backward()
    assert_close(fake.grad, term(fake, 1.0, 65536.0)[1], torch.float16)
    assert (fake.grad != 0).double().mean() > 0.99
    out = fastgan.generator_value_and_grad(fake, grad_scale=torch.tensor(65536.0, device=device))
    assert_close(out.grad_fake, term(fake, 1.0, 65536.0)[1], torch.float16)


def test_several_backward_passes(device):
    """taming-transformers' adaptive weight differentiates one loss twice and more, with retain_graph."""
    real, fake = leaves(device, 30, 40, dtype=torch.float32)
    loss = fastgan.discriminator_loss(real, fake)
    first = torch.autograd.grad(loss, [real, fake], retain_graph=True)
    second = torch.autograd.grad(2 * loss, [real, fake], retain_graph=True)
    third = torch.autograd.grad(loss, [real, fake])
    for a, b, c in zip(first, second, third):
        assert torch.equal(a, c) and torch.equal(2 * a, b)


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_side_requires_grad(device, wanted):
    sides = leaves(device, 30, 40, dtype=torch.float32)
    sides[1 - wanted] = sides[1 - wanted].detach()
    fastgan.discriminator_loss(*sides).backward()
    assert_close(sides[wanted].grad, term(sides[wanted], float(wanted == 0))[1], torch.float32)
    assert sides[1 - wanted].grad is None


def test_no_grad_and_inference_mode(device):
    real, fake = leaves(device, 30, 40, dtype=torch.float32)
    want = fastgan.discriminator_loss(real, fake)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = fastgan.discriminator_loss(real, fake)
            assert torch.equal(loss, want) and not loss.requires_grad


def test_create_graph_at_a_root_loss(device):
    """A penalty on the gradient of the loss: with `once_differentiable` its gradient would be silently wrong."""
    for settings in SETTINGS:
        real, fake = leaves(device, 20, 30)
        grads = torch.autograd.grad(fastgan.discriminator_loss(real, fake, **settings), [real, fake], create_graph=True)
        got = torch.autograd.grad(sum((g**2).sum() for g in grads), [real, fake])
        grads = torch.autograd.grad(
            fastgan.reference.discriminator_loss(real, fake, **settings), [real, fake], create_graph=True
        )
        want = torch.autograd.grad(sum((g**2).sum() for g in grads), [real, fake])
        for g, w in zip(got, want):
            torch.testing.assert_close(g, w, rtol=1e-10, atol=0)


def test_third_derivative(device):
    (fake,) = leaves(device, 9)
    got = want = None
    for module in (fastgan, fastgan.reference):
        derivative = module.generator_loss(fake)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.sum(), fake, create_graph=True)
        got, want = derivative, got
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


def test_only_the_logits_are_saved(device):
    real, fake = leaves(device, 30, 40, dtype=torch.float32)
    saved = [], []
    for those in saved:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, those=those: those.append(x.data_ptr()) or x, lambda x: x
        ):
            fastgan.discriminator_loss(real, fake)
    assert saved[0] == saved[1]  # no new tensor; few logits on a CPU save constants shared by calls
    logits = [real.data_ptr(), fake.data_ptr()]
    assert [x for x in saved[0] if x in logits] == logits and len(saved[0]) <= (2 if device.type == "cuda" else 4)


def test_modifying_saved_logits_in_place_is_noticed(device):
    (fake,) = leaves(device, 9)
    logits = fake * 1.0
    loss = fastgan.generator_loss(logits)
    logits.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_value_and_grad_continues_into_a_network(device):
    """`torch.autograd.backward` with our gradients gives the weight gradient of the drop-in and of eager."""
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 1).to(device)
    x, z = torch.randn(16, 8, device=device), torch.randn(12, 8, device=device)
    results = []
    for way in ("value_and_grad", "drop-in", "eager"):
        net.zero_grad()
        real, fake = net(x), net(z)
        if way == "value_and_grad":
            torch.autograd.backward([real, fake], fastgan.discriminator_value_and_grad(real, fake).grads)
        else:
            module = fastgan if way == "drop-in" else fastgan.reference
            module.discriminator_loss(real, fake).backward()
        results.append(net.weight.grad.clone())
    torch.testing.assert_close(results[0], results[1], rtol=2e-6, atol=1e-8)
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-8)


def test_modules(device):
    real, fake = leaves(device, 30, 40, dtype=torch.float32)
    loss = fastgan.losses.DiscriminatorLoss("minimax", weight=0.5, real_label=0.9)
    assert torch.equal(loss(real, fake), fastgan.discriminator_loss(real, fake, weight=0.5, real_label=0.9))
    loss = fastgan.losses.GeneratorLoss("minimax")
    assert torch.equal(loss(fake), fastgan.generator_loss(fake, "minimax"))
    assert "minimax" in repr(loss) and not list(loss.parameters()) and not loss.state_dict()
    with pytest.raises(ValueError, match="objective"):
        fastgan.losses.GeneratorLoss("minmax")


def test_memory_kept_from_inference_mode_or_another_default_device_serves_later_calls():
    """A thread's first call is under both modes; its later calls work."""
    (fake,) = leaves("cpu", 140_001, dtype=torch.float32)
    failures = []

    def work():
        try:
            with torch.inference_mode(), torch.device("meta"):
                first = fastgan.generator_loss(fake)
            assert_close(fastgan.generator_value_and_grad(fake).grad_fake, term(fake, 1.0)[1], torch.float32)
            assert first.device.type == "cpu" and torch.equal(first, fastgan.generator_loss(fake).detach())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures, failures
