"""The old import path of names in `fastgan.losses.adversarial`."""

from fastgan.losses.adversarial import (
    adversarial_losses,
    concatenated_discriminator_loss,
    concatenated_discriminator_value_and_grad,
    criterion_loss,
    criterion_value_and_grad,
    discriminator_loss,
    discriminator_value_and_grad,
    drift_penalty,
    generator_loss,
    generator_value_and_grad,
    lecam_regularizer,
)

__all__ = [
    "adversarial_losses",
    "concatenated_discriminator_loss",
    "concatenated_discriminator_value_and_grad",
    "criterion_loss",
    "criterion_value_and_grad",
    "discriminator_loss",
    "discriminator_value_and_grad",
    "drift_penalty",
    "generator_loss",
    "generator_value_and_grad",
    "lecam_regularizer",
]
