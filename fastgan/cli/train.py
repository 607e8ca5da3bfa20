"""`fastgan train`: train on DATA, and keep everything of it in a run folder."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal

import torch

from fastgan import data as datasets
from fastgan import metrics, trainer
from fastgan.cli.checks import check_packages, device_named
from fastgan.cli.errors import INTERRUPTED, OK, Failed, failing, one_line, refusing
from fastgan.cli.folder import RunFolder
from fastgan.cli.loop import Unreadable, judge_quality, run_steps
from fastgan.cli.settings import make_config, make_trainer


def train(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        with refusing():  # everything is checked before anything is trained, and what is cheap first
            check_packages()
            device = device_named(args.device)
            world = stack.enter_context(trainer.distributed(args.device and device.type))
            device = world.device if world.size > 1 else device
            run = stack.enter_context(RunFolder.open(args, world))
            trainer.check_objective(args.objective or "nonsaturating")
            data = datasets.load(args.data, args.size, stream=args.stream, device=device)
            config = make_config(args, data, device, world)
            settings = config["settings"]
            run.check_data(config)
            torch.set_num_threads(settings["threads"])
            model = make_trainer(settings, data.sample_shape, device)
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
        again = f"fastgan train {shlex.quote(args.data)} --out {shlex.quote(str(run.path))} --resume"
        with failing(again):
            run.start(config, model.step_number)
            many = f"{world.size} processes, " if world.size > 1 else ""
            streamed = ", streamed," if isinstance(data, datasets.Stream) else ""
            run.say(
                f"{run.path}: {data.count:,} samples of shape {data.sample_shape}{streamed} on "
                f"{device}, {many}{settings['recipe']}, {settings['objective']}, step {model.step_number:,} of "
                f"{settings['steps']:,}"
            )
            try:
                stopped = run_steps(model, data, settings, run, judge, world)
            except trainer.TrainingDiverged as error:
                raise Failed(f"{error}; {run.last_checkpoint()}") from error
            except Unreadable as error:
                raise Failed(f"{one_line(error)}; {run.last_checkpoint()}, to go on: {again}") from error
            except RuntimeError as error:
                if not _lost_connection(error):
                    raise
                raise Failed(f"another process of this run has failed; {run.last_checkpoint()}") from error
            if stopped:
                run.say(f"stopped and saved at step {model.step_number:,}; to go on: {again}")
                return INTERRUPTED if stopped == signal.SIGINT else OK
            if world.writes:
                print(f"{run.path}: {metrics.described(run.quality or judge_quality(model, judge, run, 0.0))}")
    return OK


def _lost_connection(error: RuntimeError) -> bool:
    """Whether this is what gloo or NCCL says where the other side of a collective is gone."""
    said = str(error).lower()
    return any(
        word in said for word in ("closed by peer", "reset by peer", "connection refused", "remote process exited")
    )
