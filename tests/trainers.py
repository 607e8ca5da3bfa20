"""A small trainer of points, its state, and a comparison of two states."""

import torch
from torch import nn

from fastgan.networks import mlp
from fastgan.trainer import GANTrainer

DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.3])


def make(seed=0, dropout=0.0, **options):
    torch.manual_seed(seed)
    generator = nn.Sequential(mlp(4, 16, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))
    return GANTrainer(generator, mlp(2, 1, 16, 2), latent_dim=4, seed=seed, **options)


def state(trainer):
    """Every tensor that training changes."""
    random = {name: getattr(trainer, name).get_state() for name in ("random", "order")}
    return random | {"torch": torch.get_rng_state()} | state_of_parts(trainer)


def state_of_parts(trainer):
    """The tensors of the networks and optimizers, copied."""
    found = {}
    for name, part in trainer._parts().items():
        values = part.state_dict()
        if name.startswith("optimizer"):
            values = {f"{i}.{k}": v for i, one in values["state"].items() for k, v in one.items()}
        found |= {f"{name}.{k}": v.clone() for k, v in values.items()}
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different
