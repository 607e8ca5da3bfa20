"""The ways to step, in float64 on the CPU: against plain loops, against each other, and what they do not compute."""

import copy
import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan import reference
from fastgan.networks import Discriminator, Generator, mlp
from fastgan.objectives import OBJECTIVES
from fastgan.step import constant_ratio, generator_backward
from fastgan.trainer import GANTrainer, to_numbers
from fastgan.training.capture import undone
from fastgan.training.look import FirstLook

pytestmark = pytest.mark.usefixtures("one_thread")
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
    elif kind == "smooth":  # of a piecewise linear D a penalty has no gradient at the samples
        discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    elif kind == "batch norm":
        discriminator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return generator.double(), discriminator.double()


def make(kind="points", **options):
    generator, discriminator = pair(kind)
    options = {"latent_dim": LATENT, "r1": 0.0, "lr": 1e-3, **options}
    trainer = GANTrainer(generator, discriminator, **options)
    for optimizer in filter(None, (trainer.optimizer_g, trainer.optimizer_d)):
        # Some gradients are 0 but for rounding (of a bias, where only differences of logits count, or before batch
        # normalisation), of which Adam's own eps of 1e-8 would make steps of full size.
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
    """As a GAN author writes it: losses with a graph, `.backward()`, D unfrozen throughout."""
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


ALTERNATING = [
    ("points", objective, {}) for objective in OBJECTIVES if objective != "nonsaturating"
] + [
    ("images", "nonsaturating", {}),
    ("images", "nonsaturating", {"r1": 0.3}),
    ("images", "relativistic", {"r1": 0.3, "r2": 0.2}),
    ("images", "hinge", {"redraw": False}),
    ("patches", "least_squares", {"r1": 0.1}),
    ("batch norm", "nonsaturating", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "objective", "options"), ALTERNATING)
@pytest.mark.parametrize("concatenate", [False, True])
def test_twenty_steps_are_those_of_the_plain_loop(kind, objective, options, concatenate):
    """One pass over both sides or two: to rounding nothing changes, unless batch statistics do."""
    if concatenate and kind == "batch norm":
        pytest.skip("batch statistics of both sides together are another network")
    ours, plain = (make(kind, objective=objective, concatenate=concatenate, **options) for _ in range(2))
    for real in batches(20, kind):
        values = to_numbers(ours.step(real))
        loss_d, loss_g = plain_step(plain, real, objective, **options)
        assert values["loss_d"] + values["r1"] + values.get("r2", 0) == pytest.approx(loss_d, rel=1e-6)
        assert values["loss_g"] == pytest.approx(loss_g, rel=1e-6, abs=1e-7)
    assert_equal_weights(ours, plain)
    assert any(not torch.equal(a, b) for a, b in zip(weights(ours), weights(make(kind))))


def separable(objective):
    return OBJECTIVES[objective].relation != "average"


ONE_STAGE = [("points", objective, {}) for objective in OBJECTIVES]
ONE_STAGE += [
    ("images", "nonsaturating", {"r1": 0.3}),
    ("images", "relativistic", {"r1": 0.3, "r2": 0.2}),
    ("images", "hinge", {"r2": 0.2}),
    ("smooth", "nonsaturating", {"r1": 0.3, "r2": 0.2}),
    ("smooth", "nonsaturating", {"r2": 0.2}),
    ("patches", "minimax", {}),
    ("patches", "wasserstein", {"r1": 0.1}),
    ("batch norm", "minimax", {}),
    ("batch norm", "absolute_error", {"weight": 0.7}),
]


@pytest.mark.parametrize(("kind", "objective", "options"), ONE_STAGE)
@pytest.mark.parametrize("concatenate", [False, None])
def test_one_stage_is_simultaneous_training(kind, objective, options, concatenate):
    """Both gradients at the same weights, from one pass through D, against two backward passes."""
    ours = make(kind, objective=objective, step="one-stage", concatenate=concatenate, **options)
    plain = make(kind, objective=objective, **options)
    penalties = {k: v for k, v in options.items() if k in ("r1", "r2")}
    for real in batches(20, kind):
        values = to_numbers(ours.step(real))
        loss_d, loss_g = plain_step(plain, real, objective, simultaneous=True, **penalties)
        assert values["loss_d"] + values["r1"] + values.get("r2", 0) == pytest.approx(loss_d, rel=1e-6)
        assert values["loss_g"] == pytest.approx(loss_g, rel=1e-6, abs=1e-7)
    assert_one_stage(ours, plain, kind)


def assert_one_stage(ours, plain, kind):
    # D's pass in the plain loop's G step moves the running statistics of batch normalisation once more.
    parts = [(ours.generator, plain.generator), (ours.discriminator, plain.discriminator), (ours.ema, plain.ema)]
    for a, b in parts:
        for x, y in zip(a.parameters(), b.parameters()):
            torch.testing.assert_close(x, y, rtol=RTOL, atol=RTOL)


class Level(nn.Sequential):
    """Logits that are all the same number, though they depend on the sample."""

    level = 0.0

    def forward(self, x):
        x = super().forward(x)
        return x - x.detach() + self.level


@pytest.mark.parametrize("objective", ["nonsaturating", "hinge", "least_squares", "relativistic"])
@pytest.mark.parametrize("level", [-200.0, -30.0, 0.0, 5.0])
def test_one_stage_where_the_discriminator_is_sure(objective, level):
    """Its own gradient vanishes there (of least squares at 0), and the generator's, a multiple of it, must not."""

    def start(**options):
        generator, discriminator = pair()
        discriminator = Level(*discriminator)
        discriminator.level = level
        return GANTrainer(generator, discriminator, latent_dim=LATENT, r1=0.0, objective=objective, **options)

    ours, plain = start(step="one-stage"), start()
    ours.step(POINTS[:N])
    plain_step(plain, POINTS[:N], objective, simultaneous=True)
    for a, b in zip(ours.generator.parameters(), plain.generator.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=0)
        assert b.grad.abs().max() > 1e-20
    for a, b in zip(ours.discriminator.parameters(), plain.discriminator.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-16)


def test_one_stage_in_float32_where_the_hinge_has_no_slope():
    torch.manual_seed(0)
    generator, discriminator = mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2)
    with torch.no_grad():
        discriminator[-1].bias.fill_(-5.0)
    settings = dict(latent_dim=LATENT, r1=0.0, objective="hinge")
    ours = GANTrainer(copy.deepcopy(generator), copy.deepcopy(discriminator), step="one-stage", **settings)
    plain = GANTrainer(generator, discriminator, **settings)
    real = POINTS[:N].float()
    ours.step(real)
    plain_step(plain, real, "hinge", simultaneous=True)
    for networks in ((ours.generator, plain.generator), (ours.discriminator, plain.discriminator)):
        for a, b in zip(*(network.parameters() for network in networks)):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6 * b.grad.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "batch norm",
            {},
            r"'one-stage' with 'nonsaturating' and a discriminator whose logits depend on other samples",
        ),
        ("batch norm", {"objective": "hinge"}, r"batch normalisation\?"),
        ("patches", {}, r"and 9 logits a sample, whose gradients have different ratios"),
        ("points", {"precision": "float16"}, r"float16, whose range is too small"),
        ("points", {"weight": 0.0}, r"weight: got 0"),
    ],
)
def test_one_stage_is_refused_where_it_is_not_exact(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make(kind, step="one-stage", **options)


def test_constant_ratios():
    found = {name: constant_ratio(name, 0.5) for name in OBJECTIVES}
    assert {name: ratio for name, ratio in found.items() if ratio is not None} == {
        "minimax": -2.0, "absolute_error": -2.0, "wasserstein": -2.0,
    }  # fmt: skip
    assert constant_ratio("minimax", 1.0) == -1.0


class MinibatchDeviation(nn.Module):
    """Karras et al. 2018: the batch's deviation as one more feature. No module that a list of types would name."""

    def forward(self, x):
        return torch.cat((x, x.std(0).mean().expand(len(x), 1)), 1)


def test_looking_at_a_discriminator_changes_nothing():
    generator, _ = pair()
    torch.manual_seed(3)
    networks = {
        "batch norm": pair("batch norm")[1],
        "deviation": nn.Sequential(MinibatchDeviation(), nn.Linear(3, 1)).double(),
        "dropout": nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double(),
        "layer norm": nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 3)).double(),
    }
    before = {k: copy.deepcopy(d.state_dict()) for k, d in networks.items()}
    random = torch.get_rng_state()
    found = {k: FirstLook(generator, d, LATENT).seen for k, d in networks.items()}
    assert found == {"batch norm": (1, True), "deviation": (1, True), "dropout": (1, False), "layer norm": (3, False)}
    assert all(torch.equal(v, networks[k].state_dict()[name]) for k, s in before.items() for name, v in s.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert make("batch norm").settings["concatenate"] is False
    assert make().settings["concatenate"] is True
    assert make(r1=0.1).settings["concatenate"] is False  # every step has a penalty on one side
    with pytest.raises(ValueError, match=r"logits of shape \(1,\) for 4 samples, expected 4 rows"):
        GANTrainer(generator, nn.Sequential(nn.Flatten(0), nn.Linear(8, 1)).double(), latent_dim=LATENT, r1=0.0)


@pytest.mark.parametrize("options", [{}, {"r1": 0.2, "r2": 0.1}, {"step": "one-stage"}, {"redraw": False}])
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_is_the_step_of_the_whole_batch(options, parts):
    """3 parts of 8 samples are unequal: each counts by its samples."""
    whole, parted = make("images", **options), make("images", accumulate=parts, **options)
    for real in batches(10, "images"):
        a, b = to_numbers(whole.step(real)), to_numbers(parted.step(real))
        assert a == pytest.approx(b, rel=1e-6)
    assert_equal_weights(whole, parted)


def test_accumulation_is_refused_where_it_is_not_exact():
    with pytest.raises(ValueError, match=r"accumulate: got 2, expected 1 for 'relativistic_average'"):
        make(objective="relativistic_average", accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate: got 9 parts for 8 samples"):
        make(accumulate=9).step(POINTS[:8])


def test_only_what_learns_is_touched():
    """A frozen part of D stays frozen, and D can learn again after the step."""
    trainer = make("images")
    frozen = next(trainer.discriminator.parameters())
    frozen.requires_grad_(False)
    trainer = GANTrainer(trainer.generator, trainer.discriminator, latent_dim=LATENT, r1=0.0)
    before = frozen.clone()
    trainer.step(IMAGES[:N])
    assert torch.equal(frozen, before) and frozen.grad is None and not frozen.requires_grad
    assert all(p.requires_grad for p in list(trainer.discriminator.parameters())[1:])


# ---- nothing computed for nobody ------------------------------------------------------------------------------------


class Convolutions(TorchDispatchMode):
    """Counts multiply-adds of convolutions: forward, and of the two gradients those that are asked for."""

    def __init__(self):
        super().__init__()
        self.work, self.weight_gradients, self.backwards = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            self.work += self.macs(args[0], args[1], out, args[6])
        elif function is torch.ops.aten.convolution_backward.default:
            grad, x, weight, mask = args[0], args[1], args[2], args[10]
            self.work += self.macs(x, weight, grad, args[7]) * (mask[0] + mask[1])
            self.weight_gradients += mask[1]
            self.backwards += 1
        return out

    @staticmethod
    def macs(x, weight, out, transposed):
        return math.prod((x if transposed else out).shape) * math.prod(weight.shape[1:])


def counted(function):
    with Convolutions() as found:
        function()
    return found


class Part(nn.Module):
    """A sub-discriminator of HiFi-GAN (Kong et al. 2020, appendix A): features, the logits last."""

    def __init__(self, convolutions, period=None):
        super().__init__()
        self.convolutions, self.period = nn.ModuleList(convolutions), period

    def forward(self, x):
        if self.period:
            x = F.pad(x, (0, -x.shape[-1] % self.period))
            x = x.view(len(x), 1, -1, self.period)
        maps = []
        for convolution in self.convolutions:
            x = convolution(x)
            maps.append(x)
            x = F.leaky_relu(x, 0.1)
        return maps


def hifigan(width=1):
    """HiFi-GAN V1 (`width` = 1) or V2 (4: the generator's channels divided by it): (generator, discriminators)."""

    class Residual(nn.Module):
        def __init__(self, channels, kernel):
            super().__init__()
            pads = [(d, d * (kernel - 1) // 2) for d in (1, 3, 5)]
            self.first = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, p, d) for d, p in pads)
            self.second = nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, kernel // 2) for _ in pads)

        def forward(self, x):
            for a, b in zip(self.first, self.second):
                x = x + b(F.leaky_relu(a(F.leaky_relu(x))))
            return x

    class Upsampler(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [512 // width // 2**i for i in range(5)]
            self.begin, self.end = nn.Conv1d(80, sizes[0], 7, 1, 3), nn.Conv1d(sizes[-1], 1, 7, 1, 3)
            shapes = zip(itertools.pairwise(sizes), ((16, 8), (16, 8), (4, 2), (4, 2)))
            self.ups = nn.ModuleList(nn.ConvTranspose1d(a, b, k, s, (k - s) // 2) for (a, b), (k, s) in shapes)
            self.blocks = nn.ModuleList(nn.ModuleList(Residual(c, k) for k in (3, 7, 11)) for c in sizes[1:])

        def forward(self, x):
            x = self.begin(x)
            for up, blocks in zip(self.ups, self.blocks):
                x = up(F.leaky_relu(x))
                x = sum(block(x) for block in blocks) / 3
            return torch.tanh(self.end(F.leaky_relu(x)))

    def period(p):
        ends = itertools.pairwise([1, 32, 128, 512, 1024])
        layers = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in ends]
        return Part([*layers, nn.Conv2d(1024, 1024, (5, 1), 1, (2, 0)), nn.Conv2d(1024, 1, (3, 1), 1, (1, 0))], p)

    def scale():
        rows = [(1, 128, 15, 1, 1), (128, 128, 41, 2, 4), (128, 256, 41, 2, 16), (256, 512, 41, 4, 16)]
        rows += [(512, 1024, 41, 4, 16), (1024, 1024, 41, 1, 16), (1024, 1024, 5, 1, 1), (1024, 1, 3, 1, 1)]
        return Part([nn.Conv1d(a, b, k, s, k // 2, groups=g) for a, b, k, s, g in rows])

    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.periods = nn.ModuleList(map(period, (2, 3, 5, 7, 11)))
            self.scales = nn.ModuleList(scale() for _ in range(3))

        def forward(self, x):
            found = [part(x) for part in self.periods]
            for i, part in enumerate(self.scales):
                x = F.avg_pool1d(x, 4, 2, 2) if i else x
                found.append(part(x))
            return found

    return Upsampler(), All()


def hifigan_step(generator, discriminator, mel, real, backward):
    """Forward and backward of a training step, as its code has it: feature matching without `detach`."""
    fake = generator(mel)
    maps_r, maps_g = discriminator(real), discriminator(fake.detach())
    sum(torch.mean((1 - r[-1]) ** 2) + torch.mean(g[-1] ** 2) for r, g in zip(maps_r, maps_g)).backward()
    maps_r, maps_g = discriminator(real), discriminator(fake)
    loss = sum(torch.mean((1 - g[-1]) ** 2) for g in maps_g)
    loss = loss + 2 * sum((a - b).abs().mean() for r, g in zip(maps_r, maps_g) for a, b in zip(r, g))
    backward(loss, generator)


@pytest.mark.parametrize(("width", "saved"), [(1, 0.195), pytest.param(4, 0.246, marks=pytest.mark.slow)])
def test_share_of_hifigan_that_is_computed_for_nobody(width, saved):
    """V1 and V2 at their training size, on the meta device: shapes, and no arithmetic."""
    with torch.device("meta"):
        generator, discriminator = hifigan(width)
        mel, real = torch.empty(16, 80, 32), torch.empty(16, 1, 8192)
    written = counted(lambda: hifigan_step(generator, discriminator, mel, real, lambda loss, _: loss.backward()))
    pruned = counted(lambda: hifigan_step(generator, discriminator, mel, real, generator_backward))
    assert 1 - pruned.work / written.work == pytest.approx(saved, abs=0.001)


def test_generator_backward_computes_no_gradient_of_the_discriminator():
    generator, discriminator = Generator(16, 1, LATENT, 4), Discriminator(16, 1, 4)
    z = torch.randn(4, LATENT)

    def by(backward):
        def step():
            for network in (generator, discriminator):
                network.zero_grad()
            backward(fastgan.generator_loss(discriminator(generator(z))))

        return counted(step), [p.grad.clone() for p in generator.parameters()]

    plain, expected = by(lambda loss: loss.backward())
    ours, grads = by(lambda loss: fastgan.generator_backward(loss, generator))
    assert all(map(torch.equal, grads, expected))
    assert all(p.grad is None for p in discriminator.parameters())
    assert (plain.weight_gradients, ours.weight_gradients) == (4, 2)  # two convolutions in each network
    assert (plain.backwards, ours.backwards) == (4, 4)


def test_generator_backward_of_gradients_and_of_lists():
    """Losses and (outputs, gradients) in one pass, against the same as one loss."""
    torch.manual_seed(0)
    generator = nn.Linear(3, 16)
    discriminator = Part([nn.Conv1d(1, 4, 3, 1, 1), nn.Conv1d(4, 1, 3, 1, 1)])
    other = Part([nn.Conv1d(1, 2, 5, 1, 2), nn.Conv1d(2, 1, 3, 1, 1)])
    z, real = torch.randn(5, 3), torch.randn(5, 1, 16)
    fake = generator(z)[:, None]
    maps_g, maps_r = ([part(x) for part in (discriminator, other)] for x in (fake, real))
    adversarial = fastgan.generator_value_and_grad(maps_g, "least_squares")
    matching = fastgan.feature_matching_value_and_grad(maps_g, maps_r)
    losses = [(maps_g, adversarial.grads), (maps_g, matching.grads), fake.square().mean()]
    generator_backward(losses, generator, retain_graph=True)
    ours = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    loss = fastgan.generator_loss(maps_g, "least_squares") + fastgan.feature_matching_loss(maps_g, maps_r)
    found = counted(lambda: generator_backward(loss + fake.square().mean(), list(generator.parameters())))
    for p, grad in zip(generator.parameters(), ours):
        torch.testing.assert_close(grad, p.grad, rtol=1e-5, atol=1e-7)
    assert found.backwards == 4  # none of them in the real branch
    assert found.weight_gradients == 0
    with pytest.raises(ValueError, match=r"losses: got 1 gradients for 4 tensors"):
        generator_backward((maps_g, matching.grads[:1]), generator)
    with pytest.raises(ValueError, match=r"generator: got no parameter that requires a gradient"):
        generator_backward(loss, nn.ReLU())


class Expected(NamedTuple):
    weight_gradients: int
    backwards: int
    forwards: float


@pytest.mark.parametrize("options", [{}, {"redraw": False}, {"step": "one-stage"}, {"concatenate": True}])
def test_work_of_a_step(options):
    """In units of a pass of D and of G over a batch: the table at the top of `fastgan/training/step.py`."""
    torch.manual_seed(0)
    generator, discriminator = Generator(16, 1, LATENT, 4), Discriminator(16, 1, 4)
    trainer = GANTrainer(generator, discriminator, latent_dim=LATENT, r1=0.0, **{"concatenate": False} | options)
    real, z = torch.randn(N, 1, 16, 16), torch.randn(N, LATENT)
    g = counted(lambda: generator(z)).work
    d = counted(lambda: discriminator(real)).work
    first = counted(lambda: discriminator.layers[0](real)).work  # whose input's gradient D's own step does not need
    found = counted(lambda: trainer.step(real)).work
    begin = {"one-stage": 1, None: 2 if options.get("redraw", True) else 1}[options.get("step")]
    g_first = counted(lambda: generator.layers[2:](generator.layers[:2](z))).work  # all of it: a linear layer begins
    assert g_first == g
    if options.get("step") == "one-stage":
        assert found == 2 * d + (4 * d - first) + begin * g + 2 * g
    else:
        assert found == 3 * d + (4 * d - 2 * first) + d + begin * g + 2 * g


# ---- precision, compiled networks, rehearsals -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"r1": 0.2}, {"step": "one-stage"}, {"objective": "relativistic"}])
def test_bfloat16_trains_like_float32(options):
    def train(precision):
        torch.manual_seed(0)
        generator, discriminator = Generator(8, 1, LATENT, 4), Discriminator(8, 1, 4)
        trainer = GANTrainer(generator, discriminator, latent_dim=LATENT, precision=precision, **{"r1": 0.0} | options)
        return trainer, [to_numbers(trainer.step(real.float())) for real in batches(5, "images")]

    (half, a), (_, b) = train("bfloat16"), train("float32")
    assert a != b
    for x, y in zip(a, b):
        assert x == pytest.approx(y, rel=0.1, abs=0.02)
    assert all(p.dtype == torch.float32 for p in (*half.generator.parameters(), *half.ema.parameters()))
    assert half.settings["precision"] == "bfloat16"


def test_float16_scales_the_loss_and_skips_what_overflows(tmp_path):
    def make_half():
        torch.manual_seed(0)
        settings = dict(latent_dim=LATENT, precision="float16", r1=0.2, r1_every=2)
        return GANTrainer(mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), **settings)

    trainer = make_half()
    real = POINTS[:N].float()
    trainer.step(real)  # the one with a penalty, in float32
    first = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**40})
    trainer.step(real)  # 2^40 times a gradient is more than float16 has
    assert all(map(torch.equal, trainer.discriminator.parameters(), first))
    assert trainer._step.scaler.get_scale() == 2.0**39
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**10})
    trainer.step(real)
    assert not all(map(torch.equal, trainer.discriminator.parameters(), first))
    trainer.save(tmp_path / "half.pt")
    again = make_half()
    again.load(tmp_path / "half.pt")
    assert again._step.scaler.get_scale() == trainer._step.scaler.get_scale()
    assert to_numbers(again.step(real)) == to_numbers(trainer.step(real))
    assert_equal_weights(again, trainer, rtol=0)


@pytest.mark.parametrize("objective", ["wasserstein", "hinge", "nonsaturating"])
def test_float16_skips_what_overflows_whatever_the_objective(objective):
    """A constant slope too: it is written as a number, and a number that float16 does not hold must become infinite."""
    torch.manual_seed(0)
    trainer = GANTrainer(
        mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), latent_dim=LATENT, precision="float16", r1=0.0, objective=objective
    )
    first = weights(trainer)
    trainer._step.scaler.load_state_dict({**trainer._step.scaler.state_dict(), "scale": 2.0**40})
    trainer.step(POINTS[:N].float())
    assert all(map(torch.equal, weights(trainer), first))
    assert trainer._step.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if OBJECTIVES[name].relation != "average"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 2.0**30), (torch.float16, 1e38), (torch.bfloat16, 1e40)])
def test_a_gradient_that_half_precision_does_not_hold_is_infinite(objective, dtype, scale):
    """Against autograd in float64. 1e40 is more than float32 has, so that it is infinite in any product."""
    real, fake = (torch.linspace(a, b, N).to(dtype) for a, b in ((-1.5, 2.0), (-2.5, 0.7)))
    x, z = (side.double().requires_grad_() for side in (real, fake))
    compared = {"real_logits": real} if OBJECTIVES[objective].relation else {}
    loss_d = reference.discriminator_loss(x, z, objective)
    loss_g = reference.generator_loss(z, objective, **dict.fromkeys(compared, x))
    wanted = (*torch.autograd.grad(loss_d, (x, z)), *torch.autograd.grad(loss_g, z))
    out_d = fastgan.discriminator_value_and_grad(real, fake, objective, grad_scale=scale)
    out_g = fastgan.generator_value_and_grad(fake, objective, **compared, grad_scale=scale)
    for got, slope in zip((*out_d.grads, *out_g.grads), wanted, strict=True):
        want = slope * scale
        over = want.abs() > torch.finfo(dtype).max
        assert torch.equal(got[over].double(), want[over].sign() * math.inf)
        if scale < 1e39:
            torch.testing.assert_close(got[~over].double(), want[~over], rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_float16_gradients_are_unscaled():
    """One step from the same weights, by plain gradient descent: the scale is gone from the update."""

    def update(precision):
        torch.manual_seed(0)
        trainer = GANTrainer(
            mlp(LATENT, 2, 8, 2), mlp(2, 1, 8, 2), latent_dim=LATENT, precision=precision, r1=0.3, betas=(0.9, 0.999)
        )
        trainer.step(POINTS[:N].float())
        return trainer.optimizer_d.state_dict()["state"][0]["exp_avg"], trainer.optimizer_g.state_dict()["state"][0][
            "exp_avg"
        ]

    for half, whole in zip(update("float16"), update("float32")):
        torch.testing.assert_close(half, whole, rtol=0.05, atol=0.02 * whole.abs().max().item())


@pytest.mark.parametrize(
    "options", [{"r1": 0.2, "r1_every": 2}, pytest.param({"step": "one-stage"}, marks=pytest.mark.slow)]
)
def test_compiled_networks_give_the_same(options, monkeypatch):
    """Through Dynamo and AOTAutograd, all of the compiler but its code generator, and in float64 to rounding."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile(network, backend="aot_eager"))
    ours, plain = make(compile=True, **options), make(**options)
    assert ours._step.generate is not ours.generator
    for real in batches(4):
        assert to_numbers(ours.step(real)) == pytest.approx(to_numbers(plain.step(real)), rel=1e-6)
    assert_equal_weights(ours, plain)


@pytest.mark.slow
def test_compiled_by_the_default_backend():
    ours, plain = make(compile=True, r1=0.2, r1_every=2), make(r1=0.2, r1_every=2)
    for real in batches(4):
        ours.step(real), plain.step(real)
    assert_equal_weights(ours, plain, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"r1": 0.2, "r2": 0.1, "r1_every": 2}, {"step": "one-stage"}])
@pytest.mark.parametrize("after", [0, 3])
def test_rehearsals_leave_no_trace(options, after):
    """What comes before a capture. Weights, statistics, Adam's state and random numbers are as if it had not been."""
    ours, plain = make("images", **options), make("images", **options)
    for t in (ours, plain):
        torch.manual_seed(9)
        for real in batches(after, "images"):
            t.step(real)
    with ours._undone():
        for penalised in (True, False):
            for _ in range(3):
                ours._step.play(IMAGES[:N], penalised)
        assert any(not torch.equal(a, b) for a, b in zip(weights(ours)[:-1], weights(plain)))
    assert_equal_weights(ours, plain, rtol=0)
    assert torch.equal(ours.random.get_state(), plain.random.get_state())
    for real in batches(5, "images"):
        assert to_numbers(ours.step(real)) == to_numbers(plain.step(real))
    assert_equal_weights(ours, plain, rtol=0)


def test_rehearsals_are_undone_after_a_failure():
    trainer = make("batch norm")
    before = weights(trainer)
    with pytest.raises(RuntimeError, match="stop"), undone([trainer.generator, trainer.discriminator], [], []):
        trainer.step(POINTS[:N])
        raise RuntimeError("stop")
    assert all(map(torch.equal, weights(trainer)[: -len(list(trainer.ema.parameters()))], before))


def test_why_a_step_is_not_captured():
    with pytest.warns(UserWarning, match="the step runs uncaptured: CUDA graphs are for GPUs, and the device is cpu"):
        trainer = make(capture=True)
    assert trainer.capture_reason == "CUDA graphs are for GPUs, and the device is cpu"
    assert make(capture=False).capture_reason == "capture=False"
    trainer.step(POINTS[:N])  # and runs


def test_a_capture_that_fails_says_why_and_the_step_goes_on(monkeypatch):
    """Here for want of CUDA itself: the path that a network which waits for the host would take on a GPU."""
    ours, plain = make(), make()
    ours.capture_reason = None  # as on a GPU
    with pytest.warns(UserWarning, match="runs uncaptured"):
        ours.step(POINTS[:N])
    assert ours.capture_reason and "\n" not in ours.capture_reason
    plain.step(POINTS[:N])
    for real in batches(3):
        assert to_numbers(ours.step(real)) == to_numbers(plain.step(real))
    assert_equal_weights(ours, plain, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "two-stage"}, "step: got 'two-stage', expected 'alternating' or 'one-stage'"),
        ({"precision": "float8"}, "precision: got 'float8', expected None or 'float32' or 'bfloat16' or 'float16'"),
        ({"accumulate": 0}, "accumulate: got 0, expected at least 1"),
        ({"r2": -1.0}, "r2: got -1.0, expected a finite number >= 0"),
        ({"objective": "mmd"}, "discriminator: got Sequential, expected None: mmd compares samples"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    with pytest.raises(ValueError, match="discriminator: got None, expected one, for objective 'hinge'"):
        GANTrainer(pair()[0], None, objective="hinge")


def test_the_reason_of_a_failed_capture_is_what_was_raised_first():
    from fastgan.training.capture import reason

    try:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert reason(error) == "operation not permitted when stream is capturing"
    assert reason(RuntimeError()) == "RuntimeError"
