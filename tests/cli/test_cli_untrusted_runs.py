"""Run folders from others, or damaged ones: they run no code, read and write no file outside, and cause no
traceback."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import SMALL, points_file, records, refused
from torch import nn

from fastgan.cli import main

pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytest.importorskip("tqdm")

RESUME = ("train", "points.npy", "--out", "run", "--resume", "--steps", "4")
SAMPLE = ("sample", "run", "--count", "3", "--out", "samples.npz")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data, run = points_file(folder), folder / "run"
    assert main(["train", str(data), "--steps", "2", "--out", str(run), *SMALL]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


class Writer(nn.Module):
    """Code in a file of a network: it writes another file."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.flatten(1).float()
        torch.ops.aten.save(features, "victim.txt")
        return features


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["features", "inception"])
def test_a_run_folder_runs_no_code(tmp_path, capsys, name):
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    torch.jit.script(Writer()).save("code.pt")
    run = ["train", "images.npy", "--out", "run"]
    assert main([*run, "--steps", "1", *SMALL]) == 0
    change(tmp_path / "run", "settings", name, "code.pt")
    (tmp_path / "victim.txt").write_text("years of work")
    assert main([*run, "--resume", "--steps", "2"]) == 0
    assert (tmp_path / "victim.txt").read_text() == "years of work"
    assert "fd_random_cnn" in records(tmp_path / "run")[-1]["quality"]
    if name == "features":  # the command line may name such a file
        assert f"scored with --{name}, a file that runs code" in capsys.readouterr().err
        assert main([*run, "--resume", "--steps", "3", "--features", "code.pt"]) == 0
        assert "fd_code" in records(tmp_path / "run")[-1]["quality"]
        assert (tmp_path / "victim.txt").read_bytes() != b"years of work"


def change(run, part, name, value):
    config = json.loads((run / "config.json").read_text())
    config[part][name] = value
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", [".lock", "config.json", "metrics.jsonl", "checkpoint.pt", "samples"])
def test_a_run_folder_that_links_elsewhere(run, tmp_path, capsys, name):
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir()) if name == "samples" else elsewhere.read_bytes()
    assert f"run/{name} is a link, expected a" in refused(capsys, *RESUME)
    if name == "samples":
        assert "run/samples is a link, expected a folder" in refused(capsys, "sample", "run")
    assert before == (sorted(elsewhere.iterdir()) if name == "samples" else elsewhere.read_bytes())


def test_a_lock_that_links_elsewhere_makes_no_file(tmp_path, capsys):
    points_file(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    assert "--out: cannot write to run: its .lock is a link" in refused(capsys, *RESUME[:4])
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("part", "name", "values"),
    [
        ("settings", "width", [0, 10**40, 1.5, True, None, "16", [16]]),
        ("settings", "latent_dim", [-1, float("nan"), {"a": 1}]),
        ("settings", "networks", ["transformer", 3, ["mlp"]]),
        ("settings", "objective", ["os.system", None]),
        ("settings", "betas", [[0.0], [0.5, 1.0], "ab", [0.5, float("inf")]]),
        ("settings", "lr", [0, float("inf"), 10**400, "1"]),
        ("settings", "workers", [10**6]),
        ("settings", "threads", [10**6]),
        ("settings", "device", ["cuda:77", 1]),
        ("settings", "steps", ["many", 0]),
        ("data", "sample_shape", [[], [2.5], [3, 8, 16], [1, 9, 9], [10**30], "ab", [[2]]]),
        ("data", "mean", [None, [1.0], [float("nan"), 0.0], ["a", "b"]]),
        ("data", "scale", [None, 0, -1.0, "1", float("inf")]),
        ("data", "fingerprint", [None, 5]),
        ("data", "source", [5]),
    ],
)
def test_values_in_config_json(run, capsys, part, name, values):
    whole = (run / "config.json").read_bytes()
    for value in values:
        change(run, part, name, value)
        for arguments in (RESUME, SAMPLE):
            assert "run/config.json is damaged or no config of a run (" in refused(capsys, *arguments)
        (run / "config.json").write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '"x"', "{}", '{"settings": 1, "data": 2}', "[" * 100_000, '{"a":' * 50_000, "\xff"],
    ids=len,
)
def test_content_that_is_no_config_json(run, capsys, text):
    (run / "config.json").write_text(text, encoding="latin1")
    for arguments in (RESUME, SAMPLE):
        assert "run/config.json is damaged or no config of a run (" in refused(capsys, *arguments)


def test_escape_codes_in_config_json_are_not_printed(run, capsys):
    change(run, "data", "source", "\x1b[2Jall well")
    change(run, "data", "fingerprint", "other")
    error = refused(capsys, *RESUME)
    assert "\\x1b[2Jall well" in error and "\x1b" not in error


def test_settings_that_the_checkpoint_was_not_trained_with(run, capsys):
    change(run, "settings", "width", 65536)
    for arguments in (RESUME, SAMPLE):
        said = refused(capsys, *arguments)
        assert "is of another generator" in said or "--width: got 65536, which takes" in said


LINES = [
    b"null", b"[]", b"7", b"{}", b'{"step": "1"}', b'{"step": 1}', b"\xff\xfe",
    b'{"step": 1, "loss_g": "low", "time": 1}', b'{"step": 1, "quality": 3, "time": 1}',
    b'{"step": 1, "quality": {"coverage": null, "samples": 1}, "time": 1}',
    b'{"step": 2, "quality": {"coverage": 1, "samples": 5, "modes": 3}, "time": 1}', b"[" * 100_000,
    b'{"step": 1, "loss_g": ' + b"9" * 3000 + b', "time": 1}', b'{"step": 1, "loss_g": 1, "\\ud800": 1, "time": 1}',
    b'{"step": 99999999999999999999, "loss_g": 1, "time": 1}', b'{"step": true, "loss_g": 1, "time": 1}',
]  # fmt: skip


def test_broken_lines_in_the_log(run, capsys):
    """They are skipped and counted, except a last line that was cut short."""
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"\n".join([*LINES, whole]) + b'{"step": 2, "lo')
    assert main(list(RESUME)) == 0
    assert f"run/metrics.jsonl: {len(LINES)} of its lines are no records of a run" in capsys.readouterr().err
    assert [(r["step"], "quality" in r) for r in records(run)] == [(2, False), (2, True), (4, False), (4, True)]


def test_records_of_other_versions_are_drawn(run):
    (run / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss_g": 1e308, "time": 1}\n{"step": 2, "quality": {"coverage": NaN, "samples": 1}, "time": 1}\n'
    )
    assert main(list(RESUME)) == 0
    assert (run / "curves.png").stat().st_size > 1000


def test_resume_without_a_checkpoint_changes_nothing(run, capsys):
    (run / "checkpoint.pt").unlink()
    log = (run / "metrics.jsonl").read_bytes()
    assert "run/checkpoint.pt: there is no such checkpoint to resume from" in refused(capsys, *RESUME)
    assert (run / "metrics.jsonl").read_bytes() == log


def test_a_refused_resume_changes_nothing(run, capsys):
    (run / ".left.1.tmp").write_bytes(b"half")
    before = {item: item.read_bytes() for item in run.rglob("*") if item.is_file()}
    assert "--batch: got 32, but run was started with 16" in refused(capsys, *RESUME, "--batch", 32)
    assert before == {item: item.read_bytes() for item in run.rglob("*") if item.is_file()}


def nan(value):
    return torch.full_like(value, torch.nan)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (nan, "holds NaN or infinity"),
        (lambda value: value.to(torch.complex64), "is torch.complex64 in it, expected torch.float32"),
        (lambda value: value.int(), "is torch.int32 in it, expected torch.float32"),
        (lambda value: torch.zeros(1).expand(value.shape), "has more elements than the file holds"),
        (lambda value: value.to_sparse(), "is of another generator"),
        (lambda value: value.to("meta"), "is damaged"),
    ],
)
def test_weights_that_cannot_be_used(run, capsys, changed, message):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    name = next(iter(checkpoint["ema"]))
    checkpoint["ema"][name] = changed(checkpoint["ema"][name])
    torch.save(checkpoint, run / "checkpoint.pt")
    assert message in refused(capsys, *SAMPLE)
