"""The loop of `fastgan train`: batches, numbers, pictures and checkpoints, until the last step or a signal."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

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
GRID = 64  # images in a picture of the run
SCATTER = 2_000  # points in one
Data = datasets.Dataset | datasets.Stream


class Unreadable(Exception):
    """Data that cannot be read any more, between two steps."""


def run_steps(
    model: trainer.GANTrainer, data: Data, config: RunConfig, run: RunFolder, judge: evaluation.Judge | None
) -> int:
    """The loop. Returns 0, or the number of the signal that stopped it."""
    batch, steps, world = config.batch, config.steps, run.world
    first, clock, spoke = model.step_number, Clock(run.seconds), time.monotonic()
    batches, window, stopped = _batches(model, data, config, run), Window(model), 0
    bar = datasets.progress_bar(total=steps * batch, initial=first * batch, hidden=not world.writes)
    with catching_signals() as signals, bar, contextlib.closing(batches):
        while model.step_number < steps and not stopped:
            try:
                real = next(batches)
            except Unreadable:
                save(model, data, run)
                raise
            window.add(model.step(real))
            step = model.step_number
            bar.update(batch)
            judged = step == steps or (config.metrics_every and step % config.metrics_every == 0)
            saved = step == steps or step % config.save_every == 0
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
                        judge_quality(model, judge, run, clock.seconds())
                    if saved:
                        save(model, data, run)
        if world.writes and stopped:
            window.read()  # nothing that has diverged is saved
            save(model, data, run)
    return stopped


def _batches(model: trainer.GANTrainer, data: Data, config: RunConfig, run: RunFolder) -> Iterator[Tensor]:
    """What each step sees, without end, on the device. Raises Unreadable if the data cannot be read any more."""
    batch, flip, of_rank = config.batch, config.flip, {"rank": run.world.rank, "ranks": run.world.size}
    if isinstance(data, datasets.Dataset):
        samples = data.samples.to(model.device)
        while True:
            yield datasets.draw(samples, batch, model.random, flip, **of_rank)
    cuda = model.device.type == "cuda"
    options = {"workers": config.workers, "pin": cuda, **of_rank}
    stream = data.batches(config.seed, batch, model.step_number, **options)
    with contextlib.closing(stream):
        while True:
            try:
                images, problems = next(stream)
            except (OSError, RuntimeError) as error:  # RuntimeError: of workers that keep dying
                raise Unreadable(one_line(error)) from error
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
        self.rows.append(torch.stack([v.float() for v in values.values()]))  # a copy: the next step writes there

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


def save(model: trainer.GANTrainer, data: Data, run: RunFolder) -> None:
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


def judge_quality(
    model: trainer.GANTrainer, judge: evaluation.Judge, run: RunFolder, seconds: float
) -> dict[str, float]:
    """How good the averaged generator is, logged and returned. Raises TrainingDiverged if it gives no numbers."""
    generated = model.sample(judge.count, seed=1)
    if not generated.isfinite().all():
        raise trainer.TrainingDiverged(model.step_number, {"a generated sample": math.nan})
    scores = judge(generated)
    run.log({"step": model.step_number, "seconds": round(seconds, 2), "quality": scores})
    return scores
