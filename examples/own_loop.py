"""A training loop whose losses have no graph: one launch computes value, gradients and statistics.

    python examples/own_loop.py --steps 3000

It trains on points on a circle. D's error is the share of points that it judges wrongly: 1/2 if it cannot tell the
sides apart.
"""

import argparse

import torch
from torch import nn

import fastgan

LATENT, BATCH = 8, 256


def mlp(fan_in, fan_out):
    return nn.Sequential(nn.Linear(fan_in, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2),
                         nn.Linear(64, fan_out))  # fmt: skip


def circle(count, device):
    angle = torch.rand(count, device=device) * 2 * torch.pi
    return torch.stack((angle.cos(), angle.sin()), 1) + 0.05 * torch.randn(count, 2, device=device)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, discriminator = mlp(LATENT, 2).to(device), mlp(2, 1).to(device)
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3) for network in (generator, discriminator)]
    optimizer_g, optimizer_d = optimizers

    for step in range(1, steps + 1):
        real, fake = circle(BATCH, device), generator(torch.randn(BATCH, LATENT, device=device))

        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        of_d = fastgan.discriminator_value_and_grad(real_logits, fake_logits, weight=0.5)
        penalty = fastgan.r1_penalty(discriminator, real, gamma=0.1)
        optimizer_d.zero_grad()
        torch.autograd.backward([real_logits, fake_logits, penalty], [*of_d.grads, None])
        optimizer_d.step()

        fake_logits = discriminator(fake)
        of_g = fastgan.generator_value_and_grad(fake_logits)
        optimizer_g.zero_grad()
        fastgan.generator_backward((fake_logits, of_g.grads), generator)
        optimizer_g.step()

        if step % 500 == 0 or step == steps:  # only here does the host wait for the device
            print(f"step {step}: loss of D {of_d.loss:.3f}, loss of G {of_g.loss:.3f}, error {of_d.stats.error:.2f}")


if __name__ == "__main__":
    main()
