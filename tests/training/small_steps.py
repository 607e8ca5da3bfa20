"""Small networks and trainers in float64, and the step of a plain loop."""

import torch
from torch import nn

from fastgan import reference
from fastgan.networks import Discriminator, Generator, mlp
from fastgan.objectives import OBJECTIVES
from fastgan.trainer import GANTrainer

RTOL = 1e-12
N, LATENT = 8, 4
POINTS = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1


def pair(kind="points"):
    torch.manual_seed(0)
    generator, discriminator = mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2)
    if kind == "images":
        generator, discriminator = Generator(8, 1, LATENT, 4), Discriminator(8, 1, 4)
    elif kind == "patches":  # several logits a sample
        generator, discriminator = Generator(8, 1, LATENT, 4), nn.Conv2d(1, 1, 4, stride=2)
    elif kind == "smooth":  # the penalty of a piecewise linear D has no gradient in the samples
        discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    elif kind == "batch norm":
        discriminator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return generator.double(), discriminator.double()


def make(kind="points", **options):
    generator, discriminator = pair(kind)
    options = {"latent_dim": LATENT, "r1": 0.0, "lr": 1e-3, **options}
    trainer = GANTrainer(generator, discriminator, **options)
    for optimizer in filter(None, (trainer.optimizer_g, trainer.optimizer_d)):
        # Some gradients are 0 except for rounding (of a bias if only differences of logits count, or before batch
        # normalisation). With its default eps of 1e-8 Adam would make steps of full size from them.
        optimizer.param_groups[0]["eps"] = 1e-3
    return trainer


def batches(steps, kind="points"):
    data = IMAGES if kind in ("images", "patches") else POINTS
    return [data[(i * N) % 64 :][:N] for i in range(steps)]


def weights(trainer):
    parts = [trainer.generator, *filter(None, [trainer.discriminator]), trainer.ema]
    return [t.detach().clone() for part in parts for t in (*part.parameters(), *part.buffers())]


def assert_equal_weights(a, b, rtol=RTOL):
    for x, y in zip(weights(a), weights(b), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol if x.is_floating_point() else 0)


def penalty_of(discriminator, samples, gamma):
    samples = samples.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(samples).sum(), samples, create_graph=True)
    return gamma / 2 * slope.square().flatten(1).sum(1).mean()


def plain_step(t, real, objective, *, r1=0.0, r2=0.0, redraw=True, simultaneous=False):
    """As a GAN author writes it: losses with a graph, `.backward()`, D never frozen."""
    n = len(real)
    fake = t.generator(t.latent(n))
    logits = t.discriminator(real), t.discriminator(fake.detach())
    loss_d = reference.discriminator_loss(*logits, objective, weight=t.weight)
    if r1:
        loss_d = loss_d + penalty_of(t.discriminator, real, r1)
    if r2:
        loss_d = loss_d + penalty_of(t.discriminator, fake.detach(), r2)
    t.optimizer_d.zero_grad()
    loss_d.backward()
    kept = [p.grad.clone() for p in t.discriminator.parameters()]
    if not simultaneous:
        t.optimizer_d.step()
    if redraw and not simultaneous:
        fake = t.generator(t.latent(n))
    compared = {"real_logits": t.discriminator(real).detach()} if OBJECTIVES[objective].relation else {}
    loss_g = reference.generator_loss(t.discriminator(fake), objective, **compared)
    t.optimizer_g.zero_grad()
    loss_g.backward()
    if simultaneous:
        for p, grad in zip(t.discriminator.parameters(), kept):
            p.grad = grad
        t.optimizer_d.step()
    t.optimizer_g.step()
    t._average.update(t.step_number, t.ema_decay)
    t.step_number += 1
    return loss_d.item(), loss_g.item()
