"""Files of a run: damage is found before anything is read, and writing changes no other file."""

import os
import random
import stat
import zipfile

import pytest
import torch

from fastgan.checkpoints import check_same_network, read_checkpoint, write_atomically
from fastgan.networks import mlp
from fastgan.trainer import GANTrainer


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    model = GANTrainer(mlp(4, 2, 16, 2), mlp(2, 1, 16, 2), latent_dim=4, device="cpu")
    model.step(torch.randn(8, 2))
    model.save(tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def data_of(path):
    """(first byte, byte after the last) of the content of each part of the archive."""
    whole, spans = path.read_bytes(), []
    for part in zipfile.ZipFile(path).infolist():
        name_and_extra = whole[part.header_offset + 26 : part.header_offset + 30]
        first = part.header_offset + 30 + int.from_bytes(name_and_extra[:2], "little")
        first += int.from_bytes(name_and_extra[2:], "little")
        spans.append((first, first + part.file_size))
    return spans


def test_a_flipped_bit_in_the_data_is_found_wherever_it_is(path):
    whole, chance = path.read_bytes(), random.Random(0)
    spans = data_of(path)
    assert sum(b - a for a, b in spans) > 10_000
    for first, end in spans:  # one in each part, from the weights to the version of the format
        at = chance.randrange(first, end)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt: is cut short or damaged.*checksum") as raised:
            read_checkpoint(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    assert read_checkpoint(path)["step"] == 1


def test_a_flipped_bit_anywhere_changes_no_number(path):
    """Outside the data it is either found, or in bytes that are not read."""
    whole, chance = path.read_bytes(), random.Random(1)
    expected = read_checkpoint(path)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert all(torch.equal(found["ema"][key], value) for key, value in expected["ema"].items())
            assert found["settings"] == expected["settings"] and found["step"] == 1


def test_a_compressed_archive_is_refused_unread(path):
    """torch.save does not compress; a small file may decompress to gigabytes."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: is cut short or damaged.*compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": None}, "holds NoneType as 'settings'"),
        ({"step": "7"}, "holds str as 'step'"),
        ({"step": -1}, "holds -1 as 'step'"),
        ({"ema": [1, 2]}, "holds list as 'ema'"),
        ({"random": {}}, "holds dict as 'random'"),
        ({"generator": ...}, "holds nothing as 'generator'"),
    ],
)
def test_wrong_content_is_named(path, change, said):
    checkpoint = {**torch.load(path, weights_only=True), **change}
    torch.save({name: value for name, value in checkpoint.items() if value is not ...}, path)
    with pytest.raises(ValueError, match=said) as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_state_that_holds_no_tensors_is_another_network():
    network = mlp(2, 1, 4, 1)
    state = {**network.state_dict(), "0.weight": "none"}
    with pytest.raises(ValueError, match=r"x.pt: is of another D: 0.weight is a str in the file, expected \(4, 2\)"):
        check_same_network("x.pt", "D", network, state)
    with pytest.raises(ValueError, match=r"x.pt: is of another D: its parameters have no names"):
        check_same_network("x.pt", "D", network, {0: torch.zeros(1), **state})


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def names_during_a_write(folder):
    """Names of the files in `folder` while one is written there."""
    seen = []

    def write(file):
        seen.extend(item.name for item in folder.iterdir())
        file.write(b"new")

    write_atomically(folder / "x", write)
    return seen


def test_a_planted_link_is_not_written_through(tmp_path):
    """Others with access to the folder can plant links, so the names of temporary files are unpredictable."""
    precious, folder = tmp_path / "precious", tmp_path / "run"
    folder.mkdir()
    precious.write_bytes(b"old")
    planted = f".x.{os.getpid()}.tmp"
    (folder / planted).symlink_to(precious)
    (folder / "x").symlink_to(precious)  # replaced, not followed
    first, second = (set(names_during_a_write(folder)) - {planted, "x"} for _ in range(2))
    assert len(first) == len(second) == 1 and first != second
    assert precious.read_bytes() == b"old"
    assert (folder / "x").read_bytes() == b"new" and not (folder / "x").is_symlink()
    assert {item.name for item in folder.iterdir()} == {planted, "x"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_only_the_old_file(tmp_path, error):
    (tmp_path / "x").write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as raised:
        write_atomically(tmp_path / "x", write)
    assert isinstance(error, KeyboardInterrupt) or f"cannot write {tmp_path / 'x'}: No space" in str(raised.value)
    assert [item.name for item in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_name_of_the_maximum_length(tmp_path):
    write_atomically(tmp_path / ("n" * 255), lambda file: file.write(b"new"))
    assert (tmp_path / ("n" * 255)).read_bytes() == b"new"


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    """Otherwise a user who may write in /dev would lose /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"cannot write .*pipe: it is no regular file"):
        write_atomically(tmp_path / "pipe", lambda file: file.write(b"new"))
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
