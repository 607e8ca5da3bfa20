"""Audio codebases, and the image tokenisers' losses, against their formulas restated here in eager PyTorch."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from parity import adaptive_weight, check, copied, shaped
from torch import nn

from fastgan.compat import audiocraft, bigvgan, coqui, dac, espnet, hifigan, taming, vits, vocos

# The shapes of real configurations, their batches cut to 1, 2 or 4, and BigVGAN's largest maps to a quarter.
HIFIGAN = [(2, n) for n in (102, 102, 105, 105, 110, 128, 65, 33)]
BIGVGAN = [*[(1, n) for n in (810, 810, 810, 812, 814)], (1, 1, 257, 27), (1, 1, 128, 41), (1, 1, 128, 54)]
VITS = [*[(4, n) for n in (102, 102, 105, 105, 110)], (4, 128)]
DAC = [(2, 1, 104, 2), (2, 1, 69, 3), (2, 1, 42, 5), (2, 1, 30, 7), (2, 1, 19, 11), (2, 1, 33, 130), (2, 1, 66, 66)]
ENCODEC = [(2, 1, 90, 65), (2, 1, 43, 129), (2, 1, 184, 33), (2, 1, 372, 17), (2, 1, 747, 9)]
SMALL = [(2, 5), (2, 1, 3, 4), (7,)]
PATCHES = (3, 1, 30, 30)

WIDE = [torch.float32, torch.float64]
HALF = [torch.float16, torch.bfloat16]


def pair(shapes, dtype=torch.float32, device="cpu"):
    return shaped(shapes, dtype, seed=1, device=device), shaped(shapes, dtype, seed=2, device=device)


def relu(x):
    return x.clamp(min=0)


# HiFi-GAN, BigVGAN, VITS


def ls_discriminator(reals, fakes):
    r = [((1 - x) ** 2).mean() for x in reals]
    f = [(x**2).mean() for x in fakes]
    return sum(r) + sum(f), [x.item() for x in r], [x.item() for x in f]


def ls_generator(fakes):
    losses = [((1 - x) ** 2).mean() for x in fakes]
    return sum(losses), losses


TRIPLES = [(hifigan, HIFIGAN), (bigvgan, BIGVGAN), (vits, VITS)]


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize(("module", "shapes"), TRIPLES, ids=lambda x: getattr(x, "__name__", "").split(".")[-1])
def test_hifigan_family(module, shapes, dtype):
    reals, fakes = pair(shapes, dtype)
    check(module.discriminator_loss, ls_discriminator, reals, fakes, float32=module is vits)
    check(module.generator_loss, ls_generator, fakes, float32=module is vits)


def test_hifigan_family_names_its_arguments_as_upstream():
    for module, _ in TRIPLES:
        names = list(inspect.signature(module.discriminator_loss).parameters)
        assert names == ["disc_real_outputs", "disc_generated_outputs"]
        assert list(inspect.signature(module.generator_loss).parameters) == ["disc_outputs"]


def test_logged_losses_are_detached_and_the_generators_attached():
    reals, fakes = pair(SMALL)
    loss, of_real, of_fake = hifigan.discriminator_loss(reals, fakes)
    assert loss.requires_grad and not any(x.requires_grad for x in of_real + of_fake)
    torch.testing.assert_close(sum(of_real) + sum(of_fake), loss.detach())
    assert all(x.requires_grad for x in hifigan.generator_loss(fakes)[1])


def test_one_side_alone():
    reals, fakes = pair(SMALL)
    still = [x.detach() for x in reals]
    loss = hifigan.discriminator_loss(still, fakes)[0]
    loss.backward()
    assert all(x.grad is None for x in still)
    for x in fakes:
        torch.testing.assert_close(x.grad, 2 * x.detach() / x.numel())
    assert not hifigan.discriminator_loss(still, [x.detach() for x in fakes])[0].requires_grad
    check(hifigan.discriminator_loss, ls_discriminator, still, fakes)
    check(hifigan.discriminator_loss, ls_discriminator, reals, [x.detach() for x in fakes])


def test_losses_take_part_in_arithmetic_in_place():
    """vocos' loop divides the loss by the number of discriminators in place, Coqui's adds to it."""
    reals, fakes = pair(SMALL)
    for loss in (vocos.DiscriminatorLoss()(reals, fakes)[0], *espnet.DiscriminatorAdversarialLoss()(fakes, reals)):
        want = torch.autograd.grad(loss, fakes, retain_graph=True, allow_unused=True)
        before = loss.detach().clone()
        loss /= 4
        torch.testing.assert_close(loss.detach(), before / 4)
        for g, w in zip(torch.autograd.grad(loss, fakes, retain_graph=True, allow_unused=True), want):
            torch.testing.assert_close(g, w if w is None else w / 4)  # of real data's loss: none at generated logits


@pytest.mark.parametrize("dtype", HALF)
def test_vits_under_autocast_gives_float32(dtype):
    reals, fakes = pair([(2, 7), (2, 9)], dtype)
    with torch.autocast("cpu", dtype):
        loss, _, _ = vits.discriminator_loss(reals, fakes)
        of_g, parts = vits.generator_loss(fakes)
    assert loss.dtype == of_g.dtype == parts[0].dtype == torch.float32
    loss.backward()
    assert fakes[0].grad.dtype == dtype


def test_sides_of_different_sizes():
    """The last batch: as many discriminators, fewer samples."""
    check(
        hifigan.discriminator_loss, ls_discriminator, shaped([(3, 5), (3, 7)], seed=1), shaped([(2, 5), (2, 7)], seed=2)
    )


# vocos


def clamped_discriminator(reals, fakes):
    r, f = [relu(1 - x).mean() for x in reals], [relu(1 + x).mean() for x in fakes]
    return (sum(r) + sum(f)).reshape(1), r, f


def clamped_generator(fakes):
    losses = [relu(1 - x).mean() for x in fakes]
    return sum(losses).reshape(1), losses


@pytest.mark.parametrize("dtype", WIDE + HALF)
def test_vocos(dtype):
    reals, fakes = pair(HIFIGAN, dtype)
    check(vocos.DiscriminatorLoss(), clamped_discriminator, reals, fakes)
    check(vocos.GeneratorLoss(), clamped_generator, fakes)
    assert not vocos.DiscriminatorLoss().state_dict() and not vocos.GeneratorLoss().state_dict()


# espnet


def espnet_terms(loss_type):
    if loss_type == "mse":
        return (lambda x: (x - 1) ** 2), (lambda x: x**2), (lambda x: (x - 1) ** 2)
    zero = torch.zeros((), dtype=torch.float64)
    return (lambda x: -torch.min(x - 1, zero)), (lambda x: -torch.min(-x - 1, zero)), (lambda x: -x)


def logits_of(outputs):
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [x[-1] if isinstance(x, (list, tuple)) else x for x in outputs]


def espnet_generator(average, loss_type):
    def loss(outputs):
        losses = [espnet_terms(loss_type)[2](x).mean() for x in logits_of(outputs)]
        return sum(losses) / (len(losses) if average else 1)

    return loss


def espnet_discriminator(average, loss_type):
    def loss(outputs_hat, outputs):
        of_real, of_fake, _ = espnet_terms(loss_type)
        r, f = [of_real(x).mean() for x in logits_of(outputs)], [of_fake(x).mean() for x in logits_of(outputs_hat)]
        share = len(r) if average else 1
        return sum(r) / share, sum(f) / share

    return loss


ESPNET = {
    "tensor": (2, 1, 50),
    "list": HIFIGAN,
    "list of one": [(2, 9)],
    "lists": [[(2, 3, 4), (2, 9)], [(2, 2, 2), (2, 3), (2, 11)]],
}


@pytest.mark.parametrize("dtype", [*WIDE, torch.float16])
@pytest.mark.parametrize("loss_type", ["mse", "hinge"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("shapes", ESPNET.values(), ids=ESPNET.keys())
def test_espnet(shapes, average, loss_type, dtype):
    real, fake = pair(shapes, dtype)
    of_d = espnet.DiscriminatorAdversarialLoss(average, loss_type)
    check(of_d, espnet_discriminator(average, loss_type), fake, real)
    check(espnet.GeneratorAdversarialLoss(average, loss_type), espnet_generator(average, loss_type), fake)


def test_espnet_defaults_and_argument_order():
    real, fake = pair(SMALL)
    check(espnet.DiscriminatorAdversarialLoss(), espnet_discriminator(True, "mse"), fake, real)
    check(espnet.GeneratorAdversarialLoss(), espnet_generator(True, "mse"), fake)
    of_real, _ = espnet.DiscriminatorAdversarialLoss(loss_type="hinge")(
        outputs_hat=fake, outputs=[x + 100 for x in real]
    )
    assert of_real == 0
    assert not espnet.DiscriminatorAdversarialLoss().state_dict()


# Coqui


def coqui_discriminator(real_term, fake_term):
    def loss(fake, real):
        r = [real_term(x).mean() for x in logits_of(real)]
        f = [fake_term(x).mean() for x in logits_of(fake)]
        r, f = sum(r) / len(r), sum(f) / len(f)
        return r + f, r, f

    return loss


def coqui_generator(term):
    return lambda fake: sum(term(x).mean() for x in logits_of(fake)) / len(logits_of(fake))


def square_to_1(x):
    return (x - 1) ** 2


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shapes", [(2, 1, 50), [(2, 1, 50), (2, 1, 25), (2, 1, 13)]], ids=["tensor", "list"])
def test_coqui(shapes, dtype):
    real, fake = pair(shapes, dtype)
    mse_d = coqui_discriminator(square_to_1, lambda x: x**2)
    hinge_d = coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x))
    check(coqui.MSEDLoss(), mse_d, fake, real)
    check(coqui.HingeDLoss(), hinge_d, fake, real)
    check(coqui.MSEGLoss(), coqui_generator(square_to_1), fake)
    check(coqui.HingeGLoss(), coqui_generator(lambda x: F.relu(1 - x)), fake)
    check(lambda f, r: coqui._apply_D_loss(f, r, coqui.HingeDLoss()), hinge_d, fake, real)
    check(lambda f: coqui._apply_G_adv_loss(f, coqui.MSEGLoss()), coqui_generator(square_to_1), fake)


def test_coqui_in_upstreams_own_loop():
    """Which calls the modules by keyword, scale by scale, and adds in place to what they return."""
    reals, fakes = pair(SMALL)
    total = 0
    for fake, real in zip(fakes, reals):
        loss, of_real, of_fake = coqui.MSEDLoss()(score_fake=fake, score_real=real)
        total = total + loss
        of_real += of_real
        of_fake += of_fake
    got = torch.autograd.grad(total / 3, fakes)
    want = torch.autograd.grad(coqui._apply_D_loss(fakes, reals, coqui.MSEDLoss())[0], fakes)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w)


# DAC


class Signal:
    """What `GANLoss` asks of an AudioSignal; `detach` works in place, as there."""

    def __init__(self, audio_data):
        self.audio_data = audio_data

    def clone(self):
        return Signal(self.audio_data.clone())

    def detach(self):
        self.audio_data = self.audio_data.detach()
        return self


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
    assert signals[0].audio_data is fake  # not detached under the caller's hands


def test_dac_detaches_what_it_should():
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
    """The logits' own path, with a discriminator that hands out prepared ones."""
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


# AudioCraft


def minimum(x):
    return torch.min(x, torch.zeros((), dtype=x.dtype))


AUDIOCRAFT = {
    "mse_loss": lambda x: ((x - 1) ** 2).mean(),
    "mse_real_loss": lambda x: ((x - 1) ** 2).mean(),
    "mse_fake_loss": lambda x: (x**2).mean(),
    "hinge_loss": lambda x: -x.mean(),
    "hinge2_loss": lambda x: -minimum(x - 1).mean(),
    "hinge_real_loss": lambda x: -minimum(x - 1).mean(),
    "hinge_fake_loss": lambda x: -minimum(-x - 1).mean(),
}


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


def adversarial(net, kind, normalize=True, own=True, loss_feat=feature_loss):
    names = ("adv", "real", "fake")
    criteria = [getattr(audiocraft, f"get_{name}_criterion")(kind) for name in names]
    if not own:  # somebody else's callables
        criteria = [lambda x, f=f: f(x) for f in criteria]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return audiocraft.AdversarialLoss(net, optimizer, *criteria, loss_feat, normalize)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["mse", "hinge", "hinge2"])
def test_audiocraft_adversarial_loss(kind, normalize, own):
    net = Adversary(torch.float64)
    theirs = copy.deepcopy(net)
    fake, real = (shaped((4, 1, 8), torch.float64, seed=seed) for seed in (1, 2))
    adv = adversarial(net, kind, normalize, own)

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

    # the adversary's step; gradients left behind by something else take no part in it
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


# taming-transformers and its descendants


def taming_discriminator(of_real, of_fake, weight=0.5):
    return lambda r, f: weight * (of_real(r).mean() + of_fake(f).mean())


def of_images(x):
    return x.flatten(1).mean(1)


TAMING_D = {
    "hinge_d_loss": taming_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x)),
    "vanilla_d_loss": taming_discriminator(lambda x: F.softplus(-x), F.softplus),
    "non_saturating_d_loss": taming_discriminator(lambda x: F.softplus(-x), F.softplus),
}
TAMING_G = {"hinge_gen_loss": lambda f: -f.mean(), "non_saturating_gen_loss": lambda f: F.softplus(-f).mean()}


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shape", [PATCHES, (3, 1), (2, 1, 7, 8, 8)], ids=str)
def test_taming(shape, dtype):
    real, fake = pair(shape, dtype)
    for name, theirs in TAMING_D.items():
        check(getattr(taming, name), theirs, real, fake)
        check(getattr(taming, name), theirs, real.detach(), fake)
        check(getattr(taming, name), theirs, real, fake.detach())
    for name, theirs in TAMING_G.items():
        check(getattr(taming, name), theirs, fake)


def test_llamagen_order_of_the_cross_entropys_arguments():
    """The labels are the second argument; upstream's way round, generated data give ln 2 and no gradient."""
    real, fake = pair(PATCHES)
    swapped = F.binary_cross_entropy_with_logits(torch.zeros_like(fake), fake)
    assert abs(swapped.item() - 0.6931) < 1e-3
    check(
        taming.non_saturating_d_loss,
        lambda r, f: (
            0.5
            * (
                F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
                + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))
            )
        ),
        *(real, fake),
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_open_magvit2(dtype):
    real, fake = pair(PATCHES, dtype)

    def discriminator(r, f):
        return F.softplus(-of_images(r)).mean() + F.softplus(of_images(f)).mean()

    # a mean of 900 logits near 0 is what rounding leaves of their sum
    check(taming.non_saturate_discriminator_loss, discriminator, real, fake)
    check(taming.non_saturate_gen_loss, lambda f: F.softplus(-of_images(f)).mean(), fake)


def exemplar_weighted(r, f, w):
    def weighted(x):
        return (w * x.reshape(len(x), -1).mean(1)).sum() / w.sum()

    return 0.5 * (weighted(F.relu(1 - r)) + weighted(F.relu(1 + f)))


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shape", [PATCHES, (3, 1, 7, 4, 4), (3,)], ids=str)
def test_exemplar_weights(shape, dtype):
    real, fake = pair(shape, dtype)
    weights = torch.tensor([0.5, 2.0, 1.25]).to(dtype)

    check(taming.hinge_d_loss_with_exemplar_weights, exemplar_weighted, real, fake, weights)
    equal = taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(3))
    torch.testing.assert_close(equal, taming.hinge_d_loss(real, fake))


def test_exemplar_weights_are_checked():
    real, fake = pair((3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"weights: got shape \(2,\), expected \(3,\)"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(2))
    with pytest.raises(ValueError, match=r"weights: got shape \(3, 1\), expected \(3,\)"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, torch.ones(3, 1))
    with pytest.raises(TypeError, match="weights: got list"):
        taming.hinge_d_loss_with_exemplar_weights(real, fake, [1.0] * 3)


def test_adopt_weight():
    assert taming.adopt_weight(0.8, 9, threshold=10) == 0.0
    assert taming.adopt_weight(0.8, 9, threshold=10, value=0.1) == 0.1
    assert taming.adopt_weight(0.8, 10, threshold=10) == 0.8
    assert taming.adopt_weight(0.8, 0) == 0.8


@pytest.mark.parametrize("dtype", WIDE)
def test_lecam(dtype):
    ema, averages = taming.LeCAM_EMA(decay=0.9), [0.0, 0.0]
    for seed in range(3):
        real, fake = shaped(PATCHES, dtype, seed=2 * seed), shaped(PATCHES, dtype, seed=2 * seed + 1)
        real, fake = (real + 1).detach().requires_grad_(), (fake - 1).detach().requires_grad_()
        ema.update(real, fake)
        averages = [0.9 * a + 0.1 * x.double().mean().item() for a, x in zip(averages, (real, fake))]
        assert not ema.logits_real_ema.requires_grad and ema.logits_real_ema.shape == ()
        for got, want in zip((ema.logits_real_ema, ema.logits_fake_ema), averages):
            assert got.item() == pytest.approx(want, rel=1e-6)

    def theirs(r, f):
        a, b = ema.logits_real_ema.double(), ema.logits_fake_ema.double()
        return (F.relu(r - b) ** 2).mean() + (F.relu(a - f) ** 2).mean()

    check(lambda r, f: taming.lecam_reg(r, f, ema), theirs, real, fake)
    assert taming.LeCAM_EMA().logits_real_ema == 0.0 and taming.LeCAM_EMA().decay == 0.999
    assert taming.LeCAM_EMA(0.25).logits_fake_ema == 0.25


def test_lecam_of_numbers():
    """Upstream's own averages are numbers."""
    ema = taming.LeCAM_EMA(init=0.5)
    check(
        lambda r, f: taming.lecam_reg(r, f, ema),
        lambda r, f: (F.relu(r - 0.5) ** 2).mean() + (F.relu(0.5 - f) ** 2).mean(),
        *pair((2, 1, 5, 5)),
    )


@pytest.mark.parametrize("name", [*TAMING_G, "non_saturate_gen_loss"])
def test_adaptive_weight(name):
    theirs = TAMING_G.get(name) or (lambda f: F.softplus(-of_images(f)).mean())
    torch.manual_seed(0)
    x, last = torch.randn(6, 5, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    last_layers = [last.clone().requires_grad_() for _ in range(2)]
    weights = [
        adaptive_weight(lambda y, loss=loss: loss(y.view(6, 1, 3, 4)), lambda y: (y - 1).abs().mean(), layer, x)
        for loss, layer in zip((getattr(taming, name), theirs), last_layers)
    ]
    torch.testing.assert_close(*weights)
    torch.testing.assert_close(*[layer.grad for layer in last_layers])
    assert weights[0] > 0


# The knee, the kernels and bad arguments


def slopes(loss_of, at, count=1):
    """The gradient at logits that are all `at`, times their number."""
    x = torch.full((3,), at, requires_grad=True)
    return (torch.autograd.grad(loss_of(x), x)[0] * 3 * count).tolist()


def test_the_knee_is_each_codebases_own():
    zeros = torch.zeros(3)
    (clamp,) = set(slopes(lambda x: torch.clamp(x, min=0).mean(), 0.0))  # 1 up to torch 2.13, 0 from 2.14 on
    assert slopes(lambda x: vocos.DiscriminatorLoss()([x], [zeros])[0], 1.0) == [-clamp] * 3
    assert slopes(lambda x: vocos.DiscriminatorLoss()([zeros], [x])[0], -1.0) == [clamp] * 3
    assert slopes(lambda x: vocos.GeneratorLoss()([x])[0], 1.0) == [-clamp] * 3
    espnet_d = espnet.DiscriminatorAdversarialLoss(loss_type="hinge")
    assert slopes(lambda x: espnet_d(zeros, x)[0], 1.0) == [-0.5] * 3
    assert slopes(lambda x: espnet_d(x, zeros)[1], -1.0) == [0.5] * 3
    assert slopes(audiocraft.hinge_real_loss, 1.0) == slopes(audiocraft.hinge2_loss, 1.0) == [-0.5] * 3
    assert slopes(audiocraft.hinge_fake_loss, -1.0) == [0.5] * 3
    assert slopes(lambda x: coqui.HingeDLoss()(zeros, x)[0], 1.0) == [0.0] * 3
    assert slopes(coqui.HingeGLoss(), 1.0) == [0.0] * 3
    assert slopes(lambda x: taming.hinge_d_loss(x, zeros), 1.0) == [0.0] * 3
    assert slopes(lambda x: taming.hinge_d_loss(zeros, x), -1.0) == [0.0] * 3


def knees(shape, seed):
    """Logits of which some are exactly 1 and -1."""
    x = shaped(shape, seed=seed).detach()
    x.view(-1)[::3] = 1.0
    x.view(-1)[1::3] = -1.0
    return x.requires_grad_()


def test_the_knee_in_lists():
    reals, fakes = [[knees(shape, seed) for shape in SMALL] for seed in (1, 2)]
    check(vocos.DiscriminatorLoss(), clamped_discriminator, reals, fakes)
    check(espnet.DiscriminatorAdversarialLoss(loss_type="hinge"), espnet_discriminator(True, "hinge"), fakes, reals)
    hinge_d = coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x))
    check(coqui.HingeDLoss(), hinge_d, fakes, reals)
    check(taming.hinge_d_loss, TAMING_D["hinge_d_loss"], reals[0], fakes[0])


def of_dac(fakes, reals):
    outputs = iter((fakes, reals))
    gan = dac.GANLoss(lambda _: [[x] for x in next(outputs)])
    return gan.discriminator_loss(Signal(torch.zeros(1)), Signal(torch.zeros(1)))


def audiocraft_total(fakes, reals):
    adv = audiocraft.AdversarialLoss(None, None, *[audiocraft.get_adv_criterion("mse")] * 3)
    return adv._total((audiocraft.mse_fake_loss, fakes), (audiocraft.mse_real_loss, reals))


LISTS = {  # (ours, theirs, of (fakes, reals))
    "hifigan D": (lambda f, r: hifigan.discriminator_loss(r, f), lambda f, r: ls_discriminator(r, f)),
    "hifigan G": (lambda f, r: hifigan.generator_loss(f), lambda f, r: ls_generator(f)),
    "vocos D": (lambda f, r: vocos.DiscriminatorLoss()(r, f), lambda f, r: clamped_discriminator(r, f)),
    "vocos G": (lambda f, r: vocos.GeneratorLoss()(f), lambda f, r: clamped_generator(f)),
    "espnet D mse": (espnet.DiscriminatorAdversarialLoss(), espnet_discriminator(True, "mse")),
    "espnet D hinge": (espnet.DiscriminatorAdversarialLoss(False, "hinge"), espnet_discriminator(False, "hinge")),
    "espnet G mse": (lambda f, r: espnet.GeneratorAdversarialLoss()(f), lambda f, r: espnet_generator(True, "mse")(f)),
    "espnet G hinge": (
        lambda f, r: espnet.GeneratorAdversarialLoss(loss_type="hinge")(f),
        lambda f, r: espnet_generator(True, "hinge")(f),
    ),
    "coqui D mse": (coqui.MSEDLoss(), coqui_discriminator(square_to_1, lambda x: x**2)),
    "coqui D hinge": (
        lambda f, r: coqui._apply_D_loss(f, r, coqui.HingeDLoss()),
        coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x)),
    ),
    "coqui G": (lambda f, r: coqui.HingeGLoss()(f), lambda f, r: coqui_generator(lambda x: F.relu(1 - x))(f)),
    "dac D": (of_dac, lambda f, r: ls_discriminator(r, f)[0]),
    "audiocraft D": (audiocraft_total, lambda f, r: ls_discriminator(r, f)[0] / len(f)),
}


def launches_of(call):
    from fastgan import kernels

    before = kernels.launch_count()
    call()
    return kernels.launch_count() - before


@pytest.mark.parametrize("name", LISTS)
def test_a_list_takes_one_launch(name, kernel_device):
    ours, theirs = LISTS[name]
    fakes, reals = (shaped(SMALL[:2], seed=seed, device=kernel_device) for seed in (1, 2))
    assert launches_of(lambda: ours(fakes, reals)) == 1
    check(ours, theirs, fakes, reals)


def test_sixteen_tensors_take_one_launch(kernel_device):
    reals, fakes = pair([(1, n) for n in (3, 3, 4, 4, 5, 6, 2, 1)], device=kernel_device)
    found = []
    assert launches_of(lambda: found.append(hifigan.discriminator_loss(reals, fakes)[0])) == 1
    assert launches_of(found[0].backward) == 1


SINGLES = {
    **{name: (getattr(taming, name), theirs, 2) for name, theirs in TAMING_D.items()},
    **{name: (getattr(taming, name), theirs, 1) for name, theirs in TAMING_G.items()},
    **{name: (getattr(audiocraft, name), theirs, 1) for name, theirs in AUDIOCRAFT.items()},
    "non_saturate_gen_loss": (taming.non_saturate_gen_loss, lambda f: F.softplus(-of_images(f)).mean(), 1),
    "exemplar weights": (
        lambda r, f: taming.hinge_d_loss_with_exemplar_weights(r, f, torch.tensor([1.0, 3.0], device=r.device)),
        lambda r, f: exemplar_weighted(r, f, torch.tensor([1.0, 3.0])),
        2,
    ),
    "lecam": (
        lambda r, f: taming.lecam_reg(r, f, taming.LeCAM_EMA(0.5)),
        lambda r, f: (F.relu(r - 0.5) ** 2).mean() + (F.relu(0.5 - f) ** 2).mean(),
        2,
    ),
}


@pytest.mark.parametrize("name", SINGLES)
def test_a_tensor_a_side_takes_one_launch(name, kernel_device):
    ours, theirs, sides = SINGLES[name]
    arguments = [shaped((2, 1, 3, 4), seed=seed, device=kernel_device) for seed in range(sides)]
    assert launches_of(lambda: ours(*arguments)) == 1
    if kernel_device.type == "cpu":  # the restatements make CPU constants
        check(ours, theirs, *arguments)


def test_bad_arguments_are_named():
    reals, fakes = pair(SMALL)
    for call, kind, message in (
        (
            lambda: hifigan.discriminator_loss(reals, fakes[:2]),
            ValueError,
            "disc_generated_outputs: got 2 tensors, expected 3",
        ),
        (lambda: hifigan.discriminator_loss([], []), ValueError, "disc_real_outputs: got an empty list"),
        (lambda: hifigan.generator_loss([]), ValueError, "disc_outputs: got an empty list"),
        (lambda: hifigan.generator_loss([fakes[0], 3.0]), TypeError, r"disc_outputs\[1\]: got float"),
        (lambda: hifigan.generator_loss([x.long() for x in fakes]), TypeError, r"disc_outputs\[0\]: got torch.int64"),
        (lambda: vocos.GeneratorLoss()(None), TypeError, "disc_outputs: got NoneType"),
        (
            lambda: vocos.DiscriminatorLoss()(reals, [x.double() for x in fakes]),
            ValueError,
            r"disc_generated_outputs\[0\]",
        ),
        (lambda: espnet.GeneratorAdversarialLoss(loss_type="wgan"), ValueError, "loss_type: got 'wgan'"),
        (lambda: espnet.DiscriminatorAdversarialLoss(loss_type="wgan"), ValueError, "loss_type: got 'wgan'"),
        (
            lambda: espnet.DiscriminatorAdversarialLoss()(fakes[:1], reals),
            ValueError,
            "outputs_hat: got 1 tensors, expected 3",
        ),
        (lambda: coqui.MSEDLoss()(fakes[:1], reals), ValueError, "score_fake: got 1 tensors, expected 3"),
        (lambda: taming.hinge_d_loss(reals[0], "x"), TypeError, "logits_fake: got str"),
    ):
        with pytest.raises(kind, match=message):
            call()  # fmt: skip


def test_no_logits_are_nan_as_mean_makes_them():
    empty = [torch.zeros(0, 4)]
    assert hifigan.discriminator_loss(empty, empty)[0].isnan()
    assert taming.hinge_gen_loss(empty[0]).isnan()


def test_non_contiguous_outputs():
    """MPD folds the waveform; some stacks hand on the transposed map."""
    wide = shaped((4, 1, 6, 10))
    reals, fakes = copied([wide]), copied([wide])
    transposed = lambda f: lambda r, g: f([x.transpose(2, 3)[..., ::2] for x in r], [x[..., 1:] for x in g])  # noqa: E731
    check(transposed(hifigan.discriminator_loss), transposed(ls_discriminator), reals, fakes)


def test_no_tensors_are_named():
    for call, message in (
        (lambda: audiocraft.mse_loss([1.0]), r"logits\[0\]|logits: got"),
        (lambda: taming.vanilla_d_loss(1.0, torch.ones(2)), "logits_real: got float"),
        (
            lambda: taming.hinge_d_loss_with_exemplar_weights([1.0], torch.ones(1), torch.ones(1)),
            "logits_real: got list",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            call()
