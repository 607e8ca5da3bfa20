"""What `GANTrainer.fit` is given, as batches: (samples, labels or None), on the trainer's device, as its networks see
them.

The trainer draws the rows of what has rows: a tensor, an array, a pair (samples, labels), a map-style Dataset. The same
rows give the same training, to the bit, and so does going on from a checkpoint. What gives batches itself, a DataLoader
or any other iterable, has an order of its own, which no checkpoint of ours holds.
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
    """(samples, labels or None) of data that is held whole, checked; None if it is not. Labels are left out unless
    there are `classes`."""
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
    """Whether samples are looked up by number, as in `torch.utils.data.Dataset`."""
    iterable = isinstance(data, (DataLoader, IterableDataset, list, tuple, Mapping, str))
    return not iterable and hasattr(data, "__getitem__") and isinstance(data, Sized)


def batches(
    data: Any, classes: int | None, rows: Callable[[int], Tensor], prepare: Prepare, resumed: int = 0
) -> Iterator[Pair]:
    """Without end. rows: a number of samples -> which of them are in the next batch. prepare: what to call them in an
    error, and samples of any kind, on any device -> as the networks see them. resumed: the step of the checkpoint that
    training goes on from.

    Raises TypeError or ValueError, naming the batch, if one is none."""
    held = in_memory(data, classes)
    if held is not None:
        like = prepare("data", held[0][:1])
        samples, labels = (x if x is None else x.to(like.device) for x in held)
        while True:
            chosen = rows(len(samples))
            yield prepare("data", samples[chosen]), labels if labels is None else labels[chosen]
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
            f"data: training goes on from step {resumed}, and the order of a {type(data).__name__} begins anew: the "
            "run will not be the one that was interrupted. Of a tensor, an array or a Dataset it is, to the bit",
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
            raise ValueError(f"data: ended after {number} batches, expected one that can be asked again, or goes on")


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


def _tensor(name: str, given: Any) -> Tensor:
    """An array as the tensor that shares its memory."""
    if isinstance(given, Tensor):
        return given
    try:
        return torch.from_numpy(np.require(given, requirements="W"))  # a copy if it is read-only
    except TypeError as error:
        raise TypeError(f"{name}: got an array of {given.dtype}, expected floats, or uint8 images") from error


def _labels(name: str, samples: Tensor, labels: Any, classes: int | None) -> Tensor | None:
    """The labels as int64, or None if nobody asks for them."""
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
    """Raises TypeError or ValueError unless they are n whole numbers. Reads no value."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: got {type(labels).__name__}, expected a tensor of whole numbers of shape ({n},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: got {labels.dtype}, expected torch.int64")
    if labels.shape != (n,):
        raise ValueError(f"{name}: got shape {tuple(labels.shape)}, expected ({n},), a number for each sample")


def check_range(name: str, labels: Tensor, classes: int) -> None:
    """Raises ValueError unless they are classes. Of labels on a GPU, for which the host would have to wait, none is
    looked at."""
    if labels.device.type == "cpu" and not ((labels >= 0) & (labels < classes)).all():
        outside = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"{name}: got the label {outside}, expected numbers from 0 to {classes - 1}")


def as_seen(samples: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 images -> floats in [-1, 1]; others as they are; on the device."""
    samples = samples.to(device, non_blocking=True)
    return samples if samples.is_floating_point() else to_unit(samples).to(dtype)
