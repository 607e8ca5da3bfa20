"""Convert Pillow's images to square ones of 8 bits a channel, grey or RGB; and find the image files of a folder.

Transparent pixels are shown over white. 16-bit grey is scaled by its type. 32-bit grey, float or int, does not say
which value is white: `whites` decides this from all images of the data, never from one alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan.checks import said
from fastgan.data.optional import needs, progress_bar

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
WHITES = {"float": (1.0, 255.0, 65535.0), "int32": (255.0, 65535.0)}  # possible values of white, by kind
OVERSHOOT = 0.1  # times white: how far values may be outside [0, white], as in a resized image; they are clipped
DIMMEST = 1 / 32  # times white: the brightest pixel must reach this unless white is the smallest possible value
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags; white is 0 if PHOTOMETRIC is 0
SAMPLE_FORMAT, SIGNED = 339, (2,)  # a TIFF tag, and its value for signed integers


class Picture(NamedTuple):
    """source: its name in messages. pixels: uint8 (S, S) if it is grey, else (S, S, 3). If its file does not say which
    value is white: float32 (S, S), kind is a key of `WHITES`, and low and high are the extremes of the whole file.
    transparent: whether any pixel was transparent."""

    source: str
    pixels: np.ndarray
    transparent: bool = False
    kind: str | None = None
    low: float = 0.0
    high: float = 0.0


class Labels(NamedTuple):
    """numbers: int64 (count,), each image's index into `classes`, the names; None and () if the classes are unknown."""

    numbers: Tensor | None = None
    classes: tuple[str, ...] = ()


Read = Callable[[int], "tuple[Picture | None, str | None]"]  # index -> a picture, or the problem with it


def check_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(needs("pillow")) from error


# ---- one picture ----------------------------------------------------------------------------------------------------


def read_file(files: Sequence[Path], size: int, index: int) -> tuple[Picture | None, str | None]:
    """The picture in files[index], or the problem with it. Pillow refuses an image of more than twice its
    `Image.MAX_IMAGE_PIXELS` before decoding it. Pillow's warnings are not filtered: filters apply to the whole process,
    and this function runs in threads."""
    from PIL import Image

    try:
        with Image.open(files[index]) as image:
            return square(image, size, str(files[index])), None
    # Decoders raise many types for a damaged file, SyntaxError and struct.error among them.
    except Exception as error:
        return None, f"{files[index]} ({said(error)})"


def read_row(rows, column: str, size: int, index: int) -> tuple[Picture | None, str | None]:
    """The picture in a row of a table of Hugging Face's `datasets`, or the problem with it."""
    try:
        return square(rows[index][column], size, f"row {index}"), None
    except Exception as error:  # decoders raise many types, as in read_file
        return None, f"row {index} ({said(error)})"


def square(image, size: int, source: str) -> Picture:
    """The middle of a Pillow image, size x size pixels."""
    from PIL import Image, ImageOps

    tags = getattr(image, "tag_v2", {})  # a TIFF's
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # as older Pillows open it
    if tags.get(SAMPLE_FORMAT) == SIGNED and image.mode == "L":
        raise ValueError("it holds signed 8-bit values, expected unsigned ones")  # Pillow would read -56 as 200
    image.draft("RGB", (size, size))  # a large JPEG is decoded at a fraction of its size
    image = ImageOps.exif_transpose(image)
    kind, transparent, low, high = None, False, 0.0, 0.0
    if sixteen:
        image, transparent = _from_16_bits(image, tags.get(BITS_PER_SAMPLE) == (12,), tags.get(PHOTOMETRIC) == 0)
    elif image.mode in ("F", "I"):
        kind = "float" if image.mode == "F" else "int32"
        low, high = _extremes(np.asarray(image))
        image = image.convert("F")
    elif _has_alpha(image):
        image, transparent = _over_white(image)
    else:
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
    return Picture(source, pixels, transparent, kind, low, high)


def _extremes(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds NaN or infinity")
    return low, high


def _from_16_bits(image, twelve: bool, inverted: bool):
    """16-bit grey as 8-bit grey, and whether any pixel is transparent (has the value that the file declares so).
    convert("L") would clip it instead of scaling it. twelve: only 12 bits are used. inverted: white is 0."""
    from PIL import Image

    values = np.asarray(image)
    clear = image.info.get("transparency")
    transparent = values == clear if isinstance(clear, int) else np.zeros(values.shape, bool)
    grey = (values >> (4 if twelve else 8)).astype(np.uint8)
    grey = np.where(transparent, np.uint8(255), ~grey if inverted else grey)
    return Image.fromarray(grey), bool(transparent.any())


def _has_alpha(image) -> bool:
    """The same as `image.has_transparency_data` of Pillow 10.1 and later."""
    palette_has = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or palette_has or "transparency" in image.info


def _over_white(image):
    """An image with an alpha channel or a transparent colour, drawn over white: "L" if it was grey, else "RGB". And
    whether any pixel was transparent."""
    from PIL import Image

    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode in ("La", "RGBa"):  # premultiplied by alpha; Pillow converts these to "LA" or "RGBA" only
        image = image.convert(image.mode.upper())
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert(mode), False
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode), True


# ---- which value is white -------------------------------------------------------------------------------------------


def whites(source: str, pictures: Iterable[Picture]) -> dict[str, float]:
    """The value of white for each kind of picture whose file does not say it: the first of `WHITES` that no picture of
    the kind exceeds (by more than `OVERSHOOT`). Raises ValueError, naming a picture, if no value fits."""
    by_kind: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.kind is not None:
            by_kind.setdefault(picture.kind, []).append(picture)
    white_values = {}
    for kind, of_kind in by_kind.items():
        brightest, darkest = max(of_kind, key=lambda p: p.high), min(of_kind, key=lambda p: p.low)
        first = WHITES[kind][0]
        fitting = [white for white in WHITES[kind] if brightest.high <= (1 + OVERSHOOT) * white]
        white = fitting[0] if fitting else None
        if white is None or (white > first and brightest.high < DIMMEST * white):
            raise ValueError(
                f"DATA: {source} holds {kind} images with values up to {brightest.high:g} ({brightest.source}), "
                f"expected 0 to one of {', '.join(f'{white:g}' for white in WHITES[kind])}"
            )
        if darkest.low < -OVERSHOOT * white:
            raise ValueError(
                f"DATA: {source} holds {kind} images with values from {darkest.low:g} ({darkest.source}), "
                f"expected 0 to {white:g}"
            )
        white_values[kind] = white
    return white_values


def in_bytes(picture: Picture, white_values: dict[str, float]) -> tuple[np.ndarray | None, str | None]:
    """The pixels as uint8, or the problem with the picture. white_values: from `whites`."""
    if picture.kind is None:
        return picture.pixels, None
    white = white_values.get(picture.kind)
    if white is None or not (-OVERSHOOT * white <= picture.low and picture.high <= (1 + OVERSHOOT) * white):
        expected = f"expected 0 to {white:g} as in the others" if white else "as no other image that was looked at"
        return None, f"{picture.source} ({picture.kind} values from {picture.low:g} to {picture.high:g}, {expected})"
    return np.rint((picture.pixels * (255 / white)).clip(0, 255)).astype(np.uint8), None


def read_bytes(read: Read, white_values: dict[str, float], index: int) -> tuple[np.ndarray | None, str | None]:
    picture, problem = read(index)
    return (None, problem) if picture is None else in_bytes(picture, white_values)


def notes(pictures: Sequence[Picture], white_values: dict[str, float]) -> list[str]:
    """What was decided about these pictures, one line for each decision."""
    lines = [f"{kind} images: 0 is black and {white:g} is white" for kind, white in white_values.items()]
    transparent = sum(p.transparent for p in pictures)
    if transparent:
        lines.append(f"transparent pixels are shown over white, in {transparent:,} of {len(pictures):,} images")
    return lines


# ---- folders and arrays ---------------------------------------------------------------------------------------------


def find_files(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    """Every file in `folder` and its subfolders, links to folders included, each folder once; what cannot be read; and
    notes."""
    files, problems, seen, repeated = [], [], set(), []
    waiting = [str(folder)]
    while waiting:  # folders before links, so that a file gets its real path and not that of a link
        for path, folders, names in os.walk(waiting.pop(0), onerror=lambda e: problems.append(_named(e.filename, e))):
            place = os.stat(path)
            if (place.st_dev, place.st_ino) in seen:
                repeated.append(path)
                folders.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            waiting += sorted(p for name in folders if os.path.islink(p := os.path.join(path, name)))
            for name in names:
                file = Path(path, name)
                try:
                    regular = stat.S_ISREG(file.stat().st_mode)
                except OSError as error:  # a link that leads nowhere, or to itself
                    problems.append(_named(file, error))
                else:
                    if regular:
                        files.append(file)
    lines = [f"{repeated[0]} leads to a folder that is read already"] if len(repeated) == 1 else []
    if len(repeated) > 1:
        lines = [f"{len(repeated)} links lead to folders that are read already, {repeated[0]} among them"]
    return sorted(files), sorted(problems), lines


def folders_as_classes(folder: Path, files: Sequence[Path]) -> Labels:
    """Each subfolder of `folder` is a class with its name, if there are at least two and every file is in one."""
    inside = [file.relative_to(folder).parts for file in files]
    classes = tuple(sorted({parts[0] for parts in inside}))
    if len(classes) < 2 or any(len(parts) < 2 for parts in inside):
        return Labels()
    number = {name: i for i, name in enumerate(classes)}
    return Labels(torch.tensor([number[parts[0]] for parts in inside]), classes)


def _named(path: str | Path, error: OSError) -> str:
    return f"{path} ({error.strerror})"


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, H, W, C) -> uint8 (N, C, size, size)."""
    if images.shape[1:3] != (size, size):
        check_pillow()
        from PIL import Image, ImageOps

        def resize(image: np.ndarray) -> np.ndarray:
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            out = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))
            return out.reshape(size, size, -1)

        images = np.stack([resize(image) for image in progress_bar(images, desc="resizing")])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def channels_first(image: np.ndarray, channels: int) -> Tensor:
    """uint8 (H, W) or (H, W, 3) -> (channels, H, W)."""
    if image.ndim == 2:
        return torch.from_numpy(image.copy()).expand(channels, *image.shape)
    if channels == 1:  # ITU-R 601 luma, as Pillow's "L"
        return torch.from_numpy((image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8))[None]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
