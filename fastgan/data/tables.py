"""Tables of Hugging Face's `datasets`: from its hub, a folder saved by `save_to_disk`, parquet files or tar shards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fastgan.checks import said
from fastgan.data.images import Labels
from fastgan.data.optional import needs

MOST_CLASSES = 2**20  # the limit of `TrainerConfig`
LABELS = ("label", "labels", "class", "cls", "y")  # names of a column of labels


def columns(source: str, rows):
    """(rows with one column, its name, labels): the first column of images, of the split `train` if there are splits;
    the labels come from the first column of class labels, or of whole numbers with a name in `LABELS`.

    Raises ValueError if there are no images."""
    import datasets

    if isinstance(rows, dict):  # its splits
        if "train" not in rows:
            raise ValueError(f"DATA: {source} has the splits {', '.join(rows)}, expected one named train")
        rows = rows["train"]
    # In files that `datasets` did not write, an image is a struct of its bytes and its path.
    for name, kind in rows.features.items():
        if isinstance(kind, dict) and set(kind) == {"bytes", "path"}:
            rows = rows.cast_column(name, datasets.Image())
    pictures = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not pictures:
        raise ValueError(f"DATA: {source} has no column of images; its columns are {', '.join(rows.features)}")
    return rows.select_columns(pictures[0]), pictures[0], _labels(rows)


def _labels(rows) -> Labels:
    import datasets

    for name, kind in rows.features.items():
        named = isinstance(kind, datasets.ClassLabel)
        if named or (name in LABELS and str(getattr(kind, "dtype", "")).startswith(("int", "uint"))):
            values = rows.select_columns(name).with_format("numpy")[name]
            numbers = torch.as_tensor(np.asarray(values)).long()
            # A split without labels has -1, and very large numbers are times or keys, not classes.
            if len(numbers) and int(numbers.min()) >= 0 and int(numbers.max()) < MOST_CLASSES:
                names = kind.names if named else map(str, range(int(numbers.max()) + 1))
                return Labels(numbers, tuple(names))
    return Labels()


@contextlib.contextmanager
def _hugging_face(source: str) -> Iterator:
    """The module `datasets`. Its errors become a ValueError of one line."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(needs("datasets", "hub")) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield datasets
    except Exception as error:  # the network, the hub and Arrow raise dozens of classes
        reason = f"{type(error).__name__}: {said(error)}"
        raise ValueError(f"DATA: {source} cannot be read as a data set ({reason})") from error


def from_hub(name: str):
    with _hugging_face(f"hub:{name}") as datasets:
        return datasets.load_dataset(name, split="train")


def from_disk(folder: Path):
    with _hugging_face(str(folder)) as datasets:
        return datasets.load_from_disk(str(folder))


def from_shards(files: Sequence[Path]):
    """Tar files of the library webdataset. The files of a sample share a name, and the ending says what each one is:
    000.jpg and 000.cls."""
    with _hugging_face(str(files[0])) as datasets:
        return datasets.load_dataset("webdataset", data_files={"train": [str(f) for f in files]}, split="train")


def from_parquet(files: Sequence[Path]):
    with _hugging_face(str(files[0])) as datasets:
        return datasets.Dataset.from_parquet([str(file) for file in files])
