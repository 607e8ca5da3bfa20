"""`GANTrainer(augment=...)`: D sees changed samples, G learns through the change, and the probability adapts."""

import pytest
import torch
from torch import nn
from trainers import assert_same, state

from fastgan import data as datasets
from fastgan import evaluation
from fastgan.layers.augment import augment, draw_augmentation
from fastgan.losses.adversarial import discriminator_value_and_grad, generator_value_and_grad
from fastgan.models import build
from fastgan.trainer import GANTrainer
from fastgan.training import distributed, recipes

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
POLICY = ("color", "translation", "cutout")


def make(**options):
    torch.manual_seed(0)
    pair = build((1, 8, 8), 4, 4)
    return GANTrainer(*pair, latent_dim=4, **{"r1": 0.0, "augment": POLICY} | options)


def test_a_step_is_that_of_a_plain_loop():
    ours, plain = make(concatenate=False), make(concatenate=False)
    g, d = plain.generator, plain.discriminator

    def seen(x):
        return augment(x, draw_augmentation(len(x), x.shape, POLICY, torch.tensor(1.0), generator=plain.random))

    for i in range(4):
        real = IMAGES[i * 8 : i * 8 + 8]
        ours.step(real)
        with torch.no_grad():
            fake = g(plain.latent(8))
        logits = [d(seen(real)), d(seen(fake))]
        plain.optimizer_d.zero_grad()
        torch.autograd.backward(logits, discriminator_value_and_grad(*logits, "nonsaturating", weight=0.5).grads)
        plain.optimizer_d.step()
        d.requires_grad_(False)
        logits = d(seen(g(plain.latent(8))))
        plain.optimizer_g.zero_grad()
        torch.autograd.backward(logits, generator_value_and_grad(logits, "nonsaturating").grads)
        plain.optimizer_g.step()
        d.requires_grad_(True)
    for name in ("generator", "discriminator"):
        assert all(map(torch.equal, ours.networks[name].parameters(), plain.networks[name].parameters()))


@pytest.mark.parametrize(
    "options",
    [
        {"step": "one-stage"},
        {"redraw": False},
        {"r1": 0.3, "r2": 0.3},
        {"r1": 0.3, "r1_every": 2},
        {"accumulate": 2},
        {"objective": "relativistic"},
        {"precision": "bfloat16"},
        {"augment": ("flip",), "augment_p": 0.5},
        {"augment_target": 0.6},
    ],
)
def test_every_way_to_step_resumes_exactly(tmp_path, options):
    straight, half, resumed = (make(**options) for _ in range(3))
    straight.fit(IMAGES, steps=6, batch=8)
    half.fit(IMAGES, steps=3, batch=8)
    half.save(tmp_path / "half.pt")
    resumed.load(tmp_path / "half.pt")
    resumed.fit(IMAGES, steps=3, batch=8)
    a, b = state(resumed), state(straight)
    del a["torch"], b["torch"]
    assert_same(a, b)
    other = make(**options | {"augment": None, "augment_p": 1.0, "augment_target": None})
    other.fit(IMAGES, steps=6, batch=8)
    pairs = zip(other.generator.parameters(), straight.generator.parameters())
    assert not all(torch.equal(x, y) for x, y in pairs)  # the augmentation has an effect


def test_the_probability_follows_how_sure_d_is():
    """A D that calls every real sample real raises p; one that calls none so lowers it."""

    class Says(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign, self.weight = sign, nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.sign + x.mean((1, 2, 3)) * self.weight

    found = {}
    for sign in (1.0, -1.0):
        trainer = GANTrainer(build((1, 8, 8), 4, 4)[0], Says(sign), latent_dim=4, r1=0.0, augment=POLICY,
                             augment_target=0.6, lr=1e-9)  # fmt: skip
        trainer._step.augmentation.p.fill_(0.5)
        found[sign] = [trainer.step(IMAGES[:50])["augment_p"].item() for _ in range(10)]
    step = 50 / 500_000
    assert found[1.0] == pytest.approx([0.5 + step * (i + 1) for i in range(10)], rel=1e-5)
    assert found[-1.0] == pytest.approx([0.5 - step * (i + 1) for i in range(10)], rel=1e-5)


def test_mistakes_are_named():
    for options, message in [
        ({"augment": "colour"}, "augment: got 'colour', expected 'color' or 'translation' or 'cutout' or 'flip'"),
        ({"augment": 3}, "augment: got int, expected a list"),
        ({"augment": None, "augment_p": 0.5}, "augment_p: got 0.5, but nothing is augmented"),
        ({"augment_p": 2.0}, "augment_p: got 2.0, expected a number from 0 to 1"),
        ({"augment": None, "augment_target": 0.6}, "augment_target: got 0.6, but nothing is augmented"),
        ({"augment_target": 0.6, "augment_p": 0.5}, "augment_p: got 0.5, but augment_target adapts it"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            make(**options)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"augment: got .*, but the samples are no images"):
        GANTrainer(*build((2,), 4, 8), latent_dim=4, augment=POLICY)


@pytest.mark.slow
def test_few_images_are_not_learned_by_heart():
    """With 100 digits and no penalty, coverage of held-out ones is at least 1.3 times as high with augmentation."""
    pytest.importorskip("sklearn")
    digits, recipe = datasets.load("digits"), recipes.find(None, 8)
    judge, found = evaluation.judge(digits), {}
    for policy in (None, ("translation", "cutout")):
        torch.manual_seed(0)
        pair = build((1, 8, 8), recipe.latent_dim, recipe.width)
        trainer = GANTrainer(*pair, latent_dim=recipe.latent_dim, lr=recipe.lr, r1=0.0, augment=policy)
        trainer.fit(digits.samples[:100], steps=3_000, log_every=3_000)
        found[policy] = judge(trainer.sample(judge.count, seed=1))["coverage"]
    plain, augmented = found.values()
    assert augmented >= 1.3 * plain, found


@pytest.mark.parametrize("counts", [None, [5, 3]])
def test_ranks_share_what_one_process_draws(monkeypatch, counts):
    """Each rank has its rows of the draw; random states and probabilities stay equal."""

    def trainer():
        made = make(augment_target=0.6)
        made._step.augmentation.p.fill_(0.7)
        return made

    whole, parts, places, chances = trainer()._step._seen(IMAGES[:8], None), [], [], []
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    monkeypatch.setattr(distributed, "mean_over_ranks", lambda values: values)
    for rank, rows in enumerate(IMAGES[:8].split(counts or 4)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "ranks", lambda: 1)  # the constructor has nothing to send
            one = trainer()
        parts.append(one._step._seen(rows, counts))
        fake = one._step._seen(one.generator(one.latent(len(rows), counts)), counts)
        one._step._backward_d(parts[-1], fake, None, False, len(rows), counts)
        places.append(one.random.get_state())
        chances.append(one._step.augmentation.p.item())
    assert torch.equal(torch.cat(parts), whole) and torch.equal(*places)
    assert [abs(p - 0.7) for p in chances] == pytest.approx([8 / 500_000] * 2, rel=0.01)
