"""DAC and AudioCraft: their steps, the adversary's state, and the tensors that get no gradient."""

import copy

import pytest
import torch
from audio_formulas import AUDIOCRAFT, DAC, ENCODEC, HALF, WIDE, Signal, pair
from parity import check, shaped
from torch import nn

from fastgan.compat import audiocraft, dac


class Discriminators(nn.Module):
    """Three discriminators, each a list of two features and the logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(8, n) for n in (3, 5, 7)])
        self.head = nn.Linear(1, 1)

    def forward(self, x):
        found = []
        for layer in self.layers:
            h = layer(x)
            found.append([h, h.relu(), self.head(h.tanh().unsqueeze(-1)).squeeze(-1)])
        return found


def dac_discriminator(net, fake, real):
    outputs = zip(net(fake.detach()), net(real))
    return sum((f[-1] ** 2).mean() + ((1 - r[-1]) ** 2).mean() for f, r in outputs)


def dac_generator(net, fake, real):
    f, r = net(fake), net(real)
    features = sum((a - b.detach()).abs().mean() for x, y in zip(f, r) for a, b in zip(x[:-1], y[:-1]))
    return sum(((1 - x[-1]) ** 2).mean() for x in f), features


def grads_of(loss, net, *more):
    found = torch.autograd.grad(
        loss, [*net.parameters(), *more], torch.full_like(loss, 3.0), retain_graph=True, allow_unused=True
    )
    return [torch.zeros(()) if g is None else g for g in found]


@pytest.mark.parametrize("dtype", WIDE)
def test_dac(dtype):
    net = Discriminators().to(dtype)
    exact = copy.deepcopy(net).double()
    fake, real = shaped((4, 1, 8), dtype, seed=1), shaped((4, 1, 8), dtype, seed=2)
    ours = dac.GANLoss(net)
    signals = Signal(fake), Signal(real)
    check_gradients = [(ours.discriminator_loss(*signals), dac_discriminator(exact, fake.double(), real.double()))]
    check_gradients += zip(ours.generator_loss(*signals), dac_generator(exact, fake.double(), real.double()))
    for got, want in check_gradients:
        assert got.shape == () and got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
        for g, w in zip(grads_of(got, net, fake, real), grads_of(want, exact, fake, real)):
            torch.testing.assert_close(g.double(), w.double(), rtol=1e-4, atol=1e-6)
    assert signals[0].audio_data is fake  # the caller's signal is not detached


def test_dac_detaches_generated_data_for_d_and_real_data_for_g():
    ours, fake, real = dac.GANLoss(Discriminators()), shaped((4, 1, 8), seed=1), shaped((4, 1, 8), seed=2)
    ours.discriminator_loss(Signal(fake), Signal(real)).backward()
    assert fake.grad is None and real.grad is not None
    real.grad = None
    loss_g, loss_feature = ours.generator_loss(Signal(fake), Signal(real))
    (loss_g + 2 * loss_feature).backward()
    assert fake.grad is not None and real.grad is None


def test_dac_structure():
    net = Discriminators()
    ours = dac.GANLoss(net)
    assert list(ours.state_dict()) == ["discriminator." + key for key in net.state_dict()]
    fake, real = Signal(torch.randn(2, 1, 8)), Signal(torch.randn(2, 1, 8))
    of_fake, of_real = ours(fake, real)
    torch.testing.assert_close(of_fake, net(fake.audio_data))
    torch.testing.assert_close(of_real, net(real.audio_data))
    bare = dac.GANLoss(lambda x: [[x]])
    assert bare.generator_loss(fake, real)[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dac_shapes(dtype):
    """Logits of DAC's shapes, from a discriminator that returns prepared tensors."""
    reals, fakes = pair([[shape] for shape in DAC], dtype)
    outputs = {0: fakes, 1: reals}

    def ours(fakes, reals):
        of = {0: fakes, 1: reals}
        return dac.GANLoss(lambda key: of[int(key)]).discriminator_loss(
            Signal(torch.tensor(0)), Signal(torch.tensor(1))
        )

    def theirs(fakes, reals):
        return sum((f[-1] ** 2).mean() + ((1 - r[-1]) ** 2).mean() for f, r in zip(fakes, reals))

    check(ours, theirs, outputs[0], outputs[1])


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("name", AUDIOCRAFT)
def test_audiocraft_functions(name, dtype):
    check(getattr(audiocraft, name), AUDIOCRAFT[name], shaped(ENCODEC[0], dtype))


def test_audiocraft_criteria():
    found = {
        kind: [getattr(audiocraft, f"get_{of}_criterion")(kind).__name__ for of in ("adv", "real", "fake")]
        for kind in audiocraft.ADVERSARIAL_LOSSES
    }
    assert found == {
        "mse": ["mse_loss", "mse_real_loss", "mse_fake_loss"],
        "hinge": ["hinge_loss", "hinge_real_loss", "hinge_fake_loss"],
        "hinge2": ["hinge2_loss", "hinge_real_loss", "hinge_fake_loss"],
    }
    for get in (audiocraft.get_adv_criterion, audiocraft.get_real_criterion, audiocraft.get_fake_criterion):
        with pytest.raises(ValueError, match=r"loss_type: got 'wgan', expected 'mse', 'hinge' or 'hinge2'"):
            get("wgan")


def test_audiocraft_of_no_logits():
    empty = torch.zeros(0, 3, device="meta")
    for f in (audiocraft.mse_loss, audiocraft.hinge_loss, audiocraft.hinge2_loss):
        assert f(torch.zeros(0, 3)).tolist() == [0.0]
        assert f(empty).device == empty.device  # upstream's hinge2 gives a CPU tensor
    for f in (
        audiocraft.mse_real_loss,
        audiocraft.mse_fake_loss,
        audiocraft.hinge_real_loss,
        audiocraft.hinge_fake_loss,
    ):
        assert f(torch.zeros(0, 3)).isnan()


class Adversary(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.of = Discriminators().to(dtype)

    def forward(self, x):
        found = self.of(x)
        return [maps[-1] for maps in found], [maps[:-1] for maps in found]


def feature_loss(fake, real):
    return sum((a - b).abs().mean() for a, b in zip(fake, real)) / len(fake)


def adversary_step(net, kind, fake, real, normalize):
    """Upstream's `train_adv` up to the gradients."""
    of_d = AUDIOCRAFT["mse_real_loss" if kind == "mse" else "hinge_real_loss"]
    of_fake = AUDIOCRAFT["mse_fake_loss" if kind == "mse" else "hinge_fake_loss"]
    f, r = net(fake.detach())[0], net(real.detach())[0]
    return sum(of_fake(x) + of_d(y) for x, y in zip(f, r)) / (len(f) if normalize else 1)


def adversarial(net, kind, normalize=True, ours=True, loss_feat=feature_loss):
    names = ("adv", "real", "fake")
    criteria = [getattr(audiocraft, f"get_{name}_criterion")(kind) for name in names]
    if not ours:  # callables of a user
        criteria = [lambda x, f=f: f(x) for f in criteria]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return audiocraft.AdversarialLoss(net, optimizer, *criteria, loss_feat, normalize)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["mse", "hinge", "hinge2"])
def test_audiocraft_adversarial_loss(kind, normalize, ours):
    net = Adversary(torch.float64)
    theirs = copy.deepcopy(net)
    fake, real = (shaped((4, 1, 8), torch.float64, seed=seed) for seed in (1, 2))
    adv = adversarial(net, kind, normalize, ours)

    # the generator's losses
    loss, feat = adv(fake, real)
    of_fake, maps_of_fake = theirs(fake)
    share = len(of_fake) if normalize else 1
    want = sum(AUDIOCRAFT[f"{kind}_loss"](x) for x in of_fake) / share
    want_feat = sum(feature_loss(*maps) for maps in zip(maps_of_fake, theirs(real)[1])) / share
    assert loss.shape == feat.shape == ()
    torch.testing.assert_close(loss, want.float())
    torch.testing.assert_close(feat, want_feat.float())
    got = torch.autograd.grad(loss + feat, [fake, real])
    torch.testing.assert_close(got, torch.autograd.grad(want + want_feat, [fake, real]))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())

    # the adversary's step ignores gradients that are there before
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    loss = adv.train_adv(fake, real)
    want = adversary_step(theirs, kind, fake, real, normalize)
    assert loss.shape == () and fake.grad is None and real.grad is None
    torch.testing.assert_close(loss, want.float())
    for p, q, g in zip(net.parameters(), theirs.parameters(), torch.autograd.grad(want, list(theirs.parameters()))):
        torch.testing.assert_close(p, q - 0.1 * g)


def test_audiocraft_adversary_gets_no_gradient_from_the_generator():
    net = Adversary()
    net.of.head.bias.requires_grad_(False)  # frozen by the user: stays frozen
    adv, fake = adversarial(net, "hinge"), shaped((4, 1, 8))
    sum(adv(fake, fake.detach())).backward()
    assert fake.grad is not None and all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()].count(False) == 1


def test_audiocraft_mixed_criteria_and_no_features():
    net, fake, real = Adversary(torch.float64), *(shaped((4, 1, 8), torch.float64, seed=seed) for seed in (1, 2))
    criteria = audiocraft.mse_loss, audiocraft.mse_real_loss, audiocraft.hinge_fake_loss
    adv = audiocraft.AdversarialLoss(net, torch.optim.SGD(net.parameters(), lr=0.0), *criteria)
    want = sum(
        AUDIOCRAFT["hinge_fake_loss"](f) + AUDIOCRAFT["mse_real_loss"](r) for f, r in zip(net(fake)[0], net(real)[0])
    )
    torch.testing.assert_close(adv.train_adv(fake, real), (want / 3).float())
    assert adv(fake, real)[1] == 0


def test_audiocraft_sub_adversaries_without_logits():
    class Partly(nn.Module):
        def forward(self, x):
            return [x, x[:, :0]], [[x], [x]]

    x = shaped((2, 3))
    for criteria in ("mse", "hinge", "hinge2"):
        loss, _ = audiocraft.AdversarialLoss(Partly(), None, *[audiocraft.get_adv_criterion(criteria)] * 3)(x, x)
        torch.testing.assert_close(loss, audiocraft.get_adv_criterion(criteria)(x) / 2)
    nothing = audiocraft.AdversarialLoss(Partly(), None, *[audiocraft.mse_loss] * 3)
    assert nothing(x[:, :0], x)[0] == 0


def test_audiocraft_state_holds_the_optimizer():
    net = Adversary()
    adv = adversarial(net, "mse")
    adv.optimizer = torch.optim.Adam(net.parameters())
    adv.train_adv(torch.randn(2, 1, 8), torch.randn(2, 1, 8))
    state = copy.deepcopy(adv.state_dict())
    assert set(state) == {"optimizer", *(f"adversary.{key}" for key in net.state_dict())}
    other = adversarial(Adversary(), "mse")
    other.optimizer = torch.optim.Adam(other.adversary.parameters())
    other.load_state_dict(state)
    assert len(other.optimizer.state_dict()["state"]) == len(list(net.parameters()))


def test_audiocraft_refuses_other_adversaries():
    def made(found):
        return audiocraft.AdversarialLoss(lambda x: found, None, *[audiocraft.mse_loss] * 3)

    x = torch.zeros(2)
    for found, kind, message in (
        ((x, [[x]]), TypeError, "got logits in a Tensor"),
        (([x], x), TypeError, "got feature maps in a Tensor"),
        (([x], [x]), TypeError, "got feature maps in a list"),
        (([], []), ValueError, "got no logits"),
    ):
        with pytest.raises(kind, match=message):
            made(found).get_adversary_pred(x)
