"""The loop of `fastgan train`: batches, numbers, pictures and checkpoints, until the last step or a signal."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from fastgan import data as datasets
from fastgan import evaluation
from fastgan.cli import pictures
from fastgan.cli.errors import catching_signals, one_line
from fastgan.cli.folder import RunFolder
from fastgan.training import distributed as ranks
from fastgan.training import trainer
from fastgan.training.config import RunConfig

LOG_EVERY = 20  # steps
UNTIMED_STEPS = 4  # the first steps, which are not timed
TIMED_STEPS, TIMED_SECONDS = 20, 2.0  # then so many steps are timed, or fewer after so many seconds
NIGHT = 8 * 3600  # seconds
EARLY_PICTURES = (100, 1_000)  # steps with a picture, beside step 0 and those with a checkpoint
GRID_IMAGES, SCATTER_POINTS = 64, 2_000  # in a picture
Data = datasets.Dataset | datasets.Stream


class Unreadable(Exception):
    """The data cannot be read any more. Raised between two steps."""


def run_steps(
    model: trainer.GANTrainer, data: Data, config: RunConfig, run: RunFolder, judge: evaluation.Judge | None
) -> int:
    """Train until the last step or a signal. Returns 0, or the number of the signal. judge: None in a process that does
    not write."""
    assert config.save_every is not None  # `make_config` has chosen it
    batch, steps, world = config.batch, config.steps, run.world
    first, last_message, unit = model.step_number, time.monotonic(), "img" if data.is_images else "points"
    batches, window, stopped, timed_from = _batches(model, data, config, run), Window(model), 0, None
    bar = datasets.progress_bar(total=steps, initial=first, unit=" step", unit_scale=False, hidden=not world.writes)
    if first == 0 and world.writes:
        show(model, data, run)
    clock = Clock(run.seconds)
    with catching_signals() as signals, bar, contextlib.closing(batches):
        while model.step_number < steps and not stopped:
            try:
                real = next(batches)
            except Unreadable:
                save(model, data, run)
                raise
            window.add(model.step(*real))
            step = model.step_number
            bar.update(1)
            if step - first == UNTIMED_STEPS:
                synchronise(model)
                timed_from, since = step, time.monotonic()
            elif (
                timed_from
                and step < steps
                and (step - timed_from == TIMED_STEPS or time.monotonic() - since > TIMED_SECONDS)
            ):
                synchronise(model)
                if not bar.disable:
                    bar.clear()
                seconds = (time.monotonic() - since) / (step - timed_from)
                run.say(estimate(seconds, steps - step, batch * world.size, unit))
                timed_from = None
            judged = step == steps or (config.metrics_every and step % config.metrics_every == 0)
            saved = step == steps or step % config.save_every == 0
            if step % LOG_EVERY == 0 or judged or saved:
                record = window.read()  # the host waits for the device only here
                rate = (step - first) * batch * world.size / (clock.seconds() - run.seconds)
                left = (steps - step) * batch * world.size / rate
                record |= {"images_per_s": round(rate, 1), "seconds": round(clock.seconds(), 2)}
                run.log({"step": step, **record, "seconds_left": round(left, 1), **run.unreadable})
                bar.set_postfix_str(f"{rate:,.0f} {unit}/s  {trainer.describe(record)}", refresh=False)
                if world.writes and bar.disable and time.monotonic() - last_message > 10:
                    last_message = time.monotonic()
                    run.say(
                        f"step {step:,} of {steps:,}, {duration(left)} left  {rate:,.0f} {unit}/s  "
                        f"{trainer.describe(record)}"
                    )
                stopped = _signal_of_any_process(signals, world)
            elif world.size == 1 and signals:
                stopped = signals[0]
            if world.writes and (judged or saved or step in EARLY_PICTURES):
                with clock.paused():
                    if judged and judge is not None:
                        judge_quality(model, data, judge, run, clock.seconds())
                    if saved:
                        save(model, data, run)
                    elif step in EARLY_PICTURES:
                        show(model, data, run)
        if world.writes and stopped:
            window.read()  # raises if training has diverged, so that no diverged state is saved
            save(model, data, run)
        if world.writes and (film := pictures.film(run.grids(model.step_number))):
            run.write("training.gif", film)
    return stopped


def synchronise(model: trainer.GANTrainer) -> None:
    """Wait for the device, so that the steps are timed and not only their launches."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def estimate(seconds: float, left: int, batch: int, unit: str) -> str:
    """How long the `left` steps will take, at `seconds` a step."""
    said = f"{left:,} steps will take {duration(seconds * left)} ({batch / seconds:,.0f} {unit}/s), without evaluation"
    return f"{said}; --steps {max(1, int(NIGHT / seconds)):,} end in a night" if seconds * left > NIGHT else said


def duration(seconds: float) -> str:
    """Rounded, in a unit that suits: about 3 hours."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {name}"
    return f"about {math.ceil(seconds)} s"


def why_steps_are_needed(model: trainer.GANTrainer, data: Data, config: RunConfig, source: str) -> str:
    """Why training on images on a CPU needs --steps: how long the recipe's steps would take here, extrapolated from two
    steps, after one that is not timed."""
    real = datasets.to_unit(data.some(config.batch)).to(model.device)
    labels = torch.zeros(len(real), dtype=torch.int64, device=model.device) if config.conditional else None
    model.step(real, labels)
    began = time.monotonic()
    for _ in range(2):
        model.step(real, labels)
    seconds = (time.monotonic() - began) / 2
    hour = max(1, int(3600 / seconds))
    return (
        f"--steps: the default of {config.steps:,} is for a GPU, and on this CPU takes {source} "
        f"{duration(seconds * config.steps)} ({seconds:.2g} s a step); give --steps, {hour} for an hour, say"
    )


def _batches(
    model: trainer.GANTrainer, data: Data, config: RunConfig, run: RunFolder
) -> Generator[tuple[Tensor, Tensor | None], None, None]:
    """Endless batches (samples, labels) on the device. Raises Unreadable if the data cannot be read any more."""
    batch, rank, size = config.batch, run.world.rank, run.world.size
    prepared = functools.partial(datasets.shown, random=model.order, flip=config.flip, rank=rank, ranks=size)
    if isinstance(data, datasets.Dataset):
        samples = data.samples.to(model.device)
        labels = data.labels.to(model.device) if config.conditional and data.labels is not None else None
        while True:
            rows = datasets.draw_rows(data.count, batch, model.order, rank, size)
            yield prepared(samples[rows]), None if labels is None else labels[rows]
    assert config.workers is not None  # `make_config` has chosen it
    first, workers, cuda = model.step_number, config.workers, model.device.type == "cuda"
    stream = data.batches(config.seed, batch, first, workers=workers, pin=cuda, rank=rank, ranks=size)
    with contextlib.closing(stream):
        while True:
            try:
                images, labels, problems = next(stream)
            except (OSError, RuntimeError) as error:  # RuntimeError: the workers keep dying
                raise Unreadable(one_line(error)) from error
            run.note_unreadable(problems)
            images = images.to(model.device, non_blocking=True)
            yield prepared(images), labels.to(model.device, non_blocking=True) if config.conditional else None


def _signal_of_any_process(signals: list[int], world: trainer.World) -> int:
    """The signal that one of the processes has received, or 0, so that all stop at the same step."""
    received = signals[0] if signals else 0
    if world.size == 1:
        return received
    flag = torch.tensor(received, device=world.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return int(flag)


class Window:
    """The numbers of all steps since the last `read`, kept on the device: if training diverges, `read` names the first
    bad step, although the host does not synchronise at every step."""

    def __init__(self, model: trainer.GANTrainer):
        self.model = model
        self.names: list[str] = []
        self.rows: list[Tensor] = []  # a step each

    def add(self, values: dict[str, Tensor]) -> None:
        self.names = list(values)
        self.rows.append(torch.stack([v.float() for v in values.values()]))  # a copy: the next step overwrites values

    def read(self) -> dict[str, float]:
        """The last step's numbers, averaged over the processes, which must all call this. Raises TrainingDiverged,
        naming the first step with a number that is not finite."""
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
    """Seconds of training: those before this start, plus those since, without pauses."""

    def __init__(self, before: float):
        self.started = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began


def show(model: trainer.GANTrainer, data: Data, run: RunFolder) -> None:
    """Write a picture of the averaged generator's samples, from the same z at every step."""
    trained = [p for part in (model.generator, model.discriminator) if part is not None for p in part.parameters()]
    if not all(p.isfinite().all() for p in trained):
        raise trainer.TrainingDiverged(model.step_number, {"a weight": math.nan})
    if data.is_images and model.config.classes:  # a row a class
        rows = min(model.config.classes, GRID_IMAGES // 4)
        labels = torch.arange(rows).repeat_interleave(GRID_IMAGES // rows)
        samples = datasets.to_uint8(model.sample(len(labels), labels=labels))
        picture = pictures.image_grid(samples, columns=GRID_IMAGES // rows)
    elif data.is_images:
        picture = pictures.image_grid(datasets.to_uint8(model.sample(GRID_IMAGES)))
    else:
        assert data.mean is not None and data.scale is not None  # as of all points
        picture = pictures.scatter(
            datasets.to_points(model.sample(SCATTER_POINTS).cpu(), data.mean, data.scale),
            datasets.to_points(data.some(SCATTER_POINTS), data.mean, data.scale),
        )
    run.show(model.step_number, picture)


def save(model: trainer.GANTrainer, data: Data, run: RunFolder) -> None:
    """Write the pictures, then the checkpoint: if it exists, so does everything up to its step."""
    if not run.writes:
        return
    show(model, data, run)
    if run.records:
        run.write("curves.png", pictures.curves(run.records, cross_entropy=model.objective in trainer.CROSS_ENTROPY))
    if run.qualities:
        run.write("quality.png", pictures.quality(run.qualities))
    model.save(run.checkpoint)
    run.saved_step = model.step_number


def judge_quality(
    model: trainer.GANTrainer, data: Data, judge: evaluation.Judge, run: RunFolder, seconds: float
) -> dict[str, float]:
    """Score samples of the averaged generator, log the scores and return them. Labels are drawn from the data's. Raises
    TrainingDiverged if a sample is not finite."""
    labels = None
    if model.config.classes and data.labels is not None:
        rows = torch.randint(data.count, (judge.count,), generator=torch.Generator().manual_seed(1))
        labels = data.labels[rows]
    generated = model.sample(judge.count, seed=1, labels=labels)
    if not generated.isfinite().all():
        raise trainer.TrainingDiverged(model.step_number, {"a generated sample": math.nan})
    scores = judge(generated)
    run.log({"step": model.step_number, "seconds": round(seconds, 2), "quality": scores})
    return scores
