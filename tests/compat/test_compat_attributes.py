"""Attributes of the losses that the codebases read, and errors that the codebases' tests expect."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan.compat import audiocraft, basicsr, espnet, mmagic, monai, stylegan

MODULES = {
    "vanilla": nn.BCEWithLogitsLoss,
    "lsgan": nn.MSELoss,
    "smgan": nn.MSELoss,
    "l1": nn.L1Loss,
    "hinge": nn.ReLU,
}


@pytest.mark.parametrize("library", [basicsr, mmagic], ids=["basicsr", "mmagic"])
def test_the_attribute_loss_of_gan_loss(library):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for gan_type in library.GANLoss.types:
        module = library.GANLoss(gan_type)
        if gan_type in MODULES:
            assert type(module.loss) is MODULES[gan_type]
            label = module.get_target_label(x, True)
            assert label.shape == x.shape and (label == module.real_label_val).all()
        else:
            plain = {"wgan": (-x).mean()}.get(gan_type, F.softplus(-x).mean())
            torch.testing.assert_close(module.loss(x, module.get_target_label(x, True)), plain, rtol=2e-6, atol=0)
            plain = {"wgan": x.mean()}.get(gan_type, F.softplus(x).mean())
            torch.testing.assert_close(module.loss(x, False), plain, rtol=2e-6, atol=0)
        assert not [name for name in module.state_dict() if name.startswith("loss")]


@pytest.mark.parametrize(
    "criterion, plain, activation, loss_fct, fake_label",
    [
        ("bce", False, nn.Sigmoid, nn.BCELoss, 0.0),
        ("hinge", False, nn.Tanh, None, -1.0),
        ("least_squares", False, nn.LeakyReLU, nn.MSELoss, 0.0),
        ("least_squares", True, type(None), nn.MSELoss, 0.0),
    ],
)
def test_the_parts_of_monais_loss_make_its_value(criterion, plain, activation, loss_fct, fake_label):
    """Its activation and `loss_fct`, applied by hand, give the value of the loss."""
    module = monai.PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=plain)
    assert type(module.activation) is activation and module.fake_label == fake_label
    assert type(getattr(module, "loss_fct", None)) is (loss_fct or type(None)) and not module.state_dict()
    if loss_fct:
        x = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
        active = x if module.activation is None else module.activation(x)
        want = module.loss_fct(active, module.get_target_tensor(x, False))
        torch.testing.assert_close(module(x, False, True), want, rtol=3e-6, atol=0)


def test_audiocraft_raises_the_errors_that_its_tests_expect():
    """Its own test of the feature loss expects AssertionErrors; ours are ValueErrors too, and name the argument."""
    loss, x = audiocraft.FeatureMatchingLoss(), torch.randn(1, 2, 30)
    by_hand = audiocraft.FeatureMatchingLoss(nn.SmoothL1Loss())
    for one in (loss, by_hand):
        for fake, real in (([], []), ([x], [x, x]), ([x], [torch.randn(1, 2, 31)])):
            for kind in (AssertionError, ValueError):
                with pytest.raises(kind, match="got"):
                    one(fake, real)
    with pytest.raises(AssertionError, match="loss_type: got 'wgan'"):
        audiocraft.get_adv_criterion("wgan")
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 10.0, 3.0])
    assert loss([a], [b]) == 3.0 and loss([a, a], [b, b]) == 3.0 and loss([x], [x]) == 0.0
    assert audiocraft.FeatureMatchingLoss(normalize=False)([a, a], [b, b]) == 6.0


def test_stylegans_phase_of_r1_alone_trains_the_last_bias():
    """Its gradient is 0, not None: Adam moves the bias by the momentum of earlier phases."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in nets]
    for phase in ("Dmain", "Dreg"):
        for way, (net, optimizer) in enumerate(zip(nets, optimizers)):
            real = torch.linspace(-1, 1, 12).view(6, 2).requires_grad_(phase == "Dreg")
            logits = net(real)
            optimizer.zero_grad(set_to_none=True)
            penalty = 0.0
            if phase == "Dreg":
                slope = torch.autograd.grad(logits.sum(), real, create_graph=True)[0]
                penalty = slope.square().sum(1)
            if way == 0:  # as upstream
                term = F.softplus(-logits) if phase == "Dmain" else 0.0
                (logits * 0 + term + penalty).mean().backward()
            elif phase == "Dmain":
                logits.backward(stylegan.discriminator_real_value_and_grad(logits).grad)
            else:
                torch.autograd.backward([logits, penalty.mean()], [torch.zeros_like(logits), None])
            before = net[2].bias.detach().clone()
            optimizer.step()
            assert net[2].bias != before
    for ours, theirs in zip(nets[1].parameters(), nets[0].parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["mse", "hinge"])
def test_the_criteria_of_espnet(loss_type):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    g, d = (
        espnet.GeneratorAdversarialLoss(loss_type=loss_type),
        espnet.DiscriminatorAdversarialLoss(loss_type=loss_type),
    )
    want = {
        "mse": ((x - 1).square().mean(), (x - 1).square().mean(), x.square().mean()),
        "hinge": (-x.mean(), F.relu(1 - x).mean(), F.relu(1 + x).mean()),
    }
    got = (g.criterion(x), d.real_criterion(x), d.fake_criterion(x))
    for a, b in zip(got, want[loss_type]):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=0)
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="loss_type: got 'wgan'"):
            espnet.GeneratorAdversarialLoss(loss_type="wgan")
