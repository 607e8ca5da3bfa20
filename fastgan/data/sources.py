"""Where data comes from: `load` and the kinds of source it reads."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fastgan.data import images, tables
from fastgan.data.arrays import read_array
from fastgan.data.dataset import Dataset
from fastgan.data.images import SUFFIXES, channels_first
from fastgan.data.optional import needs, progress_bar
from fastgan.data.stream import Stream

SIZES = (8, 16, 32, 64, 128, 256)  # side of an image in pixels
FOLDER_SIZE = 64  # side for a folder of images if no size is given
MIN_SAMPLES = 16
DIGITS_HELD_OUT = 500
TOY_COUNT = 50_000  # points of `ring` and of `grid`
MEMORY_SHARE = 0.25  # images that take more than this share of the free memory are streamed
LARGEST = 1e30  # number of a point: generated numbers may be many times as large, and must fit float32
KINDS = "'digits', 'ring', 'grid', a folder of images, an .npy, .npz, .parquet or .tar file, or 'hub:NAME'"
TABLES = {".parquet": tables.from_parquet, ".tar": tables.from_shards}  # by file extension


def load(
    source: str, size: int | None = None, *, stream: bool | None = None, device: torch.device | str = "cpu"
) -> Dataset | Stream:
    """The data that `source` names. Images are resized to size x size pixels (centre crop, then bicubic).

    source: "digits" (scikit-learn's 1,797 handwritten digits, 8x8 grey, of which 500 are held out), "ring" (8 Gaussians
    of deviation 0.02 on a circle of radius 2) or "grid" (25 of deviation 0.05, 2 apart); for a folder of such a name
    write ./digits. Or a folder of images (searched with its subfolders and with links to folders, each folder once); an
    `.npy` file, or an `.npz` file that holds one array: uint8 or bool (N, H, W) or (N, H, W, C) with C 1 or 3 are
    images, float (N, d) are points. With the extra `hub` also: a `.parquet` file or a folder of them, a `.tar` shard of
    webdataset or a folder of them, a folder that `datasets` saved with `save_to_disk`, or "hub:NAME" for the split
    `train` of a data set of the Hugging Face hub; their first column of images is used. Transparent pixels are shown
    over white; 32-bit images are scaled by the values of all of them (`fastgan.data.images`).
    size: one of `SIZES`. None: 8 for digits, 64 for a folder or a table, and for an array the smallest size that is not
    below its images' shorter side. Points have no size.
    stream: read the images of a folder or table when they are drawn. None: only if they need more than `MEMORY_SHARE`
    of the free memory of this machine, or of `device`.

    `labels` and `classes` of the result: those of digits; a folder's subfolders, if every image is in one of them; a
    table's column of class labels, or of whole numbers with a name such as label or cls.

    Raises FileNotFoundError, ValueError or ImportError, each with one line that says what was found and what is
    expected. `Dataset.skipped` lists images that cannot be read, `Dataset.notes` changes that the user did not ask for.
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"--size: got {size}, expected one of {', '.join(map(str, SIZES))}")
    if not source:
        raise ValueError(f"DATA: got '', expected {KINDS}")  # Path("") would be the current folder
    path, request = Path(source), _Request(source, size, stream, device)
    data: Dataset | Stream
    if source == "digits":
        data = _digits(size or 8)
    elif source in TOYS:
        _no_size(source, size, 2)
        data = _toy(source)
    elif source.startswith("hub:"):
        data = _table(tables.from_hub(source[4:]), request)
    elif path.is_dir():
        data = _folder(path, request)
    elif path.is_file() and path.suffix.lower() in TABLES:
        data = _table(TABLES[path.suffix.lower()]([path]), request)
    elif path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        data = _array(path, size)
    elif path.exists():
        raise ValueError(f"DATA: got the file {source}, expected {KINDS}")
    else:
        raise FileNotFoundError(f"DATA: {source} does not exist, expected {KINDS}")
    if stream and isinstance(data, Dataset):
        raise ValueError(f"--stream: {source} is held in memory anyway; only folders and tables of images are streamed")
    if data.count < MIN_SAMPLES:
        unread = f" ({len(data.skipped)} more could not be read)" if data.skipped else ""
        raise ValueError(f"DATA: {source} holds {data.count} samples{unread}, expected at least {MIN_SAMPLES}")
    return data


def free_memory(device: torch.device | str = "cpu") -> float:
    """Free bytes of this machine's memory, within a container's limit; for a GPU, the smaller of this and its own.
    Infinity if the system does not say."""
    free: float = math.inf
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        free = min(free, int((group / "memory.max").read_text()) - used)
    if torch.device(device).type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free


def _digits(size: int) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(needs("scikit-learn")) from error
    digits = load_digits()
    shades = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # shades 0..16
    samples = torch.from_numpy(images.resized(shades[..., None], size))
    labels = torch.from_numpy(digits.target).long()
    # The same split for every seed, so that runs can be compared.
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    held_out, train = order[:DIGITS_HELD_OUT], order[DIGITS_HELD_OUT:]
    return Dataset(
        "digits",
        samples[train],
        held_out=samples[held_out],
        labels=labels[train],
        held_out_labels=labels[held_out],
        classes=tuple("0123456789"),
    )


def _toy(name: str) -> Dataset:
    """Points around centres, the same points for every seed."""
    centres, std = TOYS[name]
    random = torch.Generator().manual_seed(0)
    indices = torch.randint(len(centres), (TOY_COUNT,), generator=random)
    points = centres[indices] + std * torch.randn(TOY_COUNT, 2, generator=random)
    data = _points(Path(name), points.numpy())
    assert data.mean is not None and data.scale is not None
    data.modes, data.mode_std = ((centres - data.mean) / data.scale).float(), std / data.scale
    return data


_CIRCLE = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
_STEPS = torch.arange(-4, 5, 2, dtype=torch.float64)
TOYS = {  # centres, deviation
    "ring": (torch.stack([2 * _CIRCLE.cos(), 2 * _CIRCLE.sin()], dim=1), 0.02),
    "grid": (torch.cartesian_prod(_STEPS, _STEPS), 0.05),
}


class _Request(NamedTuple):
    """The arguments of `load` that matter for images."""

    source: str
    size: int | None
    stream: bool | None
    device: torch.device | str


def _folder(folder: Path, request: _Request) -> Dataset | Stream:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _table(tables.from_disk(folder), request)
    everything, problems, notes = images.find_files(folder)
    files = [p for p in everything if p.suffix.lower() in SUFFIXES]
    of_tables = {ending: [p for p in everything if p.suffix.lower() == ending] for ending in TABLES}
    if files:

        def identity() -> bytes:
            return b"".join(os.fsencode(f"{file.relative_to(folder)}\n{file.stat().st_size}\n") for file in files)

        read = functools.partial(images.read_file, files)
        labels = images.folders_as_classes(folder, files)
        data = _read(folder.resolve().name or "images", len(files), read, identity, request, labels)
    elif any(of_tables.values()):
        ending = next(ending for ending, found in of_tables.items() if found)
        data = _table(TABLES[ending](of_tables[ending]), request)
    else:
        more = f"; {problems[0]}" if problems else ""
        raise ValueError(f"DATA: {folder} holds no image, expected files in {' '.join(sorted(SUFFIXES))}{more}")
    data.skipped, data.notes = (*problems, *data.skipped), (*notes, *data.notes)
    return data


def _table(rows, request: _Request) -> Dataset | Stream:
    """The first column of images of a table of Hugging Face's `datasets`."""
    rows, column, labels = tables.columns(request.source, rows)
    read = functools.partial(images.read_row, rows, column)

    def identity() -> bytes:
        seen = [read(request.size or FOLDER_SIZE, i * len(rows) // 64)[0] for i in range(64)]
        return str(len(rows)).encode() + b"".join(b"" if one is None else one.pixels.tobytes() for one in seen)

    name = Path(request.source.removeprefix("hub:")).resolve().stem
    return _read(name, len(rows), read, identity, request, labels)


def _read(
    name: str, count: int, read: Callable, identity: Callable[[], bytes], request: _Request, labels: images.Labels
) -> Dataset | Stream:
    """`count` images, in memory or streamed. read: (size, index) -> a picture, or the problem with it."""
    images.check_pillow()
    side = request.size or FOLDER_SIZE
    read = functools.partial(read, side)
    stream = request.stream
    if stream is None:
        stream = count * 3 * side * side > MEMORY_SHARE * free_memory(request.device)
    # For a stream, look only at up to a thousand images, spread over the data.
    sampled = min(count, 1000) if stream else count
    pictures, kept, skipped = _pictures(read, [i * count // sampled for i in range(sampled)], quiet=stream)
    if not pictures:
        many = f"{sampled} images" if stream else f"the {count} images"
        raise ValueError(f"DATA: none of {many} in {request.source} can be read; the first is {skipped[0]}")
    channels = 1 if all(p.pixels.ndim == 2 for p in pictures) else 3  # RGB if one image has colours
    whites = images.whites(request.source, pictures)
    notes = images.notes(pictures, whites)
    if request.size is None:
        notes.insert(0, f"images are cropped and resized to {side} x {side}; --size takes another")
    if stream:
        data = Stream(name, count, functools.partial(images.read_bytes, read, whites), side, channels, identity())
        data.notes, data.labels, data.classes = tuple(notes), labels.numbers, labels.classes
        return data
    samples = torch.empty(len(pictures), channels, side, side, dtype=torch.uint8)
    for i in reversed(range(len(samples))):
        pixels, _ = images.in_bytes(pictures.pop(), whites)  # pop frees it, so that not all are in memory twice
        assert pixels is not None  # `whites` fits all pictures
        samples[i] = channels_first(pixels, channels)
    of_kept = None if labels.numbers is None else labels.numbers[kept]
    return Dataset(name, samples, labels=of_kept, classes=labels.classes, skipped=tuple(skipped), notes=tuple(notes))


def _pictures(read: images.Read, indices: list[int], quiet: bool) -> tuple[list[images.Picture], list[int], list[str]]:
    """The pictures that can be read, their indices, and the problems with the others."""
    pictures, kept, skipped = [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            results = pool.map(read, indices)
            bar = progress_bar(results, hidden=quiet, desc="reading images", total=len(indices))
            for index, (picture, problem) in zip(indices, bar):
                if picture is None:
                    skipped.append(problem)
                else:
                    pictures.append(picture)
                    kept.append(index)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pictures, kept, skipped


def _array(path: Path, size: int | None) -> Dataset:
    array = read_array(path, free_memory("cpu"))
    if array.dtype in (np.uint8, np.bool_) and (array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))):
        pixels = array[..., None] if array.ndim == 3 else array
        if pixels.size == 0:
            raise ValueError(f"DATA: {path} holds an empty array of shape {array.shape}")
        if pixels.dtype == np.bool_:
            pixels = pixels * np.uint8(255)
        height, width = pixels.shape[1:3]
        side = size or next((s for s in SIZES if s >= min(height, width)), SIZES[-1])
        note = f"images of {height} x {width} are cropped and resized to {side} x {side}; --size takes another"
        samples = torch.from_numpy(images.resized(pixels, side))
        return Dataset(path.stem, samples, notes=() if size or (height, width) == (side, side) else (note,))
    if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 0:
        _no_size(str(path), size, array.shape[1])
        return _points(path, array)
    raise ValueError(
        f"DATA: {path} holds {array.dtype} of shape {array.shape}, "
        "expected images, uint8 (N, H, W) or (N, H, W, C) with C 1 or 3, or points, float (N, d)"
    )


def _no_size(source: str, size: int | None, d: int) -> None:
    if size is not None:
        raise ValueError(f"--size: got {size}, but {source} holds points of {d} numbers, not images")


def _points(path: Path, array: np.ndarray) -> Dataset:
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(broken):
        raise ValueError(f"DATA: {path} has NaN or infinity in {len(broken)} rows, the first is row {broken[0]}")
    if len(array) == 0:
        raise ValueError(f"DATA: {path} holds 0 points, expected at least {MIN_SAMPLES}")
    row, column = divmod(int(array.argmax() if array.max() > -array.min() else array.argmin()), array.shape[1])
    largest = abs(float(array[row, column]))
    if largest > LARGEST:
        raise ValueError(
            f"DATA: {path} has the number {array[row, column]:g} in row {row}, expected at most {LARGEST:g} in size: "
            "generated points are float32"
        )
    if (array == array[0]).all():
        raise ValueError(f"DATA: {path} holds {len(array)} times the same point, expected points that differ")
    points = array.astype(np.float64)
    mean = points.mean(axis=0)
    points -= mean
    scale = float(np.sqrt((points**2).mean()))
    if scale < 1 / LARGEST:
        raise ValueError(
            f"DATA: {path} holds points that differ by {np.abs(points).max():.3g} only, expected at least "
            f"{1 / LARGEST:g}: generated points are float32"
        )
    points /= scale
    data = Dataset(
        path.stem, torch.from_numpy(points.astype(np.float32)), mean=torch.from_numpy(mean).float(), scale=scale
    )
    if largest > 1e5 * scale:
        data.notes = (f"points differ by {scale:.3g} and lie at up to {largest:.3g}: float32 rounds generated ones",)
    return data
