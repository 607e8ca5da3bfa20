"""Networks to train: DCGAN, a ResNet without normalisation, and multi-layer perceptrons."""

from fastgan.models.networks import (
    NETWORKS,
    Discriminator,
    Generator,
    ResidualBlock,
    ResNetDiscriminator,
    ResNetGenerator,
    build,
    mlp,
    outline,
)

__all__ = [
    "NETWORKS", "Discriminator", "Generator", "ResNetDiscriminator", "ResNetGenerator", "ResidualBlock", "build", "mlp",
    "outline",
]  # fmt: skip
