"""Lists of logits, and both sides in one batch: one launch, one loss for each tensor."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from logits import sides

import fastgan
from fastgan import kernels

pytestmark = pytest.mark.usefixtures("poisoned")
HIFIGAN = [(4, 102), (4, 102), (4, 105), (4, 105), (4, 110), (4, 128), (4, 65), (4, 33)]  # a quarter of the batch


def test_a_list_takes_one_launch(kernel_device):
    real, fake = sides(HIFIGAN, torch.float32, kernel_device)
    real, fake = ([x.requires_grad_() for x in xs] for xs in (real, fake))
    count = kernels.launch_count
    before = count()
    out = fastgan.discriminator_value_and_grad(real, fake, "least_squares")
    assert count() == before + 1 and len(out.grads) == 16
    loss = fastgan.discriminator_loss(real, fake, "least_squares")
    assert count() == before + 2
    loss.backward()
    assert count() == before + 3
    torch.testing.assert_close(loss.detach(), out.loss, rtol=1e-6, atol=0)
    for x, g in zip((*real, *fake), out.grads):
        assert torch.equal(x.grad, g)
    before = count()
    fastgan.generator_value_and_grad(fake, "least_squares")
    fastgan.generator_value_and_grad(fake, "hinge")
    fastgan.discriminator_value_and_grad(real, fake, "relativistic")
    assert count() == before + 3


def test_a_long_list_takes_a_launch_for_every_64_tensors(kernel_device, monkeypatch):
    adversarial = importlib.import_module("fastgan.kernels.adversarial")
    assert adversarial.MAX_TERMS == 64
    if kernel_device.type == "cpu":  # 64 take half a minute under the interpreter
        monkeypatch.setattr(adversarial, "MAX_TERMS", 6)
    tensors = adversarial.MAX_TERMS * 2 + 1
    many = [torch.randn(3, device=kernel_device).requires_grad_() for _ in range(tensors)]
    before = kernels.launch_count()
    out = fastgan.discriminator_value_and_grad(many[: tensors // 2], many[: tensors // 2], "hinge")
    assert kernels.launch_count() == before + 2
    assert len(out.grads) == tensors - 1 and out.stats.real_mean.shape == (tensors // 2,)
    before = kernels.launch_count()
    loss, losses = fastgan.adversarial_losses([(many, 1.0)], "least_squares")
    assert kernels.launch_count() == before + 3
    torch.testing.assert_close(losses, torch.stack([((x - 1) ** 2).mean() for x in many]), rtol=2e-6, atol=0)
    torch.testing.assert_close(loss, losses.sum(), rtol=1e-5, atol=0)
    (losses * torch.arange(tensors, device=kernel_device)).sum().backward()  # each tensor has its own scale
    for k, x in enumerate(many):
        torch.testing.assert_close(x.grad, k * 2 * (x.detach() - 1) / 3, rtol=5e-6, atol=0)


def test_parts_and_statistics_of_a_list(device):
    real, fake = sides(HIFIGAN[:3], torch.float32, device)
    out = fastgan.discriminator_value_and_grad(real, fake, "hinge", reduce_discriminators="mean")
    for k in range(3):
        torch.testing.assert_close(out.losses_real[k], F.relu(1 - real[k]).mean() / 3, rtol=2e-6, atol=0)
        torch.testing.assert_close(out.stats.fake_mean[k], fake[k].mean(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.stats.real_accuracy[k], (real[k] >= 0).float().mean())
        torch.testing.assert_close(out.stats.real_sign[k], real[k].sign().mean(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.stats.fake_sign[k], fake[k].sign().mean(), rtol=1e-5, atol=1e-6)
        assert torch.equal(out.grad_fake[k], out.grads[3 + k])
    torch.testing.assert_close(out.loss_real + out.loss_fake, out.loss, rtol=2e-6, atol=0)
    assert out.stats.error.shape == ()
    features = [[torch.zeros(2), x] for x in real], [[torch.zeros(3), torch.zeros(1), x] for x in fake]
    nested = fastgan.discriminator_value_and_grad(*features, "hinge", reduce_discriminators="mean")
    assert torch.equal(nested.loss, out.loss) and torch.equal(nested.grads[4], out.grads[4])


def test_each_part_of_a_list_can_be_differentiated(device):
    real, fake = ([x.requires_grad_() for x in xs] for xs in sides(HIFIGAN[:3], torch.float32, device))
    loss, losses = fastgan.adversarial_losses([(real, 1.0), (fake, 0.0)], "least_squares")
    assert loss.shape == () and losses.shape == (6,)
    torch.testing.assert_close(losses.sum(), loss, rtol=1e-6, atol=0)
    (2 * loss + 3 * losses[1] + losses[5]).backward()
    for k, (x, y) in enumerate([*[(x, 1.0) for x in real], *[(x, 0.0) for x in fake]]):
        factor = 2 + 3 * (k == 1) + (k == 5)
        torch.testing.assert_close(x.grad, factor * 2 * (x.detach() - y) / x.numel(), rtol=5e-6, atol=0)
    _, losses = fastgan.adversarial_losses([(real, 1.0), (fake, 0.0)], "least_squares")  # the parts without the sum
    grads = torch.autograd.grad(losses[:3].sum() - 2 * losses[3:].sum(), [*real, *fake])
    for x, y, factor, grad in zip((*real, *fake), (1.0,) * 3 + (0.0,) * 3, (1,) * 3 + (-2,) * 3, grads):
        torch.testing.assert_close(grad, factor * 2 * (x.detach() - y) / x.numel(), rtol=5e-6, atol=0)


@pytest.mark.parametrize("fake_first", [True, False])
def test_one_batch_of_both_sides(device, fake_first):
    """As in SPADE: nothing is sliced, and the gradient of the batch is one tensor."""
    for memory in (torch.contiguous_format, torch.channels_last):
        batches, _ = sides([(7, 2, 9, 8), (7, 2, 3, 3)], torch.float32, device)
        batches = [x.contiguous(memory_format=memory).requires_grad_() for x in batches]
        halves = [(x[:3], x[3:])[:: -1 if fake_first else 1] for x in batches]
        want = fastgan.discriminator_loss([r for r, _ in halves], [f for _, f in halves], "hinge")
        grads = torch.autograd.grad(want, batches)
        got = fastgan.concatenated_discriminator_loss(batches, "hinge", fake_first=fake_first, split=3)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        out = fastgan.concatenated_discriminator_value_and_grad(batches, "hinge", fake_first=fake_first, split=3)
        assert torch.equal(out.loss, got.detach()) and len(out.grads) == 2
        for g, v, w in zip(torch.autograd.grad(got, batches), out.grads, grads):
            torch.testing.assert_close(g, w, rtol=1e-6, atol=0)
            assert torch.equal(v, g)
    (x,), _ = sides([(4, 3)], torch.float64, device)
    x.requires_grad_()
    assert torch.autograd.gradcheck(fastgan.concatenated_discriminator_loss, (x,))
    assert torch.autograd.gradgradcheck(fastgan.concatenated_discriminator_loss, (x,))


def test_one_batch_takes_one_launch_and_no_slices(kernel_device):
    x = torch.randn(6, 1, 8, 8, device=kernel_device, requires_grad=True)
    before = kernels.launch_count()
    loss = fastgan.concatenated_discriminator_loss(x, "hinge")
    assert "Slice" not in str(loss.grad_fn.next_functions)
    loss.backward()
    assert kernels.launch_count() == before + 2


def test_lecam(device):
    (real,), (fake,) = sides([(8, 1, 5, 5)], torch.float32, device)
    real.requires_grad_(), fake.requires_grad_()
    module = fastgan.losses.LeCamEMA(decay=0.9, weight=0.3).to(device)
    stats = fastgan.discriminator_value_and_grad(real, fake).stats
    module.update(stats.real_mean, stats.fake_mean)
    torch.testing.assert_close(module.real_anchor, 0.1 * real.mean().detach(), rtol=1e-5, atol=1e-7)
    got = module(real, fake)
    want = 0.3 * (F.relu(real - module.fake_anchor) ** 2).mean() + 0.3 * (F.relu(module.real_anchor - fake) ** 2).mean()
    torch.testing.assert_close(got, want, rtol=3e-6, atol=0)
    for g, w in zip(torch.autograd.grad(got, (real, fake)), torch.autograd.grad(want, (real, fake))):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=0)
    torch.testing.assert_close(fastgan.drift_penalty(real, weight=0.1), 0.1 * (real**2).mean(), rtol=2e-6, atol=0)
    assert set(module.state_dict()) == {"real_anchor", "fake_anchor"}
