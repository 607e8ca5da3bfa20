"""Impossible options: values out of range, options that the run does not use, hardware that is not there. Each gives
one line that names the option, and leaves no file behind."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import SMALL, points_file, refused
from torch import nn

from fastgan.cli import main
from fastgan.networks import mlp
from fastgan.trainer import GANTrainer

pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytest.importorskip("tqdm")

MOST = 2**63 - 1


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_BACKEND", raising=False)


@pytest.fixture
def files(tmp_path):
    """List the names in the folder, without those of the data."""
    points_file(tmp_path)
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return lambda: {item.name for item in tmp_path.iterdir()} - {"points.npy", "images.npy"}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("points.npy", "--objective mmd --r1 5", "--r1: got 5.0, but MMD has no discriminator"),
        ("points.npy", "--objective mmd --r2 0.5", "--r2: got 0.5, but MMD has no discriminator"),
        ("points.npy", "--objective mmd --r1-every 4", "--r1-every: got 4, but neither r1 nor r2 is more than 0"),
        ("points.npy", "--objective mmd --step one-stage", "--step: got one-stage, but MMD has no discriminator"),
        ("points.npy", "--objective mmd --accumulate 2", "--accumulate: got 2, expected 1 for 'mmd'"),
        ("points.npy", "--r1 0 --r1-every 4", "--r1-every: got 4, but neither r1 nor r2 is more than 0"),
        ("images.npy", "--recipe dcgan --r1-every 4", "--r1-every: got 4, but neither r1 nor r2 is more than 0"),
        ("images.npy", "--workers 2", "--workers: got 2, but images.npy is held in memory"),
        ("images.npy", "--capture", "--capture: got True, but CUDA graphs are for GPUs"),
        ("images.npy", "--features a --inception b", "--features: got a, but --inception names"),
        ("points.npy", "--features a.pt", "--features: got a.pt, but points.npy holds points"),
        ("points.npy", "--inception a.pt", "--inception: got a.pt, but points.npy holds points"),
        ("points.npy", "--flip", "--flip: points.npy holds points"),
        ("points.npy", "--size 8", "--size: got 8, but points.npy holds points"),
        ("points.npy", "--stream", "--stream: points.npy is held in memory"),
        ("points.npy", "--recipe dcgan", "--recipe: got dcgan, expected one of points"),
        ("images.npy", "--recipe points", "--recipe: got points, expected one of dcgan-r1"),
        ("digits", "--metrics-samples 100", "--metrics-samples: got 100, but all held-out digits are compared"),
    ],
)
def test_options_that_the_run_does_not_use(files, capsys, data, options, message):
    assert message in refused(capsys, "train", data, *SMALL, *options.split())
    assert not files()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--accumulate 17 --batch 16", "--accumulate: got 17, but a batch has 16 samples"),
        ("--width 65537", "argument --width: got '65537', expected a whole number of at most 65536"),
        (f"--width {10**30}", "expected a whole number of at most 65536"),
        (f"--latent-dim {MOST}", f"argument --latent-dim: got '{MOST}', expected a whole number of at most 1048576"),
        ("--latent-dim 1048576 --width 65536", "--latent-dim: got 1048576, which takes "),
        (f"--seed {2**63}", f"argument --seed: got '{2**63}', expected a whole number of at most {MOST}"),
        (f"--threads {MOST}", "expected a whole number of at most 1024"),
        ("--workers 257", "expected a whole number of at most 256"),
        ("--lr inf", "--lr: got inf, expected a finite number > 0"),
        ("--r1 1e999", "--r1: got inf, expected a finite number >= 0"),
        ("--device cuda:99999999999999999999", "--device: got cuda:99999999999999999999, expected one of cpu"),
        ("--device cpu:3", "--device: got cpu:3, expected one of cpu"),
        ("--out=", "--out: got '', expected a folder"),
        ("--out= --resume", "--out: got '', expected a folder"),
        ("--nonsense\x1b[2J\nmore", "unrecognized arguments: --nonsense\\x1b[2J"),
    ],
)
def test_values_out_of_range(files, capsys, options, message):
    assert message in refused(capsys, "train", "points.npy", *SMALL, *options.split(" "))
    assert not files()


@pytest.mark.parametrize("option", [f"--seed={MOST}", "--out=run\udcff\n", "--no-capture"])
def test_unusual_but_valid_values(files, option):
    assert main(["train", "points.npy", *SMALL, "--steps", "1", option]) == 0
    assert len(files()) == 1


def test_a_stream_takes_the_largest_seed(tmp_path, files):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.load("images.npy")):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    stream = ["--size", "8", "--stream", "--workers", "0", "--seed", str(MOST)]
    assert main(["train", "photos", *SMALL, "--steps", "1", "--out", "run", *stream]) == 0


def test_mmd_records_no_penalty_of_a_discriminator(files):
    """The recipe has r1 = 0.1. The run, its record and the resumed run have none."""
    mmd = ["train", "points.npy", "--out", "run", *SMALL]
    assert main([*mmd, "--steps", "2", "--objective", "mmd", "--r1", "0"]) == 0
    for steps in (2, 4):
        with open("run/config.json") as file:
            settings = json.load(file)["settings"]
        assert (settings["objective"], settings["r1"], settings["r2"], settings["steps"]) == ("mmd", 0, 0, steps)
        assert main(["train", "points.npy", "--out", "run", "--resume", "--steps", "4"]) == 0
    with open("run/config.json") as file:
        config = json.load(file)
    config["settings"]["r1"] = 5.0  # as earlier versions recorded it
    with open("run/config.json", "w") as file:
        json.dump(config, file)
    assert main(["train", "points.npy", "--out", "run", "--resume", "--steps", "5"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "mmd", "r1": 0.5}, "r1: got 0.5, but MMD has no discriminator"),
        ({"objective": "mmd", "r2": 0.5}, "r2: got 0.5, but MMD"),
        ({"objective": "mmd", "weight": 1.0}, "weight: got 1.0, but MMD"),
        ({"objective": "mmd", "step": "one-stage"}, "step: got one-stage, but MMD"),
        ({"objective": "mmd", "redraw": False}, "redraw: got False, but MMD"),
        ({"objective": "mmd", "concatenate": True}, "concatenate: got True, but MMD"),
        ({"r1": 0.0, "r1_every": 4}, "r1_every: got 4, but neither r1 nor r2"),
        ({"objective": "hinge", "bandwidths": [1.0]}, "bandwidths: got .* but objective 'hinge' has no kernel"),
    ],
)
def test_the_trainer_refuses_settings_that_it_does_not_use(settings, message):
    with pytest.raises(ValueError, match=message):
        GANTrainer(nn.Linear(4, 2), None if settings.get("objective") == "mmd" else mlp(2, 1, 8, 1), **settings)


def test_the_trainer_has_a_penalty_only_with_a_discriminator():
    assert GANTrainer(nn.Linear(4, 2), mlp(2, 1, 8, 1), latent_dim=4, device="cpu").settings["r1"] == 0.5
    assert GANTrainer(nn.Linear(4, 2), None, latent_dim=4, objective="mmd", device="cpu").settings["r1"] == 0


@pytest.mark.parametrize("arguments", [["train", "points.npy", *SMALL], ["game", "ring", "--out", "run"], ["doctor"]])
def test_an_unknown_backend(files, capsys, monkeypatch, arguments):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "cuda")  # as FASTGAN_BACKEND=cuda leaves it
    assert "FASTGAN_BACKEND: got 'cuda', expected 'triton' or 'torch'" in refused(capsys, *arguments)
    assert not files()


@pytest.mark.parametrize("arguments", [["train", "points.npy", *SMALL], ["game", "ring", "--out", "run"]])
def test_a_backend_that_does_not_run_here(files, capsys, monkeypatch, arguments):
    from fastgan import kernels

    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "triton")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    assert "FASTGAN_BACKEND: got 'triton' for tensors on cpu" in refused(capsys, *arguments)
    assert not files()


def test_doctor_reports_a_backend_that_does_not_run_here(capsys, monkeypatch):
    from fastgan import kernels

    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "triton")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    assert main(["doctor"]) == 1
    assert "FASTGAN_BACKEND: got 'triton' for tensors on cpu" in capsys.readouterr().out


def test_more_threads_than_cores(files, capsys):
    assert main(["train", "points.npy", *SMALL, "--steps", "1", "--threads", "999"]) == 0
    said = capsys.readouterr().err
    assert "--threads: got 999, but there are" in said and "slower" in said
    torch.set_num_threads(1)
    assert main(["train", "points.npy", *SMALL, "--steps", "1", "--threads", "1"]) == 0
    assert "--threads" not in capsys.readouterr().err


def test_a_game_that_is_refused_leaves_nothing(files, capsys):
    for options, message in [
        (["--batch", str(2**31)], f"--batch: got {2**31}, which takes "),
        (["--direct", "--r2", "0.5"], "--r2: got 0.5, but MMD has no discriminator"),
        (["--direct", "--bandwidths", "1,1e-320"], "--bandwidths: got 1e-320, expected numbers from 1e-18 to 1e18"),
        (["--out", ""], "--out: got '', expected a folder"),
        (["--threads", "1025"], "expected a whole number of at most 1024"),
    ]:
        assert message in refused(capsys, "game", "ring", *options)
        assert not files()


def test_sample_names_wrong_arguments(files, capsys):
    assert main(["train", "points.npy", *SMALL, "--steps", "1", "--out", "run"]) == 0
    for arguments, message in [
        (["run/checkpoint.pt"], "run/checkpoint.pt is a file, expected the run's folder: run"),
        (["run", "--out", ""], "--out: got ., expected a name that ends in .png or .npz"),
        (["run", "--count", str(MOST), "--out", "a.npz"], f"--count: got {MOST}, which takes "),
        (["run", "--seed", str(2**64)], "argument --seed: got"),
    ]:
        assert message in refused(capsys, "sample", *arguments)
    assert "it is a file, expected the run's folder: run" in refused(
        capsys, "train", "points.npy", "--resume", "--out", "run/checkpoint.pt"
    )
    assert files() == {"run"}
    shutil.rmtree("run/samples")  # as in a copy of a run without its samples
    assert main(["sample", "run", "--count", "3"]) == 0


def test_help_in_an_ascii_terminal(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["train", "--help"]) == 0
    assert b"Fr\\xe9chet" in out.buffer.getvalue()


def test_a_closed_output_pipe_gives_one_line():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgan", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=300) == 1
    assert error == "fastgan: the output pipe was closed\n"
