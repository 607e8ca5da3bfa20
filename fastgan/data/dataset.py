"""A data set in memory, random batches of it, and the conversion to what the networks see."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Dataset:
    """name: the default name of a run on it. samples: uint8 (N, C, H, W) or float32 (N, d), on the CPU.

    mean, scale: for points, the (d,) float32 mean and the one float by which the samples were shifted and divided, so
    that they have zero mean and unit scale; points = samples * scale + mean. None for images.
    held_out: samples (M, ...) of the same kind to keep out of training, or None. labels, held_out_labels: int64 indices
    into `classes`, the names of the classes; None and () if the classes are unknown.
    modes, mode_std: for toy points, the (K, d) centres of the Gaussians they are drawn from, and their standard
    deviation, shifted and divided like the samples; None for other data. skipped: files that could not be read. notes:
    changes to the data that the user did not ask for, one line each: another size, a background for transparent pixels.
    """

    name: str
    samples: Tensor
    mean: Tensor | None = None
    scale: float | None = None
    held_out: Tensor | None = None
    labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    modes: Tensor | None = None
    mode_std: float | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.samples)

    def some(self, n: int) -> Tensor:
        """n samples spread evenly over the data, or all if there are fewer. Files may be sorted by class."""
        return spread(self.samples, n)

    @property
    def is_images(self) -> bool:
        return self.samples.ndim == 4

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.samples.shape[1:])

    def fingerprint(self) -> str:
        """A hash of every sample, to check on resume that the data has not changed."""
        digest = hashlib.blake2b(repr((self.sample_shape, str(self.samples.dtype))).encode(), digest_size=16)
        digest.update(self.samples.contiguous().numpy().data)
        return digest.hexdigest()


def spread(rows: Tensor, n: int) -> Tensor:
    """n of the rows, spread evenly over all, or all if there are fewer."""
    count = len(rows)
    return rows if n >= count else rows[torch.arange(n, device=rows.device) * count // n]


def draw(
    samples: Tensor, batch: int, random: torch.Generator, flip: bool = False, rank: int = 0, ranks: int = 1
) -> Tensor:
    """`batch` random rows of `samples`, with replacement, as the networks see them. `samples` and `random` are on the
    same device. On several ranks `random` must have the same state: each rank uses its own rows of a joint draw."""
    return shown(samples[draw_rows(len(samples), batch, random, rank, ranks)], random, flip, rank, ranks)


def draw_rows(count: int, batch: int, random: torch.Generator, rank: int = 0, ranks: int = 1) -> Tensor:
    """The indices of the rows that `draw` draws out of `count`: int64 (batch,), on the device of `random`."""
    return torch.randint(count, (batch * ranks,), generator=random, device=random.device)[
        batch * rank : batch * (rank + 1)
    ]


def shown(samples: Tensor, random: torch.Generator, flip: bool = False, rank: int = 0, ranks: int = 1) -> Tensor:
    """A batch as the networks see it: converted by `to_unit`, and `flipped` if `flip`."""
    return to_unit(flipped(samples, random, rank, ranks) if flip else samples)


def flipped(images: Tensor, random: torch.Generator, rank: int = 0, ranks: int = 1) -> Tensor:
    """Images (N, C, H, W), each with probability 1/2 mirrored left to right."""
    n = len(images)
    coin = torch.rand(n * ranks, generator=random, device=images.device)[n * rank : n * (rank + 1)] < 0.5
    return torch.where(coin[:, None, None, None], images.flip(3), images)


def to_unit(samples: Tensor) -> Tensor:
    """Samples as the networks see them: uint8 0..255 -> float32 in [-1, 1]; points unchanged."""
    return samples.float() / 127.5 - 1 if samples.dtype == torch.uint8 else samples


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 0..255, rounded; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_points(samples: Tensor, mean: Tensor, scale: float) -> Tensor:
    """Generated points (N, d) in the units of the training data."""
    return samples * scale + mean
