"""Train a generator, export it, and use it where fastgan is not installed.

    pip install 'fastgan[train,export]' onnxruntime
    python examples/use_generator.py runs/ring --steps 2000

The default of 2 steps only shows how it works. `fastgan export RUN --format onnx` does the same for one file.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import nn


def train_and_export(run: Path, steps: int) -> None:
    """The only part that needs fastgan."""
    import fastgan
    from fastgan.cli import main
    from fastgan.training.export import SUFFIXES, export

    if main(["train", "ring", "--steps", str(steps), "--out", str(run), "--seed", "0"]):
        raise SystemExit("the training failed")
    generator = fastgan.load(run)  # averaged over the steps, in eval mode
    for form, suffix in SUFFIXES.items():
        export(generator, run / f"generator{suffix}", form)
    generator.save_pretrained(run / "hub")  # or generator.push_to_hub("user/ring")


def use(run: Path, z: torch.Tensor) -> dict[str, np.ndarray]:
    """The output of each exported file for z (N, 8): points (N, 2) in the units of the data."""
    session = onnxruntime.InferenceSession(run / "generator.onnx")
    made = {"onnx": session.run(None, {"z": z.numpy()})[0]}
    with torch.no_grad():
        made["pt2"] = torch.export.load(run / "generator.pt2").module()(z).numpy()
        made["torchscript"] = torch.jit.load(run / "generator.pt")(z).numpy()

        # this file has only the weights: define the network again; its points are standardised, not in the data's units
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((8, 128, 128, 128)):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2)]
        network = nn.Sequential(*layers, nn.Linear(128, 2))
        network.load_state_dict(safetensors.torch.load_file(run / "generator.safetensors"))
        made["safetensors"] = network(z).numpy()
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/ring"), help="the folder of the run to make")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    train_and_export(arguments.run, arguments.steps)
    for form, points in use(arguments.run, torch.randn(1000, 8)).items():
        print(f"{form:12} mean {points.mean(0).round(2)}, standard deviation {points.std(0).round(2)}")
