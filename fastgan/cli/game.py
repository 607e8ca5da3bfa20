"""`fastgan game`: train on a named target, draw the result, and print it beside the theory's values."""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch

import fastgan
from fastgan import data
from fastgan.cli.checks import check_backend, check_memory, check_packages, device_named, too_many_threads
from fastgan.cli.errors import INTERRUPTED, OK, Failed, catching_signals, failing, printable, refusing, say
from fastgan.cli.folder import next_free
from fastgan.cli.options import add_setting, not_negative, positive, positives
from fastgan.game import training
from fastgan.game.targets import NAMES
from fastgan.training import trainer

HELP = """\
targets (PAIR): gaussian and mixture (two Gaussians) in one dimension, ring (of 8) and grid (of 25) in two

examples:
  fastgan game mixture                         non-saturating loss and R1, two to three minutes on one CPU core
  fastgan game ring --direct                   no discriminator: the generator minimises the MMD to the target
  fastgan game ring --objective relativistic   relativistic pairing with R1 and R2
  fastgan game mixture --objective absolute_error --r1 0 --r2 0    the theory's own loss without penalties: it fails

The folder then holds game.json, game.gif and game.png. They show the target p_t, the distribution p_g of the averaged
generator, the learned D beside the best D for this p_g, and D's error beside 1/2 and (1 - TV) / 2. TV, the total
variation, is 0 if p_g = p_t; it is measured over cells that have equal shares of p_t. The error of D is the share of
samples that it judges wrongly: 1/2 if it cannot tell true from generated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pair", metavar="PAIR", help="gaussian, mixture, ring or grid")
    parser.add_argument("--objective", metavar="NAME", help="nonsaturating (default), relativistic, minimax, mmd, ...")
    parser.add_argument("--direct", action="store_true", help="the same as --objective mmd: no discriminator")
    steps = "training steps (mixture: 7,000; others 3,500 on a line, 10,000 in the plane)"
    add_setting(parser, "steps", help=steps)
    parser.add_argument("--seconds", type=positive, metavar="S", help="stop after S seconds, if that comes first")
    add_setting(parser, "batch", help="samples a step (default 256; mixture: 512)")
    parser.add_argument(
        "--lr", type=positive, metavar="X", help="Adam's initial learning rate (default 0.002; mixture: 0.004)"
    )
    parser.add_argument("--r1", type=not_negative, metavar="X", help="weight of the R1 penalty (default 0.1)")
    parser.add_argument("--r2", type=not_negative, metavar="X", help="weight of R2 (default: relativistic 0.1, else 0)")
    help = "kernel bandwidths of MMD, in units of the target's scale"
    parser.add_argument("--bandwidths", type=positives, metavar="X,Y", help=help)
    add_setting(parser, "seed", help="seed of weights, data and noise (default 0)")
    parser.add_argument("--out", metavar="DIR", help="the results' folder (default: the next free runs/game-PAIR-N)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: cpu; these networks are small)")
    add_setting(parser, "threads", default=1, help="CPU threads (default 1)")


def run(args: argparse.Namespace) -> int:
    with refusing(vars(args)):
        check_packages(("PIL", "pillow"), ("matplotlib", "matplotlib"))
        settings = _settings(args)
        torch.set_num_threads(args.threads)
        training.make_trainer(settings)  # only to refuse wrong settings before the folder is made
        folder = _folder(args)
    if warning := too_many_threads(args.threads):
        say(warning)
    played = _play(settings)
    with failing():
        from fastgan.game import pictures

        _write(folder / "game.json", json.dumps(_record(played), indent=2).encode() + b"\n")
        _write(folder / "game.png", pictures.picture(played))
        _write(folder / "game.gif", pictures.animation(played))
    print("\n".join(_table(played)))
    print(printable(f"{folder}: game.png, game.gif, game.json"))
    if played.stopped:
        say(f"stopped at step {played.trainer.step_number:,} of {settings.steps:,}")
        return INTERRUPTED
    return OK


def _settings(args: argparse.Namespace) -> training.Settings:
    if args.pair not in NAMES:
        raise ValueError(f"PAIR: got {args.pair}, expected one of {', '.join(NAMES)}")
    if args.direct and args.objective not in (None, "mmd"):
        raise ValueError(f"--direct: means --objective mmd, and --objective {args.objective} was given")
    objective = "mmd" if args.direct else args.objective
    if objective not in (None, "mmd"):
        trainer.check_objective(objective)
    if objective != "mmd" and args.bandwidths is not None:
        raise ValueError("--bandwidths: is for --direct, which has no discriminator")
    for width in args.bandwidths or ():
        if not 1e-18 < width < 1e18:  # so that its square is a float32 number
            raise ValueError(f"--bandwidths: got {width}, expected numbers from 1e-18 to 1e18")
    device = device_named("cpu" if args.device is None else args.device)
    check_backend(device)
    if args.batch is not None:  # a step keeps eight feature maps of each sample in the two networks, and gradients
        check_memory("--batch", args.batch, args.batch * 16 * 4 * training.Settings._field_defaults["width"], device)
    names = ("steps", "seconds", "batch", "lr", "r1", "r2", "bandwidths", "seed")
    given = {name: getattr(args, name) for name in names}
    return training.settings_for(args.pair, objective, device=str(device), **given)


def _folder(args: argparse.Namespace) -> Path:
    """The empty folder for the results, created if it does not exist."""
    path = None if args.out is None else Path(args.out)
    if args.out == "":
        raise ValueError("--out: got '', expected a folder")
    try:
        if path is None:
            return next_free(Path("runs"), f"game-{args.pair}")[0]
        path.mkdir(parents=True, exist_ok=True)
        first_item = next(path.iterdir(), None)
    except OSError as error:
        raise ValueError(f"--out: cannot write to {path or 'runs'}: {error.strerror}") from error
    if first_item is not None:
        raise ValueError(f"--out: {path} is not empty; name another folder")
    return path


def _play(settings: training.Settings) -> training.Played:
    last_message = time.monotonic()
    bar = data.progress_bar(total=settings.steps, unit=" step", unit_scale=False)

    def on_step(step: int) -> None:
        nonlocal last_message
        bar.update(1)
        if bar.disable and time.monotonic() - last_message > 10:
            last_message = time.monotonic()
            say(f"step {step:,} of {settings.steps:,}")

    with failing(), catching_signals() as signals, bar:
        say(f"{settings.pair}, {settings.objective}, {settings.steps:,} steps on {settings.device}")
        try:
            return training.play(settings, on_step, lambda: bool(signals))
        except FloatingPointError as error:
            raise Failed(str(error)) from error


def _record(played: training.Played) -> dict:
    return {
        "settings": played.settings._asdict(),
        "final": played.final,
        "stopped": played.stopped,
        "history": played.history,
        "versions": {"fastgan": fastgan.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _write(path: Path, content: bytes) -> None:
    trainer.write_atomically(path, lambda file: file.write(content))


def _table(played: training.Played) -> list[str]:
    """Lines of measured values beside the theory's at the equilibrium, p_g = p_t."""
    final, goal = played.final, played.target
    rows = []
    if "error" in final:
        weight_and_loss = training.LOSS_AT_EQUILIBRIUM.get(played.settings.objective)
        rows += [
            ("D's expected absolute error", final["error"], 0.5, ""),
            (
                "D's error rate",
                final["error_rate"],
                0.5,
                f"the best D's for this p_g: {final['bound']:.4f}",
            ),
            ("D's loss", final["loss_d"], weight_and_loss and weight_and_loss[1], "over both sides in equal parts"),
        ]
    rows += [
        ("a fresh D's error rate", final["fresh_error"], 0.5, "trained on half of 8,000 samples a side"),
        ("total variation", final["total_variation"], 0.0, f"chance gives {_chance(goal):.4f}"),
        ("Jensen-Shannon (nats)", final["jensen_shannon"], 0.0, ""),
    ]
    if len(goal.modes) > 1:
        rows += [
            ("modes covered", final["modes"], len(goal.modes), "a fifth of their share, within 3 std"),
            ("total variation of the modes", final["modes_tv"], 0.0, ""),
            ("share within 3 std of a mode", final["within_3_std"], 0.9973 if goal.d == 1 else 1 - math.exp(-4.5), ""),
        ]
    lines = [f"{'':30}{'measured':>10}{'theory':>10}"]
    for name, measured, theory, note in rows:
        expected = "-" if theory is None else str(theory) if isinstance(theory, int) else f"{theory:.4f}"
        found = str(measured) if isinstance(measured, int) else f"{measured:.4f}"
        lines.append(f"{name:30}{found:>10}{expected:>10}  {note}".rstrip())
    if final.get("dead"):
        lines.append("D is dead: it gives the generator no gradient, and its error of 1/2 means nothing")
    return lines


def _chance(goal) -> float:
    """The total variation that the same number of samples from the target itself would show."""
    return math.sqrt(32 * len(goal.modes) / (2 * math.pi * training.MEASURED))
