"""The loops of docs/training.md for Accelerate and Lightning Fabric, which run the fused losses' backward pass."""

import pytest
import torch

import fastgan
from fastgan.networks import mlp

pytestmark = pytest.mark.usefixtures("one_thread")
LATENT, N, STEPS = 4, 8, 5
DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))


def parts():
    torch.manual_seed(0)
    generator, discriminator = mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3) for m in (generator, discriminator)]
    loader = torch.utils.data.DataLoader(DATA, batch_size=N)
    torch.manual_seed(5)
    return generator, discriminator, *optimizers, loader


def plain():
    """The same training without a framework."""
    generator, discriminator, optimizer_g, optimizer_d, loader = parts()
    for real, _ in zip(loader, range(STEPS)):
        fake = generator(torch.randn(N, LATENT))
        loss_d = fastgan.reference.discriminator_loss(discriminator(real), discriminator(fake.detach()))
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        loss_g = fastgan.reference.generator_loss(discriminator(fake))
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
    return [p.detach() for m in (generator, discriminator) for p in m.parameters()]


def trained_with(framework):
    """The loop of the page: the framework wraps networks and optimizers, and calls the backward pass."""
    generator, discriminator, optimizer_g, optimizer_d, loader = framework.start(*parts())
    for real, _ in zip(loader, range(STEPS)):
        fake = generator(torch.randn(len(real), LATENT, device=real.device))
        loss_d = fastgan.discriminator_loss(discriminator(real), discriminator(fake.detach()))
        optimizer_d.zero_grad()
        framework.backward(loss_d)
        optimizer_d.step()
        discriminator.requires_grad_(False)  # D needs no weight gradients here
        loss_g = fastgan.generator_loss(discriminator(fake))
        optimizer_g.zero_grad()
        framework.backward(loss_g)
        optimizer_g.step()
        discriminator.requires_grad_(True)
    return generator, discriminator


class Accelerate:
    def __init__(self, **options):
        accelerate = pytest.importorskip("accelerate")
        accelerate.state.AcceleratorState._reset_state(True)  # there is one for each process, with the first options
        self.accelerator = accelerate.Accelerator(cpu=True, **options)
        self.start, self.backward = self.accelerator.prepare, self.accelerator.backward


class Fabric:
    def __init__(self, **options):
        fabric = pytest.importorskip("lightning_fabric")
        self.fabric = fabric.Fabric(accelerator="cpu", devices=1, **options)
        self.backward = self.fabric.backward

    def start(self, generator, discriminator, optimizer_g, optimizer_d, loader):
        generator, optimizer_g = self.fabric.setup(generator, optimizer_g)
        discriminator, optimizer_d = self.fabric.setup(discriminator, optimizer_d)
        return generator, discriminator, optimizer_g, optimizer_d, self.fabric.setup_dataloaders(loader)


@pytest.mark.parametrize("framework", [Accelerate, Fabric])
def test_the_loop_of_a_framework_trains_as_the_plain_one(framework):
    networks = trained_with(framework())
    got = [p.detach() for m in networks for p in m.parameters()]
    for a, b in zip(got, plain(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("framework", "options"), [(Accelerate, {"mixed_precision": "bf16"}), (Fabric, {"precision": "bf16-mixed"})]
)
def test_the_autocast_of_a_framework(framework, options):
    """Under autocast the logits have half precision."""
    networks = trained_with(framework(**options))
    for a, b in zip((p.detach() for m in networks for p in m.parameters()), plain(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("framework", [Accelerate, Fabric])
def test_findings_are_in_the_lines_of_the_loop(framework):
    """And not in the framework's line that calls `loss.backward()`."""
    framework = framework()
    generator, discriminator, optimizer_g, optimizer_d, _ = framework.start(*parts())

    def step():
        optimizer_d.zero_grad()
        framework.backward(discriminator(DATA[:N]).mean())
        optimizer_d.step()
        optimizer_g.zero_grad()
        framework.backward(discriminator(generator(DATA[: 2 * N].reshape(N, LATENT))).mean())
        optimizer_g.step()

    (finding,) = fastgan.inspect_step(step).findings
    assert finding.kind == "gradients" and finding.file == __file__
    assert finding.line == step.__code__.co_firstlineno + 5
