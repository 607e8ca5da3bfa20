"""Pictures as Pillow opens them -> square, 8 bits a channel, grey or RGB; and where they lie in a folder.

Transparent pixels are shown over white. 16-bit grey is scaled by its type. 32-bit grey, float or int, does not say
which value is white: that is decided by all pictures of the data together (`whites`), never by one of them.
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
WHITES = {"float": (1.0, 255.0, 65535.0), "int32": (255.0, 65535.0)}  # by kind, what white may be
OVERSHOOT = 0.1  # of white: how far values may be outside [0, white], as those of a resized picture are; clipped
DIMMEST = 1 / 32  # of white: what the brightest pixel of all pictures has to have if a smaller white is ruled out
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF; white is 0 if the second one is
SAMPLE_FORMAT, SIGNED = 339, (2,)  # another, and what it says of signed integers


class Picture(NamedTuple):
    """source: what to call it. pixels: uint8 (S, S) if it is grey, else (S, S, 3); float32 (S, S) where its file does
    not say which value is white, and then kind is a key of `WHITES`, low and high are the extremes of the whole file.
    transparent: whether any of it was."""

    source: str
    pixels: np.ndarray
    transparent: bool = False
    kind: str | None = None
    low: float = 0.0
    high: float = 0.0


class Labels(NamedTuple):
    """numbers: int64 (count,), which of `classes`, the names, an image belongs to; None and none if it is not known."""

    numbers: Tensor | None = None
    classes: tuple[str, ...] = ()


Read = Callable[[int], "tuple[Picture | None, str | None]"]  # index -> a picture, or what is wrong with it


def check_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(needs("pillow")) from error


# ---- one picture ----------------------------------------------------------------------------------------------------


def read_file(files: Sequence[Path], size: int, index: int) -> tuple[Picture | None, str | None]:
    """The picture in files[index], or what is wrong with it. Pillow refuses one of more than twice its
    `Image.MAX_IMAGE_PIXELS` before it is decoded. Its warnings are left alone: filters belong to the whole process,
    and this runs in threads."""
    from PIL import Image

    try:
        with Image.open(files[index]) as image:
            return square(image, size, str(files[index])), None
    # A damaged file raises whatever its decoder happens to raise, SyntaxError and struct.error among them.
    except Exception as error:
        return None, f"{files[index]} ({said(error)})"


def read_row(rows, column: str, size: int, index: int) -> tuple[Picture | None, str | None]:
    """The picture in a row of a table of Hugging Face's `datasets`, or what is wrong with it."""
    try:
        return square(rows[index][column], size, f"row {index}"), None
    except Exception as error:  # of the image's decoder, as in read_file
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
    """16-bit grey, which convert("L") would clip and not scale. twelve: of which 12 are used. inverted: white is 0. And
    whether any of it is transparent: a value that the file names."""
    from PIL import Image

    values = np.asarray(image)
    clear = image.info.get("transparency")
    transparent = values == clear if isinstance(clear, int) else np.zeros(values.shape, bool)
    grey = (values >> (4 if twelve else 8)).astype(np.uint8)
    grey = np.where(transparent, np.uint8(255), ~grey if inverted else grey)
    return Image.fromarray(grey), bool(transparent.any())


def _has_alpha(image) -> bool:
    """`image.has_transparency_data`, which Pillow has from 10.1 on."""
    palette_has = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or palette_has or "transparency" in image.info


def _over_white(image):
    """What has an alpha channel, or a transparent colour, over white: "L" if it was grey, else "RGB". And whether any
    of it was transparent."""
    from PIL import Image

    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode in ("La", "RGBa"):  # multiplied by alpha; no other mode follows from these directly
        image = image.convert(image.mode.upper())
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert(mode), False
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode), True


# ---- which value is white -------------------------------------------------------------------------------------------


def whites(source: str, pictures: Iterable[Picture]) -> dict[str, float]:
    """Which value is white, for each kind of picture that does not say so itself: the first of `WHITES` that none of
    them is above. Raises ValueError, naming one, if their values fit none."""
    pictures, found = [p for p in pictures if p.kind], {}
    for kind in dict.fromkeys(p.kind for p in pictures):
        of_kind = [p for p in pictures if p.kind == kind]
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
        found[kind] = white
    return found


def in_bytes(picture: Picture, found: dict[str, float]) -> tuple[np.ndarray | None, str | None]:
    """Its pixels as uint8, white being what `found` says; or what is wrong with it."""
    if picture.kind is None:
        return picture.pixels, None
    white = found.get(picture.kind)
    if white is None or not (-OVERSHOOT * white <= picture.low and picture.high <= (1 + OVERSHOOT) * white):
        expected = f"expected 0 to {white:g} as in the others" if white else "as no other image that was looked at"
        return None, f"{picture.source} ({picture.kind} values from {picture.low:g} to {picture.high:g}, {expected})"
    return np.rint((picture.pixels * (255 / white)).clip(0, 255)).astype(np.uint8), None


def read_bytes(read: Read, found: dict[str, float], index: int) -> tuple[np.ndarray | None, str | None]:
    picture, problem = read(index)
    return (None, problem) if picture is None else in_bytes(picture, found)


def notes(pictures: Sequence[Picture], found: dict[str, float]) -> list[str]:
    """What was decided about these pictures, a line each."""
    lines = [f"{kind} images: 0 is black and {white:g} is white" for kind, white in found.items()]
    transparent = sum(p.transparent for p in pictures)
    if transparent:
        lines.append(f"transparent pixels are shown over white, in {transparent:,} of {len(pictures):,} images")
    return lines


# ---- many -----------------------------------------------------------------------------------------------------------


def find_files(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    """Every file in `folder` and below, through links to folders too, each folder once; names of what cannot be read;
    and notes."""
    files, problems, seen, again = [], [], set(), []
    waiting = [str(folder)]
    while waiting:  # folders first, then what links lead to, so that a file is called by its own place
        for path, folders, names in os.walk(waiting.pop(0), onerror=lambda e: problems.append(_named(e.filename, e))):
            place = os.stat(path)
            if (place.st_dev, place.st_ino) in seen:
                again.append(path)
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
    lines = [f"{again[0]} leads to a folder that is read already"] if len(again) == 1 else []
    if len(again) > 1:
        lines = [f"{len(again)} links lead to folders that are read already, {again[0]} among them"]
    return sorted(files), sorted(problems), lines


def folders_as_classes(folder: Path, files: Sequence[Path]) -> Labels:
    """Each folder in `folder` is a class, by its name, if there are two or more and every file lies in one."""
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
