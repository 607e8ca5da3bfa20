"""The arguments of every command, and what `--help` says."""

from __future__ import annotations

import argparse

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
  fastgan train points.npy --objective minimax         float points (N, d); .npz with one array as well
  fastgan train ring                                   8 Gaussians on a circle; `grid`: 25 Gaussians
  fastgan train photos/ --recipe r3gan --flip          a recipe by name, and every other image mirrored
  fastgan train hub:ylecun/mnist --size 32             of the Hugging Face hub (pip install 'fastgan[hub]')
  fastgan train digits --conditional                   each digit on demand: fastgan sample RUN --label 7
  fastgan train flowers/ --conditional --size 64       a class for each folder in flowers/
  fastgan train photos/ --init runs/faces-1            begin with the weights of another run
  fastgan train photos/ --generator mine:G --discriminator mine:D   networks of your own, in mine.py
  fastgan train digits --out runs/digits-1 --resume    go on where the run stopped
  torchrun --nproc-per-node 2 --max-restarts 3 -m fastgan train photos/ --out runs/photos

recipes (--recipe), from which every setting comes that is not given:
{recipes.table()}

After the first steps it says what the others will take. The default number of steps for images is for a GPU, where it
ends in a night; on a CPU images other than digits need --steps, and the time is said that the default would take.

The run's folder then holds config.json, metrics.jsonl, checkpoint.pt, curves.png, quality.png, training.gif,
TensorBoard events and samples/, pictures of steps 0, 100, 1,000 and of every checkpoint. D, G: the losses. Error of D:
the share of samples that it judges wrongly, 0.5 if it cannot tell real from generated. Ctrl-C and SIGTERM save a
checkpoint and stop, with exit code 130 and 0. A resumed run goes on exactly: it uses the settings of the run, and those
given again must be the same, except for those that no number depends on and --steps, which may grow. On the CPU that
holds to the last bit. Nothing that a run's folder names is opened: DATA, --inception, --features, and networks of your
own are given anew. These are called with what they take of sample_shape, latent_dim, width, networks and classes.

Every so often, and at the end, generated samples are compared with real ones: coverage, precision, recall, and Fréchet
and kernel distances of features, which are named with the number: FD(digits-cnn) of a classifier of digits,
FD(random-cnn) of a fixed random network. FID and KID are said only of Inception's features: --inception FILE reads
StyleGAN's inception-2015-12-05.pt, and needs pip install 'fastgan[metrics]'. On ring and grid the modes are counted
that have at least a fifth of their share of the samples within 3 standard deviations (std).

Started by torchrun, each process trains on its share: --batch samples each. The first one writes. With --max-restarts
the processes go on from the last checkpoint if one has failed; that needs --out."""

SAMPLE_HELP = """\
examples:
  fastgan sample runs/digits-1                                    64 samples in runs/digits-1/samples/seed_0.png
  fastgan sample runs/digits-1 --count 16 --seed 3 --out some.png
  fastgan sample runs/digits-1 --count 50000 --out digits.npz     array `images`, uint8 (N, H, W, C)
  fastgan sample runs/digits-2 --label 7                          of one class, of a run that was --conditional

A run on points gives a scatter plot, or the array `points`, float32 (N, d). If the run was --conditional a grid has a
column a class, and an .npz has the array `labels`."""

DOCTOR_HELP = """\
Says what this machine has and which backend will compute the losses, and checks loss and gradients against the
reference in float64. Exit code 1 if they differ. On a machine without a GPU the Triton kernel itself can be checked
so:
  TRITON_INTERPRET=1 FASTGAN_BACKEND=triton fastgan doctor

With --step it runs a training step of yours and says what in it waits for the device, what is computed for nobody and
which losses ours may replace, with file and line; as fastgan.inspect_step does.
  fastgan doctor --step train:make_step           def make_step(): networks, optimizers, a batch; return the step
  fastgan doctor --step train:step --json
The module is looked for in the current directory. The function takes no arguments. It is called once; if it returns
something that can be called, that is the step, else the function is. The step then runs twice; take a small batch on a
CPU. What it prints goes to stderr. Exit code 0: nothing found, or notes alone; 1: findings; 2: there is no such
function, or it raised an error."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(BAD_INPUT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastgan", description="Train a generative adversarial network, and sample from it.")
    parser.add_argument("--version", action="version", version=f"fastgan {fastgan.__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="train | sample | export | game | doctor", parser_class=_Parser
    )

    def command(name: str, run, what: str, epilog: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.set_defaults(command=run)
        return one

    one = command("train", train, "Train on DATA and keep everything of it in a run folder.", TRAIN_HELP)
    one.add_argument("data", metavar="DATA", help=f"{datasets.KINDS} (a data set of the Hugging Face hub)")
    add_settings(one)
    one.add_argument("--out", metavar="DIR", help="the run's folder (default: the next free runs/NAME-N)")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out")

    one = command("sample", sample, "Draw samples from the averaged generator of a run.", SAMPLE_HELP)
    one.add_argument("run", metavar="RUN", help="the run's folder")
    one.add_argument("--count", type=whole(), default=64, metavar="N", help="how many (default 64)")
    add_setting(one, "seed", default=0, help="the same seed gives the same samples")
    one.add_argument(
        "--label", metavar="CLASS", help="of this class alone, by name or number (default: of all, in turn)"
    )
    add_setting(one, "generator", help="the run's, if it is your own; runs code")
    one.add_argument("--out", metavar="FILE", help="FILE.png or FILE.npz (default: RUN/samples/seed_S.png)")

    one = command("export", export.run, "Write the averaged generator of a run for other programs.", export.HELP)
    export.add_arguments(one)

    one = command("game", game.run, "Play the game of the theory on a named target, and draw it.", game.HELP)
    game.add_arguments(one)

    what = "Say what this machine has and whether the kernels are right on it, or what slows a training step of yours."
    one = command("doctor", run_doctor, what, DOCTOR_HELP)
    one.add_argument("--step", metavar="MODULE:FUNCTION", help="a training step, or a function that makes one")
    one.add_argument("--json", action="store_true", help="with --step: the verdict for programs")
    return parser
