"""`fastgan train`: train on DATA, and keep checkpoints, logs and pictures in a run folder."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import torch

from fastgan import data as datasets
from fastgan import evaluation
from fastgan.cli import pictures, user_networks
from fastgan.cli.checks import check_backend, check_packages, device_named, too_many_threads
from fastgan.cli.errors import INTERRUPTED, OK, Failed, failing, one_line, printable, refusing
from fastgan.cli.folder import CODE_FILES, Place, RunFolder
from fastgan.cli.loop import Unreadable, judge_quality, run_steps, why_steps_are_needed
from fastgan.cli.settings import given_settings, make_config, make_trainer
from fastgan.training import trainer
from fastgan.training.runs import data_record, whole_record

GIVEN_AGAIN = ("generator", "discriminator", *CODE_FILES)  # with --resume, as they run code
PACKAGES = (("PIL", "pillow"), ("matplotlib",) * 2, ("tensorboard",) * 2, ("tqdm",) * 2)


def train(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        with refusing(vars(args)):  # all checks come before the training, the cheap ones first
            check_packages(*PACKAGES)
            given = given_settings(vars(args))
            if args.out == "":
                raise ValueError("--out: got '', expected a folder")
            device = device_named(args.device)
            world = stack.enter_context(trainer.distributed(args.device and device.type))
            place = Place(Path(args.out) if args.out else None, args.resume, args.data)
            run = stack.enter_context(RunFolder.open(place, given, world))
            if world.size > 1 and world.device is not None:
                device = world.device
            elif args.device is None and "device" in run.before:
                device = device_named(run.before["device"])
            check_backend(device)
            known = {**run.before, **given}
            data = datasets.load(args.data, known.get("size"), stream=known.get("stream"), device=device)
            config = make_config(given, run.before, args.data, data, device, world.size)
            of_data = data_record(args.data, data)
            run.check_data(of_data)
            assert config.threads is not None  # `make_config` has chosen it
            torch.set_num_threads(config.threads)
            model = make_trainer(config, data.sample_shape, device)
            config = replace(config, precision=model.config.precision)  # as chosen, if it was not given
            if device.type == "cpu" and data.is_images and args.data != "digits" and "steps" not in known:
                raise ValueError(why_steps_are_needed(model, data, config, args.data))
            init_step = None
            if run.config and run.checkpoint.exists():
                model.load(run.checkpoint)
                config = replace(config, init=run.config["settings"].get("init"))  # stays on record
            elif config.init:
                init_step = user_networks.load_weights(config.init, model.networks)
            if model.step_number > config.steps:
                raise ValueError(f"--steps: got {config.steps}, but {run.path} is at step {model.step_number} already")
            run.read_log(model.step_number)
            judge = None
            if world.writes:
                options = {name: getattr(config, name) for name in CODE_FILES}
                judge = evaluation.judge(data, config.metrics_samples, device=device, **options)
        for name in data.skipped[:5]:
            run.say(f"left out, as it cannot be read: {name}")
        if len(data.skipped) > 5:
            run.say(f"left out, as they cannot be read: {len(data.skipped) - 5} more")
        for note in data.notes:
            run.say(note)
        if init_step is not None:
            run.say(f"starts with the weights of {config.init} at its step {init_step:,}")
        if warning := too_many_threads(args.threads):
            run.say(warning)
        for name in CODE_FILES:
            if run.config and run.config["settings"].get(name) and not any(map(given.get, CODE_FILES)):
                run.say(f"the run was scored with --{name}, a file that runs code: it is not used unless given again")
        again = "".join(f" --{name} {shlex.quote(given[name])}" for name in GIVEN_AGAIN if name in given)
        to_resume = f"fastgan train {shlex.quote(args.data)} --out {shlex.quote(str(run.path))} --resume{again}"
        with failing(to_resume):
            run.start(whole_record(config, of_data))
            many = f"{world.size} processes, " if world.size > 1 else ""
            streamed = ", streamed," if isinstance(data, datasets.Stream) else ""
            run.say(
                f"{run.path}: {data.count:,} samples of shape {data.sample_shape}{streamed} on "
                f"{device}, {many}{config.recipe}, {config.objective}, step {model.step_number:,} of "
                f"{config.steps:,}"
            )
            if model.discriminator is not None:
                run.say(pictures.ERROR_OF_D)
            try:
                stopped = run_steps(model, data, config, run, judge)
            except trainer.TrainingDiverged as error:
                raise Failed(f"{error}; {run.last_checkpoint()}") from error
            except Unreadable as error:
                raise Failed(f"{one_line(error)}; {run.last_checkpoint()}, to resume: {to_resume}") from error
            except RuntimeError as error:
                if _of_compiler(error):
                    raise Failed(f"--compile: {one_line(error)}; {run.last_checkpoint()}") from error
                if not _lost_connection(error):
                    raise
                raise Failed(f"another process of this run has failed; {run.last_checkpoint()}") from error
            if stopped:
                run.say(f"stopped and saved at step {model.step_number:,}; to resume: {to_resume}")
                return INTERRUPTED if stopped == signal.SIGINT else OK
            if judge is not None:
                quality = run.quality or judge_quality(model, data, judge, run, 0.0)
                print(printable(f"{run.path}: {evaluation.described(quality)}"))
    return OK


def _of_compiler(error: RuntimeError) -> bool:
    """Whether torch.compile has raised it, for example because there is no compiler."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL has raised it because another process of a collective operation is gone."""
    said = str(error).lower()
    return any(
        word in said for word in ("closed by peer", "reset by peer", "connection refused", "remote process exited")
    )
