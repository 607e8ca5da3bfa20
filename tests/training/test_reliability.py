"""Failures in a long run: kill -9 at any moment, dead workers and ranks, missing files, a full disk, NaN losses, two
runs in one folder. With real processes, signals and files."""

import concurrent.futures
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import command, images_file, points_file, records, refused, refused_last, same_checkpoint, wait_for

from fastgan.cli import main
from fastgan.cli.folder import next_free
from fastgan.trainer import read_checkpoint

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytest.importorskip("tqdm")

SMALL = ["--batch", "16", "--width", "4", "--latent-dim", "4", "--metrics-every", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_BACKEND", raising=False)


def photos(tmp_path, n=40):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.slow  # test_exact_resume.py kills a trainer ten times in every run of the tests
def test_killed_at_random_steps_and_resumed_is_the_uninterrupted_run(tmp_path):
    """Bit for bit, weights and log. --flip uses the same random numbers as everything else."""
    data, chance = images_file(tmp_path), random.Random(0)
    settings = [*SMALL, "--save-every", "50", "--flip"]
    checkpoint, steps = tmp_path / "killed" / "checkpoint.pt", []
    for i in range(20):
        how = ["--resume"] if i else settings
        process = command("train", data, "--steps", 10**9, "--out", "killed", *how)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        end = time.monotonic() + 200
        while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
        steps.append(read_checkpoint(checkpoint)["step"])
    assert all(a < b for a, b in itertools.pairwise(steps))
    last = str(steps[-1] + 30)
    assert main(["train", str(data), "--out", "killed", "--resume", "--steps", last]) == 0
    assert main(["train", str(data), "--out", "straight", "--steps", last, *settings]) == 0
    same_checkpoint(tmp_path / "killed", tmp_path / "straight")
    assert records(tmp_path / "killed") == records(tmp_path / "straight")
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def workers_of(process):
    """The child processes."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def last_step(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def wait_until(happened, process, seconds=200):
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_stream_with_a_killed_worker_then_vanishing_files(tmp_path):
    """The worker is replaced and no number changes. Missing files are skipped and counted. If all are missing, the run
    saves and prints how to resume; when the files are back, it resumes."""
    folder, run = photos(tmp_path), tmp_path / "run"
    settings = ["--size", "8", *SMALL, "--stream", "--workers", "1", "--save-every", "20", "--seed", "1"]
    process = command("train", folder, "--out", "run", "--steps", 10**9, *settings)
    wait_for(run / "checkpoint.pt", process)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: [w for w in workers_of(process) if w != worker], process)
    at = last_step(run)
    wait_until(lambda: last_step(run) > at, process)
    killed_at = last_step(run)

    for name in ("003.png", "011.png"):
        (folder / name).rename(tmp_path / name)
    wait_until(lambda: "unreadable" in json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]), process)
    rest = list(folder.iterdir())
    for file in rest:
        file.rename(tmp_path / file.name)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert "DataLoader worker" in error and "Starting workers anew" in error
    assert "skipped, as it cannot be read:" in error and "003.png (" in error
    last = error.splitlines()[-1]
    step = read_checkpoint("run/checkpoint.pt")["step"]
    assert "100 images in a row cannot be read, the first:" in last
    assert f"the last good checkpoint is run/checkpoint.pt of step {step:,}, to resume: fastgan train" in last

    for file in (*rest, folder / "003.png", folder / "011.png"):
        (tmp_path / file.name).rename(file)
    assert main(["train", str(folder), "--out", "run", "--resume", "--steps", str(step + 5)]) == 0
    assert main(["train", str(folder), "--out", "straight", "--steps", str(killed_at), *settings]) == 0
    until = [r for r in records(run) if r["step"] <= killed_at and "quality" not in r]
    assert [r for r in records(tmp_path / "straight") if "quality" not in r] == until


def torchrun(*args, restarts=0):
    where = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *where, "-m", "fastgan", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def of_rank(process, rank):
    """The process that torchrun started as that rank."""
    for pid in workers_of(process):
        with open(f"/proc/{pid}/environ") as file:
            if f"RANK={rank}" in file.read().split("\0"):
                return pid
    raise AssertionError(f"no rank {rank} among {workers_of(process)}")


RANKED = [*SMALL[2:], "--save-every", "20", "--flip"]


@pytest.mark.slow
def test_a_killed_rank_is_restarted_from_the_last_checkpoint(tmp_path):
    """Two ranks, one writer; the numbers are those of one process that sees both batches."""
    process = torchrun("train", "digits", "--out", "run", "--steps", 120, "--batch", 16, *RANKED, restarts=1)
    wait_for(tmp_path / "run" / "checkpoint.pt", process, seconds=200)
    os.kill(of_rank(process, 1), signal.SIGKILL)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert error.count("2 processes, dcgan-r1") == 2  # rank 0 prints it at each start, rank 1 never
    (resumed_at,) = re.findall(r"step (\d+) of 120\n", error)[1:2]
    assert 20 <= int(resumed_at) < 120
    assert out.count("FD(digits-cnn)") == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["processes"] == 2
    assert [r["step"] for r in records(tmp_path / "run")] == [20, 40, 60, 80, 100, 120, 120]
    assert main(["train", "digits", "--out", "joint", "--steps", "120", "--batch", "32", *RANKED]) == 0
    for one, two in zip(records(tmp_path / "joint")[:2], records(tmp_path / "run")[:2]):
        assert two == pytest.approx(one, rel=1e-3)  # rounding errors grow in training


@pytest.mark.slow
def test_a_killed_rank_changes_nothing(tmp_path):
    arguments = ["--steps", 120, "--batch", 16, *RANKED]
    process = torchrun("train", "digits", "--out", "straight", *arguments)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    for rank in (0, 1):
        process = torchrun("train", "digits", "--out", f"killed-{rank}", *arguments, restarts=1)
        wait_for(tmp_path / f"killed-{rank}" / "checkpoint.pt", process, seconds=200)
        os.kill(of_rank(process, rank), signal.SIGKILL)
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        same_checkpoint(tmp_path / "straight", tmp_path / f"killed-{rank}")
        assert records(tmp_path / "straight") == records(tmp_path / f"killed-{rank}")


def test_ranks_refuse_together(tmp_path, capfd):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    process = torchrun("train", "digits", "--out", "full")
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0
    assert error.count("fastgan: --out: full is not empty; name another folder") == 1
    assert "]: Traceback" not in error  # of a rank; torchrun always prints its own


def test_after_a_nan_loss_the_last_good_checkpoint_is_named(tmp_path, capsys):
    data = images_file(tmp_path)
    settings = ["--out", "run", "--steps", "40", *SMALL, "--save-every", "20"]
    assert main(["train", str(data), *settings]) == 0
    # a weight that is finite, but so large that the loss is not
    checkpoint = torch.load("run/checkpoint.pt", weights_only=True)
    next(iter(checkpoint["discriminator"].values())).fill_(1e38)
    torch.save(checkpoint, "run/checkpoint.pt")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    error = refused_last(capsys, "train", data, "--out", "run", "--resume", "--steps", 80)
    assert error.startswith("fastgan: training diverged: at step 41, loss_d ")
    assert error.endswith("the last good checkpoint is run/checkpoint.pt of step 40")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_weights_with_nan_are_never_saved(tmp_path):
    from fastgan.cli.folder import RunFolder
    from fastgan.cli.loop import save
    from fastgan.data import load
    from fastgan.networks import build
    from fastgan.trainer import GANTrainer, TrainingDiverged, World

    model = GANTrainer(*build((2,), 4, 8), latent_dim=4)
    with torch.no_grad():
        next(model.discriminator.parameters())[0] = float("nan")
    with pytest.raises(TrainingDiverged, match="at step 0, a weight nan"):
        save(model, load(str(points_file(tmp_path))), RunFolder(tmp_path, None, World()))
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("what", ["(metrics.jsonl|events.out.tfevents.fastgan)", "events.out.tfevents.fastgan"])
def test_no_space_for_the_log_or_a_picture(tmp_path, what):
    """The limit of a file's size allows a few more bytes of the log; or the next log, but no picture."""
    data = images_file(tmp_path)
    assert main(["train", str(data), "--out", "run", "--steps", "40", *SMALL, "--save-every", "40"]) == 0
    run = tmp_path / "run"
    before = (run / "checkpoint.pt").read_bytes()
    limit = max((run / name).stat().st_size for name in ("metrics.jsonl", "events.out.tfevents.fastgan", "config.json"))
    limit += 60 if "metrics" in what else 2_000
    assert (run / "samples" / "step_000040.png").stat().st_size > 2_000

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = command("train", data, "--out", "run", "--resume", "--steps", 80, preexec_fn=small_disk)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert re.search(f"cannot write run/{what}.*: File too large; .* is kept; to resume:", last), last
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not list(run.rglob("*.tmp"))
    assert main(["train", str(data), "--out", "run", "--resume", "--steps", "41"]) == 0


def test_foreign_and_damaged_checkpoints(tmp_path, capsys):
    data = images_file(tmp_path)
    assert main(["train", str(data), "--out", "run", "--steps", "20", *SMALL]) == 0
    path = tmp_path / "run" / "checkpoint.pt"
    size = path.stat().st_size
    resume = ("train", data, "--out", "run", "--resume")
    torch.save({"state_dict": {"layers.0.weight": torch.zeros(3)}, "epoch": 7}, path)
    assert "checkpoint.pt: is no checkpoint of fastgan" in refused(capsys, *resume)
    path.write_bytes(random.Random(0).randbytes(size))
    assert "checkpoint.pt: is cut short or damaged" in refused(capsys, *resume)


def test_two_runs_in_one_folder_at_once(tmp_path):
    data = images_file(tmp_path)
    both = [command("train", data, "--out", "run", "--steps", 40, *SMALL) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    loser = said[0] if both[0].returncode else said[1]
    assert "run is in use by another process" in loser or "run is not empty" in loser
    assert [r["step"] for r in records(tmp_path / "run")] == [20, 40, 40]


def test_folders_taken_at_once_differ(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = [folder for folder, _ in pool.map(lambda _: next_free(tmp_path / "runs", "digits"), range(40))]
    assert len(set(found)) == 40
    assert {folder.name for folder in found} == {f"digits-{n}" for n in range(1, 41)}
