"""A class-conditional GAN with its own loop: a projection discriminator (Miyato and Koyama 2018) and the hinge loss.

    python examples/conditional.py --steps 3000

It trains on scikit-learn's digits (8 x 8 pixels). Both networks get the labels; the losses see only logits.
"""

import argparse
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn

import fastgan

LATENT, CLASSES, BATCH = 32, 10, 64


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2))
        self.logit, self.of_class = nn.Linear(256, 1), nn.Embedding(CLASSES, 256)

    def forward(self, x, label):
        features = self.features(x)
        return self.logit(features) + (features * self.of_class(label)).sum(1, keepdim=True) / 16


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000)
    steps, digits = parser.parse_args().steps, load_digits()
    torch.manual_seed(0)
    images, labels = torch.from_numpy(digits.data).float() / 8 - 1, torch.from_numpy(digits.target)
    generator = nn.Sequential(nn.Linear(LATENT + CLASSES, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())
    discriminator = Discriminator()
    optimizer_g, optimizer_d = (torch.optim.Adam(m.parameters(), 5e-4, (0.0, 0.99)) for m in (generator, discriminator))
    for step in range(1, steps + 1):
        rows = torch.randint(len(images), (BATCH,))
        real, label = images[rows], labels[rows].long()
        fake = generator(torch.cat((torch.randn(BATCH, LATENT), nn.functional.one_hot(label, CLASSES)), 1))
        loss_d = fastgan.discriminator_loss(discriminator(real, label), discriminator(fake.detach(), label), "hinge")
        penalty = fastgan.r1_penalty(partial(discriminator, label=label), real, gamma=0.5)
        optimizer_d.zero_grad(), (loss_d + penalty).backward(), optimizer_d.step()
        loss_g = fastgan.generator_loss(discriminator(fake, label), "hinge")
        optimizer_g.zero_grad()
        fastgan.generator_backward(loss_g, generator)
        optimizer_g.step()
        if step % 500 == 0 or step == steps:
            print(f"step {step}: loss of D {loss_d:.3f}, loss of G {loss_g:.3f}")


if __name__ == "__main__":
    main()
