"""The generator of a run: loaded, exported, used without fastgan, and in the format of the Hugging Face hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from command_line import points_file, refused

import fastgan
from fastgan import models
from fastgan.cli import main
from fastgan.cli.export import FORMATS
from fastgan.data import to_points
from fastgan.training import export
from fastgan.training.generator import TrainedGenerator

for package in ("PIL", "sklearn", "matplotlib", "tensorboard", "tqdm"):
    pytest.importorskip(package)

SMALL = ["--batch", "16", "--width", "4", "--latent-dim", "3", "--device", "cpu", "--metrics-samples", "16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("trained"), torch.get_num_threads()
    points = points_file(folder)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "pictures.npy", pictures)
    for name, data in (("points", points), ("pictures", folder / "pictures.npy")):
        assert main(["train", str(data), "--steps", "3", "--out", str(folder / name), *SMALL]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained / "points", tmp_path / "points"))


@pytest.mark.parametrize("name, shape", [("points", (2,)), ("pictures", (3, 8, 8))])
def test_load_gives_what_sample_draws(trained, tmp_path, name, shape):
    before = torch.get_rng_state()
    generator = fastgan.load(trained / name)
    assert torch.equal(before, torch.get_rng_state()), "no random number of the caller's is used"
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())
    assert (generator.latent_dim, generator.sample_shape, generator.step) == (3, shape, 3)
    samples = generator.sample(20, seed=5)
    assert samples.shape == (20, *shape) and torch.equal(samples, generator.sample(20, 5, batch=20))
    assert not torch.equal(samples, generator.sample(20, seed=6))
    assert main(["sample", str(trained / name), "--count", "20", "--seed", "5", "--out", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as drawn:
        if name == "points":
            assert np.array_equal(drawn["points"], samples.numpy())
            assert abs(drawn["points"].mean(0) - [10, 20]).max() < 9, "in the units of the file"
        else:
            assert np.array_equal(drawn["images"], fastgan.data.to_uint8(samples).permute(0, 2, 3, 1).numpy())


def test_the_loaded_generator_has_the_averaged_weights(run):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    data = json.loads((run / "config.json").read_text())["data"]
    network, _ = models.build((2,), 3, 4)
    z = torch.randn(5, 3)
    with torch.no_grad():
        for part, same in (("ema", True), ("generator", False)):
            network.load_state_dict(checkpoint[part])
            expected = to_points(network(z), torch.tensor(data["mean"]), data["scale"])
            assert torch.equal(fastgan.load(run)(z), expected) is same


def test_load_names_what_is_wrong(run, tmp_path):
    with pytest.raises(ValueError, match="nothing holds no run"):
        fastgan.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"checkpoint.pt is a file, expected the run's folder"):
        fastgan.load(run / "checkpoint.pt")
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short or damaged"):
        fastgan.load(run)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_run_of_others_runs_no_code(run, tmp_path, capsys):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "ema": Bomb(str(tmp_path / "ran"))}, run / "checkpoint.pt")
    with pytest.raises(ValueError, match="damaged"):
        fastgan.load(run)
    assert "damaged" in refused(capsys, "export", run, "--format", "pt2")
    assert not (tmp_path / "ran").exists() and not (run / "generator.pt2").exists()


NEEDS = {"onnx": "onnxruntime"}  # to read the file


@pytest.mark.parametrize("form", export.SUFFIXES)
def test_the_lines_printed_by_export_load_the_file_without_fastgan(trained, tmp_path, capsys, form):
    for package in (*export.PACKAGES[form], NEEDS.get(form, "torch")):
        pytest.importorskip(package)
    name = "pictures" if form == "onnx" else "points"  # test_the_example exports points to onnx
    path = tmp_path / f"it's{export.SUFFIXES[form]}"
    assert main(["export", str(trained / name), "--format", form, "--out", str(path)]) == 0
    said = capsys.readouterr()
    assert not said.err
    first, *lines = said.out.splitlines()
    assert str(path) in first and [p.name for p in tmp_path.iterdir()] == [path.name], "nothing beside it"
    generator = fastgan.load(trained / name)
    scope = {"network": generator.network}
    if form == "safetensors":
        scope["network"] = models.build(generator.sample_shape, 3, 4)[0].eval()
    torch.manual_seed(0)
    code = "\n".join(line.strip() for line in lines)
    exec(code, scope)
    if form == "safetensors":
        z = torch.randn(16, 3)
        scope["samples"] = scope["network"](z).detach()
        expected = generator.network(z)
    else:
        assert len(scope["samples"]) == 16, "another batch than the one it was exported with"
        torch.manual_seed(0)
        z = torch.from_numpy(scope["z"]) if form == "onnx" else torch.randn(16, 3)
        expected = generator(z)
    torch.testing.assert_close(torch.as_tensor(scope["samples"]), expected, rtol=1e-5, atol=1e-5)


def test_export_refuses(run, capsys, monkeypatch):
    assert set(FORMATS) == set(export.SUFFIXES) == set(export.PACKAGES) == set(export.LOADING)
    assert "--format" in refused(capsys, "export", run)
    assert "no/such" in refused(capsys, "export", run, "--format", "pt2", "--out", "no/such/file")
    assert "is a folder" in refused(capsys, "export", run, "--format", "pt2", "--out", run)
    assert "holds no run" in refused(capsys, "export", run / "samples", "--format", "pt2")
    monkeypatch.setitem(export.PACKAGES, "onnx", ("no_such_package",))
    assert "pip install 'fastgan[export]'" in refused(capsys, "export", run, "--format", "onnx")
    with pytest.raises(ValueError, match="format: got 'tflite', expected one of 'safetensors'"):
        export.export(fastgan.load(run), run / "x", "tflite")


def test_a_failed_export_leaves_the_old_file(run, monkeypatch):
    path, generator = run / "generator.pt2", fastgan.load(run)
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"cannot write .*generator.pt2"):
        export.export(generator, path, "pt2")
    assert path.read_text() == "old" and not list(run.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["points", "pictures"])
def test_to_a_folder_of_the_hub_and_back(trained, tmp_path, name):
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    generator = fastgan.load(trained / name)
    generator.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    back = fastgan.TrainedGenerator.from_pretrained(tmp_path)
    assert isinstance(back, TrainedGenerator) and not back.training and back.step == 3
    assert torch.equal(generator.sample(9, seed=1), back.sample(9, seed=1))
    config = json.loads((tmp_path / "config.json").read_text())
    for setting, value in (("width", 5), ("width", 1e9), ("latent_dim", -1), ("networks", "os.system")):
        (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
        with pytest.raises((RuntimeError, ValueError, TypeError), match=f"^{setting}|size mismatch"):
            fastgan.TrainedGenerator.from_pretrained(tmp_path)


def python(code, *args, **options):
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, **options)


def test_without_the_packages_of_the_hub(trained):
    code = """if True:
        import sys
        sys.modules["huggingface_hub"] = None
        import fastgan
        generator = fastgan.load(sys.argv[1])
        assert generator.sample(2).shape == (2, 2)
        for call in (generator.save_pretrained, generator.push_to_hub, fastgan.TrainedGenerator.from_pretrained):
            try:
                call("folder")
            except ImportError as error:
                assert "pip install 'fastgan[export]'" in str(error)
            else:
                raise AssertionError(call)
    """
    done = python(code, trained / "points")
    assert done.returncode == 0, done.stderr


def test_the_example(tmp_path):
    """It trains and exports; then a process that cannot import fastgan uses the exported files."""
    for package in ("huggingface_hub", "onnx", "onnxruntime", "onnxscript", "safetensors"):
        pytest.importorskip(package)
    path = ROOT / "examples" / "use_generator.py"
    assert len(path.read_text().splitlines()) <= 60
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, path, "run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.count("standard deviation") == 4, done.stderr
    code = """if True:
        import pathlib, runpy, sys, torch
        sys.modules["fastgan"] = None
        made = runpy.run_path(sys.argv[1])["use"](pathlib.Path("run"), torch.arange(24.0).reshape(3, 8) / 24)
        torch.save({name: torch.from_numpy(points) for name, points in made.items()}, "made.pt")
    """
    done = python(code, path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    generator = fastgan.load(tmp_path / "run")
    z, made = torch.arange(24.0).reshape(3, 8) / 24, torch.load(tmp_path / "made.pt", weights_only=True)
    assert set(made) == set(export.SUFFIXES)
    for form, points in made.items():
        expected = generator.network(z) if form == "safetensors" else generator(z)
        torch.testing.assert_close(points, expected, rtol=1e-4, atol=1e-5)
