"""A wrong argument of a trainer gives one line that names it, before any weight changes."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.utils.data import TensorDataset
from trainers import DATA, assert_same, make, state

from fastgan.networks import Discriminator, ResNetDiscriminator, build, mlp
from fastgan.objectives import OBJECTIVES
from fastgan.trainer import GANTrainer

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(latent_dim=4):
    torch.manual_seed(0)
    return mlp(latent_dim, 2, 16, 2), mlp(2, 1, 16, 2)


class After(nn.Module):
    """A network whose outputs pass through a function."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.function(self.network(x))


class Bias(nn.Module):
    """A discriminator that ignores its samples."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.bias.expand(len(x))


def train(function=lambda x: x, of_g=lambda x: x, **options):
    """A trainer of networks whose outputs pass through functions."""
    generator, discriminator = pair()
    return GANTrainer(After(generator, of_g), After(discriminator, function), **{"latent_dim": 4} | options)


def spoiled(which, number=math.nan):
    networks = pair()
    with torch.no_grad():
        networks[which][2].bias[3] = number
    return GANTrainer(*networks, latent_dim=4)


IGNORED = "discriminator: got logits that do not depend on the samples, expected ones that do"
MADE = {
    "swapped": (lambda: GANTrainer(*pair()[::-1], latent_dim=4), "generator: got a network that accepts the discrim"),
    "swapped, of one width": (lambda: GANTrainer(*pair(2)[::-1], latent_dim=2), "generator: got a network that acc"),
    "latent_dim": (lambda: make_pair(latent_dim=5), r"latent_dim: got 5, expected what .* \(4, 5\) gives 'mat1"),
    "latent_dim of mmd": (
        lambda: GANTrainer(pair()[0], None, objective="mmd", latent_dim=3), "latent_dim: got 3, expected"
    ),
    "latent_dim as text": (lambda: make_pair(latent_dim="4"), "latent_dim: got str, expected a whole number"),
    "lr": (lambda: make_pair(lr=(1e-3, 1e-4)), "lr: got tuple, expected one number: lr for both networks, lr_d"),
    "lr as text": (lambda: make_pair(lr="1e-3"), "lr: got str, expected a number"),
    "r1_every": (lambda: make_pair(r1_every=1.5), "r1_every: got 1.5, expected a whole number"),
    "accumulate": (lambda: make_pair(accumulate=math.inf), "accumulate: got inf, expected a whole number"),
    "r1": (lambda: make_pair(r1="0.5"), "r1: got str, expected a number"),
    "weight": (lambda: make_pair(weight=math.nan), "weight: got nan, expected a finite number"),
    "ema_decay": (lambda: make_pair(ema_decay=None), "ema_decay: got NoneType, expected a number"),
    "betas": (lambda: make_pair(betas=(0.0, 1.0)), r"betas\[1\]: got 1.0, expected a number from 0 to below 1"),
    "one beta": (lambda: make_pair(betas=0.9), "betas: got 0.9, expected two numbers"),
    "seed": (lambda: make_pair(seed=2**64), "seed: got 18446744073709551616, expected a number from"),
    "no seed": (lambda: make_pair(seed=None), "seed: got NoneType, expected a whole number"),
    "bandwidths": (
        lambda: GANTrainer(pair()[0], None, objective="mmd", latent_dim=4, bandwidths=[1.0, 0.0]),
        r"bandwidths\[1\]: got 0.0, expected a finite number > 0",
    ),
    "one bandwidth": (
        lambda: GANTrainer(pair()[0], None, objective="mmd", latent_dim=4, bandwidths=1.0),
        "bandwidths: got float, expected a sequence",
    ),
    "device": (lambda: make_pair(device="gpu"), "device: got 'gpu', expected a device that is there"),
    "a function": (lambda: GANTrainer(torch.tanh, pair()[1]), "generator: got builtin_function_or_method, expected"),
    "the same": (lambda: GANTrainer(*[mlp(2, 2)] * 2), "discriminator: got the generator itself"),
    "lazy": (
        lambda: GANTrainer(pair()[0], nn.LazyLinear(1)), "discriminator: got parameter 'weight' without a shape"
    ),
    "NaN in G": (lambda: spoiled(0), "generator: got NaN or infinite numbers in '2.bias', expected finite weights"),
    "infinity in D": (lambda: spoiled(1, math.inf), "discriminator: got NaN or infinite numbers in '2.bias'"),
    "D in float64": (
        lambda: GANTrainer(pair()[0], pair()[1].double(), latent_dim=4),
        r"discriminator: got torch.float32 samples of shape \(4, 2\)",
    ),
    "D of a list": (lambda: train(lambda x: [x]), "discriminator: got list, expected one floating tensor of logits"),
    "D of integers": (lambda: train(lambda x: x.long()), "discriminator: got torch.int64 logits, expected"),
    "D of a mean": (lambda: train(torch.mean), r"discriminator: got logits of shape \(\) for 4 samples, expected 4"),
    "D of a mean of rows": (lambda: train(lambda x: x.mean(0)), r"discriminator: got logits of shape \(1,\) for 4"),
    "D of its bias": (lambda: GANTrainer(pair()[0], Bias(), latent_dim=4), IGNORED),
    "D of its bias, one-stage": (
        lambda: GANTrainer(pair()[0], Bias(), latent_dim=4, step="one-stage", objective="minimax"), IGNORED
    ),
    "D without a graph": (lambda: train(lambda x: x.detach()), "discriminator: got logits without a graph"),
    "G of a pair": (lambda: train(of_g=lambda x: (x, x)), "generator: got tuple, expected one floating tensor"),
    "G of integers": (lambda: train(of_g=lambda x: x.long()), "generator: got torch.int64 samples, expected"),
    "G of one row": (lambda: train(of_g=lambda x: x[:1]), r"generator: got samples of shape \(1, 2\) for 4 rows of z"),
    "not to be copied": (
        lambda: train(Uncopied()), "discriminator: got a network that cannot be copied: not twice"
    ),
}  # fmt: skip


class Uncopied:
    def __call__(self, x):
        return x

    def __deepcopy__(self, memo):
        raise RuntimeError("not twice")


def make_pair(**options):
    return GANTrainer(*pair(), **{"latent_dim": 4} | options)


def one_line(raised):
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", MADE)
def test_wrong_arguments_of_the_trainer(case):
    make, message = MADE[case]
    random = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as raised:
        make()
    one_line(raised)
    torch.set_rng_state(random)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0])
def test_a_gpu_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"device: got '{device}', expected .* there is no CUDA device here") as raised:
        make_pair(device=device)
    one_line(raised)


FIT = {
    "a name": ("ring", r"data: got str, expected a tensor or array of samples \(N, ...\)"),
    "a number of Python": (3.0, "data: got float, expected a tensor or array"),
    "a list of numbers": (DATA.tolist(), r"data, batch 0: got list, expected a tensor of samples \(N, ...\)"),
    "no batches": ([], "data: got a list without batches, expected at least one"),
    "dicts": ([{"image": DATA}], "data, batch 0: got dict with 'image', expected a tensor .* of dicts: for b in data"),
    "a dict": ({"image": DATA}, "data: got dict, expected a tensor or array"),
    "an array of texts": (np.array(["a", "b"]), "data: got an array of <U1, expected floats, or uint8 images"),
    "an array of whole numbers": (np.arange(8).reshape(4, 2), "data: got torch.int64, expected floats"),
    "batches of float64": ([DATA.double()], r"data, batch 0: got torch.float64 .* expected torch.float32"),
    "an empty data set": (TensorDataset(DATA[:0]), r"data: got shape \(0, 2\), expected \(N, ...\)"),
    "float64": (DATA.double(), r"data: got torch.float64 .* expected torch.float32 .*: data.to\(torch.float32\)"),
    "float16": (DATA.half(), r"data: got torch.float16 .* expected torch.float32 .*: data.to\(torch.float32\)"),
    "int64": (DATA.long(), "data: got torch.int64, expected floats"),
    "uint8 points": (DATA.to(torch.uint8), r"data: got torch.uint8 of shape \(200, 2\), .*: data.float\(\)"),
    "width": (
        torch.randn(9, 3),
        r"data: got torch.float32 of shape \(N, 3\), expected torch.float32 of shape \(N, 2\)",
    ),
    "none": (DATA[:0], r"data: got shape \(0, 2\), expected \(N, ...\) with at least one sample"),
    "a number": (torch.tensor(1.0), r"data: got shape \(\), expected"),
    "NaN": (DATA.log(), "data: got NaN or infinite numbers, expected finite samples"),
    "infinity": (torch.where(DATA > 1, math.inf, DATA), "data: got NaN or infinite numbers"),
    "sparse": (DATA.to_sparse(), "data: got a torch.sparse_coo tensor, expected a dense one"),
}


@pytest.mark.parametrize("case", FIT)
@pytest.mark.parametrize("options", [{}, {"r1": 0.0}, {"step": "one-stage", "r1": 0.0}])
def test_wrong_data_for_fit(case, options):
    trainer, (data, message) = make(dropout=0.5, **options), FIT[case]
    before = state(trainer)
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as raised:
        trainer.fit(data, steps=2, batch=8)
    one_line(raised)
    assert_same(state(trainer), before)


@pytest.mark.parametrize("name", ["steps", "batch", "log_every"])
def test_wrong_numbers_for_fit(name):
    trainer = make()
    before = state(trainer)
    for value, message in ((1.5, "got 1.5, expected a whole"), ("9", "got str, expected a whole"), (0, "got 0")):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: {message}"):
            trainer.fit(DATA, **{"steps": 1, "batch": 4, name: value})
    assert_same(state(trainer), before)
    trainer.fit(DATA, **{"steps": 1, "batch": 4, name: 2e0})  # a whole number written as a float, as 1e4
    assert trainer.step_number == (2 if name == "steps" else 1)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (DATA[:8].numpy(), r"real: got ndarray, expected a tensor of samples \(N, ...\): torch.from_numpy\(real\)"),
        ([DATA[:8]], "real: got list, expected a tensor"),
        (DATA[:0], r"real: got shape \(0, 2\), expected \(N, ...\) with at least one sample"),
        (DATA[:8].double(), "real: got torch.float64 .* expected torch.float32"),
        (DATA[:8].to(torch.uint8), "real: got torch.uint8, expected floats; images of 0..255 go through"),
        (DATA[:8].to("meta"), "real: got a tensor on meta, expected cpu, as the networks"),
        (DATA[:8, :1], r"real: got torch.float32 of shape \(N, 1\), expected torch.float32 of shape \(N, 2\)"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"objective": "hinge", "r1": 0.0}])
def test_wrong_samples_for_a_step(real, message, options):
    trainer = make(dropout=0.5, **options)
    before = state(trainer)
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as raised:
        trainer.step(real)
    one_line(raised)
    assert_same(state(trainer), before)
    trainer.step(DATA[:8])  # the next step works


def test_mmd_refuses_samples_of_another_width():
    trainer = GANTrainer(pair()[0], None, objective="mmd", latent_dim=4)
    before = state(trainer)
    with pytest.raises(ValueError, match=r"real: got torch.float32 of shape \(N, 3\), expected .* \(N, 2\)"):
        trainer.step(DATA[:12].reshape(8, 3))
    assert_same(state(trainer), before)
    trainer.step(DATA[:8].double()[:, :, None])  # other dtypes and shapes of the same width are converted


def test_a_discriminator_that_squeezes():
    """Logits (N,) are fine; () for one sample are not, also for a part of one sample with `accumulate`."""
    whole, parts = train(torch.squeeze), train(torch.squeeze, accumulate=8)
    whole.step(DATA[:8])
    for trainer, count in ((whole, 1), (parts, 8)):
        weights = [p.clone() for p in trainer.discriminator.parameters()]
        with pytest.raises(ValueError, match=r"discriminator: got logits of shape \(\) for 1 samples, expected 1 rows"):
            trainer.step(DATA[:count])
        assert all(map(torch.equal, trainer.discriminator.parameters(), weights))


def test_samples_of_another_shape_that_the_discriminator_takes():
    """Valid if D flattens its inputs and nothing is concatenated."""
    generator, discriminator = pair()
    trainer = GANTrainer(generator, nn.Sequential(nn.Flatten(), *discriminator), latent_dim=4)
    trainer.fit(DATA[:, None, :], steps=2, batch=8)
    with pytest.raises(ValueError, match=r"real: got torch.float32 of shape \(N, 1, 2\), expected .* \(N, 2\)"):
        again = nn.Sequential(nn.Flatten(), *pair()[1])
        GANTrainer(generator, again, latent_dim=4, r1=0.0, concatenate=True).step(DATA[:8, None, :])


def test_the_first_look_changes_no_random_state_and_no_statistic():
    """With dropout and batch normalisation in both networks."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)]
    generator, discriminator = (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)),
        nn.Sequential(*layers, nn.Linear(8, 1)),
    )
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (generator, discriminator)]
    random = torch.get_rng_state()
    trainer = GANTrainer(generator, nn.Sequential(nn.Flatten(), *discriminator), latent_dim=4)
    with pytest.raises(ValueError, match="real: got"):  # a kind of samples that D tries, and does not take
        trainer.step(DATA[:8, None, :1])
    assert torch.equal(torch.get_rng_state(), random)
    for module, kept in zip((generator, discriminator), before):
        assert all(torch.equal(v, kept[k]) for k, v in module.state_dict().items())


# ---- probabilities --------------------------------------------------------------------------------------------------

SQUASHED = {
    "Sigmoid": nn.Sigmoid(),
    "torch.sigmoid": torch.sigmoid,
    "as pytorch/examples": lambda x: torch.sigmoid(x).view(-1, 1).squeeze(1),
    "by hand": lambda x: 1 / (1 + (-x).exp()),
    "clamped": lambda x: x.clamp(0, 1),
    "softmax": lambda x: torch.cat((x, -x), 1).softmax(1),
}
WARNED = [name for name in OBJECTIVES if "least_squares" not in name and name != "wasserstein"]


@pytest.mark.parametrize("case", SQUASHED)
def test_probabilities_are_named(case):
    with pytest.warns(
        UserWarning, match="discriminator: its outputs are probabilities, .* 'nonsaturating' expects"
    ) as found:
        trainer = train(SQUASHED[case])
    assert len(found) == 1 and "\n" not in str(found[0].message)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.step(DATA[:8])  # warns only once


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_which_objectives_expect_logits(objective):
    """Probabilities are fine for least squares, with labels 0 and 1, and as a critic of the total variation."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(torch.sigmoid, objective=objective)
        train(objective=objective)
    assert len(found) == (objective in WARNED)


def test_no_false_alarm():
    """Logits that lie in [0, 1] by chance: by a bias, by weights of 0, behind layers that bound them."""
    torch.manual_seed(0)

    def biased(network):
        last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.mul_(1e-3)
            if last.bias is None:
                last.weight.zero_()
            else:
                last.bias.fill_(0.5)
        return network

    of_points = [
        pair()[1],
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)),
        nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.Sigmoid(), nn.Linear(8, 1)),
        nn.Sequential(utils.parametrizations.spectral_norm(nn.Linear(2, 8)), nn.ReLU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.LeakyReLU(), nn.Dropout(0.5), nn.Linear(8, 3)),
    ]
    of_images = [Discriminator(8, 1, 4), Discriminator(16, 1, 4, batch_norm=True), ResNetDiscriminator(8, 1, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for network in map(biased, of_points):
            for seed in range(5):
                torch.manual_seed(seed)
                assert ((network(torch.randn(50, 2)) - 0.5).abs() < 0.5).all()
            GANTrainer(pair()[0], network, latent_dim=4)
        for network in map(biased, of_images):
            size = 16 if any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) else 8
            logits = network(torch.randn(50, 1, size, size))
            assert ((logits >= 0) & (logits <= 1)).all()
            GANTrainer(build((1, size, size), 4, 4)[0], network, latent_dim=4)
        train(torch.tanh)
        train(lambda x: x - x.detach() + 0.5)  # the same number for all weights
