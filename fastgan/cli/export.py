"""`fastgan export`: write the averaged generator of a run for programs that have no fastgan."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastgan.cli.errors import OK, failing, printable, refusing
from fastgan.training.runs import read_config

FORMATS = ("safetensors", "onnx", "torchscript", "pt2")
HELP = """\
examples:
  fastgan export runs/digits-1 --format onnx                       runs/digits-1/generator.onnx
  fastgan export runs/digits-1 --format pt2 --out /srv/model.pt2   for torch.export.load
  fastgan export runs/digits-1 --format safetensors                the weights alone
  fastgan export runs/digits-1 --format torchscript                for C++; deprecated by PyTorch

The command prints the lines of Python that load the file. Except for safetensors, the file is a function of
z (N, latent_dim), drawn from N(0, I), that returns images in [-1, 1] or points in the units of the data. onnx and
safetensors need pip install 'fastgan[export]'.

In Python, and for the Hugging Face hub:
  generator = fastgan.load("runs/digits-1"); generator.sample(16, seed=0)
  generator.push_to_hub("user/digits"); fastgan.TrainedGenerator.from_pretrained("user/digits")"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="the file's format")
    parser.add_argument("--out", metavar="FILE", help="the file (default: RUN/generator and the format's suffix)")


def run(args: argparse.Namespace) -> int:
    from fastgan.training import export  # here, as it imports huggingface_hub, which other commands do not need
    from fastgan.training.generator import read_generator

    with refusing():
        export.check_packages_of(args.format)
        path = Path(args.run)
        config = read_config(path)
        out = path / f"generator{export.SUFFIXES[args.format]}" if args.out is None else Path(args.out)
        if not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        if out.is_dir():
            raise ValueError(f"--out: got {out}, which is a folder, expected a file")
        if own := config["settings"].get("generator"):
            raise ValueError(
                f"{path}: its generator is {own}, a network of your own: load it with fastgan.load(run, network)"
            )
        generator = read_generator(path, config)
    with failing():
        export.export(generator, out, args.format)
    print(printable(f"{out}: the averaged generator of step {generator.step:,}; to load it:"))
    print("\n".join(f"  {printable(line)}" for line in export.how_to_load(generator, out, args.format).splitlines()))
    return OK
