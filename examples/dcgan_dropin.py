"""The plain DCGAN loop with fused losses in place of BCELoss. Only the lines marked `was:` differ.

    python examples/dcgan_dropin.py --steps 2000

It trains on scikit-learn's digits (8 x 8 pixels). The discriminator returns logits: it has no Sigmoid.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import fastgan

LATENT, BATCH = 32, 64


def networks():
    generator = nn.Sequential(
        nn.ConvTranspose2d(LATENT, 64, 4), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 4), nn.Flatten(),
    )  # fmt: skip
    return generator, discriminator


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2_000)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.from_numpy(load_digits().images).float()[:, None].to(device) / 8 - 1
    generator, discriminator = (network.to(device) for network in networks())
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    for step in range(1, steps + 1):
        real = images[torch.randint(len(images), (BATCH,), device=device)]
        fake = generator(torch.randn(BATCH, LATENT, 1, 1, device=device))

        optimizer_d.zero_grad()  # was: criterion(D(real), ones) and criterion(D(fake.detach()), zeros)
        loss_d = fastgan.discriminator_loss(discriminator(real), discriminator(fake.detach()))
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_g = fastgan.generator_loss(discriminator(fake))  # was: criterion(discriminator(fake), ones)
        fastgan.generator_backward(loss_g, generator)  # was: loss_g.backward()
        optimizer_g.step()

        if step % 100 == 0 or step == steps:
            print(f"step {step}: loss of D {loss_d:.3f}, loss of G {loss_g:.3f}")


if __name__ == "__main__":
    main()
