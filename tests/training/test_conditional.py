"""Conditional networks: the models, the step, the data, and the command line."""

import io
import json
import re
import shlex
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from torch import nn
from trainers import assert_same, state

import fastgan
from fastgan import data as datasets
from fastgan import models
from fastgan.cli import main
from fastgan.cli.loop import Unreadable
from fastgan.data import to_unit
from fastgan.evaluation.features import train_digits_classifier
from fastgan.losses.adversarial import discriminator_value_and_grad, generator_value_and_grad
from fastgan.trainer import GANTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
for package in ("sklearn", "matplotlib", "tensorboard", "tqdm"):
    pytest.importorskip(package)

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 3
SMALL = ["--batch", "8", "--width", "4", "--latent-dim", "3", "--device", "cpu", "--metrics-samples", "16"]


def make(**options):
    torch.manual_seed(0)
    pair = models.build((2,), 4, 16, classes=3)
    return GANTrainer(*pair, latent_dim=4, classes=3, **{"r1": 0.0} | options)


@pytest.mark.parametrize("networks", models.NETWORKS)
def test_every_network_can_be_conditional(networks):
    shape = (2,) if networks == "mlp" else (1, 16, 16)
    generator, discriminator = models.build(shape, 4, 8, networks, classes=5)
    z, labels = torch.randn(6, 4), torch.arange(6) % 5
    made = generator(z, labels)
    assert made.shape == (6, *shape)
    assert not torch.equal(generator(z, (labels + 1) % 5), made)
    assert discriminator(made, labels).shape == (6, 1)


def test_the_discriminator_is_a_projection():
    """Miyato and Koyama 2018, eq. 4, by hand in float64."""
    _, discriminator = models.build((1, 16, 16), 4, 8, classes=5)
    discriminator.double()
    x, y = torch.randn(3, 1, 16, 16, dtype=torch.float64), torch.tensor([4, 0, 4])
    phi = discriminator.features(x)
    expected = phi @ discriminator.last.weight[0] + discriminator.last.bias
    expected = expected + torch.stack([phi[i] @ discriminator.embed.weight[y[i]] for i in range(3)])
    torch.testing.assert_close(discriminator(x, y)[:, 0], expected, rtol=1e-12, atol=0)


def test_a_step_with_labels_is_that_of_a_plain_loop():
    ours, plain = make(concatenate=False), make(concatenate=False)
    g, d = plain.generator, plain.discriminator
    for i in range(5):
        real, y = POINTS[i * 8 : i * 8 + 8], LABELS[i * 8 : i * 8 + 8]
        ours.step(real, y)
        with torch.no_grad():
            fake = g(plain.latent(8), y)
        logits = [d(real, y), d(fake, y)]
        plain.optimizer_d.zero_grad()
        out = discriminator_value_and_grad(*logits, "nonsaturating", weight=0.5)
        torch.autograd.backward(logits, out.grads)
        plain.optimizer_d.step()
        d.requires_grad_(False)
        logits = d(g(plain.latent(8), y), y)
        plain.optimizer_g.zero_grad()
        torch.autograd.backward(logits, generator_value_and_grad(logits, "nonsaturating").grads)
        plain.optimizer_g.step()
        d.requires_grad_(True)
    for name in ("generator", "discriminator"):
        assert all(map(torch.equal, ours.networks[name].parameters(), plain.networks[name].parameters()))


@pytest.mark.parametrize(
    "options",
    [
        {"concatenate": True},
        {"accumulate": 3},
        {"step": "one-stage"},
        {"redraw": False},
        {"r1": 0.3, "r1_every": 2},
        {"objective": "relativistic"},
        {"precision": "bfloat16"},
    ],
)
def test_every_way_to_step_passes_the_labels(options):
    """Other labels change the step; one pass over both sides, or parts, equal the plain step to rounding."""
    got = []
    for shift in (0, 1):
        trainer = make(**options)
        for _ in range(2):
            trainer.step(POINTS[:9], (LABELS[:9] + shift) % 3)
        got.append([p.clone() for p in trainer.generator.parameters()])
    assert not all(map(torch.equal, *got))
    if options in ({"concatenate": True}, {"accumulate": 3}):
        trainer = make(concatenate=False)
        for _ in range(2):
            trainer.step(POINTS[:9], LABELS[:9])
        for a, b in zip(trainer.generator.parameters(), got[0]):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_mistakes_with_labels_are_named():
    step = make().step
    for act, message in [
        (lambda: step(POINTS[:8]), "labels: got None, expected a tensor with classes=3"),
        (lambda: step(POINTS[:8], LABELS[:7]), r"labels: got shape \(7,\), expected \(8,\)"),
        (lambda: step(POINTS[:8], LABELS[:8].float()), "labels: got torch.float32, expected torch.int64"),
        (lambda: step(POINTS[:8], [0] * 8), "labels: got list, expected a tensor of whole numbers"),
        (lambda: make().fit(POINTS, steps=1), r"data: got samples without labels, expected \(samples, labels\)"),
        (lambda: make().fit((POINTS, LABELS + 1), steps=1), "data: got the label 3, expected numbers from 0 to 2"),
        (lambda: make().fit([(POINTS, LABELS - 1)], steps=1), "data, batch 0: got the label -1, expected numbers"),
        (lambda: make().sample(4, labels=LABELS[:3]), r"labels: got shape \(3,\), expected \(4,\)"),
        (lambda: make().sample(4, labels=LABELS[:4] + 3), "labels: got the label 3, expected numbers from 0 to 2"),
        (lambda: GANTrainer(*models.build((2,), 4, 16), classes=1), "classes: got 1, expected at least 2"),
        (lambda: GANTrainer(*models.build((2,), 4, 16, classes=3), latent_dim=4), "latent_dim: got 4, expected what"),
        (lambda: GANTrainer(*models.build((2,), 4, 16), latent_dim=4, classes=3), "and labels of shape"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            act()
        assert "\n" not in str(raised.value)


def test_training_with_labels_resumes_exactly(tmp_path):
    straight, half, resumed = make(), make(), make()
    straight.fit((POINTS, LABELS), steps=9, batch=8)
    half.fit((POINTS, LABELS), steps=4, batch=8)
    half.save(tmp_path / "half.pt")
    resumed.load(tmp_path / "half.pt")
    resumed.fit((POINTS, LABELS), steps=5, batch=8)
    a, b = state(resumed), state(straight)
    del a["torch"], b["torch"]
    assert_same(a, b)
    assert torch.equal(resumed.sample(6), straight.sample(6, labels=torch.arange(6) % 3))


def test_a_users_networks_can_be_conditional():
    class G(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.linear = nn.Embedding(3, 4), nn.Linear(4, 2)

        def forward(self, z, y):
            return self.linear(z * self.embed(y))

    trainer = GANTrainer(G(), models.build((2,), 4, 16, classes=3)[1], latent_dim=4, classes=3)
    batches = ((POINTS[i : i + 8], LABELS[i : i + 8]) for i in range(0, 48, 8))
    assert trainer.fit(batches, steps=5)[-1]["step"] == 5


# ---- the data, and the command line ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """24 images of three classes, dark, grey and bright, and one that cannot be read."""
    for i in range(24):
        name = ("bright", "dark", "grey")[i % 3]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        shade = {"dark": 20, "grey": 120, "bright": 230}[name]
        Image.fromarray(np.full((16, 16), shade + i % 5, np.uint8)).save(tmp_path / "photos" / name / f"{i:02}.png")
    (tmp_path / "photos" / "dark" / "00.png").write_text("no image")
    return tmp_path / "photos"


def class_of(images):
    shade = images.float().mean((1, 2, 3))
    return torch.where(shade > 200, 0, torch.where(shade < 60, 1, 2))


def test_folders_are_classes_in_memory_and_streamed(folder):
    held, stream = datasets.load(str(folder), 8), datasets.load(str(folder), 8, stream=True)
    assert held.classes == stream.classes == ("bright", "dark", "grey")
    assert torch.equal(held.labels, class_of(held.samples)) and len(held.labels) == 24
    batches = stream.batches(0, 8, 0, workers=0)
    for _ in range(5):
        images, labels, _ = next(batches)
        assert torch.equal(labels, class_of(images))


def test_no_classes_if_an_image_lies_outside_of_the_folders(folder):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "outside.png")
    assert datasets.load(str(folder), 8).classes == ()


def test_columns_of_labels(tmp_path, monkeypatch):
    hugging_face = pytest.importorskip("datasets", reason="needs the extra `hub`")
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [Image.fromarray(np.full((8, 8), i, np.uint8)) for i in range(20)]
    for column, kind, values, classes in [
        ("kind", hugging_face.ClassLabel(names=["cat", "dog"]), [i % 2 for i in range(20)], ("cat", "dog")),
        ("cls", hugging_face.Value("int64"), [i % 3 for i in range(20)], ("0", "1", "2")),
        ("size", hugging_face.Value("int64"), [i % 3 for i in range(20)], ()),
        ("label", hugging_face.Value("int64"), [-1] * 20, ()),
    ]:
        features = hugging_face.Features({"image": hugging_face.Image(), column: kind})
        table = hugging_face.Dataset.from_dict({"image": pictures, column: values}, features=features)
        table.save_to_disk(tmp_path / column)
        found = datasets.load(str(tmp_path / column), 8)
        assert found.classes == classes
        assert (found.labels.tolist() == values) if classes else found.labels is None


def test_shards_of_webdataset(tmp_path, monkeypatch):
    hugging_face = pytest.importorskip("datasets", reason="needs the extra `hub`")
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"part-{shard}.tar", "w") as tar:
            for i in range(shard * 20, shard * 20 + 20):
                picture = io.BytesIO()
                Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(picture, "png")
                for ending, content in (("png", picture.getvalue()), ("cls", str(i % 4).encode())):
                    member = tarfile.TarInfo(f"{i:04}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    found = datasets.load(str(tmp_path / "shards"), 8)
    assert found.samples[:, 0, 0, 0].tolist() == [5 * i for i in range(40)]
    assert found.classes == ("0", "1", "2", "3") and found.labels.tolist() == [i % 4 for i in range(40)]
    assert datasets.load(str(tmp_path / "shards" / "part-1.tar"), 8, stream=True).count == 20


def test_train_sample_and_load(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--size", "8", "--conditional", *SMALL]
    assert main(["train", str(folder), "--steps", "4", "--out", "run", *options]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["classes"] == 3 and config["data"]["classes"] == ["bright", "dark", "grey"]
    with Image.open(tmp_path / "run" / "samples" / "step_000004.png") as grid:
        assert (grid.width, grid.height) == (21 * 66 + 2, 3 * 66 + 2)  # one row for each class
    assert main(["train", str(folder), "--steps", "8", "--out", "run", "--resume"]) == 0
    assert main(["train", str(folder), "--steps", "8", "--out", "straight", "--save-every", "4", *options]) == 0
    resumed, straight = fastgan.load("run"), fastgan.load("straight")
    assert all(map(torch.equal, resumed.parameters(), straight.parameters()))
    assert main(["sample", "run", "--count", "5", "--label", "grey", "--out", "grey.npz"]) == 0
    assert main(["sample", "run", "--count", "7", "--out", "all.npz"]) == 0
    with np.load("grey.npz") as grey, np.load("all.npz") as every:
        assert grey["labels"].tolist() == [2] * 5 and every["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
        for array, expected in ((grey, resumed.sample(5, labels=torch.full((5,), 2))), (every, resumed.sample(7))):
            got = torch.from_numpy(array["images"]).permute(0, 3, 1, 2)
            assert torch.equal(got, datasets.to_uint8(expected))
    with pytest.raises(ValueError, match="labels: got None, expected int64"):
        resumed(torch.randn(2, 3))
    assert "--label: got red, expected a number from 0 to 2, or one of bright, dark, grey" in refused(
        capsys, "sample", "run", "--label", "red"
    )
    assert "--conditional: ring has no classes" in refused(capsys, "train", "ring", "--conditional")


def test_a_conditional_generator_is_exported(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(folder), "--size", "8", "--conditional", "--steps", "2", "--out", "run", *SMALL]) == 0
    generator, z, labels = fastgan.load("run"), torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = generator(z, labels)
    capsys.readouterr()
    for form in ("torchscript", "pt2"):
        assert main(["export", "run", "--format", form]) == 0
        assert "torch.randint(3, (16,))" in capsys.readouterr().out
    torch.testing.assert_close(torch.jit.load("run/generator.pt")(z, labels), expected)
    torch.testing.assert_close(torch.export.load("run/generator.pt2").module()(z, labels), expected)
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", "run", "--format", "onnx"]) == 0
    session = onnxruntime.InferenceSession("run/generator.onnx")
    (got,) = session.run(None, {"z": z.numpy(), "labels": labels.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)


MINE = """
import torch
from torch import nn

class G(nn.Module):
    def __init__(self, sample_shape, latent_dim):
        super().__init__()
        self.shape, self.linear = sample_shape, nn.Linear(latent_dim, torch.Size(sample_shape).numel())
    def forward(self, z):
        return self.linear(z).tanh().view(-1, *self.shape)

def D(**about):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(about["sample_shape"]).numel(), 1))

def Plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

def nothing():
    pass

class Tuple(G):
    def forward(self, z):
        return (super().forward(z),)


def broken():
    raise RuntimeError("not today")
"""


def test_a_users_networks_on_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_for_a_test.py").write_text(MINE)
    (tmp_path / "ends_for_a_test.py").write_text("import sys\nsys.exit('not here')\n")
    networks = ["--generator", "mine_for_a_test:G", "--discriminator", "mine_for_a_test:D"]
    options = ["--batch", "8", "--latent-dim", "3", "--device", "cpu", "--size", "8", "--metrics-samples", "16"]
    assert main(["train", str(folder), "--steps", "3", "--out", "run", *options, *networks]) == 0
    again = ["train", str(folder), "--steps", "5", "--out", "run", "--resume"]
    assert "give it again to resume" in refused(capsys, *again)
    assert main([*again, *networks]) == 0

    def gone(*_):
        raise Unreadable("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("fastgan.cli.train.run_steps", gone)
        assert main([*again[:3], "6", *again[4:], *networks]) == 1
    assert f"to resume: {shlex.join(['fastgan', *again[:2], *again[4:], *networks])}" in capsys.readouterr().err
    assert "mine_for_a_test:G, a network of your own, expected it to be given" in refused(capsys, "sample", "run")
    assert "mine_for_a_test:G, a network of your own: load it with fastgan.load" in refused(
        capsys, "export", "run", "--format", "pt2"
    )
    assert main(["sample", "run", "--count", "4", "--out", "own.npz", *networks[:2]]) == 0
    train = ["train", str(folder), "--steps", "1", *options, "--width", "5", *networks]
    assert main([*train, "--out", "wide"]) == 0  # D has this argument
    assert "--width: got 5, but both networks are your own and have no parameter of that name" in refused(
        capsys, *train[:-1], "mine_for_a_test:Plain", "--out", "plain"
    )
    import mine_for_a_test

    network = fastgan.load("run", mine_for_a_test.G((1, 8, 8), 3))
    with np.load("own.npz") as own:
        z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.from_numpy(own["images"]).permute(0, 3, 1, 2), datasets.to_uint8(network(z)))
    for named, message in [
        ("nowhere:G", "--generator: nowhere raised ModuleNotFoundError"),
        ("mine_for_a_test:Z", "--generator: mine_for_a_test has no 'Z'"),
        ("mine_for_a_test", "--generator: got 'mine_for_a_test', expected MODULE:CLASS"),
        ("mine_for_a_test:broken", "broken raised RuntimeError at .*mine_for_a_test.*: not today"),
        ("math:sqrt", "math:sqrt raised TypeError"),
        ("mine_for_a_test:nothing", "made a NoneType, expected a torch.nn.Module"),
        ("mine_for_a_test:Tuple", "--generator: got tuple, expected one floating tensor of samples"),
        ("ends_for_a_test:G", "--generator: ends_for_a_test raised SystemExit at .*ends_for_a_test.*: not here"),
    ]:
        said = refused(capsys, "train", folder, "--steps", "1", *options, "--generator", named)
        assert re.search(message, said), said


def test_weights_of_another_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = ["train", str(folder), "--size", "8", *SMALL, "--steps"]
    assert main([*start, "3", "--out", "first"]) == 0
    assert main([*start, "1", "--out", "second", "--init", "first", "--lr", "1e-9"]) == 0
    first, second = (torch.load(f"{run}/checkpoint.pt", weights_only=True) for run in ("first", "second"))
    for name in ("generator", "discriminator"):
        for key, value in first[name].items():
            torch.testing.assert_close(second[name][key], value, rtol=0, atol=1e-8)  # after a step of 1e-9
    assert second["step"] == 1
    assert main(["train", str(folder), "--steps", "2", "--out", "second", "--resume"]) == 0
    assert json.loads(Path("second/config.json").read_text())["settings"]["init"] == "first"
    assert main(["train", str(folder), "--steps", "2", "--out", "second", "--resume", "--init", "first"]) == 0
    assert "--init: nowhere/checkpoint.pt: there is no such checkpoint" in refused(
        capsys, *start, "1", "--init", "nowhere"
    )
    assert "is of another" in refused(capsys, *start, "1", "--init", "first", "--width", "8")


@pytest.mark.slow
def test_each_digit_on_demand(tmp_path):
    """Of 500 samples of each digit, a classifier trained on real digits recognises at least 0.9."""
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--conditional", "--steps", "2000", "--metrics-every", "0", "--out", run]) == 0
    generator, digits = fastgan.load(run), datasets.load("digits")
    classifier = train_digits_classifier(to_unit(digits.samples), digits.labels)
    for digit in range(10):
        samples = generator.sample(500, seed=5, labels=torch.full((500,), digit))
        right = (classifier(samples).argmax(1) == digit).double().mean()
        assert right >= 0.9, (digit, right)


def test_numbers_that_are_no_classes(monkeypatch):
    """A column `label` may hold times or keys: a class for every number up to the largest would fill the memory."""
    from fastgan.data import tables

    class Rows:
        def __init__(self, values):
            self.features, self.values = {"label": SimpleNamespace(dtype="int64")}, values

        def select_columns(self, _):
            return self

        def with_format(self, _):
            return {"label": self.values}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(ClassLabel=type("ClassLabel", (), {})))
    assert tables._labels(Rows([0, 2, 1])).classes == ("0", "1", "2")
    assert tables._labels(Rows([0, 10**12])).classes == ()


def test_conditional_with_one_class_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda *_, **__: datasets.Dataset(
        "one", torch.zeros(20, 1, 8, 8, dtype=torch.uint8), labels=torch.zeros(20, dtype=torch.int64), classes=("a",)
    ))  # fmt: skip
    said = refused(capsys, "train", "one.parquet", "--conditional", "--steps", "1", "--out", str(tmp_path / "run"))
    assert "--conditional: one.parquet has one class, expected" in said
