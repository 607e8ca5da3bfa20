"""`fastgan game`: what it prints and writes, exit codes, one clear line for every error."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fastgan.cli import main
from fastgan.game import training

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--steps", "30", "--batch", "32"]


@pytest.fixture(autouse=True)
def in_tmp_path_with_few_samples(tmp_path, monkeypatch):
    """Measure less often, with fewer samples: in such short runs the measurements take most of the time."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("FRAMES", 6), ("WATCHED", 1_000), ("MEASURED", 4_000)):
        monkeypatch.setattr(training, name, value)


def row(out, name):
    """(measured, theory) of a row of the table."""
    line = next(line for line in out.splitlines() if line.startswith(name))
    return line[len(name) :].split()[:2]


@pytest.mark.parametrize(
    "arguments", [["mixture"], ["ring", "--objective", "relativistic"], ["ring", "--direct"]], ids=str
)
def test_the_files_and_the_table_of_a_run(tmp_path, capsys, arguments):
    assert main(["game", *arguments, *SMALL, "--seed", "3"]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "runs" / f"game-{arguments[0]}-1"
    assert {item.name for item in folder.iterdir()} == {"game.png", "game.gif", "game.json"}
    picture = np.asarray(Image.open(folder / "game.png").convert("RGB"))
    assert picture.std() > 10 and picture.shape[1] > picture.shape[0]
    with Image.open(folder / "game.gif") as film:
        assert film.n_frames > 4 and film.info["duration"] > 0
        first = np.asarray(film.convert("RGB")).astype(int)
        film.seek(film.n_frames - 1)
        assert abs(np.asarray(film.convert("RGB")).astype(int) - first).mean() > 0.5, "nothing moves"
    assert (folder / "game.gif").stat().st_size < 400_000 and (folder / "game.png").stat().st_size < 400_000

    record = json.loads((folder / "game.json").read_text())
    final = record["final"]
    assert (record["settings"]["pair"], record["settings"]["seed"]) == (arguments[0], 3)
    assert record["history"][-1]["step"] == 30
    assert row(out, "total variation ")[0] == f"{final['total_variation']:.4f}"
    if "--direct" in arguments:
        assert "D's" not in out.replace("a fresh D's", "") and "error" not in final
    else:
        assert row(out, "D's expected absolute error") == [f"{final['error']:.4f}", "0.5000"]
        assert row(out, "D's loss") == [f"{final['loss_d']:.4f}", "0.6931"]
    if arguments == ["mixture"]:  # the next run has its own folder
        assert main(["game", *arguments, "--steps", "1", "--batch", "8"]) == 0
        assert (tmp_path / "runs" / f"game-{arguments[0]}-2" / "game.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["square"], "PAIR: got square, expected one of gaussian, mixture, ring, grid"),
        (["ring", "--objective", "ganeral"], "objective: got 'ganeral', expected one of"),
        (["ring", "--direct", "--objective", "hinge"], "--direct: means --objective mmd, and --objective hinge"),
        (["ring", "--direct", "--r1", "0.5"], "--r1: got 0.5, but MMD has no discriminator"),
        (["ring", "--bandwidths", "1,2"], "--bandwidths: is for --direct"),
        (["ring", "--direct", "--bandwidths", "1,0"], "--bandwidths: got '0', expected numbers > 0"),
        (["ring", "--steps", "0"], "--steps: got '0', expected a whole number of at least 1"),
        (["ring", "--seconds", "-1"], "--seconds: got '-1', expected a number > 0"),
        (["ring", "--lr", "nan"], "--lr: got 'nan', expected a number > 0"),
        (["ring", "--r2", "-0.1"], "--r2: got '-0.1', expected a number >= 0"),
        (["ring", "--device", "cuda:77"], "--device: got cuda:77, expected one of cpu"),
        (["ring", "--out", "taken"], "--out: taken is not empty; name another folder"),
        (["ring", "--out", "taken/file"], "--out: cannot write to taken/file"),
        ([], "PAIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("something")
    assert main(["game", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert {item.name for item in tmp_path.iterdir()} == {"taken"}, "something was left behind"


def test_divergence(capsys):
    for folder, lr in (("x", "1e30"), ("y", "1e308")):
        assert main(["game", "gaussian", "--lr", lr, *SMALL, "--out", folder]) == 1
        assert "diverged at step" in capsys.readouterr().err


def test_no_space(tmp_path, capsys, monkeypatch):
    """A file that cannot be written is named, and no partly written file remains."""

    def full(path, write):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fastgan.training.trainer.write_atomically", full)
    assert main(["game", "gaussian", *SMALL, "--out", "x"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "x").iterdir())


def test_help_names_options_and_examples(capsys):
    assert main(["game", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("gaussian", "ring", "--direct", "examples:", "1/2"):
        assert word in out
    assert main(["--help"]) == 0
    assert "game" in capsys.readouterr().out


def test_ctrl_c_keeps_the_results_so_far(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgan", "game", "gaussian", "--steps", "1000000", "--batch", "32", "--out", "x"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr.readline() == "fastgan: gaussian, nonsaturating, 1,000,000 steps on cpu\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "stopped at step" in error and "total variation" in out
    record = json.loads((tmp_path / "x" / "game.json").read_text())
    assert record["stopped"] and 0 < record["final"]["step"] < 1_000_000
