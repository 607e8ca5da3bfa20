"""The folder of a run: its lock, its config, its log and its checkpoint."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastgan.cli import log
from fastgan.cli.errors import BAD_INPUT, as_option, say
from fastgan.training import trainer
from fastgan.training.runs import read_config

# Settings that may differ when a run is resumed: no number of its steps depends on them.
CHANGEABLE_ON_RESUME = (
    *("steps", "device", "threads", "workers", "capture", "save_every"),
    *("metrics_every", "metrics_samples", "inception", "features"),
)
# Settings that name files or modules which run code, or another run. A run's folder may come from anyone, so fastgan
# opens only what the command line names, never what the run's config names.
CODE_FILES = ("inception", "features")
NETWORK_SOURCES = ("generator", "discriminator", "init")
LOG, EVENTS = "metrics.jsonl", "events.out.tfevents.fastgan"
FILES = (".lock", "config.json", LOG, EVENTS, "checkpoint.pt", "curves.png", "quality.png", "training.gif")
MAX_GRID_BYTES = 1 << 24  # a larger picture of samples is not read again
MAX_GRIDS = 30  # pictures of samples that are read again, evenly spread


class Place(NamedTuple):
    """The arguments that say where a run is. path: --out, None for the next free folder. source: DATA."""

    path: Path | None
    resume: bool
    source: str


class RunFolder:
    """The folder of one run: config.json, metrics.jsonl, TensorBoard events, samples/, curves.png, quality.png and
    checkpoint.pt.

    Only one process at a time can open it: it locks `.lock`, and the system releases the lock when the process ends,
    also if it is killed. Of processes that train together, only the first one holds the lock and writes. Files are
    replaced atomically, except metrics.jsonl and the events, which are appended to."""

    def __init__(self, path: Path, config: dict | None, world: trainer.World):
        self.path, self.config = path, config  # config: of the run to resume, or None
        self.world, self.writes = world, world.writes
        self.checkpoint = path / "checkpoint.pt"
        self.kept: list[dict] = []  # the log's records up to the step from which the run resumes
        self.records: list[dict] = []  # logged records of training steps, for the curves
        self.qualities: list[dict] = []  # logged records with a quality
        self.quality: dict | None = None  # the last quality, if it belongs to the current step
        self.seconds = 0.0  # of training before this start
        self.unreadable: dict[str, int] = {}
        self.saved_step: int | None = None

    @property
    def before(self) -> dict:
        """The settings of the run to resume, without CODE_FILES and NETWORK_SOURCES; empty for a new run."""
        settings = self.config["settings"] if self.config else {}
        return {name: value for name, value in settings.items() if name not in (*CODE_FILES, *NETWORK_SOURCES)}

    @classmethod
    @contextlib.contextmanager
    def open(cls, place: Place, given: dict, world: trainer.World) -> Iterator[RunFolder]:
        """The folder at `place`, locked. given: the settings on the command line, which must equal those of the run to
        resume. A run is resumed by --resume, or if torchrun has restarted the processes and the run exists.

        Raises ValueError or OSError if it cannot be used. Removes what it created if the run does not start."""
        if place.resume and place.path is None:
            raise ValueError("--resume: needs --out, the folder of the run to resume")
        if world.size > 1 and place.path is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
            raise ValueError("--out: torchrun --max-restarts needs it, to find the run again")
        with contextlib.ExitStack() as stack:
            path, resume = _from_first_process(world, lambda: stack.enter_context(_locked(place, world)))
            config = read_config(path) if resume else None
            run = cls(path, config, world)
            if config is not None:
                run._check_resumed(config["settings"], place, given)
            yield run

    def _check_resumed(self, settings: dict, place: Place, given: dict) -> None:
        if settings.get("processes", 1) != self.world.size:
            raise ValueError(
                f"{self.path} was trained by {settings.get('processes', 1)} processes, and cannot be resumed exactly "
                f"by {self.world.size}"
            )
        for name in settings.keys() & given.keys():
            value, now = settings[name], given[name]
            may_change = name in CHANGEABLE_ON_RESUME and (name != "device" or now.split(":")[0] == value)
            if now != value and not may_change:
                raise ValueError(
                    f"{as_option(name)}: got {now}, but {self.path} was started with {value} and keeps that value"
                )
        for name in ("generator", "discriminator"):
            if settings.get(name) and name not in given:
                raise ValueError(
                    f"--{name}: {self.path} was started with {settings[name]}, which runs code: give it again to resume"
                )
        if place.resume and not self.checkpoint.exists():
            raise ValueError(
                f"{self.checkpoint}: there is no such checkpoint to resume from; to start again at step 0, name "
                "another folder, without --resume"
            )

    def check_data(self, data: dict) -> None:
        """Raises ValueError if the run to resume was trained on other data, or if the processes see different data."""
        if self.world.size > 1:
            seen = [None] * self.world.size
            torch.distributed.all_gather_object(seen, data["fingerprint"])
            if len(set(seen)) > 1:
                raise ValueError(f"DATA: the processes see different data in {data['source']}")
        if self.config and self.config["data"]["fingerprint"] != data["fingerprint"]:
            before = self.config["data"]
            raise ValueError(
                f"DATA: {data['source']} ({data['count']} samples) is not the data that {self.path} was started with "
                f"({before['source']}, {before['count']} samples), or has changed since"
            )

    def read_log(self, step: int) -> None:
        """Read the log up to `step`, from which training continues."""
        if not self.writes:
            return
        records, broken = log.read_records(self.path / LOG)
        if broken:
            self.say(f"{self.path / LOG}: {broken} of its lines are no records of a run, and are left out")
        if step == 0 and records:
            self.say(f"no checkpoint was written yet: training and {self.path / LOG} start again at step 0")
        self.kept = [record for record in records if record["step"] <= step]
        for record in self.kept:
            self._remember(record)
            self.seconds = record.get("seconds", 0.0)
        if not self.qualities or self.qualities[-1]["step"] != step:
            self.quality = None
        if step > 0:
            self.saved_step = step

    def start(self, config: bytes) -> None:
        """Write the config and the records that `read_log` has kept."""
        if not self.writes:
            return
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("samples/.*.tmp")):  # by a process that was killed
            leftover.unlink()
        (self.path / "samples").mkdir(exist_ok=True)
        self.write("config.json", config)
        self.write(LOG, b"".join(map(log.line, self.kept)))
        shown = self.grids(self.saved_step) if self.saved_step else {}
        events = [(record["step"], log.event(record)) for record in self.kept]
        events += [(step, log.event({"step": step, "time": time.time()}, png)) for step, png in shown.items()]
        self.write(EVENTS, log.event(None) + b"".join(event for _, event in sorted(events, key=lambda one: one[0])))

    def log(self, record: dict) -> None:
        """Append to metrics.jsonl and the TensorBoard events."""
        if not self.writes:
            return
        record = {**record, "time": round(time.time(), 3)}
        self._remember(record)
        self._append(LOG, log.line(record))
        self._append(EVENTS, log.event(record))

    def _append(self, name: str, content: bytes) -> None:
        try:
            with open(self.path / name, "ab") as file:
                file.write(content)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.path / name}: {error.strerror}") from error

    def show(self, step: int, png: bytes) -> None:
        """Write a picture of samples to samples/ and to the TensorBoard events."""
        self.write(f"samples/step_{step:06d}.png", png)
        self._append(EVENTS, log.event({"step": step, "time": time.time()}, png))

    def grids(self, step: int) -> dict[int, bytes]:
        """The pictures of samples up to a step, in order, at most `MAX_GRIDS`. Links and files that are no PNG are left
        out: the folder may come from anyone."""
        paths = {}
        for path in (self.path / "samples").glob("step_*.png"):
            number = path.stem.removeprefix("step_")
            small = path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_GRID_BYTES
            if small and number.isascii() and number.isdigit() and int(number) <= step:
                paths[int(number)] = path
        steps = sorted(paths)
        last, count = len(steps) - 1, min(len(steps), MAX_GRIDS)
        spread = [steps[i * last // max(1, count - 1)] for i in range(count)]
        return {n: png for n in spread if log.is_png(png := paths[n].read_bytes())}

    def _remember(self, record: dict) -> None:
        if "quality" in record:
            self.qualities.append(record)
            self.quality = record["quality"]
        else:
            self.records.append(record)

    def note_unreadable(self, problems: list[str]) -> None:
        """Count the images that could not be read, for the log, and print the first few."""
        before = self.unreadable.get("unreadable", 0)
        for problem in problems[: max(0, 5 - before)]:
            say(f"skipped, as it cannot be read: {problem}")
        if problems:
            self.unreadable = {"unreadable": before + len(problems)}

    def last_checkpoint(self) -> str:
        if self.saved_step is None:
            return "no checkpoint was written yet"
        return f"the last good checkpoint is {self.checkpoint} of step {self.saved_step:,}"

    def say(self, line: str) -> None:
        if self.writes:
            say(line)

    def write(self, name: str, content: bytes) -> None:
        trainer.write_atomically(self.path / name, lambda file: file.write(content))


@contextlib.contextmanager
def _locked(place: Place, world: trainer.World) -> Iterator[tuple[Path, bool]]:
    """The run's folder, with its lock held, and whether its run is resumed."""
    path, resume = place.path, place.resume
    if path is not None:
        if world.restarts and (path / "config.json").is_file():
            resume = True
        if path.is_file():
            in_it = path.name in FILES and (path.parent / "config.json").is_file()
            expected = f"the run's folder: {path.parent}" if in_it else "a folder"
            raise ValueError(f"--out: cannot write to {path}: it is a file, expected {expected}")
        if resume:
            if not (path / "config.json").is_file():
                raise ValueError(f"--out: {path} holds no run to resume, expected a folder with a config.json")
            check_own_files(path)
    created: list[Path] = []
    try:
        if path is None:
            path, created = next_free(Path("runs"), place.source)
        else:
            created = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
        unlocked = not (path / ".lock").exists()
        # O_NOFOLLOW: a link could create a file elsewhere
        lock = os.fdopen(os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb")
    except OSError as error:
        why = "its .lock is a link" if error.errno == errno.ELOOP else error.strerror
        raise ValueError(f"--out: cannot write to {path or 'runs'}: {why}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"--out: {path} is in use by another process") from error
        try:
            if not resume and any(item.name != ".lock" for item in path.iterdir()):
                hint = "add --resume to resume its run, or name" if (path / "config.json").exists() else "name"
                raise ValueError(f"--out: {path} is not empty; {hint} another folder")
            yield path, resume
        finally:
            if unlocked and not (path / "config.json").exists():  # the run did not start
                with contextlib.suppress(OSError):
                    (path / ".lock").unlink()
                    for folder in created:
                        folder.rmdir()


def check_own_files(path: Path, names: tuple[str, ...] = FILES) -> None:
    """Raises ValueError if a file of the run in `path`, or its folder of pictures, is a link or of the wrong kind: a
    run uses files inside its folder only, and the folder may come from anyone."""
    for name in (*names, "samples"):
        item, kind = path / name, "folder" if name == "samples" else "file"
        if item.is_symlink():
            raise ValueError(f"{item} is a link, expected a {kind} of the run's own")
        if item.exists() and not (item.is_dir() if name == "samples" else item.is_file()):
            raise ValueError(f"{item} is no {kind}, expected one of the run's own")


def _from_first_process(world: trainer.World, make: Callable[[], Any]) -> Any:
    """Call `make` in the first process and return its result in all. If it raises, all end, and only the first one
    prints the error."""
    if world.size == 1:
        return make()
    message: list = [None, None]
    error = None
    if world.writes:
        try:
            message = [make(), None]
        except (ValueError, OSError) as caught:
            error, message = caught, [None, str(caught)]
    torch.distributed.broadcast_object_list(message, 0)
    if error is not None:
        raise error
    if message[1] is not None:
        raise SystemExit(BAD_INPUT)
    return message[0]


def next_free(parent: Path, source: str) -> tuple[Path, list[Path]]:
    """A new folder, and all folders that were created for it. It is created here so that no other process gets it."""
    data = Path(source.removeprefix("hub:")).resolve()
    name = (data.name if data.is_dir() else data.stem) or "data"
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{n}").mkdir()
            return parent / f"{name}-{n}", [parent / f"{name}-{n}", *created]
    raise AssertionError
