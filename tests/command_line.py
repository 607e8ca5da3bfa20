"""Run `fastgan` in this process or in another one, on small data, and compare what runs have written."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import torch

from fastgan.cli import main
from fastgan.trainer import read_checkpoint

SMALL = ["--batch", "16", "--width", "4", "--latent-dim", "4", "--save-every", "20", "--device", "cpu"]


def command(*args, **options):
    """Start `fastgan` in another process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fastgan", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def wait_for(path, process, size=1, seconds=200):
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size >= size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def records(run):
    """The records of a run's log, without those that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "images_per_s", "seconds", "seconds_left")}
        for line in lines
    ]


def same_checkpoint(a, b):
    a, b = (read_checkpoint(run / "checkpoint.pt") for run in (a, b))
    assert a["step"] == b["step"]
    for part in ("generator", "discriminator", "ema"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    for part in ("optimizer_g", "optimizer_d"):
        for i, one in a[part]["state"].items():
            assert all(torch.equal(v, b[part]["state"][i][k]) for k, v in one.items())
    assert torch.equal(a["random"], b["random"])


def points_file(tmp_path, n=200):
    points = np.random.default_rng(0).normal(size=(n, 2)) * [2.0, 0.5] + [10, 20]
    np.save(tmp_path / "points.npy", points.astype(np.float32))
    return tmp_path / "points.npy"


def images_file(tmp_path, n=60):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8))
    return tmp_path / "images.npy"


def refused(capsys, *args, code=2):
    """Run the command line, which must refuse with one line. Return the line."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def refused_last(capsys, *args):
    """Run the command line, which must fail with exit code 1. Return the last line of its errors."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]
