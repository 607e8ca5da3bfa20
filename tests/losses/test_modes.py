"""Tensors and modes that PyTorch's losses support: inference mode, no gradient, one tensor twice, sizes that change
under `torch.compile`."""

import pytest
import torch

import fastgan


@pytest.fixture(autouse=True)
def closed_form(monkeypatch):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")


LOSSES = {
    "two sides": lambda r, f: fastgan.discriminator_loss(r, f),
    "hinge": lambda r, f: fastgan.discriminator_loss(r, f, "hinge"),
    "lists": lambda r, f: fastgan.discriminator_loss([r, r], [f, f], "least_squares"),
    "pairs": lambda r, f: fastgan.discriminator_loss(r, f, "relativistic"),
    "averages": lambda r, f: fastgan.discriminator_loss(r, f, "relativistic_average"),
    "dual contrastive": lambda r, f: fastgan.discriminator_loss(r, f, "dual_contrastive"),
    "one side": lambda r, f: fastgan.generator_loss(f) + fastgan.criterion_loss(r, 1.0, "hinge"),
    "weights": lambda r, f: fastgan.criterion_loss(f, 1.0, "hinge", weights=r.abs()),
    "labels": lambda r, f: fastgan.criterion_loss(f, r.detach().sigmoid()),
    "parts": lambda r, f: fastgan.adversarial_losses([(r, 1.0), (f, 0.0)], "hinge")[1].sum(),
    "one batch": lambda r, f: fastgan.concatenated_discriminator_loss(torch.cat((r, f))),
    "lecam": lambda r, f: fastgan.lecam_regularizer(r, f, 0.1, -0.2),
    "maps": lambda r, f: fastgan.feature_matching_loss([f], [r]),
    "signs": lambda r, f: fastgan.feature_matching_loss([f], [r], save="signs"),
    "mmd": lambda r, f: fastgan.mmd_loss(r[:100, None], f[:100, None]),
    "mmd, products": lambda r, f: fastgan.mmd_loss(r[:160].view(-1, 8), f[:160].view(-1, 8)),
}
VALUES = {
    "two sides": lambda r, f: fastgan.discriminator_value_and_grad(r, f),
    "averages": lambda r, f: fastgan.discriminator_value_and_grad(r, f, "relativistic_average"),
    "dual contrastive": lambda r, f: fastgan.discriminator_value_and_grad(r, f, "dual_contrastive"),
    "maps": lambda r, f: fastgan.feature_matching_value_and_grad([f], [r]),
}


def draw(n=160):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(n, generator=generator), torch.randn(n, generator=generator)


@pytest.mark.parametrize("n", [160, 300_000])
@pytest.mark.parametrize("name", LOSSES)
def test_an_inference_tensor_on_one_side_and_a_gradient_on_the_other(name, n):
    real, fake = draw(n)
    with torch.inference_mode():
        frozen = real.clone()
    assert frozen.is_inference()
    leaves = [fake.clone().requires_grad_() for _ in range(2)]
    losses = [LOSSES[name](r, leaf) for r, leaf in zip((frozen, real), leaves)]
    grads = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, leaves)]
    assert torch.equal(losses[0], losses[1]) and torch.equal(grads[0], grads[1]) and grads[0].any()
    with torch.inference_mode():
        torch.testing.assert_close(LOSSES[name](frozen, fake), losses[1].detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", VALUES)
def test_value_and_grad_in_inference_mode(name):
    real, fake = draw()
    want = VALUES[name](real, fake)
    with torch.inference_mode():
        inside = [x.clone() for x in (real, fake)]
        got = VALUES[name](*inside)
    for found in (got, VALUES[name](*inside)):
        assert torch.equal(found.loss, want.loss)
        assert all(torch.equal(a, b) for a, b in zip(found.grads, want.grads))


def compiled(function, *arguments, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)(*arguments)


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_without_a_gradient(name):
    real, fake = draw()
    want = LOSSES[name](real, fake)
    torch.testing.assert_close(compiled(LOSSES[name], real, fake), want, rtol=1e-6, atol=0)
    with torch.no_grad():
        got = compiled(LOSSES[name], real.clone().requires_grad_(), fake.clone().requires_grad_())
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_with_the_same_tensor_twice(name):
    x = draw()[0].requires_grad_()
    got, want = compiled(LOSSES[name], x, x), LOSSES[name](x, x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    for a, b in zip(torch.autograd.grad(got, x), torch.autograd.grad(want, x)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("bandwidths", [None, (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("d", [2, 8])
def test_compiled_mmd_of_changing_sizes(d, bandwidths):
    torch._dynamo.reset()
    loss = torch.compile(
        lambda x, y: fastgan.mmd_loss(x, y, bandwidths), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n in (30, 41, 52):
        x, y = draw(n * d)[0].view(n, d).requires_grad_(), draw((n + 3) * d)[1].view(n + 3, d)
        got, want = loss(x, y), fastgan.mmd_loss(x, y, bandwidths)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        assert torch.equal(torch.autograd.grad(got, x)[0], torch.autograd.grad(want, x)[0])


def test_torch_func_grad_in_a_compiled_function_is_right_or_refused():
    fake = draw()[1]

    def slope(x):
        return torch.func.grad(fastgan.generator_loss)(x)

    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(slope, fake)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(slope, backend="aot_eager")(fake), slope(fake))
