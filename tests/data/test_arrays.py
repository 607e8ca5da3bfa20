"""Arrays of every layout give the same data; arrays or numbers that are too large are refused."""

import io
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from fastgan import data
from fastgan.cli import main
from fastgan.data.arrays import read_array

POINTS = np.random.default_rng(0).normal((1.0, -2.0), (3.0, 0.5), (30, 2))
LAYOUTS = {
    "column order": lambda a: np.asfortranarray(a),
    "columns put together": lambda a: np.array([a[..., i] for i in range(a.shape[-1])]).T if a.ndim == 2 else a,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian columns": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder(">"))),
    "backwards twice": lambda a: a[::-1].copy()[::-1],
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "columns backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "read-only": lambda a: _read_only(a),
}


def _read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_points_of_every_layout(tmp_path, layout, dtype, suffix):
    write = np.save if suffix == "npy" else np.savez_compressed
    write(tmp_path / f"plain.{suffix}", POINTS.astype(dtype))
    write(tmp_path / f"other.{suffix}", LAYOUTS[layout](POINTS.astype(dtype)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, other = (data.load(str(tmp_path / f"{name}.{suffix}")) for name in ("plain", "other"))
    assert torch.equal(plain.samples, other.samples)
    assert plain.fingerprint() == other.fingerprint()
    back = data.to_points(other.samples, other.mean, other.scale).double()
    torch.testing.assert_close(back, torch.from_numpy(POINTS.astype(dtype).astype(np.float64)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 8, 8, 1), (20, 8, 8, 3)])
def test_images_of_every_layout(tmp_path, layout, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", LAYOUTS[layout](pixels))
    loaded = data.load(str(tmp_path / "images.npy"))
    assert np.array_equal(loaded.samples.permute(0, 2, 3, 1).reshape(shape).numpy(), pixels)
    assert len(loaded.fingerprint()) == 32


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 8, 8, 3)])
def test_bool_images_are_black_and_white(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 2, shape).astype(bool)
    np.save(tmp_path / "bits.npy", pixels)
    loaded = data.load(str(tmp_path / "bits.npy"))
    assert loaded.samples.dtype == torch.uint8
    assert np.array_equal(loaded.samples.permute(0, 2, 3, 1).reshape(shape).numpy(), np.where(pixels, 255, 0))
    np.save(tmp_path / "points.npy", pixels.reshape(len(pixels), -1))
    with pytest.raises(ValueError, match=r"points.npy holds bool of shape \(20, .*expected images"):
        data.load(str(tmp_path / "points.npy"))


def test_a_dataset_that_is_made_by_hand_has_a_fingerprint():
    samples = torch.randn(20, 2)
    assert data.Dataset("x", samples.T.contiguous().T).fingerprint() == data.Dataset("x", samples).fingerprint()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1e31, -3e38, 1e200, -1e300])
def test_points_beyond_float32_are_refused(tmp_path, capsys, dtype, value, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if abs(value) > np.finfo(dtype).max:
        pytest.skip("not in this type")
    points = POINTS.astype(dtype)
    points[7, 1] = value
    np.save("far.npy", points)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="generated points are float32") as raised:
        warnings.simplefilter("error")
        data.load("far.npy")
    said = str(raised.value)
    assert said.startswith(f"DATA: far.npy has the number {points[7, 1]:g} in row 7, expected at most 1e+30 in size")
    assert main(["train", "far.npy", "--out", "run"]) == 2
    assert capsys.readouterr().err == f"fastgan: {said}\n" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("scale", [1e-40, 1e-200, 1e-310])
def test_points_that_float32_cannot_tell_apart_are_refused(tmp_path, scale):
    np.save(tmp_path / "near.npy", POINTS * scale)
    with pytest.raises(ValueError, match=r"near.npy holds points that differ by \S+ only, expected at least 1e-30"):
        data.load(str(tmp_path / "near.npy"))
    np.save(tmp_path / "same.npy", np.full((30, 2), 0.1))  # whose mean is not 0.1
    with pytest.raises(ValueError, match=r"same.npy holds 30 times the same point"):
        data.load(str(tmp_path / "same.npy"))


@pytest.mark.parametrize("scale", [1e29, 1e-29])
def test_points_of_extreme_scale_are_restored(tmp_path, scale):
    np.save(tmp_path / "far.npy", POINTS * scale / 10)
    loaded = data.load(str(tmp_path / "far.npy"))
    back = data.to_points(loaded.samples, loaded.mean, loaded.scale).double().numpy()
    assert np.abs(back / scale - POINTS / 10).max() < 1e-6
    assert loaded.notes == ()


def test_points_that_float32_rounds_give_a_note(tmp_path):
    np.save(tmp_path / "map.npy", POINTS + 5e6)
    (note,) = data.load(str(tmp_path / "map.npy")).notes
    assert re.fullmatch(r"points differ by \S+ and lie at up to 5e\+06: float32 rounds generated ones", note)


def head(shape, dtype, order=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": order, "shape": shape})
    return file.getvalue()


def bombs(tmp_path):
    """Small files whose headers declare 80 GB of data that is not there."""
    rows = 10**10
    (tmp_path / "plain.npy").write_bytes(head((rows, 1), "<f8") + bytes(100))
    with zipfile.ZipFile(tmp_path / "liar.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", head((rows, 1), "<f8") + bytes(100))
    with zipfile.ZipFile(tmp_path / "images.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", head((rows // 8, 8, 8), "|u1") + bytes(100))
    content = (tmp_path / "liar.npz").read_bytes()  # the archive's directory declares a false size, too
    at = content.rindex(b"PK\x01\x02")
    (tmp_path / "both.npz").write_bytes(content[: at + 24] + struct.pack("<I", 2**32 - 2) + content[at + 28 :])
    return ["plain.npy", "liar.npz", "images.npz", "both.npz"]


def test_files_that_declare_more_than_there_is_memory_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("fastgan.data.sources.free_memory", lambda device: 16 * 10**9)
    for name in bombs(tmp_path):
        with pytest.raises(ValueError, match=r"which takes 240.0 GB, expected at most the 16.0 GB of memory") as raised:
            data.load(str(tmp_path / name))
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_a_compressed_file_larger_than_memory_is_refused_unread(tmp_path, monkeypatch):
    """64 MB of zeros in 64 kB: the array fits the 100 MB of memory, its copies do not."""
    np.savez_compressed(tmp_path / "zeros.npz", np.zeros((64, 10**6), np.uint8)[..., None].reshape(64, 1000, 1000))
    assert (tmp_path / "zeros.npz").stat().st_size < 100_000
    monkeypatch.setattr("fastgan.data.sources.free_memory", lambda device: 10**8)
    with pytest.raises(ValueError, match=r"holds uint8 of shape \(64, 1000, 1000\), which takes 0.2 GB, .* the 0.1 GB"):
        data.load(str(tmp_path / "zeros.npz"), 8)


def test_only_an_array_that_fits_the_memory_is_read(tmp_path):
    np.save(tmp_path / "points.npy", POINTS.astype(np.float32))
    takes = 3 * 8 * POINTS.size
    assert np.array_equal(read_array(tmp_path / "points.npy", takes), POINTS.astype(np.float32))
    with pytest.raises(ValueError, match="holds float32 of shape"):
        read_array(tmp_path / "points.npy", takes - 1)


def damaged(tmp_path):
    """Write damaged files; return (name, part of the message) of each."""
    (tmp_path / "cut.npy").write_bytes(head((30, 2), "<f8") + bytes(479))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("a.npy", head((30, 2), "<f8") + bytes(479))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a.txt", "no array")
    with zipfile.ZipFile(tmp_path / "nested.npz", "w") as archive:
        archive.writestr("a.npz", (tmp_path / "cut.npz").read_bytes())
    np.savez(tmp_path / "flipped.npz", POINTS)
    whole = bytearray((tmp_path / "flipped.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(whole)
    (tmp_path / "negative.npy").write_bytes(head((-30, 2), "<f8") + bytes(480))
    (tmp_path / "version.npy").write_bytes(b"\x93NUMPY\x09\x00" + bytes(100))
    return [
        ("cut.npy", "its header declares 480 bytes, and 479 follow"),
        ("cut.npz", "its header declares 480 bytes, and 479 follow"),
        ("text.npz", ""),
        ("nested.npz", ""),
        ("flipped.npz", "CRC"),
        ("negative.npy", ""),
        ("version.npy", ""),
    ]


def test_damaged_files_give_one_line(tmp_path):
    for name, said in damaged(tmp_path):
        with pytest.raises(ValueError, match=f"{name} is damaged or no numpy file .*{said}") as raised:
            data.load(str(tmp_path / name))
        assert str(raised.value).startswith(f"DATA: {tmp_path / name}") and "\n" not in str(raised.value)
