"""The command line: results, exit codes, and one clear line for every error."""

import importlib.metadata
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import SMALL, command, points_file, records, refused, refused_last, same_checkpoint, wait_for

from fastgan.cli import main
from fastgan.trainer import read_checkpoint

# Packages of the extra `train`; a machine that only measures kernels may lack them.
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytest.importorskip("tqdm")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_BACKEND", raising=False)
    yield
    torch.set_num_threads(threads)


def test_train_points_sample_and_resume(tmp_path, capsys):
    """One run from the beginning to the end, and every file that it writes."""
    points = points_file(tmp_path)
    assert main(["train", str(points), "--steps", "60", *SMALL]) == 0
    assert "coverage 0." in capsys.readouterr().out
    run = tmp_path / "runs" / "points-1"
    names = {item.relative_to(run).as_posix() for item in run.rglob("*")}
    assert names == {
        ".lock", "config.json", "metrics.jsonl", "events.out.tfevents.fastgan", "checkpoint.pt", "curves.png",
        "quality.png", "training.gif", "samples", "samples/step_000000.png", "samples/step_000020.png",
        "samples/step_000040.png", "samples/step_000060.png",
    }  # fmt: skip
    for picture in run.rglob("*.png"):
        assert np.asarray(Image.open(picture)).std() > 0
    assert [(r["step"], "quality" in r) for r in records(run)] == [
        (step, quality) for step in (20, 40, 60) for quality in (False, True)
    ]
    assert set(records(run)[-1]["quality"]) == {
        *("precision", "recall", "density", "coverage", "fd_points", "kd_points", "samples")
    }
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["batch"] == 16
    assert config["data"]["count"] == 200

    assert main(["sample", str(run), "--count", "30", "--seed", "5", "--out", "a.npz"]) == 0
    assert main(["sample", str(run), "--count", "30", "--seed", "5", "--out", "b.npz"]) == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert a["points"].shape == (30, 2)
        assert np.array_equal(a["points"], b["points"])
        assert abs(a["points"].mean(0) - [10, 20]).max() < 5  # in the file's units

    # 60 steps and 40 after a resume are 100 steps
    assert main(["train", str(points), "--steps", "100", "--out", str(run), "--resume"]) == 0
    straight = tmp_path / "straight"
    assert main(["train", str(points), "--steps", "100", "--out", str(straight), *SMALL]) == 0
    same_checkpoint(run, straight)
    assert records(run) == records(straight)
    # resuming a finished run only prints its result again
    said = capsys.readouterr().out.splitlines()[-1].partition(": ")[2]
    assert main(["train", str(points), "--out", str(run), "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].partition(": ")[2] == said
    same_checkpoint(run, straight)
    assert records(run) == records(straight)


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points = points_file(tmp_path)
    assert main(["train", str(points), "--steps", "40", "--out", "run", *SMALL]) == 0
    assert main(["train", str(points), "--steps", "80", "--out", "run", "--resume"]) == 0
    events = EventAccumulator("run").Reload()
    assert [e.step for e in events.Scalars("train/loss_d")] == [20, 40, 60, 80]
    logged = [r["loss_d"] for r in records(tmp_path / "run") if "quality" not in r]
    assert [e.value for e in events.Scalars("train/loss_d")] == pytest.approx(logged, rel=1e-6)
    assert 0 <= events.Scalars("quality/coverage")[-1].value <= 1


def test_images_from_a_folder_and_back(tmp_path, capsys):
    """Colour images, one broken file, and samples that are used as data."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 20, 24, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    assert main(["train", str(folder), "--size", "16", "--steps", "20", "--out", "run", *SMALL]) == 0
    said = capsys.readouterr()
    assert "left out, as it cannot be read:" in said.err
    assert "05.png" in said.err
    assert "19 samples of shape (3, 16, 16)" in said.err
    assert main(["sample", "run", "--count", "17", "--out", "images.npz"]) == 0
    with np.load("images.npz") as content:
        assert content.files == ["images"]
        assert content["images"].shape == (17, 16, 16, 3)
        assert content["images"].dtype == np.uint8
    assert main(["sample", "run", "--count", "5"]) == 0
    assert Image.open("run/samples/seed_0.png").mode == "RGB"
    assert main(["train", "images.npz", "--steps", "5", "--out", "again", *SMALL]) == 0


def test_killed_at_any_moment_then_resumed_is_exact(tmp_path):
    points = points_file(tmp_path)
    settings = ["--steps", "400", *SMALL, "--save-every", "80"]
    assert main(["train", str(points), "--out", "straight", *settings]) == 0
    process = command("train", points, "--out", "killed", *settings)
    wait_for(tmp_path / "killed" / "checkpoint.pt", process)
    time.sleep(0.3)
    process.kill()
    process.wait()
    step = read_checkpoint("killed/checkpoint.pt")["step"]
    assert step % 80 == 0
    # as a kill in the middle of writing would leave it
    with open("killed/metrics.jsonl", "ab") as file:
        file.write(b'{"step": 9999, "loss_')
    (tmp_path / "killed" / ".checkpoint.pt.1.tmp").write_bytes(b"half")
    assert main(["train", str(points), "--out", "killed", "--resume"]) == 0
    same_checkpoint(tmp_path / "straight", tmp_path / "killed")
    assert records(tmp_path / "killed") == records(tmp_path / "straight")
    assert not list((tmp_path / "killed").glob(".*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_stopped_by_a_signal(tmp_path, number, code):
    points = points_file(tmp_path)
    process = command("train", points, "--steps", 1_000_000, "--out", "run", *SMALL)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    step = read_checkpoint("run/checkpoint.pt")["step"]
    assert f"stopped and saved at step {step:,}" in last
    assert last.endswith(f"fastgan train {points} --out run --resume")
    assert records(tmp_path / "run")[-1]["step"] == step // 20 * 20
    assert main(["train", str(points), "--out", "run", "--resume", "--steps", str(step + 7)]) == 0
    assert read_checkpoint("run/checkpoint.pt")["step"] == step + 7


def test_one_process_at_a_time(tmp_path, capsys):
    points = points_file(tmp_path)
    process = command("train", points, "--steps", 1_000_000, "--out", "run", *SMALL)
    try:
        wait_for(tmp_path / "run" / "checkpoint.pt", process)
        assert "run is in use by another process" in refused(capsys, "train", points, "--out", "run", "--resume")
        assert "run is in use by another process" in refused(capsys, "train", points, "--out", "run")
    finally:
        process.kill()
        process.communicate()
    assert "run is not empty; add --resume" in refused(capsys, "train", points, "--out", "run")
    assert read_checkpoint("run/checkpoint.pt")["step"] >= 20


def test_no_space_for_a_checkpoint(tmp_path):
    """A file may have half the size of a checkpoint, so that none can be written."""
    points = points_file(tmp_path)
    assert main(["train", str(points), "--steps", "20", "--out", "run", *SMALL]) == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    limit = len(before) // 2

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = command("train", points, "--out", "run", "--resume", "--steps", 60, preexec_fn=small_disk)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert "cannot write run/" in error.splitlines()[-1]
    assert "what was saved before is kept; to resume: fastgan train" in error.splitlines()[-1]
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert main(["train", str(points), "--out", "run", "--resume"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_full_disk(tmp_path):
    points, disk = points_file(tmp_path), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        process = command("train", points, "--steps", 4000, "--out", disk / "run", *SMALL)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 1, error
        assert "Traceback" not in error
        assert "No space left on device" in error.splitlines()[-1]
        assert read_checkpoint(disk / "run" / "checkpoint.pt")["step"] >= 20
    finally:
        subprocess.run(["umount", disk], check=True)


def test_bad_arguments(tmp_path, capsys):
    points = points_file(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("years of work")
    for args, message in [
        (("--steps", 0), "argument --steps: got '0', expected a whole number of at least 1"),
        (("--steps", "many"), "argument --steps: got 'many'"),
        (("--batch", 0), "argument --batch: got '0'"),
        (("--batch", 201), f"--batch: got 201, but {points} has 200 samples"),
        (("--size", 8), "--size: got 8, but"),
        (("--objective", "hinge-ish"), "objective: got 'hinge-ish', did you mean 'hinge'? expected"),
        (("--lr", -1), "lr: got -1.0, expected a finite number > 0"),
        (("--r1", "nan"), "r1: got nan"),
        (("--seed", -1), "argument --seed: got '-1'"),
        (("--device", "tpu9"), "--device: got tpu9, expected one of cpu"),
        (("--device", "cuda:63"), "--device: got cuda:63, expected one of cpu"),
        (("--out", "file/run"), "--out: cannot write to file/run: Not a directory"),
        (("--out", "file"), "--out: cannot write to file: "),
        (("--out", "full"), "--out: full is not empty; name another folder"),
        (("--resume",), "--resume: needs --out"),
        (("--resume", "--out", "nowhere"), "--out: nowhere holds no run to resume"),
        (("--resume", "--out", "empty"), "--out: empty holds no run to resume"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ]:
        assert message in refused(capsys, "train", points, *args), args
    assert "DATA: nowhere does not exist" in refused(capsys, "train", "nowhere")
    assert "DATA: empty holds no image" in refused(capsys, "train", "empty")
    assert "--size: got 20, expected one of 8, 16" in refused(capsys, "train", "digits", "--size", 20)
    assert "train | sample | export | game | doctor" in refused(capsys)
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "empty",
        "file",
        "full",
        "points.npy",
    ]  # no other file
    assert [item.name for item in full.iterdir() if item.name != ".lock"] == ["thesis.txt"]


def test_resume_with_changed_settings_or_damaged_files(tmp_path, capsys):
    points = points_file(tmp_path)
    assert main(["train", str(points), "--steps", "20", "--out", "run", *SMALL]) == 0
    resume = ("--out", "run", "--resume")
    for args, message in [
        (("--batch", 32), "--batch: got 32, but run was started with 16"),
        (("--seed", 3), "--seed: got 3, but run was started with 0"),
        (("--objective", "minimax"), "--objective: got minimax, but run was started with nonsaturating"),
        (("--latent-dim", 5), "--latent-dim: got 5, but run was started with 4"),
        (("--steps", 10), "--steps: got 10, but run is at step 20 already"),
    ]:
        assert message in refused(capsys, "train", points, *resume, *args), args
    other = np.load(points)
    other[0] += 1
    np.save("other.npy", other)
    assert "DATA: other.npy (200 samples) is not the data" in refused(capsys, "train", "other.npy", *resume)

    checkpoint, config = tmp_path / "run" / "checkpoint.pt", tmp_path / "run" / "config.json"
    whole, settings = checkpoint.read_bytes(), config.read_text()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.pt: is cut short or damaged" in refused(capsys, "train", points, *resume)
    assert "checkpoint.pt: is cut short or damaged" in refused(capsys, "sample", "run")
    assert checkpoint.read_bytes() == whole[: len(whole) // 2]
    checkpoint.write_bytes(whole)
    config.write_text(settings.replace('"width": 4', '"width": 6'))
    assert "is of another generator" in refused(capsys, "train", points, *resume)
    assert "is of another generator" in refused(capsys, "sample", "run")
    config.write_text(settings[:50])
    assert "config.json is damaged" in refused(capsys, "train", points, *resume)
    assert "config.json is damaged" in refused(capsys, "sample", "run")


def test_bad_sample_arguments(tmp_path, capsys):
    points = points_file(tmp_path)
    assert main(["train", str(points), "--steps", "1", "--out", "run", *SMALL]) == 0
    for args, message in [
        (("nowhere",), "nowhere holds no run"),
        (("run", "--count", 0), "argument --count: got '0'"),
        (("run", "--count", 20000), "--count: got 20000, expected at most 10000"),
        (("run", "--out", "a.jpg"), "--out: got a.jpg, expected a name that ends in .png or .npz"),
        (("run", "--out", "no/a.png"), "--out: the folder no does not exist"),
    ]:
        assert message in refused(capsys, "sample", *args), args


def test_a_run_that_diverges_stops(tmp_path, capsys):
    points = points_file(tmp_path)
    message = refused_last(capsys, "train", points, "--steps", "400", "--lr", "1e30", "--out", "run", *SMALL)
    assert message.startswith("fastgan: training diverged: at step 1, loss_g nan")
    assert message.endswith("; no checkpoint was written yet")


def test_code_of_the_user_that_exits_with_a_message(monkeypatch):
    """`main` returns numbers only: sys.exit("a message") in the user's networks passes through it."""
    monkeypatch.setattr("fastgan.cli.train.run_steps", lambda *of: sys.exit("enough"))
    with pytest.raises(SystemExit, match="enough"):
        main(["train", "ring", *SMALL])


def test_help_shows_an_example(capsys):
    for args in (["--help"], ["train", "--help"], ["sample", "--help"], ["doctor", "--help"]):
        assert main(args) == 0
        said = capsys.readouterr().out
        assert "fastgan" in said
    assert main(["train", "--help"]) == 0
    assert "fastgan train digits" in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "all well" in said
    assert said.count("worst relative error") >= 3
    for package in ("torchmetrics", "datasets"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        assert f"{package} {version}: " in said


@pytest.mark.gpu
def test_doctor_tries_a_cuda_graph(capsys):
    assert main(["doctor"]) == 0
    assert "the step in one CUDA graph" in capsys.readouterr().out


def test_doctor_finds_a_wrong_gradient(capsys, monkeypatch):
    import fastgan

    right = fastgan.discriminator_value_and_grad

    def wrong(*args, **options):
        out = right(*args, **options)
        out.grads[1].mul_(1 + 1e-3)
        return out

    monkeypatch.setattr(fastgan, "discriminator_value_and_grad", wrong)
    assert main(["doctor"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "coverage"), [("dcgan-r1", 0.85), ("r3gan", 0.8), ("dcgan", 0.7)])
def test_digits_reach_the_promised_coverage(tmp_path, recipe, coverage):
    """README promises ten classes and a coverage of at least 0.85, in about two minutes on two cores. The other
    recipes take longer; the paper's has no penalty, and less variety."""
    process = command("train", "digits", "--recipe", recipe, "--out", "run", "--device", "cpu")
    out, error = process.communicate(timeout=3600)
    assert process.returncode == 0, error
    quality = records(tmp_path / "run")[-1]["quality"]
    assert quality["classes"] == 10
    assert quality["coverage"] >= coverage
    assert "10 of 10 classes" in out
