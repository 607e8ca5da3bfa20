"""Networks to train: DCGAN, a ResNet without normalisation, and multi-layer perceptrons, with labels too."""

from fastgan.models.networks import (
    NETWORKS,
    ClassConditionalGenerator,
    Discriminator,
    Generator,
    ProjectionDiscriminator,
    ResidualBlock,
    ResNetDiscriminator,
    ResNetGenerator,
    build,
    mlp,
    outline,
)

__all__ = [
    "NETWORKS", "ClassConditionalGenerator", "Discriminator", "Generator", "ProjectionDiscriminator",
    "ResNetDiscriminator", "ResNetGenerator", "ResidualBlock", "build", "mlp", "outline",
]  # fmt: skip
