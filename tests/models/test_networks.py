"""Shapes, ranges and gradients of the networks that the command line trains."""

import math

import pytest
import torch

from fastgan.models import networks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_shapes_range_and_gradients(size, channels):
    torch.manual_seed(0)
    generator, discriminator = networks.build((channels, size, size), latent_dim=12, width=4)
    images = generator(torch.randn(3, 12))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (3, 1)
    logits.sum().backward()
    for name, parameter in [*generator.named_parameters(), *discriminator.named_parameters()]:
        assert parameter.grad is not None, name
    # Only a bias before batch normalisation has no influence.
    assert all(p.grad.abs().max() > 0 for p in discriminator.parameters())


@pytest.mark.parametrize(("name", "alone"), [("dcgan", True), ("resnet", True), ("dcgan-batchnorm", False)])
@pytest.mark.parametrize("size", [16, 32])
def test_a_logit_depends_on_its_own_image_only(size, name, alone):
    """The R1 penalty assumes this; batch normalisation in D breaks it."""
    torch.manual_seed(0)
    _, discriminator = networks.build((1, size, size), latent_dim=4, width=4, networks=name)
    if name == "resnet":
        wake(discriminator)
    images = torch.randn(5, 1, size, size)
    if not alone:
        images.requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(images)[2], images)
        assert (slope.abs().flatten(1).amax(1) > 0).all()
        return
    torch.testing.assert_close(discriminator(images)[2:3], discriminator(images[2:3]), rtol=1e-5, atol=1e-6)
    images.requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(images)[2], images)
    touched = slope.abs().flatten(1).amax(1) > 0
    assert touched.tolist() == [False, False, True, False, False]


def wake(network):
    """Make the last weights of the residual blocks nonzero, as after the first steps."""
    for block in network.modules():
        if isinstance(block, networks.ResidualBlock):
            torch.nn.init.normal_(block.narrow.weight, std=0.1)


@pytest.mark.parametrize("size", [8, 64])
def test_resnet(size):
    """Shapes, a gradient for every parameter, a double backward pass as in the penalties, and no normalisation."""
    torch.manual_seed(0)
    generator, discriminator = networks.build((3, size, size), latent_dim=12, width=8, networks="resnet")
    for network in (generator, discriminator):
        assert not any("Norm" in type(layer).__name__ for layer in network.modules())
        wake(network)
    images = generator(torch.randn(4, 12))
    assert images.shape == (4, 3, size, size)
    logits = discriminator(images)
    assert logits.shape == (4, 1)
    logits.sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad.abs().max() > 0 for p in network.parameters())
    discriminator.zero_grad()
    seen = images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(seen).sum(), seen, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for name, p in discriminator.named_parameters() if name.endswith("weight"))


def test_a_residual_block_starts_as_the_identity_with_the_documented_weights():
    torch.manual_seed(0)
    block = networks.ResidualBlock(24, depth=3)
    x = torch.randn(2, 24, 5, 5)
    assert torch.equal(block(x), x)
    assert block.mix.groups == 3  # of 16 channels each
    for layer, fan_in in ((block.widen, 24), (block.mix, 16 * 9)):
        expected = networks.GAIN / math.sqrt(fan_in) * 3**-0.25
        count = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count))
        assert layer.bias.abs().max() == 0


def test_a_new_resnet_keeps_the_scale():
    torch.manual_seed(0)
    generator, discriminator = networks.build((1, 32, 32), latent_dim=64, width=16, networks="resnet")
    images = generator(torch.randn(40, 64))
    assert 0.3 < images.std() < 3
    assert 0.1 < discriminator(images).std() < 3


def test_the_papers_dcgan():
    """Batch normalisation except at G's output and D's input; weights from N(0, 0.02^2)."""
    torch.manual_seed(0)
    generator, discriminator = networks.build((3, 64, 64), latent_dim=100, width=64, networks="dcgan-batchnorm")
    norms = [m.num_features for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == [512, 256, 128, 64]
    norms = [m.num_features for m in discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == [128, 256, 512]
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
                n = layer.weight.numel()
                assert layer.weight.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(2 * n))
            elif isinstance(layer, torch.nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ((2,), "resnet", "networks: got resnet, expected one of mlp, as the samples are points"),
        ((1, 8, 8), "mlp", "networks: got mlp, expected one of dcgan, dcgan-batchnorm, resnet, as the samples are"),
        ((1, 8, 8), "unet", "networks: got unet, expected one of dcgan"),
    ],
)
def test_networks_that_do_not_fit(shape, name, message):
    with pytest.raises(ValueError, match=message):
        networks.build(shape, 8, 8, name)


def test_points():
    generator, discriminator = networks.build((2,), latent_dim=5, width=16)
    points = generator(torch.randn(7, 5))
    assert points.shape == (7, 2)
    assert discriminator(points).shape == (7, 1)


@pytest.mark.parametrize("size", [4, 12, 28, 512])
def test_unsupported_size(size):
    with pytest.raises(ValueError, match=f"size: got {size}, expected one of 8, 16, 32, 64, 128, 256"):
        networks.build((1, size, size), 8, 8)


@pytest.mark.parametrize("shape", [(1, 8), (3, 8, 16), (), (1, 3, 8, 8)])
def test_shapes_that_are_no_samples(shape):
    """Earlier, a picture that is not square got networks for its height."""
    with pytest.raises(ValueError, match=r"sample_shape: got .*, expected \(d,\), or \(channels, size, size\)"):
        networks.build(shape, 8, 8)


def test_an_outline_has_no_memory_and_draws_no_random_number():
    before = torch.get_rng_state()
    made = networks.outline((3, 16, 16), 5, 16, "resnet")
    assert torch.equal(before, torch.get_rng_state())
    for empty, full in zip(made, networks.build((3, 16, 16), 5, 16, "resnet")):
        assert all(t.is_meta for t in empty.state_dict().values())
        assert {k: t.shape for k, t in empty.state_dict().items()} == {k: t.shape for k, t in full.state_dict().items()}
