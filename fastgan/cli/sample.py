"""`fastgan sample`: draw samples from the averaged generator of a run."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgan import data as datasets
from fastgan.cli import pictures
from fastgan.cli.checks import check_memory, check_packages, outlined
from fastgan.cli.config import read_config
from fastgan.cli.errors import OK, failing, printable, refusing
from fastgan.cli.folder import check_own_files
from fastgan.training import trainer

PNG_LIMIT = 10_000  # samples in one PNG


def sample(args: argparse.Namespace) -> int:
    with refusing():
        path = Path(args.run)
        config = read_config(path)
        out = Path(args.out) if args.out is not None else path / "samples" / f"seed_{args.seed}.png"
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out: got {out}, expected a name that ends in .png or .npz")
        if out.suffix == ".png" and args.count > PNG_LIMIT:
            raise ValueError(f"--count: got {args.count}, expected at most {PNG_LIMIT} for a .png; a .npz takes more")
        if args.out is None:
            check_own_files(path, ())
        if not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        if out.is_dir():
            raise ValueError(f"--out: got {out}, which is a folder, expected a file")
        if out.suffix == ".png":
            check_packages(("PIL", "pillow"), ("matplotlib", "matplotlib"))
        settings, data = config["settings"], config["data"]
        shape = tuple(data["sample_shape"])
        # z, and each sample as bytes or float32, once in parts and once joined
        of_one = 4 * settings["latent_dim"] + 2 * int(np.prod(shape)) * (1 if len(shape) == 3 else 4)
        check_memory("--count", args.count, args.count * of_one)
        generator, step = read_generator(path / "checkpoint.pt", shape, settings)
    with failing():
        is_images = len(shape) == 3
        parts = trainer.generate(generator, settings["latent_dim"], args.count, args.seed)
        if is_images:
            samples = torch.cat([datasets.to_uint8(part) for part in parts])
        else:
            mean = torch.tensor(data["mean"])
            samples = torch.cat([datasets.to_points(part, mean, data["scale"]) for part in parts])
        if out.suffix == ".png":
            content = pictures.image_grid(samples) if is_images else pictures.scatter(samples)
        else:
            file = io.BytesIO()
            np.savez_compressed(file, **_arrays(samples))
            content = file.getvalue()
        trainer.write_atomically(out, lambda file: file.write(content))
    print(printable(f"{out}: {args.count} samples of step {step:,}, seed {args.seed}"))
    return OK


def read_generator(path: Path, sample_shape: tuple[int, ...], settings: dict) -> tuple[nn.Module, int]:
    """The averaged generator in a checkpoint, and the step it is of.

    It is made without memory for weights, and gets that once the checkpoint is known to hold them: neither file can ask
    for more than the other bears out. Raises ValueError, or an OSError, if they do not fit."""
    checkpoint = trainer.read_checkpoint(path)
    generator, _ = outlined(sample_shape, settings["latent_dim"], settings["width"], settings.get("networks"))
    average = checkpoint["ema"]
    trainer.check_same_network(path, "generator", generator, average)
    for key, own in generator.state_dict().items():
        value = average[key]
        if value.layout != torch.strided or value.is_floating_point() != own.is_floating_point():
            raise ValueError(f"{path}: is of another generator: {key} is {value.dtype} in it, expected {own.dtype}")
        if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: is damaged: {key} has more elements than the file holds")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} holds NaN or infinity: the generator gives no samples")
    generator = generator.to_empty(device="cpu")
    generator.load_state_dict(average)
    return generator.eval(), checkpoint["step"]


def _arrays(samples: Tensor) -> dict[str, np.ndarray]:
    if samples.ndim == 4:
        return {"images": samples.permute(0, 2, 3, 1).contiguous().numpy()}
    return {"points": samples.numpy()}
