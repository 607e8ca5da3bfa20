"""The data of `GANTrainer.fit` as batches (samples, labels or None), on the trainer's device, as its networks see them.

From data with rows (a tensor, an array, a pair (samples, labels), a map-style Dataset) the trainer draws the rows
itself. The same rows give the same training, to the bit, also after a resume from a checkpoint. A DataLoader or another
iterable yields whole batches in its own order, which the checkpoint does not contain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from fastgan.data import Dataset, to_unit
from fastgan.training import checks

Pair = tuple[Tensor, Tensor | None]
Prepare = Callable[[str, Tensor], Tensor]


def in_memory(data: Any, classes: int | None) -> Pair | None:
    """The checked (samples, labels or None) of data that is completely in memory; None for other data. Labels are None
    without `classes`."""
    labels = None
    if isinstance(data, Dataset):
        data, labels = data.samples, data.labels
    elif isinstance(data, TensorDataset):
        data, labels = (*data.tensors, None)[:2]
    elif isinstance(data, tuple) and len(data) == 2:
        data, labels = data
    if not isinstance(data, (Tensor, np.ndarray)):
        return None
    samples = checks.samples("data", _tensor("data", data))
    checks.pixels_or_floats("data", samples)
    checks.finite("data", samples)
    return samples, _labels("data", samples, labels, classes)


def is_map_style(data: Any) -> bool:
    """Whether samples have an index, as in `torch.utils.data.Dataset`."""
    iterable = isinstance(data, (DataLoader, IterableDataset, list, tuple, Mapping, str))
    return not iterable and hasattr(data, "__getitem__") and isinstance(data, Sized)


def batches(
    data: Any, classes: int | None, rows: Callable[[int], Tensor], prepare: Prepare, resumed: int = 0
) -> Iterator[Pair]:
    """Yield batches forever.

    rows(count): the rows of the next batch, out of `count`. prepare(name, samples): the samples as the networks see
    them; `name` is for errors. resumed: the step of the checkpoint that training resumes from, or 0.

    Raises TypeError or ValueError, naming the batch, if a batch is not valid."""
    pair = in_memory(data, classes)
    if pair is not None:
        samples, labels = pair
        device = prepare("data", samples[:1]).device
        samples, labels = samples.to(device), None if labels is None else labels.to(device)
        while True:
            indices = rows(len(samples))
            yield prepare("data", samples[indices]), labels if labels is None else labels[indices]
    if is_map_style(data):
        if len(data) == 0:
            raise ValueError(f"data: got an empty {type(data).__name__}, expected at least one sample")
        while True:
            yield _batch("data", default_collate([data[i] for i in rows(len(data)).tolist()]), classes, prepare)
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(
            f"data: got {type(data).__name__}, expected a tensor or array of samples (N, ...), a pair of samples and "
            "labels, a Dataset, a DataLoader, or an iterable of batches"
        )
    if resumed:
        warnings.warn(
            f"data: training goes on from step {resumed}, and the order of a {type(data).__name__} begins anew: this "
            "run will differ from an uninterrupted one. With a tensor, an array or a Dataset it would not, to the bit",
            stacklevel=3,
        )
    number = 0
    while True:
        before = number
        for batch in data:
            yield _batch(f"data, batch {number}", batch, classes, prepare)
            number += 1
        if number == 0:
            raise ValueError(f"data: got a {type(data).__name__} without batches, expected at least one")
        if number == before:
            expected = "an iterable that can be iterated again, or does not end"
            raise ValueError(f"data: ended after {number} batches, expected {expected}")


def _batch(name: str, batch: Any, classes: int | None, prepare: Prepare) -> Pair:
    samples, labels = batch, None
    if isinstance(batch, (tuple, list)) and batch:
        samples, labels = (*batch, None)[:2]
    if isinstance(batch, Mapping) or not isinstance(samples, (Tensor, np.ndarray)):
        keys = f" with {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else ""
        raise TypeError(
            f"{name}: got {type(batch).__name__}{keys}, expected a tensor of samples (N, ...) or (samples, labels); of "
            'dicts: for b in data: trainer.step(b["image"].to(trainer.device))'
        )
    samples = checks.samples(name, _tensor(name, samples))
    checks.pixels_or_floats(name, samples)
    labels, seen = _labels(name, samples, labels, classes), prepare(name, samples)
    return seen, labels if labels is None else labels.to(seen.device, non_blocking=True)


def _tensor(name: str, data: Any) -> Tensor:
    """A tensor, or an array as a tensor that shares its memory."""
    if isinstance(data, Tensor):
        return data
    try:
        return torch.from_numpy(np.require(data, requirements="W"))  # a copy if it is read-only
    except TypeError as error:
        raise TypeError(f"{name}: got an array of {data.dtype}, expected floats, or uint8 images") from error


def _labels(name: str, samples: Tensor, labels: Any, classes: int | None) -> Tensor | None:
    """The labels as int64, checked; None without `classes`."""
    if classes is None:
        return None
    if labels is None:
        raise ValueError(
            f"{name}: got samples without labels, expected (samples, labels), as there are {classes} classes"
        )
    labels = torch.as_tensor(labels)
    check_labels(f"{name}, labels", labels, len(samples))
    check_range(name, labels, classes)
    return labels.long()


def check_labels(name: str, labels: object, n: int) -> None:
    """Raises TypeError or ValueError unless the labels are n whole numbers. Reads only shape and dtype."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: got {type(labels).__name__}, expected a tensor of whole numbers of shape ({n},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: got {labels.dtype}, expected torch.int64")
    if labels.shape != (n,):
        raise ValueError(f"{name}: got shape {tuple(labels.shape)}, expected ({n},), a number for each sample")


def check_range(name: str, labels: Tensor, classes: int) -> None:
    """Raises ValueError unless the labels are in [0, classes). Does not check labels on a GPU, which would synchronise
    with the host."""
    if labels.device.type == "cpu" and not ((labels >= 0) & (labels < classes)).all():
        outside = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"{name}: got the label {outside}, expected numbers from 0 to {classes - 1}")


def to_network_input(samples: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Samples on the device, uint8 images as floats of `dtype` in [-1, 1]. Floating samples keep their values."""
    samples = samples.to(device, non_blocking=True)
    return samples if samples.is_floating_point() else to_unit(samples).to(dtype)
