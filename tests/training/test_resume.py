"""A checkpoint that does not fit is found before anything is changed."""

import copy

import pytest
import torch
from torch import nn
from trainers import DATA, assert_same, make, state

from fastgan.networks import mlp
from fastgan.trainer import GANTrainer, to_numbers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoint of a trainer with a loss scale."""
    path = tmp_path_factory.mktemp("saved") / "checkpoint.pt"
    trainer = make(precision="float16")
    trainer.fit(DATA, steps=3, batch=8)
    trainer.save(path)
    return torch.load(path, weights_only=True)


def put(value, *keys):
    """A function that sets a value in a checkpoint, or deletes its last key."""

    def change(checkpoint):
        for key in keys[:-1]:
            checkpoint = checkpoint[key]
        if value is DELETED:
            del checkpoint[keys[-1]]
        else:
            checkpoint[keys[-1]] = value

    return change


DELETED = object()
SLOT = ("optimizer_d", "state", 2)
BROKEN = {
    "no random state": (put(DELETED, "random"), "it holds nothing as 'random'"),
    "no optimizer": (put(DELETED, "optimizer_g"), "it holds nothing as 'optimizer_g'"),
    "no optimizer of D": (put(DELETED, "optimizer_d"), "optimizer_d is not there"),
    "no settings": (put(DELETED, "settings"), "it holds nothing as 'settings'"),
    "no loss scale": (put({}, "scaler"), "scaler is no state"),
    "a loss scale that is none": (put("big", "scaler", "scale"), "scaler is no state"),
    "a random state cut short": (put(torch.zeros(16, dtype=torch.uint8), "random"), "random is no state"),
    "random numbers": (put(torch.zeros(5056), "random"), "random is no state"),
    "torch's random state": (put(None, "torch_random"), "it holds NoneType as 'torch_random'"),
    "torch's random state cut short": (
        put(torch.zeros(8, dtype=torch.uint8), "torch_random"), "torch_random is no state"
    ),
    "a step that is none": (put(-1, "step"), "it holds -1 as 'step'"),
    "a step of text": (put("7", "step"), "it holds str as 'step'"),
    "no group": (put([], "optimizer_d", "param_groups"), "optimizer_d does not fit: "),
    "fewer parameters": (put([0, 1], "optimizer_d", "param_groups", 0, "params"), "optimizer_d does not fit: "),
    "an average of another shape": (
        put(torch.zeros(3), *SLOT, "exp_avg"), r"exp_avg of optimizer_d is torch.float32 \(3,\)"
    ),
    "no average": (put(DELETED, *SLOT, "exp_avg_sq"), "exp_avg_sq of optimizer_d is NoneType"),
    "no state of a parameter": (put(None, *SLOT), "optimizer_d"),
    "a rate of text": (put("fast", "optimizer_g", "param_groups", 0, "lr"), "optimizer_g does not fit: a setting"),
    "no rate": (put(DELETED, "optimizer_g", "param_groups", 0, "lr"), "optimizer_g does not fit: "),
    "a beta": (put((0.0,), "optimizer_g", "param_groups", 0, "betas"), "optimizer_g does not fit: "),
    "a network that is none": (put([1, 2], "discriminator"), "discriminator is list, expected a state"),
    "weights that are none": (put("weights", "discriminator", "0.weight"), "0.weight of discriminator is str"),
    "weights of another dtype": (
        put(torch.zeros(16, 2, dtype=torch.float64), "discriminator", "0.weight"),
        "is of another discriminator: 0.weight is torch.float64 in the file, expected torch.float32",
    ),
    "average of another network": (
        put(torch.zeros(3, 16), "ema", "4.weight"), r"is of another ema: 4.weight is \(3, 16\) in the file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_load_that_fails_changes_nothing(case, saved, tmp_path):
    """Weights, averages, optimizers, random states, loss scale and step, to the bit; and the next step."""
    change, message = BROKEN[case]
    checkpoint, path = copy.deepcopy(saved), tmp_path / "broken.pt"
    change(checkpoint)
    torch.save(checkpoint, path)
    trainer, untouched = (make(precision="float16", dropout=0.5) for _ in range(2))
    for one in (trainer, untouched):
        torch.manual_seed(3)
        one.fit(DATA, steps=2, batch=8)
    before, scale = state(trainer), trainer._step.scaler.state_dict()
    with pytest.raises(ValueError, match=message) as raised:
        trainer.load(path)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"{path}: ")
    assert_same(state(trainer), before)
    assert trainer._step.scaler.state_dict() == scale and trainer.step_number == 2
    random = torch.get_rng_state()
    after = to_numbers(trainer.step(DATA[:8]))
    torch.set_rng_state(random)
    assert after == to_numbers(untouched.step(DATA[:8]))
    assert_same(state(trainer), state(untouched))


class Refuses(nn.Linear):
    """A layer whose way to load refuses a state with the right shapes."""

    def get_extra_state(self):
        return torch.tensor(1)

    def set_extra_state(self, state):
        if state != 1:
            raise RuntimeError("of another kind\nof layer")


def test_a_network_that_refuses_its_state(tmp_path):
    torch.manual_seed(0)
    trainer = GANTrainer(mlp(4, 2, 8, 1), nn.Sequential(Refuses(2, 4), nn.Tanh(), nn.Linear(4, 1)), latent_dim=4)
    trainer.fit(DATA, steps=2, batch=8)
    trainer.save(tmp_path / "one.pt")
    trainer.load(tmp_path / "one.pt")
    checkpoint = torch.load(tmp_path / "one.pt", weights_only=True)
    checkpoint["discriminator"]["0._extra_state"] = torch.tensor(2)
    checkpoint["generator"]["0.weight"].zero_()
    torch.save(checkpoint, tmp_path / "two.pt")
    before = state(trainer)
    with pytest.raises(ValueError, match=r"two.pt: is of another discriminator: .*") as raised:
        trainer.load(tmp_path / "two.pt")
    assert "\n" not in str(raised.value)
    assert_same(state(trainer), before)


def test_two_trainers_of_one_checkpoint_share_no_tensor(saved, tmp_path):
    """Training one of them does not change the other."""
    torch.save(saved, tmp_path / "whole.pt")
    one, two = make(precision="float16"), make(precision="float16")
    one.load(tmp_path / "whole.pt")
    two.load(tmp_path / "whole.pt")
    assert_same(state(one), state(two))
    assert one.step_number == saved["step"] == 3
    kept = state(two)
    one.fit(DATA, steps=2, batch=8)
    two_now = state(two)
    del kept["torch"], two_now["torch"]
    assert_same(two_now, kept)
