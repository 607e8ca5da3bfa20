"""Functions that return several losses: each has its own graph, as if the codebase computed them one by one."""

import pytest
import torch

from fastgan import kernels
from fastgan.compat import biggan, coqui, espnet, hifigan, monai, vocos


def flat(returned):
    total, *lists = returned
    return [total, *[loss for losses in lists for loss in losses]]


# name: (function of two networks' logits that returns the losses; the networks that each loss depends on)
RETURNED = {
    "espnet D mse": (lambda a, b: list(espnet.DiscriminatorAdversarialLoss()(b, a)), ["a", "b"]),
    "espnet D hinge": (lambda a, b: list(espnet.DiscriminatorAdversarialLoss(loss_type="hinge")(b, a)), ["a", "b"]),
    "coqui D": (lambda a, b: list(coqui.HingeDLoss()(b, a)), ["ab", "a", "b"]),
    "hifigan D": (lambda a, b: [hifigan.discriminator_loss([a], [b])[0]], ["ab"]),
    "hifigan G": (lambda a, b: flat(hifigan.generator_loss([a, b])), ["ab", "a", "b"]),
    "vocos D": (lambda a, b: flat(vocos.DiscriminatorLoss()([a], [b])), ["ab", "a", "b"]),
    "vocos G": (lambda a, b: flat(vocos.GeneratorLoss()([a, b])), ["ab", "a", "b"]),
    "monai": (lambda a, b: monai.PatchAdversarialLoss("none", "hinge")([a, b], True, True), ["a", "b"]),
    "biggan D": (lambda a, b: list(biggan.loss_dcgan_dis(b, a)), ["a", "b"]),
}
BY_NAME = pytest.mark.parametrize("name", RETURNED)


def networks(device):
    return {name: torch.full((1,), w, device=device, requires_grad=True) for name, w in (("a", 0.5), ("b", -0.3))}


def outputs(weights, size=5000):
    """Logits of a graph that a backward pass frees."""
    x = torch.linspace(-3.0, 3.0, size, device=weights["a"].device)
    return [2.0 * (w * x).tanh() for w in weights.values()]


@BY_NAME
@pytest.mark.parametrize(("size", "order"), [(8, -1), pytest.param(5000, 1, marks=pytest.mark.thorough)])
def test_each_loss_can_go_backward_alone(device, name, size, order):
    """No loss frees the graph of another network. All parts together leave the gradient of the total."""
    losses_of, comes_from = RETURNED[name]
    weights = networks(device)
    losses = losses_of(*outputs(weights, size))
    parts = [loss for loss, names in zip(losses, comes_from) if len(names) == 1]
    for loss in parts[::order]:
        loss.backward()
    totals = networks(device)
    losses = losses_of(*outputs(totals, size))
    (losses[0] if len(comes_from[0]) == 2 else sum(losses)).backward()
    if parts:
        torch.testing.assert_close([w.grad for w in weights.values()], [w.grad for w in totals.values()])
    assert all(w.grad.abs() > 0 for w in totals.values())


@BY_NAME
@pytest.mark.parametrize("trained", ["a", "b"])
def test_a_loss_of_detached_logits_requires_no_gradient(device, name, trained):
    losses_of, comes_from = RETURNED[name]
    weights = {key: w.requires_grad_(key == trained) for key, w in networks(device).items()}
    asked = [loss.requires_grad for loss in losses_of(*outputs(weights))]
    assert asked == [trained in names for names in comes_from]


@BY_NAME
def test_one_launch_forward_and_one_for_each_backward_pass(kernel_device, name):
    losses_of, comes_from = RETURNED[name]
    before = kernels.launch_count()
    losses = losses_of(*outputs(networks(kernel_device), 8))
    assert kernels.launch_count() - before == 1
    for i, loss in enumerate(losses):
        loss.backward(retain_graph=True)
        assert kernels.launch_count() - before == 2 + i
    assert len(losses) == len(comes_from)


@BY_NAME
def test_each_loss_can_be_changed_in_place(device, name):
    """Other losses, saved for a backward pass, are not affected."""
    losses_of, comes_from = RETURNED[name]
    for i in range(len(comes_from)):
        losses = losses_of(*outputs(networks(device), 8))
        values = [loss.item() for loss in losses]
        squares = [loss.square() for loss in losses[:i] + losses[i + 1 :]]
        losses[i] /= 2
        assert [loss.item() for loss in losses] == [*values[:i], values[i] / 2, *values[i + 1 :]]
        for square in squares:
            square.backward(retain_graph=True)


def test_compiled():
    """Compiled, the losses have one graph, and a loss of detached logits requires no gradient."""
    losses_of, _ = RETURNED["coqui D"]
    compiled = torch.compile(lambda a, b: losses_of(a, b), fullgraph=True, backend="aot_eager")
    found = []
    for call in (losses_of, compiled):
        weights = networks("cpu")
        a, b = outputs(weights, 40)
        losses = call(a, b)
        sum(losses).backward()
        found.append([*(loss.detach() for loss in losses), *(w.grad for w in weights.values())])
        assert [loss.requires_grad for loss in call(a.detach(), b)] == [True, False, True]
    torch.testing.assert_close(*found)
