"""Several ranks, with gloo on the CPU, started by torchrun: their step is that of one process."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from checkout import ROOT

COMMON = textwrap.dedent(
    """
    import sys, json, pathlib, torch
    from torch import nn
    from fastgan.networks import mlp
    from fastgan.trainer import GANTrainer, distributed

    torch.set_num_threads(1)
    DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def make(seed=0, **options):
        torch.manual_seed(seed)
        generator, discriminator = mlp(4, 2, 8, 2).double(), mlp(2, 1, 8, 2).double()
        options = {"latent_dim": 4, "r1": 0.3, "r1_every": 2, **options}
        if options.get("objective") == "mmd":
            discriminator = None
        trainer = GANTrainer(generator, discriminator, **options)
        for optimizer in filter(None, (trainer.optimizer_g, trainer.optimizer_d)):
            optimizer.param_groups[0]["eps"] = 1e-3  # gradients that are 0 but for rounding: no steps of full size
        return trainer

    def state(trainer):
        parts = [trainer.generator, trainer.ema, *filter(None, [trainer.discriminator])]
        return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()])
    """
)

OPTIONS = {
    "alternating": {},
    "concatenated": {"r1": 0.0, "r1_every": 1},
    "one-stage": {"step": "one-stage"},
    "accumulated": {"accumulate": 2},
    "pairs": {"objective": "relativistic", "r2": 0.2},
    "average": {"objective": "relativistic_average"},
    "average, one-stage": {"objective": "dual_contrastive", "step": "one-stage"},
    "mmd": {"objective": "mmd", "bandwidths": [1.0], "r1": 0.0, "r1_every": 1},
}
# rows of each rank in a joint batch of 12: even, and uneven
SPLITS = [[(0, 6), (6, 12)], [(0, 9), (9, 12)]]

RANKS = """
import weakref
folder, options = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
SPLITS = json.loads(sys.argv[3])
with distributed() as world:
    assert world.size == 2 and world.device.type == "cpu" and world.writes == (world.rank == 0)
    group = weakref.ref(torch.distributed.group.WORLD)
    for name, chosen in options.items():
        for split in SPLITS:
            first, last = split[world.rank]
            uneven = split[0][1] != 6
            trainer = make(seed=world.rank, **chosen)  # other weights on the second rank, until the first one's come
            for i in range(5):
                values = trainer.step(DATA[12 * i % 48 :][first:last], uneven=uneven)
            torch.save((state(trainer), trainer.random.get_state()), folder / f"{name} {uneven} {world.rank}.pt")
    trainer = make(seed=world.rank)
    history = trainer.fit(DATA, steps=6, batch=6, log_every=2)
    trainer.save(folder / "checkpoint.pt" if world.writes else folder / "not written.pt")
    torch.distributed.barrier()
    trainer = make(seed=5)
    trainer.load(folder / "checkpoint.pt")
    history += trainer.fit(DATA, steps=6, batch=6, log_every=2)
    torch.save((state(trainer), history), folder / f"fit {world.rank}.pt")
    try:
        make().step(DATA[: 4 * (1 - world.rank)], uneven=True)
    except ValueError as error:
        (folder / f"empty {world.rank}").write_text(str(error))
(folder / f"group {world.rank}").write_text("gone" if group() is None else "held")
"""


def torchrun(code, tmp_path, *arguments, ranks=2, check=True, extra=()):
    """Run the code by `torchrun`, on this machine."""
    script = tmp_path / "script.py"
    script.write_text(COMMON + code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    return subprocess.run(
        [*command, str(script), *map(str, arguments)],
        env=environment, check=check, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks")
    done = torchrun(RANKS, path, path, json.dumps(OPTIONS), json.dumps(SPLITS), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def alone(**options):
    scope = {"__name__": "alone"}
    exec(compile(COMMON, "common", "exec"), scope)
    return scope["make"](**options), scope


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_ranks_step_like_one_process_on_the_joint_batch(folder, name, uneven):
    """Every weight within 1e-12 after five steps, with equal parts and with unequal ones (9 and 3 samples)."""
    if name == "accumulated" and uneven:
        pytest.skip("the same, but for which samples go together")
    trainer, scope = alone(**OPTIONS[name])
    for i in range(5):
        trainer.step(scope["DATA"][12 * i % 48 :][:12])
    (first, random), (second, other) = (torch.load(folder / f"{name} {uneven} {rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second) and torch.equal(random, other)
    assert torch.equal(random, trainer.random.get_state())
    torch.testing.assert_close(first, scope["state"](trainer), rtol=1e-12, atol=1e-12)


def test_ranks_train_resume_and_report_like_one_process(folder):
    trainer, scope = alone()
    history = trainer.fit(scope["DATA"], steps=12, batch=12, log_every=2)
    (first, found), (second, of_second) = (torch.load(folder / f"fit {rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second) and found == of_second
    torch.testing.assert_close(first, scope["state"](trainer), rtol=1e-12, atol=1e-12)
    for a, b in zip(found, history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert not (folder / "not written.pt").exists()
    for rank in (0, 1):
        assert (
            folder / f"empty {rank}"
        ).read_text() == "real: got [4, 0] samples on the ranks, expected at least 1 on each"


def test_the_process_group_is_freed_after_training(folder):
    """A group that is not freed keeps gloo's threads, which may abort a process at its end."""
    assert [(folder / f"group {rank}").read_text() for rank in (0, 1)] == ["gone", "gone"]


RESTARTED = """
import os
folder, path = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]) / "checkpoint.pt"
with distributed() as world:
    trainer = make()
    if path.exists():
        trainer.load(path)
    while trainer.step_number < 12:
        if world.rank == 1 and trainer.step_number == 7 and not world.restarts:
            os.kill(os.getpid(), 9)
        trainer.fit(DATA, steps=1, batch=6)
        if trainer.step_number % 3 == 0:
            trainer.save(path)
    torch.save((state(trainer), world.restarts), folder / f"end {world.rank}.pt")
"""


@pytest.mark.slow
def test_a_rank_that_dies_is_started_again_from_the_last_checkpoint(tmp_path):
    torchrun(RESTARTED, tmp_path, tmp_path, extra=["--max-restarts", "5", "--monitor-interval", "0.1"])
    trainer, scope = alone()
    for _ in range(12):
        trainer.fit(scope["DATA"], steps=1, batch=12)
    for rank in (0, 1):
        end, restarts = torch.load(tmp_path / f"end {rank}.pt")
        assert restarts >= 1  # gloo may find the dead process's address first: then torchrun restarts again
        torch.testing.assert_close(end, scope["state"](trainer), rtol=1e-12, atol=1e-12)


def test_one_process_without_torchrun(monkeypatch):
    from fastgan.trainer import World, distributed

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with distributed() as world:
        assert world == World(0, 1, None, 0)
        assert world.writes
    with distributed("cpu") as world:
        assert world.device == torch.device("cpu")


def test_fewer_gpus_than_processes_are_refused(monkeypatch):
    from fastgan.trainer import distributed

    for name, value in {"RANK": "0", "WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "64"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ValueError, match="device: got cuda for 64 processes, expected as many GPUs"),
        distributed("cuda"),
    ):
        pass
