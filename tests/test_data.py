"""Reading training data: what comes out, and what is said of data that cannot be used."""

import numpy as np
import pytest
import torch

from fastgan import data

# What the `train` extra brings; a machine that only measures kernels may lack it.
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


def test_digits_are_all_there_once():
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
        ((20, 200, 300, 3), None, (20, 3, 128, 128)),
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
def test_points_are_normalised_and_can_be_brought_back(tmp_path, dtype):
    points = (np.random.default_rng(0).normal(size=(50, 2)) * [3, 0.1] + [100, -7]).astype(dtype)
    np.save(tmp_path / "points.npy", points)
    loaded = data.load(str(tmp_path / "points.npy"))
    assert loaded.samples.dtype == torch.float32
    torch.testing.assert_close(loaded.samples.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    assert loaded.samples.square().mean().item() == pytest.approx(1, rel=1e-5)
    back = data.to_points(loaded.samples, loaded.mean, loaded.scale)
    torch.testing.assert_close(back, torch.from_numpy(points).float(), rtol=1e-5, atol=1e-4)


def bad(tmp_path):
    """(source, what its message says) for every kind of data that cannot be used."""
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
        (tmp_path / "nowhere", "does not exist, expected 'digits', a folder"),
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
