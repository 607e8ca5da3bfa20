"""Images that do not fit in memory: read as they are drawn, by workers ahead of the training."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fastgan.data.images import channels_first

TRIES = 100  # files in a row that a stream passes over as unreadable before it gives up
RESTARTS = 3  # times in a run that dead workers of a stream are started again


class Stream:
    """Images that are read as they are drawn, by workers ahead of the training.

    read: index -> (uint8 (size, size) or (size, size, 3), None), or (None, what is wrong with that image); it is sent
    to the workers. channels: 1 or 3, to which every image is brought. identity: what tells this data from other data.
    labels, classes: as of a `Dataset`, for which this stands in wherever samples are not asked for as a whole.
    """

    is_images = True
    samples = mean = scale = held_out = modes = mode_std = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # and notes: as of a Dataset
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, count: int, read: Callable, size: int, channels: int, identity: bytes):
        self.name, self.count, self.read, self.identity = name, count, read, identity
        self.sample_shape = (channels, size, size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, list[str]]:
        """The image at `index`, its label (0 if there are none) and no problem; or those of the next that can be read,
        and what was wrong with the images before."""
        problems = []
        for i in range(index, index + TRIES):
            image, problem = self.read(i % self.count)
            if image is not None:
                label = 0 if self.labels is None else int(self.labels[i % self.count])
                return channels_first(image, self.sample_shape[0]), label, problems
            problems.append(problem)
        return None, 0, problems

    def fingerprint(self) -> str:
        """A hash of what the images are told by: of files their names and sizes, of a table some of its rows."""
        return hashlib.blake2b(repr(self.sample_shape).encode() + self.identity, digest_size=16).hexdigest()

    def some(self, n: int) -> Tensor:
        """n images spread evenly over the data, or all there are: uint8 (n, C, H, W)."""
        n = min(n, self.count)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images, _, problems = _collate(list(pool.map(self.__getitem__, [i * self.count // n for i in range(n)])))
        return _readable(images, problems)

    def batches(
        self, seed: int, batch: int, first: int, *, workers: int = 2, pin: bool = False, rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Batch number `first`, the next, and so on without end: uint8 (batch, C, H, W), the labels, int64 (batch,), 0
        if there are none, and what could not be read.

        What a batch holds depends on its number, the seed, the rank and nothing else, so that training can go on where
        it stopped: all images in random order, then all again in another. workers: processes; 0 reads in this one.
        A worker that dies, as one does whom the system kills for memory, is replaced, with a line on stderr, and no
        batch is lost or changed by it. Raises OSError if `TRIES` images in a row cannot be read, and RuntimeError
        if workers died more than `RESTARTS` times."""
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
                generator=torch.Generator(),  # else it takes a number from the global one, and resuming is not exact
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
                if not isinstance(error, RuntimeError):  # its batch was on the way when it died
                    said = f"A DataLoader worker died ({said or type(error).__name__})."
                if not workers or "DataLoader worker" not in said or deaths > RESTARTS:
                    raise
                print(f"fastgan: {said} Starting workers anew.", file=sys.stderr, flush=True)


def _stream_rows(count: int, seed: int, batch: int, first: int, rank: int, ranks: int) -> Iterator[list[int]]:
    """The rows of batch number `first`, the next, and so on; those of all ranks together are an endless sequence of
    permutations of range(count), one after the other."""

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64))

    at = (first * ranks + rank) * batch
    while True:
        yield [int(permutation(i // count)[i % count]) for i in range(at, at + batch)]
        at += ranks * batch


def _collate(drawn: list[tuple[Tensor | None, int, list[str]]]) -> tuple[Tensor | None, Tensor, list[str]]:
    """A batch of images, or None if one is missing, their labels, and all problems. It raises nothing: from a worker an
    error would arrive wrapped in a traceback."""
    images, labels, of_each = zip(*drawn)
    whole = None if any(image is None for image in images) else torch.stack(images)
    return whole, torch.tensor(labels), [problem for problems in of_each for problem in problems]


def _readable(images: Tensor | None, problems: list[str]) -> Tensor:
    if images is None:
        raise OSError(f"{TRIES} images in a row cannot be read, the first: {problems[0]}")
    return images


def _start_worker(_) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the training decides what it means


@contextlib.contextmanager
def _no_handler_of_dead_children() -> Iterator[None]:
    """A loader's workers are started inside without the handler that comes with them: it raises wherever the training
    just is, in the middle of a step or of a file. Without it, whoever waits for a dead worker's batch is told."""
    try:
        before = signal.getsignal(signal.SIGCHLD)
        yield
        signal.signal(signal.SIGCHLD, before)
    except ValueError:  # not the main thread, where there are no handlers
        return
