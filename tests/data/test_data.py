"""Reading training data: the samples, and the errors for data that cannot be used."""

import itertools
import math
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch

from fastgan import data

# Packages of the extra `train`; a machine that only measures kernels may lack them.
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")


def images(n=20, h=10, w=10, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def save_folder(folder, n=20, mode="RGB", side=20, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images(n, side, side)):
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:03d}.{suffix}")
    return folder


def test_every_digit_is_there_once():
    digits = data.load("digits")
    assert digits.samples.shape == (1297, 1, 8, 8)
    assert digits.held_out.shape == (500, 1, 8, 8)
    assert digits.samples.dtype == torch.uint8
    assert (digits.samples.min(), digits.samples.max()) == (0, 255)
    from sklearn.datasets import load_digits

    source = load_digits()
    every = torch.cat([digits.samples, digits.held_out]).flatten(1).numpy()
    expected = np.rint(source.data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, every)) == sorted(map(bytes, expected))
    labels = torch.cat([digits.labels, digits.held_out_labels])
    assert torch.bincount(labels).tolist() == np.bincount(source.target).tolist()
    assert digits.fingerprint() == data.load("digits").fingerprint()
    assert data.load("digits", 16).samples.shape == (1297, 1, 16, 16)


def test_unit_range_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    unit = data.to_unit(values)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(data.to_uint8(unit), values)
    assert data.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_folder_with_subfolders(tmp_path):
    save_folder(tmp_path / "photos" / "a")
    save_folder(tmp_path / "photos" / "b", n=3, suffix="jpg")
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    photos = data.load(str(tmp_path / "photos"), 16)
    assert photos.samples.shape == (23, 3, 16, 16)
    assert photos.name == "photos"
    assert photos.skipped == ()
    assert data.load(str(tmp_path / "photos")).samples.shape[2:] == (64, 64)


def test_folder_is_grey_only_if_every_image_is(tmp_path):
    folder = save_folder(tmp_path / "grey", mode="L", side=16)
    grey = data.load(str(folder), 16)
    assert grey.samples.shape == (20, 1, 16, 16)
    Image.fromarray(images(1, 16, 16)[0]).save(folder / "zz.png")
    mixed = data.load(str(folder), 16)
    assert mixed.samples.shape == (21, 3, 16, 16)
    assert torch.equal(mixed.samples[:20], grey.samples.expand(-1, 3, -1, -1))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(16):
        Image.fromarray(np.full((8, 8), i * 4096, np.uint16)).save(folder / f"{i:02d}.png")
    assert data.load(str(folder), 8).samples[:, 0, 0, 0].tolist() == [i * 16 for i in range(16)]


def test_the_middle_is_cropped(tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    for i in range(16):
        Image.fromarray(wide).save(folder / f"{i}.png")
    assert (data.load(str(folder), 8).samples == 200).all()


def test_broken_images_are_named_and_left_out(tmp_path):
    folder = save_folder(tmp_path / "photos")
    whole = (folder / "003.png").read_bytes()
    (folder / "003.png").write_bytes(whole[: len(whole) // 2])
    (folder / "007.png").write_bytes(b"")
    (folder / "008.png").write_text("hello")
    photos = data.load(str(folder), 8)
    assert len(photos.samples) == 17
    assert [name.split()[0].rsplit("/")[-1] for name in photos.skipped] == ["003.png", "007.png", "008.png"]
    assert all("\n" not in name for name in photos.skipped)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((20, 8, 8), None, (20, 1, 8, 8)),
        ((20, 28, 28), None, (20, 1, 32, 32)),
        ((20, 200, 300, 3), None, (20, 3, 256, 256)),
        ((20, 300, 400, 3), None, (20, 3, 256, 256)),
        ((20, 8, 8, 1), 16, (20, 1, 16, 16)),
        ((20, 8, 12, 3), 8, (20, 3, 8, 8)),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_image_arrays(tmp_path, shape, size, expected, suffix):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"faces.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, anything=array)
    loaded = data.load(str(path), size)
    assert loaded.samples.shape == expected
    assert loaded.name == "faces"
    if shape[1:3] == expected[2:]:
        assert torch.equal(loaded.samples.permute(0, 2, 3, 1).reshape(shape), torch.from_numpy(array))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_points_are_normalised_and_can_be_restored(tmp_path, dtype):
    points = (np.random.default_rng(0).normal(size=(50, 2)) * [3, 0.1] + [100, -7]).astype(dtype)
    np.save(tmp_path / "points.npy", points)
    loaded = data.load(str(tmp_path / "points.npy"))
    assert loaded.samples.dtype == torch.float32
    torch.testing.assert_close(loaded.samples.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    assert loaded.samples.square().mean().item() == pytest.approx(1, rel=1e-5)
    back = data.to_points(loaded.samples, loaded.mean, loaded.scale)
    torch.testing.assert_close(back, torch.from_numpy(points).float(), rtol=1e-5, atol=1e-4)


def bad(tmp_path):
    """(source, part of its message) for every kind of data that cannot be used."""
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(20):
        (broken / f"{i}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    few = save_folder(tmp_path / "few", n=3)
    (tmp_path / "text.txt").write_text("hello")

    def array(name, *args, **arrays):
        path = tmp_path / name
        np.save(path, *args) if args else np.savez(path, **arrays)
        return path

    points = np.random.default_rng(0).normal(size=(30, 2))
    with_nan = points.copy()
    with_nan[7, 1] = np.nan
    cut = array("cut.npy", points)
    cut.write_bytes(cut.read_bytes()[:-40])
    cut_zip = array("cut.npz", a=points)
    cut_zip.write_bytes(cut_zip.read_bytes()[:-40])
    (tmp_path / "empty.npy").write_bytes(b"")
    pickled = array("pickled.npy", np.array([{"a": 1}] * 30, dtype=object))
    return [
        (tmp_path / "nowhere", "does not exist, expected 'digits', 'ring', 'grid', a folder"),
        (empty, "holds no image"),
        (broken, "none of the 20 images"),
        (few, "holds 3 samples, expected at least 16"),
        (tmp_path / "text.txt", "got the file"),
        (array("several.npz", a=points, b=points), r"holds 2 arrays \(a, b\), expected exactly one"),
        (array("none.npz"), r"holds 0 arrays \(none\), expected exactly one"),
        (array("whole.npy", np.zeros((30, 2), np.int64)), r"holds int64 of shape \(30, 2\), expected images, uint8"),
        (array("real.npy", np.zeros((30, 8, 8), np.float32)), r"holds float32 of shape \(30, 8, 8\)"),
        (array("one.npy", np.zeros(30, np.uint8)), r"holds uint8 of shape \(30,\)"),
        (array("five.npy", np.zeros((30, 8, 8, 5), np.uint8)), r"shape \(30, 8, 8, 5\)"),
        (array("flat.npy", np.zeros((30, 0, 8), np.uint8)), "holds an empty array"),
        (array("nan.npy", with_nan), "has NaN or infinity in 1 rows, the first is row 7"),
        (array("same.npy", np.ones((30, 2))), "holds 30 times the same point"),
        (array("short.npy", points[:5]), "holds 5 samples, expected at least 16"),
        (array("nothing.npy", points[:0]), "holds 0 points, expected at least 16"),
        (cut, "damaged or no numpy file"),
        (cut_zip, "damaged or no numpy file"),
        (tmp_path / "empty.npy", "damaged or no numpy file"),
        (pickled, "damaged or no numpy file"),
    ]


def test_bad_data_is_named(tmp_path):
    for source, message in bad(tmp_path):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
            data.load(str(source))
        assert str(source) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_bad_size(tmp_path):
    with pytest.raises(ValueError, match="--size: got 20, expected one of 8, 16, 32, 64, 128"):
        data.load("digits", 20)
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(30, 2)))
    with pytest.raises(ValueError, match=r"--size: got 8, but .* holds points of 2 numbers"):
        data.load(str(tmp_path / "points.npy"), 8)


def take(stream, count, first=0, **options):
    """Return `count` batches of 8 from a stream, and every problem reported with them."""
    batches = stream.batches(0, 8, first, **options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return [images for images, _, _ in taken], [problem for _, _, problems in taken for problem in problems]


def test_a_stream_gives_the_samples_of_memory_in_random_order(tmp_path):
    folder = save_folder(tmp_path / "photos", n=24)
    held, stream = data.load(str(folder), 16), data.load(str(folder), 16, stream=True)
    assert (stream.count, stream.sample_shape, stream.is_images) == (24, (3, 16, 16), True)
    assert torch.equal(stream.some(24), held.samples)
    batches, problems = take(stream, 6, workers=0)
    assert not problems
    rows = {image.numpy().tobytes(): i for i, image in enumerate(held.samples)}
    order = [rows[image.numpy().tobytes()] for image in torch.cat(batches)]
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))  # every image once, then again
    assert order[:24] != order[24:] and order[:24] != list(range(24))
    assert not all(map(torch.equal, batches, take_with_seed(stream, 1)))


def take_with_seed(stream, seed):
    return [images for images, _, _ in itertools.islice(stream.batches(seed, 8, 0, workers=0), 6)]


def test_a_stream_resumes_exactly_with_any_workers_and_leaves_the_random_state(tmp_path):
    stream = data.load(str(save_folder(tmp_path / "photos", n=20)), 8, stream=True)
    straight, _ = take(stream, 9, workers=0)
    before = torch.get_rng_state()
    resumed, _ = take(stream, 4, first=5, workers=2)
    assert all(map(torch.equal, resumed, straight[5:]))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_a_stream(tmp_path):
    """Two ranks with batches of 8 draw the samples of one rank with batches of 16."""
    stream = data.load(str(save_folder(tmp_path / "photos", n=20)), 8, stream=True)
    ranks = [take(stream, 3, workers=0, rank=r, ranks=2)[0] for r in (0, 1)]
    joint = [images for images, _, _ in itertools.islice(stream.batches(0, 16, 0, workers=0), 3)]
    assert all(torch.equal(torch.cat([a, b]), whole) for a, b, whole in zip(*ranks, joint))


def test_a_killed_worker_is_replaced_and_no_batch_changes(tmp_path, capsys):
    stream = data.load(str(save_folder(tmp_path / "photos", n=20)), 8, stream=True)
    expected, _ = take(stream, 40, workers=0)
    batches = stream.batches(0, 8, 0, workers=1)
    got = [next(batches)[0]]
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    got += [images for images, _, _ in itertools.islice(batches, 39)]
    batches.close()
    assert all(map(torch.equal, got, expected))
    said = capsys.readouterr().err
    assert "DataLoader worker" in said and "Starting workers anew" in said and said.count("\n") == 1


def test_workers_that_keep_dying_end_the_stream(tmp_path, monkeypatch):
    """Each worker kills itself while it reads, as if it were killed for its memory."""
    stream = data.load(str(save_folder(tmp_path / "photos", n=20)), 8, stream=True)
    stream.read = Suicide()
    monkeypatch.setattr("fastgan.data.stream.RESTARTS", 0)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        take(stream, 1, workers=1)


class Suicide:
    def __call__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_files_that_vanish_from_a_stream(tmp_path, monkeypatch):
    """A missing file is named and replaced by the next one. If no file is left, the stream ends."""
    folder = save_folder(tmp_path / "photos", n=20)
    stream = data.load(str(folder), 8, stream=True)
    expected, _ = take(stream, 5, workers=0)
    fourth = stream[4][0]
    (folder / "003.png").unlink()
    (folder / "011.png").write_bytes(b"no more")
    assert torch.equal(stream[3][0], fourth)
    got, problems = take(stream, 5, workers=2)
    assert len(problems) == 4 and all("003.png (" in p or "011.png (" in p for p in problems)
    assert sum(not torch.equal(a, b) for a, b in zip(torch.cat(got), torch.cat(expected))) == 4
    for file in folder.iterdir():
        file.unlink()
    for workers in (0, 1):
        with pytest.raises(OSError, match=r"100 images in a row cannot be read, the first: .*png") as raised:
            take(stream, 1, workers=workers)
        assert "\n" not in str(raised.value)


def test_a_stream_of_grey_files_and_one_of_colour(tmp_path):
    folder = save_folder(tmp_path / "grey", n=20, mode="L", side=8)
    stream = data.load(str(folder), 8, stream=True)
    assert stream.sample_shape == (1, 8, 8)
    Image.fromarray(images(1, 8, 8)[0]).save(folder / "003.png")  # after the stream has read its mode
    luma = np.asarray(Image.open(folder / "003.png").convert("L")).astype(int)
    assert abs(stream[3][0][0].numpy().astype(int) - luma).max() <= 1
    assert data.load(str(folder), 8, stream=True).sample_shape == (3, 8, 8)


def test_data_that_do_not_fit_in_memory_are_streamed(tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "photos", n=20)
    assert isinstance(data.load(str(folder), 8), data.Dataset)
    monkeypatch.setattr("fastgan.data.sources.free_memory", lambda device: 4 * 20 * 3 * 8 * 8 - 1)
    assert isinstance(data.load(str(folder), 8), data.Stream)
    assert isinstance(data.load(str(folder), 8, stream=False), data.Dataset)
    monkeypatch.setattr("fastgan.data.sources.free_memory", lambda device: 4 * 20 * 3 * 8 * 8)
    assert isinstance(data.load(str(folder), 8), data.Dataset)
    with pytest.raises(ValueError, match="--stream: digits is held in memory anyway"):
        data.load("digits", stream=True)


def test_free_memory_is_at_most_that_of_the_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < data.free_memory() <= total


def test_the_fingerprint_of_a_stream_changes_with_its_files(tmp_path):
    folder = save_folder(tmp_path / "photos", n=20)
    before = data.load(str(folder), 8, stream=True).fingerprint()
    assert data.load(str(folder), 8, stream=True).fingerprint() == before
    assert data.load(str(folder), 16, stream=True).fingerprint() != before
    (folder / "003.png").rename(folder / "renamed.png")
    assert data.load(str(folder), 8, stream=True).fingerprint() != before


def test_streams_outside_the_main_thread(tmp_path):
    stream = data.load(str(save_folder(tmp_path / "photos", n=20)), 8, stream=True)
    got = []
    thread = threading.Thread(target=lambda: got.extend(take(stream, 2, workers=1)[0]))
    thread.start()
    thread.join(60)
    assert len(got) == 2


def test_flips_are_half_of_the_images_and_come_from_the_generator():
    samples = torch.arange(2000 * 3 * 2 * 4).reshape(2000, 3, 2, 4).remainder(251).to(torch.uint8)
    once = data.flipped(samples, torch.Generator().manual_seed(0))
    assert torch.equal(once, data.flipped(samples, torch.Generator().manual_seed(0)))
    mirrored = (once == samples.flip(3)).flatten(1).all(1)
    kept = (once == samples).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)
    random = torch.Generator().manual_seed(3)
    drawn = data.draw(samples, 500, random, flip=True)
    random.manual_seed(3)
    rows = torch.randint(2000, (500,), generator=random)
    assert torch.equal(drawn, data.to_unit(data.flipped(samples[rows], random)))
    random.manual_seed(3)
    assert torch.equal(data.draw(samples, 500, random), data.to_unit(samples[rows]))


@pytest.mark.parametrize(("name", "count", "std"), [("ring", 8, 0.02), ("grid", 25, 0.05)])
def test_toy_points(name, count, std):
    toy = data.load(name)
    assert toy.samples.shape == (50_000, 2)
    assert toy.modes.shape == (count, 2)
    distance, nearest = torch.cdist(toy.samples, toy.modes).min(1)
    share = torch.bincount(nearest, minlength=count) / 50_000
    assert ((share * count - 1).abs() < 6 * math.sqrt(count / 50_000)).all()
    # of a two-dimensional Gaussian: mean squared distance 2 std^2
    assert (distance.square().mean() / 2).sqrt().item() == pytest.approx(toy.mode_std, rel=0.02)
    assert toy.mode_std * toy.scale == pytest.approx(std)
    centres = data.to_points(toy.modes, toy.mean, toy.scale)
    radius = centres.norm(dim=1) if name == "ring" else centres.abs().max()
    torch.testing.assert_close(radius, torch.full_like(radius, 2.0 if name == "ring" else 4.0), rtol=1e-4, atol=0)
    assert torch.equal(data.load(name).samples, toy.samples)
    with pytest.raises(ValueError, match=f"--size: got 8, but {name} holds points"):
        data.load(name, 8)


@pytest.fixture
def table():
    """24 rows of images and labels, as a data set of Hugging Face."""
    hugging_face = pytest.importorskip("datasets", reason="needs the extra `hub`")
    rows = {"image": [Image.fromarray(pixels) for pixels in images(24, 16, 16)], "label": list(range(24))}
    features = hugging_face.Features({"label": hugging_face.Value("int64"), "image": hugging_face.Image()})
    return hugging_face.Dataset.from_dict(rows, features=features)


def test_tables_of_hugging_face(tmp_path, table, monkeypatch):
    import datasets as hugging_face

    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    expected = torch.from_numpy(images(24, 16, 16)).permute(0, 3, 1, 2)
    table.save_to_disk(tmp_path / "saved")
    hugging_face.DatasetDict(train=table, test=table.select(range(3))).save_to_disk(tmp_path / "split")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "part-0.parquet")
    for source in ("saved", "split", "parquet", "parquet/part-0.parquet"):
        held = data.load(str(tmp_path / source), 16)
        assert torch.equal(held.samples, expected), source
        stream = data.load(str(tmp_path / source), 16, stream=True)
        assert stream.count == 24
        assert torch.equal(stream.some(24), expected)
    assert data.load(str(tmp_path / "saved"), 16).name == "saved"
    drawn, _ = take(data.load(str(tmp_path / "saved"), 16, stream=True), 3, workers=1)
    assert {bytes(i.numpy()) for i in torch.cat(drawn)} == {bytes(i.contiguous().numpy()) for i in expected}


def test_bad_tables_of_hugging_face(tmp_path, table, monkeypatch):
    import datasets as hugging_face

    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table.remove_columns("image").save_to_disk(tmp_path / "no_images")
    hugging_face.DatasetDict(a=table, b=table).save_to_disk(tmp_path / "splits")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "state.json").write_text("{")
    for source, message in [
        ("no_images", "has no column of images; its columns are label"),
        ("splits", "has the splits a, b, expected one named train"),
        ("cut.parquet", "cannot be read as a data set"),
        ("damaged", "cannot be read as a data set"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            data.load(str(tmp_path / source), 8)
        assert source in str(raised.value) and "\n" not in str(raised.value)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra `hub`")
    import subprocess
    import sys

    code = "from fastgan import data; data.load('hub:nobody/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "ValueError: DATA: hub:nobody/nothing cannot be read as a data set (" in last


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    """As in `fastgan train "$DATA"` if the variable is not set."""
    save_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(ValueError, match="DATA: got '', expected 'digits'"):
        data.load("")
