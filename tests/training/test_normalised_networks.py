"""Networks whose weights are computed from others: weight and spectral normalisation, old and new."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations
from trainers import DATA, assert_same, state

from fastgan.trainer import GANTrainer, to_numbers
from fastgan.training.look import copied

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
]
KINDS = {
    "weight_norm, old": utils.weight_norm,
    "spectral_norm, old": utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


def networks(kind):
    torch.manual_seed(0)
    wrap = KINDS[kind]
    generator = nn.Sequential(wrap(nn.Linear(4, 16)), nn.LeakyReLU(0.2), wrap(nn.Linear(16, 2)))
    discriminator = nn.Sequential(wrap(nn.Linear(2, 16)), nn.LeakyReLU(0.2), wrap(nn.Linear(16, 1)))
    return generator, discriminator


def make(kind, **options):
    return GANTrainer(*networks(kind), **{"latent_dim": 4, "lr": 0.02} | options)


def weight_of(layer, kind):
    """The weight in float64, computed from the layer's state."""
    layer = {k.replace("parametrizations.weight.", ""): v.double() for k, v in layer.state_dict().items()}
    if "weight_norm" in kind:
        g, v = (layer["weight_g"], layer["weight_v"]) if "old" in kind else (layer["original0"], layer["original1"])
        return g * v / v.norm(dim=1, keepdim=True)
    w = layer["weight_orig"] if "old" in kind else layer["original"]
    u, v = (layer["weight_u"], layer["weight_v"]) if "old" in kind else (layer["0._u"], layer["0._v"])
    return w / (u @ w @ v)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"r1": 0.0}, {"step": "one-stage", "r1": 0.0}])
def test_the_averaged_generator(kind, options):
    """Its parameters are the averages, by their recurrence in float64; its weights are computed from them."""
    trainer = make(kind, ema_decay=0.8, **options)
    average = [p.detach().double() for p in trainer.generator.parameters()]
    for t in range(30):
        trainer.step(DATA[:16])
        decay = min(0.8, (t + 1) / (t + 10))
        average = [
            decay * a + (1 - decay) * p.detach().double() for a, p in zip(average, trainer.generator.parameters())
        ]
    for a, b in zip(trainer.ema.parameters(), average, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))
    x = z.double()
    for i in (0, 2):
        x = x @ weight_of(trainer.ema[i], kind).T + trainer.ema[i].bias.double()
        x = torch.where(x < 0, 0.2 * x, x) if i == 0 else x
    torch.testing.assert_close(trainer.sample(9, seed=3).double(), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(trainer.sample(9, seed=3), trainer.sample(9, seed=3))


@pytest.mark.parametrize("kind", ["spectral_norm, old", "spectral_norm"])
def test_the_averaged_generator_has_spectral_norm_one(kind):
    """An average of singular vectors has a norm below 1, which would make the weights many times too large."""
    trainer = make(kind, lr=0.05, ema_decay=0.99)
    for i in range(60):
        trainer.step(DATA[i : i + 16])
        for layer in (trainer.ema[0], trainer.ema[2]):
            largest = torch.linalg.matrix_norm(weight_of(layer, kind), 2).item()
            assert 0.99 < largest < 1.3
    for name, buffer in trainer.ema.named_buffers():
        assert buffer.norm().item() == pytest.approx(1, abs=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(kind, tmp_path):
    straight, first, second = make(kind), make(kind), make(kind)
    straight.fit(DATA, steps=6, batch=16)
    first.fit(DATA, steps=3, batch=16)
    first.save(tmp_path / "half.pt")
    second.fit(DATA, steps=2, batch=16)
    second.load(tmp_path / "half.pt")
    second.fit(DATA, steps=3, batch=16)
    assert_same(state(second), state(straight))
    assert torch.equal(second.sample(5), straight.sample(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_has_run_before(kind):
    """It still has the computed weights of its last pass, with their graph."""
    generator, discriminator = networks(kind)
    discriminator(generator(torch.randn(3, 4))).sum().backward()
    trainer = GANTrainer(generator, discriminator, latent_dim=4)
    before = {k: v.clone() for k, v in trainer.ema.state_dict().items()}
    own = {t.data_ptr() for t in generator.state_dict().values()}
    assert all(v.data_ptr() not in own for v in trainer.ema.state_dict().values())
    numbers = to_numbers(trainer.step(DATA[:16]))
    assert all(v == v for v in numbers.values())
    assert any(not torch.equal(v, before[k]) for k, v in trainer.ema.state_dict().items())


class Remembers(nn.Module):
    """A network that keeps its features, for feature matching."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.features = nn.Linear(2, 8), nn.Linear(8, 1), []

    def forward(self, x):
        self.features = [self.first(x)]
        return self.last(self.features[0])


def test_a_copy_has_equal_computed_tensors_and_shares_no_memory():
    network = Remembers()
    network(torch.randn(3, 2))
    with pytest.raises(RuntimeError, match="created explicitly"):
        copy.deepcopy(network)
    other = copied("discriminator", network)
    assert torch.equal(other.features[0], network.features[0]) and other.features[0].grad_fn is None
    assert network.features[0].grad_fn is not None
    with torch.no_grad():
        other.first.weight.zero_(), other.features[0].zero_()
    assert (network.first.weight != 0).all() and (network.features[0] != 0).all()
    trainer = GANTrainer(nn.Linear(4, 2), network, latent_dim=4)
    trainer.step(DATA[:8])


def test_buffers_that_are_no_statistics_are_copied():
    class Buffers(nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
            self.register_buffer("direction", torch.ones(4) / 2)
            self.register_buffer("running_mean", torch.zeros(4))

        def forward(self, z):
            self.direction.copy_(nn.functional.normalize(self.direction + z[0].detach(), dim=0))
            self.running_mean.copy_(z.detach().mean(0))
            return super().forward(z)

    torch.manual_seed(0)
    trainer = GANTrainer(Buffers(), nn.Linear(2, 1), latent_dim=4)
    mean = torch.zeros(4, dtype=torch.float64)
    for t in range(5):
        trainer.step(DATA[:8])
        assert torch.equal(trainer.ema.direction, trainer.generator.direction)
        decay = (t + 1) / (t + 10)
        mean = decay * mean + (1 - decay) * trainer.generator.running_mean.double()
    torch.testing.assert_close(trainer.ema.running_mean.double(), mean, rtol=1e-5, atol=1e-7)
