"""Exact resume, in this process, in another, and after any kill; and checkpoints that cannot be used."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkout import ROOT, TESTS
from trainers import DATA, assert_same, make, state

from fastgan.checkpoints import FORMAT_1_SETTINGS
from fastgan.networks import mlp
from fastgan.trainer import GANTrainer, read_checkpoint, write_atomically

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resume_is_exact(tmp_path, dropout):
    straight = make(dropout=dropout)
    torch.manual_seed(5)
    history = straight.fit(DATA, steps=100, batch=16, log_every=10)
    expected = state(straight)

    first = make(dropout=dropout)
    torch.manual_seed(5)
    one = first.fit(DATA, steps=50, batch=16, log_every=10)
    first.save(tmp_path / "half.pt")
    second = make(dropout=dropout, seed=0)
    second.fit(DATA, steps=7, batch=16)  # steps before the load must not matter
    second.load(tmp_path / "half.pt")
    two = second.fit(DATA, steps=50, batch=16, log_every=10)
    assert one + two == history
    assert_same(state(second), expected)
    assert torch.equal(second.sample(9, seed=3), straight.sample(9, seed=3))


def run_in_a_process(code, *arguments):
    """Run the code in another process with one thread, which can import the package and the tests' helpers."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=ROOT, env=environment)


def test_resume_in_another_process_is_exact(tmp_path):
    straight = make()
    straight.fit(DATA, steps=60, batch=16)
    half = make()
    half.fit(DATA, steps=30, batch=16)
    half.save(tmp_path / "half.pt")
    code = (
        "from trainers import DATA, make; import sys; trainer = make(); trainer.load(sys.argv[1]);"
        "trainer.fit(DATA, steps=30, batch=16); trainer.save(sys.argv[2])"
    )
    files = [str(tmp_path / "half.pt"), str(tmp_path / "whole.pt")]
    run_in_a_process(code, *files)
    resumed = make()
    resumed.load(files[1])
    a, b = state(resumed), state(straight)
    del a["torch"], b["torch"]
    assert_same(a, b)


@pytest.fixture
def checkpoint(tmp_path):
    trainer = make()
    trainer.fit(DATA, steps=2, batch=8)
    trainer.save(tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_checkpoint_cut_short_anywhere(checkpoint):
    whole = checkpoint.read_bytes()
    trainer = make()
    before = state(trainer)
    for size in (0, 1, 4, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        checkpoint.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"checkpoint.pt: is cut short or damaged") as raised:
            trainer.load(checkpoint)
        assert "\n" not in str(raised.value)
    assert_same(state(trainer), before)


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.pt: there is no such checkpoint"):
        make().load(tmp_path / "nothing.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt: is no checkpoint of fastgan"):
        make().load(tmp_path / "other.pt")


def test_a_checkpoint_can_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format": 1, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_checkpoint_of_another_network_changes_nothing(checkpoint):
    torch.manual_seed(0)
    generator = make().generator
    other = GANTrainer(generator, mlp(2, 1, 24, 2), latent_dim=4)
    before = state(other)
    with pytest.raises(
        ValueError, match=r"is of another discriminator: 0.bias is \(16,\) in the file, expected \(24,\)"
    ):
        other.load(checkpoint)
    assert_same(state(other), before)
    with pytest.raises(ValueError, match=r"another discriminator: 4.bias is \(1,\) in the file, expected \(16,\)"):
        GANTrainer(generator, mlp(2, 1, 16, 3), latent_dim=4).load(checkpoint)


def test_checkpoint_of_other_settings_names_them(checkpoint):
    with pytest.raises(ValueError, match=r"was trained with lr 0.002 and not 0.001, r1 0.5 and not 0.1"):
        make(lr=1e-3, r1=0.1).load(checkpoint)


def test_checkpoint_of_the_first_format(tmp_path):
    """It lacks the settings that did not exist yet, and resumes exactly."""
    whole, half = make(), make()
    whole.fit(DATA, steps=10, batch=8)
    half.fit(DATA, steps=5, batch=8)
    half.save(tmp_path / "new.pt")
    old = torch.load(tmp_path / "new.pt", weights_only=True)
    del old["scaler"]
    old["format"] = 1
    old["settings"] = {k: v for k, v in old["settings"].items() if k not in FORMAT_1_SETTINGS}
    torch.save(old, tmp_path / "old.pt")
    resumed = make()
    resumed.load(tmp_path / "old.pt")
    resumed.fit(DATA, steps=5, batch=8)
    a, b = state(resumed), state(whole)
    del a["torch"], b["torch"]
    assert_same(a, b)
    with pytest.raises(ValueError, match="trained with step alternating and not one-stage"):
        make(step="one-stage").load(tmp_path / "old.pt")


KILLED = """
import sys, pathlib, os, signal, torch
from trainers import DATA, make

torch.set_num_threads(1)
folder, victim, steps, dropout = pathlib.Path(sys.argv[1]), int(sys.argv[2]), 30, float(sys.argv[3])
trainer = make(dropout=dropout)
torch.manual_seed(5)
if (folder / "last.pt").exists():
    trainer.load(folder / "last.pt")
while trainer.step_number < steps:
    if trainer.step_number == victim:
        write = os.replace
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of a save
        trainer.save(folder / "last.pt") if victim % 2 else os.kill(os.getpid(), signal.SIGKILL)
    trainer.fit(DATA, steps=1, batch=8)
    if trainer.step_number % 3 == 0:
        trainer.save(folder / "last.pt")
trainer.save(folder / "done.pt")
"""


@pytest.mark.parametrize("dropout", [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_resumes_exactly(tmp_path, dropout):
    """`kill -9` at ten random steps of one run, in and between saves (twenty with both kinds of network): the restarted
    run ends with the state of an uninterrupted one, to the last bit."""
    victims = torch.randperm(29, generator=torch.Generator().manual_seed(int(dropout * 10)))[:10] + 1
    # One process, which forks a child for each restart, so that torch is imported only once.
    code = (
        f"import sys, os; KILLED = {KILLED!r}\n"
        "import fastgan.trainer, torch\n"
        "ends = []\n"
        "for victim in [*sys.argv[3:], '-1']:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        sys.argv = ['', sys.argv[1], victim, sys.argv[2]]\n"
        "        exec(KILLED)\n"
        "        os._exit(0)\n"
        "    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "assert ends == [-9] * 10 + [0], ends\n"
    )
    run_in_a_process(code, str(tmp_path), str(dropout), *map(str, sorted(victims.tolist())))
    straight = make(dropout=dropout)
    torch.manual_seed(5)
    straight.fit(DATA, steps=30, batch=8)
    expected = state(straight)
    resumed = make(dropout=dropout)
    resumed.load(tmp_path / "done.pt")
    assert_same(state(resumed), expected)


def test_write_atomically_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.gpu
def test_resume_on_a_gpu_is_exact(tmp_path):
    torch.manual_seed(0)
    trainer = GANTrainer(mlp(4, 2, 16, 1), mlp(2, 1, 16, 1), latent_dim=4, device="cuda")
    trainer.fit(DATA, steps=20, batch=16)
    trainer.save(tmp_path / "a.pt")
    once = trainer.fit(DATA, steps=5, batch=16)
    trainer.load(tmp_path / "a.pt")
    assert trainer.fit(DATA, steps=5, batch=16) == once


def test_numbers_of_numpy_are_saved_and_loaded(tmp_path):
    """A schedule may compute with NumPy, whose types `torch.load(weights_only=True)` refuses."""

    def trained():
        torch.manual_seed(0)
        networks = mlp(4, 2, 8, 1), mlp(2, 1, 8, 1)
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in networks]
        schedulers = [
            torch.optim.lr_scheduler.LambdaLR(optimizers[0], lambda step: np.cos(step / 10)),
            torch.optim.lr_scheduler.MultiStepLR(optimizers[1], [2, 4]),
        ]
        return GANTrainer(*networks, latent_dim=4, optimizers=optimizers, schedulers=schedulers)

    trainer, other = trained(), trained()
    trainer.fit(DATA, steps=3, batch=8)
    trainer.save(tmp_path / "checkpoint.pt")
    expected = trainer.fit(DATA, steps=3, batch=8, log_every=1)
    other.load(tmp_path / "checkpoint.pt")
    assert other.fit(DATA, steps=3, batch=8, log_every=1) == expected
    assert_same(state(other), state(trainer))


OF_0_1 = (
    *("objective", "weight", "lr", "betas", "r1", "r2", "r1_every", "latent_dim", "ema_decay", "step", "redraw"),
    *("precision", "compile", "accumulate", "concatenate", "channels_last", "bandwidths", "device"),
)


def test_a_checkpoint_of_fastgan_0_1(tmp_path):
    """Settings added later get the value that changes nothing."""
    whole, half, resumed = make(), make(), make()
    whole.fit(DATA, steps=6, batch=8)
    half.fit(DATA, steps=3, batch=8)
    half.save(tmp_path / "new.pt")
    old = torch.load(tmp_path / "new.pt", weights_only=True)
    old["settings"] = {name: old["settings"][name] for name in OF_0_1}
    del old["schedulers"]
    torch.save(old, tmp_path / "old.pt")
    resumed.load(tmp_path / "old.pt")
    resumed.fit(DATA, steps=3, batch=8)
    a, b = state(resumed), state(whole)
    del a["torch"], b["torch"]
    assert_same(a, b)


def saved(trainer, path):
    trainer.save(path)
    return path


def test_a_state_that_could_not_be_loaded_is_not_saved(tmp_path):
    """A user's optimizer may keep any object, but a checkpoint that replaces the last good one must load."""
    trainer = make()
    trainer.save(tmp_path / "checkpoint.pt")
    trainer.optimizer_d.param_groups[0]["history"] = [{"rates": np.zeros(3)}]
    with pytest.raises(TypeError, match="optimizer_d: holds a ndarray, expected numbers, texts and tensors"):
        trainer.save(tmp_path / "checkpoint.pt")
    make().load(tmp_path / "checkpoint.pt")


def test_average_of_weights_in_half_precision(tmp_path):
    """A thousandth of a difference must not be rounded away; and it resumes exactly."""

    def trained():
        torch.manual_seed(0)
        return GANTrainer(mlp(4, 2, 8, 1).bfloat16(), mlp(2, 1, 8, 1).bfloat16(), latent_dim=4, seed=1)

    whole, half = trained(), trained()
    weights = list(whole.generator.parameters())
    average = [p.detach().double() for p in weights]
    for t in range(200):
        whole.step(DATA[:8].bfloat16())
        if t == 99:
            half.load(saved(whole, tmp_path / "half.pt"))
        decay = min(0.999, (t + 1) / (t + 10))
        average = [decay * a + (1 - decay) * p.detach().double() for a, p in zip(average, weights)]
    for a, b in zip(whole.ema.parameters(), average):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.double(), b, rtol=2**-8, atol=1e-6)
    for _ in range(100):
        half.step(DATA[:8].bfloat16())
    assert_same(state(half), state(whole))
