"""What a run shows while it trains: the time it will take, a progress bar, grids of samples, a film."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from command_line import SMALL, images_file, records, refused

from fastgan.cli import log, loop, main, pictures
from fastgan.cli.folder import RunFolder
from fastgan.game import pictures as game_pictures
from fastgan.game import training
from fastgan.trainer import World

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
figure = pytest.importorskip("matplotlib.figure")
pytest.importorskip("tensorboard")
pytest.importorskip("tqdm")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)


def frames(path):
    with Image.open(path) as film:
        return film.n_frames


def test_pictures_of_a_run(tmp_path, capsys):
    """Grids at steps 0 and 100 and at each checkpoint, in a film, and once each in TensorBoard's events. A resumed run
    has the same grids as an uninterrupted one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rare = ["--save-every", "60", "--metrics-every", "60", "--metrics-samples", "16"]
    images = ["train", str(images_file(tmp_path)), *SMALL, *rare]
    assert main([*images, "--steps", "120", "--out", "run"]) == 0
    said = capsys.readouterr().err
    assert "error of D: the share of samples that D judges wrongly" in said
    assert " steps will take about" in said and "img/s" in said  # 96 of them, if 20 take less than two seconds
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["seconds_left"] > 0 and logged[-2]["seconds_left"] == 0
    assert frames("run/training.gif") == 4
    assert main([*images, "--steps", "121", "--out", "run", "--resume"]) == 0
    run = tmp_path / "run"
    expected = [0, 60, 100, 120, 121]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"step_{n:06d}.png" for n in expected]
    seen = EventAccumulator("run", size_guidance={"images": 0}).Reload().Images("samples")
    assert [image.step for image in seen] == expected
    assert seen[-1].encoded_image_string == (run / "samples" / "step_000121.png").read_bytes()
    assert (seen[0].width, seen[0].height) == (8 * 66 + 2,) * 2, "small images are enlarged, each pixel to a square"
    with Image.open(run / "samples" / "step_000121.png") as grid:
        tile = np.asarray(grid)[2:66, 2:66].reshape(8, 8, 8, 8)
    assert (tile == tile[:, :1, :, :1]).all()
    assert frames("run/training.gif") == 5 and not list(run.rglob("*.tmp"))
    assert main([*images, "--steps", "121", "--out", "straight"]) == 0
    assert records(run) == records(tmp_path / "straight")
    for n in expected:
        one, two = ((tmp_path / name / f"samples/step_{n:06d}.png").read_bytes() for name in ("run", "straight"))
        assert one == two, n


def test_the_bar_counts_steps(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["train", "ring", "--steps", "60", *SMALL, "--metrics-every", "0", "--out", "run"]) == 0
    last = terminal.getvalue().split("\r")[-1]
    assert "60/60" in last and "points/s" in last and "error of D" in last, last


def test_the_estimated_time_of_a_run():
    assert loop.estimate(0.5, 100, 64, "img") == "100 steps will take about 50 s (128 img/s), without evaluation"
    assert loop.estimate(1.0, 100_000, 64, "img").endswith("--steps 28,800 end in a night")
    said = [loop.duration(seconds) for seconds in (0.2, 119, 121, 7_300, 180_000)]
    assert said == ["about 1 s", "about 119 s", "about 2 minutes", "about 2 hours", "about 2 days"]


def test_photos_on_a_cpu_require_the_option_steps(tmp_path, capsys, monkeypatch):
    """The error names the time it would take. Digits, points and a resumed run keep their number of steps."""
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    error = refused(capsys, "train", "photos", "--size", 16, *SMALL)
    assert "--steps: the default of 20,000 is for a GPU, and on this CPU takes photos about" in error
    assert "s a step); give --steps, " in error
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    assert main(["train", "photos", "--size", "16", *SMALL, "--steps", "2", "--out", "run"]) == 0
    assert main(["train", "photos", "--out", "run", "--resume"]) == 0
    monkeypatch.setattr("fastgan.cli.train.run_steps", lambda *of: 15)  # as if stopped early
    for data in ("digits", "ring"):
        assert main(["train", data, *SMALL]) == 0
    assert "of 5,000" in (said := capsys.readouterr().err) and "of 10,000" in said


def test_only_pictures_of_the_run_are_read(tmp_path):
    """No links out of the folder, only PNG files, no later steps."""
    samples, png = tmp_path / "run" / "samples", pictures.image_grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    samples.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png)
    (samples / "step_000001.png").symlink_to(tmp_path / "secret.png")
    (samples / "step_000002.png").write_bytes(b"no picture")
    (samples / "step_000003.png").mkdir()
    for name in ("step_000004", "step_000009", "step_x", "seed_5"):
        (samples / f"{name}.png").write_bytes(png)
    found = RunFolder(tmp_path / "run", None, World()).grids(8)
    assert list(found) == [4] and log.is_png(found[4])
    for n in range(100, 200):
        (samples / f"step_{n:06d}.png").write_bytes(png)
    found = list(RunFolder(tmp_path / "run", None, World()).grids(199))
    assert 28 <= len(found) <= 30 and found[-1] == 199 and found == sorted(found)
    cut = {4: png, 5: png[:40], 6: png[:16] + b"\xff" * 8 + png[24:]}
    with Image.open(io.BytesIO(pictures.film(cut))) as film:
        assert film.n_frames == 1


def test_a_film_has_a_bounded_size(monkeypatch):
    random = np.random.default_rng(0)
    noise = {i: pictures.image_grid(torch.from_numpy(random.integers(0, 256, (4, 1, 64, 64), np.uint8)))
             for i in range(30)}  # fmt: skip
    monkeypatch.setattr(pictures, "FILM_SIDES", (140, 70, 35))
    monkeypatch.setattr(pictures, "FILM_BYTES", 300_000)
    film = pictures.film(noise)
    assert len(film) <= 300_000
    with Image.open(io.BytesIO(film)) as film:
        assert film.n_frames == 30 and film.width == 67


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    found, save = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *of, **how: [found.append(self), save(self, *of, **how)])
    return found


def check(figures):
    """Every axis has a label, legends lie off the data, and nothing is cut."""
    for one in figures:
        one.canvas.draw()
        renderer = one.canvas.get_renderer()
        whole = one.get_tightbbox(renderer)
        width, height = one.get_size_inches()
        assert whole.x0 >= 0 and whole.y0 >= 0 and whole.x1 <= width and whole.y1 <= height, whole
        for axes in one.axes:
            shown = any(label.get_visible() and label.get_text() for label in axes.get_xticklabels())
            assert axes.get_ylabel() and (axes.get_xlabel() or not axes.xaxis.get_visible() or not shown)
            if legend := axes.get_legend():
                assert not legend.get_window_extent(renderer).overlaps(axes.get_window_extent(renderer))


def test_axes_of_a_run(drawn):
    log = [{"step": 20 * i, "loss_d": 0.7, "loss_g": 0.7 + 1 / i, "error": 0.5} for i in range(1, 30)]
    scores = {"coverage": 0.9, "precision": 0.9, "recall": 0.5, "high_quality": 0.9, "modes": 8, "samples": 2_000}
    pictures.curves(log)
    pictures.quality(
        [{"step": i, "seconds": 40.0 * i, "quality": {**scores, "fd_points": 5.0 / i}} for i in (1, 2, 20)]
    )
    bottom = drawn[-1].axes[1]
    labels = [label.get_text() for label in bottom.get_yticklabels()]
    assert {"0.5", "1", "2", "5"} <= set(labels) and bottom.get_xlabel() == "training time (minutes)"
    for d in (1, 2):
        pictures.scatter(torch.randn(100, d) * 1e4, torch.randn(100, d))
    check(drawn)


@pytest.mark.parametrize("pair", ["mixture", "ring"])
@pytest.mark.parametrize("objective", ["nonsaturating", "mmd"])
def test_axes_of_a_game(drawn, monkeypatch, pair, objective):
    for name, value in (("FRAMES", 3), ("WATCHED", 500), ("MEASURED", 500)):
        monkeypatch.setattr(training, name, value)
    played = training.play(training.settings_for(pair, objective, steps=3))
    game_pictures.picture(played)
    check(drawn)
    if pair == "mixture":
        densities, _, of_d = drawn[-1].axes
        assert densities.get_ylabel() == "density" and of_d.get_ylim() == (0, 1.02), "D has an axis of its own"
