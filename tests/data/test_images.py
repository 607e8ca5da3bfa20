"""Samples from pictures of every mode, the files that are found in a folder, and the notes on automatic changes."""

import itertools
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest

from fastgan import data
from fastgan.cli import main
from fastgan.data import images

# Packages of the extra `train`; a machine that only measures kernels may lack them.
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")


def save(folder, pictures, suffix="png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        picture.save(folder / f"{i:02d}.{suffix}", **options)
    return folder


def loaded_and_streamed(folder, size=8):
    """Load the samples into memory, and check that a stream gives the same."""
    held, stream = data.load(str(folder), size), data.load(str(folder), size, stream=True)
    assert (stream.some(held.count) == held.samples).all()
    assert stream.notes == held.notes
    return held


def greys(count=16, dtype=np.float32):
    """Images of one value each, in steps from 0 to 1."""
    return [np.full((8, 8), i / (count - 1), dtype) for i in range(count)]


EXPECTED = [i * 17 for i in range(16)]  # 0 to 255


def first_pixels(held):
    return held.samples[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_images_are_scaled_by_the_range_of_all(tmp_path, white):
    folder = save(tmp_path / "float", [grey * np.float32(white) for grey in greys()], "tif")
    held = loaded_and_streamed(folder)
    assert held.samples.shape == (16, 1, 8, 8) and first_pixels(held) == EXPECTED
    assert held.notes == (f"float images: 0 is black and {white} is white",)


@pytest.mark.parametrize("white", [255, 65535])
def test_int32_images_are_scaled_by_the_range_of_all(tmp_path, white):
    pictures = [np.rint(grey * white).astype(np.int32) for grey in greys(dtype=np.float64)]
    held = loaded_and_streamed(save(tmp_path / "int", pictures, "tif"))
    assert held.samples.shape == (16, 1, 8, 8) and first_pixels(held) == EXPECTED
    assert held.notes == (f"int32 images: 0 is black and {white} is white",)


def test_a_dark_picture_is_not_scaled_by_its_own_range(tmp_path):
    """A frame without values above 255 is dark, if other frames of the film have 16 bits."""
    pictures = [np.full((8, 8), value, np.int32) for value in (100, *[60_000] * 19)]
    assert first_pixels(loaded_and_streamed(save(tmp_path / "film", pictures, "tif")))[:2] == [0, 233]
    dim = [np.full((8, 8), value, np.float32) for value in (1.0, *[200.0] * 19)]
    assert first_pixels(loaded_and_streamed(save(tmp_path / "dim", dim, "tif")))[:2] == [1, 200]


def test_values_a_little_outside_are_clipped_and_others_refused(tmp_path):
    """A bicubic resize overshoots a little: not to twice the range, and not to -1."""
    pictures = greys()
    pictures[0], pictures[15] = pictures[0] - np.float32(0.05), pictures[15] + np.float32(0.05)
    assert first_pixels(loaded_and_streamed(save(tmp_path / "over", pictures, "tif"))) == EXPECTED
    for name, change, said in [
        ("signed", lambda x: 2 * x - 1, r"float images with values from -1 \(.*00.tif\), expected 0 to 1"),
        ("bright", lambda x: 5 * x, r"float images with values up to 5 \(.*15.tif\), expected 0 to one of 1, 255, 65"),
        ("huge", lambda x: 1e6 * x, r"float images with values up to 1e\+06"),
    ]:
        folder = save(tmp_path / name, [change(grey).astype(np.float32) for grey in greys()], "tif")
        for stream in (False, True):
            with pytest.raises(ValueError, match=said) as raised:
                data.load(str(folder), 8, stream=stream)
            assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_a_float_image_with_nan_is_named_and_left_out(tmp_path):
    pictures = [*greys(), np.full((8, 8), np.nan, np.float32)]
    held = data.load(str(save(tmp_path / "nan", pictures, "tif")), 8)
    assert held.count == 16
    assert [name.endswith("16.tif (it holds NaN or infinity)") for name in held.skipped] == [True]


def test_a_picture_of_signed_bytes_is_named_and_left_out(tmp_path):
    folder = save(tmp_path / "signed", [np.full((8, 8), i, np.uint8) for i in range(17)], "tif")
    Image.new("L", (8, 8), 200).save(folder / "16.tif", tiffinfo={images.SAMPLE_FORMAT: 2})
    held = data.load(str(folder), 8)
    assert held.count == 16
    assert [name.partition("16.tif ")[2] for name in held.skipped] == [
        "(it holds signed 8-bit values, expected unsigned ones)"
    ]


def test_a_stream_skips_a_file_outside_the_range_of_the_others(tmp_path):
    folder = save(tmp_path / "float", greys(), "tif")
    stream = data.load(str(folder), 8, stream=True)
    Image.fromarray(np.full((8, 8), 200, np.float32)).save(folder / "03.tif")  # after the stream has read the range
    image, _, problems = stream[3]
    assert image[0, 0, 0] == 4 * 17
    assert len(problems) == 1 and "03.tif (float values from 200 to 200, expected 0 to 1 as in the oth" in problems[0]


def tiff(bits, content, width, height, photometric=1):
    """The bytes of an uncompressed grey TIFF that Pillow can read but not write."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, height)]
    tags.append((279, len(content)))
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, offset if tag == 273 else value) for tag, value in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + struct.pack("<I", 0) + content


def twelve_bits(value, count):
    return bytes([value >> 4, ((value & 15) << 4) | (value >> 8), value & 255]) * (count // 2)


@pytest.mark.parametrize("kind", ["16 bits", "big-endian", "12 bits", "white is 0"])
def test_every_kind_of_deep_grey(tmp_path, kind):
    """Values are scaled by the range of the type; here they reach half of it."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(16):
        value = i * 2048 + 7
        if kind == "12 bits":
            (folder / f"{i:02d}.tif").write_bytes(tiff(12, twelve_bits(i * 128 + 7, 64), 8, 8))
        elif kind == "white is 0":
            (folder / f"{i:02d}.tif").write_bytes(tiff(16, np.full(64, 65535 - value, "<u2").tobytes(), 8, 8, 0))
        elif kind == "big-endian":
            Image.frombytes("I;16B", (8, 8), np.full(64, value, ">u2").tobytes()).save(folder / f"{i:02d}.tif")
        else:
            Image.fromarray(np.full((8, 8), value, np.uint16)).save(folder / f"{i:02d}.png")
    held = loaded_and_streamed(folder)
    assert held.samples.shape == (16, 1, 8, 8) and first_pixels(held) == [i * 8 for i in range(16)]
    assert held.notes == ()


def png(width, height, bits, colours, *chunks):
    """The bytes of a PNG with these chunks, which Pillow cannot write."""

    def chunk(name, content):
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = ((b"IHDR", head), *chunks, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, chunks))


def with_alpha(mode, alpha):
    """(a picture of one colour with `alpha`, options for saving it), in every mode that has transparency."""
    if mode == "LA":
        return Image.merge("LA", [Image.new("L", (8, 8), 40), Image.new("L", (8, 8), alpha)]), {}
    if mode == "RGBA":
        return Image.merge("RGBA", [*Image.new("RGB", (8, 8), (200, 40, 0)).split(), Image.new("L", (8, 8), alpha)]), {}
    picture = Image.new("P" if mode == "P" else mode.split()[0], (8, 8), 3 if mode == "P" else 40)
    if mode == "P":
        picture.putpalette([0, 0, 0] * 3 + [200, 40, 0])
        return picture, {"transparency": bytes([255, 255, 255, alpha])}
    if mode == "RGB":
        return Image.new("RGB", (8, 8), (200, 40, 0)), {"transparency": (200, 40, 0) if alpha == 0 else (1, 1, 1)}
    return picture, {"transparency": 40 if alpha == 0 else 1}


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB"])
def test_transparent_pixels_become_white_and_opaque_ones_stay(tmp_path, mode):
    clear, how = with_alpha(mode, 0)
    held = loaded_and_streamed(save(tmp_path / "clear", [clear] * 16, **how))
    assert (held.samples == 255).all()
    assert held.notes == ("transparent pixels are shown over white, in 16 of 16 images",)
    opaque, how = with_alpha(mode, 255)
    held = loaded_and_streamed(save(tmp_path / "opaque", [opaque] * 16, **how))
    grey = mode in ("LA", "L")
    assert held.samples.shape == (16, 1 if grey else 3, 8, 8)
    assert held.samples[0, :, 0, 0].tolist() == ([40] if grey else [200, 40, 0])
    assert held.notes == ()


def test_the_transparent_value_of_16_bits_becomes_white(tmp_path):
    """Only the value that the file names, and not its neighbour with the same upper 8 bits."""
    (tmp_path / "deep").mkdir()
    rows = zlib.compress((b"\0" + struct.pack(">4H", 40 * 256, 40 * 256 + 1, 0, 65535) * 2) * 8)
    content = png(8, 8, 16, 0, (b"tRNS", struct.pack(">H", 40 * 256)), (b"IDAT", rows))
    for i in range(16):
        (tmp_path / "deep" / f"{i:02d}.png").write_bytes(content)
    held = loaded_and_streamed(tmp_path / "deep")
    assert held.samples[0, 0].tolist() == [[255, 40, 0, 255] * 2] * 8
    assert held.notes == ("transparent pixels are shown over white, in 16 of 16 images",)


def test_half_transparent_pixels_become_half_white(tmp_path):
    picture, how = with_alpha("RGBA", 128)
    held = loaded_and_streamed(save(tmp_path / "half", [picture] * 16, **how))
    expected = np.array([200, 40, 0]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(held.samples[0, :, 0, 0].numpy() - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_opaque_modes(tmp_path, mode):
    """As Pillow converts them: to grey if the mode has no colour, otherwise to RGB."""
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    picture = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=2)).convert(mode)
    folder = save(tmp_path / "some", [picture] * 16, "png" if mode in ("1", "L", "P", "RGB") else "tif")
    held = loaded_and_streamed(folder)
    expected = np.asarray(picture.convert("L" if mode in ("1", "L") else "RGB")).reshape(8, 8, -1)
    assert (held.samples[0].permute(1, 2, 0).numpy() == expected).all()


def test_a_folder_behind_a_link_is_read(tmp_path):
    """Earlier, 20 of 40 images were skipped without a message."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    save(tmp_path / "train" / "here", pictures[:20])
    (tmp_path / "train" / "linked").symlink_to(save(tmp_path / "elsewhere" / "deep", pictures[20:]).parent)
    held = loaded_and_streamed(tmp_path / "train")
    assert held.count == 40 and held.skipped == () and held.notes == ()
    assert (held.samples.permute(0, 2, 3, 1).numpy() == np.stack(pictures)).all()


def test_links_to_folders_already_read_are_followed_once_and_give_a_note(tmp_path):
    """Each folder is read once, under its own path, however many links lead to it."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    folder = save(tmp_path / "train" / "z", pictures)
    (tmp_path / "train" / "a").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path / "train")
    held = loaded_and_streamed(tmp_path / "train")
    assert held.count == 20 and held.skipped == ()
    assert len(held.notes) == 1 and held.notes[0].startswith("2 links lead to folders that are read already, ")
    (tmp_path / "train" / "a").unlink()
    assert loaded_and_streamed(tmp_path / "train").notes == (f"{folder / 'up'} leads to a folder that is read already",)


def test_links_that_lead_nowhere_are_named(tmp_path):
    folder = save(tmp_path / "train", greys(dtype=np.float32), "tif")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "self.png").symlink_to(folder / "self.png")
    os.mkfifo(folder / "pipe.png")  # reading one would wait for ever
    held = loaded_and_streamed(folder)
    assert held.count == 16
    assert [name.split(" (")[0] for name in held.skipped] == [str(folder / "gone"), str(folder / "self.png")]
    assert data.load(str(folder), 8, stream=True).skipped == held.skipped
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no image, expected .*gone \(No such file or directory\)"):
        data.load(str(tmp_path / "empty"), 8)


def test_names_that_are_not_utf_8(tmp_path, capfd, monkeypatch):
    """Linux allows such names: in memory, in a stream and in a run."""
    monkeypatch.chdir(tmp_path)
    pictures = list(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    folder = save(tmp_path / os.fsdecode(b"f\xff"), pictures)
    (folder / "03.png").rename(folder / os.fsdecode(b"03\xfe.png"))
    (folder / os.fsdecode(b"04\xfe.png")).write_bytes(b"damaged")
    stream = data.load(str(folder), 8, stream=True)
    assert stream.count == 21 and len(stream.fingerprint()) == 32
    batch, _, problems = next(stream.batches(0, 21, 0, workers=1))
    assert batch.shape == (21, 3, 8, 8) and len(problems) == 1
    small = ["--size", "8", "--steps", "1", "--batch", "8", "--width", "4", "--latent-dim", "4", "--device", "cpu"]
    for how in (["--stream", "--workers", "0"], ["--no-stream"]):
        assert main(["train", str(folder), *small, *how]) == 0
        said = capfd.readouterr()
        assert "Traceback" not in said.err and said.out.startswith("runs/f\\udcff-")


def test_loading_does_not_change_the_warning_filters(tmp_path, monkeypatch):
    """They belong to the whole process. If two threads change and restore them at once, one restores the change of the
    other: in 5 of 10 loads every warning was ignored afterwards. So loading never changes them."""
    from PIL import ImageOps

    folder = save(tmp_path / "many", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    before, fit, seen = list(warnings.filters), ImageOps.fit, []

    def watched(*args):
        seen.append(list(warnings.filters))
        return fit(*args)

    monkeypatch.setattr(ImageOps, "fit", watched)
    loads = [threading.Thread(target=data.load, args=(str(folder), 8)) for _ in range(2)]
    for load in loads:
        load.start()
    for load in loads:
        load.join()
    data.load(str(folder), 8, stream=True).some(40)
    assert len(seen) == 4 * 40 and all(filters == before for filters in seen)
    assert warnings.filters == before


def test_a_picture_that_decompresses_to_gigabytes_is_named_and_left_out(tmp_path):
    folder = save(tmp_path / "bomb", [grey.astype(np.uint8) for grey in greys()])
    (folder / "zz.png").write_bytes(png(60_000, 60_000, 8, 2, (b"IDAT", zlib.compress(bytes(100)))))
    held = data.load(str(folder), 8)
    assert held.count == 16
    assert len(held.skipped) == 1 and "zz.png (Image size (3600000000 pixels) exceeds limit" in held.skipped[0]


def test_a_default_size_that_changes_the_images_gives_a_note(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.save("mnist.npy", pixels)
    line = "images of 28 x 28 are cropped and resized to 32 x 32; --size takes another"
    assert data.load("mnist.npy").notes == (line,)
    assert data.load("mnist.npy", 32).notes == ()
    np.save("fits.npy", pixels[:, :16, :16])
    assert data.load("fits.npy").notes == ()
    np.save("wide.npy", pixels[:, :16])
    line_of_wide = "images of 16 x 28 are cropped and resized to 16 x 16; --size takes another"
    assert data.load("wide.npy").notes == (line_of_wide,)
    folder = save(tmp_path / "photos", list(pixels))
    for stream in (False, True):
        notes = data.load(str(folder), stream=stream).notes
        assert notes == ("images are cropped and resized to 64 x 64; --size takes another",)
    small = ["--steps", "1", "--batch", "8", "--width", "4", "--latent-dim", "4", "--device", "cpu"]
    assert main(["train", "mnist.npy", *small, "--out", "run"]) == 0
    assert f"fastgan: {line}\n" in capsys.readouterr().err


def test_identical_images_can_be_trained_on_and_judged(tmp_path, capsys, monkeypatch):
    """Their features have no deviation, so distances cannot be measured in its units."""
    monkeypatch.chdir(tmp_path)
    small = ["--steps", "2", "--batch", "8", "--width", "4", "--latent-dim", "4", "--device", "cpu"]
    for value, kind in itertools.product((0, 128, 255), ("grey", "colour")):
        name = f"{kind}-{value}"
        np.save(f"{name}.npy", np.full((20, 8, 8, 1 if kind == "grey" else 3), value, np.uint8))
        assert main(["train", f"{name}.npy", *small, "--out", name]) == 0
        assert "FD(random-cnn)" in capsys.readouterr().out
