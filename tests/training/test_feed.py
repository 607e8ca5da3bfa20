"""The kinds of data for `fit`: the same samples in the same order give the same training."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trainers import DATA, assert_same, make, state

from fastgan import data as datasets
from fastgan.losses.adversarial import discriminator_value_and_grad, generator_value_and_grad
from fastgan.networks import mlp
from fastgan.trainer import GANTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = torch.arange(len(DATA)) % 3


class Rows(Dataset):
    """(sample, label) by index."""

    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        return DATA[i], int(LABELS[i])


class Endless(IterableDataset):
    def __iter__(self):
        return (DATA[i * 8 % 200 : i * 8 % 200 + 8] for i in itertools.count())


def trained(data, steps=12, **options):
    trainer = make(**options)
    torch.manual_seed(3)
    trainer.fit(data, steps=steps, batch=8)
    return state(trainer)


HELD = {
    "an array": DATA.numpy(),
    "a read-only array": DATA.numpy().copy(),
    "a pair": (DATA, LABELS),
    "a TensorDataset": TensorDataset(DATA, LABELS),
    "a Dataset": Rows(),
    "our own": datasets.Dataset("mine", DATA),
}
HELD["a read-only array"].flags.writeable = False


@pytest.mark.parametrize("kind", HELD)
def test_data_with_rows_train_as_a_tensor(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(trained(HELD[kind]), trained(DATA))


def test_a_loader_in_the_order_of_a_tensor_trains_as_the_tensor():
    order = copy.deepcopy(make().order.get_state())
    random = torch.Generator()
    random.set_state(order)
    rows = [datasets.draw_rows(len(DATA), 8, random).tolist() for _ in range(12)]
    expected, got = trained(DATA), trained(DataLoader(Rows(), batch_sampler=rows))
    for found in (expected, got):
        del found["order"], found["torch"]  # unused with a loader; drawn from by a DataLoader
    assert_same(got, expected)


IN_ORDER = {
    "a loader": DataLoader(TensorDataset(DATA), batch_size=8),
    "a loader with labels": DataLoader(Rows(), batch_size=8),
    "a list": list(DATA.split(8)),
    "arrays": [x.numpy() for x in DATA.split(8)],
    "an endless one": Endless(),
    "a loader of an endless one": DataLoader(Endless(), batch_size=None),
}


@pytest.mark.parametrize("kind", IN_ORDER)
def test_batches_train_as_in_a_loop_over_them(kind):
    """30 steps, beyond the end of 25 batches."""
    plain = make()
    torch.manual_seed(3)
    for i in range(30):
        plain.step(DATA[i * 8 % 200 : i * 8 % 200 + 8])
    assert_same(trained(IN_ORDER[kind], steps=30), state(plain))


def test_an_iterator_that_is_exhausted_is_named():
    with pytest.raises(ValueError, match="data: ended after 3 batches, expected one that can be asked again") as raised:
        make().fit((x for x in DATA.split(8)[:3]), steps=9)
    assert "\n" not in str(raised.value)


def test_bytes_become_pixels_in_every_form():
    pixels = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)

    def result(data):
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        trainer = GANTrainer(generator, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), latent_dim=4)
        trainer.fit(data, steps=5, batch=8)
        return [p.detach() for p in trainer.networks["ema"].parameters()]

    floats = datasets.to_unit(pixels)
    for a, b in ((pixels, floats), (pixels.numpy(), floats), (list(pixels.split(8)), list(floats.split(8)))):
        assert all(map(torch.equal, result(a), result(b)))


def test_a_dataset_resumes_exactly_and_a_loader_warns_that_it_does_not(tmp_path):
    straight = make()
    straight.fit(Rows(), steps=20, batch=8)
    half = make()
    half.fit(Rows(), steps=11, batch=8)
    half.save(tmp_path / "half.pt")
    resumed = make()
    resumed.load(tmp_path / "half.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.fit(Rows(), steps=9, batch=8)
    a, b = state(resumed), state(straight)
    del a["torch"], b["torch"]
    assert_same(a, b)
    resumed.load(tmp_path / "half.pt")
    with pytest.warns(
        UserWarning, match="data: training goes on from step 11, and the order of a DataLoader begins anew"
    ):
        resumed.fit(IN_ORDER["a loader"], steps=1)


def test_a_checkpoint_without_the_order_of_rows_loads(tmp_path):
    """fastgan 0.1 drew rows and z from one generator."""
    trainer = make()
    trainer.fit(DATA, steps=3, batch=8)
    trainer.save(tmp_path / "new.pt")
    checkpoint = torch.load(tmp_path / "new.pt", weights_only=True)
    del checkpoint["order"], checkpoint["schedulers"], checkpoint["settings"]["optimizers"]
    for name in ("lr_d", "betas_d", "classes"):
        del checkpoint["settings"][name]
    torch.save(checkpoint, tmp_path / "old.pt")
    other = make()
    other.load(tmp_path / "old.pt")
    assert other.step_number == 3
    for a, b in zip(other.generator.parameters(), trainer.generator.parameters()):
        assert torch.equal(a, b)


# ---- two learning rates, and the user's optimizers -------------------------------------------------------------------


def plain_loop(optimizers, schedulers=(), steps=15):
    """A GAN author's loop with the fused losses and these optimizers: (generator, discriminator)."""
    trainer = make(r1=0.0, concatenate=False)  # for its networks and its random numbers
    g, d = trainer.generator, trainer.discriminator
    optimizer_g, optimizer_d = optimizers(g, d)
    others = [make_one(optimizer_g, optimizer_d) for make_one in schedulers]
    for i in range(steps):
        real = DATA[i * 8 : i * 8 + 8]
        with torch.no_grad():
            fake = g(trainer.latent(8))
        logits = [d(real), d(fake)]
        out = discriminator_value_and_grad(*logits, "nonsaturating", weight=0.5)
        optimizer_d.zero_grad()
        torch.autograd.backward(logits, out.grads)
        optimizer_d.step()
        d.requires_grad_(False)
        logits = d(g(trainer.latent(8)))
        optimizer_g.zero_grad()
        torch.autograd.backward(logits, generator_value_and_grad(logits, "nonsaturating").grads)
        optimizer_g.step()
        d.requires_grad_(True)
        for scheduler in others:
            scheduler.step()
    return g, d


def assert_same_weights(pairs):
    for ours, theirs in pairs:
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def batches(steps=15):
    return [DATA[i * 8 : i * 8 + 8] for i in range(steps)]


def test_two_learning_rates_train_as_in_a_plain_loop():
    ours = make(r1=0.0, concatenate=False, lr=1e-3, lr_d=4e-3, betas=(0.0, 0.9), betas_d=(0.5, 0.99))
    ours.fit(batches(), steps=15)

    def optimizers(g, d):
        return (
            Adam(g.parameters(), lr=1e-3, betas=(0.0, 0.9), fused=True),
            Adam(d.parameters(), lr=4e-3, betas=(0.5, 0.99), fused=True),
        )

    g, d = plain_loop(optimizers)
    assert_same_weights([(ours.generator, g), (ours.discriminator, d)])


def own(g, d):
    return SGD(g.parameters(), lr=0.05, momentum=0.9), RMSprop(d.parameters(), lr=1e-3)


SCHEDULERS = (
    lambda g, d: MultiStepLR(g, [4, 9], gamma=0.5),
    lambda g, d: LambdaLR(d, lambda step: 1 / (1 + step)),
)


def with_own(**options):
    trainer = make()
    optimizers = own(trainer.generator, trainer.discriminator)
    schedulers = [scheduler(*optimizers) for scheduler in SCHEDULERS]
    options = {"latent_dim": 4, "r1": 0.0, "concatenate": False, "optimizers": optimizers} | options
    return GANTrainer(trainer.generator, trainer.discriminator, schedulers=schedulers, **options)


def test_a_users_optimizers_and_schedulers_train_as_in_a_plain_loop():
    ours = with_own()
    ours.fit(batches(), steps=15)
    g, d = plain_loop(own, SCHEDULERS)
    assert_same_weights([(ours.generator, g), (ours.discriminator, d)])


def test_a_users_optimizers_and_schedulers_resume_exactly(tmp_path):
    straight, half, resumed = with_own(), with_own(), with_own()
    straight.fit(DATA, steps=15, batch=8)
    half.fit(DATA, steps=7, batch=8)
    half.save(tmp_path / "half.pt")
    resumed.load(tmp_path / "half.pt")
    resumed.fit(DATA, steps=8, batch=8)
    assert_same_weights([(resumed.generator, straight.generator), (resumed.discriminator, straight.discriminator)])
    rates = [[group["lr"] for o in t._step.optimizers for group in o.param_groups] for t in (resumed, straight)]
    assert rates[0] == rates[1]
    plain = make(r1=0.0, concatenate=False)
    with pytest.raises(ValueError, match=r"was trained with optimizers \['SGD', 'RMSprop'\] and not None"):
        plain.load(tmp_path / "half.pt")


def wrong(optimizers=own, schedulers=(), **options):
    trainer = make()
    g, d = trainer.generator, trainer.discriminator
    made = optimizers(g, d)
    others = [scheduler(*made) for scheduler in schedulers]
    return GANTrainer(g, d, latent_dim=4, optimizers=made, schedulers=others, **options)


def test_wrong_optimizers_and_schedulers_are_named():
    for make_it, message in [
        (lambda: wrong(lambda g, d: own(d, g)), r"optimizers\[0\]: got parameters that are not the generator's"),
        (
            lambda: wrong(lambda g, d: own(g, d)[:1]),
            "optimizers: got 1 of them, expected one for generator and one for d",
        ),
        (lambda: wrong(lambda g, d: own(g, d)[0]), "optimizers: got SGD, expected one for"),
        (lambda: wrong(lambda g, d: (g, d)), r"optimizers\[0\]: got Sequential, expected a torch.optim.Optimizer"),
        (lambda: wrong(lr=1e-3), "lr: got 0.001, but the optimizers are your own"),
        (lambda: wrong(betas_d=(0.5, 0.9)), r"betas_d: got \(0.5, 0.9\), but the optimizers are your own"),
        (lambda: wrong(schedulers=[lambda g, d: ReduceLROnPlateau(g)]), r"schedulers\[0\]: got ReduceLROnPlateau"),
        (
            lambda: wrong(schedulers=[lambda g, d: CosineAnnealingLR(SGD(mlp(2, 1).parameters(), lr=1.0), 9)]),
            r"schedulers\[0\]: got one of another optimizer",
        ),
        (lambda: make(lr_d=-1.0), "lr_d: got -1.0, expected a finite number > 0"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            make_it()
        assert "\n" not in str(raised.value)
