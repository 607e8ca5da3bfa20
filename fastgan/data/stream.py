"""Images that do not fit in memory: worker processes read them ahead of training."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fastgan.data.images import channels_first

TRIES = 100  # a stream raises if this many images in a row cannot be read
RESTARTS = 3  # how often in a run the dead workers of a stream are restarted


class Stream(torch.utils.data.Dataset):
    """Images that worker processes read ahead of training. It replaces a `Dataset` wherever code does not need all
    samples at once.

    read: index -> (uint8 (size, size) or (size, size, 3), None), or (None, the problem with that image); it is sent to
    the workers. channels: 1 or 3; every image is converted to this. identity: bytes that differ between data sets.
    labels, classes, skipped, notes: as in a `Dataset`.
    """

    is_images = True
    samples = mean = scale = held_out = modes = mode_std = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, count: int, read: Callable, size: int, channels: int, identity: bytes):
        self.name, self.count, self.read, self.identity = name, count, read, identity
        self.sample_shape = (channels, size, size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, list[str]]:
        """The first image from `index` on that can be read, its label (0 if there are no labels), and the problems with
        the images before it."""
        problems: list[str] = []
        for i in range(index, index + TRIES):
            image, problem = self.read(i % self.count)
            if image is not None:
                label = 0 if self.labels is None else int(self.labels[i % self.count])
                return channels_first(image, self.sample_shape[0]), label, problems
            problems.append(problem)
        return None, 0, problems

    def fingerprint(self) -> str:
        """A hash of the shape and `identity`: the names and sizes of files, or some rows of a table."""
        return hashlib.blake2b(repr(self.sample_shape).encode() + self.identity, digest_size=16).hexdigest()

    def some(self, n: int) -> Tensor:
        """n images spread evenly over the data, or all if there are fewer: uint8 (n, C, H, W)."""
        n = min(n, self.count)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images, _, problems = _collate(list(pool.map(self.__getitem__, [i * self.count // n for i in range(n)])))
        return _readable(images, problems)

    def batches(
        self, seed: int, batch: int, first: int, *, workers: int = 2, pin: bool = False, rank: int = 0, ranks: int = 1
    ) -> Generator[tuple[Tensor, Tensor, list[str]], None, None]:
        """Yield batches forever, from batch number `first` on: images uint8 (batch, C, H, W), labels int64 (batch,), 0
        if there are none, and the problems with unreadable images.

        Each epoch has all images in a new random order. A batch depends only on its number, `seed`, `batch`, `rank` and
        `ranks`, so that training resumes exactly. workers: processes; 0: read in this process. A worker that dies, for
        example because the system is out of memory, is replaced, with a line on stderr; no batch is lost or changed.
        Raises OSError if `TRIES` images in a row cannot be read, and RuntimeError if workers died more than `RESTARTS`
        times."""
        deaths = 0
        while True:
            loader = torch.utils.data.DataLoader(
                self,
                batch_sampler=_stream_rows(self.count, seed, batch, first, rank, ranks),
                num_workers=workers,
                collate_fn=_collate,
                pin_memory=pin,
                prefetch_factor=4 if workers else None,
                worker_init_fn=_start_worker,
                generator=torch.Generator(),  # else the loader draws from the global one, and resuming is not exact
            )
            try:
                with _no_handler_of_dead_children():
                    batches = iter(loader)
                for images, labels, problems in batches:
                    yield _readable(images, problems), labels, problems
                    first += 1
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
                deaths += 1
                said = str(error).split("\n")[0]
                if not isinstance(error, RuntimeError):  # the worker died while it sent a batch
                    said = f"A DataLoader worker died ({said or type(error).__name__})."
                if not workers or "DataLoader worker" not in said or deaths > RESTARTS:
                    raise
                print(f"fastgan: {said} Starting workers anew.", file=sys.stderr, flush=True)


def _stream_rows(count: int, seed: int, batch: int, first: int, rank: int, ranks: int) -> Iterator[list[int]]:
    """Yield the rows of each batch forever, from batch number `first` on. The rows of all ranks together are random
    permutations of range(count), one after the other."""

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64))

    start = (first * ranks + rank) * batch
    while True:
        yield [int(permutation(i // count)[i % count]) for i in range(start, start + batch)]
        start += ranks * batch


def _collate(drawn: list[tuple[Tensor | None, int, list[str]]]) -> tuple[Tensor | None, Tensor, list[str]]:
    """A batch of images, or None if one is missing; their labels; and all problems. Does not raise: an error from a
    worker would arrive wrapped in a traceback."""
    images, labels, of_each = zip(*drawn)
    batch = None if any(image is None for image in images) else torch.stack(images)
    return batch, torch.tensor(labels), [problem for problems in of_each for problem in problems]


def _readable(images: Tensor | None, problems: list[str]) -> Tensor:
    if images is None:
        raise OSError(f"{TRIES} images in a row cannot be read, the first: {problems[0]}")
    return images


def _start_worker(_) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the training process handles it


@contextlib.contextmanager
def _no_handler_of_dead_children() -> Iterator[None]:
    """Start a loader's workers inside, and remove the SIGCHLD handler that PyTorch installs with them. When a
    worker dies, that handler raises wherever training is, in the middle of a step or of a file. Without it, the call
    that waits for the dead worker's batch raises."""
    try:
        before = signal.getsignal(signal.SIGCHLD)
        yield
        signal.signal(signal.SIGCHLD, before)
    except ValueError:  # not in the main thread: there are no handlers in other threads
        return
