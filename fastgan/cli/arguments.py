"""The arguments and the `--help` texts of all commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

import fastgan
from fastgan import data as datasets
from fastgan.cli import export, game
from fastgan.cli.doctor import run_doctor
from fastgan.cli.errors import BAD_INPUT, printable
from fastgan.cli.options import add_setting, add_settings, whole
from fastgan.cli.sample import sample
from fastgan.cli.train import train
from fastgan.training import recipes

TRAIN_HELP = f"""\
examples:
  fastgan train digits                                 handwritten digits in about two minutes on two CPU cores
  fastgan train photos/ --size 32 --steps 20000        a folder of images, cropped and resized to 32x32
  fastgan train points.npy --objective minimax         float points of shape (N, d); also an .npz with one array
  fastgan train ring                                   8 Gaussians on a circle; `grid`: 25 Gaussians
  fastgan train photos/ --recipe r3gan --flip          a named recipe; every other image is mirrored
  fastgan train hub:ylecun/mnist --size 32             from the Hugging Face hub (pip install 'fastgan[hub]')
  fastgan train digits --conditional                   then choose the digit: fastgan sample RUN --label 7
  fastgan train flowers/ --conditional --size 64       each folder in flowers/ is a class
  fastgan train photos/ --init runs/faces-1            start with the weights of another run
  fastgan train photos/ --generator mine:G --discriminator mine:D   your own networks, in mine.py
  fastgan train digits --out runs/digits-1 --resume    resume a run that was stopped
  torchrun --nproc-per-node 2 --max-restarts 3 -m fastgan train photos/ --out runs/photos

recipes (--recipe); a recipe sets every option that is not given:
{recipes.table()}

After the first steps, train prints how long the remaining steps will take. The default number of steps for images is
meant for a GPU, which finishes in one night. On a CPU, images other than digits need --steps; without it, train prints
how long the default would take, and stops.

The run's folder then holds config.json, metrics.jsonl, checkpoint.pt, curves.png, quality.png, training.gif,
TensorBoard events and samples/, with pictures of steps 0, 100, 1,000 and of every checkpoint. In the progress bar, D
and G are the losses; error of D is the share of samples that D judges wrongly: 0.5 if it cannot tell real from
generated. Ctrl-C (exit code 130) and SIGTERM (exit code 0) save a checkpoint and stop.

A resumed run continues exactly, on a CPU bit for bit. It keeps the settings of the run. An option that is given again
must have the same value, except --steps and options on which no number depends, such as --threads. No file or module
is opened because a run's folder names it: give DATA, --inception, --features and your own networks again. A network of
yours is called with those of sample_shape, latent_dim, width, networks and classes that are among its parameters.

Every --metrics-every steps and at the end, generated samples are compared with real ones: coverage, precision, recall,
and Fréchet and kernel distances between features. A distance names its features: FD(digits-cnn) uses a classifier of
digits, FD(random-cnn) a fixed random network. Only distances between Inception's features are called FID and KID:
--inception FILE reads StyleGAN's inception-2015-12-05.pt, and needs pip install 'fastgan[metrics]'. On ring and grid,
"modes" counts the modes with at least a fifth of their share of the samples within 3 standard deviations (std).

Under torchrun, each process trains on its own share of the data, with --batch samples a step; the first process writes
the files. With --max-restarts, which needs --out, the processes resume from the last checkpoint if one has failed."""

SAMPLE_HELP = """\
examples:
  fastgan sample runs/digits-1                                    64 samples in runs/digits-1/samples/seed_0.png
  fastgan sample runs/digits-1 --count 16 --seed 3 --out some.png
  fastgan sample runs/digits-1 --count 50000 --out digits.npz     array `images`, uint8 (N, H, W, C)
  fastgan sample runs/digits-2 --label 7                          one class, if the run was --conditional

A run on points gives a scatter plot (.png) or the array `points`, float32 (N, d) (.npz). If the run was --conditional,
a grid of images has one column for each class, and an .npz also holds the array `labels`."""

DOCTOR_HELP = """\
Prints what this machine has and which backend computes the losses, and checks losses and gradients against a reference
in float64. Exit code 1 if they differ. Without a GPU, the Triton kernel itself can be checked in its interpreter:
  TRITON_INTERPRET=1 FASTGAN_BACKEND=triton fastgan doctor

With --step it runs one training step of yours, as fastgan.inspect_step does, and reports, with file and line, what
waits for the device, which gradients and graphs nothing uses, and which losses fastgan can replace.
  fastgan doctor --step train:make_step           def make_step(): networks, optimizers, a batch; return the step
  fastgan doctor --step train:step --json
The module is looked for in the current directory first. The function is called once, without arguments. If it returns
a function, that is the step; otherwise the function itself is the step. The step then runs twice; on a CPU, use a small
batch. What the step prints goes to stderr. Exit code 0: no findings, or only notes; 1: findings; 2: there is no such
function, or it raised an error."""


HELP = """\
start with:
  fastgan train digits              about two minutes on two CPU cores; results in runs/digits-1
  fastgan sample runs/digits-1      a picture of 64 samples
  fastgan COMMAND --help            the options of a command, with examples"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    what = "Train a generative adversarial network, and sample from it."
    parser = _Parser(prog="fastgan", description=what, epilog=HELP, formatter_class=layout)
    parser.add_argument("--version", action="version", version=f"fastgan {fastgan.__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="train | sample | export | game | doctor", parser_class=_Parser
    )

    def command(name: str, run, what: str, epilog: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=what, description=what, epilog=epilog, formatter_class=layout)
        one.set_defaults(command=run)
        return one

    one = command("train", train, "Train on DATA, and keep checkpoints, logs and pictures in a run folder.", TRAIN_HELP)
    one.add_argument("data", metavar="DATA", help=f"{datasets.KINDS} (a data set of the Hugging Face hub)")
    add_settings(one)
    one.add_argument("--out", metavar="DIR", help="the run's folder (default: the next free runs/NAME-N)")
    one.add_argument("--resume", action="store_true", help="resume the run in --out")

    one = command("sample", sample, "Draw samples from the averaged generator of a run.", SAMPLE_HELP)
    one.add_argument("run", metavar="RUN", help="the run's folder")
    one.add_argument("--count", type=whole(), default=64, metavar="N", help="number of samples (default 64)")
    add_setting(one, "seed", default=0, help="the same seed gives the same samples")
    one.add_argument(
        "--label", metavar="CLASS", help="sample only this class, a name or number (default: all classes in turn)"
    )
    add_setting(one, "generator", help="the run's generator, if it is your own class; runs code")
    one.add_argument("--out", metavar="FILE", help="FILE.png or FILE.npz (default: RUN/samples/seed_S.png)")

    one = command("export", export.run, "Write the averaged generator of a run for other programs.", export.HELP)
    export.add_arguments(one)

    what = "Train on a named target, and draw and print the result beside the theory's values."
    one = command("game", game.run, what, game.HELP)
    game.add_arguments(one)

    what = "Check this machine and whether the kernels are right on it, or find what slows down your training step."
    one = command("doctor", run_doctor, what, DOCTOR_HELP)
    one.add_argument("--step", metavar="MODULE:FUNCTION", help="a training step, or a function that makes one")
    one.add_argument("--json", action="store_true", help="with --step: print the report as JSON")
    return parser
