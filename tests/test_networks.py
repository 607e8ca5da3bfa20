"""Shapes, ranges and gradients of the networks that the command line trains."""

import pytest
import torch

from fastgan import networks


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
    # A bias before a batch norm is the one parameter that nothing can depend on.
    assert all(p.grad.abs().max() > 0 for p in discriminator.parameters())


@pytest.mark.parametrize("size", [8, 32])
def test_a_logit_depends_on_its_own_image_only(size):
    """What the R1 penalty takes for granted, and batch normalisation in D would break."""
    torch.manual_seed(0)
    _, discriminator = networks.build((1, size, size), latent_dim=4, width=4)
    images = torch.randn(5, 1, size, size)
    torch.testing.assert_close(discriminator(images)[2:3], discriminator(images[2:3]), rtol=1e-5, atol=1e-6)
    images.requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(images)[2], images)
    touched = slope.abs().flatten(1).amax(1) > 0
    assert touched.tolist() == [False, False, True, False, False]


def test_points():
    generator, discriminator = networks.build((2,), latent_dim=5, width=16)
    points = generator(torch.randn(7, 5))
    assert points.shape == (7, 2)
    assert discriminator(points).shape == (7, 1)


@pytest.mark.parametrize("size", [4, 12, 28, 256])
def test_unsupported_size(size):
    with pytest.raises(ValueError, match=f"size: got {size}, expected one of 8, 16, 32, 64, 128"):
        networks.build((1, size, size), 8, 8)
