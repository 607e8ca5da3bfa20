"""The command line: `fastgan train`, `fastgan sample`, `fastgan doctor`.

Exit codes: 0 done, or stopped by SIGTERM and saved; 1 failed while running (no space left, training diverged, self-test
failed); 2 bad arguments or input; 130 stopped by Ctrl-C. What goes wrong is said in one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import io
import itertools
import json
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastgan
from fastgan import data as datasets
from fastgan import distributed as ranks
from fastgan import metrics, networks, pictures, recipes, trainer

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
LOG_EVERY = 20  # steps
SAVES = 12  # checkpoints in a run, where --save-every does not say otherwise
GRID = 64  # images in a picture of the run
SCATTER = 2_000  # points in one
PNG_LIMIT = 10_000  # samples in one PNG

# What a run may be resumed with another value of, since no number of the training depends on it.
FREE = (
    *("steps", "device", "threads", "workers", "capture", "save_every"),
    *("metrics_every", "metrics_samples", "inception", "features"),
)

TRAIN_HELP = f"""\
examples:
  fastgan train digits                                 handwritten digits in about two minutes on two CPU cores
  fastgan train photos/ --size 32 --out runs/photos    a folder of images, cropped and resized to 32x32
  fastgan train points.npy --objective minimax         float points (N, d); .npz with one array as well
  fastgan train ring                                   8 Gaussians on a circle; `grid`: 25 Gaussians
  fastgan train photos/ --recipe r3gan --flip          a recipe by name, and every other image mirrored
  fastgan train hub:ylecun/mnist --size 32             of the Hugging Face hub (pip install 'fastgan[hub]')
  fastgan train digits --out runs/digits-1 --resume    go on where the run stopped
  torchrun --nproc-per-node 2 --max-restarts 3 -m fastgan train photos/ --out runs/photos

recipes (--recipe), from which every setting comes that is not given:
{recipes.table()}

The run's folder then holds config.json, metrics.jsonl, checkpoint.pt, curves.png, quality.png, samples/ and TensorBoard
events. Ctrl-C and SIGTERM save a checkpoint and stop, with exit code 130 and 0. A resumed run goes on exactly: it takes
its settings from the run, and those given again must be the same, except for those that no number depends on and
--steps, which may grow. On the CPU that holds to the last bit.

Every so often, and at the end, generated samples are compared with real ones: coverage, precision, recall, and Fréchet
and kernel distances of features, which are named with the number: FD(digits-cnn) of a classifier of digits,
FD(random-cnn) of a fixed random network. FID and KID are said only of Inception's features: --inception FILE takes
StyleGAN's inception-2015-12-05.pt, and needs pip install 'fastgan[metrics]'.

Started by torchrun, each process trains on its share: --batch samples each. The first one writes. With --max-restarts
the processes go on from the last checkpoint where one has failed; that takes --out."""

SAMPLE_HELP = """\
examples:
  fastgan sample runs/digits-1                                    64 samples in runs/digits-1/samples/seed_0.png
  fastgan sample runs/digits-1 --count 16 --seed 3 --out some.png
  fastgan sample runs/digits-1 --count 50000 --out digits.npz     array `images`, uint8 (N, H, W, C)

A run on points gives a scatter plot, or the array `points`, float32 (N, d)."""

DOCTOR_HELP = """\
Says what this machine has and which backend will compute the losses, and checks loss and gradients against the
reference in float64. Exit code 1 where they differ. On a machine without a GPU the Triton kernel itself can be checked
so:
  TRITON_INTERPRET=1 FASTGAN_BACKEND=triton fastgan doctor"""


class Refused(Exception):
    """Bad arguments or input: one line for the user, exit code 2."""


class Failed(Exception):
    """Something that was fine at the start went wrong: one line for the user, exit code 1."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: names of files may be no text
    try:
        args = _parser().parse_args(argv)
        return args.command(args)
    except SystemExit as stop:  # argparse: --help, or an argument it refuses
        return stop.code or OK
    except (Refused, Failed) as error:
        _say(str(error))
        return BAD_INPUT if isinstance(error, Refused) else FAILED
    except KeyboardInterrupt:
        _say("interrupted; what was saved stands")
        return INTERRUPTED


# ---- train ----------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        with _refusing():  # everything is checked before anything is trained, and what is cheap first
            _check_packages()
            device = _device(args.device)
            world = stack.enter_context(trainer.distributed(args.device and device.type))
            device = world.device if world.size > 1 else device
            run = stack.enter_context(RunFolder.open(args, world))
            trainer.check_objective(args.objective or "nonsaturating")
            data = datasets.load(args.data, args.size, stream=args.stream, device=device)
            config = _config(args, data, device, world)
            settings = config["settings"]
            run.check_data(config)
            torch.set_num_threads(settings["threads"])
            model = _trainer(settings, data.sample_shape, device)
            settings["precision"] = model.settings["precision"]  # as chosen, where it was not given
            if run.resumed and run.checkpoint.exists():
                model.load(run.checkpoint)
            if model.step_number > settings["steps"]:
                raise ValueError(f"--steps: got {args.steps}, but {run.path} is at step {model.step_number} already")
            judge = None
            if world.writes:
                options = {name: settings[name] for name in ("inception", "features")}
                judge = metrics.judge(data, settings["metrics_samples"], device=device, **options)
        for name in data.skipped[:5]:
            run.say(f"left out, as it cannot be read: {name}")
        if len(data.skipped) > 5:
            run.say(f"left out, as they cannot be read: {len(data.skipped) - 5} more")
        for note in data.notes:
            run.say(note)
        again = f"fastgan train {shlex.quote(args.data)} --out {shlex.quote(str(run.path))} --resume"
        with _failing(again):
            run.start(config, model.step_number)
            many = f"{world.size} processes, " if world.size > 1 else ""
            run.say(
                f"{run.path}: {data.count:,} samples of shape {data.sample_shape}{', streamed,' * _streams(data)} on "
                f"{device}, {many}{settings['recipe']}, {settings['objective']}, step {model.step_number:,} of "
                f"{settings['steps']:,}"
            )
            try:
                stopped = _train(model, data, settings, run, judge, world)
            except trainer.TrainingDiverged as error:
                raise Failed(f"{error}; {run.last_checkpoint()}") from error
            except Unreadable as error:
                raise Failed(f"{_one_line(error)}; {run.last_checkpoint()}, to go on: {again}") from error
            except RuntimeError as error:
                if not _lost_connection(error):
                    raise
                raise Failed(f"another process of this run has failed; {run.last_checkpoint()}") from error
            if stopped:
                run.say(f"stopped and saved at step {model.step_number:,}; to go on: {again}")
                return INTERRUPTED if stopped == signal.SIGINT else OK
            if world.writes:
                print(f"{run.path}: {metrics.described(run.quality or _quality(model, judge, run, 0.0))}")
    return OK


def _lost_connection(error: RuntimeError) -> bool:
    """Whether this is what gloo or NCCL says where the other side of a collective is gone."""
    said = str(error).lower()
    return any(
        word in said for word in ("closed by peer", "reset by peer", "connection refused", "remote process exited")
    )


class Unreadable(Exception):
    """Data that cannot be read any more, between two steps."""


def _train(
    model: trainer.GANTrainer,
    data: datasets.Dataset | datasets.Stream,
    settings: dict,
    run: RunFolder,
    judge: metrics.Judge | None,
    world: trainer.World,
) -> int:
    """The loop. Returns 0, or the number of the signal that stopped it."""
    batch, steps = settings["batch"], settings["steps"]
    first, clock, spoke = model.step_number, Clock(run.seconds), time.monotonic()
    batches, window, stopped = _batches(model, data, settings, run, world), Window(model), 0
    bar = datasets.progress_bar(total=steps * batch, initial=first * batch, hidden=not world.writes)
    with _catching_signals() as signals, bar, contextlib.closing(batches):
        while model.step_number < steps and not stopped:
            try:
                real = next(batches)
            except Unreadable:
                _save(model, data, run)
                raise
            window.add(model.step(real))
            step = model.step_number
            bar.update(batch)
            judged = step == steps or (settings["metrics_every"] and step % settings["metrics_every"] == 0)
            saved = step == steps or step % settings["save_every"] == 0
            if step % LOG_EVERY == 0 or judged or saved:
                record = window.read()  # the one place where the host waits for the device
                rate = (step - first) * batch * world.size / (clock.seconds() - run.seconds)
                record |= {"images_per_s": round(rate, 1), "seconds": round(clock.seconds(), 2)}
                run.log({"step": step, **record, **run.unreadable})
                bar.set_postfix_str(trainer.describe(record), refresh=False)
                if world.writes and bar.disable and time.monotonic() - spoke > 10:
                    spoke = time.monotonic()
                    run.say(f"step {step:,} of {steps:,}  {rate:,.0f} img/s  {trainer.describe(record)}")
                stopped = _agreed(signals, world)
            elif world.size == 1 and signals:
                stopped = signals[0]
            if world.writes and (judged or saved):
                with clock.paused():
                    if judged:
                        _quality(model, judge, run, clock.seconds())
                    if saved:
                        _save(model, data, run)
        if world.writes and stopped:
            window.read()  # nothing that has diverged is saved
            _save(model, data, run)
    return stopped


def _batches(
    model: trainer.GANTrainer,
    data: datasets.Dataset | datasets.Stream,
    settings: dict,
    run: RunFolder,
    world: trainer.World,
) -> Iterator[Tensor]:
    """What each step sees, without end, on the device. Raises Unreadable where the data cannot be read any more."""
    batch, flip, of_rank = settings["batch"], settings["flip"], {"rank": world.rank, "ranks": world.size}
    if isinstance(data, datasets.Dataset):
        samples = data.samples.to(model.device)
        while True:
            yield datasets.draw(samples, batch, model.random, flip, **of_rank)
    cuda = model.device.type == "cuda"
    options = {"workers": settings["workers"], "pin": cuda, **of_rank}
    stream = data.batches(settings["seed"], batch, model.step_number, **options)
    with contextlib.closing(stream):
        while True:
            try:
                images, problems = next(stream)
            except (OSError, RuntimeError) as error:  # RuntimeError: of workers that keep dying
                raise Unreadable(_one_line(error)) from error
            run.note_unreadable(problems)
            images = images.to(model.device, non_blocking=True)
            yield datasets.to_unit(datasets.flipped(images, model.random, **of_rank) if flip else images)


def _agreed(signals: list[int], world: trainer.World) -> int:
    """The signal that one of the processes has got, or 0; all of them stop at the same step."""
    mine = signals[0] if signals else 0
    if world.size == 1:
        return mine
    flag = torch.tensor(mine, device=world.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return int(flag)


class Window:
    """The numbers of the steps since they were last read, on the device, so that a step that went wrong is named though
    the host looks at few."""

    def __init__(self, model: trainer.GANTrainer):
        self.model, self.names, self.rows = model, [], []

    def add(self, values: dict[str, Tensor]) -> None:
        self.names = list(values)
        self.rows.append(
            torch.stack([value.float() for value in values.values()])
        )  # a copy: the next step writes there

    def read(self) -> dict[str, float]:
        """The last step's numbers, the mean of all processes', which must all ask. Raises TrainingDiverged, naming the
        first step with one that is not finite."""
        if not self.rows:
            return {}
        table = torch.stack(self.rows)
        if ranks.ranks() > 1:
            table = ranks.mean_over_ranks(table)
        records = [dict(zip(self.names, row)) for row in table.tolist()]
        self.rows = []
        for i, record in enumerate(records):
            trainer.check_finite(self.model.step_number - len(records) + 1 + i, record)
        return records[-1]


class Clock:
    """Seconds of training: what was before, and what has passed since, without pauses."""

    def __init__(self, before: float):
        self.started = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began


def _save(model: trainer.GANTrainer, data: datasets.Dataset | datasets.Stream, run: RunFolder) -> None:
    """Pictures first, the checkpoint last: where it is, everything up to its step is."""
    if not run.writes:
        return
    trained = [p for part in (model.generator, model.discriminator) if part is not None for p in part.parameters()]
    if not all(p.isfinite().all() for p in trained):
        raise trainer.TrainingDiverged(model.step_number, {"a weight": math.nan})
    if data.is_images:
        picture = pictures.image_grid(datasets.to_uint8(model.sample(GRID)))
    else:
        picture = pictures.scatter(
            datasets.to_points(model.sample(SCATTER).cpu(), data.mean, data.scale),
            datasets.to_points(data.some(SCATTER), data.mean, data.scale),
        )
    run.write(f"samples/step_{model.step_number:06d}.png", picture)
    if run.records:
        run.write("curves.png", pictures.curves(run.records, cross_entropy=model.objective in trainer.CROSS_ENTROPY))
    if run.qualities:
        run.write("quality.png", pictures.quality(run.qualities))
    model.save(run.checkpoint)
    run.saved_step = model.step_number


def _quality(model: trainer.GANTrainer, judge: metrics.Judge, run: RunFolder, seconds: float) -> dict[str, float]:
    """How good the averaged generator is, logged and returned. Raises TrainingDiverged where it gives no numbers."""
    generated = model.sample(judge.count, seed=1)
    if not generated.isfinite().all():
        raise trainer.TrainingDiverged(model.step_number, {"a generated sample": math.nan})
    scores = judge(generated)
    run.log({"step": model.step_number, "seconds": round(seconds, 2), "quality": scores})
    return scores


def _streams(data: datasets.Dataset | datasets.Stream) -> bool:
    return isinstance(data, datasets.Stream)


def _config(
    args: argparse.Namespace, data: datasets.Dataset | datasets.Stream, device: torch.device, world: trainer.World
) -> dict:
    """All that makes the run what it is. Arguments that were not given come from the recipe for this kind of data."""
    size = data.sample_shape[-1] if data.is_images else None
    given = {name: value for name, value in vars(args).items() if value is not None}
    settings = recipes.settings(args.recipe, size)
    settings |= {name: given[name] for name in settings.keys() & given.keys()}
    if args.batch is None:
        settings["batch"] = min(settings["batch"], data.count)
    elif args.batch > data.count:
        raise ValueError(f"--batch: got {args.batch}, but {args.data} has {data.count} samples to train on")
    if args.flip and not data.is_images:
        raise ValueError(f"--flip: {args.data} holds points, not images")
    # Networks this small gain a fifth from a second thread where the cores are free, and become many times slower where
    # they are not, as threads wait for each other at every operation.
    small = not data.is_images or size == 8
    save_every = args.save_every or max(100, settings["steps"] // SAVES)
    defaults = {
        "size": size,
        "seed": 0,
        "step": "alternating",
        "precision": None,
        "compile": False,
        "capture": None,
        "accumulate": 1,
        "flip": False,
        "stream": _streams(data),
        "workers": min(8, os.cpu_count() or 1),
        "threads": 1 if small else torch.get_num_threads(),
        "save_every": save_every,
        "metrics_every": save_every,
        "metrics_samples": 2_000,
        "inception": None,
        "features": None,
    }
    settings |= {name: given.get(name, value) for name, value in defaults.items()}
    settings |= {"device": device.type, "processes": world.size}
    return {
        "settings": settings,
        "data": {
            "source": args.data,
            "name": data.name,
            "sample_shape": list(data.sample_shape),
            "count": data.count,
            "mean": None if data.mean is None else data.mean.tolist(),
            "scale": data.scale,
            "skipped": list(data.skipped),
            "fingerprint": data.fingerprint(),
        },
        "versions": {"fastgan": fastgan.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _trainer(settings: dict, sample_shape: tuple[int, ...], device: torch.device) -> trainer.GANTrainer:
    torch.manual_seed(settings["seed"])  # of the networks' first weights
    shape = {name: settings[name] for name in ("latent_dim", "width", "networks")}
    generator, discriminator = networks.build(sample_shape, **shape)
    if settings["objective"] == "mmd":
        discriminator = None
    names = (
        *("latent_dim", "objective", "weight", "lr", "betas", "r1", "r2", "r1_every", "ema_decay", "seed"),
        *("step", "precision", "compile", "capture", "accumulate"),
    )
    return trainer.GANTrainer(generator, discriminator, device=device, **{name: settings[name] for name in names})


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
            _say(f"passed over, as it cannot be read: {problem}")
        if problems:
            self.unreadable = {"unreadable": before + len(problems)}

    def last_checkpoint(self) -> str:
        if self.saved_step is None:
            return "no checkpoint was written yet"
        return f"the last good checkpoint is {self.checkpoint} of step {self.saved_step:,}"

    def say(self, line: str) -> None:
        if self.writes:
            _say(line)

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
            path, created = _next_free(Path("runs"), args.data)
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


def _next_free(parent: Path, source: str) -> tuple[Path, list[Path]]:
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


# ---- sample, doctor -------------------------------------------------------------------------------------------------


def sample(args: argparse.Namespace) -> int:
    with _refusing():
        path = Path(args.run)
        out = Path(args.out) if args.out else path / "samples" / f"seed_{args.seed}.png"
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out: got {out}, expected a name that ends in .png or .npz")
        if out.suffix == ".png" and args.count > PNG_LIMIT:
            raise ValueError(f"--count: got {args.count}, expected at most {PNG_LIMIT} for a .png; a .npz takes more")
        config = read_config(path)
        if not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        settings, data = config["settings"], config["data"]
        shape = {name: settings.get(name) for name in ("latent_dim", "width", "networks")}
        generator, _ = networks.build(tuple(data["sample_shape"]), **shape)
        checkpoint = trainer.read_checkpoint(path / "checkpoint.pt")
        trainer.check_same_network(path / "checkpoint.pt", "generator", generator, checkpoint["ema"])
        generator.load_state_dict(checkpoint["ema"])
        generator.eval()
    with _failing():
        is_images = len(data["sample_shape"]) == 3
        samples = torch.cat([
            datasets.to_uint8(part)
            if is_images
            else datasets.to_points(part, torch.tensor(data["mean"]), data["scale"])
            for part in trainer.generate(generator, settings["latent_dim"], args.count, args.seed)
        ])  # fmt: skip
        if out.suffix == ".png":
            content = pictures.image_grid(samples) if is_images else pictures.scatter(samples)
        else:
            file = io.BytesIO()
            np.savez_compressed(file, **_arrays(samples))
            content = file.getvalue()
        trainer.write_atomically(out, lambda file: file.write(content))
    print(f"{out}: {args.count} samples of step {checkpoint['step']:,}, seed {args.seed}")
    return OK


def _arrays(samples: Tensor) -> dict[str, np.ndarray]:
    if samples.ndim == 4:
        return {"images": samples.permute(0, 2, 3, 1).contiguous().numpy()}
    return {"points": samples.numpy()}


def doctor(args: argparse.Namespace) -> int:
    from fastgan.doctor import examine

    return OK if examine() else FAILED


# ---- arguments, signals, errors -------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastgan", description="Train a generative adversarial network, and sample from it.")
    parser.add_argument("--version", action="version", version=f"fastgan {fastgan.__version__}")
    commands = parser.add_subparsers(required=True, metavar="train | sample | game | doctor", parser_class=_Parser)

    def command(name: str, run, what: str, epilog: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.set_defaults(command=run)
        return one

    one = command("train", train, "Train on DATA and keep everything of it in a run folder.", TRAIN_HELP)
    one.add_argument("data", metavar="DATA", help=f"{datasets.KINDS} (a data set of the Hugging Face hub)")
    one.add_argument("--recipe", metavar="NAME", help="dcgan-r1, dcgan, r3gan or points, see below")
    one.add_argument("--steps", type=_whole(1), metavar="N", help="training steps (digits: 5,000)")
    one.add_argument("--batch", type=_whole(1), metavar="B", help="samples a step, in each process (digits: 64)")
    one.add_argument("--size", type=_whole(1), metavar="S", help="side of the images: 8, 16, 32, 64 or 128 pixels")
    one.add_argument("--seed", type=_whole(0), metavar="S", help="of weights, data order and noise (default 0)")
    one.add_argument("--out", metavar="DIR", help="the run's folder (default: the next free runs/NAME-N)")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out")
    one.add_argument("--save-every", type=_whole(1), metavar="N", help="steps between checkpoints (default: a twelfth)")

    what = one.add_argument_group("the loss and the networks")
    what.add_argument("--objective", metavar="NAME", help="the loss: nonsaturating, minimax, hinge, relativistic, ...")
    what.add_argument("--lr", type=float, metavar="X", help="Adam's learning rate (digits: 0.002)")
    what.add_argument("--r1", type=float, metavar="X", help="weight of the R1 penalty, 0 for none (digits: 0.5)")
    what.add_argument("--r2", type=float, metavar="X", help="weight of the R2 penalty, on generated data (digits: 0)")
    what.add_argument("--r1-every", type=_whole(1), metavar="N", help="take them at every N-th step, N times as heavy")
    what.add_argument(
        "--latent-dim", type=_whole(1), metavar="N", help="numbers the generator starts from (digits: 32)"
    )
    what.add_argument("--width", type=_whole(1), metavar="N", help="channels of the finest feature map (digits: 16)")

    how = one.add_argument_group("the step")
    how.add_argument(
        "--step", choices=("alternating", "one-stage"), help="one-stage: one pass through D serves both (default: no)"
    )
    how.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="of the networks' passes (default: bfloat16 on GPUs that have it)",
    )
    yes_no = argparse.BooleanOptionalAction
    how.add_argument("--compile", action=yes_no, help="torch.compile both networks (default: no)")
    how.add_argument("--capture", action=yes_no, help="the step in one CUDA graph (default: where it can be)")
    how.add_argument("--accumulate", type=_whole(1), metavar="N", help="go through a batch in N parts, for the memory")
    how.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    how.add_argument(
        "--threads", type=_whole(1), metavar="N", help="CPU threads (default: all; 1 for digits and points)"
    )

    seen = one.add_argument_group("the data")
    seen.add_argument("--flip", action=yes_no, help="mirror every other image left to right (default: no)")
    seen.add_argument(
        "--stream",
        action=yes_no,
        help=f"read images as they are drawn (default: where they take {datasets.MEMORY_SHARE:.0%}% of free memory)",
    )
    seen.add_argument("--workers", type=_whole(0), metavar="N", help="processes that read a stream (default: up to 8)")

    good = one.add_argument_group("how good it is")
    good.add_argument(
        "--metrics-every",
        type=_whole(0),
        metavar="N",
        help="steps between comparisons (default: --save-every; 0: last)",
    )
    good.add_argument("--metrics-samples", type=_whole(16), metavar="N", help="samples compared (default 2,000)")
    good.add_argument("--inception", metavar="FILE", help="Inception's weights, for FID and KID")
    good.add_argument("--features", metavar="FILE", help="another network, as TorchScript: uint8 images -> features")

    one = command("sample", sample, "Draw samples from the averaged generator of a run.", SAMPLE_HELP)
    one.add_argument("run", metavar="RUN", help="the run's folder")
    one.add_argument("--count", type=_whole(1), default=64, metavar="N", help="how many (default 64)")
    one.add_argument("--seed", type=_whole(0), default=0, metavar="S", help="the same seed gives the same samples")
    one.add_argument("--out", metavar="FILE", help="FILE.png or FILE.npz (default: RUN/samples/seed_S.png)")

    from fastgan.game import command as game  # not above: it imports this module

    one = command("game", game.run, "Play the game of the theory on a named target, and draw it.", game.HELP)
    game.add_arguments(one, _whole)

    command("doctor", doctor, "Say what this machine has and whether the kernels are right on it.", DOCTOR_HELP)
    return parser


def _whole(low: int):
    """An argument type: a whole number from `low` on that fits 63 bits."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value < 2**63:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {low}")
        return value

    return parse


def _check_packages() -> None:
    for module, package in (("PIL", "pillow"), ("matplotlib",) * 2, ("tensorboard",) * 2, ("tqdm",) * 2):
        if importlib.util.find_spec(module) is None:
            raise ImportError(datasets.needs(package))


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise ValueError(f"--device: got {name}, expected one that is there: {there}")
    return device


@contextlib.contextmanager
def _catching_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM is put into, so that a step is never left half done. A second one acts as
    it always does."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, _) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What goes wrong inside is the input's fault."""
    try:
        yield
    except (ValueError, ImportError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise Refused(_one_line(error)) from error


@contextlib.contextmanager
def _failing(again: str = "") -> Iterator[None]:
    """What goes wrong inside is the machine's fault. Anything else is a bug, and shows its traceback."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        how = f"; to go on: {again}" if again else ""
        raise Failed(f"{_one_line(error)}; what was saved before stands{how}") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "out of memory; a smaller --batch or --size takes less"
    return str(error).split("\n")[0]


def _say(line: str) -> None:
    print(f"fastgan: {line}", file=sys.stderr, flush=True)
