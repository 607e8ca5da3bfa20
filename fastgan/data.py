"""Training data, held whole in memory: images as uint8 (N, C, H, W), points as float32 (N, d).

`load` reads scikit-learn's digits, a folder of images, or one array out of an `.npy` or `.npz` file. Nothing is
augmented and nothing shuffled: the trainer draws rows by random index.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SIZES = (8, 16, 32, 64, 128)  # side of an image in pixels
FOLDER_SIZE = 64  # side for a folder of images where none is asked for
MIN_SAMPLES = 16
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DIGITS_HELD_OUT = 500


def needs(module: str) -> str:
    """The one line for a missing optional dependency."""
    return f"{module} is not installed; it comes with: pip install 'fastgan[train]'"


@dataclass
class Dataset:
    """name: what to call a run on it. samples: uint8 (N, C, H, W) or float32 (N, d), on the CPU.

    mean, scale: for points, the (d,) float32 mean and the one float by which the samples were shifted and divided, so
    that they have zero mean and unit scale; points = samples * scale + mean. None for images.
    held_out: samples (M, ...) of the same kind that are not to be trained on, or None. labels, held_out_labels: int64.
    skipped: files that could not be read.
    """

    name: str
    samples: Tensor
    mean: Tensor | None = None
    scale: float | None = None
    held_out: Tensor | None = None
    labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    skipped: tuple[str, ...] = ()

    @property
    def is_images(self) -> bool:
        return self.samples.ndim == 4

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.samples.shape[1:])

    def fingerprint(self) -> str:
        """A hash of every sample, to tell on resume whether the data is still the same."""
        digest = hashlib.blake2b(repr((self.sample_shape, str(self.samples.dtype))).encode(), digest_size=16)
        digest.update(self.samples.numpy().data)
        return digest.hexdigest()


def to_unit(samples: Tensor) -> Tensor:
    """What the networks see: uint8 0..255 -> float32 in [-1, 1]; points as they are."""
    return samples.float() / 127.5 - 1 if samples.dtype == torch.uint8 else samples


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 0..255, rounded; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_points(samples: Tensor, mean: Tensor, scale: float) -> Tensor:
    """Generated points (N, d) back in the units of the file they were learned from."""
    return samples * scale + mean


def load(source: str, size: int | None = None) -> Dataset:
    """The data that `source` names, images brought to size x size pixels (middle crop, then bicubic).

    source: "digits" (scikit-learn's 1,797 handwritten digits, 8x8 grey, of which 500 are held out; never a folder of
    that name: write ./digits for it), a folder (searched with its subfolders), an `.npy` file, or an `.npz` file that
    holds one array. Arrays: uint8 (N, H, W) or (N, H, W, C) with C 1 or 3 are images, float (N, d) are points.
    size: one of `SIZES`; None keeps 8 for digits, takes 64 for a folder, and for an array the smallest size that is not
    below its images' shorter side. Points take none.

    Raises FileNotFoundError, ValueError or ImportError, each with one line that says what came and what is expected.
    Images that cannot be read are left out and named in `Dataset.skipped`.
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"--size: got {size}, expected one of {', '.join(map(str, SIZES))}")
    path = Path(source)
    if source == "digits":
        data = _digits(size or 8)
    elif path.is_dir():
        data = _folder(path, size or FOLDER_SIZE)
    elif path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        data = _array(path, size)
    elif path.exists():
        raise ValueError(f"DATA: got the file {source}, expected 'digits', a folder of images, or an .npy or .npz file")
    else:
        raise FileNotFoundError(
            f"DATA: {source} does not exist, expected 'digits', a folder of images, or an .npy or .npz file"
        )
    if len(data.samples) < MIN_SAMPLES:
        unread = f" ({len(data.skipped)} more could not be read)" if data.skipped else ""
        raise ValueError(f"DATA: {source} holds {len(data.samples)} samples{unread}, expected at least {MIN_SAMPLES}")
    return data


def _digits(size: int) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(needs("scikit-learn")) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # shades 0..16
    samples = torch.from_numpy(_resized(images[..., None], size))
    labels = torch.from_numpy(digits.target).long()
    # One fixed split, whatever the run's seed, so that runs can be compared.
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    held_out, train = order[:DIGITS_HELD_OUT], order[DIGITS_HELD_OUT:]
    return Dataset(
        "digits",
        samples[train],
        held_out=samples[held_out],
        labels=labels[train],
        held_out_labels=labels[held_out],
    )


def _folder(folder: Path, size: int) -> Dataset:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"DATA: {folder} holds no image, expected files in {' '.join(sorted(IMAGE_SUFFIXES))}")
    read = _image_reader(size)
    images, skipped = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            results = progress_bar(pool.map(read, files), desc="reading images", total=len(files))
            for file, (image, problem) in zip(files, results):
                if image is None:
                    skipped.append(f"{file} ({problem})")
                else:
                    images.append(image)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not images:
        raise ValueError(f"DATA: none of the {len(files)} images in {folder} can be read; the first is {skipped[0]}")
    grey = all(image.ndim == 2 for image in images)
    if not grey:  # one colour image makes all of them three channels
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    samples = torch.from_numpy(np.stack(images))
    samples = samples[:, None] if grey else samples.permute(0, 3, 1, 2).contiguous()
    return Dataset(folder.resolve().name or "images", samples, skipped=tuple(skipped))


def _image_reader(size: int):
    """file -> (uint8 (size, size) if it is grey, else (size, size, 3); None) or (None, what is wrong with it)."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(needs("pillow")) from error

    def read(file: Path):
        try:
            with warnings.catch_warnings(), Image.open(file) as image:
                warnings.simplefilter("ignore")
                image.draft("RGB", (size, size))  # a large JPEG is decoded at a fraction of its size
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I;16"):  # 16-bit grey, which convert("L") would clip and not scale
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
                return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)), None
        # A damaged file raises whatever its decoder happens to raise, SyntaxError and struct.error among them.
        except Exception as error:
            return None, str(error).split("\n")[0] or type(error).__name__

    return read


def _array(path: Path, size: int | None) -> Dataset:
    array = _read_array(path)
    if array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))):
        images = array[..., None] if array.ndim == 3 else array
        if images.size == 0:
            raise ValueError(f"DATA: {path} holds an empty array of shape {array.shape}")
        short = min(images.shape[1:3])
        size = size or next((s for s in SIZES if s >= short), SIZES[-1])
        return Dataset(path.stem, torch.from_numpy(_resized(images, size)))
    if array.dtype in (np.float16, np.float32, np.float64) and array.ndim == 2 and array.shape[1] > 0:
        if size is not None:
            raise ValueError(f"--size: got {size}, but {path} holds points of {array.shape[1]} numbers, not images")
        return _points(path, array)
    raise ValueError(
        f"DATA: {path} holds {array.dtype} of shape {array.shape}, "
        "expected images, uint8 (N, H, W) or (N, H, W, C) with C 1 or 3, or points, float (N, d)"
    )


def _read_array(path: Path) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if len(names) == 1:
                return content[names[0]]
    except OSError as error:
        if error.errno:  # the file system's own word, which is better than ours
            raise
        raise ValueError(f"DATA: {path} is damaged or no numpy file ({error})") from error
    except Exception as error:  # zipfile.BadZipFile, EOFError, ValueError and others, depending on where it is cut
        raise ValueError(f"DATA: {path} is damaged or no numpy file ({str(error).splitlines()[0]})") from error
    raise ValueError(f"DATA: {path} holds {len(names)} arrays ({', '.join(names) or 'none'}), expected exactly one")


def _points(path: Path, array: np.ndarray) -> Dataset:
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(broken):
        raise ValueError(f"DATA: {path} has NaN or infinity in {len(broken)} rows, the first is row {broken[0]}")
    if len(array) == 0:
        raise ValueError(f"DATA: {path} holds 0 points, expected at least {MIN_SAMPLES}")
    points = array.astype(np.float64)
    mean = points.mean(axis=0)
    scale = float(np.sqrt(((points - mean) ** 2).mean()))
    if scale == 0:
        raise ValueError(f"DATA: {path} holds {len(points)} times the same point, expected points that differ")
    samples = ((points - mean) / scale).astype(np.float32)
    return Dataset(path.stem, torch.from_numpy(samples), mean=torch.from_numpy(mean).float(), scale=scale)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, H, W, C) -> uint8 (N, C, size, size)."""
    if images.shape[1:3] != (size, size):
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise ImportError(needs("pillow")) from error

        def resize(image: np.ndarray) -> np.ndarray:
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            resized = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))
            return resized.reshape(size, size, -1)

        images = np.stack([resize(image) for image in progress_bar(images, desc="resizing")])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


class _NoBar:
    """What stands in for a bar where tqdm is not installed: training and loading go on without one."""

    disable = True

    def __init__(self, iterable):
        self.iterable = iterable

    def __iter__(self):
        return iter(self.iterable)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n: int) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        pass


def progress_bar(iterable=None, **options):
    """tqdm's bar, counting samples; drawn only where tqdm is there and stderr is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar(iterable)
    return tqdm(iterable, unit=" img", unit_scale=True, dynamic_ncols=True, disable=not sys.stderr.isatty(), **options)
