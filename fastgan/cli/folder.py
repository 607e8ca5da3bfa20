"""The folder of a run: its lock, its config, its log and its checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastgan import trainer
from fastgan.cli.errors import BAD_INPUT, say

# What a run may be resumed with another value of, since no number of the training depends on it.
FREE = (
    *("steps", "device", "threads", "workers", "capture", "save_every"),
    *("metrics_every", "metrics_samples", "inception", "features"),
)


class RunFolder:
    """The folder of one run: config.json, metrics.jsonl, TensorBoard events, samples/, curves.png, quality.png and
    checkpoint.pt.

    One process at a time may have it open; that is what the lock on `.lock` says, which the system lifts when the
    process ends, however it ends. Of processes that train together the first one has it; the others write nothing.
    Files are replaced whole, except metrics.jsonl and the events, which grow line by line."""

    def __init__(self, path: Path, config: dict | None, world: trainer.World):
        self.path, self.config = path, config  # the config of the run to go on with, or None
        self.world, self.writes = world, world.writes
        self.checkpoint = path / "checkpoint.pt"
        self.records: list[dict] = []  # what was logged of the training, for the curves
        self.qualities: list[dict] = []  # and of the quality
        self.quality: dict | None = None  # the last one, if it is of the step where training is
        self.seconds = 0.0  # of training, when it starts
        self.unreadable: dict[str, int] = {}
        self.saved_step: int | None = None

    @property
    def resumed(self) -> bool:
        return self.config is not None

    @classmethod
    @contextlib.contextmanager
    def open(cls, args: argparse.Namespace, world: trainer.World) -> Iterator[RunFolder]:
        """The folder that --out and --resume name, locked. With --resume its settings are put into `args`, as they are
        where torchrun has started the processes anew and the run is there.

        Raises ValueError or OSError where it cannot be used. Leaves nothing behind if the run does not start."""
        if args.resume and args.out is None:
            raise ValueError("--resume: needs --out, the folder of the run to go on with")
        if world.size > 1 and args.out is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
            raise ValueError("--out: torchrun --max-restarts needs it, to find the run again")
        with contextlib.ExitStack() as stack:
            path, args.resume = _of_first(world, lambda: stack.enter_context(_locked(args, world)))
            run = cls(path, read_config(path) if args.resume else None, world)
            if args.resume:
                run._resume(args)
            yield run

    def _resume(self, args: argparse.Namespace) -> None:
        if self.writes:
            for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("samples/.*.tmp")):  # of one that was killed
                leftover.unlink()
        settings = self.config["settings"]
        if settings.get("processes", 1) != self.world.size:
            raise ValueError(
                f"{self.path} was trained by {settings.get('processes', 1)} processes, and is to go on with "
                f"{self.world.size}; that would not be exact"
            )
        for name, value in settings.items():
            given = getattr(args, name, None)
            if given is None:
                setattr(args, name, value)
            elif given != value and not (name in FREE and (name != "device" or given.split(":")[0] == value)):
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{option}: got {given}, but {self.path} was started with {value} and goes on with that"
                )

    def check_data(self, config: dict) -> None:
        """Raises ValueError where the run to go on with was trained on other data, or the processes see different."""
        if self.world.size > 1:
            seen = [None] * self.world.size
            torch.distributed.all_gather_object(seen, config["data"]["fingerprint"])
            if len(set(seen)) > 1:
                raise ValueError(f"DATA: the processes see different data in {config['data']['source']}")
        if self.resumed and self.config["data"]["fingerprint"] != config["data"]["fingerprint"]:
            before, now = self.config["data"], config["data"]
            raise ValueError(
                f"DATA: {now['source']} ({now['count']} samples) is not the data that {self.path} was started with "
                f"({before['source']}, {before['count']} samples), or has changed since"
            )

    def start(self, config: dict, step: int) -> None:
        """Write the config, and bring the log back to `step`, from where training goes on."""
        if not self.writes:
            return
        (self.path / "samples").mkdir(exist_ok=True)
        self.write("config.json", json.dumps(config, indent=2).encode() + b"\n")
        log = self.path / "metrics.jsonl"
        records = []
        if log.exists():
            for line in log.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # a last line cut short
                    record = json.loads(line)
                    if record["step"] <= step:
                        records.append(record)
        for record in records:
            self._remember(record)
        self.seconds = records[-1].get("seconds", 0.0) if records else 0.0
        self.quality = self.qualities[-1]["quality"] if self.qualities and self.qualities[-1]["step"] == step else None
        if step > 0:
            self.saved_step = step
        self.write("metrics.jsonl", b"".join(map(_line, records)))
        self.write("events.out.tfevents.fastgan", _event(None) + b"".join(map(_event, records)))

    def log(self, record: dict) -> None:
        """Append to metrics.jsonl and the TensorBoard events."""
        if not self.writes:
            return
        record = {**record, "time": round(time.time(), 3)}
        self._remember(record)
        for name, content in (("metrics.jsonl", _line(record)), ("events.out.tfevents.fastgan", _event(record))):
            try:
                with open(self.path / name, "ab") as file:
                    file.write(content)
            except OSError as error:
                raise OSError(error.errno, f"cannot write {self.path / name}: {error.strerror}") from error

    def _remember(self, record: dict) -> None:
        if "quality" in record:
            self.qualities.append(record)
            self.quality = record["quality"]
        else:
            self.records.append(record)

    def note_unreadable(self, problems: list[str]) -> None:
        """Counts images that could not be read, for the log, and names the first few."""
        before = self.unreadable.get("unreadable", 0)
        for problem in problems[: max(0, 5 - before)]:
            say(f"passed over, as it cannot be read: {problem}")
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
def _locked(args: argparse.Namespace, world: trainer.World) -> Iterator[tuple[Path, bool]]:
    """The run's folder, with its lock held, and whether its run is to go on."""
    path, resume = Path(args.out) if args.out else None, args.resume
    if world.restarts and path is not None and (path / "config.json").is_file():
        resume = True
    if resume and not (path / "config.json").is_file():
        raise ValueError(f"--out: {path} holds no run to resume, expected a folder with a config.json")
    created = []
    try:
        if path is None:
            path, created = next_free(Path("runs"), args.data)
        else:
            created = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "ab")  # noqa: SIM115 (the lock is held until the run ends)
    except OSError as error:
        raise ValueError(f"--out: cannot write to {path or 'runs'}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"--out: {path} is in use by another process") from error
        if not resume and any(item.name != ".lock" for item in path.iterdir()):
            hint = "add --resume to go on with its run, or name" if (path / "config.json").exists() else "name"
            raise ValueError(f"--out: {path} is not empty; {hint} another folder")
        try:
            yield path, resume
        finally:
            if not (path / "config.json").exists():  # never started
                with contextlib.suppress(OSError):
                    (path / ".lock").unlink()
                    for folder in created:
                        folder.rmdir()


def _of_first(world: trainer.World, make: Callable[[], Any]) -> Any:
    """What the first process makes, for all of them; where it refuses, all do, and one says why."""
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


def read_config(path: Path) -> dict:
    """The config.json of the run in `path`. Raises ValueError where there is none, or it is no such file."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config["settings"]["latent_dim"], config["data"]["fingerprint"]
    except FileNotFoundError as error:
        raise ValueError(f"{path} holds no run, expected a folder with a config.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged or no config of a run") from error
    return config


def next_free(parent: Path, source: str) -> tuple[Path, list[Path]]:
    """A new folder, made here so that no other process gets the same, and all folders that were made for it."""
    data = Path(source.removeprefix("hub:")).resolve()
    name = (data.name if data.is_dir() else data.stem) or "data"
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{n}").mkdir()
            return parent / f"{name}-{n}", [parent / f"{name}-{n}", *created]
    raise AssertionError


def _line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _event(record: dict | None) -> bytes:
    """A record as TensorBoard keeps it, or the head of its file. Written here because torch's SummaryWriter writes in a
    thread, where nobody learns that the disk is full."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    if record is None:
        event = Event(wall_time=time.time(), file_version="brain.Event:2")
    else:
        values = record.get("quality", {k: v for k, v in record.items() if k not in ("step", "time", "seconds")})
        prefix = "quality" if "quality" in record else "train"
        scalars = [Summary.Value(tag=f"{prefix}/{name}", simple_value=value) for name, value in values.items()]
        event = Event(wall_time=record["time"], step=record["step"], summary=Summary(value=scalars))
    out = io.BytesIO()
    RecordWriter(out).write(event.SerializeToString())
    return out.getvalue()
